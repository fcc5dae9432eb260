"""What a stage is to be judged by, in one line and as data: graded, with an interval, beside the right control.

A trained stage's report.json holds its held-out rows before and after ("compared", model/metrics/compared.py), and
with another dialogue's history, memory, clip or pair in place of their own. Whether loss fell is one finding; whether
what the stage is for does better than that control is another, and "learned" takes both. Knows nothing of how
training works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from model.metrics.compared import DIALOGUE
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import (
    FEW,
    LEARNED,
    LEAST_DIALOGUES,
    NO_DIFFERENCE,
    NOT_FINITE,
    NOT_TRAINED,
    WORSE,
    Verdict,
    verdict,
)
from storage.store import Ref, Store

Rows = dict[str, list]
ALIKE = "all alike"
"""Every dialogue's mean is the same: in place of an interval of no width, which would claim to know what was never seen
to vary."""
MOST_DIGITS = 6
"""To which figures are kept."""


@dataclass(frozen=True)
class Finding:
    """about: which question. says: it in words, with the unit. short: the grade where loss fell and this did not."""

    about: str
    says: str
    short: str
    verdict: Verdict

    def as_dict(self) -> dict:
        return {"about": self.about, "says": self.says, **self.verdict.as_dict()}


@dataclass(frozen=True)
class Question:
    """gain: of one row's figures, above zero is better; needs: the figures it takes."""

    about: str
    says: str
    short: str
    needs: tuple[str, ...]
    gain: Callable[..., float]


def _less(first: float, second: float) -> float:
    return first - second


TRAINING = "training"
QUESTIONS = (
    Question(TRAINING, "held-out loss before − after, nats a token", "", ("before", "after"), _less),
    Question(TRAINING, "held-out EPO loss before − after", "", ("epo_before", "epo_after"), _less),
    Question(
        "ranking",
        "held-out pairs ranked right, after − before",
        "ranking did not",
        ("right_after", "right_before"),
        _less,
    ),
    Question(
        "pair",
        "reward margin gained on the own pair − on another exchange's",
        "the own pair's margin no more than a shuffled pair's",
        ("margin_after", "margin_before", "shuffled_after", "shuffled_before"),
        lambda after, before, other_after, other_before: (after - before) - (other_after - other_before),
    ),
    Question(
        "memory",
        "loss with another dialogue's memory − with the own, nats a token",
        "the own memory is not seen to help",
        ("other_memory", "after"),
        _less,
    ),
    Question(
        "history",
        "reply loss with another dialogue's history − with the own, nats a token",
        "the own history is not seen to help",
        ("other_history", "after"),
        _less,
    ),
    Question(
        "clip",
        "loss with another clip's features − with the own, nats a token",
        "the own clip is not seen to help",
        ("other_clip", "after"),
        _less,
    ),
)
"""Of each training those whose figures its report has. All but the first kind are the controls."""


def findings(report: dict, intervals: BootstrapSettings | None = None) -> list[Finding]:
    """The answers that a training's report.json gives; none where it holds no rows."""
    rows = report.get("compared")
    if not rows:
        return []
    return [
        Finding(q.about, q.says, q.short, _answer(q, rows, intervals))
        for q in QUESTIONS
        if set(q.needs) <= rows.keys()
    ]


def _answer(question: Question, rows: Rows, intervals: BootstrapSettings | None) -> Verdict:
    """Over the rows that have every figure it takes."""
    columns = zip(rows[DIALOGUE], *(rows[name] for name in question.needs), strict=True)
    whole = [(of, figures) for of, *figures in columns if None not in figures]
    gains = [question.gain(*figures) for _, figures in whole]
    return verdict(gains, [of for of, _ in whole], intervals)


def grade(report: dict, found: list[Finding]) -> str | None:
    """One grade for the stage; None where its report holds no rows.

    "learned" where the loss fell and every control is below the own; "loss fell, …" with what did not come with it;
    else the grade of the loss itself; "not trained" after no step, whatever the figures are.
    """
    if not found:
        return None
    if not (report.get("history") or {}).get("train"):
        return NOT_TRAINED
    training = next((f.verdict for f in found if f.about == TRAINING), None)
    if training is not None and training.grade != LEARNED:
        return training.grade
    missing = [f for f in found if f.about != TRAINING and f.verdict.grade != LEARNED]
    if any(f.verdict.grade == NOT_FINITE for f in missing):
        return NOT_FINITE
    # A margin that rises as on a shuffled pair says something only where the ranking rose.
    if any(f.about == "ranking" for f in missing):
        missing = [f for f in missing if f.about == "ranking"]
    return f"loss fell, {'; '.join(f.short for f in missing)}" if missing else LEARNED


