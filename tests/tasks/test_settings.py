"""Profiles and single settings: the paper's values, what a mistake says, what each profile is."""

import pytest

from model.compressor.settings import CompressorSettings
from model.settings import TrainingSettings
from storage.errors import InputError
from tasks.settings import Settings, flat, load_settings, profile_names, read_json_settings, setting_names


def test_the_profiles():
    assert profile_names() == ["cpu", "night", "paper", "tiny"]


def test_the_paper_profile_has_every_value_of_section_4_2():
    s = load_settings("paper")
    assert s.llm.weights == "qwen2.5-7b-instruct"
    assert (s.features.audio_weights, s.features.video_weights) == ("whisper-tiny", "clip-vit-b-32")
    assert s.features.frames == 8
    assert (s.extractor.layers, s.extractor.heads, s.extractor.queries) == (6, 8, 32)
    assert s.compressor.weights == "mamba-370m"
    assert s.compressor.pretrain.patience is not None  # "to convergence"
    assert (s.dialogue.rank, s.dialogue.alpha) == (128, 256)
    assert (s.epo.beta, s.epo.gamma, s.epo.training.learning_rate) == (2.0, 0.5, 1e-6)
    assert s.pairs.threshold == 0.1
    assert s.pairs.fallback == "none"
    assert s.scorer.weights == "roberta-base-go_emotions"
    assert len(s.candidates.emotions) == 8
    assert s.candidates.examples == 0
    assert s.candidates.budget is s.replies.exchanges is s.dialogue.training.max_tokens is None
    assert (
        s.replies.engine == s.candidates.engine == "vllm"
        and load_settings("cpu").replies.engine == "transformers"
    )


def test_what_a_change_leaves_out_of_a_group_stays_the_papers(tmp_path):
    changed = load_settings("paper", ["compressor.pretrain.accumulation=4"])
    expected = load_settings("paper").compressor.pretrain.model_copy(update={"accumulation": 4})
    assert expected.epochs == Settings().compressor.pretrain.epochs != TrainingSettings().epochs
    assert changed.compressor.pretrain == expected != TrainingSettings(accumulation=4)
    (tmp_path / "settings.json").write_text('{"finetune": {"seed": 3}}')
    read = read_json_settings(CompressorSettings, tmp_path / "settings.json")
    assert read.finetune == CompressorSettings().finetune.model_copy(update={"seed": 3})
    assert read.pretrain == CompressorSettings().pretrain


def test_a_bare_settings_object_is_the_paper():
    """But for how the machine is used, the engines, and how many held-out rows are looked at, none of which the paper says."""
    bare, paper = flat(Settings()), flat(load_settings("paper"))
    apart = {
        name for name in bare if bare[name] != paper[name] and not name.startswith(("run.", "candidates."))
    }
    assert apart == {
        "features.batch_size",
        "dialogue.reply_batch_size",
        "replies.engine",
        "ladder.exchanges",
        *(
            f"replies.vllm.{name}"
            for name in ("enforce_eager", "kv_cache_memory_bytes", "max_num_batched_tokens")
        ),
        *(name for name in bare if name.endswith(".heldout_rows") and not name.startswith("ladder.")),
    }


@pytest.mark.parametrize("profile", ["cpu", "night", "tiny", "paper"])
def test_every_profile_loads(profile):
    assert isinstance(load_settings(profile), Settings)


def test_later_changes_win_over_the_profile():
    assert load_settings("cpu", ["candidates.budget=16", "candidates.budget=24"]).candidates.budget == 24
    assert load_settings("cpu", ["candidates.budget=null"]).candidates.budget is None
    assert load_settings("cpu", ["llm.weights=tiny-llm"]).llm.weights == "tiny-llm"


@pytest.mark.parametrize(
    "changes, message",
    [
        (["epo.gama=0.4"], r"unknown setting epo\.gama .*did you mean epo\.gamma\?"),
        (["epo.gamma=-1"], r"setting epo\.gamma: .*greater than or equal to 0.*-1"),
        (["epo.gamma"], "write it as name=value"),
        (["epo=3"], "setting epo"),
        (["epo.gamma.x=3"], "setting epo.gamma"),
        (["pairs.fallback=perhaps"], "pairs.fallback.*none"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(changes, message):
    with pytest.raises(InputError, match=message) as error:
        load_settings("cpu", changes)
    assert "\n" not in str(error.value)


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(InputError, match="no profile 'gpu': give one of cpu, night, paper, tiny"):
        load_settings("gpu")


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Settings().epo.gamma = 1.0


def test_every_setting_can_be_named():
    assert {"data.dialogues", "epo.gamma", "compressor.pretrain.max_tokens"} <= set(setting_names())


def test_the_second_scorer_must_be_another_one():
    with pytest.raises(
        InputError, match=r"metrics\.second_scorer and scorer\.weights are both goemotions-minilm:"
    ) as told:
        load_settings("cpu", ["metrics.second_scorer=goemotions-minilm"])
    assert "\n" not in str(told.value)
