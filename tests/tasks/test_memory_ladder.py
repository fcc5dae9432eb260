"""The memory ladder between shards and models: which replies, which adapters, what is told of them, and rung 4f."""

import json

import pytest
import torch
from safetensors.torch import load_file

from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.llm import load_llm
from model.metrics.memory_ladder import ArmRow
from model.metrics.settings import BootstrapSettings
from model.settings import TrainingSettings
from model.spoken import Spoken
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.errors import InputError
from storage.store import Ref, Store
from tasks.engine.declaration import NotRun, Weights
from tasks.engine.graph import Sources, build_graph
from tasks.pipeline import STAGES
from tasks.settings import LadderSettings, load_settings
from tasks.stages.compressor.fit import pretrain_compressor
from tasks.stages.ladder.arms import ARMS, known_by
from tasks.stages.ladder.fit import fit_arm
from tasks.stages.ladder.measure import cost_of_prompts, evaluated_examples, measure_ladder
from tasks.stages.ladder.sentences import ladder_sentences
from tasks.stages.metrics.measure import identical_to_previous, steps
from tasks.stages.verdicts import ladder_line
from tests.support.two_dialogues import before, said, two_dialogues

LLM = Weights(name="tiny-llm", identity="random:tiny-llm")


def ref(name: str, rows: int = 5) -> Ref:
    return Ref(name=name, digest=f"{abs(hash(name)):032x}"[:32], size=1, rows=rows)


def nodes(folder, *changes: str) -> dict:
    sources = Sources(load_settings("tiny", changes), "tiny", Store(folder / "store"), (), folder)
    return {node.stage.name: node for node in build_graph(STAGES, sources)}


NEEDED = {
    "utterances": {"all": tuple(ref(f"utterances/meld/{split}/0") for split in ("train", "dev", "test"))},
    "utterances.exchanges": {
        "all": tuple(ref(f"exchanges/meld/{split}/0") for split in ("train", "dev", "test"))
    },
    "features": {"all": tuple(ref(f"features/meld/{split}/0") for split in ("train", "dev", "test"))},
    **{
        name: {"all": (ref(name),)}
        for name in (
            "compressor.finetune", "extractor", "dialogue.text", "dialogue.memory", "dialogue.audiovisual",
            "dialogue.text-audiovisual", "ladder.fit.mean", "epo",
        )
    },
}  # fmt: skip


def call(found: dict, stage: str) -> dict:
    (item,) = found[stage].items({need: NEEDED.get(need) for need in found[stage].needs})
    return item.arguments


# Arms ------------------------------------------------------------------------------------------------------


def test_what_each_arm_sets():
    paper = DialogueSettings()
    found = {
        name: (
            arm.history,
            (chosen := arm.settings(paper)).max_history_utterances,
            chosen.memory if arm.history == "memory" else None,
            chosen.recent_utterances,
        )
        for name, arm in ARMS.items()
    }
    assert found == {
        "none": ("text", 0, None, 0),
        "text-1": ("text", 1, None, 0),
        "text-2": ("text", 2, None, 0),
        "full": ("text", 32, None, 0),
        "mean": ("memory", 32, "mean", 0),
        "mean-text-1": ("memory", 32, "mean", 1),
        "memory": ("memory", 32, "mamba", 0),
        "memory-text-1": ("memory", 32, "mamba", 1),
    }
    assert {name for name, arm in ARMS.items() if arm.needs_compressor} == {"memory", "memory-text-1"}
    weights = {name: arm.settings(paper).reconstruction_weight for name, arm in ARMS.items()}
    assert {name for name, weight in weights.items() if weight == 0} == {
        "mean", "mean-text-1", "memory", "memory-text-1",
    }  # fmt: skip


