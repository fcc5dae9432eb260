"""The seven answers of the first screen say what the figures say, also where that is nothing."""

import pytest

from model.metrics.verdict import LEARNED, NO_DIFFERENCE, WORSE, Verdict
from tasks.report.answer import answer
from tasks.report.collect import MEASURE_EPO
from tasks.settings import load_settings

GAIN = Verdict(LEARNED, 0.05, 0.02, 0.08, rows=200, dialogues=40, detectable=0.04).as_dict()
NOTHING = Verdict(NO_DIFFERENCE, 0.01, -0.02, 0.04, rows=200, dialogues=40, detectable=0.043).as_dict()
LOSS = Verdict(WORSE, -0.05, -0.08, -0.02, rows=200, dialogues=40, detectable=0.04).as_dict()
NAMES = ("bertscore", "emotionscore_second", "emotioncontrast_second", "log_likelihood")
BARE = {
    "over_floors": [], "steps": [], "ladder": [], "controls": {}, "scorers_line": "the two scorers correlate 0.88",
    "reconstruction": None, "table_3": [], "recognition": None, "memory_ladder": None, "epo_test": None,
    "counts": {"titles": {"meld": "MELD"}}, "memory_content": None, "reconstruction_not_run": None,
    "epo_test_not_run": "the cpu profile does not measure it (epo_test.exchanges = 0); night does",
}  # fmt: skip


def step(rung: str, against: str, found: dict) -> dict:
    return {"rung": rung, "against": against, "system": f"always {against}", **dict.fromkeys(NAMES, found)}


def facts(found: dict, control: dict | None = None, beyond=(0.1, -0.02, 0.22)) -> dict:
    run = {"rung": "5-epo", "n": 200, "emotional_preference_left_out": 50}
    shares = {"emotional_preference": (0.7, 0.6, 0.8), "same_emotion_preference": (0.6, 0.5, 0.7)}
    for name, (value, low, high) in (shares | {"preference_beyond_topic": beyond}).items():
        run |= {name: value, f"{name}_ci": [low, high]}
    ends = {"own": (0.6, [0.5, 0.7]), "other": (0.1, [0.05, 0.15])}
    return BARE | {
        "over_floors": [step("5-epo", "floor-a", GAIN), step("5-epo", "floor-b", found)],
        "steps": [
            step("2-ft", "1-llm", found),
            step("3-mc", "2-ft", NOTHING),
            step("4-av", "3-mc", found),
            step("5-epo", "4-av", found),
        ],
        "controls": {
            "random": dict.fromkeys(NAMES, {"difference": GAIN}),
            "shuffled": dict.fromkeys(NAMES, {"difference": control}),
        }
        if control
        else {},
        "ladder": [{"rung": "5-epo", "run": run, "not_run": None}],
        "memory_content": GAIN,
        "reconstruction": {k: {"n": 32, "bleu_1": v, "bleu_1_ci": ci} for k, (v, ci) in ends.items()},
    }


def ladder(gain: dict = GAIN, beside: dict = GAIN, share=(0.4, 0.3, 0.5)) -> dict:
    """memory: its own gain, what it spares beside mean embeddings, and its share of the full history's."""
    arm = {"saved": 0.9, "adapter": "own", "prepared": True, "both": {"rows": 200, "dialogues": 40}}
    return {
        "arms": {
            "full": {**arm, "title": "full text", "gain": GAIN, "share": [1.0, 1.0, 1.0]},
            "mean": {**arm, "title": "means", "gain": GAIN, "share": [0.5, 0.4, 0.6]},
            "memory": {**arm, "title": "memories", "gain": gain, "share": share and list(share)},
            "memory-text-1": {**arm, "title": "memories + last", "gain": GAIN, "share": [0.9, 0.8, 1.0]},
        },
        "comparisons": [
            {"arm": "memory", "than": "mean", "difference": beside},
            {"arm": "memory-text-1", "than": "mean-text-1", "difference": NOTHING},
        ],
        "by_dataset": {},
    }


