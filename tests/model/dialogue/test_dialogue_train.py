"""LoRA finetuning on a tiny LLM: what learns, what stays, and plain peft reading what was saved."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from model.adapter import AdapterError
from model.branches import reply_log_probs
from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import DialogueModel, load_dialogue, load_parts
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import Exchanges, add_adapter, train_dialogue
from model.llm import load_llm, reply_ids
from model.settings import TrainingSettings
from model.spoken import Spoken
from tests.support.cut_off import assert_goes_on_as_if_never_cut_off

WORDS = "happy sad beach train kitchen party friend surprise weather station".split()


def examples(count: int, past: int = 3) -> list[DialogueExample]:
    """Exchanges of dialogues of one word a turn: the reply names the sentence's word again."""
    found = []
    for i in range(count):
        turns = [WORDS[(i + k) % len(WORDS)] for k in range(past + 1)]
        history = tuple(Spoken(word, k % 2) for k, word in enumerate(turns[: i % (past + 1)]))
        found.append(DialogueExample(f"d/{i}", history, f"I like {turns[-1]}", f"yes {turns[-1]}"))
    return found


def settings(epochs: int = 1, **changes) -> DialogueSettings:
    training = TrainingSettings(
        learning_rate=1e-2, batch_size=4, epochs=epochs, dtype="float32", threads=1, evaluations=2
    )
    return DialogueSettings(rank=4, alpha=8, training=training, **changes)