def test_which_prompts_a_rungs_adapter_has_met():
    assert known_by("text", DialogueSettings()) == {"full"}
    assert known_by("memory", DialogueSettings()) == {"memory"}
    assert known_by("memory", DialogueSettings(recent_utterances=1, history_dropout=0.1)) == {
        "memory-text-1",
        "none",
    }
    assert known_by("memory", DialogueSettings(memory="mean")) == {"mean"}
    assert known_by("memory", DialogueSettings(recent_utterances=5)) == set()


def test_only_what_is_measured_is_trained():
    with pytest.raises(InputError, match="trained has mean, which arms has not"):
        load_settings("tiny", ['ladder.arms=["none"]', 'ladder.trained=["mean"]'])


# Declarations ----------------------------------------------------------------------------------------------


def test_a_training_for_each_arm_that_is_asked_for(tmp_path):
    assert not [name for name in nodes(tmp_path) if name.startswith("ladder.fit")]
    found = nodes(tmp_path, 'ladder.trained=["mean", "memory"]')
    assert {name for name in found if name.startswith("ladder.fit")} == {
        "ladder.fit.mean",
        "ladder.fit.memory",
    }
    mean, memory = call(found, "ladder.fit.mean"), call(found, "ladder.fit.memory")
    assert mean["arm"] == "mean" and mean["compressor"] is None
    assert memory["compressor"].name == "compressor.finetune"
    assert {r.name.split("/")[2] for r in (*mean["utterances"], *mean["exchanges"])} == {"train", "dev"}
    assert "ladder" not in nodes(tmp_path, "ladder.arms=[]")


def test_all_arms_start_from_the_reader_where_that_is_asked_for_and_wait_for_it_only_there(tmp_path):
    arms = 'ladder.trained=["none", "mean", "memory"]'
    anew = nodes(tmp_path, arms)
    assert "compressor.finetune" not in anew["ladder.fit.none"].needs
    assert all("reader_of" not in call(anew, f"ladder.fit.{arm}") for arm in ("none", "mean", "memory"))
    found = nodes(tmp_path, arms, "ladder.start_from_reader=true")
    for arm, compressor in {"none": None, "mean": None, "memory": "compressor.finetune"}.items():
        arguments = call(found, f"ladder.fit.{arm}")
        assert arguments["reader_of"].name == "compressor.finetune"
        assert getattr(arguments["compressor"], "name", None) == compressor


def test_an_arm_starts_from_the_reader_of_the_compressor(tmp_path):
    two = two_dialogues(tmp_path, ["train", "dev"], ["train", "dev"])
    tiny = TrainingSettings(batch_size=2, evaluations=1, dtype="float32", threads=1)
    small = CompressorSettings(
        weights="", hidden=16, layers=1, free_running_rows=0, pretrain=tiny, finetune=tiny, reader_rank=4,
        reader_alpha=8,
    )  # fmt: skip
    (compressor,) = pretrain_compressor(two.utterances, small, None, LLM, two.work)
    still = tiny.model_copy(update={"learning_rate": 1e-9})
    given = DialogueSettings(rank=4, alpha=8, training=tiny), still, LLM, two.work
    (anew,) = fit_arm("none", two.utterances, two.exchanges, None, *given)
    (begun,) = fit_arm("none", two.utterances, two.exchanges, None, *given, reader_of=compressor)

    def weights(tree: Ref, adapter: str) -> dict:
        return load_file(two.store.folder(tree) / adapter / "adapter_model.safetensors")

    reader = weights(compressor, "reader")
    learned = [name for name, weight in reader.items() if weight.any() and "lora_B" in name]
    assert learned
    for name in learned:
        assert torch.allclose(weights(begun, "")[name], reader[name].float(), atol=1e-6)
        assert not torch.allclose(weights(anew, "")[name], reader[name].float(), atol=1e-6)


def test_an_arms_own_adapter_is_handed_over_and_the_rungs_for_the_others(tmp_path):
    found = call(nodes(tmp_path, 'ladder.trained=["mean"]'), "ladder")
    assert {arm: adapter.name for arm, adapter in found["own_adapters"].items()} == {
        "mean": "ladder.fit.mean"
    }
    assert found["text_adapter"].name == "dialogue.text" and found["memory_adapter"].name == "dialogue.memory"
    assert {r.name.split("/")[2] for r in (*found["utterances"], *found["exchanges"])} == {"test", "dev"}


