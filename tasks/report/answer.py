"""What did this run show, and what did it not? Five sentences, made from the figures alone.

Each says with what n, interval and control, and comes out negative where the figures do. Knows nothing of HTML.
"""

from __future__ import annotations

import math

from model.metrics.verdict import LEARNED
from tasks.stages.replies.rungs import CONTROL_RUNGS, RUNGS
from tasks.stages.verdicts import interval_text, verdict_text

TITLES = {rung.name: f"rung {rung.name.split('-')[0]} ({rung.title})" for rung in RUNGS}
SHOWN, NOT_SHOWN, NOT_RUN = "shown", "not shown", "not run"
EMOTION = "emotionscore_second"
CONTRAST = "emotioncontrast_second"


def answer(facts: dict) -> list[dict]:
    """{"about", "grade": shown, not shown or not run, "says"} of each question."""
    return [_floors(facts), _emotion(facts), _memory(facts), _clips(facts), _preference(facts)]


def _answer(about: str, grade: bool | None, says: str) -> dict:
    return {"about": about, "grade": {True: SHOWN, False: NOT_SHOWN, None: NOT_RUN}[grade], "says": says}


def _floors(facts: dict) -> dict:
    about = "Do the replies meet the emotion of the true ones?"
    rows = facts["over_floors"]
    if not rows:
        return _answer(about, None, "No rung answered, so nothing is beside the replies that read nothing.")
    # The floor that leaves least of a gain.
    worst = min(rows, key=lambda row: _mean(row[EMOTION]))
    shown = worst[EMOTION]["grade"] == LEARNED
    seen = "nearer" if shown else "not seen to be nearer"
    return _answer(
        about, shown,
        f"The replies of {TITLES.get(worst['rung'], worst['rung'])} are {seen} to them in emotion than "
        f"{_floor(worst)}, the strongest of {len(rows)} systems that read nothing: "
        f"{verdict_text('EmotionScore by the second scorer,', worst[EMOTION])}.",
    )  # fmt: skip


def _floor(row: dict) -> str:
    return f"“{row['system']}”"


def _emotion(facts: dict) -> dict:
    about = "Did EPO teach this exchange's emotion?"
    step = _step(facts, "5-epo")
    if step is None:
        return _answer(about, None, f"EPO has nothing to be compared with: {_why(facts, '5-epo')}.")
    # Of the controls that were asked for, the one that leaves EPO least.
    differences = {name: c[CONTRAST]["difference"] for name, c in facts["controls"].items()}
    hardest = min(differences, key=lambda name: _mean(differences[name]), default=None)
    found = step[CONTRAST] if hardest is None else differences[hardest]
    shown = hardest is not None and found["grade"] == LEARNED
    beside = (
        f"over {TITLES.get(step['against'], step['against'])}; no control was asked for, so that is no proof"
        if hardest is None
        else f"beside {CONTROL_RUNGS[hardest].title}, the hardest of {len(differences)} controls"
    )
    seen = "It did, as far as the second scorer can tell" if shown else "That is not shown"
    words = verdict_text("emotion contrast", found)
    return _answer(about, shown, f"{seen}: {words}, {beside}; {facts['scorers_line']}.")


def _mean(found: dict) -> float:
    """Of a verdict; one that could not be drawn comes first."""
    return -math.inf if found["mean"] is None else found["mean"]


def _memory(facts: dict) -> dict:
    about = "Do memories hold what was said, without a loss that was seen in the replies?"
    step, restored = _step(facts, "3-mc"), facts["reconstruction"]
    if step is None:
        return _answer(about, None, f"No rung with memories is beside one with text: {_why(facts, '3-mc')}.")
    found = step["bertscore"]
    fewer = {row["rung"]: row["run"] for row in facts["table_3"]}
    saved = f" on {fewer['3-mc']:.0f} prompt tokens instead of {fewer['2-ft']:.0f}" if len(fewer) == 2 else ""
    says = f"{verdict_text('With memories in place of text BERTScore changes by', found)}{saved}"
    own_is_better = None
    if restored and restored["own"]["n"]:
        own, other = restored["own"], restored["other"]
        own_is_better = _above(own["bleu_1_ci"], other["bleu_1_ci"])
        says += (
            f"; conversations come back from their memories with BLEU-1 {_number(own['bleu_1'])}{_ends(own['bleu_1_ci'])}, from "
            f"another's with {_number(other['bleu_1'])}{_ends(other['bleu_1_ci'])} (n = {own['n']})"
        )
    return _answer(about, bool(own_is_better) and found["grade"] != "got worse", f"{says}.")


def _clips(facts: dict) -> dict:
    about = "Do voice and face help?"
    step = _step(facts, "4-av")
    if step is None:
        return _answer(about, None, f"No reply had them: {_why(facts, '4-av')}.")
    found = step[CONTRAST]
    shown = found["grade"] == LEARNED
    says = verdict_text("With them the replies' emotion contrast changes by", found)
    accuracy = (facts["recognition"] or {}).get("accuracy") or {}
    over = (accuracy.get("A+V+T") or {}).get("over_other")
    control = f"; {verdict_text('recognition from them over another clip’s,', over)}" if over else ""
    return _answer(about, shown, f"{says}{control}.")


def _preference(facts: dict) -> dict:
    about = "Does the model prefer the emotionally right reply?"
    rows = [row["run"] for row in facts["ladder"] if row["run"] and row["rung"] in TITLES]
    row = rows[-1] if rows else {}
    share, same = row.get("emotional_preference"), row.get("same_emotion_preference")
    if share is None:
        return _answer(
            about, None, "No test exchange has a labelled emotion to oppose, or likelihoods were not asked."
        )
    n, ends = row["n"] - row.get("emotional_preference_left_out", 0), row.get("emotional_preference_ci")
    # Topic alone tells the true reply from any other: only what goes beyond the same emotion's share is of emotion.
    shown = same is not None and _above(ends, row.get("same_emotion_preference_ci"))
    left_out = row.get("emotional_preference_left_out", 0)
    control = "none of the same emotion stood beside it" if same is None else (
        f"against one of the same emotion, which only topic tells apart, {same:.0%}{_ends(row.get('same_emotion_preference_ci'))}"
    )  # fmt: skip
    return _answer(
        about, bool(shown),
        f"R{TITLES[row['rung']][1:]} finds the true reply likelier than a human one of another emotion in "
        f"{share:.0%}{_ends(ends)} of {n} (chance 50 %; {left_out} neutral or unlabelled left out); {control}.",
    )  # fmt: skip


def _step(facts: dict, rung: str) -> dict | None:
    return next((step for step in facts["steps"] if step["rung"] == rung), None)


def _why(facts: dict, rung: str) -> str:
    row = next((row for row in facts["ladder"] if row["rung"] == rung), None)
    return (row or {}).get("not_run") or "no rung before it was run"


def _above(first: list[float] | None, second: list[float] | None) -> bool:
    """Whether the intervals are apart, the first above: careful, since the two are not compared in pairs."""
    return bool(first and second and first[0] > second[1])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _ends(interval: list[float] | None) -> str:
    return "" if not interval else f" ({interval_text(interval[0], interval[1])})"
