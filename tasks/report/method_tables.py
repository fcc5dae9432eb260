"""The terminal's tables of the method's parts: EPO, memories, recognition, people, trainings and pairs, from report.json alone.

Cells are the page's own. Knows nothing of terminals, nor of the tables of systems.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasks.report.cells import (
    ABSENT,
    Cell,
    count,
    counted,
    graded,
    interval,
    number,
    of_dialogues,
    percent,
    percents,
)
from tasks.report.figures import FIGURES
from tasks.report.paper_tables import FIGURE_6_GAIN, TABLE_8
from tasks.report.table import Table
from tasks.report.table_1 import titles_of
from tasks.stages.replies.rungs import CONTROL_RUNGS

RESTORED = (("bleu_1", "BLEU-1"), ("bleu_4", "BLEU-4"), ("bertscore", "BERTScore"), ("exact", "exact"))
KINDS = (("own", "its own"), ("other", "another conversation's"))
NATS, GAIN, SHARE = "nats a token", "other − own", "share of the full history's"
TIME, MEMORY = "time, s", "memory, GB"
OWN, USUAL = "this exchange's emotion", "usual emotions"
BETTER = "better of two gained more, less a half"


# EPO --------------------------------------------------------------------------------------------------


def controls(facts: dict) -> Iterator[Table]:
    """What EPO gains beside what each control gains."""
    titles = titles_of(facts["other_systems"])
    for control in facts["controls"].values():
        what = titles.get(control["control"], control["control"])
        columns = (f"gain over {control['base']}", "EPO", "the control", "difference")
        rows = [
            {columns[0]: figure.title}
            | {
                column: graded(control[figure.key][of]).line()
                for column, of in zip(columns[1:], ("epo", "control", "difference"), strict=True)
            }
            for figure in FIGURES
            if figure.control
        ]
        yield Table(f"EPO beside its controls: {what}", columns, rows)


def moved(facts: dict) -> Iterator[Table]:
    """What EPO and its controls moved, told from samples of before them."""
    found = facts["epo_test"]
    if not found:
        return
    titles = {name: rung.title for name, rung in CONTROL_RUNGS.items()} | {"epo": "EPO"}
    rows = [
        {
            "training": titles[name],
            **_moved(training),
            BETTER: graded(training["concordance"]).line(),
            "samples the weights leave": percent(training["effective_share"], 0),
        }
        for name, training in found["trainings"].items()
    ]
    rows += [
        {"training": f"EPO less {titles[name]}", **_moved(over)} for name, over in found["beside"].items()
    ]
    sizes = (
        f"{count(found['samples'])} of {count(found['drawn'])} samples, of {count(found['exchanges'])} test exchanges "
        f"({count(found['dialogues'])} dialogues)."
    )
    columns = ("training", OWN, USUAL, BETTER, "samples the weights leave")
    yield Table("What EPO moved, told from samples of before it", columns, rows, (sizes,))
    names = facts["counts"]["titles"]
    rows = [
        {
            "dataset": f"{names.get(dataset, dataset)}: {count(part['samples'])} samples of {count(part['exchanges'])} exchanges",
            "training": f"{before}{titles[name]}",
            **_moved(figures),
        }
        for dataset, part in found["by_dataset"].items()
        for group, before in (("trainings", ""), ("beside", "EPO less "))
        for name, figures in part[group].items()
    ]
    yield Table("What EPO moved: each dataset alone", ("dataset", "training", OWN, USUAL), rows)


def _moved(found: dict) -> dict:
    return {OWN: graded(found["own"]).line(), USUAL: graded(found["usual"]).line()}


# Memories ---------------------------------------------------------------------------------------------


def memory_ladder(facts: dict) -> Iterator[Table]:
    ladder = facts["memory_ladder"]
    if not ladder:
        return
    arms, names = ladder["arms"], facts["counts"]["titles"]
    rows = [
        {
            "history": arm["title"],
            "adapter": _adapter(arm),
            **_arm(arm),
            **_cost(arm["cost"]),
            "tokens": number(arm["tokens"], 1),
            "saved": percent(arm["saved"], 0),
            "in the cache": ABSENT
            if arm["tokens"] is None
            else f"{number(arm['tokens'] * ladder['cache_bytes'] / 1024, 0)} KiB",
        }
        for arm in arms.values()
    ]
    timed = (TIME, MEMORY) if any(arm["cost"] for arm in arms.values()) else ()
    columns = ("history", "adapter", NATS, GAIN, SHARE, "tokens", "saved", "in the cache", *timed, "n")
    title = "What the history is worth: the memory ladder"
    yield Table(title, columns, rows, tuple(ladder["sentences"]))
    rows = [
        {"dataset": names.get(dataset, dataset), "history": about["title"], **_arm(part["arms"][name])}
        for dataset, part in ladder["by_dataset"].items()
        for name, about in arms.items()
    ]
    yield Table("The memory ladder: each dataset alone", ("dataset", "history", NATS, GAIN, SHARE, "n"), rows)
    rows = [
        {
            "fewer nats a token": f"{arms[row['arm']]['title']}, than {arms[row['than']]['title']}",
            "n": _of(row["difference"]),
            "mean": graded(row["difference"]).line(),
        }
        for row in ladder["comparisons"]
    ]
    yield Table("The memory ladder: forms beside each other", ("fewer nats a token", "n", "mean"), rows)
    rows = [
        {
            "history": arm["title"],
            "turns": _turns(part),
            "n": count(part["gain"]["rows"]),
            NATS: number(part["own"]),
            GAIN: graded(part["gain"]).line(),
        }
        for arm in arms.values()
        for part in arm["by_turn"]
    ]
    yield Table("The memory ladder: by turn", ("history", "turns", "n", NATS, GAIN), rows)


def _adapter(arm: dict) -> str:
    if arm["adapter"] == "own":
        return "an adapter of its own"
    return f"{arm['adapter']}'s adapter" + ("" if arm["prepared"] else "; zero-shot")


def _arm(arm: dict) -> dict:
    return {
        NATS: Cell(number(arm["own"]), interval(arm.get("own_ci"))).line(),
        GAIN: graded(arm["gain"]).line(),
        SHARE: _share(arm["share"]),
        "n": counted(arm).line(),
    }


def _cost(cost: dict | None) -> dict:
    """Time and memory of the arm's prompts, where they were measured."""
    if not cost:
        return {TIME: ABSENT, MEMORY: ABSENT}
    return {
        TIME: Cell(number(cost["seconds"], 4), interval(cost["seconds_ci"], 4)).line(),
        MEMORY: number(cost["gigabytes"], 2),
    }


