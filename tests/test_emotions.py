"""The emotions are listed once in storage/ and once in model/, which may not import each other: they are the same."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from model.candidates.settings import GENERATION_EMOTIONS
from model.extractor import recognise
from model.prompts import EMOTION_RECOGNITION, EMOTION_WORDS, PAPER_WORDS
from storage.sample.actor import DELIVERIES
from storage.sample.face import EXPRESSIONS
from storage.settings import LabelPolicy
from storage.utterance import EMOTIONS, Emotion

ROOT = Path(__file__).resolve().parents[1]
SEVEN = ["angry", "disgust", "fearful", "happy", "neutral", "sad", "surprise"]
"""Section 3.1 of the paper, in its order."""
MANY = 5
LISTS = {"storage/utterance.py", "model/prompts.py"}


def test_the_two_lists_are_the_papers():
    assert list(EMOTIONS) == list(get_args(Emotion)) == SEVEN
    assert list(EMOTION_WORDS) == list(recognise.EMOTIONS) == SEVEN
    assert EMOTION_WORDS["surprise"] == "surprised" and EMOTION_WORDS["sad"] == "sad"
    eight = EMOTION_RECOGNITION.rpartition("one word: ")[2].rstrip(".").replace("and ", "").split(", ")
    assert list(PAPER_WORDS) == eight
    assert [name.lower() for name in GENERATION_EMOTIONS] == eight


def test_a_setting_takes_each_of_them_and_no_other():
    for emotion in SEVEN:
        assert LabelPolicy(map={"x": emotion}).map == {"x": emotion}
    with pytest.raises(ValueError):
        LabelPolicy(map={"x": "calm"})


def test_what_is_written_by_emotion_knows_all_of_them():
    assert list(EXPRESSIONS) == list(DELIVERIES) == SEVEN


def test_nowhere_else_are_they_listed():
    """Tables by emotion, and labels as a release of data or of weights spells them, are no lists of ours."""
    found = set()
    released = {path for folder in ("storage/readers", "model/zoo") for path in (ROOT / folder).glob("*.py")}
    for package in ("storage", "model", "tasks", "flows"):
        for path in set((ROOT / package).rglob("*.py")) - released:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                listed = node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else []
                listed = node.values if isinstance(node, ast.Dict) and package != "storage" else listed
                named = {str(e.value).lower() for e in listed if isinstance(e, ast.Constant)}
                if len(named & {*SEVEN, "surprised"}) >= MANY:
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == LISTS