def samples(beside: dict | None = None, alone: dict = GAIN, apart: dict | None = None) -> dict:
    """beside: control -> what EPO has over it, of its own emotion and of the usual one; alone: over the LLM before it."""
    return {
        "trainings": {"epo": {"own": alone, "usual": alone}},
        "beside": {name: {"own": own, "usual": usual} for name, (own, usual) in (beside or {}).items()},
        "by_dataset": apart or {},
    }


ABOUT = ("floors", "finetuning", "content", "worth", "clips", "usual", "emotion")


def told(found: dict) -> dict[str, dict]:
    """The answers by what they are about, all that each says in one."""
    whole = [part | {"says": f"{part['says']} {part['more']}".strip()} for part in answer(found)]
    return dict(zip(ABOUT, whole, strict=True))


def first(found: dict, about: str) -> str:
    """What an answer begins with."""
    return dict(zip(ABOUT, answer(found), strict=True))[about]["says"]


def test_what_is_shown_is_said_with_n_interval_and_control():
    # The two shares' own intervals overlap: what counts is the difference reply by reply.
    run = facts(GAIN, control=GAIN, beyond=(0.1, 0.03, 0.17))
    run |= {"memory_ladder": ladder(), "epo_test": samples({"random": (GAIN, GAIN), "nll": (GAIN, GAIN)})}
    found = told(run)
    assert {part["grade"] for part in found.values()} == {"shown"}
    says = {name: part["says"] for name, part in found.items()}
    assert all("n = " in sentence for sentence in says.values())
    assert "0.050 (0.020 to 0.080), n = 200 (40 dialogues)" in says["floors"]
    assert "Finetuning made the true replies likelier: nats a token +0.050" in says["finetuning"]
    assert "70% (0.600 to 0.800) of 150 (chance 50 %; 50 neutral" in says["finetuning"]
    assert "), beyond what topic gives" in says["finetuning"] and "60%" in says["finetuning"]
    assert "compressor's other − own, nats a token, +0.050 (0.020 to 0.080), n = 200" in says["content"]
    assert "BLEU-1 0.600 (0.500 to 0.700)" in says["content"] and "another's with 0.100" in says["content"]
    assert "the hardest of 2 controls" in says["usual"] and "the hardest of 2 controls" in says["emotion"]
    assert "correlate 0.88" in says["emotion"]


@pytest.mark.parametrize("below", ["8-shuffled", "4f-text"])
def test_what_the_model_prefers_is_told_of_the_ladders_last_rung_and_of_no_control(below):
    run = facts(GAIN, control=GAIN)
    other = {**run["ladder"][0]["run"], "rung": below, "emotional_preference": 0.9}
    run["ladder"] = [*run["ladder"], {"rung": below, "run": other, "not_run": None}]
    says = told(run)["finetuning"]["says"]
    assert "Rung 5 (+ EPO) finds the true reply likelier" in says and "70%" in says and "90%" not in says


def test_the_strongest_floor_is_the_one_that_counts_and_nothing_seen_is_said_in_words():
    for seen, word in ((NOTHING, "no difference seen"), (LOSS, "got worse")):
        found = told(facts(seen, control=seen))
        grades = {name: part["grade"] for name, part in found.items()}
        assert grades == dict.fromkeys(ABOUT, "not shown") | {
            "content": "shown",
            "worth": "not run",
            "usual": "not run",
        }
        assert "floor-b" in found["floors"]["says"] and word in found["floors"]["says"]
        assert word in found["emotion"]["says"]
    assert "0.043 could have been" in told(facts(NOTHING))["floors"]["says"]
    assert "not seen to be beyond what topic gives" in told(facts(NOTHING))["finetuning"]["says"]


# EPO -------------------------------------------------------------------------------------------------------


def test_epo_is_not_shown_without_its_control():
    found = told(facts(GAIN))["emotion"]
    assert found["grade"] == "not shown" and "no control was asked for" in found["says"]
    found = told(facts(GAIN) | {"epo_test": samples()})
    for name in ("usual", "emotion"):
        assert (
            found[name]["grade"] == "not shown"
            and "over the LLM before it; no control" in found[name]["says"]
        )


