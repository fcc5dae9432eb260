"""Judgements -> means with intervals, differences, and how far participants agree (section 5.2, figure 5).

Intervals resample participants and conversations at once, since both would be others another time. Reads what `judgements`
made; knows nothing of servers, files or plots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics.agreement import alpha_interval
from model.metrics.bootstrap import Interval
from model.metrics.settings import BootstrapSettings
from model.metrics.student import t_quantile
from model.metrics.verdict import FEW, NO_DIFFERENCE
from tasks.study.judgements import Judgements, Row
from tasks.study.power import Power

LEAST = 4
"""Fewest participants, and fewest conversations, that decide which of two systems is better."""


@dataclass(frozen=True)
class Estimate:
    """A mean, the ends of its interval and its standard error (None: too few to say), and what it is made of."""

    mean: float | None
    low: float | None
    high: float | None
    error: float | None
    judgements: int
    participants: int
    items: int

    def as_dict(self) -> dict:
        shown = {name: None if value is None else round(value, 6) for name, value in vars(self).items()}
        return {
            **shown,
            "judgements": self.judgements,
            "participants": self.participants,
            "items": self.items,
        }


def crossed(
    values: Sequence[float],
    participants: Sequence[int],
    items: Sequence[str],
    settings: BootstrapSettings | None = None,
) -> Estimate:
    """Mean of the values; its interval draws participants and conversations, each with replacement, and takes what both hold.

    The pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", 2007): of crossed rows it never gives too narrow an
    interval. Ends are Student's t, with as many degrees of freedom as the smaller of the two counts has, times the
    standard error. No interval below two participants or two conversations.
    """
    settings = settings or BootstrapSettings()
    people, places = sorted(set(participants)), sorted(set(items))
    counts = {"judgements": len(values), "participants": len(people), "items": len(places)}
    if not len(values):
        return Estimate(None, None, None, None, **counts)
    mean = float(np.mean(values))
    if min(len(people), len(places)) < 2:
        return Estimate(mean, None, None, None, **counts)
    row = np.searchsorted(people, participants)
    column = np.searchsorted(places, items)
    sums, sizes = np.zeros((2, len(people), len(places)))
    np.add.at(sums, (row, column), np.asarray(values, dtype=np.float64) - mean)
    np.add.at(sizes, (row, column), 1)
    draws = np.random.default_rng(settings.seed)
    means = []
    for _ in range(settings.resamples):
        times = np.bincount(draws.integers(0, len(people), len(people)), minlength=len(people))
        often = np.bincount(draws.integers(0, len(places), len(places)), minlength=len(places))
        drawn = times @ sizes @ often
        if drawn:  # nobody drawn saw a conversation that was drawn: nothing to take a mean of
            means.append((times @ sums @ often) / drawn)
    error = float(np.std(means))
    reach = t_quantile((1 + settings.level) / 2, min(len(people), len(places)) - 1) * error
    return Estimate(mean, mean - reach, mean + reach, error, **counts)


def scored(found: Judgements, settings: BootstrapSettings | None = None, power: Power | None = None) -> dict:
    """Every figure of the study, for the page, the terminal and files.

    "systems": by system and question a mean, of all and by dataset; "differences": each system beside the compared one, paired by
    participant and conversation; "alpha" by question, its interval over conversations; "counts" of participants and judgements.
    """
    settings, power = settings or BootstrapSettings(), power or Power()
    rows = [row for row in found.rows if row.participant in found.counted]
    return {
        "title": found.title,
        "compared": found.systems[found.compared],
        "questions": found.questions,
        "scale": found.scale,
        "counts": {**found.counts, "judgements": len(rows), "not_counted": len(found.rows) - len(rows)},
        "systems": [
            {
                "system": name,
                "title": title,
                "questions": {
                    question: {
                        "all": _mean(rows, name, question, settings).as_dict(),
                        "by_dataset": {
                            dataset: _mean(_of(rows, found, dataset), name, question, settings).as_dict()
                            for dataset in sorted(set(found.datasets.values()))
                        },
                    }
                    for question in found.questions
                },
            }
            for name, title in found.systems.items()
        ],
        "differences": _differences(rows, found, settings, power),
        "alpha": {question: _alpha(rows, question, settings) for question in found.questions},
        "level": settings.level,
        "power": {"difference": power.difference, "power": power.power},
    }


def _of(rows: Iterable[Row], found: Judgements, dataset: str) -> list[Row]:
    return [row for row in rows if found.datasets[row.item] == dataset]


def _mean(rows: Iterable[Row], system: str, question: str, settings: BootstrapSettings) -> Estimate:
    its = [row for row in rows if row.system == system and row.question == question]
    return crossed([r.value for r in its], [r.participant for r in its], [r.item for r in its], settings)


def _differences(rows: list[Row], found: Judgements, settings: BootstrapSettings, power: Power) -> list[dict]:
    """The compared system less each other. detectable: the smallest difference that this study shows; needed: how many judgements
    of each system the asked one needs, by the spread that was seen."""
    first, others = found.compared, [name for name in found.systems if name != found.compared]
    table = {(r.participant, r.item, r.system, r.question): r.value for r in rows}
    made = []
    for other in others:
        for question in found.questions:
            both = [
                (value - table[person, item, other, question], person, item)
                for (person, item, system, asked), value in sorted(table.items())
                if system == first and asked == question and (person, item, other, question) in table
            ]
            values = [value for value, _, _ in both]
            estimate = crossed(values, [p for _, p, _ in both], [i for _, _, i in both], settings)
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            made.append(
                {
                    "first": first,
                    "second": other,
                    "question": question,
                    **estimate.as_dict(),
                    "grade": _grade(estimate),
                    "detectable": None if estimate.error is None else round(power.reach * estimate.error, 6),
                    "needed": None
                    if not spread
                    else int(np.ceil((power.reach * spread / power.difference) ** 2)),
                }
            )
    return made


def _grade(estimate: Estimate) -> str:
    """ "first" or "second" is better, or why that is not known."""
    if estimate.low is None or estimate.high is None or min(estimate.participants, estimate.items) < LEAST:
        return FEW
    return "first" if estimate.low > 0 else "second" if estimate.high < 0 else NO_DIFFERENCE


def _alpha(rows: list[Row], question: str, settings: BootstrapSettings) -> dict:
    """Of each reply its participants' values are one unit."""
    units: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row.question == question:
            units.setdefault((row.item, row.system), []).append(row.value)
    found = alpha_interval(list(units.values()), [item for item, _ in units], settings)
    several = sum(len(values) > 1 for values in units.values())
    return {
        **with_ends("alpha", found),
        "replies": len(units),
        "judged_by_several": several,
    }


def with_ends(name: str, found: Interval) -> dict:
    """A figure under its name, and the ends of its interval as "low" and "high"; None where there is none."""
    named = zip((name, "low", "high"), found, strict=True)
    return {of: None if np.isnan(value) else round(value, 6) for of, value in named}
