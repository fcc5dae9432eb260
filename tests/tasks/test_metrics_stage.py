"""What the metrics stage makes of figures it is given: pairs, floors, dialogues, and how alike two scorers are."""

import io
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.metrics.catalogue import METRICS
from model.metrics.settings import BootstrapSettings
from storage.answers import Reply
from tasks.stages.metrics.by_reply import by_reply, each_reply
from tasks.stages.metrics.measure import (
    COMPARED,
    Remembered,
    _row,
    answered_by,
    floors,
    identical_to_previous,
    last_rung_over,
    paired,
    scorers_alike,
    steps,
)
from tasks.stages.utterances.exchanges import commonest_reply


class Scorer:
    """Features known by hand."""

    vectors = {"up": [1.0, 0.0], "down": [-1.0, 0.0], "up and away": [0.6, 0.8]}

    def features_and_probabilities(self, texts):
        return np.array([self.vectors[text] for text in texts]), np.zeros((len(texts), 28))


def rows(*dialogues: str, reply: str = "reply") -> list[Reply]:
    return [Reply("meld", "test", d, i, "1-llm", "?", f"true {i}", reply) for i, d in enumerate(dialogues)]


def keys(*places: tuple[str, int]) -> list[tuple]:
    return [("meld", "test", dialogue, turn) for dialogue, turn in places]


def test_differences_are_paired_by_exchange_whatever_the_order_and_only_where_both_answered():
    measured = {"a": {"x": np.array([1.0, 2.0, 3.0])}, "b": {"x": np.array([0.5, 0.0, math.nan])}}
    places = {"a": keys(("d", 0), ("d", 1), ("e", 0)), "b": keys(("d", 1), ("f", 0), ("e", 0))}
    differences, dialogues = paired(measured, places, "x", "a", "b")
    assert differences.tolist() == [1.5] and dialogues == [("meld", "test", "d")]


def test_a_row_tells_how_many_dialogues_and_has_no_interval_for_one():
    made = rows("d", "d", "e")  # t of one degree of freedom reaches beyond what the figure can be
    figures = {"bertscore": np.array([0.2, 0.4, 0.9]), "emotioncontrast": np.array([0.1, 0.3, math.nan])}
    row = _row("all", made, [0, 1, 2], figures, BootstrapSettings())
    assert (row["n"], row["dialogues"], row["bertscore"]) == (3, 2, 0.5) and row["bertscore_ci"] == [
        -1.0,
        1.0,
    ]
    assert (row["emotioncontrast"], row["emotioncontrast_ci"]) == (0.2, None)


def test_a_step_is_taken_from_the_rung_before_that_ran():
    names = ("1-llm", "3-mc", "5-epo")
    places = dict.fromkeys(names, keys(*((f"d{i}", 0) for i in range(8))))
    figures = (
        "bertscore",
        "emotionscore",
        "emotionscore_second",
        "emotioncontrast",
        "emotioncontrast_second",
        "log_likelihood",
    )
    spread = np.linspace(-0.01, 0.01, 8)
    measured = {name: dict.fromkeys(figures, 0.1 * i + spread * i) for i, name in enumerate(names)}
    found = steps(measured, places, BootstrapSettings())
    assert [(s["rung"], s["against"]) for s in found] == [("3-mc", "1-llm"), ("5-epo", "3-mc")]
    assert all(
        s[name]["grade"] == "learned" and s[name]["mean"] == pytest.approx(0.1)
        for s in found
        for name in figures
    )


def test_floors_read_nothing_and_a_human_reply_is_of_another_dialogue():
    made = rows("d", "d", "e")
    train = {"reply": "I know.", "sample": ["up", "down", "up", "up and away"]}
    found = {
        name: [reply.reply for reply in said] for name, _, said in floors(made, train, Remembered(Scorer()))
    }
    assert found["floor-okay"] == ["Okay."] * 3 and found["floor-commonest"] == ["I know."] * 3
    assert found["floor-people"][:2] == ["true 2"] * 2 and found["floor-people"][2] in ("true 0", "true 1")
    # The four have the mean [.4, .2]: "up" has .4 of it, "up and away" .24 + .16 = .4 too, and equals go by letters.
    assert found["floor-central"] == ["up"] * 3
    # The last exchange of a dialogue has no next one, and is left out.
    assert found["floor-next"] == ["true 1"]
    assert [name for name, *_ in floors(rows("d"), {}, Remembered(Scorer()))] == ["floor-okay"]


def test_a_reply_left_out_is_counted_and_rungs_are_compared_where_both_answered():
    answered = {"1-llm": keys(("d", 0), ("d", 1)), "2-ft": keys(("d", 1), ("e", 0), ("f", 0))}
    said = {
        name: [Reply(*key, name, "?", "true", f"{name} says") for key in of] for name, of in answered.items()
    }
    assert answered_by(answered, ["1-llm", "2-ft"]) == {
        "exchanges": 4, "common": 1, "by_rung": {"1-llm": 2, "2-ft": 3},
    }  # fmt: skip
    assert identical_to_previous(said) == {"2-ft": {"rung": "1-llm", "share": 0.0}}
    figures = dict.fromkeys(COMPARED, np.array([0.1, 0.2, 0.3]))
    measured = {"1-llm": {name: values[:2] for name, values in figures.items()}, "2-ft": figures}
    (step,) = steps(measured, answered, BootstrapSettings())
    assert step["left_out"] == {"2-ft": 2, "1-llm": 1} and step["bertscore"]["rows"] == 1
    row = _row("all", said["2-ft"], [0, 1, 2], {"chrf": np.array([0.5, math.nan, 0.7])}, BootstrapSettings())
    assert (row["chrf"], row["chrf_left_out"], row["n"]) == (0.6, 1, 3)