def _share(found: list[float] | None) -> str:
    """A share of the full history's, with its interval where it has a width."""
    if not found:
        return ABSENT
    value, *ends = found
    return Cell(percent(value, 0), percents(ends, 0) if ends[0] != ends[1] else "").line()


def _turns(part: dict) -> str:
    first, last = part["from"], part["to"]
    return f"{first} and more" if last is None else str(first) if first == last else f"{first} to {last}"


def _of(verdict: dict) -> str:
    return f"{count(verdict['rows'])}; {of_dialogues(verdict['dialogues'])}"


def table_8(facts: dict) -> Iterator[Table]:
    restored, rows = facts["reconstruction"], []
    if restored:
        for kind, title in KINDS:
            found = restored[kind]
            n = counted({"n": found["n"], "dialogues": found["n"]}).line()  # a conversation is a dialogue
            figures = {
                head: Cell(number(found[key]), interval(found[f"{key}_ci"])).line() for key, head in RESTORED
            }
            rows.append({"memories": title, "n": n, **figures})
        paper = {head: number(TABLE_8.get(key)) for key, head in RESTORED}
        rows.append({"memories": "paper (MultiDialog)", "n": ABSENT, **paper})
    columns = ("memories", *(head for _, head in RESTORED), "n")
    yield Table("Table 8: conversations restored from memories", columns, rows)


# Recognition ------------------------------------------------------------------------------------------