def test_samples_decide_where_there_are_any_and_the_hardest_control_counts():
    beside = {"random": (GAIN, GAIN), "shuffled": (NOTHING, LOSS), "nll": (GAIN, GAIN)}
    found = told(facts(GAIN, control=GAIN) | {"epo_test": samples(beside)})
    own, usual = found["emotion"], found["usual"]
    assert own["grade"] == "not shown" and "no difference seen" in own["says"]
    assert "another exchange" in own["says"] and "of 3 controls" in own["says"]
    # The shuffled control is to learn what is usual, so that it is no control of that.
    assert usual["grade"] == "shown" and usual["says"].startswith("It learned them")
    assert "of 2 controls that are not to learn them too." in usual["says"] and usual["difference"] == 0.05
    one = told(facts(GAIN) | {"epo_test": samples({name: beside[name] for name in ("random", "shuffled")})})
    assert one["usual"]["says"].endswith(
        "beside EPO on random replies, the only control that is not to learn them too."
    )
    beside |= {"shuffled": (GAIN, LOSS), "nll": (GAIN, NOTHING)}
    found = told(facts(NOTHING, control=NOTHING) | {"epo_test": samples(beside)})
    assert found["emotion"]["grade"] == "shown" and found["usual"]["grade"] == "not shown"
    assert found["usual"]["says"].startswith("It is not seen to have learned them")
    assert "the autoregressive loss alone" in found["usual"]["says"]


def test_where_the_shuffled_control_stands_alone_the_usual_is_told_and_not_shown():
    found = told(facts(GAIN) | {"epo_test": samples({"shuffled": (GAIN, GAIN)})})
    assert found["emotion"]["grade"] == "shown" and found["usual"]["grade"] == "not shown"
    says = found["usual"]["says"]
    assert "+0.050 (0.020 to 0.080), n = 200" in says and "the only control, is to learn them too" in says


def test_what_epo_taught_is_told_of_each_dataset():
    apart = {"meld": {"beside": {"random": {"own": LOSS}}}, "new": {"beside": {"random": {"own": GAIN}}}}
    run = facts(GAIN) | {"epo_test": samples({"random": (NOTHING, GAIN)}, apart=apart)}
    assert told(run)["emotion"]["says"].endswith(
        " By dataset: MELD −0.050 (−0.080 to −0.020), n = 200 (40 dialogues): got worse; "
        "new +0.050 (0.020 to 0.080), n = 200 (40 dialogues)."
    )


def test_a_profile_that_does_not_measure_it_says_so_and_which_one_does():
    for run in (facts(GAIN, control=GAIN), BARE):
        for name in ("usual", "emotion"):
            assert "the cpu profile does not measure it (epo_test.exchanges = 0)" in told(run)[name]["says"]
    assert load_settings("cpu", []).epo_test.exchanges == 0
    assert all(load_settings(profile, []).epo_test.exchanges > 100 for profile in MEASURE_EPO)


# Memories --------------------------------------------------------------------------------------------------


def test_content_is_of_what_is_read_back_and_takes_all_that_was_measured():
    unread = facts(GAIN) | {"memory_content": NOTHING}
    alike = facts(GAIN)
    alike["reconstruction"]["other"] = alike["reconstruction"]["own"]
    assert told(unread)["content"]["grade"] == told(alike)["content"]["grade"] == "not shown"
    nats_alone = told(facts(GAIN) | {"reconstruction": None})["content"]
    assert nats_alone["grade"] == "shown" and "BLEU" not in nats_alone["says"]
    assert nats_alone["difference"] == 0.05
    nothing = told(BARE | {"reconstruction_not_run": "no compressor"})["content"]
    assert nothing["grade"] == "not run" and nothing["says"].endswith(": no compressor.")


def test_shares_are_told_with_their_n_beside_means_and_the_hybrid_without_any_rung_of_replies():
    run = facts(GAIN) | {"memory_ladder": ladder(), "steps": []}
    found = told(run)["worth"]
    assert found["grade"] == "shown" and "No reply with memories" in found["says"]
    assert (
        "are kept, n = 200 (40 dialogues): means 50 % (40 % to 60 %) at −90 % history tokens; memories 40 % "
        "(30 % to 50 %) at −90 % history tokens; memories + last 90 %" in found["says"]
    )
    assert "with the last turn as text beside both +0.010" in found["says"]
    run["memory_ladder"]["arms"]["mean"]["both"] = {"rows": 190, "dialogues": 39}
    apart = told(run)["worth"]["says"]
    assert "60 %) at −90 % history tokens, n = 190 (39 dialogues); memories 40 %" in apart


