"""The five answers of the first screen say what the figures say, also where that is nothing."""

from model.metrics.verdict import LEARNED, NO_DIFFERENCE, WORSE, Verdict
from tasks.report.answer import answer

GAIN = Verdict(LEARNED, 0.05, 0.02, 0.08, rows=200, dialogues=40, detectable=0.04).as_dict()
NOTHING = Verdict(NO_DIFFERENCE, 0.01, -0.02, 0.04, rows=200, dialogues=40, detectable=0.043).as_dict()
LOSS = Verdict(WORSE, -0.05, -0.08, -0.02, rows=200, dialogues=40, detectable=0.04).as_dict()
NAMES = ("bertscore", "emotionscore_second", "emotioncontrast_second", "log_likelihood")
BARE = {
    "over_floors": [], "steps": [], "ladder": [], "controls": {}, "scorers_line": "the two scorers correlate 0.88",
    "reconstruction": None, "table_3": [], "recognition": None, "memory_ladder": None, "epo_test": None,
    "counts": {"titles": {"meld": "MELD"}},
}  # fmt: skip


def step(rung: str, against: str, found: dict) -> dict:
    return {"rung": rung, "against": against, "system": f"always {against}", **dict.fromkeys(NAMES, found)}


def facts(found: dict, control: dict | None = None, preference=(0.7, 0.6, 0.8), same=(0.6, 0.5, 0.7)) -> dict:
    run = {"rung": "5-epo", "n": 200, "emotional_preference_left_out": 50}
    for name, (value, low, high) in (("emotional_preference", preference), ("same_emotion_preference", same)):
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
        "reconstruction": {k: {"n": 32, "bleu_1": v, "bleu_1_ci": ci} for k, (v, ci) in ends.items()},
    }


def grades(found: dict) -> list[str]:
    return [part["grade"] for part in answer(found)]


def test_what_is_shown_is_said_with_n_interval_and_control():
    floors, finetuning, memory, clips, emotion = answer(facts(GAIN, control=GAIN, same=(0.5, 0.45, 0.55)))
    assert {part["grade"] for part in (floors, finetuning, memory, clips, emotion)} == {"shown"}
    assert "0.050 (0.020 to 0.080), n = 200 (40 dialogues)" in floors["says"]
    assert "Finetuning made the true replies likelier: nats a token +0.050" in finetuning["says"]
    assert "70% (0.600 to 0.800) of 150 (chance 50 %; 50 neutral" in finetuning["says"]
    assert "), beyond what topic gives" in finetuning["says"] and "50%" in finetuning["says"]
    assert "BLEU-1 0.600 (0.500 to 0.700)" in memory["says"] and "another's with 0.100" in memory["says"]
    assert "the hardest of 2 controls" in emotion["says"] and "correlate 0.88" in emotion["says"]


def test_the_strongest_floor_is_the_one_that_counts_and_nothing_seen_is_said_in_words():
    for found, word in ((NOTHING, "no difference seen"), (LOSS, "got worse")):
        told = answer(facts(found, control=found))
        assert [part["grade"] for part in told] == [
            "not shown",
            "not shown",
            "shown",
            "not shown",
            "not shown",
        ]
        assert "floor-b" in told[0]["says"] and word in told[0]["says"] and word in told[4]["says"]
    assert "0.043 could have been" in answer(facts(NOTHING))[0]["says"]
    assert "not seen to be beyond what topic gives" in answer(facts(NOTHING))[1]["says"]


def test_epo_is_not_shown_without_its_control():
    told = answer(facts(GAIN))[4]
    assert told["grade"] == "not shown" and "no control was asked for" in told["says"]


def test_samples_decide_where_there_are_any_and_the_hardest_control_counts():
    """The shuffled control is to learn what is usual, so that it is no control of that."""
    beside = {
        "random": {"own": GAIN, "usual": GAIN},
        "shuffled": {"own": NOTHING, "usual": LOSS},
        "nll": {"own": GAIN, "usual": GAIN},
    }
    told = answer(facts(GAIN, control=GAIN) | {"epo_test": {"beside": beside, "by_dataset": {}}})[4]
    assert (
        told["grade"] == "not shown"
        and "another exchange" in told["says"]
        and "of 3 controls" in told["says"]
    )
    assert "no difference seen" in told["says"] and "It learned which emotions are usual" in told["says"]
    beside["shuffled"]["own"] = GAIN
    beside["nll"]["usual"] = NOTHING
    told = answer(facts(NOTHING, control=NOTHING) | {"epo_test": {"beside": beside, "by_dataset": {}}})[4]
    assert (
        told["grade"] == "shown" and "It is not seen to have learned which emotions are usual" in told["says"]
    )


def test_what_epo_taught_is_told_of_each_dataset():
    beside = {"random": {"own": NOTHING, "usual": GAIN}}
    apart = {"meld": {"beside": {"random": {"own": LOSS}}}, "new": {"beside": {"random": {"own": GAIN}}}}
    told = answer(facts(GAIN) | {"epo_test": {"beside": beside, "by_dataset": apart}})[4]
    assert told["says"].endswith(
        " By dataset: MELD −0.050 (−0.080 to −0.020), n = 200 (40 dialogues): got worse; "
        "new +0.050 (0.020 to 0.080), n = 200 (40 dialogues)."
    )


def test_memories_that_carry_nothing_into_the_reply_are_not_shown_to_help():
    arm = {"title": "memories", "share": None, "saved": 0.9, "adapter": "own", "prepared": True}
    for gain, grade in ((GAIN, "shown"), (NOTHING, "not shown")):
        ladder = {"arms": {"memory": {**arm, "gain": gain}}, "comparisons": [], "by_dataset": {}}
        told = answer(facts(GAIN) | {"memory_ladder": ladder})[2]
        assert told["grade"] == grade and "other − own, nats a token" in told["says"]


def test_memories_show_nothing_where_replies_got_worse_or_any_memory_does_as_well():
    worse = facts(GAIN) | {"steps": [step("3-mc", "2-ft", LOSS)]}
    alike = facts(GAIN)
    alike["reconstruction"]["other"] = alike["reconstruction"]["own"]
    assert answer(worse)[2]["grade"] == answer(alike)[2]["grade"] == "not shown"


def test_a_run_without_replies_has_shown_nothing():
    assert grades(BARE) == ["not run"] * 5
