"""Benchmarks of memories run as a person starts them, on tiny random models, with several memories an utterance."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from model.compressor.compressor import MambaCompressor, new_compressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.llm import load_llm
from model.zoo.resolve import resolve

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
LLM = "tiny-llm"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int | None, Path]:
    """Span -> a compressor's folder."""
    llm, tokenizer = load_llm(resolve(LLM), "float32")
    found = {}
    for span in (None, 8):
        settings = CompressorSettings(weights="", hidden=16, layers=1, memory_span=span, prompt="bare")
        found[span] = tmp_path_factory.mktemp("compressor")
        new_compressor(settings, tokenizer, llm.get_input_embeddings().weight, None).save(found[span])
    return found


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """One of benchmarks/ by name, as it is run from its folder, on the bundled sample."""

    def imported(name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        for module in ("history", "texts", name):
            sys.modules.pop(module, None)
        history = __import__("history")
        monkeypatch.setattr(history, "TOPICAL_CHAT", tmp_path / "none")
        found = __import__(name)
        monkeypatch.setattr(found, "TOPICAL_CHAT", tmp_path / "none")
        return found

    return imported


def printed(benchmark: ModuleType, monkeypatch, capsys, *arguments: str) -> dict:
    """The last line of a benchmark, which is JSON."""
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, *arguments])
    benchmark.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("span", [None, 8])
def test_each_utterance_of_a_conversation_is_read_back_from_all_its_memories(
    folders, benchmark, monkeypatch, capsys, span
):
    """The last turn's figure, written out: its own memories, and those at its place in the other conversation."""
    conversation = benchmark("conversation")
    options = ("--llm", LLM, "--compressor", str(folders[span]), "--conversations", "2", "--each")
    told = printed(conversation, monkeypatch, capsys, *options)["turns"]
    assert set(told) == {*map(str, conversation.SHOWN), "all"}

    llm, tokenizer = load_llm(resolve(LLM), "float32")
    compressor = MambaCompressor.load(folders[span], tokenizer, llm.get_input_embeddings().weight)
    task = Reconstruction(llm, tokenizer, dialogue=True, cached=False, bare=True)
    said = conversation.conversations(2)
    last = []
    for one in said:
        whole, before = compressor.compress([one, one[:-1]])
        last.append(whole[len(before) :])
    counts = [len(memories) for memories in last]
    assert (
        counts == [1, 1] if span is None else counts[0] != counts[1]
    )  # which has other memories, and as many targets

    @torch.no_grad()
    def nats(text: str, memories) -> float:
        return -task.log_probs([memories], [task.target([text])])[0].mean().item()

    own = [nats(one[-1].text, memories) for one, memories in zip(said, last, strict=True)]
    other = [nats(one[-1].text, memories) for one, memories in zip(said, last[::-1], strict=True)]
    assert told["30"]["own"] == pytest.approx(sum(own) / 2, abs=2e-4)
    assert told["30"]["gain"][0] == pytest.approx((sum(other) - sum(own)) / 2, abs=2e-4)


def test_a_conversation_is_read_back_in_one_go_from_several_memories_an_utterance(
    folders, benchmark, monkeypatch, capsys
):
    conversation = benchmark("conversation")
    options = ("--llm", LLM, "--compressor", str(folders[8]), "--conversations", "2")
    told = printed(conversation, monkeypatch, capsys, *options)["turns"]
    assert told["all"]["own"] > 0 and told["all"]["own"] != told["all"]["none"]


@pytest.mark.parametrize("kind", ["memory", "streamed, kept", "hybrid, kept"])
def test_a_history_is_measured_by_the_compressor_that_is_asked_for(folders, benchmark, kind):
    """What a span adds to the prompt are its further memories; of the hybrid those of the last turn are none."""
    history = benchmark("history")
    found = {}
    for span, folder in folders.items():
        asked = Namespace(llm=LLM, compressor=str(folder), dialogues=2)
        found[span] = history.measure(kind, asked)["history"]
    _, compressor = history.models(kind, Namespace(llm=LLM, compressor=str(folders[8])))
    left_out = 2 if kind.startswith("hybrid") else 1
    further = [
        sum(compressor.counts(said[:-left_out])) - len(said[:-left_out]) for said in history.dialogues(2)
    ]
    assert min(further) > 0 and found[8] - found[None] == sum(further) / 2