def test_means_need_no_compressor_at_any_rung(tmp_path):
    found = nodes(tmp_path, "dialogue.memory=mean")
    for stage in ("dialogue.memory", "dialogue.audiovisual", "replies.3-mc", "replies.4-av"):
        assert call(found, stage)["compressor"] is None, stage
        assert call(nodes(tmp_path), stage)["compressor"].name == "compressor.finetune", stage


def test_rung_4f_is_a_training_and_replies_of_its_own_where_asked_for(tmp_path):
    assert not {"dialogue.text-audiovisual", "replies.4f-text"} & nodes(tmp_path).keys()
    found = nodes(tmp_path, "ladder.full_text_audiovisual=true")
    training, replies = call(found, "dialogue.text-audiovisual"), call(found, "replies.4f-text")
    for part in (training, replies):
        assert part["history"] == "text" and part["compressor"] is None
        assert part["extractor"].name == "extractor" and part["features"]
    assert replies["adapter"].name == "dialogue.text-audiovisual"
    node = found["dialogue.text-audiovisual"]
    silent = {need: None if need in ("features", "extractor") else NEEDED[need] for need in node.needs}
    assert isinstance(node.items(silent), NotRun) and "no media" in node.items(silent).reason


def test_rung_4f_is_compared_with_rung_4_and_5_still_with_4():
    def reply(rung: str, text: str) -> Reply:
        return Reply("meld", "test", "d", 1, rung=rung, sentence="s", reference="r", reply=text)

    rungs = {rung: [reply(rung, text)] for rung, text in {"4-av": "a", "4f-text": "a", "5-epo": "b"}.items()}
    assert identical_to_previous(rungs) == {
        "5-epo": {"rung": "4-av", "share": 0.0},
        "4f-text": {"rung": "4-av", "share": 1.0},
    }
    keys = {name: [] for name in ("3-mc", *rungs)}
    measured = {name: {figure: [] for figure in FIGURES} for name in keys}
    found = [(step["against"], step["rung"]) for step in steps(measured, keys, BootstrapSettings())]
    assert found == [("3-mc", "4-av"), ("4-av", "4f-text"), ("4-av", "5-epo")]


FIGURES = (
    "bertscore",
    "emotionscore",
    "emotionscore_second",
    "emotioncontrast",
    "emotioncontrast_second",
    "log_likelihood",
)


# Measuring -------------------------------------------------------------------------------------------------


def test_exchanges_are_those_that_give_numbers_with_as_much_history_as_asked_for(tmp_path):
    two = two_dialogues(tmp_path, ["train", "test", "dev"], ["train", "dev"])
    found, pool = evaluated_examples(two.utterances, two.exchanges, LadderSettings(), two.work)
    assert found == pool
    # MELD has a test; IEMOCAP's only dialogue of dev stands in. Turn 0 has no history.
    meld, iemocap = "meld/test/17", "iemocap/dev/Ses01F_impro01"
    assert {e.key for e in found} == {f"{meld}/1", f"{meld}/5", f"{iemocap}/1", f"{iemocap}/2"}
    assert {e.key: said(e.history) for e in found}[f"{meld}/5"] == before("meld", 5)
    long, _ = evaluated_examples(two.utterances, two.exchanges, LadderSettings(least_history=2), two.work)
    assert {e.key for e in long} == {f"{meld}/5", f"{iemocap}/2"}
    few, pool = evaluated_examples(two.utterances, two.exchanges, LadderSettings(exchanges=2), two.work)
    assert sorted(e.key.split("/")[0] for e in few) == ["iemocap", "meld"] and len(pool) == 4


