"""Every figure of a report's tables as flat rows, so that two reports can be laid side by side. Reads report.json alone.

A report that lacks a table, because its run did not come to it or an earlier version wrote it, has no rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.report.figures import FIGURES
from tasks.stages.replies.rungs import RUNGS

BY_KEY = {figure.key: figure for figure in FIGURES}
TITLES = {rung.name: f"{rung.name.split('-')[0]} {rung.title}" for rung in RUNGS}
LADDER, BY_DATASET = "Table 2", "Table 1"
BY_TURN, MEMORY_BY_DATASET = "Memory ladder by turn", "Memory ladder by dataset"
MOVED, MOVED_BY_DATASET = "What EPO moved", "What EPO moved, by dataset"
RECOGNISED, RECOGNISED_BY_DATASET, MCNEMAR = (
    "Figure 6",
    "Figure 6 by dataset",
    "Figure 6: do two inputs differ",
)
TRAINED_ON, STUDIED_BY_DATASET = "Trained on one dataset", "Figure 5 by dataset"
IN_PARTS = {BY_DATASET, BY_TURN, MEMORY_BY_DATASET, MOVED_BY_DATASET, RECOGNISED_BY_DATASET, MCNEMAR, TRAINED_ON,
            STUDIED_BY_DATASET}  # fmt: skip
"""Tables that part what another one tells as a whole."""
RESTORED = ("bleu_1", "bleu_4", "bertscore", "exact")
COST = (("seconds", "lower", 4), ("gigabytes", "lower", 2))
LONG = (("tokens", "lower", 1), *COST, ("bertscore", "higher", 3))
PAIRS = {
    "threshold": "threshold in force",
    "kept_share": "exchanges that keep a pair",
    "usable_share": "candidates usable",
}
MOVED_FIGURES = {
    "own": "this exchange's emotion: contrast gained",
    "usual": "usual emotions: nearness to all other true replies gained",
    "concordance": "better of two samples gained more, less a half",
}
ASKED = {"answered": "higher", "retries": "lower", "prompt_tokens": "lower", "reply_tokens": "neither"}


@dataclass(frozen=True)
class Flat:
    """One figure. table, of, figure: which, for people. ends: its interval, None where it has none.

    n: of how many. better: "higher", "lower" or "neither". key, rung, dataset: of a measured system's, by which its
    values reply by reply are found; else "". called: what it is of by names that no two have and nobody words anew;
    "": by `of`.
    """

    table: str
    of: str
    figure: str
    value: float
    ends: tuple[float, float] | None = None
    n: int | None = None
    better: str = "higher"
    digits: int = 3
    key: str = ""
    rung: str = ""
    dataset: str = ""
    called: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        """What it is found by in another report."""
        return (self.table, self.called or self.of, self.figure)

    @property
    def title(self) -> str:
        return " · ".join((self.table, self.of, self.figure))


def flat_figures(report: dict) -> list[Flat]:
    """In the order of the page; figures that were not measured are no rows."""
    parts = (
        _systems,
        _steps,
        _over_floors,
        _controls,
        _moved,
        _memory_ladder,
        _memory_parts,
        _prompts,
        _long_history,
        _trained_on,
        _asked,
        _over_systems,
        _judge,
        _study,
        _trainings,
        _recognition,
        _restored,
        _pairs,
        _quality,
    )
    return [row for part in parts for row in part(report)]


def shown_titles(report: dict) -> dict[str, str]:
    """Row of a rung, a floor or a system -> what people call it, with its name where two are called alike."""
    found = {row["rung"]: row["system"] for row in report.get("systems") or []}
    found |= {row["row"]: row["title"] for row in report.get("other_systems") or [] if row["row"]}
    called = list(found.values())
    return {
        row: f"{title} ({row})" if called.count(title) > 1 else title for row, title in found.items()
    } | TITLES


# Systems ----------------------------------------------------------------------------------------------


def _systems(report: dict) -> Iterator[Flat]:
    """Of all datasets together first."""
    rows, titles = report.get("systems") or [], shown_titles(report)
    for row in sorted(rows, key=lambda row: row["dataset"] != "all"):
        whole = row["dataset"] == "all"
        title = titles[row["rung"]]
        for figure in (f for f in FIGURES if row.get(f.key) is not None):
            yield Flat(
                LADDER if whole else BY_DATASET,
                title if whole else f"{row['dataset']}: {title}",
                figure.title,
                row[figure.key],
                _ends(row.get(f"{figure.key}_ci")),
                row["n"] - row.get(f"{figure.key}_left_out", 0),
                figure.better,
                figure.digits,
                figure.key,
                row["rung"],
                row["dataset"],
                f"{row['dataset']}: {row['rung']}",
            )


def _steps(report: dict) -> Iterator[Flat]:
    yield from _compared(report, "steps", "What each rung adds")


def _over_floors(report: dict) -> Iterator[Flat]:
    yield from _compared(report, "over_floors", "The last rung over floors")


def _over_systems(report: dict) -> Iterator[Flat]:
    yield from _compared(report, "over_systems", "The last rung over other systems")


def _compared(report: dict, name: str, table: str) -> Iterator[Flat]:
    """Rows that say what a rung has over another, or over a system."""
    titles = shown_titles(report)
    for row in report.get(name) or []:
        against = row["against"]
        of = f"{titles.get(row['rung'], row['rung'])} over {titles.get(against, against)}"
        for figure in FIGURES:
            called = f"{row['rung']} over {against}"
            yield from _verdict(table, of, figure.title, row.get(figure.key), called)


def _controls(report: dict) -> Iterator[Flat]:
    whose = {"epo": "EPO", "control": "the control", "difference": "EPO less the control"}
    for control in (report.get("controls") or {}).values():
        title = TITLES.get(control["control"], control["control"])
        for what, of in whose.items():
            for figure in FIGURES:
                found = (control.get(figure.key) or {}).get(what)
                yield from _verdict("EPO beside its controls", f"{title}: {of}", figure.title, found)


def _moved(report: dict) -> Iterator[Flat]:
    found = report.get("epo_test")
    for dataset, part in ({"": found} | found["by_dataset"] if found else {}).items():
        table, of = (MOVED_BY_DATASET, f"{dataset}: ") if dataset else (MOVED, "")
        for group, before in (("trainings", ""), ("beside", "EPO less ")):
            for name, moved in part[group].items():
                for figure, title in MOVED_FIGURES.items():
                    yield from _verdict(table, f"{of}{before}{name}", title, moved.get(figure))


def _trained_on(report: dict) -> Iterator[Flat]:
    titles = shown_titles(report)
    for row in report.get("trained_on") or []:
        for dataset, cell in (row.get("tested") or {}).items():
            of = f"{row['trained_on']}, tested on {dataset}: {titles.get(row['rung'], row['system'])}"
            called = f"{row['trained_on']}/{dataset}/{row['rung']}"
            for figure in (f for f in FIGURES if cell.get(f.key) is not None and (f.paper or f.steps)):
                ends, n = (
                    _ends(cell.get(f"{figure.key}_ci")),
                    cell["n"] - cell.get(f"{figure.key}_left_out", 0),
                )
                yield Flat(TRAINED_ON, of, figure.title, cell[figure.key], ends, n, figure.better, figure.digits,
                           called=called)  # fmt: skip
            for key, over in cell["over"].items():
                title = f"{BY_KEY[key].title}, over the LLM as it came"
                yield from _verdict(TRAINED_ON, of, title, over, called)


def _asked(report: dict) -> Iterator[Flat]:
    titles = shown_titles(report)
    for row in report.get("other_systems") or []:
        if row["not_run"] is None:
            of = titles[row["row"]]
            for name, better in ASKED.items():
                yield Flat("Other systems", of, name.replace("_", " "), row[name], None, row["exchanges"], better, 0,
                           called=row["row"])  # fmt: skip
            failed = sum(row["failures"].values())
            yield Flat(
                "Other systems", of, "failed", failed, None, row["exchanges"], "lower", 0, called=row["row"]
            )
            if row.get("cost"):
                title = f"cost, {row['cost']['currency']}"
                yield Flat(
                    "Other systems",
                    of,
                    title,
                    row["cost"]["amount"],
                    None,
                    None,
                    "lower",
                    4,
                    called=row["row"],
                )


# Those who judge --------------------------------------------------------------------------------------


def _judge(report: dict) -> Iterator[Flat]:
    titles = shown_titles(report)
    for pair in report.get("judge") or []:
        sides = f"{titles.get(pair['first'], pair['first'])} and {titles.get(pair['second'], pair['second'])}"
        for question, found in pair["questions"].items():
            shares = {
                "the first's share of wins": (found["share"], found["first"] + found["second"], "neither"),
                "orders agree": (found["agreement"], pair["judged"], "higher"),
            }
            for title, (share, n, better) in shares.items():
                if share:
                    called = f"{pair['first']} and {pair['second']}: {question}"
                    yield Flat("Judge", f"{sides}: {question}", title, share[0], _ends(share[1:]), n, better, 2,
                               called=called)  # fmt: skip


def _study(report: dict) -> Iterator[Flat]:
    study, titles = report.get("study") or {}, shown_titles(report)
    for system in study.get("systems") or []:
        for question, found in system["questions"].items():
            for dataset, mean in ({"": found["all"]} | found["by_dataset"]).items():
                table, of = (STUDIED_BY_DATASET, f"{dataset}: ") if dataset else ("Figure 5", "")
                called = f"{of}{system['system']}: {question}"
                yield from _estimate(table, f"{of}{system['title']}: {question}", "mean", mean, called)
    for row in study.get("differences") or []:
        of = f"{titles.get(row['first'], row['first'])} less {titles.get(row['second'], row['second'])}"
        called = f"{row['first']} less {row['second']}: {row['question']}"
        yield from _estimate("Figure 5", f"{of}: {row['question']}", "difference", row, called)
    for question, found in (study.get("alpha") or {}).items():
        if found["alpha"] is not None:
            yield Flat("Figure 5", question, "Krippendorff's alpha", found["alpha"], _agreed_ends(found), found["judged_by_several"],
                       digits=2)  # fmt: skip
    for row in study.get("beside_judge") or []:
        if row["kappa"] is not None:
            of = f"{titles.get(row['second'], row['second'])}: {row['question']}"
            called = f"{row['first']} and {row['second']}: {row['question']}"
            yield Flat("Figure 5", of, "κ of people and judge", row["kappa"], _agreed_ends(row), row["exchanges"], digits=2,
                       called=called)  # fmt: skip


def _agreed_ends(found: dict) -> tuple[float, float] | None:
    """Of alpha and kappa; a report from before they had an interval has none."""
    return _ends([found.get("low"), found.get("high")])


def _estimate(table: str, of: str, figure: str, found: dict, called: str) -> Iterator[Flat]:
    """Of a study's means, which no verdict grades."""
    if found["mean"] is not None:
        ends = _ends((found["low"], found["high"]))
        yield Flat(table, of, figure, found["mean"], ends, found["judgements"], digits=2, called=called)


