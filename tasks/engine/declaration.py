"""How a stage is declared: its name, what it needs, what it reads, and the calls of its function.

A declaration lies in `stage.py` beside the stage's function and is light: a plan imports it, and no torch. All else
is derived from it: the graph, the flows' stages, keys, reasons, `show` and the report's sections. Knows nothing of
Prefect, of torch, or of which stages there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel

from model.zoo.resolve import identity
from storage.store import Ref, Store

Outputs = dict[str, tuple[Ref, ...]]
"""A settled stage's artefacts by item label."""
SERVED = "served:"
"""What the identity of a server's weights begins with."""
EVERY_OTHER = ("*",)
"""As a stage's `needs`: all other stages of the graph."""


class Weights(BaseModel, frozen=True, extra="forbid"):
    """Pretrained weights a stage reads: a name of the catalogue, and what identifies their bytes."""

    name: str
    identity: str

    @property
    def served(self) -> bool:
        """Whether they lie behind a server, and nowhere here."""
        return self.identity.startswith(SERVED)


class RawFiles(BaseModel, frozen=True, extra="forbid"):
    """The raw files a stage reads: path relative to the raw root -> digest. synthetic: the sample corpus.

    notes, not_read: lines on the files beside them.
    """

    dataset: str
    folder: str
    files: dict[str, str]
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()


def named_weights(name: str) -> Weights:
    """The weights that a catalogue name or a folder stands for. Raises InputError where there are none."""
    return Weights(name=name, identity=identity(name))


def served_weights(model: str) -> Weights:
    """What a server serves, by its name there; the stage asks the server itself for more (`OpenAIEngine.identify`)."""
    return Weights(name=model, identity=SERVED + model)


class Vllm(NamedTuple):
    """An engine of vLLM's that a stage's items start, by the dotted names of the settings that say so.

    asked_by: names it; shared_by: says among how many GPUs it shares its model, which are `gpus`.
    """

    asked_by: str
    shared_by: str
    gpus: int


@dataclass(frozen=True)
class NotRun:
    """Returned by `items` for a stage that this run has nothing for; reason: "no media"."""

    reason: str


@dataclass(frozen=True)
class Reads:
    """A part of the settings tree. path: dotted, "" for the whole tree; only, without: names directly below it."""

    path: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def of(self, settings: BaseModel) -> Any:
        """The value at the path. A group holds what is read of it; anything else of it raises AttributeError."""
        found: Any = settings
        for name in filter(None, self.path.split(".")):
            found = getattr(found, name)
        if not self.only and not self.without:
            return found
        return narrowed(found, self.names(type(found)))

    def names(self, group: type[BaseModel]) -> tuple[str, ...]:
        """The settings read directly below the path."""
        return self.only or tuple(name for name in group.model_fields if name not in self.without)

    def check(self, settings: type[BaseModel]) -> None:
        """Raises ValueError where the tree has no such setting."""
        below: Any = settings
        for name in filter(None, self.path.split(".")):
            below = _field(below, name, self.path)
        for name in (*self.only, *self.without):
            _field(below, name, f"{self.path}.{name}".lstrip("."))


def narrowed(group: BaseModel, names: tuple[str, ...]) -> BaseModel:
    """The group with these settings alone; reading another raises AttributeError."""
    found = type(group).model_construct(**{name: getattr(group, name) for name in names})
    for name in type(group).model_fields:
        if name not in names:  # a default that model_construct put there
            found.__dict__.pop(name, None)
    return found


def _field(group: Any, name: str, path: str) -> Any:
    fields = getattr(group, "model_fields", {})
    if name not in fields:
        raise ValueError(f"there is no setting {path}")
    return fields[name].annotation


@dataclass(frozen=True)
class Made:
    """What a declaration's `items` may look at: the settings, the raw files, and what the needed stages made."""

    settings: Any
    profile: str
    store: Store
    raw_files: tuple[RawFiles, ...]
    outputs: Mapping[str, Outputs | None]
    """Outputs of each needed stage; None for one that was not run."""
    stages: tuple[Stage, ...] = ()
    """The declarations of the needed stages, for a stage that reports on others."""

    def ran(self, stage: str) -> bool:
        return self.outputs.get(stage) is not None

    def refs(self, stage: str) -> list[Ref]:
        """Every artefact of a needed stage; none where the stage was not run."""
        return [ref for refs in (self.outputs[stage] or {}).values() for ref in refs]

    def only(self, stage: str) -> Ref:
        """The one artefact of a needed stage."""
        (ref,) = self.refs(stage)
        return ref

    def read_json(self, stage: str, name: str) -> dict:
        """A small JSON artefact of a needed stage."""
        return json.loads(self.store.read(next(ref for ref in self.refs(stage) if ref.name == name)))


