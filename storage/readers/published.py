"""What a release's own page and paper say of its size: a data card puts it beside what was read.

Knows nothing of how anything is read. A figure here is not corrected where the files contradict it (MELD's page
counts 1,039 train dialogues, its label file 1,038): the difference is what a card is to show.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """Figures of some of our splits taken together. `labels`: as the release spells them."""

    name: str
    splits: tuple[str, ...]
    utterances: int | None
    dialogues: int | None = None
    labels: dict[str, int] = field(default_factory=dict)
