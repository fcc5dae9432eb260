"""Memories: what they depend on, their place in the LLM's space, and loading what was saved."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.compressor.compressor import CompressorError, MambaCompressor, new_compressor
from model.compressor.settings import CompressorSettings
from model.llm import load_llm
from model.spoken import Spoken, alone

DIALOGUE = [
    Spoken("I am so happy to see you.", 0),
    Spoken("Why?", 1),
    Spoken("It is a nice day at the beach.", 0),
]
SMALL = CompressorSettings(weights="", hidden=32, layers=2, max_utterance_tokens=64)


@pytest.fixture(scope="module")
def llm(tiny_llm_folder):
    return load_llm(tiny_llm_folder, "float32")


@pytest.fixture(params=["small", "checkpoint"])
def compressor(request, llm, tiny_mamba_folder):
    weights = tiny_mamba_folder if request.param == "checkpoint" else None
    made = new_compressor(SMALL, llm[1], llm[0].get_input_embeddings().weight, weights)
    with torch.no_grad():  # as after training: the correction is not zero any more
        made.projector[2].weight.normal_(std=0.1)
        made.roles.normal_(std=0.1)
    return made.eval()


def test_one_memory_an_utterance(compressor):
    found = compressor.compress([DIALOGUE, DIALOGUE[:1], []])
    assert [m.shape for m in found] == [(3, 64), (1, 64), (0, 64)]


def test_a_memory_does_not_depend_on_what_comes_later(compressor):
    whole = compressor.compress([DIALOGUE])[0]
    for count in (1, 2):
        begun = compressor.compress([DIALOGUE[:count]])[0]
        assert torch.allclose(whole[:count], begun, atol=2e-7)


def test_a_memory_knows_what_came_before(compressor):
    alone = compressor.compress([DIALOGUE[1:]])[0][0]
    after = compressor.compress([DIALOGUE])[0][1]
    assert (alone - after).abs().max() > 5e-6


def test_a_memory_does_not_depend_on_batch_or_padding(compressor):
    long = [Spoken(DIALOGUE[2].text * 2, 1)] * 3
    batch = (DIALOGUE, long, DIALOGUE[:2])
    together = compressor.memories(
        [[compressor.ids(u.text) for u in d] for d in batch], [[u.role for u in d] for d in batch]
    )
    for dialogue, memories in zip((DIALOGUE, long, DIALOGUE[:2]), together, strict=True):
        assert torch.allclose(memories, compressor.compress([dialogue])[0], atol=2e-7)


def test_an_utterance_is_cut_at_the_limit(compressor):
    ids = torch.arange(10, 110)
    a, b = compressor.memories([[ids], [ids[:64]]])
    assert torch.allclose(a, b, atol=2e-7)


def test_memories_start_where_token_embeddings_are(llm, tiny_mamba_folder):
    table = llm[0].get_input_embeddings().weight
    for weights in (None, tiny_mamba_folder):
        compressor = new_compressor(SMALL, llm[1], table, weights)
        norm = compressor.compress([DIALOGUE])[0].norm(dim=1).mean()
        assert 0.5 < norm / table.norm(dim=1).mean() < 2


def test_a_new_small_compressor_is_the_weighted_mean_of_tokens(llm):
    table = llm[0].get_input_embeddings().weight
    compressor = new_compressor(SMALL, llm[1], table, None)
    ids = torch.tensor([7, 8])
    table = table.cpu()
    tokens = (table[ids] - table.mean(0)) / table.std(0)
    weight = torch.tensor([1.0, torch.exp(torch.tensor(-0.7))])
    expected = table.mean(0) + table.std(0) * (weight @ tokens) / weight.square().sum().sqrt()
    assert torch.allclose(compressor.memories([[ids]])[0][0].cpu(), expected, atol=2e-7)


def test_a_checkpoint_keeps_its_weights(llm, tiny_mamba_folder):
    from transformers import MambaModel

    compressor = new_compressor(SMALL, llm[1], llm[0].get_input_embeddings().weight, tiny_mamba_folder)
    theirs = MambaModel.from_pretrained(tiny_mamba_folder).state_dict()
    assert all(torch.equal(v.cpu(), theirs[name]) for name, v in compressor.mamba.state_dict().items())


@pytest.mark.parametrize("spelling", ["backbone.embedding", "embedding", "backbone.embeddings", "embeddings"])
def test_both_spellings_of_a_checkpoints_embeddings_load(llm, tiny_mamba_folder, tmp_path, spelling):
    table = llm[0].get_input_embeddings().weight
    expected = new_compressor(SMALL, llm[1], table, tiny_mamba_folder).mamba.state_dict()
    shutil.copytree(tiny_mamba_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    (name,) = (name for name in weights if "embedding" in name)
    weights[f"{spelling}.weight"] = weights.pop(name)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    found = new_compressor(SMALL, llm[1], table, tmp_path).mamba.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_saved_and_loaded_is_equal_and_holds_no_llm_table(compressor, llm, tmp_path):
    compressor.save(tmp_path)
    assert "table" not in load_file(tmp_path / "model.safetensors")
    again = MambaCompressor.load(tmp_path, llm[1], llm[0].get_input_embeddings().weight)
    for name, value in compressor.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert torch.allclose(again.compress([DIALOGUE])[0], compressor.compress([DIALOGUE])[0], atol=1e-7)
    assert not any(p.requires_grad for p in again.parameters())


def test_loading_is_strict(llm, tmp_path):
    table = llm[0].get_input_embeddings().weight
    new_compressor(SMALL, llm[1], table, None).save(tmp_path)
    with pytest.raises(CompressorError, match="width 64, this one has 32"):
        MambaCompressor.load(tmp_path, llm[1], table[:, :32])
    weights = load_file(tmp_path / "model.safetensors")
    weights["other"] = weights.pop("mem")
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CompressorError, match="missing: mem; unknown: other"):
        MambaCompressor.load(tmp_path, llm[1], table)
    (tmp_path / "config.json").write_text(json.dumps({"kind": "small"}))
    with pytest.raises(CompressorError, match="train it again"):
        MambaCompressor.load(tmp_path, llm[1], table)
    with pytest.raises(CompressorError, match="no compressor"):
        MambaCompressor.load(tmp_path / "absent", llm[1], table)


def test_listening_turn_by_turn_equals_compressing_the_dialogue(compressor):
    lines = DIALOGUE * 4
    whole, past, sizes = compressor.compress([lines])[0], None, set()
    for number, line in enumerate(lines):
        memory, past = compressor.step(line, past)
        assert torch.allclose(memory, whole[number], atol=1e-5 * float(whole.detach().abs().max()))
        sizes.add(sum(t.window.numel() + t.state.numel() for t in past))
    assert len(sizes) == 1  # what is kept does not grow


def test_a_partial_or_foreign_checkpoint_names_its_weights(llm, tiny_mamba_folder, tiny_llm_folder, tmp_path):
    table = llm[0].get_input_embeddings().weight
    shutil.copytree(tiny_mamba_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mixer.D"))
    weights["stray"] = weights.pop(name)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CompressorError, match=r"missing: .*layers\.1\.mixer\.D; unknown: stray"):
        new_compressor(SMALL, llm[1], table, tmp_path)
    with pytest.raises(CompressorError, match="a llama model"):
        new_compressor(SMALL, llm[1], table, tiny_llm_folder)


def test_an_empty_utterance_is_refused(compressor):
    with pytest.raises(CompressorError, match="without tokens"):
        compressor.compress([[Spoken("hello", 0), Spoken("", 1)]])


def test_a_role_adds_its_own_vector_to_the_memory_and_nothing_else(compressor):
    """Speakers beyond the table are told as its last; no role adds nothing; the text is read alike."""
    text, vectors = "Why?", compressor.roles.detach()
    roles = [0, 3, 7, 8, 40, None]
    (bare,) = compressor.compress(alone([text]))
    for role in roles:
        (memory,) = compressor.compress([[Spoken(text, role)]])
        added = 0 if role is None else vectors[min(role, len(vectors) - 1)] * compressor.spread
        assert torch.allclose(memory - bare, torch.zeros_like(bare) + added, atol=2e-6)
    assert (compressor.compress([[Spoken(text, 0)]])[0] - bare).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["small", "checkpoint"])
def test_untrained_role_vectors_change_no_bit(llm, tiny_mamba_folder, kind):
    table = llm[0].get_input_embeddings().weight
    made = new_compressor(SMALL, llm[1], table, tiny_mamba_folder if kind == "checkpoint" else None)
    assert made.roles.shape == (SMALL.roles, 64) and not made.roles.any()
    (told,), (untold,) = made.compress([DIALOGUE]), made.compress([[Spoken(u.text) for u in DIALOGUE]])
    assert torch.equal(told, untold)
