"""LoRA finetuning on prompts with voices and faces: the extractor's embeddings are what the replies are learnt from."""

import pytest
import torch

from model.branches import reply_log_probs
from model.dialogue.dialogue import load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import train_dialogue
from model.extractor.extractor import new_extractor
from model.extractor.settings import ExtractorSettings
from model.llm import load_llm, reply_ids
from model.settings import TrainingSettings

AUDIO, VIDEO = 12, 16
SETTINGS = DialogueSettings(
    rank=8,
    alpha=16,
    training=TrainingSettings(learning_rate=1e-2, batch_size=4, epochs=20, dtype="float32", evaluations=4),
)


@pytest.fixture(scope="module")
def extractor_folder(responsive_llm_folder, tmp_path_factory):
    llm, _ = load_llm(responsive_llm_folder, "float32")
    out = tmp_path_factory.mktemp("extractor")
    small = ExtractorSettings(layers=1, heads=2, queries=3, hidden=32)
    new_extractor(small, AUDIO, VIDEO, llm.get_input_embeddings().weight).save(out)
    return out


def examples(kind: str, count: int = 8) -> list[DialogueExample]:
    """One sentence and two replies; which of them it is, only the voice or the face tells."""
    found = []
    for i in range(count):
        width = AUDIO if kind == "audio" else VIDEO
        clip = torch.randn(5, width, generator=torch.Generator().manual_seed(i % 2))
        found.append(DialogueExample(f"d/{i}", (), "Why?", ("sad", "happy")[i % 2], **{kind: clip}))
    return found


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_replies_are_learnt_from_clips(responsive_llm_folder, extractor_folder, kind, tmp_path):
    rows = examples(kind)
    before = {file.name: file.read_bytes() for file in extractor_folder.iterdir()}

    def train(extractor, name: str) -> dict:
        return train_dialogue(
            responsive_llm_folder, rows, rows, SETTINGS, tmp_path / name, "text", extractor=extractor
        )

    seeing, blind = train(extractor_folder, "seeing"), train(None, "blind")
    assert seeing["audio_visual"] and not blind["audio_visual"]
    assert seeing["heldout_after"]["reply"] < blind["heldout_after"]["reply"] - 0.1
    # Every other row has the other clip: with that in place of its own, the reply that is learnt is the wrong one.
    compared = seeing["compared"]
    gains = [other - own for other, own in zip(compared["other_clip"], compared["after"], strict=True)]
    assert len(gains) == 8 and sum(gains) / 8 > 0.1 and "other_clip" not in blind["compared"]
    model = load_dialogue(
        responsive_llm_folder, tmp_path / "seeing", None, extractor_folder, "text", "float32", SETTINGS
    )
    replies = [reply_ids(model.tokenizer, row.reply) for row in rows[:2]]
    prompts = model.prompts(rows[:2])
    own, other = (reply_log_probs(model.llm, order, replies) for order in (prompts, prompts[::-1]))
    for number in range(2):  # a reply is likelier with the clip it was said to than with the other one
        assert own[0][own[1] == number].mean() > other[0][other[1] == number].mean() + 0.5
    assert before == {file.name: file.read_bytes() for file in extractor_folder.iterdir()}
