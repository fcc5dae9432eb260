"""All settings of a run in one place: the paper's values as defaults, profiles and single values over them.

A profile is a TOML file under deployments/profiles that says only what it changes. Knows nothing of what any
setting does; imports no torch.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from model.candidates.settings import CandidateSettings
from model.compressor.settings import CompressorSettings
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.extractor.settings import ExtractorSettings, RecognitionSettings
from model.features.settings import FeatureSettings
from model.generation.vllm_settings import VllmSettings
from model.metrics.settings import BertScoreSettings, BootstrapSettings
from model.pairs.settings import PairSettings
from model.scorer.settings import ScorerSettings
from model.settings import TrainingSettings
from storage.errors import InputError
from storage.media.settings import MediaSettings
from storage.settings import DataSettings, FetchLimits
from tasks.engine.retrain import RetrainSettings
from tasks.nested import leaves
from tasks.run_settings import GeneralisationSettings, RunSettings
from tasks.stages.judge.settings import JudgeSettings
from tasks.stages.ladder.arms import ArmName
from tasks.stages.study.settings import HumanStudySettings
from tasks.stages.systems.settings import AnySystem, EndpointSystem

Kind = TypeVar("Kind", bound=BaseModel)
PROFILES = Path(__file__).resolve().parents[1] / "deployments" / "profiles"


class LLMSettings(BaseModel, frozen=True, extra="forbid"):
    """The chatbot's language model, which also writes the candidates (section 3.3)."""

    weights: str = Field("qwen2.5-7b-instruct", description="Name in the catalogue, or a local folder.")


class ReplySettings(BaseModel, frozen=True, extra="forbid"):
    """Greedy replies of each rung on the test split."""

    exchanges: int | None = Field(
        None, ge=1, description="Test exchanges a rung, spread over the datasets; None takes all."
    )
    max_new_tokens: int = Field(64, ge=1, description="Longest reply. Not in the paper.")
    seed: int = Field(0, description="Chooses the test exchanges. Not in the paper.")
    batch_size: int = Field(
        64,
        ge=1,
        description="Exchanges read together and, by transformers, answered together: more share a dialogue and a step, and "
        "take memory. Not in the paper.",
    )
    engine: Literal["transformers", "vllm", "auto"] = Field(
        "transformers",
        description="Who writes the replies; auto: vLLM where it is installed. How likely a rung finds human replies is "
        "transformers' in any case. Not in the paper.",
    )
    vllm: VllmSettings = Field(VllmSettings(), description="Read where vLLM writes them.")


class ReconstructionSettings(BaseModel, frozen=True, extra="forbid"):
    """Conversations restored from their memories (table 8, figure 11)."""

    conversations: int | None = Field(
        None, ge=1, description="Test conversations that are restored; None takes all."
    )
    utterances: int = Field(5, ge=1, description="First utterances of a dialogue; five in figure 11.")
    max_tokens: int = Field(
        256, ge=1, description="Longer conversations are left out, and counted. Not in the paper."
    )
    batch_size: int = Field(16, ge=1, description="Conversations generated at once. Not in the paper.")
    seed: int = Field(0, description="Chooses the conversations. Not in the paper.")


class LadderSettings(BaseModel, frozen=True, extra="forbid"):
    """What is measured beside the paper's ladder of table 2. None of it is in the paper."""

    full_text_audiovisual: bool = Field(
        False, description="Train and measure rung 4f too: as rung 4, with the full history as text."
    )
    arms: tuple[ArmName, ...] = Field(
        ("none", "text-1", "full", "mean", "memory", "memory-text-1"),
        description="The memory ladder's ways of giving the history, each measured in nats of the same true replies; "
        "none: it is not run.",
    )
    trained: tuple[ArmName, ...] = Field(
        (),
        description="Of these arms, those that get an adapter of their own, all from one start and on the same rows at "
        "the same step; the others are measured with the adapter of rung 2 or 3, most of them unprepared.",
    )
    start_from_reader: bool = Field(
        False,
        description="The adapters of `trained` start from the reader that the compressor was trained with, all of them, "
        "in place of new ones: a new one has memories to learn beside all else in the steps that it gets.",
    )
    exchanges: int | None = Field(
        None, ge=1, description="Test exchanges of each arm, spread over the datasets; None takes all."
    )
    least_history: int = Field(
        1, ge=1, description="Utterances before the sentence that such an exchange has at least."
    )
    timed: int = Field(
        64,
        ge=0,
        description="Of these exchanges, how many have their prompts timed after each arm, one by one. Time and memory "
        "differ from run to run, so a run is then not the same bytes twice; 0: not measured.",
    )
    seed: int = Field(0, description="Chooses the exchanges.")
    training: TrainingSettings = Field(
        TrainingSettings(learning_rate=1e-4, batch_size=8),
        description="Of the arms' own adapters. `max_tokens` counts sentences and true replies alone, which all arms share.",
    )

    @model_validator(mode="after")
    def _what_is_trained_is_measured(self) -> LadderSettings:
        unmeasured = sorted(set(self.trained) - set(self.arms))
        if unmeasured:
            raise ValueError(f"trained has {', '.join(unmeasured)}, which arms has not; add it there")
        return self