def test_each_arm_is_loaded_with_its_adapter_and_its_way_of_giving_the_history(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, ["test"], ["test"])
    own, text, memory, compressor = (two.tree(n) for n in ("own", "text", "memory", "compressor"))
    loaded = []

    def load(_, adapter, compressor, extractor, history, settings, dtype):
        parts = [
            None if folder is None else (folder / "name").read_text() for folder in (adapter, compressor)
        ]
        loaded.append((*parts, history, settings.memory, settings.recent_utterances))
        assert extractor is None and settings.rank == 3
        return len(loaded)

    def rows(model, examples, others, batch):
        assert others == {} and batch == 16  # each dataset has one dialogue
        return [
            ArmRow(key=e.key, dialogue=e.group, turn=3, own=3.0, other=3.0 + model, tokens=10 * model)
            for e in examples
        ], model

    def cost(model, examples, intervals):
        timed.append((model, [e.key for e in examples]))
        return {"n": len(examples)} if examples else None

    timed: list[tuple] = []
    monkeypatch.setattr("tasks.stages.ladder.measure.load_dialogue", load)
    monkeypatch.setattr("tasks.stages.ladder.measure.arm_rows", rows)
    monkeypatch.setattr("tasks.stages.ladder.measure.cost_of_prompts", cost)
    monkeypatch.setattr("tasks.stages.ladder.measure.cache_bytes", lambda model: 768)
    chosen = LadderSettings(arms=("full", "mean", "memory", "memory-text-1"), trained=("mean",), timed=2)
    (made,) = measure_ladder(
        two.utterances, two.exchanges, {"mean": own}, text, memory, compressor, DialogueSettings(rank=3), chosen,
        BootstrapSettings(), LLM, two.work,
    )  # fmt: skip
    assert loaded == [
        ("text", None, "text", "mamba", 0),
        ("own", None, "memory", "mean", 0),
        ("memory", "compressor", "memory", "mamba", 0),
        ("memory", "compressor", "memory", "mamba", 1),
    ]
    facts = json.loads(two.store.read(made))
    told = {name: (arm["adapter"], arm["prepared"], arm["tokens"]) for name, arm in facts["arms"].items()}
    assert told == {
        "full": ("rung 2", True, 10.0),
        "mean": ("own", True, 20.0),
        "memory": ("rung 3", True, 30.0),
        "memory-text-1": ("rung 3", False, 40.0),
    }
    assert [arm["gain"]["mean"] for arm in facts["arms"].values()] == [1.0, 2.0, 3.0, 4.0]
    # Two of four, evenly apart in their order: one of each dataset, the same after every arm.
    (keys,) = {tuple(keys) for _, keys in timed}
    assert [key.split("/")[0] for key in keys] == ["iemocap", "meld"] and [m for m, _ in timed] == [
        1,
        2,
        3,
        4,
    ]
    assert all(arm["cost"] == {"n": 2} for arm in facts["arms"].values())
    assert (
        facts["exchanges"] == facts["alone"] == 4
        and facts["cache_bytes"] == 768
        and facts["arms"]["mean"]["saved"] == -1.0
    )
    assert [arm["dropped_utterances"] for arm in facts["arms"].values()] == [1, 2, 3, 4]
    assert (facts["history_utterances"], facts["most_utterances"], facts["most_tokens"]) == (0, 32, 1024)
    assert {name: part["arms"]["memory"]["n"] for name, part in facts["by_dataset"].items()} == {
        "iemocap": 2,
        "meld": 2,
    }
    assert ladder_line(two.store, (made,)) == ladder_sentences(facts, {})[0]


def test_the_cost_of_prompts_is_of_each_alone_and_of_none_is_none():
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    model = DialogueModel(llm, tokenizer, "text")
    history = (Spoken("The train left without me.", 0),)
    examples = [
        DialogueExample(f"k{i}", history, "And then?", "I walked.", dialogue=f"d{i // 2}") for i in range(6)
    ]
    found = cost_of_prompts(model, examples, BootstrapSettings())
    assert found is not None and (found["n"], found["dialogues"]) == (6, 3)
    low, high = found["seconds_ci"]
    assert 0 < low <= found["seconds"] <= high < 5 and found["gigabytes"] > 0.01
    assert cost_of_prompts(model, [], BootstrapSettings()) is None


