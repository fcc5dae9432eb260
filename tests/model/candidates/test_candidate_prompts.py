"""The candidate prompt against the letter of the paper."""

from pathlib import Path

import pytest

from model.candidates.prompts import candidate_messages, candidate_prompt
from model.candidates.settings import GENERATION_EMOTIONS, CandidateSettings
from model.generation.settings import Sampling

PAPER = Path(__file__).resolve().parents[3] / "../shared/paper/paper.txt"

TABLE_7 = "Generate a response that align with the emotional tone of a given sentence.\n(Happy) Do you listen to radio at all?"


def test_prompt_is_table_7():
    assert candidate_prompt("Do you listen to radio at all?", "Happy") == TABLE_7


def test_prompt_stands_in_the_paper():
    if not PAPER.is_file():
        pytest.skip("the paper's text is not beside the repository")
    lines = [line.strip() for line in PAPER.read_text(encoding="utf-8").splitlines()]
    assert TABLE_7 in "\n".join(lines)


def test_emotions_in_the_papers_order():
    listed = "Happy, Sad, Surprised, Calm, Neutral, Disgust, Angry, and Fearful"
    assert list(GENERATION_EMOTIONS) == listed.replace("and ", "").split(", ")


def test_without_examples_an_empty_system_message_and_the_prompt():
    assert candidate_messages("Hi.", "Sad") == [
        {"role": "system", "content": ""},
        {"role": "user", "content": candidate_prompt("Hi.", "Sad")},
    ]


def test_examples_are_turns_of_the_same_form():
    messages = candidate_messages("Hi.", "Sad", examples=2)
    assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2, "user"]
    instruction = TABLE_7.split("\n")[0]
    assert all(m["content"].startswith(f"{instruction}\n(") for m in messages if m["role"] == "user")
    assert "(Angry)" in messages[1]["content"] and "(Happy)" in messages[3]["content"]
    assert messages[-1] == candidate_messages("Hi.", "Sad")[-1]


@pytest.mark.parametrize("examples", [-1, 3])
def test_examples_that_do_not_exist(examples):
    with pytest.raises(ValueError, match="worked examples"):
        candidate_messages("Hi.", "Sad", examples)


def test_settings_defaults_and_sampling():
    settings = CandidateSettings(seed=5)
    assert settings.sampling == Sampling(temperature=0.8, top_p=0.95, max_new_tokens=64, seed=5)
    assert settings.examples == 0 and settings.budget is None and len(settings.emotions) == 8


@pytest.mark.parametrize("emotions", [("Happy", "Happy"), ("happy",), ()])
def test_settings_refuse_emotions(emotions):
    with pytest.raises(ValueError):
        CandidateSettings(emotions=emotions)
