"""The declared stages -> the graph of one run: checked, ordered, and bound to its settings and store.

Knows nothing of Prefect, of what any stage does, or of which stages there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from storage.errors import InputError
from storage.store import Ref, Store
from tasks.engine.declaration import EVERY_OTHER, Made, NotRun, Outputs, RawFiles, Stage
from tasks.engine.fingerprint import follow
from tasks.engine.item import Item
from tasks.engine.planner import Node

NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
"""Of a stage: Prefect takes no other characters in the keys of the tables that stages leave."""


class GraphError(ValueError):
    """The declarations do not make a graph; the message names the stages and the place."""


@dataclass(frozen=True)
class Sources:
    """What one run's graph is bound to. `raw_files` is empty until something is read."""

    settings: Any
    profile: str
    store: Store
    raw_files: tuple[RawFiles, ...]
    raw_root: Path


def build_graph(stages: Sequence[Stage], sources: Sources) -> list[Node]:
    """A node for every stage that the settings ask for, each after what it needs.

    Raises GraphError: a need that nobody makes, two stages of one name, a cycle, a setting that does not exist.
    """
    check(stages, type(sources.settings))
    enabled = [stage for stage in stages if stage.enabled(sources.settings)]
    _each_once(enabled)
    declared = {stage.name: stage for stage in enabled}
    return [_node(stage, needs, declared, sources) for stage, needs in _ordered(enabled)]


def declared_elsewhere(paths: Sequence[str]) -> list[Stage]:
    """Stages of a user's own, by "package.module:NAME". Raises InputError where there is no such declaration."""
    found = []
    for path in paths:
        module, _, name = path.partition(":")
        try:
            package = import_module(module.split(".")[0])
            stage = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"run.stages: {path!r} cannot be loaded: {error}") from None
        if not isinstance(stage, Stage):
            raise InputError(f"run.stages: {path!r} is no Stage")
        follow(package.__name__, _folder_of(package))
        found.append(stage)
    return found


def _folder_of(package: ModuleType) -> Path:
    """Where a package, or a module that stands alone, lies."""
    if hasattr(package, "__path__"):
        return Path(package.__path__[0]).parent
    return Path(str(package.__file__)).parent


def check(stages: Sequence[Stage], settings: type[BaseModel]) -> None:
    """Raises GraphError where a declaration contradicts another, or names a setting that does not exist."""
    for stage in stages:
        if not NAME.fullmatch(stage.name):
            raise GraphError(
                f"a stage is called {stage.name!r}: lower-case letters, digits, dots and hyphens alone"
            )
    known = {stage.name for stage in stages}
    for stage in stages:
        for need in stage.needs:
            if need not in known and stage.needs != EVERY_OTHER:
                raise GraphError(f"{stage.name} needs {need}, but there is no such stage")
        try:
            for read in (*stage.reads().values(), *stage.weight_reads().values()):
                read.check(settings)
        except ValueError as error:
            raise GraphError(f"{stage.name} reads a setting: {error}") from None
    _ordered(stages)


def _each_once(enabled: Sequence[Stage]) -> None:
    """Raises GraphError where the settings ask for two stages of one name; of those that exclude each other one is."""
    known: dict[str, Stage] = {}
    for stage in enabled:
        twin = known.setdefault(stage.name, stage)
        if twin is not stage:
            raise GraphError(f"two stages are called {stage.name}: {twin.function} and {stage.function}")


def _ordered(stages: Sequence[Stage]) -> list[tuple[Stage, tuple[str, ...]]]:
    """The stages with their needs, each after what it needs, else as declared. A need not asked for is dropped."""
    names = [stage.name for stage in stages]
    waiting = {stage.name: (stage, _needs(stage, names)) for stage in stages}
    ordered: list[tuple[Stage, tuple[str, ...]]] = []
    while waiting:
        ready = next((name for name, (_, needs) in waiting.items() if not waiting.keys() & set(needs)), None)
        if ready is None:
            raise GraphError(f"these stages need one another: {', '.join(_cycle(waiting))}")
        ordered.append(waiting.pop(ready))
    return ordered


def _needs(stage: Stage, names: Iterable[str]) -> tuple[str, ...]:
    if stage.needs == EVERY_OTHER:
        return tuple(name for name in names if name != stage.name)
    return tuple(need for need in stage.needs if need in names)


def _cycle(waiting: dict[str, tuple[Stage, tuple[str, ...]]]) -> list[str]:
    """The names of one cycle among stages of which each needs another."""
    path = [next(iter(waiting))]
    while len(set(path)) == len(path):
        path.append(next(need for need in waiting[path[-1]][1] if need in waiting))
    return path[path.index(path[-1]) :]


def _node(stage: Stage, needs: tuple[str, ...], declared: dict[str, Stage], sources: Sources) -> Node:
    sources = replace(sources, settings=stage.changed(sources.settings))
    retrain = sources.settings.retrain if stage.trains else None
    explain = None
    if stage.explain is not None:
        explain = partial(_explained, stage.explain, sources)
    needed = tuple(declared[name] for name in needs)
    return Node(stage, needs, partial(_items, stage, needed, sources), explain, retrain)


def _items(
    stage: Stage, stages: tuple[Stage, ...], sources: Sources, needed: dict[str, Outputs | None]
) -> list[Item] | NotRun:
    made = Made(sources.settings, sources.profile, sources.store, sources.raw_files, needed, stages)
    calls = stage.items(made)
    if isinstance(calls, NotRun):
        return calls
    declared = stage.declared_arguments(sources.settings)
    unread = tuple(stage.without_effect(sources.settings))
    return [Item(stage, label, {**arguments, **declared}, unread) for label, arguments in calls.items()]


def _explained(
    explain: Callable[..., list[str]], sources: Sources, item: Item, outputs: tuple[Ref, ...]
) -> list[str]:
    return explain(item.arguments, outputs, sources.store, sources.raw_root)