class LongHistorySettings(BaseModel, frozen=True, extra="forbid"):
    """What a long history costs, as text and as memories (section 5.5, table 3)."""

    least_turns: int = Field(20, ge=1, description="Turns before the sentence that an exchange has at least.")
    dataset: str | None = Field(
        "multidialog",
        description="Whose test exchanges; where it has none so long, and with null, every dataset's.",
    )
    exchanges: int | None = Field(
        None, ge=1, description="Test exchanges, spread over the datasets; None takes all. Not in the paper."
    )
    measure_cost: bool = Field(
        True,
        description="Measure memory and time too. They differ from run to run, so a run is then not the same bytes "
        "twice; input size and BERTScore are measured in any case.",
    )
    seed: int = Field(0, description="Chooses the exchanges. Not in the paper.")


class EpoTestSettings(BaseModel, frozen=True, extra="forbid"):
    """What EPO and its controls moved, told from cached samples of the LLM before them. None of it is in the paper."""

    exchanges: int = Field(
        500, ge=0, description="Test exchanges that are sampled, spread over the datasets; 0: not measured."
    )
    samples: int = Field(8, ge=2, description="Samples of each, at temperature 1.")
    max_new_tokens: int = Field(
        48, ge=1, description="Of a sample; one that does not end within them is left out."
    )
    batch_size: int = Field(16, ge=1, description="Samples generated, or prompts read, at once.")
    seed: int = Field(0, ge=0, description="Chooses the exchanges and draws the samples.")


