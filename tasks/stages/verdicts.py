"""One line on what a stage is to be judged by: a trained one's held-out loss before and after, or `did not learn`,
and whether EPO collapsed; and what else than emotion tells the pairs' replies apart.

Knows nothing of how training works, only of the report.json that every trained stage leaves beside its weights, and
of the pairs' quality.json.
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


def quality_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """The line for the pairs' quality; None where the artefacts hold none."""
    for ref in refs:
        if ref.name == "quality.json":
            facts = json.loads(store.read(ref))
            told = [
                f"{name} alone {share:.0%}" for name, share in facts["accuracy"].items() if share is not None
            ]
            if not told:
                return "too few pairs to tell what else than emotion sets them apart"
            verdict = "NOT ABOUT EMOTION ALONE: " if facts["above"] else ""
            return f"{verdict}{', '.join(told)} of the pairs ranked right (bound {facts['bound']:.0%})"
    return None


def _line(report: dict) -> str:
    before, after = (_loss(report[f"heldout_{when}"]) for when in ("before", "after"))
    verdict = "learned" if report["learned"] else "did not learn"
    return f"held-out loss {before:.3f} → {after:.3f}: {verdict}{_collapse(report)}"


def _collapse(report: dict) -> str:
    """What EPO's report says of both replies' rewards falling; nothing where they did not, or of other stages."""
    if report.get("collapsed"):
        return (
            f"; COLLAPSED: at step {report['collapsed_at_step']} both replies' rewards had long been falling"
        )
    return (
        "; too few steps to tell a collapse" if "collapsed" in report and report["collapsed"] is None else ""
    )


def _loss(figures: dict | float) -> float:
    return figures["loss"] if isinstance(figures, dict) else figures
