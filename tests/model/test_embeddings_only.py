"""Prompts made without the LLM's layers are those made with them, and nothing can be computed with what is left."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.dialogue.dialogue import load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.prompter import load_prompter, one_tensor
from model.dialogue.settings import DialogueSettings
from model.embeddings_only import load_embeddings
from model.json_files import write_json
from model.llm import embed
from model.settings import TrainingSettings
from model.spoken import Spoken
from model.zoo.random_models import write_random_model

SETTINGS = DialogueSettings(memory="mean", training=TrainingSettings(dtype="float32"))
SAID = (Spoken("Where did my umbrella go?", 0), Spoken("It burned in the fireplace.", 1))
NAME = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("llm")
    write_random_model("tiny-llm", target)
    return target


@pytest.mark.parametrize("history", ["text", "memory"])
def test_prompts_are_those_of_the_whole_model(folder, history):
    whole = load_dialogue(folder, None, None, None, history, "float32", SETTINGS)
    alone = load_prompter(folder, None, None, None, history, SETTINGS, window=2048)
    example = DialogueExample("one", SAID, "Say something.", "")
    wanted = whole.prompt(example)
    assert torch.equal(alone.prompt(example), wanted) and alone.window == whole.window == 2048
    (pieces,) = alone.pieces([example])
    given = one_tensor(alone, pieces)
    assert given.is_floating_point() == (history == "memory")
    assert torch.equal(given if history == "memory" else embed(whole.llm, [given]), wanted)
    with pytest.raises((NotImplementedError, RuntimeError)):
        alone.llm(inputs_embeds=wanted[None])


def test_a_smaller_window_leaves_older_utterances_out(folder):
    long = DialogueExample("long", SAID * 40, "Say something.", "")
    settings = SETTINGS.model_copy(update={"max_history_utterances": 100, "max_history_tokens": 10_000})
    sizes = [
        len(load_prompter(folder, None, None, None, "text", settings, window).prompt(long))
        for window in (512, 1024)
    ]
    assert sizes[0] < 512 < sizes[1] < 1024


def test_weights_in_several_files_and_without_embeddings(folder, tmp_path):
    split = tmp_path / "split"
    shutil.copytree(folder, split)
    weights = load_file(folder / "model.safetensors")
    first = {NAME: weights.pop(NAME)}
    (split / "model.safetensors").unlink()
    for name, part in (("a", first), ("b", weights)):
        save_file(part, split / f"{name}.safetensors", {"format": "pt"})
    places = {NAME: "a.safetensors"} | dict.fromkeys(weights, "b.safetensors")
    write_json({"metadata": {}, "weight_map": places}, split / "model.safetensors.index.json")
    llm, _ = load_embeddings(split, "float32")
    assert torch.equal(llm.get_input_embeddings().weight, first[NAME])
    (split / "a.safetensors").unlink()
    with pytest.raises(ValueError, match=f"no {NAME} can be read there .*resolve the weights again"):
        load_embeddings(split, "float32")
    save_file({NAME: first[NAME][:7].clone()}, split / "a.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"is \[7, 64\] for \[512, 64\]"):
        load_embeddings(split, "float32")
