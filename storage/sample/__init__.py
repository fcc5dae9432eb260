"""The bundled sample corpus: original dialogues, a procedural actor, and writers of the raw trees.

Knows nothing of readers, shards, stages or models.
"""

from __future__ import annotations

from pathlib import Path

MARKER = "SYNTHETIC.txt"
"""A file in the root that tells every later look at the tree what it is."""


def is_sample(root: Path) -> bool:
    """Whether `root` is a tree that layout.write_sample wrote."""
    return (root / MARKER).is_file()
