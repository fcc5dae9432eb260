"""Stages once more: trained with another seed, or on one dataset alone, as far as the report compares what comes of it.

A variant is copies of declared stages under names of their own ("epo.seed-1", "dialogue.text.on-meld"); what stands before
the first training is shared with the run itself, and so is fresh. Knows nothing of what any stage does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

from pydantic import BaseModel

from storage.errors import InputError
from storage.readers.registry import DATASETS, SINGLE_CLIPS
from storage.store import Ref
from tasks.engine.declaration import Calls, Made, NotRun, Outputs, Stage
from tasks.settings import Settings

LEARNED_FROM = ("train", "dev")
"""Splits that a training reads: it learns from the one and chooses by the other."""


@dataclass(frozen=True)
class Variant:
    """name: the end of its stages' names. dataset: the only one that is trained on; None: all. changed: the run's settings
    as its stages see them."""

    name: str
    changed: Callable[[Any], Any]
    dataset: str | None = None


def of_seed(seed: int) -> str:
    return f"seed-{seed}"


def of_dataset(dataset: str) -> str:
    return f"on-{dataset.replace('_', '-')}"


def with_variants(stages: Sequence[Stage], settings: Settings) -> list[Stage]:
    """The stages as the first of `run.seeds` has them, and copies of those that its others, and generalisation, ask for.

    Raises InputError for a dataset that holds no dialogues.
    """
    first, *others = settings.run.seeds
    shifted = partial(with_seed, tuple(dict.fromkeys(path for stage in stages for path in stage.seeds)))
    found = [replace(stage, changed=partial(shifted, first)) if first else stage for stage in stages]
    asked = [stage for stage in stages if stage.enabled(settings)]
    trained = _behind(asked, {stage.name for stage in asked if stage.seeds})
    compared = {stage.name for stage in asked if stage.is_repeated(settings)}
    for seed in others:
        variant = Variant(of_seed(seed), partial(shifted, seed))
        found += _copies(asked, trained & _before(asked, compared), variant)
    for dataset in settings.generalisation.train:
        _check(dataset)
        variant = Variant(of_dataset(dataset), partial(shifted, first), dataset)
        rungs = {f"replies.{rung}" for rung in settings.generalisation.rungs}
        theirs = _before(asked, rungs)
        # The metrics are of these rungs alone, beside the LLM as it came, which no training has touched.
        unwanted = {name for name in trained if name.startswith("replies.")} - rungs
        narrower = [replace(s, needs=tuple(n for n in s.needs if n not in unwanted)) for s in asked]
        trained_on_it = _behind(narrower, {stage.name for stage in narrower if stage.seeds} & theirs)
        found += _copies(narrower, trained_on_it & _before(narrower, {"metrics"}), variant)
    return found


def with_seed(paths: Sequence[str], by: int, settings: Settings) -> Settings:
    """The settings with a number added to the training seeds at these dotted paths."""
    return reduce(lambda changed, path: _added(changed, path.split("."), by), paths, settings)


def _added(group: Any, path: list[str], by: int) -> Any:
    """Unchanged where a group is absent, or of a kind that has no such setting."""
    if not path:
        return group + by
    if path[0] == "*":
        return tuple(_added(one, path[1:], by) for one in group)
    if group is None or not hasattr(group, path[0]):
        return group
    assert isinstance(group, BaseModel)
    return group.model_copy(update={path[0]: _added(getattr(group, path[0]), path[1:], by)})


def _check(dataset: str) -> None:
    known = [d.name for d in DATASETS if d.name not in SINGLE_CLIPS]
    if dataset not in known:
        raise InputError(
            f"generalisation.train: no dialogues of {dataset!r}; give some of {', '.join(known)}"
        )


def _behind(stages: Sequence[Stage], names: Collection[str]) -> set[str]:
    """These stages and all that look at what one of them made."""
    found = set(names)
    while new := {s.name for s in stages if s.name not in found and found & set(s.needs)}:
        found |= new
    return found


def _before(stages: Sequence[Stage], names: Collection[str]) -> set[str]:
    """These stages and all that one of them looks at."""
    found = set(names)
    while new := {need for s in stages if s.name in found for need in s.needs} - found:
        found |= new
    return found


def _copies(stages: Sequence[Stage], names: Collection[str], variant: Variant) -> list[Stage]:
    def own(name: str) -> str:
        return f"{name}.{variant.name}" if name in names else name

    return [
        replace(
            stage,
            name=own(stage.name),
            title=f"{stage.title} ({variant.name})",
            needs=tuple(map(own, stage.needs)),
            items=partial(_items, stage, {own(name): name for name in stage.needs}, variant),
            variant=variant.name,
            changed=variant.changed,
        )
        for stage in stages
        if stage.name in names
    ]


def _items(stage: Stage, plain: dict[str, str], variant: Variant, made: Made) -> Calls | NotRun:
    """The stage's calls over what the variant's own stages made. plain: their names -> those the stage knows them by."""
    outputs = {plain[name]: found for name, found in made.outputs.items()}
    if variant.dataset is not None and stage.trains:
        outputs = {name: _of_one(found, variant.dataset) for name, found in outputs.items()}
        if not any(ref.name.startswith(f"utterances/{variant.dataset}/train/") for ref in _refs(outputs)):
            return NotRun(f"{variant.dataset} has no train split here")
    return stage.items(replace(made, outputs=outputs))


def _of_one(outputs: Outputs | None, dataset: str) -> Outputs | None:
    """Without the shards of other datasets that a training would read."""
    if outputs is None:
        return None
    return {
        label: tuple(ref for ref in refs if _may_be_read(ref, dataset)) for label, refs in outputs.items()
    }


def _may_be_read(ref: Ref, dataset: str) -> bool:
    parts = ref.name.split("/")
    return len(parts) != 4 or parts[1] == dataset or parts[2] not in LEARNED_FROM


def _refs(outputs: dict[str, Outputs | None]) -> list[Ref]:
    return [ref for found in outputs.values() for refs in (found or {}).values() for ref in refs]