def figure_6(facts: dict) -> Iterator[Table]:
    found = facts["recognition"] or {"accuracy": {}, "accuracy_by_dataset": {}, "mcnemar": []}
    names = facts["counts"]["titles"]
    rows = [{"input": name, **_recognised(a)} for name, a in found["accuracy"].items()]
    columns = ("input", "clips", "right", "balanced", "commonest label", "beyond another clip", "beyond text")
    paper = f"The paper: A+V+T over T alone by {FIGURE_6_GAIN} %."
    yield Table("Figure 6: emotion recognition by input", columns, rows, (paper,))
    for dataset, inputs in found["accuracy_by_dataset"].items():
        rows = [{"input": name, **_recognised(a)} for name, a in inputs.items()]
        yield Table(f"Figure 6: {names.get(dataset, dataset)}", columns[:5], rows)
    rows = [
        {
            "inputs": f"{row['first']} and {row['second']}",
            "clips": count(row["n"]),
            "right in the first alone": count(row["only_first"]),
            "in the second alone": count(row["only_second"]),
            "p": number(row["p"]),
        }
        for row in found["mcnemar"]
    ]
    compared = ("inputs", "clips", "right in the first alone", "in the second alone", "p")
    yield Table("Figure 6: do two inputs differ (McNemar)", compared, rows)


def _recognised(found: dict) -> dict:
    beyond = {"beyond another clip": found["over_other"], "beyond text": found["over_text"]}
    return {
        "clips": f"{count(found['clips'])}; of {count(found['dialogues'])}",
        "right": Cell(percent(found["accuracy"]), percents(found["accuracy_ci"])).line(),
        "balanced": Cell(percent(found["balanced"]), percents(found["balanced_ci"])).line(),
        "commonest label": percent(found["majority"]),
        **{name: graded(verdict).line() if verdict else ABSENT for name, verdict in beyond.items()},
    }


# People -----------------------------------------------------------------------------------------------


def study(facts: dict) -> Iterator[Table]:
    """What people say of each system, how systems differ, and how far people and a judge agree."""
    found, titles = facts["study"], titles_of(facts["other_systems"])
    if not found:
        return
    questions = tuple(found["questions"])
    rows = [
        {"system": system["title"], **{name: _judged(system["questions"][name]["all"]) for name in questions}}
        for system in found["systems"]
    ]
    alpha = ", ".join(f"{name} {_agreement(of, 'alpha')}" for name, of in found["alpha"].items())
    counts = found["counts"]
    lines = [
        f"Agreement of participants, Krippendorff's alpha (ordinal): {alpha}.",
        f"{count(counts['came'])} came, {count(counts['done'])} were done; {count(counts['not_counted'])} judgements are not "
        "counted.",
        *(
            f"Beside the judge, quadratically weighted κ: {titles.get(k['second'], k['second'])}, {k['question']}: "
            f"{_agreement(k, 'kappa')} ({count(k['same'])} of {count(k['exchanges'])} the same)."
            for k in found["beside_judge"]
        ),
    ]
    yield Table("Figure 5: what people say", ("system", *questions), rows, tuple(lines))
    needs = f"{number(found['power']['difference'], 1)} needs"
    rows = [
        {
            "first, second": f"{titles.get(d['first'], d['first'])}, {titles.get(d['second'], d['second'])}: {d['question']}",
            "first less second": Cell(
                number(d["mean"], 2), interval([d["low"], d["high"]], 2), _better(d["grade"])
            ).line(),
            "could have been seen": number(d["detectable"], 2),
            needs: f"{count(d['needed'])} judgements; there are {count(d['judgements'])}",
        }
        for d in found["differences"]
    ]
    columns = ("first, second", "first less second", "could have been seen", needs)
    yield Table("Figure 5: how they differ", columns, rows)


def _judged(mean: dict) -> str:
    of = f"{count(mean['judgements'])} judgements; {count(mean['participants'])} people, {count(mean['items'])} conversations"
    return Cell(number(mean["mean"], 2), interval([mean["low"], mean["high"]], 2), notes=(of,)).line()


def _agreement(found: dict, figure: str) -> str:
    ends = "" if found["low"] is None else interval([found["low"], found["high"]], 2)
    return Cell(number(found[figure], 2), ends).line()


def _better(grade: str) -> str:
    return f"{grade} is better" if grade in ("first", "second") else grade


# Trainings --------------------------------------------------------------------------------------------


