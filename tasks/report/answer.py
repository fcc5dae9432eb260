"""What did this run show, and what did it not? Seven answers, made from the figures alone.

Each says with what n, interval and control, and comes out negative where the figures do. Knows nothing of HTML.
"""

from __future__ import annotations

import math

from model.metrics.verdict import LEARNED, WORSE
from tasks.report.rungs import NOT_ASKED
from tasks.stages.ladder.sentences import FULL, MEAN, MEMORY, beside_mean, compared, content, shares
from tasks.stages.replies.rungs import CONTROL_RUNGS, LADDER, RUNGS
from tasks.stages.verdicts import by_dataset_text, counted_text, interval_text, verdict_text

TITLES = {rung.name: f"rung {rung.name.split('-')[0]} ({rung.title})" for rung in RUNGS}
SHOWN, NOT_SHOWN, NOT_RUN = "shown", "not shown", "not run"
EMOTION = "emotionscore_second"
CONTRAST = "emotioncontrast_second"
NO_CONTROL = "no control was asked for, so that is no proof"


def answer(facts: dict) -> list[dict]:
    """{"about", "grade": shown, not shown or not run, "says", "more": what stands below it, or "", "difference": what the grade
    rests on, or None} of each."""
    return [
        _floors(facts),
        _finetuning(facts),
        _content(facts),
        _worth(facts),
        _clips(facts),
        _usual(facts),
        _emotion(facts),
    ]


def _answer(about: str, grade: bool | None, says: str, found: dict | None = None, *more: str | None) -> dict:
    """found: the verdict that it rests on first. more: further sentences, where there are any."""
    told = {True: SHOWN, False: NOT_SHOWN, None: NOT_RUN}[grade]
    further = " ".join(sentence for sentence in more if sentence)
    return {
        "about": about,
        "grade": told,
        "says": says,
        "more": further,
        "difference": found and found["mean"],
    }


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


def _usual(facts: dict) -> dict:
    """From samples alone: of greedy replies no such figure is taken."""
    about = "Did EPO learn which emotions are usual?"
    moved = facts["epo_test"]
    if moved is None:
        return _answer(about, None, _no_samples(facts))
    # A control that was itself to learn which emotions are usual says nothing of whether EPO learned that.
    fair = {name: found["usual"] for name, found in moved["beside"].items() if name != "shuffled"}
    hardest = _hardest(fair)
    found = moved["trainings"]["epo"]["usual"] if hardest is None else fair[hardest]
    shown = hardest is not None and found["grade"] == LEARNED
    learned = "It learned" if shown else "It is not seen to have learned"
    nearer = verdict_text("weighted samples gain in nearness to all other true replies", found)
    if hardest is not None:
        beside = _beside(hardest, len(fair))
        if len(fair) < len(moved["beside"]):
            beside += f" that {'is' if len(fair) == 1 else 'are'} not to learn them too"
    elif moved["beside"]:
        learns = CONTROL_RUNGS["shuffled"].title
        beside = (
            f"over the LLM before it; {learns}, the only control, is to learn them too, so that is no proof"
        )
    else:
        beside = f"over the LLM before it; {NO_CONTROL}"
    return _answer(about, shown, f"{learned} them: {nearer}, {beside}.", found)


def _emotion(facts: dict) -> dict:
    about = "Did EPO teach this exchange's emotion?"
    if facts["epo_test"]:
        return _emotion_of_samples(about, facts)
    step = _step(facts, "5-epo")
    if step is None:
        says = f"EPO has nothing to be compared with: {_why(facts, '5-epo')}."
        return _answer(about, None, says, None, _no_samples(facts))
    differences = {name: c[CONTRAST]["difference"] for name, c in facts["controls"].items()}
    hardest = _hardest(differences)
    found = step[CONTRAST] if hardest is None else differences[hardest]
    shown = hardest is not None and found["grade"] == LEARNED
    beside = (
        f"over {TITLES.get(step['against'], step['against'])}; {NO_CONTROL}"
        if hardest is None
        else _beside(hardest, len(differences))
    )
    words = verdict_text("emotion contrast", found)
    says = f"{_taught(shown)}: {words}, {beside}; {facts['scorers_line']}."
    return _answer(about, shown, says, found, _no_samples(facts))


