"""Rows, curves and stories at the widths that terminals have: nothing cut, nothing in columns that cannot be read."""

import io

import pytest

from tasks.engine.runs import RunRecord
from tasks.listing import candidate_card, curve, listing, run_rows, story
from tasks.terminal import Terminal

KEY = ("dataset", "split", "dialogue_id", "turn")
SENTENCE = "Do you have the receipt from last week with you, or did you leave it with the others in the car?"
WIDTHS = (60, 80, 100, 160)


def shown(thing, width: int) -> list[str]:
    file = io.StringIO()
    Terminal(file=file, width=width).print(thing)
    return file.getvalue().splitlines()


def pairs(count: int = 2) -> list[dict]:
    return [
        {
            "dataset": "iemocap", "split": "train", "dialogue_id": "Ses01F_impro01", "turn": turn, "sentence": SENTENCE,
            "reply": f"No {turn}. {SENTENCE}",
            "chosen": f"No {turn}. {SENTENCE}", "rejected": f"Yes {turn}! {SENTENCE}", "rejected_emotion": "Disgust",
            "cosine": 0.0754321,
        }
        for turn in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_whole_at_every_width(width):
    lines = shown(listing("pairs", (*KEY, *list(pairs()[0])[4:]), pairs(), width), width)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    words = " ".join(" ".join(lines).replace("│", " ").split())
    assert "iemocap/train/Ses01F_impro01/1" in words and "0.07543" in words
    is_table = any("━" in line for line in lines)
    assert is_table == (width == 160)
    if not is_table:  # below one another, each value of a row is read in one go
        assert f"rejected Yes 1! {SENTENCE}" in words


def test_no_column_is_narrower_than_can_be_read():
    """Wherever it is a table, a column has its whole values or 24 characters of them."""
    for width in range(40, 240, 7):
        lines = shown(listing("pairs", (*KEY, *list(pairs()[0])[4:]), pairs(), width), width)
        assert max(map(len, lines)) <= width
        edges = [line for line in lines if line.startswith("┏")]
        for cell in edges[0].strip("┏┓").split("┳") if edges else ():
            assert len(cell) - 2 >= min(24, len("cosine"))
        if edges:
            assert sum(len(cell) - 2 >= 24 for cell in edges[0].strip("┏┓").split("┳")) >= 4


def test_what_is_the_same_in_all_rows_is_told_once_and_what_is_empty_not_at_all():
    rows = [row | {"side": None} for row in pairs()]
    text = "\n".join(shown(listing("pairs", tuple(rows[0]), rows, 80), 80))
    assert text.count("Disgust") == 1 and "in all of these:" in text and "side" not in text
    alone = "\n".join(shown(listing("pairs", tuple(rows[0]), rows[:1], 80), 80))
    assert "rejected_emotion  Disgust" in alone


def test_a_curve_is_its_values_by_hand():
    assert curve([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert curve([2.0, 2.0]) == "▁▁" and curve([]) == "" and curve([5.0]) == "▁"
    # Eight values in four: the means 0.5, 2.5, 4.5, 6.5 are sevenths 0, 2⅓, 4⅔ and 7 of the way.
    assert curve([0, 1, 2, 3, 4, 5, 6, 7], width=4) == "▁▃▆█"
    assert len(curve(list(range(1001)), width=40)) == 40


@pytest.mark.parametrize("width", WIDTHS)
def test_a_story_has_verdict_figures_curves_and_facts(width):
    told = {
        "stage": "epo", "verdict": "held-out loss 2.5 → 2.25: learned",
        "figures": [("loss", 2.5, 2.25), ("accuracy", 0.5, 0.75)],
        "curves": [("train loss", [3.0, 2.5, 2.0]), ("held-out loss", [2.5, 2.25])],
        "facts": [("steps", "3, the weights kept are those of step 2"), ("reads", "5 shards of utterances; weights a")],
    }  # fmt: skip
    lines = shown(story(told, width), width)
    assert lines[0] == "epo: held-out loss 2.5 → 2.25: learned" and max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in (
        "loss 2.5 2.25",
        "accuracy 0.5 0.75",
        "train loss 3 █▅▁ 2",
        "steps 3, the weights",
        "reads 5 shards",
    ):
        assert part in text, part


@pytest.mark.parametrize("width", WIDTHS)
def test_a_candidate_card_leaves_room_for_the_text(width):
    candidates = [
        {"emotion": e, "text": SENTENCE, "cosine": c, "usable": True, "reason": None, "chosen": c < 0}
        for e, c in (("Happy", -0.5), ("Sad", 0.25))
    ]
    example = dict(zip(KEY, ("meld", "train", "0", 3), strict=True)) | {
        "sentence": SENTENCE, "reply": SENTENCE, "reply_emotion": "sad", "outcome": "", "candidates": candidates
    }  # fmt: skip
    lines = shown(candidate_card(example, width), width)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    reach = 10 if width >= 100 else 5
    happy = next(line for line in lines if line.startswith("  Happy"))
    assert f"{'█' * round(0.5 * reach)}│" in happy and "-0.50" in happy
    assert len(lines) < 24


def test_runs_say_what_they_were_asked_for():
    record = RunRecord(
        id="20300102-030405-abcdef", started="2030-01-02T03:04:05Z", ended="2030-01-02T03:06:05Z", state="failed",
        profile="tiny", changes=("a.b=1", "c.d=2"), said="no room",
    )  # fmt: skip
    text = "\n".join(shown(listing("1 runs", *run_rows([record]), 160, share=False), 160))
    for part in (record.id, "2 min", "failed", "tiny", "a.b=1 c.d=2", "sample corpus", "no room"):
        assert part in text
