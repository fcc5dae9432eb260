"""How likely a rung finds the true reply, and human replies of other dialogues beside it. Knows nothing of metrics.

Of the same corpus, spoken by people, and as long as can be: what differs is the emotion that a reply is labelled with,
and that it answers another sentence. So there are two: one labelled with another emotion, one with the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from model.dialogue.likelihood import ReplyNats
from storage.exchanges import Exchange

NEUTRAL = "neutral"


class Likely(NamedTuple):
    """Of the true reply: nats and tokens; of the others nats a token. None: not asked."""

    nats: float | None = None
    tokens: int | None = None
    opposed: float | None = None
    same: float | None = None


def other_replies(
    wanted: Sequence[Exchange], pool: Sequence[Exchange]
) -> list[tuple[str | None, str | None]]:
    """For each exchange a human reply labelled with another emotion and one with the same, of `pool`; None: there is none.

    Of another dialogue of the dataset, and nearest in length, ties by key. Neither is neutral, nor the true reply over again; an
    exchange whose reply is neutral or unlabelled has none.
    """
    by_label: dict[tuple[str, str], list[tuple[int, tuple, str]]] = {}
    for e in pool:
        if e.reply_emotion not in (None, NEUTRAL):
            by_label.setdefault((e.dataset, e.reply_emotion), []).append((len(e.reply), e.key, e.reply))
    for rows in by_label.values():
        rows.sort()
    found: list[tuple[str | None, str | None]] = []
    for e in wanted:
        if e.reply_emotion in (None, NEUTRAL):
            found.append((None, None))
            continue
        others = [
            _nearest(rows, e)
            for (dataset, label), rows in sorted(by_label.items())
            if dataset == e.dataset and label != e.reply_emotion
        ]
        near = [other for other in others if other is not None]
        opposed = min(near, key=lambda row: (abs(row[0] - len(e.reply)), row[1]), default=None)
        same = _nearest(by_label.get((e.dataset, e.reply_emotion), []), e)
        found.append((opposed and opposed[2], same and same[2]))
    return found


def _nearest(rows: list[tuple[int, tuple, str]], e: Exchange) -> tuple[int, tuple, str] | None:
    """The row nearest in length to the exchange's reply, of another dialogue and another text."""
    middle = bisect_left(rows, (len(e.reply),))
    fits = [
        next((r for r in side if r[1][:3] != e.key[:3] and r[2] != e.reply), None)
        for side in (rows[middle:], reversed(rows[:middle]))
    ]
    return min(
        (row for row in fits if row is not None),
        key=lambda row: (abs(row[0] - len(e.reply)), row[1]),
        default=None,
    )


def asked_of(true: str, others: tuple[str | None, str | None]) -> tuple[str | None, str | None, str | None]:
    """The replies whose likelihood is asked; without the true one the others are not asked either."""
    return (true, *others) if true.strip() else (None, None, None)


def likely(nats: Sequence[ReplyNats | None]) -> Likely:
    """Of the replies of `asked_of`."""
    true, opposed, same = nats
    if true is None:
        return Likely()
    return Likely(round(true.nats, 6), true.tokens, _a_token(opposed), _a_token(same))


def _a_token(of: ReplyNats | None) -> float | None:
    return None if of is None else round(of.a_token, 6)