def _emotion_of_samples(about: str, facts: dict) -> dict:
    """From cached samples, which tell more than as many greedy replies."""
    moved = facts["epo_test"]
    own = {name: found["own"] for name, found in moved["beside"].items()}
    hardest = _hardest(own)
    found = moved["trainings"]["epo"]["own"] if hardest is None else own[hardest]
    shown = hardest is not None and found["grade"] == LEARNED
    beside = f"over the LLM before it; {NO_CONTROL}" if hardest is None else _beside(hardest, len(own))
    each = {
        name: (part["trainings"]["epo"] if hardest is None else part["beside"][hardest])["own"]
        for name, part in moved["by_dataset"].items()
    }
    gained = verdict_text("samples weighted by what training made likelier gain in emotion contrast", found)
    apart = by_dataset_text(each, facts["counts"]["titles"]).strip()
    says = f"{_taught(shown)}: {gained}, {beside}; {facts['scorers_line']}."
    return _answer(about, shown, says, found, apart)


def _hardest(over: dict[str, dict]) -> str | None:
    """Of the controls that were asked for, the one that leaves EPO least. over: what EPO has over each."""
    return min(over, key=lambda name: _mean(over[name]), default=None)


def _beside(control: str, of: int) -> str:
    """The hardest control, among how many."""
    which = "the only control" if of == 1 else f"the hardest of {of} controls"
    return f"beside {CONTROL_RUNGS[control].title}, {which}"


def _taught(shown: bool) -> str:
    return "It did, as far as the second scorer can tell" if shown else "That is not shown"


def _no_samples(facts: dict) -> str:
    """Why nothing is told from samples of before EPO."""
    return f"Samples of before it, which decide this, were not drawn: {facts['epo_test_not_run']}."


def _mean(found: dict) -> float:
    """Of a verdict; one that could not be drawn comes first."""
    return -math.inf if found["mean"] is None else found["mean"]


def _content(facts: dict) -> dict:
    about = "Do memories carry what was said?"
    nats, restored = facts["memory_content"], facts["reconstruction"]
    told, shown = [], []
    if nats:
        told.append(verdict_text("the finetuned compressor's other − own, nats a token,", nats))
        shown.append(nats["grade"] == LEARNED)
    if restored and restored["own"]["n"]:
        own, other = restored["own"], restored["other"]
        shown.append(_above(own["bleu_1_ci"], other["bleu_1_ci"]))
        told.append(
            f"conversations come back from their memories with BLEU-1 {_number(own['bleu_1'])}{_ends(own['bleu_1_ci'])}, from "
            f"another's with {_number(other['bleu_1'])}{_ends(other['bleu_1_ci'])} (n = {own['n']})"
        )
    if not told:
        why = facts["reconstruction_not_run"] or NOT_ASKED
        return _answer(about, None, f"Nothing was read back from memories: {why}.")
    carry = "They do" if all(shown) else "That is not shown"
    return _answer(about, all(shown), f"{carry}: {'; '.join(told)}.", nats)


def _worth(facts: dict) -> dict:
    """Graded by use: their own gain there, a share of the full history's, more than means', no loss seen in the replies."""
    about = "Are memories worth a share of the full history, and more than mean embeddings?"
    ladder, replies = facts["memory_ladder"], _with_memories(facts)
    memories = ladder["arms"].get(MEMORY) if ladder else None
    if memories is None:
        return _answer(about, None, "No memory is beside the full history.", None, replies)
    told = [content(ladder, facts["counts"]["titles"]), shares(ladder), beside_mean(ladder), replies]
    if FULL not in ladder["arms"]:
        return _answer(about, None, "The full history is not beside them.", memories["gain"], *told)
    lacks = _lacks(ladder, _step(facts, "3-mc"))
    says = f"That is not shown: {lacks}." if lacks else f"They are: they keep {_kept(memories)}."
    return _answer(about, not lacks, says, memories["gain"], *told)


def _lacks(ladder: dict, step: dict | None) -> str:
    """The first thing that memories would have to be and are not; "" where there is none."""
    memories, beside = ladder["arms"][MEMORY], compared(ladder, MEMORY, MEAN)
    if memories["gain"]["grade"] != LEARNED:
        carried = verdict_text("other − own, nats a token", memories["gain"])
        return f"they are not seen to carry their own dialogue's content into the reply, {carried}"
    if not memories["share"]:
        helped = verdict_text("other − own, nats a token", ladder["arms"][FULL]["gain"])
        return (
            f"the full history itself is not seen to help, so there is nothing to have a share of, {helped}"
        )
    if memories["share"][1] <= 0:
        return f"{_kept(memories)} may be none of it"
    if beside and beside["grade"] != LEARNED:
        return f"they are not seen to beat mean embeddings, {verdict_text('nats a token spared', beside)}"
    if step and step["bertscore"]["grade"] == WORSE:
        return f"replies with them got worse, {verdict_text('BERTScore', step['bertscore'])}"
    return ""


