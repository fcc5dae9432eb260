"""What did this run show, and what did it not? Five answers, made from the figures alone.

Each says with what n, interval and control, and comes out negative where the figures do. Knows nothing of HTML.
"""

from __future__ import annotations

import math

from model.metrics.verdict import LEARNED, WORSE
from tasks.stages.ladder.sentences import beside_mean, content, shares
from tasks.stages.replies.rungs import CONTROL_RUNGS, RUNGS
from tasks.stages.verdicts import by_dataset_text, interval_text, verdict_text

TITLES = {rung.name: f"rung {rung.name.split('-')[0]} ({rung.title})" for rung in RUNGS}
SHOWN, NOT_SHOWN, NOT_RUN = "shown", "not shown", "not run"
EMOTION = "emotionscore_second"
CONTRAST = "emotioncontrast_second"


def answer(facts: dict) -> list[dict]:
    """{"about", "grade": shown, not shown or not run, "says", "difference": what the grade rests on, or None} of each."""
    return [_floors(facts), _finetuning(facts), _memory(facts), _clips(facts), _emotion(facts)]


def _answer(about: str, grade: bool | None, says: str, found: dict | None = None) -> dict:
    """found: the verdict that it rests on first."""
    told = {True: SHOWN, False: NOT_SHOWN, None: NOT_RUN}[grade]
    return {"about": about, "grade": told, "says": says, "difference": found and found["mean"]}


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
        worst[EMOTION],
    )  # fmt: skip


def _floor(row: dict) -> str:
    return f"“{row['system']}”"


def _emotion(facts: dict) -> dict:
    about = "Did EPO teach this exchange's emotion?"
    if (facts["epo_test"] or {}).get("beside"):
        return _emotion_of_samples(about, facts)
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
    return _answer(about, shown, f"{seen}: {words}, {beside}; {facts['scorers_line']}.", found)


def _emotion_of_samples(about: str, facts: dict) -> dict:
    """From cached samples, which tell more than as many greedy replies.

    A control that was itself to learn which emotions are usual says nothing of whether EPO learned that.
    """
    moved = facts["epo_test"]
    beside = moved["beside"]
    hardest = min(beside, key=lambda name: _mean(beside[name]["own"]))
    own = beside[hardest]["own"]
    shown = own["grade"] == LEARNED
    seen = "It did, as far as the second scorer can tell" if shown else "That is not shown"
    gained = verdict_text("samples weighted by what training made likelier gain in emotion contrast", own)
    says = f"{seen}: {gained}, beside {CONTROL_RUNGS[hardest].title}, the hardest of {len(beside)} controls"
    fair = {name: found["usual"] for name, found in beside.items() if name != "shuffled"}
    if fair:
        name = min(fair, key=lambda name: _mean(fair[name]))
        learned = "It learned" if fair[name]["grade"] == LEARNED else "It is not seen to have learned"
        nearer = verdict_text("nearness to all other true replies", fair[name])
        says += f". {learned} which emotions are usual: {nearer}, beside {CONTROL_RUNGS[name].title}"
    each = {name: part["beside"][hardest]["own"] for name, part in moved["by_dataset"].items()}
    apart = by_dataset_text(each, facts["counts"]["titles"])
    return _answer(about, shown, f"{says}; {facts['scorers_line']}.{apart}", own)


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
    ladder = facts["memory_ladder"]
    memories = ladder["arms"].get("memory") if ladder else None
    in_use = (
        []
        if ladder is None
        else [content(ladder, facts["counts"]["titles"]), shares(ladder), beside_mean(ladder)]
    )
    shown = bool(own_is_better) and found["grade"] != WORSE
    shown = shown and (memories is None or memories["gain"]["grade"] == LEARNED)
    return _answer(
        about, shown, " ".join([f"{says}.", *(sentence for sentence in in_use if sentence)]), found
    )


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
    return _answer(about, shown, f"{says}{control}.", found)


def _finetuning(facts: dict) -> dict:
    about = "Did finetuning help, and does the model prefer the emotionally right reply?"
    step, preference = _step(facts, "2-ft"), _preference(facts)
    if step is None:
        says = f"No finetuned LLM is beside the LLM as it came: {_why(facts, '2-ft')}."
        return _answer(about, None, f"{says} {preference}".strip())
    found = step["log_likelihood"]
    verb = {LEARNED: "Finetuning made", WORSE: "Finetuning did not make"}.get(
        found["grade"], "Finetuning is not seen to have made"
    )
    says = f"{verb} the true replies likelier: {verdict_text('nats a token', found)}."
    return _answer(about, found["grade"] == LEARNED, f"{says} {preference}".strip(), found)


def _preference(facts: dict) -> str:
    """Of the last rung that ran, beside what topic alone gives; "" where it was not measured."""
    rows = [row["run"] for row in facts["ladder"] if row["run"] and row["rung"] in TITLES]
    row = rows[-1] if rows else {}
    share, same = row.get("emotional_preference"), row.get("same_emotion_preference")
    if share is None:
        return ""
    left_out, ends = row.get("emotional_preference_left_out", 0), row.get("emotional_preference_ci")
    # Topic alone tells the true reply from any other: only what goes beyond the same emotion's share is of emotion.
    beyond = same is not None and _above(ends, row.get("same_emotion_preference_ci"))
    control = "none of the same emotion stood beside it" if same is None else (
        f"against one of the same emotion, which only topic tells apart, {same:.0%}{_ends(row.get('same_emotion_preference_ci'))}"
    )  # fmt: skip
    meaning = "beyond what topic gives" if beyond else "not seen to be beyond what topic gives"
    return (
        f"R{TITLES[row['rung']][1:]} finds the true reply likelier than a human one of another emotion in "
        f"{share:.0%}{_ends(ends)} of {row['n'] - left_out} (chance 50 %; {left_out} neutral or unlabelled left out), "
        f"{meaning}: {control}."
    )


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
