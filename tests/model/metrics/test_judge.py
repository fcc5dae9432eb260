"""A judge's prompt, its answers as servers word them, and what both orders say together, all by hand."""

import pytest

from model.metrics.judge import both_orders, judge_prompt, read_judgement


def test_the_prompt_shows_each_text_in_one_line_and_the_replies_in_their_places():
    lines = judge_prompt(["gpt: Hi.", "human: Well,\nwell."], "My cat died.", "Oh\nno.", "Okay.").split("\n")
    assert lines[-5:] == [
        "history: gpt: Hi.", "history: human: Well, well.", "sentence: My cat died.", "reply A: Oh no.", "reply B: Okay.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, expected",
    [
        ("empathy: A\nfit: B", ("A", "B")),
        ("**Empathy:** b\n**Fit:** Tie.", ("B", "tie")),
        ("Here you are.\n- empathy = reply A\n- fit = TIE\n", ("A", "tie")),
        ("empathy: A\nempathy: A\nfit: tie", ("A", "tie")),
        ("empathy: A", None),
        ("empathy: A\nempathy: B\nfit: A", None),
        ("empathy: a bit more in B\nfit: A", None),
        ("empathy: A or B\nfit: A", None),
        ("A, B", None),
        ("", None),
    ],
)
def test_an_answer_is_read_or_is_none(text, expected):
    found = read_judgement(text)
    assert (found and (found["empathy"], found["fit"])) == expected


@pytest.mark.parametrize(
    "straight, turned, winner",
    [
        ("A", "B", "first"),
        ("B", "A", "second"),
        ("tie", "tie", "tie"),
        ("A", "A", None),
        ("B", "B", None),
        ("tie", "A", None),
    ],
)
def test_a_verdict_is_what_both_orders_say(straight, turned, winner):
    found = both_orders({"empathy": straight, "fit": "A"}, {"empathy": turned, "fit": "B"})
    assert found == {"empathy": winner, "fit": "first"}
