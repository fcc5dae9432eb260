"""The four trainings at their smallest, to be run in one process, in parts, or as one of several processes:

    accelerate launch … --module tests.support.trainings FOLDER

leaves each training's report and weights in FOLDER/<plain or sharded>/<number of the process>/<name of the training>;
sharded where accelerate was told so, and plain after that. One goes through shards that are put together twice, too. Replies, answers and
histories are of very unlike lengths, and the last step has one row, so that no share of a step is like another.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from model.compressor.settings import CompressorSettings
from model.compressor.train import pretrain
from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import train_dialogue
from model.epo.settings import EpoSettings
from model.epo.train import train_epo
from model.extractor.settings import ExtractorSettings
from model.extractor.train import EmotionExample, train_extractor
from model.features.stored import Stored
from model.llm import load_llm
from model.processes import Processes
from model.prompts import EMOTION_WORDS
from model.settings import TrainingSettings
from model.sharding import FSDP_VARIABLE, is_sharded
from model.spoken import Spoken
from model.zoo.resolve import resolve

WORDS = "happy sad beach train kitchen party friend surprise weather station".split()
TEXTS = [" ".join(WORDS[: 1 + i % 9]) + f" {word}" for i, word in enumerate(WORDS * 2)]
ROWS, HELDOUT = 9, 3


def training(**more) -> TrainingSettings:
    return TrainingSettings(
        learning_rate=1e-3, batch_size=4, dtype="float32", threads=1, evaluations=1, **more
    )


READ: Counter[str] = Counter()
"""How often features were read here."""


def stored(features: Tensor) -> Stored:
    """Features as they lie in a shard, but for the shard."""

    def read() -> Tensor:
        READ["features"] += 1
        return features

    return Stored((features.shape[0], features.shape[1]), read)


def compressor(out: Path, **more) -> dict:
    own = training(**more)
    small = CompressorSettings(
        weights="",
        hidden=32,
        layers=1,
        max_utterance_tokens=32,
        free_running_rows=0,
        pretrain=own,
        finetune=own,
    )
    return pretrain(resolve("tiny-llm"), TEXTS[:ROWS], TEXTS[ROWS : ROWS + HELDOUT], small, out)


def extractor(out: Path, **more) -> dict:
    generator = torch.Generator().manual_seed(3)
    clips = [
        EmotionExample(
            f"clip/{i}",
            stored(torch.randn(1 + i % 7, 12, generator=generator)),
            stored(torch.randn(2 + i % 5, 16, generator=generator)) if i % 2 else None,
            TEXTS[i],
            list(EMOTION_WORDS)[i % len(EMOTION_WORDS)],
            "made up",
        )
        for i in range(ROWS + HELDOUT)
    ]
    small = ExtractorSettings(layers=1, heads=2, queries=2, hidden=32, training=training(**more))
    return train_extractor(resolve("tiny-llm"), clips[:ROWS], clips[ROWS:], small, out)


def exchanges(count: int) -> list[DialogueExample]:
    """Every third without a history."""
    return [
        DialogueExample(
            f"d/{i}", tuple(Spoken(t, 0) for t in TEXTS[: i % 3]), f"I like {WORDS[i % 10]}", TEXTS[i]
        )
        for i in range(count)
    ]


def dialogue(out: Path, **more) -> dict:
    compressor(out / "compressor")
    rows = exchanges(ROWS + HELDOUT)
    small = DialogueSettings(rank=4, alpha=8, training=training(**more))
    return train_dialogue(
        resolve("tiny-llm"), rows[:ROWS], rows[ROWS:], small, out, "memory", out / "compressor"
    )


def epo(out: Path, **more) -> dict:
    llm, tokenizer = load_llm(resolve("tiny-llm"), "float32")
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    model = DialogueModel(get_peft_model(llm, adapter), tokenizer, "text")
    pairs = [PreferenceExample(e, TEXTS[-1 - i]) for i, e in enumerate(exchanges(ROWS + HELDOUT))]
    small = EpoSettings(training=training(**more), sampled_replies=0)
    return train_epo(model, pairs[:ROWS], pairs[ROWS:], small, out)


TRAININGS: dict[str, Callable[..., dict]] = {
    "extractor": extractor,
    "compressor": compressor,
    "dialogue": dialogue,
    "epo": epo,
}

if __name__ == "__main__":
    processes = Processes()
    for form in ("sharded", "plain"):
        assert is_sharded(load_llm(resolve("tiny-llm"), "float32")[0].model.layers) == (form == "sharded")
        for name, train in TRAININGS.items():
            train(Path(sys.argv[1]) / form / str(processes.index) / name)
        if form == "sharded":
            out = Path(sys.argv[1]) / "recomputed" / str(processes.index) / "dialogue"
            dialogue(out, activation_checkpointing=True)
        (Path(sys.argv[1]) / form / f"read-{processes.index}").write_text(str(READ.pop("features")))
        os.environ[FSDP_VARIABLE] = "false"
    processes.leave()