def training(facts: dict) -> Iterator[Table]:
    """What each training came to, and what it is judged by."""
    rows = []
    for stage, report in facts["training"].items():
        if "not_run" in report:
            rows.append({"stage": stage, "verdict": f"not run: {report['not_run']}"})
            continue
        loss = next((c for c in before_and_after(report) if c["name"] == "loss"), {})
        rows.append(
            {
                "stage": stage,
                "verdict": report["verdict"]["grade"] or "not judged",
                "loss before": number(loss.get("before")),
                "after": number(loss.get("after")),
                "steps": count(report["history"]["steps"]),
            }
        )
    yield Table("Training: held out", ("stage", "verdict", "loss before", "after", "steps"), rows)
    rows = [
        {"stage": stage, "better by": found["says"], "n": _of(found), "mean": graded(found).line()}
        for stage, report in facts["training"].items()
        if "not_run" not in report
        for found in report["verdict"]["findings"]
    ]
    yield Table("Training: what each stage is judged by", ("stage", "better by", "n", "mean"), rows)


def before_and_after(report: dict) -> list[dict]:
    """Every held-out figure of a training's report at the start and at the step that was kept."""
    history = report.get("history") or {}
    checks = history.get("heldout") or []
    kept = (check for check in checks if check["step"] == history.get("best_step"))
    before = report.get("heldout_before") or (checks[0] if checks else {})
    after: dict = report.get("heldout_after") or next(kept, {})
    return [
        {"name": name, "before": before[name], "after": after[name], "change": after[name] - before[name]}
        for name in before
        if name != "step" and is_number(before[name]) and is_number(after.get(name))
    ]


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Pairs ------------------------------------------------------------------------------------------------


def pairs(facts: dict) -> Iterator[Table]:
    """Which pairs were kept, what else tells their replies apart, and how many there are of what."""
    found, quality = facts["pairs"], facts["quality"]
    if not found:
        return
    calibration = found["calibration"]
    human = f"{count(calibration['pairs'])} pairs of each kind" if calibration else "not measured"
    kept = f"paper {found['paper_threshold']}, which would keep {percent(found['kept_share_at_paper_threshold'])}"
    figures = [
        ("threshold in force", number(found["threshold"]), kept),
        ("pairs kept", count(found["pairs"]), f"of {count(found['exchanges'])} exchanges, {percent(found['kept_share'])}"),
        ("candidates usable", percent(found["usable_share"]), f"{count(found['usable'])} of {count(found['candidates'])}"),
        ("human equal-error cosine", number(found["equal_error"]), human),
    ]  # fmt: skip
    if quality:
        figures += [
            (f"{name} alone ranks right", percent(share), f"50 % would be nothing; bound {percent(quality['bound'], 0)}")
            for name, share in quality["accuracy"].items()
        ]  # fmt: skip
    rows = [{"figure": figure, "value": value, "of": of} for figure, value, of in figures]
    yield Table("Preference pairs", ("figure", "value", "of"), rows)
    rows = [
        {
            "emotion asked for": name,
            "usable": percent(of["usable"] / of["candidates"], 0),
            "below the threshold": percent(of["below"] / of["candidates"], 0),
            "became a pair": count(of["pairs"]),
        }
        for name, of in found["by_asked_emotion"].items()
    ]
    columns = ("emotion asked for", "usable", "below the threshold", "became a pair")
    yield Table("Preference pairs: candidates by the emotion they were asked for", columns, rows)
    names = facts["counts"]["titles"]
    rows = [
        {"exchanges": names.get(name, name), "with a pair": f"{count(of['pairs'])} of {count(of['exchanges'])}",
         "share": percent(of["pairs"] / of["exchanges"], 0)}
        for by in ("by_dataset", "by_reply_emotion")
        for name, of in found[by].items()
    ]  # fmt: skip
    title = "Preference pairs: by dataset, and by the emotion of the true reply"
    yield Table(title, ("exchanges", "with a pair", "share"), rows)
    reasons = (("unusable", "candidate unusable"), ("rejects", "exchange without a pair"))
    rows = [
        {"what": what, "reason": name, "rows": count(n)}
        for key, what in reasons
        for name, n in found[key].items()
    ]
    yield Table("Preference pairs: what was turned away", ("what", "reason", "rows"), rows)