Calls = dict[str, dict[str, Any]]
"""The items' labels, each with the arguments of its call besides the declared settings and weights."""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    name: for people and `--until`. function: "package.module:name", imported only where it runs; its argument
    `work` is a Workspace. flow: the flow that runs it. needs: the stages whose artefacts it looks at.
    items: the calls to make, or why there are none. title: what a person calls it.

    settings: argument -> the part of the settings tree it is handed (a dotted path or Reads); these and nothing else
    of the settings are in an item's key. weights: argument -> the dotted path of the setting that names them; loads:
    the names of those that its items are given besides, where the settings tell them.
    code: further entry points that the fingerprint cannot follow from the function. libraries: the distributions
    whose version can change the output.

    without_effect: dotted names of settings that are handed over and cannot change the output, and so are in no key.

    workers: how many items may run at once, or the dotted path of the setting that says so. gpus: how many GPUs an item
    takes where the machine has any; 0: it leaves computing to others; None: see `gpus_of`. vllm: the
    engines that it starts by these settings, one at a time. own_process: its processes are never shared with other stages, since what they hold must go when the stage ends. trains: several
    processes can do its items together, and `retrain` says when changed rows make it stale. anew: it starts from new
    weights, or from its own of last time where `retrain` says so. enabled: whether these settings ask for it. may_run: whether
    raw files of such names can give it anything to do, asked before any is read. explain:
    what changed inside the raw files that an item reads, asked only of a stale one, as explain(the item's arguments,
    its last outputs, store, raw root).

    fault: why it cannot do what these settings, and the weights that they name, ask of it; said before a run starts.

    seeds: dotted paths of the seeds of its training; "*" stands for each of several. repeated: its figures are compared
    between variants, which are copies of stages for another training seed or another training set (tasks/variants.py), or the
    dotted path of the setting that says so. variant: which one this is; "" for none. changed: the run's settings as the stage sees them.
    """

    name: str
    function: str
    flow: str = ""
    needs: tuple[str, ...] = ()
    items: Callable[[Made], Calls | NotRun] = lambda made: {}
    title: str = ""
    settings: Mapping[str, str | Reads] = field(default_factory=dict, hash=False)
    weights: Mapping[str, str] = field(default_factory=dict, hash=False)
    loads: Callable[[Any], Iterable[str]] = lambda settings: ()
    without_effect: Callable[[Any], Iterable[str]] = lambda settings: ()
    code: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    workers: int | str = 1
    gpus: Callable[[Any], int | None] = lambda settings: None
    vllm: Callable[[Any], Sequence[Vllm]] = lambda settings: ()
    own_process: bool = False
    trains: bool = False
    anew: bool = False
    enabled: Callable[[Any], bool] = lambda settings: True
    fault: Callable[[Any], str | None] = lambda settings: None
    may_run: Callable[[tuple[RawFiles, ...]], bool] = lambda raw_files: True
    explain: Callable[..., list[str]] | None = None
    seeds: tuple[str, ...] = ()
    repeated: bool | str = False
    variant: str = ""
    changed: Callable[[Any], Any] = lambda settings: settings

    def gpus_of(self, settings: Any) -> int:
        """GPUs that an item takes where there are any: one of a stage that reads torch's version, for each of its processes,
        or those that its engines of vLLM's share."""
        said = self.gpus(settings)
        if said is not None:
            return said
        if "torch" not in self.libraries:
            return 0
        processes = settings.run.processes if self.trains else 1
        return max([processes, *(engine.gpus for engine in self.vllm(settings))])

    def is_repeated(self, settings: BaseModel) -> bool:
        """Whether variants have the stage for its own figures."""
        return self.repeated if isinstance(self.repeated, bool) else bool(Reads(self.repeated).of(settings))

    def reads(self) -> dict[str, Reads]:
        """Argument -> the part of the settings it is handed."""
        return {
            name: read if isinstance(read, Reads) else Reads(read) for name, read in self.settings.items()
        }

    def weight_reads(self) -> dict[str, Reads]:
        """Argument -> the setting that names the weights it is handed."""
        return {name: Reads(path) for name, path in self.weights.items()}

    def setting_path(self, argument: str) -> str:
        """The name of an argument's value for people: the setting's dotted name, or the argument's."""
        found = self.settings.get(argument)
        return argument if found is None else found.path if isinstance(found, Reads) else found

    def declared_arguments(self, settings: BaseModel) -> dict[str, Any]:
        """The arguments that every item of the stage has: declared settings and weights."""
        found = {name: read.of(settings) for name, read in self.reads().items()}
        return found | {name: named_weights(read.of(settings)) for name, read in self.weight_reads().items()}