def judged(report: dict, intervals: BootstrapSettings | None = None) -> dict:
    """{"grade", "findings": [{"about", "says", and all of a Verdict}]} of a training's report.json."""
    found = findings(report, intervals)
    return {"grade": grade(report, found), "findings": [f.as_dict() for f in found]}


def verdict_text(about: str, found: dict | Verdict, digits: int = 3) -> str:
    """A verdict in words: "history +0.012 (−0.004 to 0.031): no difference seen: n = 32 (8 dialogues), …"."""
    v = found.as_dict() if isinstance(found, Verdict) else found
    counted = counted_text(v["rows"], v["dialogues"])
    if v["mean"] is None:
        return f"{about} {v['grade']}: {counted}"
    text = f"{about} {_number(v['mean'], digits, '+')}"
    if v["low"] is not None:
        text += f" ({interval_text(v['low'], v['high'], digits)})"
    if v["grade"] in (LEARNED, WORSE):
        return f"{text}, {counted}{'' if v['grade'] == LEARNED else f': {WORSE}'}"
    seen = f", {_number(v['detectable'], digits)} could have been" if v["detectable"] else ""
    return f"{text}: {v['grade']}: {counted}{seen if v['grade'] == NO_DIFFERENCE else ''}"


def by_dataset_text(found: Mapping[str, dict], titles: Mapping[str, str]) -> str:
    """Verdicts by dataset, to stand after a sentence: "By dataset: MELD +0.012 (…), n = …; …"; "" where there are none.

    titles: dataset -> its name for people.
    """
    told = [verdict_text(titles.get(dataset, dataset), verdict) for dataset, verdict in found.items()]
    return f" By dataset: {'; '.join(told)}." if told else ""


def interval_text(low: float, high: float, digits: int = 3) -> str:
    """An interval in words: "−0.004 to 0.031". Where nothing varied there is none, and that is said; where its ends
    would be printed alike, they get more digits.
    """
    if low == high:
        return ALIKE
    for more in range(digits, MOST_DIGITS + 1):
        ends = [_number(end, more) for end in (low, high)]
        if ends[0] != ends[1]:
            break
    return " to ".join(ends)


def counted_text(rows: int, dialogues: int) -> str:
    """How many, of how many dialogues."""
    return f"n = {rows} ({dialogues} dialogue{'' if dialogues == 1 else 's'})"


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}".replace("-", "−")


# Lines -------------------------------------------------------------------------------------------------


def verdict_line(
    store: Store, refs: tuple[Ref, ...], intervals: BootstrapSettings | None = None
) -> str | None:
    """The line of whatever stage the artefacts are of; None where there is nothing to judge."""
    return (
        training_line(store, refs, intervals)
        or quality_line(store, refs)
        or people_line(store, refs)
        or recognition_line(store, refs)
        or ladder_line(store, refs)
        or metrics_line(store, refs)
    )


def training_line(
    store: Store, refs: tuple[Ref, ...], intervals: BootstrapSettings | None = None
) -> str | None:
    """The line for an item's artefacts; None where they hold no training report."""
    for tree in (ref for ref in refs if ref.tree):
        for member in store.members(tree):
            if member.name == "report.json":
                return _line(json.loads(store.read(member)), intervals)
    return None


def quality_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """The line for the pairs' quality; None where the artefacts hold none."""
    facts = _named(store, refs, "quality.json")
    if facts is None:
        return None
    alone = [f"{name} alone {share:.0%}" for name, share in facts["accuracy"].items() if share is not None]
    if not alone:
        return "too few pairs to tell what else than emotion sets them apart"
    verdict = "NOT ABOUT EMOTION ALONE: " if facts["above"] else ""
    return f"{verdict}{', '.join(alone)} of the pairs ranked right (bound {facts['bound']:.0%})"


def people_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """How many pairs people chose, or how many of those that EPO trains on; None where the artefacts hold none of theirs."""
    joined, judged = _named(store, refs, "joined.json"), _named(store, refs, "judged.json")
    if joined is not None:
        return (
            f"{joined['judged']:,} pairs that people chose beside {joined['scored']:,} scored ones "
            f"({joined['replaced']:,} gave way)"
        )
    if judged is None:
        return None
    splits = ", ".join(f"{count:,} in {split}" for split, count in judged["by_split"].items()) or "none"
    why = ", ".join(f"{count:,} {reason}" for reason, count in judged["rejects"].items()) or "none"
    return f"{judged['pairs']:,} of {judged['rows']:,} pairs that people chose ({splits}); turned away: {why}"