# In words --------------------------------------------------------------------------------------------------


def judged(mean: float, grade: str) -> dict:
    return {"grade": grade, "mean": mean, "low": mean - 0.01, "high": mean + 0.01, "rows": 40, "dialogues": 9,
            "detectable": 0.02}  # fmt: skip


def facts_of(memory: str, beside: str, full: str = "learned", own: bool = True) -> dict:
    def arm(title: str, gain: dict, shared=None, saved=None, prepared=True) -> dict:
        return {"title": title, "gain": gain, "share": shared, "saved": saved, "prepared": prepared,
                "both": {"rows": 40, "dialogues": 9},
                "adapter": "own" if own else "rung 3"}  # fmt: skip

    return {
        "arms": {
            "full": arm("the full history as text", judged(0.2, full), [1.0, 1.0, 1.0], 0.0),
            "mean": arm("mean embeddings", judged(0.1, "learned"), [0.5, 0.4, 0.6], 0.96, own),
            "memory": arm("MambaCompressor memories", judged(0.01, memory), [-0.05, -0.2, -0.004], 0.96),
        },
        "comparisons": [{"arm": "memory", "than": "mean", "difference": judged(-0.05, beside)}],
        "by_dataset": {},
    }


def test_each_sentence_may_come_out_negative():
    found = ladder_sentences(facts_of("no difference seen", "got worse"), {})
    assert found == [
        "The learnt memory does not beat mean embeddings in use: nats a token spared −0.050 (−0.060 to −0.040), n = 40 "
        "(9 dialogues): got worse.",
        "The memories are not seen to carry their own dialogue's content into the reply: other − own, nats a token "
        "+0.010 (0.000 to 0.020): no difference seen: n = 40 (9 dialogues), 0.020 could have been.",
        "Of the full history's own gain are kept, n = 40 (9 dialogues): mean embeddings 50 % (40 % to 60 %) at −96 % history tokens; "
        "MambaCompressor memories −5 % (−20 % to 0 %) at −96 % history tokens.",
    ]
    assert (
        "is not seen to beat mean embeddings"
        in ladder_sentences(facts_of("learned", "no difference seen"), {})[0]
    )
    good = ladder_sentences(facts_of("learned", "learned"), {})
    assert good[0].startswith("The learnt memory beats mean embeddings in use")
    assert good[1].startswith("The memories carry their own dialogue's content")


def test_what_cannot_be_said_is_not():
    found = ladder_sentences(facts_of("learned", "learned", full="no difference seen", own=False), {})
    assert found[0].endswith("; their adapters were not trained for this comparison.")
    assert found[2].startswith("The full history as text is not seen to help here, so no share")
    assert found[3].startswith("Measured zero-shot") and found[3].endswith(": mean embeddings.")
    assert ladder_sentences({"arms": {}, "comparisons": [], "by_dataset": {}}, {}) == []


def test_what_memories_carry_is_said_of_each_dataset():
    facts = facts_of("learned", "learned")
    facts["by_dataset"] = {
        name: {"arms": {"memory": {"gain": judged(mean, grade)}}, "comparisons": []}
        for name, mean, grade in (("meld", 0.0, "no difference seen"), ("topical_chat", 0.03, "learned"))
    }
    told = ladder_sentences(facts, {"meld": "MELD"})[1]
    assert told.endswith(
        " By dataset: MELD +0.000 (−0.010 to 0.010): no difference seen: n = 40 (9 dialogues), 0.020 could have been; "
        "topical_chat +0.030 (0.020 to 0.040), n = 40 (9 dialogues)."
    )
