"""Candidates on policy, by value on two dialogues by hand: samples of a merged adapter in the dialogue's own prompt."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.adapter import load_adapter, save_adapter
from model.candidates.settings import CandidateSettings, DialogueSamples
from model.dialogue import sampling
from model.dialogue.dialogue import load_dialogue
from model.dialogue.sampling import DialogueSampler, text_prompts, write_merged
from model.dialogue.settings import DialogueSettings
from model.generation.batched import BatchedSampler, Row
from model.generation.settings import EngineArgs, Sampling
from model.llm import load_llm
from model.zoo.resolve import resolve
from storage.shards import read_table
from tasks.engine.declaration import Weights
from tasks.engine.graph import Sources, build_graph
from tasks.pipeline import STAGES
from tasks.settings import load_settings
from tasks.stages.candidates import sample
from tasks.stages.candidates.sample import WHY_NONE, sample_candidates
from tasks.stages.examples import dialogue_examples
from tests.support.two_dialogues import after, before, text, two_dialogues

LLM = Weights(name="tiny-llm", identity="random:tiny-llm")
DIALOGUE = DialogueSettings(memory="mean")  # which needs no compressor's weights


@pytest.fixture
def adapter(tmp_path):
    """A LoRA of the tiny LLM that changes it visibly."""
    llm, _ = load_llm(resolve("tiny-llm"), "float32")
    torch.manual_seed(0)
    adapted = get_peft_model(llm, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    save_adapter(adapted, tmp_path / "adapter")
    return tmp_path / "adapter"


def settings(history: str = "memory", **changes) -> CandidateSettings:
    asked = DialogueSamples(samples=3, history=history)
    args = EngineArgs(dtype="float32", batch_size=4, max_model_len=1024)
    return CandidateSettings(source="dialogue", dialogue=asked, max_new_tokens=8, engine_args=args, **changes)


def rows_of(two, adapter, asked: CandidateSettings, work=None) -> list[dict]:
    tree = two.store.put_tree("adapter", adapter)
    (ref,) = sample_candidates(
        two.exchanges[0], two.utterances[0], [], tree, None, None, asked.dialogue.history, "transformers",
        asked, DIALOGUE, LLM, work or two.work,
    )  # fmt: skip
    assert ref.name == "candidates/meld/train/0"
    return read_table(two.store.read(ref), "candidates")


def test_samples_are_rows_without_emotion_or_prompt_and_differ(tmp_path, adapter):
    two = two_dialogues(tmp_path, ["train"], [], selected={1, 5})
    told: list = []
    rows = rows_of(
        two, adapter, settings(keep_garbled=True), replace(two.work, progress=lambda *s: told.append(s))
    )
    assert [(r["turn"], r["sample"]) for r in rows] == [(turn, n) for turn in (1, 5) for n in range(3)]
    assert {(r["source"], r["emotion"], r["prompt"]) for r in rows} == {("dialogue", None, None)}
    assert len({r["seed"] for r in rows}) == 6 and len({r["text"] for r in rows}) > 3
    (made,) = {r["settings"] for r in rows}
    assert json.loads(made)["emotion_and_prompt"] == WHY_NONE and json.loads(made)["temperature"] == 1.0
    (weights,) = {r["weights"] for r in rows}
    assert weights.startswith("random:tiny-llm+adapter:")
    assert told[-1][:2] == (6, 6) and len(told) == 6


def test_what_is_stored_is_not_sampled_again_and_another_adapter_is(tmp_path, adapter, monkeypatch):
    two = two_dialogues(tmp_path, ["train"], [])
    rows = rows_of(two, adapter, settings())
    monkeypatch.setattr(sample, "_sampled", lambda *_: pytest.fail("sampled again"))
    assert rows_of(two, adapter, settings()) == rows
    monkeypatch.undo()
    asked = []
    sampled = sample._sampled
    monkeypatch.setattr(sample, "_sampled", lambda draws, *rest: asked.extend(draws) or sampled(draws, *rest))
    more = settings().model_copy(update={"dialogue": DialogueSamples(samples=4)})
    again = rows_of(two, adapter, more)
    assert (
        len(asked) == 3 and [r for r in again if r["sample"] < 3] == rows
    )  # one more of each of three exchanges
    (adapter / "note").write_text("another folder")
    asked.clear()
    assert rows_of(two, adapter, settings()) != rows and len(asked) == 9


def test_the_prompt_is_the_dialogues_own_and_never_holds_the_reply(tmp_path, adapter):
    two = two_dialogues(tmp_path, ["train"], [])
    examples = dialogue_examples(two.store, two.utterances, two.exchanges, [], "train")
    folder = resolve("tiny-llm")
    found = text_prompts(folder, examples, DIALOGUE, 8)
    model = load_dialogue(folder, adapter, None, None, "text", "float32", DIALOGUE)
    for example, ids, pieces in zip(examples, found, model.pieces(examples, reply=8), strict=True):
        assert ids == torch.cat(pieces).tolist()
        turn = int(example.key.split("/")[-1])
        said = model.tokenizer.decode(ids)
        assert all(words in said for words in [*before("meld", turn), text("meld", turn)])
        assert not any(words in said for words in after("meld", turn))
    sampler = DialogueSampler(folder, adapter, None, None, "memory", "float32", DIALOGUE)
    trained = load_dialogue(folder, adapter, None, None, "memory", "float32", DIALOGUE)
    for mine, theirs in zip(sampler.prompts(examples, 8), trained.prompts(examples, None, 8), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_a_merged_folder_is_the_adapted_llm_cast_once(tmp_path, adapter):
    folder = resolve("tiny-llm")
    write_merged(folder, adapter, "bfloat16", tmp_path / "merged")
    whole, _ = load_llm(tmp_path / "merged", "bfloat16")
    exact = load_dialogue(folder, adapter, None, None, "text", "float32").llm
    base, _ = load_llm(folder, "float32")
    changed = 0
    for (name, found), wanted in zip(whole.named_parameters(), exact.parameters(), strict=True):
        assert torch.equal(found, wanted.to(torch.bfloat16)), name
        changed += not torch.equal(found, base.get_parameter(name).to(torch.bfloat16))
    assert changed > 0


@pytest.mark.parametrize("stored", ["bfloat16", "float32"])
def test_of_weights_in_bf16_the_adapters_layers_alone_are_merged_in_fp32(
    tmp_path, adapter, monkeypatch, stored
):
    """To the same bytes as if all of them were."""
    folder = tmp_path / "llm"
    shutil.copytree(resolve("tiny-llm"), folder)
    load_llm(folder, stored)[0].save_pretrained(folder)
    in_fp32 = []

    def loaded(*args, **kwargs):
        found = load_adapter(*args, **kwargs)
        in_fp32.append(
            {n.split(".base_layer")[0] for n, p in found.named_parameters() if p.dtype == torch.float32}
        )
        return found

    monkeypatch.setattr(sampling, "load_adapter", loaded)
    for dtype in ("float32", "bfloat16", "float16"):
        found, _ = sampling.merged(folder, adapter, dtype)
        whole = load_adapter(load_llm(folder, "float32")[0], adapter).merge_and_unload()
        for (name, weight), wanted in zip(found.named_parameters(), whole.parameters(), strict=True):
            assert torch.equal(weight, wanted.to(sampling.DTYPES[dtype])), name
    layers = {name for names in in_fp32 for name in names if "lora_" not in name}
    kinds = {name.split(".")[-1] for name in layers}
    assert (kinds == {"q_proj", "v_proj"}) == (stored == "bfloat16"), kinds


def test_rows_that_share_a_prompt_draw_what_they_would_alone():
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    ids = [torch.tensor(tokenizer(t)["input_ids"]) for t in ("Where did it go?", "It burned.")]
    kinds = {"ids": ids, "embeddings": [llm.get_input_embeddings()(i) for i in ids]}
    drawn = {}
    for kind, prompts in kinds.items():
        for size in (1, 5):
            sampler = BatchedSampler(
                llm, (tokenizer.eos_token_id,), Sampling(temperature=1, top_p=1, max_new_tokens=6), size
            )
            rows = [
                Row(f"{p}{n}", prompts[p], torch.Generator().manual_seed(n)) for p in (0, 1) for n in range(3)
            ]
            drawn[kind, size] = {row.key: (row.new, reason) for row, reason in sampler.sample(rows)}
    assert len(drawn["ids", 1]) == 6 and len({str(new) for new, _ in drawn["ids", 1].values()}) > 3
    assert all(found == drawn["ids", 1] for found in drawn.values())


def test_the_stage_stands_behind_the_training_that_it_samples_and_else_behind_none(tmp_path):
    def needs(*changes: str) -> dict:
        asked = load_settings("tiny", changes)
        from storage.store import Store

        graph = build_graph(STAGES, Sources(asked, "tiny", Store(tmp_path / "store"), (), tmp_path))
        return {node.stage.name: node.needs for node in graph}

    assert needs()["candidates"] == ("utterances", "utterances.exchanges")
    sampled = needs("candidates.source=dialogue")
    assert {"dialogue.memory", "dialogue.audiovisual", "compressor.finetune"} <= set(sampled["candidates"])
    order = list(sampled)
    assert order.index("dialogue.memory") < order.index("candidates") < order.index("epo")
    of_text = needs("candidates.source=dialogue", "candidates.dialogue.history=text")
    assert of_text["candidates"] == ("utterances", "utterances.exchanges", "dialogue.text")
    with pytest.raises(Exception, match="which no server has"):
        load_settings("tiny", ["candidates.source=dialogue", "candidates.engine=openai"])