class MetricSettings(BaseModel, frozen=True, extra="forbid"):
    """The figures of tables 1 and 2 (section 4.4)."""

    bertscore: BertScoreSettings = BertScoreSettings()
    second_scorer: str = Field(
        "goemotions-minilm", description="Scorer that took no part in selection. Not in the paper."
    )
    intervals: BootstrapSettings = BootstrapSettings()


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Every setting of a run. A bare `Settings()` is the paper."""

    data: DataSettings = DataSettings()
    media: MediaSettings = MediaSettings()
    features: FeatureSettings = FeatureSettings()
    llm: LLMSettings = LLMSettings()
    candidates: CandidateSettings = CandidateSettings()
    scorer: ScorerSettings = ScorerSettings()
    pairs: PairSettings = PairSettings()
    extractor: ExtractorSettings = ExtractorSettings()
    recognition: RecognitionSettings = RecognitionSettings()
    compressor: CompressorSettings = CompressorSettings()
    dialogue: DialogueSettings = DialogueSettings()
    epo: EpoSettings = EpoSettings()
    epo_test: EpoTestSettings = EpoTestSettings()
    replies: ReplySettings = ReplySettings()
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    ladder: LadderSettings = LadderSettings()
    long_history: LongHistorySettings = LongHistorySettings()
    generalisation: GeneralisationSettings = GeneralisationSettings()
    systems: tuple[AnySystem, ...] = Field(
        (),
        description="Further systems that answer the test exchanges (docs/systems.md): endpoints, dialogue models of before "
        "chat LLMs.",
    )
    metrics: MetricSettings = MetricSettings()
    judge: JudgeSettings | None = Field(
        None,
        description="An LLM behind an endpoint that compares replies (docs/systems.md). Not in the paper.",
    )
    study: HumanStudySettings | None = Field(
        None, description="People's judgements of replies, and pairs they chose (section 5.2, docs/study.md)."
    )
    retrain: RetrainSettings = RetrainSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _the_second_scorer_is_another(self) -> Settings:
        if self.metrics.second_scorer == self.scorer.weights:
            raise ValueError(
                f"metrics.second_scorer and scorer.weights are both {self.scorer.weights}: the second one must have "
                "taken no part in choosing pairs"
            )
        return self

    @model_validator(mode="after")
    def _each_variant_is_one(self) -> Settings:
        for name, values in (
            ("run.seeds", self.run.seeds),
            ("generalisation.train", self.generalisation.train),
            ("generalisation.rungs", self.generalisation.rungs),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {', '.join(map(str, values))}: one stands there twice")
        return self

    @model_validator(mode="after")
    def _each_system_has_its_own_name(self) -> Settings:
        names = [system.name for system in self.systems]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"systems: {', '.join(twice)} stands there twice; give each a name of its own")
        return self

    @model_validator(mode="after")
    def _a_reply_chooses_no_person_s_pair(self) -> Settings:
        people = self.study is not None and self.study.pairs is not None
        if people and "shuffled" in self.pairs.control:
            raise ValueError(
                "pairs.control has shuffled, where another exchange's reply chooses in the own one's place, and study.pairs "
                "has EPO train on what people chose, who chose by no reply; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _finetuning_sees_as_many_utterances_as_use(self) -> Settings:
        trained, used = self.compressor.max_dialogue_utterances, self.dialogue.max_history_utterances
        if trained < used:
            raise ValueError(
                f"compressor.max_dialogue_utterances is {trained} and dialogue.max_history_utterances {used}: memories "
                "would be used at places that none was trained at; raise the first or lower the second"
            )
        return self


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_settings(profile: str, changes: list[str] | tuple[str, ...] = ()) -> Settings:
    """Defaults, then the profile (a name or a TOML file), then "a.b=value" changes; later ones win.

    Raises InputError naming the setting that is unknown or out of range.
    """
    values = _read_profile(profile)
    for change in changes:
        _set(values, change)
    try:
        return Settings.model_validate(_merged(Settings().model_dump(), values))
    except ValidationError as error:
        raise InputError(_explain(error, profile)) from None


def read_json_settings(kind: type[Kind], path: Path) -> Kind:
    """Settings of one kind from a JSON file, what it leaves out by default.

    Raises InputError naming the setting that is unknown or out of range.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return kind.model_validate(
            _merged(kind().model_dump(), values) if isinstance(values, dict) else values
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: setting (all): not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: setting {name or '(all)'}: {first['msg']}") from None


def fetch_limits(changes: Sequence[str]) -> FetchLimits:
    """The limits of `fetch` after "fetch.name=value" changes. InputError names the one that is wrong."""
    values: dict = {}
    for change in changes:
        _set(values, change)
    try:
        return FetchLimits.model_validate(values.pop("fetch", {}) if values.keys() <= {"fetch"} else values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(f"fetch.{field}" for field in FetchLimits.model_fields)
        raise InputError(f"setting {name}: {first['msg']}; `fetch` has {known}") from None


def _read_profile(profile: str) -> dict:
    path = PROFILES / f"{profile}.toml"
    if not path.is_file():
        path = Path(profile)
    if not path.is_file():
        raise InputError(f"no profile {profile!r}: give one of {', '.join(profile_names())}, or a TOML file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None


def _merged(defaults: dict, values: dict) -> dict:
    """`values` over `defaults`, group by group: a group may have other defaults in its place than by itself."""
    return defaults | {
        name: _merged(defaults[name], value)
        if isinstance(value, dict) and isinstance(defaults.get(name), dict)
        else value
        for name, value in values.items()
    }


def _set(values: dict, change: str) -> None:
    name, equals, text = change.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {change!r}: write it as name=value, for example data.dialogues=40")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    *groups, last = name.strip().split(".")
    for group in groups:
        values = values.setdefault(group, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {change!r}: {group} is a value, not a group of settings")
    values[last] = value


def weight_names(settings: Settings) -> dict[str, str]:
    """Role -> weight name, of every pretrained weight a run reads."""
    names = {
        "LLM": settings.llm.weights,
        "audio encoder": settings.features.audio_weights,
        "video encoder": settings.features.video_weights,
        "compressor": settings.compressor.pretrained or settings.compressor.weights,
        "emotion scorer": settings.scorer.weights,
        "second emotion scorer": settings.metrics.second_scorer,
        "BERTScore": settings.metrics.bertscore.weights,
        **{s.row: s.weights for s in settings.systems if not isinstance(s, EndpointSystem)},
    }
    return {role: name for role, name in names.items() if name}


def setting_names(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """Every setting's dotted name."""
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += setting_names(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


def flat(settings: BaseModel, prefix: str = "") -> dict[str, object]:
    """Dotted name -> value of every setting, groups opened."""
    return {
        prefix + ".".join(names): [_plain(part) for part in value] if isinstance(value, tuple) else value
        for names, value in leaves(settings, BaseModel)
    }


def _plain(value: object) -> object:
    """A part of a list of settings, groups as dicts."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _explain(error: ValidationError, profile: str) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, setting_names(), n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"unknown setting {name} (profile {profile}){hint}"
    if not name:
        return f"{first['msg']} (profile {profile})"
    return f"setting {name}: {first['msg']}, got {first['input']!r} (profile {profile})"
