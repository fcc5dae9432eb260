"""Figures reply by reply: what two runs need to be compared in pairs, and a table of every reply for whoever reads one.

Knows nothing of how a figure is measured."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from model.metrics.catalogue import METRICS
from storage.answers import Reply
from storage.measured import write_measured
from storage.store import canonical, digest_bytes

EACH_REPLY = "by_reply.parquet"
"""What the table of every reply is called among the stage's artefacts."""
SAID = (
    "dataset", "split", "dialogue_id", "turn", "sentence", "reference", "reply",
    "sentence_emotion", "reference_emotion", "finish_reason", "prompt_tokens", "reply_tokens",
)  # fmt: skip
Figures = dict[str, np.ndarray]
"""By metric, one value a reply, or its counts; NaN where a reply has none."""


def by_reply(rungs: dict[str, list[Reply]], measured: dict[str, Figures]) -> dict:
    """{"exchanges": [[key, digest of sentence and true reply]], "figures": {rung: {metric: [value an exchange]}}}.

    Of the metrics that are a mean over replies; None where a reply has none, or the rung did not answer. With the
    digest another run knows whether it answered the same.
    """
    answered = {reply.key: reply for said in rungs.values() for reply in said}
    ordered = sorted(answered)
    figures: dict[str, dict[str, list]] = {}
    for name, said in rungs.items():
        place = {reply.key: at for at, reply in enumerate(said)}
        figures[name] = {
            metric.key: [_known(measured[name][metric.key], place.get(key)) for key in ordered]
            for metric in METRICS
            if metric.per == "reply"
        }
    exchanges = [[*key, _content(answered[key])] for key in ordered]
    return {"exchanges": exchanges, "figures": figures}


def each_reply(systems: Iterable[tuple[str, str, list[Reply]]], measured: dict[str, Figures]) -> bytes:
    """Every reply of every system, floors included, beside those of its figures that are a mean over replies, as Parquet.

    systems: name, title, replies.
    """
    named = [metric.key for metric in METRICS if metric.per == "reply"]
    rows = (
        {
            "system": name,
            "title": title,
            **{column: getattr(reply, column) for column in SAID},
            **{figure: _known(measured[name][figure], at) for figure in named},
        }
        for name, title, said in systems
        for at, reply in enumerate(said)
    )
    return write_measured(rows, named)


def _content(reply: Reply) -> str:
    return digest_bytes(canonical([reply.sentence, reply.reference]))[:16]


def _known(values: np.ndarray, at: int | None) -> float | None:
    return None if at is None or np.isnan(values[at]) else round(float(values[at]), 6) + 0.0
