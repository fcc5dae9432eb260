"""What bf16 leaves of an adapter's small change: an adapter that is used beside the weights keeps it, a merged one not."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.adapter import for_inference, load_adapter, save_adapter
from model.llm import load_llm, token_ids


@pytest.fixture(scope="module")
def small_adapter(tiny_llm_folder, tmp_path_factory):
    """A folder with an adapter that changes each weight by about 1e-5."""
    llm, _ = load_llm(tiny_llm_folder, "float32")
    adapted = get_peft_model(
        llm, LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.normal_(0, (1e-5 / 2) ** 0.5)  # a product of four such pairs has a spread of 1e-5
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(adapted, folder)
    return folder


@torch.no_grad()
def changes(adapted) -> dict[str, torch.Tensor]:
    """Layer -> what the adapter beside it adds to its weights, from the matrices that it computes with."""
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").double().cpu()
        for name, layer in adapted.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


@torch.no_grad()
def merged_changes(bare, merged) -> dict[str, torch.Tensor]:
    """Layer -> how its weights differ from those before the merge; of the layers that do."""
    before = dict(bare.named_modules())
    return {
        name: layer.weight.double().cpu() - before[name].weight.double().cpu()
        for name, layer in merged.named_modules()
        if name.endswith(("q_proj", "v_proj", "down_proj"))
    }


def likeness(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys() and len(found) == 6  # three kinds of layer, two of each
    one, other = (torch.cat([side[name].flatten() for name in sorted(side)]) for side in (found, expected))
    return torch.cosine_similarity(one, other, 0).item()


def test_in_bf16_an_adapter_stays_beside_the_weights_where_its_change_is_kept(tiny_llm_folder, small_adapter):
    exact = changes(load_adapter(load_llm(tiny_llm_folder, "float32")[0], small_adapter))
    bare, _ = load_llm(tiny_llm_folder, "bfloat16")
    used = for_inference(load_adapter(load_llm(tiny_llm_folder, "bfloat16")[0], small_adapter))
    assert likeness(changes(used), exact) > 0.999
    merged = load_adapter(load_llm(tiny_llm_folder, "bfloat16")[0], small_adapter).merge_and_unload()
    assert likeness(merged_changes(bare, merged), exact) < 0.7


def test_in_fp32_it_is_merged_and_computes_the_same(tiny_llm_folder, small_adapter):
    (bare, tokenizer), (llm, _) = (load_llm(tiny_llm_folder, "float32") for _ in range(2))
    adapted = load_adapter(llm, small_adapter)
    ids = token_ids(tokenizer, "I am so happy to see you, my old friend!")[None].to(llm.device)
    exact = changes(adapted)
    with torch.no_grad():
        beside = adapted(input_ids=ids).logits
        merged = for_inference(adapted)
        assert torch.allclose(merged(input_ids=ids).logits, beside, atol=1e-6)
    assert likeness(merged_changes(bare, merged), exact) > 0.999