def recognition_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """Figure 6 in a line: the widest setting beside another clip's features, and beside text alone."""
    facts = _named(store, refs, "recognition.json")
    if facts is None:
        return None
    shown = [name for name in ("A", "V", "A+V", "A+V+T") if name in facts["accuracy"]]
    shares = [
        f"{name} {facts['accuracy'][name]['accuracy']:.0%} right"
        + (
            f", {verdict_text('over another clip', facts['accuracy'][name]['over_other'])}"
            if facts["accuracy"][name]["over_other"]
            else ""
        )
        for name in shown[-2:]
    ]
    stands_in = sorted(name for name, split in facts["splits"].items() if split == "dev")
    note = f"; of {', '.join(stands_in)} dev stands in for test" if stands_in else ""
    return f"{facts['clips']} of {facts['there']} test clips: {'; '.join(shares) or 'none has media'}{note}"


def ladder_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """The memory ladder's first sentence."""
    from tasks.stages.ladder.sentences import ladder_sentences  # which words verdicts by this module

    facts = _named(store, refs, "ladder.json")
    return next(iter(ladder_sentences(facts, {})), None) if facts else None


def metrics_line(store: Store, refs: tuple[Ref, ...]) -> str | None:
    """What the last rung adds to the one before it in emotion contrast, and how far the scorer can be trusted."""
    facts = _named(store, refs, "metrics.json")
    if facts is None or not facts.get("steps"):
        return None
    step = facts["steps"][-1]
    line = verdict_text(
        f"{step['rung']} over {step['against']}: emotion contrast, second scorer,",
        step["emotioncontrast_second"],
    )
    return f"{line}; {scorers_line(facts.get('scorers'))}"


def scorers_line(scorers: dict | None) -> str:
    """How alike the two scorers are: what the second one's word is worth."""
    if not scorers or scorers["correlation"] is None:
        return "how alike the two scorers are was not measured"
    shared = " and share an encoder: the second is no independent witness" if scorers["same_encoder"] else ""
    ends = scorers.get("correlation_ci")
    between = f" ({ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
    correlation = f"{scorers['correlation']:.2f}{between}"
    return f"the two scorers correlate {correlation} on this run's {scorers['replies']} replies{shared}"


def _named(store: Store, refs: tuple[Ref, ...], name: str) -> dict | None:
    ref = next((ref for ref in refs if ref.name == name), None)
    return None if ref is None else json.loads(store.read(ref))


def _line(report: dict, intervals: BootstrapSettings | None) -> str:
    before, after = (_loss(report[f"heldout_{when}"]) for when in ("before", "after"))
    found = findings(report, intervals)
    stage = grade(report, found) or "does not say whether it learned"
    steps = (report.get("history") or {}).get("train")
    kept = (report.get("history") or {}).get("best_step")
    start = " (no check beat the start, whose weights were kept)" if steps and kept == 0 else ""
    if stage == FEW and all(finding.verdict.grade == FEW for finding in found):
        most = max((finding.verdict for finding in found), key=lambda v: v.rows)
        stage = f"{FEW}: {counted_text(most.rows, most.dialogues)}, and it takes {LEAST_DIALOGUES}"
        found = []
    parts = [verdict_text(finding.about, finding.verdict) for finding in found]
    loss = f"held-out loss {before:.3f} → {after:.3f}: {stage}{start}{_collapse(report)}"
    return f"{loss}; {_ranked(report)}{'; '.join(parts)}" if parts else loss


def _ranked(report: dict) -> str:
    """EPO's share of pairs ranked right, before and after."""
    shares = [(report.get(f"heldout_{when}") or {}) for when in ("before", "after")]
    if "right_after" not in report["compared"] or any("accuracy" not in share for share in shares):
        return ""
    return f"{shares[0]['accuracy']:.0%} → {shares[1]['accuracy']:.0%} ranked right; "


def _collapse(report: dict) -> str:
    """What EPO's report says of both replies' rewards falling; nothing where they did not, or of other stages."""
    if report.get("collapsed"):
        return (
            f"; COLLAPSED: at step {report['collapsed_at_step']} both replies' rewards had long been falling"
        )
    return (
        "; too few steps to tell a collapse" if "collapsed" in report and report["collapsed"] is None else ""
    )


def _loss(figures: dict | float) -> float:
    return figures["loss"] if isinstance(figures, dict) else figures