# Histories --------------------------------------------------------------------------------------------


def _prompts(report: dict) -> Iterator[Flat]:
    for row in report.get("table_3") or []:
        if row.get("run") is not None:
            yield Flat("All prompts", row["system"], "prompt tokens", row["run"], better="lower", digits=1)


def _long_history(report: dict) -> Iterator[Flat]:
    found = report.get("long_history") or {}
    for form, row in (found.get("forms") or {}).items():
        for name, better, digits in LONG:
            if row.get(name) is not None:
                ends = _ends(row.get(f"{name}_ci"))
                yield Flat(
                    "Table 3", f"history as {form}", name, row[name], ends, found["exchanges"], better, digits
                )
    for floor in found.get("floors") or ():
        ends = _ends(floor.get("bertscore_ci"))
        yield Flat("Table 3", floor["title"], "bertscore", floor["bertscore"], ends, floor["n"])
    for name, change in (found.get("changes") or {}).items():
        yield from _verdict("Table 3", "memories less text", name, change)


def _memory_ladder(report: dict) -> Iterator[Flat]:
    ladder = report.get("memory_ladder") or {}
    arms = ladder.get("arms") or {}
    for arm in arms.values():
        yield from _arm("Memory ladder", arm["title"], arm)
    yield from _comparisons("Memory ladder", "", arms, ladder.get("comparisons"))