@pytest.fixture(scope="module")
def trained(responsive_llm_folder, compressor_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    report = train_dialogue(
        responsive_llm_folder, examples(24), examples(6), settings(6), out, "memory", compressor_folder
    )
    return out, report


def test_training_learns_replies_and_keeps_reconstruction(trained):
    report = trained[1]
    assert report["history_form"] == "memory" and not report["audio_visual"]
    for name in ("reply", "reconstruction"):
        assert report["heldout_after"][name] < report["heldout_before"][name]
    assert report["heldout_after"]["loss"] == pytest.approx(
        report["heldout_after"]["reply"] + report["heldout_after"]["reconstruction"]
    )
    assert json.loads((trained[0] / "report.json").read_text()) == report


def test_the_report_holds_each_rows_loss_before_after_and_with_anothers_history(
    responsive_llm_folder, trained
):
    report, (_, tokenizer) = trained[1], load_llm(responsive_llm_folder, "float32")
    sizes = [len(reply_ids(tokenizer, e.reply)) for e in examples(6)]
    rows = report["compared"]
    assert rows["dialogue"] == list(range(6))
    for when in ("before", "after"):
        nats = sum(loss * size for loss, size in zip(rows[when], sizes, strict=True))
        assert nats / sum(sizes) == pytest.approx(report[f"heldout_{when}"]["reply"], abs=1e-4)
    told = [bool(e.history) for e in examples(6)]
    assert [loss is not None for loss in rows["other_history"]] == told and False in told
    assert "other_clip" not in rows


def test_another_history_is_of_another_dialogue_and_as_long(responsive_llm_folder):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    model = DialogueModel(llm, tokenizer, "text", settings=settings())
    rows = [replace(e, dialogue=f"d{i // 4}") for i, e in enumerate(examples(8))]
    checked = Exchanges(model, rows)
    found = checked.losses_with_another_history(3)
    given = [replace(row, history=rows[(i + 4) % 8].history) for i, row in enumerate(rows)]
    # Each of four turns has one twin as long in the other dialogue.
    expected = Exchanges(model, given).row_losses(8)
    for row, loss, wanted in zip(rows, found, expected, strict=True):
        assert loss is None if not row.history else loss == pytest.approx(wanted, abs=1e-4)
    assert [e.reply for e in rows] == [e.reply for e in checked.examples]


def test_plain_peft_reads_the_adapter(responsive_llm_folder, compressor_folder, trained):
    base = AutoModelForCausalLM.from_pretrained(responsive_llm_folder, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, trained[0]).eval()
    plain.to("cuda" if torch.cuda.is_available() else "cpu")
    ours = load_dialogue(
        responsive_llm_folder, trained[0], compressor_folder, None, "memory", "float32", trainable=True
    )
    merged = load_dialogue(responsive_llm_folder, trained[0], compressor_folder, None, "memory", "float32")
    prompt = ours.prompt(examples(4)[3])
    reply = [torch.tensor([5, 9, 2])]
    expected, _ = reply_log_probs(plain, [prompt], reply)
    assert torch.allclose(reply_log_probs(ours.llm, [prompt], reply)[0], expected, atol=1e-5)
    assert torch.allclose(reply_log_probs(merged.llm, [prompt], reply)[0], expected, atol=1e-4)
    assert any(p.requires_grad for p in ours.llm.parameters())
    assert set(load_file(trained[0] / "adapter_model.safetensors")) == {
        name.replace(".default", "") for name, p in ours.llm.named_parameters() if "lora_" in name
    }


def test_a_partial_or_foreign_adapter_names_its_weights(responsive_llm_folder, trained, tmp_path):
    def load():
        return load_dialogue(responsive_llm_folder, tmp_path, None, None, "text", "float32")

    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    weights = load_file(trained[0] / "adapter_model.safetensors")
    name = next(name for name in weights if "layers.1.self_attn.v_proj.lora_B" in name)
    for change, told in (
        ({"stray": weights[name].clone()}, "unknown: stray"),
        ({name: weights[name][:, :2].contiguous()}, "of another shape: .*v_proj.lora_B"),
        ({name: None}, "missing: .*layers.1.self_attn.v_proj.lora_B"),
    ):
        changed = {n: t for n, t in {**weights, **change}.items() if t is not None}
        save_file(changed, tmp_path / "adapter_model.safetensors")
        with pytest.raises(AdapterError, match=told):
            load()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(AdapterError, match="no adapter can be read"):
        load()


def test_a_prompt_beyond_the_window_is_refused(responsive_llm_folder):
    llm, _ = load_llm(responsive_llm_folder, "float32")
    window = llm.config.max_position_embeddings
    with pytest.raises(ValueError, match=f"have {window + 1} tokens, the LLM's window has {window}"):
        reply_log_probs(llm, [torch.zeros(window - 1, 64)], [torch.tensor([5, 2])])
    # Up to the window's last token it is not.
    log_probs, _ = reply_log_probs(llm, [torch.zeros(window - 2, 64)], [torch.tensor([5, 2])])
    assert torch.isfinite(log_probs).all()


def test_without_memories_nothing_is_reconstructed(responsive_llm_folder, tmp_path):
    report = train_dialogue(responsive_llm_folder, examples(16), examples(6), settings(3), tmp_path, "text")
    assert report["heldout_after"]["reply"] < report["heldout_before"]["reply"]
    assert "reconstruction" not in report["heldout_after"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU adds up in any order; bytes are a CPU's promise")
def test_same_seed_same_bytes(responsive_llm_folder, compressor_folder, tmp_path):
    for name in ("a", "b"):
        train_dialogue(
            responsive_llm_folder,
            examples(8),
            examples(4),
            settings(),
            tmp_path / name,
            "memory",
            compressor_folder,
        )
    for file in ("adapter_model.safetensors", "adapter_config.json", "report.json", "card.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_only_the_adapter_learns_and_the_loss_is_hand_made(responsive_llm_folder, compressor_folder):
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    parts = load_parts(llm, tokenizer, compressor_folder, None)
    chosen = settings(max_reconstruction_tokens=4)
    model = DialogueModel(add_adapter(llm, chosen), tokenizer, "memory", *parts, chosen)
    data = Exchanges(model, examples(4))
    (data.reply_loss([0, 1, 2, 3]) + data.reconstruction_loss([0, 1, 2, 3])).backward()
    for name, parameter in model.llm.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
    assert all(p.grad is None for p in parts[0].parameters())
    assert data.reconstruction_loss([0]) is None  # its history is empty
    wanted = examples(4)[3]
    places, ids = data.targets[wanted.history]
    assert places in ([2], [1, 2])  # only the last utterances fit
    assert tokenizer.decode(ids[:-1]) == "\n".join(wanted.history[i].text for i in places)
    assert model.counts["unreconstructed_utterances"] == 3 - len(places) + 1
    expected, _ = reply_log_probs(model.llm, [model.prompt(wanted)], [data.replies[3]])
    assert data.reply_loss([3]).item() == pytest.approx(-expected.mean().item(), abs=1e-6)
    together = data.check(batch=3, weight=1.0).figures
    apart = [
        reply_log_probs(model.llm, [model.prompt(e)], [r])[0]
        for e, r in zip(data.examples, data.replies, strict=True)
    ]
    assert together["reply"] == pytest.approx(-torch.cat(apart).mean().item(), abs=1e-5)


def test_nothing_is_too_long_to_train(responsive_llm_folder, compressor_folder, tmp_path):
    """Utterances beyond the compressor or the window, long true replies, and a sentence that fits in no way."""
    texts = {"short": "hello", "unread": "happy " * 300, "endless": "happy " * 2100}
    said, why = {name: Spoken(text, 0) for name, text in texts.items()}, Spoken("why", 1)
    last = [
        DialogueExample(f"t/{name}", (why, utterance), "I like cake", "yes " * 120)
        for name, utterance in said.items()
    ]
    alone = DialogueExample("t/alone", (said["endless"],), "I like cake", "yes cake")
    sentence = DialogueExample("t/sentence", (why,), "happy " * 2100, "yes cake")
    reply = DialogueExample("t/reply", (why,), "I like cake", "happy " * 2100)
    every = [*last, alone, sentence, reply]
    chosen = settings(max_reconstruction_tokens=10**6, max_history_tokens=10**6)
    for history in ("memory", "text"):
        out = tmp_path / history
        report = train_dialogue(responsive_llm_folder, every, every, chosen, out, history, compressor_folder)
        for split in ("train", "heldout"):
            assert report[f"{split}_left_out"] == {"too_long": 2} and report[f"{split}_exchanges"] == 4
        # As text the endless ones and what came before have no room; as memories all have.
        dropped = 3 if history == "text" else 0
        assert report["train_counts"]["dropped_utterances"] == dropped
    model = DialogueModel(
        *(llm := load_llm(responsive_llm_folder, "float32")), "memory",
        *load_parts(*llm, compressor_folder, None), chosen,
    )  # fmt: skip
    data = Exchanges(model, [*last, alone])
    assert [data.targets.get(e.history, (None,))[0] for e in data.examples] == [[0, 1], [0], [0], None]
    assert model.counts["unreconstructed_utterances"] == 3
    assert data.reconstruction_loss([3]) is None
    # A compressor that reads everything asks for no more than the window holds.
    wide = CompressorSettings(weights="", hidden=32, layers=1, max_utterance_tokens=4096)
    model.compressor = new_compressor(wide, llm[1], llm[0].get_input_embeddings().weight, None).eval()
    many = DialogueExample("t/many", (said["unread"],) * 9, "I like cake", "yes cake")
    data = Exchanges(model, [many, alone])
    assert data.targets[many.history][0] == [6, 7, 8] and alone.history not in data.targets
    data.reconstruction_loss([0])
    with pytest.raises(ValueError, match=r"0 train and 0 held-out exchanges are usable .*'too_long': 1"):
        train_dialogue(responsive_llm_folder, [reply], [reply], settings(), tmp_path, "text")


def test_bad_input_is_refused(responsive_llm_folder, tmp_path):
    blank = DialogueExample("d/9", (), "Hello", "  ")
    with pytest.raises(ValueError, match="d/9 has an empty reply"):
        train_dialogue(responsive_llm_folder, [blank], examples(2), settings(), tmp_path, "text")
    with pytest.raises(ValueError, match="0 train"):
        train_dialogue(responsive_llm_folder, [], examples(2), settings(), tmp_path, "text")


def test_training_goes_on_from_an_adapter(responsive_llm_folder, compressor_folder, trained, tmp_path):
    folder, first = trained
    again = train_dialogue(
        responsive_llm_folder, examples(24), examples(6), settings(1), tmp_path, "memory", compressor_folder,
        start=folder,
    )  # fmt: skip
    assert again["heldout_before"]["loss"] == pytest.approx(first["heldout_after"]["loss"], abs=1e-5)


def test_a_run_that_goes_on_keeps_the_rows_of_the_start(responsive_llm_folder, tmp_path):
    def train(out, progress, checkpoints) -> dict:
        return train_dialogue(
            responsive_llm_folder,
            examples(16),
            examples(6),
            settings(2),
            out,
            "text",
            progress=progress,
            checkpoints=checkpoints,
        )

    assert_goes_on_as_if_never_cut_off(train, tmp_path)
