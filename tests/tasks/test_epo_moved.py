"""Stage `epo.test` on two dialogues by hand: what a training moved among samples of a real LLM."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from model.adapter import save_adapter
from model.dialogue.dialogue import load_dialogue
from model.dialogue.likelihood import reply_nats
from model.dialogue.settings import DialogueSettings
from model.llm import load_llm
from model.metrics.settings import BootstrapSettings
from model.scorer.settings import ScorerSettings
from model.settings import TrainingSettings
from model.zoo.resolve import is_cached, resolve
from tasks.engine.declaration import Weights
from tasks.settings import EpoTestSettings
from tasks.stages.epo import measure
from tasks.stages.epo.measure import measure_epo
from tests.support.two_dialogues import two_dialogues

LLM = "smollm2-135m-instruct"
DIALOGUE = DialogueSettings(memory="mean", training=TrainingSettings(dtype="float32"))  # needs no compressor


def adapter(folder, scale: float):
    """A LoRA of the LLM, drawn, by so much: 0 changes nothing."""
    llm, _ = load_llm(resolve(LLM), "float32")
    torch.manual_seed(0)
    adapted = get_peft_model(llm, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=scale) if scale else torch.nn.init.zeros_(p)
    save_adapter(adapted, folder)
    return folder


@pytest.mark.slow
def test_a_training_that_changed_nothing_moved_nothing_and_another_is_weighted_by_its_own_likelihoods(
    tmp_path, monkeypatch
):
    assert is_cached(LLM), "empamba weights pull --profile cpu"
    two = two_dialogues(tmp_path, ["test"], ["test"])
    before, after = (
        two.store.put_tree(name, adapter(tmp_path / name, scale))
        for name, scale in (("before", 0), ("after", 0.05))
    )
    seen: list = []

    def noted(examples, said, *rest):
        seen.append((examples, said, rest))
        return figures(examples, said, *rest)

    told: list[tuple[int, int]] = []
    work = replace(two.work, progress=lambda step, steps, _: told.append((step, steps)))
    figures = measure._figures
    monkeypatch.setattr(measure, "_figures", noted)
    (ref,) = measure_epo(
        two.utterances, two.exchanges, [], before, {"epo": after, "nll": before}, None, None, DIALOGUE,
        EpoTestSettings(exchanges=6, samples=4, max_new_tokens=40), ScorerSettings(), BootstrapSettings(),
        Weights(name=LLM, identity="x"), Weights(name="goemotions-smollm2", identity="y"), work,
    )  # fmt: skip
    facts = json.loads(two.store.read(ref))
    assert facts["drawn"] == 24 and 2 <= facts["samples"] <= 24 and facts["dialogues"] == 2
    # 24 samples, each written once, and read before and after two trainings.
    assert told == [(n, 96) for n in (*range(1, 25), 48, 72, 96)]
    apart = facts["by_dataset"]
    assert set(apart) == {"iemocap", "meld"} and sum(d["samples"] for d in apart.values()) == facts["samples"]
    unmoved = facts["trainings"]["nll"]
    assert unmoved["own"]["mean"] == unmoved["usual"]["mean"] == 0 and unmoved["effective_share"] == 1
    assert facts["trainings"]["epo"]["effective_share"] < 1
    assert facts["beside"]["nll"]["own"]["mean"] == pytest.approx(facts["trainings"]["epo"]["own"]["mean"])
    # The likelihoods that weigh are those of the trained model, read alone.
    ((examples, said, (_, nats_after, *_)),) = seen
    model = load_dialogue(
        resolve(LLM), adapter=two.store.folder(after), compressor=None, extractor=None, history="memory",
        settings=DIALOGUE, dtype="float32",
    )  # fmt: skip
    example, texts, nats = next(
        row for row in zip(examples, said, nats_after["epo"], strict=True) if len(row[1]) > 1
    )
    alone = [reply_nats(model, [example], [[text]], 1)[0][0] for text in texts]
    assert [one.nats for one in alone] == pytest.approx([one.nats for one in nats], rel=1e-4)