def _arm(table: str, of: str, arm: dict) -> Iterator[Flat]:
    if arm.get("own") is not None:
        yield Flat(table, of, "nats a token", arm["own"], _ends(arm.get("own_ci")), arm["n"], "lower")
    yield from _verdict(table, of, "other − own", arm.get("gain"))
    if arm.get("share"):
        value, *ends = arm["share"]
        n = (arm.get("both") or {}).get("rows")
        yield Flat(table, of, "share of the full history's", value, _ends(ends), n, digits=2)
    if arm.get("tokens") is not None:
        yield Flat(table, of, "history tokens", arm["tokens"], None, arm["n"], "lower", 1)
    cost = arm.get("cost") or {}
    for name, better, digits in COST:
        if cost.get(name) is not None:
            ends = _ends(cost.get(f"{name}_ci"))
            yield Flat(table, of, name, cost[name], ends, cost["n"], better, digits)
    if arm.get("dropped_utterances") is not None:
        yield Flat(table, of, "turns left out", arm["dropped_utterances"], None, arm["n"], "lower", 0)


def _comparisons(table: str, before: str, arms: dict, comparisons: list[dict] | None) -> Iterator[Flat]:
    for row in comparisons or []:
        of = f"{before}{arms[row['arm']]['title']}, than {arms[row['than']]['title']}"
        yield from _verdict(table, of, "fewer nats a token", row["difference"])


