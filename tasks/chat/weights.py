"""What a run's rungs are talked to with: of each its adapter, compressor and extractor, as folders of the store.

Of a run whose stages are fresh these are the very parts that its replies are made with. Where a stage has gone stale since,
what it last made stands in, and that is said. Loads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import InputError
from storage.remote.opening import open_store
from storage.store import Ref, Store, StoreError
from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest
from tasks.settings import Settings
from tasks.stages.replies.rungs import RUNGS, Rung

COMPRESSOR, EXTRACTOR = "compressor.finetune", "extractor"


@dataclass(frozen=True)
class RungParts:
    """One rung with the folders of its parts; None: it has none."""

    rung: Rung
    adapter: Path | None
    compressor: Path | None
    extractor: Path | None


@dataclass(frozen=True)
class Trained:
    """The rungs that there are, in the ladder's order. absent: rung -> why it is not there. notes: lines to be shown.

    extractor: with which emotions are recognised, whichever rung answers; None where the run had no clips.
    """

    settings: Settings
    rungs: dict[str, RungParts]
    extractor: Path | None
    absent: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def named(self, wanted: str | None) -> RungParts:
        """The rung of this name or number ("3", "3-mc"); None: the last of the ladder. InputError where there is none."""
        if wanted is None:
            ladder = [p for name, p in self.rungs.items() if p.rung.against is None]
            return ladder[-1]
        found = [p for name, p in self.rungs.items() if wanted in (name, name.split("-")[0])]
        if found:
            return found[0]
        absent = [f"{n} ({why})" for n, why in self.absent.items() if wanted in (n, n.split("-")[0])]
        if absent:
            raise InputError(f"rung {absent[0]}; there are {', '.join(self.rungs)}")
        raise InputError(f"no rung {wanted!r}: give one of {', '.join(self.rungs)}")


def trained(request: RunRequest) -> Trained:
    """The rungs of a run. InputError where it has none of them but the LLM as it is, which nothing was taught."""
    settings = request.settings()
    notes: list[str] = []
    try:
        with request.session() as session:
            plans = {plan.stage.name: plan for plan in session.plan()}
    except InputError as error:
        plans = {}
        notes.append(f"{error}: the parts are those that the store last made")
    finder = _Finder(open_store(request.folder), plans)
    extractor = finder.folder(EXTRACTOR)
    rungs, absent = {}, {}
    for rung in RUNGS:
        try:
            rungs[rung.name] = _parts(rung, finder, settings)
        except LookupError as missing:
            absent[rung.name] = str(missing)
    if rungs.keys() <= {RUNGS[0].name}:
        raise InputError(f"{request.store}: no rung was trained yet; `{request.command('run')}` trains them")
    return Trained(settings, rungs, extractor, absent, (*notes, *finder.notes()))


def _parts(rung: Rung, finder: _Finder, settings: Settings) -> RungParts:
    """LookupError says which part is not there."""
    media = rung.av and finder.folder(EXTRACTOR) is not None
    if rung.av and not rung.epo and not media:
        raise LookupError("the run had no clips")
    compressed = rung.mc and settings.dialogue.memory != "mean"
    return RungParts(
        rung,
        finder.needed(rung.adapter) if rung.adapter else None,
        finder.needed(COMPRESSOR) if compressed else None,
        finder.needed(EXTRACTOR) if media else None,
    )


class _Finder:
    """The folder that a stage made, by the plan or as it was last."""

    def __init__(self, store: Store, plans: dict[str, StagePlan]):
        self.store, self.plans = store, plans
        self._found: dict[str, Path | None] = {}
        self._stale: dict[str, str] = {}

    def folder(self, stage: str) -> Path | None:
        if stage not in self._found:
            ref = self._tree(stage)
            self._found[stage] = None if ref is None else self.store.folder(ref)
        return self._found[stage]

    def needed(self, stage: str) -> Path:
        found = self.folder(stage)
        if found is None:
            plan = self.plans.get(stage)
            if self.plans and plan is None:
                raise LookupError("not asked for")
            raise LookupError(f"{stage} was not run" + (f": {plan.reason}" if plan and plan.reason else ""))
        return found

    def notes(self) -> list[str]:
        """What stands in for what has gone stale."""
        return [f"{stage} is as it was last made ({why})" for stage, why in self._stale.items()]

    def _tree(self, stage: str) -> Ref | None:
        plan = self.plans.get(stage)
        if plan is not None and plan.state == "not run":
            return None
        if plan is not None and plan.outputs:
            return _only_tree(plan.outputs.get("all", ()))
        last = self.store.last(stage, "all")
        record = self.store.record(stage, last["key"]) if last else None
        ref = _only_tree(record.outputs) if record else None
        if ref is None or not self.store.holds(ref):
            return None
        if plan is not None:
            self._stale[stage] = plan.reason or next(
                (why for lines in plan.stale.values() for why in lines), "stale"
            )
        return ref


def _only_tree(refs: tuple[Ref, ...]) -> Ref | None:
    """The folder among a stage's artefacts. StoreError where there are several."""
    trees = [ref for ref in refs if ref.tree]
    if len(trees) > 1:
        raise StoreError(f"{', '.join(ref.name for ref in trees)}: one folder of weights was expected")
    return trees[0] if trees else None
