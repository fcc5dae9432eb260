"""Rows, cards, curves and stories as a terminal shows them, whatever its width. Knows nothing of where they come from.

A table too wide to read becomes cards: one for each row, its values below one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from storage.tables import KEY_COLUMNS
from tasks.engine.runs import RunRecord
from tasks.terminal import clean, seconds_text

READABLE = 24
"""Characters of a column that wraps; a column of shorter values is never wrapped."""
BORDERS = 3
"""Characters that each column of a table takes besides its values."""
SHARED_FROM = 5
"""With so many columns, those that are the same in all rows are shown once."""
BAR = 10
"""Characters of a cosine's bar on either side of zero; half of it where the terminal is narrow."""
NARROW = 90
CURVE = 40
"""Characters of a curve."""
HEIGHTS = "▁▂▃▄▅▆▇█"


def listing(
    title: str, columns: Sequence[str], rows: list[dict], width: int, share: bool = True
) -> RenderableType:
    """Rows as a table where it is readable in `width` characters, else as cards. Nothing is cut.

    share: a value that all rows of a wide table have is shown once.
    """
    columns, rows = _with_place(columns, rows)
    texts = [{name: _text(row.get(name)) for name in columns} for row in rows]
    shared = _shared(columns, texts) if share else {}
    filled = [name for name in columns if name not in shared and any(text[name] for text in texts)]
    columns = filled or list(columns)
    widths = {name: max(cell_len(text[name]) for text in [*texts, {name: name}]) for name in columns}
    # What names the row is never wrapped.
    least = {name: w if name == columns[0] else min(w, READABLE) for name, w in widths.items()}
    parts: list[RenderableType] = [Text(clean(title), style="bold")]
    if sum(least.values()) + BORDERS * len(columns) + 1 > width:
        parts += _cards(columns, texts)
    else:
        table = Table(show_lines=any(w > READABLE for w in widths.values()))
        for name in columns:
            table.add_column(
                name, overflow="fold", min_width=least[name], no_wrap=widths[name] == least[name]
            )  # fmt: skip
        for text in texts:
            table.add_row(*(Text(text[name]) for name in columns))
        parts.append(table)
    if shared:
        alike = " · ".join(f"{name} {value}" for name, value in shared.items())
        parts.append(Text(f"in all of these: {alike}", style="dim"))
    return Group(*parts)


def _with_place(columns: Sequence[str], rows: list[dict]) -> tuple[list[str], list[dict]]:
    """A row's four key columns as one: meld/train/12/3."""
    if not set(KEY_COLUMNS) <= set(columns):
        return list(columns), rows
    rest = [name for name in columns if name not in KEY_COLUMNS]
    return ["where", *rest], [{**row, "where": _place(row)} for row in rows]


def _place(row: dict) -> str:
    return "/".join(str(row[name]) for name in KEY_COLUMNS if row.get(name) not in (None, ""))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(f"{value:.4g}" if isinstance(value, float) else str(value))


def _shared(columns: Sequence[str], texts: list[dict[str, str]]) -> dict[str, str]:
    """Column -> the value that all rows have, in tables with many columns; empty ones are left out."""
    if len(texts) < 2 or len(columns) < SHARED_FROM:
        return {}
    found = {}
    for name in columns[1:]:
        values = {text[name] for text in texts}
        if len(values) == 1 and cell_len(text := values.pop()) <= 2 * READABLE:
            found[name] = text
    return {name: text for name, text in found.items() if text}


def _cards(columns: Sequence[str], texts: list[dict[str, str]]) -> Iterable[RenderableType]:
    first, *rest = columns
    for text in texts:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name in rest:
            if text[name]:
                grid.add_row(name, Text(text[name]))
        yield Text(f"{text[first]}", style="cyan")
        yield Padding(grid, (0, 0, 1, 2))


