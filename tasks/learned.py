"""One line on what a trained stage learned: its held-out loss before and after, or `did not learn`.

Knows nothing of how training works, only of the report.json that every trained stage leaves beside its weights.
"""

from __future__ import annotations

import json

from storage.store import Ref, Store


def training_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """The line for an item's artefacts; None where they hold no training report."""
    for tree in (ref for ref in refs if ref.tree):
        for member in store.members(tree):
            if member.name == "report.json":
                return _line(json.loads(store.read(member)))
    return None


def _line(report: dict) -> str:
    before, after = (_loss(report[f"heldout_{when}"]) for when in ("before", "after"))
    verdict = "learned" if report["learned"] else "did not learn"
    return f"held-out loss {before:.3f} → {after:.3f}: {verdict}"


def _loss(figures: dict | float) -> float:
    return figures["loss"] if isinstance(figures, dict) else figures