def _kept(memories: dict) -> str:
    share, low, high = (f"{round(100 * part)} %".replace("-", "−") for part in memories["share"])
    n = counted_text(memories["both"]["rows"], memories["both"]["dialogues"])
    saved = f"{100 * memories['saved']:.0f} %"
    return f"{share} ({low} to {high}) of the full history's gain with {saved} of its tokens spared, {n}"


def _with_memories(facts: dict) -> str:
    """What memories in place of text change in the replies."""
    step = _step(facts, "3-mc")
    if step is None:
        return f"No reply with memories is beside one with text: {_why(facts, '3-mc')}."
    fewer = {row["rung"]: row["run"] for row in facts["table_3"]}
    saved = (
        f"; prompts have {fewer['3-mc']:.0f} tokens instead of {fewer['2-ft']:.0f}" if len(fewer) == 2 else ""
    )
    return f"{verdict_text('With memories in place of text BERTScore changes by', step['bertscore'])}{saved}."


def _clips(facts: dict) -> dict:
    """Graded by all that was measured: what clips add to text where emotions are recognised, and what they add to replies."""
    about = "Do voice and face add to text?"
    step = _step(facts, "4-av")
    accuracy = ((facts["recognition"] or {}).get("accuracy") or {}).get("A+V+T") or {}
    over_text, over_other = accuracy.get("over_text"), accuracy.get("over_other")
    measured = [found for found in (step and step[CONTRAST], over_text) if found]
    if not measured:
        return _answer(about, None, f"No reply had them: {_why(facts, '4-av')}.")
    told: list[str] = []
    if over_text:
        control = f"; {verdict_text('over another clip’s, by', over_other)}" if over_other else ""
        changes = "With them the share of clips whose emotion is recognised changes, over text alone, by"
        told.append(f"{verdict_text(changes, over_text)}{control}.")
    told.append(
        f"{verdict_text('With them the replies’ emotion contrast changes by', step[CONTRAST])}."
        if step
        else f"No reply had them: {_why(facts, '4-av')}."
    )
    shown = all(found["grade"] == LEARNED for found in measured)
    return _answer(about, shown, told[0], measured[0], *told[1:])


def _finetuning(facts: dict) -> dict:
    about = "Did finetuning help, and does the model prefer the emotionally right reply?"
    step, preference = _step(facts, "2-ft"), _preference(facts)
    if step is None:
        says = f"No finetuned LLM is beside the LLM as it came: {_why(facts, '2-ft')}."
        return _answer(about, None, says, None, preference)
    found = step["log_likelihood"]
    verb = {LEARNED: "Finetuning made", WORSE: "Finetuning did not make"}.get(
        found["grade"], "Finetuning is not seen to have made"
    )
    says = f"{verb} the true replies likelier: {verdict_text('nats a token', found)}."
    return _answer(about, found["grade"] == LEARNED, says, found, preference)


def _preference(facts: dict) -> str:
    """Of the ladder's last rung that ran, beside what topic alone gives; "" where it was not measured. Controls, which stand
    below it in the table, are no rungs of it."""
    ladder = {rung.name for rung in LADDER}
    rows = [row["run"] for row in facts["ladder"] if row["run"] and row["rung"] in ladder]
    row = rows[-1] if rows else {}
    share, same = row.get("emotional_preference"), row.get("same_emotion_preference")
    if share is None:
        return ""
    left_out, ends = row.get("emotional_preference_left_out", 0), row.get("emotional_preference_ci")
    # Topic alone tells the true reply from any other: only what goes beyond the same emotion's share is of emotion.
    beyond = _above_zero(row.get("preference_beyond_topic_ci"))
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


def _above_zero(ends: list[float] | None) -> bool:
    """Whether the interval of a difference lies above zero."""
    return bool(ends and ends[0] > 0)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _ends(interval: list[float] | None) -> str:
    return "" if not interval else f" ({interval_text(interval[0], interval[1])})"