def candidate_card(example: dict, width: int) -> Group:
    """One exchange as in figure 8: sentence, true reply, and every candidate with its cosine to it as a bar."""
    place = (
        f"{example['dataset']}/{example['split']} dialogue {example['dialogue_id']}, turn {example['turn']}"
    )
    reach = BAR if width >= NARROW else BAR // 2
    table = Table.grid(padding=(0, 1))
    for wide in (False, False, False, True):
        table.add_column(overflow="fold", no_wrap=not wide)
    for candidate in example["candidates"]:
        style = "bold red" if candidate["chosen"] else "" if candidate["usable"] else "dim"
        cosine = candidate["cosine"]
        note = " ◀ counter-emotional" if candidate["chosen"] else ""
        if not candidate["usable"]:
            note = f" (unusable: {candidate['reason']})"
        figures = ("", "") if cosine is None else (_bar(cosine, reach), f"{cosine:+.2f}")
        said = Text(clean(f"{candidate['text'] or '(nothing)'}{note}"))
        table.add_row(Text(clean(candidate["emotion"])), *figures, said, style=style)
    outcome = (f" no pair: {example['outcome']}", "yellow") if example["outcome"] else ""
    emotion = (f" ({example['reply_emotion']})", "dim") if example["reply_emotion"] else ""
    exchange = Table.grid(padding=(0, 2))
    exchange.add_column(style="bold", no_wrap=True)
    exchange.add_column(overflow="fold")
    exchange.add_row("sentence", Text(clean(example["sentence"])))
    exchange.add_row("true reply", _joined(example["reply"], emotion))
    return Group(
        _joined((place, "dim"), outcome), Padding(exchange, (0, 0, 0, 2)), Padding(table, (0, 0, 1, 2))
    )


def _joined(*parts: str | tuple[str, str]) -> Text:
    """Texts one after the other, each with its style if it has one."""
    return Text.assemble(*(clean(p) if isinstance(p, str) else (clean(p[0]), p[1]) for p in parts))


def _bar(cosine: float, reach: int) -> str:
    """A cosine as a bar from the middle: less than zero to the left."""
    filled = round(min(1.0, abs(cosine)) * reach)
    left, right = ("█" * filled, "") if cosine < 0 else ("", "█" * filled)
    return f"{left:>{reach}}│{right:<{reach}}"


def curve(values: Sequence[float], width: int = CURVE) -> str:
    """Values in a line of blocks, the least lowest; more than `width` of them are averaged in groups."""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    if not means:
        return ""
    low, high = min(means), max(means)
    top = len(HEIGHTS) - 1
    return "".join(HEIGHTS[round((m - low) / (high - low) * top) if high > low else 0] for m in means)


def story(summary: dict, width: int) -> Group:
    """A trained stage: its verdict, held-out figures before and after, curves, and what it was trained on.

    summary: as tasks/show.py makes it.
    """
    figures = Table("held out", "before", "after", box=None, pad_edge=False, header_style="dim")
    for name, before, after in summary["figures"]:
        figures.add_row(clean(name), f"{before:.5g}", f"{after:.5g}")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, values in summary["curves"]:
        shown = curve(values, max(8, min(CURVE, width - 45)))
        grid.add_row(clean(name), Text(f"{values[0]:.5g} {shown} {values[-1]:.5g}"))
    for name, value in summary["facts"]:
        grid.add_row(clean(name), Text(_text(value)))
    title = _joined((summary["stage"], "bold"), f": {summary['verdict']}")
    return Group(title, Padding(figures, (0, 0, 0, 2)), Padding(grid, (0, 0, 1, 2)))


def run_rows(records: Iterable[RunRecord]) -> tuple[tuple[str, ...], list[dict]]:
    """Columns and rows of `empamba runs`; an id begins with when the run started."""
    columns = ("run", "state", "took", "profile", "raw", "settings", "until", "report", "said")
    rows = []
    for record in records:
        took = record.took_s
        rows.append(
            {
                "run": record.id,
                "state": record.state,
                "took": "" if took is None else seconds_text(took),
                "profile": record.profile,
                "raw": record.raw or "sample corpus",
                "settings": " ".join(record.changes),
                "until": record.until,
                "report": "yes" if record.report else "",
                "said": record.said,
            }
        )
    return columns, rows