@pytest.mark.parametrize(
    "beside, verb", [(GAIN, "beats"), (NOTHING, "is not seen to beat"), (LOSS, "does not beat")]
)
def test_a_learnt_memory_that_does_not_beat_mean_embeddings_says_so_on_the_first_screen(beside, verb):
    found = told(facts(GAIN) | {"memory_ladder": ladder(beside=beside)})["worth"]
    assert f"The learnt memory {verb} mean embeddings in use: nats a token spared" in found["says"]
    assert found["grade"] == ("shown" if beside is GAIN else "not shown")


@pytest.mark.parametrize(
    "memories, replies, lacks",
    [
        (
            ladder(gain=NOTHING),
            NOTHING,
            "are not seen to carry their own dialogue's content into the reply, other − own",
        ),
        (
            ladder(share=(0.1, -0.1, 0.3)),
            NOTHING,
            "10 % (−10 % to 30 %) of the full history's gain with 90 %",
        ),
        (ladder(share=None), NOTHING, "the full history itself is not seen to help"),
        (ladder(beside=NOTHING), NOTHING, "not seen to beat mean embeddings, nats a token spared +0.010"),
        (ladder(), LOSS, "replies with them got worse, BERTScore −0.050"),
    ],
)
def test_memories_are_not_shown_to_be_worth_anything_and_one_sentence_says_what_they_lack(
    memories, replies, lacks
):
    run = facts(GAIN) | {"memory_ladder": memories, "steps": [step("3-mc", "2-ft", replies)]}
    says = first(run, "worth")
    assert says.startswith("That is not shown: ") and lacks in says and ". " not in says
    found = told(run)["worth"]
    assert found["grade"] == "not shown" and "other − own, nats a token" in found["says"]
    assert "With memories in place of text BERTScore changes by" in found["says"]


def test_what_memories_are_worth_is_one_sentence_and_the_rest_stands_below():
    run = facts(GAIN) | {"memory_ladder": ladder()}
    assert first(run, "worth") == (
        "They are: they keep 40 % (30 % to 50 %) of the full history's gain with 90 % of its tokens spared, n = 200 (40 "
        "dialogues)."
    )
    assert all(". " not in part["says"] for part in answer(run | {"recognition": recognition(GAIN)}))
    assert "With memories in place of text" in told(run)["worth"]["says"]


def test_without_the_full_history_or_memories_there_is_no_share_to_decide():
    without = ladder()
    del without["arms"]["full"]
    assert told(facts(GAIN) | {"memory_ladder": without})["worth"]["grade"] == "not run"
    del without["arms"]["memory"]
    assert told(facts(GAIN) | {"memory_ladder": without})["worth"]["grade"] == "not run"


# Clips -----------------------------------------------------------------------------------------------------


def recognition(over_text: dict) -> dict:
    return {"accuracy": {"A+V+T": {"over_text": over_text, "over_other": LOSS}}}


def test_clips_are_graded_by_what_they_add_to_text_in_recognition_and_in_replies():
    for replies, over_text, grade in (
        (GAIN, GAIN, "shown"),
        (GAIN, NOTHING, "not shown"),
        (NOTHING, GAIN, "not shown"),
    ):
        found = told(facts(replies) | {"recognition": recognition(over_text)})["clips"]
        assert found["grade"] == grade and "over another clip’s, by −0.050" in found["says"]
        assert "whose emotion is recognised changes, over text alone, by" in found["says"]
    alone = told(BARE | {"recognition": recognition(GAIN)})["clips"]
    assert alone["grade"] == "shown" and "No reply had them" in alone["says"]


def test_a_run_without_replies_has_shown_nothing():
    assert {part["grade"] for part in answer(BARE)} == {"not run"}
