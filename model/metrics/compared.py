"""What a training's report keeps of its held-out rows, so that a verdict can be drawn from it later.

One figure a row and moment ("before", "after", "other_history", …) beside the dialogue the row is of, by number: enough
to compare row by row and to resample dialogues. Knows nothing of what the figures are.
"""

from collections.abc import Hashable, Sequence

MOST_ROWS = 2000
"""Rows that a report keeps; of more, as many as that, evenly spaced, so that every dataset stays in."""
DIALOGUE = "dialogue"


def compared_rows(
    dialogues: Sequence[Hashable], **figures: Sequence[float | None]
) -> dict[str, list[float | None]]:
    """{"dialogue": number of each row's dialogue, name: its figure}; None where a row has no such figure.

    ValueError where the numbers of rows differ.
    """
    for name, values in figures.items():
        if len(values) != len(dialogues):
            raise ValueError(f"{name} has {len(values)} figures for {len(dialogues)} rows")
    step = -(-len(dialogues) // MOST_ROWS) or 1
    numbered: dict[Hashable, int] = {}
    kept = {DIALOGUE: [numbered.setdefault(key, len(numbered)) for key in dialogues[::step]]}
    for name, values in figures.items():
        kept[name] = [None if value is None else round(float(value), 6) for value in values[::step]]
    return kept