def test_a_system_that_answered_some_is_compared_on_the_exchanges_that_both_answered():
    places = {
        "3-mc": keys(*((f"d{i}", 0) for i in range(9))),
        "5-epo": keys(*((f"d{i}", 0) for i in range(9))),
        "system-a": keys(*((f"d{i}", 0) for i in range(1, 11))),
    }
    measured = {
        "3-mc": dict.fromkeys(COMPARED, np.full(9, 9.0)),
        "5-epo": dict.fromkeys(COMPARED, np.array([7.0, *(0.5 + i / 100 for i in range(8))])),
        "system-a": dict.fromkeys(COMPARED, np.array([*(0.25 + i / 200 for i in range(8)), 8.0, 8.0])),
    }
    (row,) = last_rung_over(["system-a"], measured, places, {"system-a": "A"}, BootstrapSettings())
    assert (row["rung"], row["against"], row["system"], row["left_out"]) == ("5-epo", "system-a", "A", 3)
    # By hand: 0.25 and a half of i hundredths, of the eight that both answered.
    assert row["bertscore"]["mean"] == pytest.approx(0.25 + 3.5 / 200) and row["bertscore"]["rows"] == 8
    assert row["bertscore"]["grade"] == "learned"


def test_figures_reply_by_reply_name_what_was_said_so_that_another_run_can_be_paired():
    said = {"1-llm": rows("d", "e"), "2-ft": rows("d", "e", "f")[1:]}
    figures = {metric.key: np.array([0.25, math.nan]) for metric in METRICS if metric.per == "reply"}
    found = by_reply(said, dict.fromkeys(said, figures))
    places = [tuple(exchange[:4]) for exchange in found["exchanges"]]
    assert places == keys(("d", 0), ("e", 1), ("f", 2))
    assert found["figures"]["1-llm"]["bertscore"] == [
        0.25,
        None,
        None,
    ]  # has none of the second; did not answer the third
    assert found["figures"]["2-ft"]["bertscore"] == [None, 0.25, None]
    assert not {"bleu1", "perplexity", "dist1_corpus"} & found["figures"]["1-llm"].keys()  # of the corpus
    other = [replace(reply, reference="another") for reply in said["1-llm"]]
    assert by_reply({"1-llm": other}, {"1-llm": figures})["exchanges"][0][:4] == found["exchanges"][0][:4]
    assert by_reply({"1-llm": other}, {"1-llm": figures})["exchanges"][0][4] != found["exchanges"][0][4]


def test_the_commonest_reply():
    assert commonest_reply(["No.", "Yes.", "Yes.", "No.", "Oh"]) == "No." and commonest_reply([]) is None


def test_how_alike_two_scorers_are_is_measured_on_distinct_replies():
    first, second = [0.1, 0.4, 0.9], [0.2, 0.3, 0.8]
    made = {"1-llm": rows("d", "e", "f"), "2-ft": rows("d", "e", "f")}
    figures = {"emotionscore": np.array(first), "emotionscore_second": np.array(second)}
    found = scorers_alike(made, dict.fromkeys(made, figures), True, BootstrapSettings())
    low, high = found.pop("correlation_ci")
    # By hand: deviations -.3667, -.0667, .4333 and -.2333, -.1333, .3667.
    expected = (0.3667 * 0.2333 + 0.0667 * 0.1333 + 0.4333 * 0.3667) / math.sqrt(0.3267 * 0.2067)
    assert found == {"correlation": pytest.approx(expected, abs=1e-3), "replies": 3, "same_encoder": True}
    assert -1 <= low < expected < high <= 1
    flat = {**figures, "emotionscore": np.full(3, 0.5)}
    nothing = scorers_alike(made, dict.fromkeys(made, flat), False, BootstrapSettings())
    assert (nothing["correlation"], nothing["correlation_ci"]) == (None, None)
    one = {name: rows("d", "d", "d") for name in made}
    alone = scorers_alike(one, dict.fromkeys(made, figures), True, BootstrapSettings())
    assert alone["correlation"] == found["correlation"] and alone["correlation_ci"] is None


def test_every_reply_is_logged_with_its_figures_floors_included():
    """A value that is none is null; a figure of the whole corpus, which no reply has, is no column."""
    said = rows("d", "e")
    per_reply = [m.key for m in METRICS if m.per == "reply"]
    figures = dict.fromkeys(per_reply, np.array([0.25, math.nan]))
    floor = [replace(said[0], reply="Okay.", finish_reason=None, reference_emotion="happy")]
    systems = [("1-llm", "the LLM", said), ("floor-okay", "always", floor)]
    measured = {"1-llm": figures, "floor-okay": dict.fromkeys(per_reply, np.array([1.0]))}
    data = each_reply(systems, measured)
    table = pq.read_table(io.BytesIO(data))
    assert table.column_names[-len(per_reply) :] == per_reply and "bleu4" not in table.column_names
    first, second, last = table.to_pylist()
    assert (first["system"], first["title"], first["dialogue_id"], first["turn"]) == (
        "1-llm",
        "the LLM",
        "d",
        0,
    )
    assert (first["reference"], first["reply"], first["bertscore"]) == ("true 0", "reply", 0.25)
    assert second["bertscore"] is None and second["prompt_tokens"] is None
    assert (last["system"], last["reply"], last["chrf"], last["reference_emotion"]) == (
        "floor-okay", "Okay.", 1.0, "happy",
    )  # fmt: skip
    backwards = [(name, title, list(reversed(of))) for name, title, of in reversed(systems)]
    turned = {name: {key: values[::-1] for key, values in of.items()} for name, of in measured.items()}
    assert each_reply(backwards, turned) == data
