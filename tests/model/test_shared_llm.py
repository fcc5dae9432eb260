"""Adapters that take turns on one LLM give what each gives by itself, and leave the LLM as it was."""

import pytest
import torch

from model.adapter import AdapterError, load_adapter, new_adapter, save_adapter
from model.llm import load_llm
from model.shared_llm import SharedLLM


@pytest.fixture(scope="module")
def adapters(tiny_llm_folder, tmp_path_factory):
    """Two adapters that change a lot, of other ranks and targets."""
    made = []
    for seed, (rank, targets) in enumerate([(4, ["q_proj", "v_proj"]), (2, ["k_proj", "o_proj"])]):
        llm = new_adapter(load_llm(tiny_llm_folder, "float32")[0], rank, 2 * rank, targets, seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, weight in llm.named_parameters():
                if "lora_" in name:
                    weight.normal_()
        made.append(tmp_path_factory.mktemp(f"adapter{seed}"))
        save_adapter(llm, made[-1])
    return made


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 12)[None]).logits


def test_each_gives_what_it_gives_by_itself(tiny_llm_folder, adapters):
    def alone(folder) -> torch.Tensor:
        llm = load_llm(tiny_llm_folder, "float32")[0]
        return logits(llm if folder is None else load_adapter(llm, folder).eval())

    wanted = {folder: alone(folder) for folder in (None, *adapters)}
    assert all(not torch.allclose(wanted[None], wanted[folder], atol=1e-2) for folder in adapters)
    shared = SharedLLM(tiny_llm_folder, "float32")
    first, second = adapters
    for folder in (None, first, second, first, None):
        with shared.using(folder) as model:
            torch.testing.assert_close(logits(model), wanted[folder])
            assert not any(p.requires_grad for p in model.parameters())
            with shared.using(None) as inner:
                assert torch.equal(logits(inner), wanted[None])
            torch.testing.assert_close(logits(model), wanted[folder])
    assert torch.equal(logits(shared.model), wanted[None])


def test_one_that_does_not_fit_is_named(tiny_llm_folder, adapters, tmp_path):
    shared = SharedLLM(tiny_llm_folder, "float32")
    with pytest.raises(AdapterError, match="no adapter can be read there"):
        shared.add(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in adapters[0].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = broken / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    with pytest.raises(AdapterError, match="does not fit this LLM: of another shape"):
        shared.add(broken)
