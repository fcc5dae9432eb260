"""EPO on prompts that hold embeddings: memories, voices, faces. Its value and gradients by hand, and its training."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.epo.loss import total_loss
from model.epo.settings import EpoSettings
from model.epo.train import Pairs, check, train_epo
from model.extractor.extractor import new_extractor
from model.extractor.settings import ExtractorSettings
from model.llm import load_llm, reply_ids
from model.settings import TrainingSettings
from model.spoken import Spoken

AUDIO, VIDEO, QUERIES = 12, 16, 3
KINDS = ("memory", "audio", "video")


def random(*sizes: int, seed: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(responsive_llm_folder) -> DialogueModel:
    """With a compressor and an extractor that nothing but EPO itself keeps from being trained."""
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    table = llm.get_input_embeddings().weight
    compressor = new_compressor(CompressorSettings(weights="", hidden=32, layers=1), tokenizer, table, None)
    small = ExtractorSettings(layers=1, heads=2, queries=QUERIES, hidden=32)
    extractor = new_extractor(small, AUDIO, VIDEO, table)
    torch.manual_seed(0)
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    return DialogueModel(get_peft_model(llm, adapter), tokenizer, "memory", compressor, extractor)


def mixed() -> list[PreferenceExample]:
    """Every kind of embedding alone, all together, and none; prompts and replies of unlike lengths."""
    history = (Spoken("What a lovely day at the beach.", 0), Spoken("Why?", 1), Spoken("I am so sad.", 0))
    voice, face = random(5, AUDIO, seed=1), random(4, VIDEO, seed=2)
    given = [
        {"history": history},
        {"audio": voice},
        {"video": face},
        {"history": history[:1], "audio": voice + 1, "video": face + 1},
        {},
    ]
    return [
        PreferenceExample(
            DialogueExample(
                f"k{i}", **{"history": (), **parts}, sentence="Are you sad" + "?" * i, reply=reply
            ),
            "What a fool. " * (i + 1),
        )
        for i, (parts, reply) in enumerate(
            zip(given, ("Oh no.", "I am happy for you.", "Yes", "No, my friend.", "Why?"), strict=True)
        )
    ]


def by_hand(model: DialogueModel, pairs: list[PreferenceExample], settings: EpoSettings) -> torch.Tensor:
    """Equation 2 and the autoregressive loss, from a plain forward of prompt and reply for each reply by itself."""
    table = model.llm.get_input_embeddings()

    def log_probs(pair: PreferenceExample, reply: str) -> torch.Tensor:
        prompt = model.prompt(pair.example)
        ids = reply_ids(model.tokenizer, reply).to(prompt.device)
        logits = model.llm(inputs_embeds=torch.cat([prompt, table(ids)])[None]).logits[
            0, len(prompt) - 1 : -1
        ]
        return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]

    chosen = [log_probs(pair, pair.example.reply) for pair in pairs]
    rejected = [log_probs(pair, pair.counter_emotional) for pair in pairs]
    margins = torch.stack([c.mean() - r.mean() for c, r in zip(chosen, rejected, strict=True)])
    epo = F.softplus(-(settings.beta * margins - settings.gamma)).mean()
    return epo - settings.autoregressive_weight * torch.cat(chosen).mean()


@pytest.mark.parametrize("short", [0, 128], ids=["block by block", "side by side"])
def test_value_and_gradients_equal_a_plain_forward_of_each_reply(model, monkeypatch, short):
    monkeypatch.setattr("model.branches.SHORT", short)
    adapter = {name: p for name, p in model.llm.named_parameters() if "lora_" in name}
    with torch.no_grad():  # a new adapter's B is zero, and with it every gradient of A
        for number, parameter in enumerate(adapter.values()):
            parameter.copy_(0.1 * random(*parameter.shape, seed=number))
    settings, pairs = EpoSettings(), mixed()

    prompt = model.prompt(pairs[3].example)
    parts = [
        model.compressor.compress([pairs[3].example.history])[0],
        model.extractor.audio_embeddings([pairs[3].example.audio])[0],
        model.extractor.video_embeddings([pairs[3].example.video])[0],
    ]
    assert [len(part) for part in parts] == [1, QUERIES, QUERIES]
    for row in torch.cat([part.to(prompt.device) for part in parts]):  # it does hold them
        assert (prompt - row).abs().amax(1).min() < 1e-5

    ours, _ = total_loss(
        Pairs(model, pairs).log_probs(range(len(pairs))),
        settings.beta,
        settings.gamma,
        settings.autoregressive_weight,
    )
    theirs = by_hand(model, pairs, settings)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    found, expected = (torch.autograd.grad(loss, list(adapter.values())) for loss in (ours, theirs))
    for name, a, b in zip(adapter, found, expected, strict=True):
        assert b.abs().max() > 0 and (a - b).abs().max() <= 1e-5 * b.abs().max(), name


def told_by(kind: str, count: int = 8) -> list[PreferenceExample]:
    """Pairs of one sentence and two replies: which of them is the true one, only the embeddings of `kind` tell."""
    found = []
    for i in range(count):
        mood, other = ("happy", "sad") if i % 2 else ("sad", "happy")
        given = {
            "memory": {"history": (Spoken(f"{mood} {mood}", 0),) * 6},
            "audio": {"audio": random(5, AUDIO, seed=i % 2)},
            "video": {"video": random(5, VIDEO, seed=i % 2)},
        }[kind]
        example = DialogueExample(f"k{i}", **{"history": (), **given}, sentence="Why?", reply=mood)
        found.append(PreferenceExample(example, other))
    return found


SETTINGS = EpoSettings(
    sampled_replies=0,
    training=TrainingSettings(learning_rate=1e-2, batch_size=4, epochs=20, dtype="float32", evaluations=4),
)


@pytest.mark.parametrize("kind", KINDS)
def test_training_ranks_pairs_that_embeddings_alone_tell_apart(model, kind, tmp_path):
    pairs = told_by(kind)
    parts = {"compressor": model.compressor, "extractor": model.extractor, "llm": model.llm}
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    first = check(Pairs(model, pairs), SETTINGS).figures
    assert first["accuracy"] == 0.5
    train_epo(model, pairs, pairs, SETTINGS, tmp_path)
    last = check(Pairs(model, pairs), SETTINGS).figures
    assert last["margin"] > SETTINGS.gamma > first["margin"] and last["accuracy"] == 1.0
    for name, part in parts.items():
        for key, value in part.state_dict().items():
            changed = not torch.equal(value, before[name][key])
            assert not changed or (name == "llm" and "lora_" in key), f"{name}: {key}"
    for part in (model.compressor, model.extractor):
        assert all(p.requires_grad and p.grad is None for p in part.parameters())


def test_without_the_embeddings_these_pairs_cannot_be_told_apart(model, tmp_path):
    """So it is the embeddings that the training above has learnt from."""
    bare = DialogueModel(model.llm, model.tokenizer, "text")
    pairs = told_by("audio")
    train_epo(bare, pairs, pairs, SETTINGS, tmp_path)
    last = check(Pairs(bare, pairs), SETTINGS).figures
    assert last["accuracy"] <= 0.5 and abs(last["margin"]) < 1e-4
