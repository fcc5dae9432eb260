"""A seeded part of the fuzz campaign (benchmarks/fuzz.py): no reader crashes, hangs or loses a row uncounted."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz.py"


def load():
    spec = importlib.util.spec_from_file_location("fuzz", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fuzz = load()


@pytest.mark.parametrize("parser", fuzz.parsers(), ids=lambda p: p.name)
def test_a_seeded_part(parser):
    verdict = fuzz.campaign(parser, inputs=240, start=7)
    assert verdict.failures() == []
    assert verdict.inputs >= 240 and verdict.rows > 100


def test_the_campaign_sees_a_lost_row_a_crash_and_a_hang(tmp_path, monkeypatch):
    """The judge itself: readers that do what none may are told apart."""
    whole = fuzz.parsers()[0].wholes[0]

    def loses(folder, data):
        found = fuzz.read_meld(folder, data)
        return fuzz.Counted(found.counted, found.expected, found.utterances[1:], found.rejects)

    def crashes(folder, data):
        return [][1]

    def hangs(folder, data):
        while True:
            pass

    monkeypatch.setattr(fuzz, "HANG_S", 0.1)
    for read, fault in ((loses, "uncounted"), (crashes, "crashed"), (hangs, "hung")):
        verdict = fuzz.Verdict()
        fuzz.judge(fuzz.Parser("one", read, (), ()), whole, tmp_path, verdict)
        assert [len(getattr(verdict, kind)) for kind in ("uncounted", "crashed", "hung")] == [
            int(kind == fault) for kind in ("uncounted", "crashed", "hung")
        ]