def _memory_parts(report: dict) -> Iterator[Flat]:
    """The memory ladder by turn, and of each dataset alone."""
    ladder = report.get("memory_ladder") or {}
    arms = ladder.get("arms") or {}
    for arm in arms.values():
        yield from _by_turn(arm["title"], arm)
    for dataset, part in (ladder.get("by_dataset") or {}).items():
        for name, arm in part["arms"].items():
            of = f"{dataset}: {arms[name]['title']}"
            yield from _arm(MEMORY_BY_DATASET, of, arm)
            yield from _by_turn(of, arm)
        yield from _comparisons(MEMORY_BY_DATASET, f"{dataset}: ", arms, part["comparisons"])


def _by_turn(of: str, arm: dict) -> Iterator[Flat]:
    for part in arm.get("by_turn") or ():
        of_turns = f"{of}, turns {part['from']} to {part['to'] or 'the last'}"
        if part["own"] is not None:
            yield Flat(BY_TURN, of_turns, "nats a token", part["own"], None, part["gain"]["rows"], "lower")
        yield from _verdict(BY_TURN, of_turns, "other − own", part["gain"])


# Trainings --------------------------------------------------------------------------------------------


def _recognition(report: dict) -> Iterator[Flat]:
    found = report.get("recognition") or {}
    for dataset, inputs in ({"": found.get("accuracy")} | (found.get("accuracy_by_dataset") or {})).items():
        table, of = (RECOGNISED_BY_DATASET, f"{dataset}: ") if dataset else (RECOGNISED, "")
        for name, row in (inputs or {}).items():
            of_input, clips = f"{of}{name}", row["clips"]
            yield Flat(table, of_input, "accuracy", row["accuracy"], _ends(row.get("accuracy_ci")), clips)
            yield Flat(
                table, of_input, "balanced accuracy", row["balanced"], _ends(row.get("balanced_ci")), clips
            )
            yield from _verdict(table, of_input, "beyond another clip", row.get("over_other"))
            yield from _verdict(table, of_input, "beyond text", row.get("over_text"))
    for row in found.get("mcnemar") or ():
        yield Flat(MCNEMAR, f"{row['first']} and {row['second']}", "p", row["p"], None, row["n"], "neither")


def _restored(report: dict) -> Iterator[Flat]:
    restored = report.get("reconstruction") or {}
    for kind, title in (("own", "its own memories"), ("other", "another conversation's")):
        row = restored.get(kind) or {}
        for name in RESTORED:
            if row.get(name) is not None:
                yield Flat("Table 8", title, name, row[name], _ends(row.get(f"{name}_ci")), row["n"])


def _trainings(report: dict) -> Iterator[Flat]:
    for stage, found in (report.get("training") or {}).items():
        after = found.get("heldout_after")
        loss = after.get("loss") if isinstance(after, dict) else after
        if loss is not None:
            yield Flat("Training", stage, "held-out loss, after", loss, better="lower")
        for finding in (found.get("verdict") or {}).get("findings") or ():
            yield from _verdict("Training", stage, finding["says"], finding)


def _pairs(report: dict) -> Iterator[Flat]:
    pairs = report.get("pairs") or {}
    for name, title in PAIRS.items():
        if pairs.get(name) is not None:
            yield Flat("Preference pairs", "all", title, pairs[name], better="neither")


def _quality(report: dict) -> Iterator[Flat]:
    quality = report.get("quality") or {}
    for name, share in (quality.get("accuracy") or {}).items():
        yield Flat(
            "Preference pairs", "all", f"{name} alone ranks right", share, None, quality["pairs"], "lower"
        )


def _verdict(table: str, of: str, figure: str, found: dict | None, called: str = "") -> Iterator[Flat]:
    """Of a paired difference, as model/metrics/verdict.py grades it."""
    if found and found.get("mean") is not None:
        ends = _ends((found.get("low"), found.get("high")))
        yield Flat(table, of, figure, found["mean"], ends, found.get("rows"), called=called)


def _ends(ends) -> tuple[float, float] | None:
    return None if not ends or ends[0] is None else (ends[0], ends[1])
