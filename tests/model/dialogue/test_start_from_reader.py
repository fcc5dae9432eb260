"""The dialogue adapter that begins as the reader of the compressor whose memories it reads."""

import pytest
import torch
from safetensors.torch import load_file

from model.adapter import AdapterError
from model.compressor.settings import CompressorSettings
from model.compressor.train import pretrain
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import train_dialogue
from model.settings import TrainingSettings
from model.zoo.resolve import resolve
from storage.errors import InputError
from tasks.stages.dialogue.fit import reader_to_start_from
from tests.support.trainings import HELDOUT, ROWS, TEXTS, exchanges

NEXT_TO_NOTHING = TrainingSettings(learning_rate=1e-9, dtype="float32", threads=1, evaluations=1)


@pytest.fixture(scope="module")
def compressor(tmp_path_factory):
    own = TrainingSettings(learning_rate=1e-2, dtype="float32", threads=1, evaluations=1)
    small = CompressorSettings(
        weights="", hidden=32, layers=1, max_utterance_tokens=32, free_running_rows=0, pretrain=own,
        reader_rank=4, reader_alpha=8, prompt="bare",
    )  # fmt: skip
    out = tmp_path_factory.mktemp("with-reader")
    pretrain(resolve("tiny-llm"), TEXTS[:ROWS], TEXTS[ROWS : ROWS + HELDOUT], small, out)
    return out


def settings(**changes) -> DialogueSettings:
    return DialogueSettings(
        **{"rank": 4, "alpha": 8, "start_from_reader": True, "training": NEXT_TO_NOTHING, **changes}
    )


def train(compressor, out, chosen):
    rows = exchanges(ROWS + HELDOUT)
    return train_dialogue(resolve("tiny-llm"), rows[:ROWS], rows[ROWS:], chosen, out, "memory", compressor)


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_it_begins_where_the_reader_ended(compressor, tmp_path):
    train(compressor, tmp_path / "from", settings())
    train(compressor, tmp_path / "anew", settings(start_from_reader=False))
    reader, begun, anew = (
        weights(compressor / "reader"),
        weights(tmp_path / "from"),
        weights(tmp_path / "anew"),
    )
    assert begun.keys() == reader.keys() == anew.keys()
    assert all(torch.allclose(begun[name], reader[name], atol=1e-6) for name in reader)
    moved = [name for name in reader if reader[name].any() and "lora_B" in name]
    assert moved and not any(torch.allclose(anew[name], reader[name], atol=1e-6) for name in moved)


def test_another_rank_and_no_reader_are_refused_in_a_line(compressor, tmp_path):
    with pytest.raises(
        AdapterError, match=r"has rank 4, alpha 8, .*; set dialogue\.rank, alpha and target_modules"
    ):
        train(compressor, tmp_path, settings(rank=8))
    for chosen in (settings(alpha=4), settings(target_modules=("q_proj",))):
        with pytest.raises(InputError, match="set dialogue.rank"):
            reader_to_start_from(compressor, chosen)
    (compressor.parent / "bare").mkdir()
    with pytest.raises(InputError, match="has no reader for start_from_reader"):
        reader_to_start_from(compressor.parent / "bare", settings())
