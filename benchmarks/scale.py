"""What MultiDialog would take of the machinery, and a thousand times as much: `make bench NAME=scale` prints docs/costs.md's table.

Nothing is measured here: rates are those that BENCHMARKS.md has, of two cores; what a card and a training take is costs.py's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from benchmarks.costs import GB, HOUR, MULTIDIALOG, SPREAD, Corpus, features_gb, host_gb, hours

READ_A_SECOND, STATUS_S, STATUS_A_SECOND = 26_000, 0.36, 70_000
"""Rows of labels; `status`, and files that it goes through a second beyond."""
STATUS_GB, STATUS_A_FILE = 0.066, 1.05e3
"""Memory of `status`, and bytes a file beyond."""
RUN_S, SERVER_S, RAY_S = 9e-3, 7e-3, 15.6e-3
"""An item in Prefect's two processes, and on a Ray cluster."""
RECORD = 20e3
"""Bytes an item that the store knows of it."""
SHARD, OTHER_ITEMS = 500, 42
"""data.bucket_rows: features, candidates and scores have an item a shard, all other stages so many together."""
PUTS, OBJECTS, LISTED, REQUEST_S, AT_ONCE = 3, 2, 1000, 0.05, 16
"""Of a bucket: requests an item to write, objects an item, objects a LIST names; a request's time is assumed."""
PUT_PRICE, MONTH_PRICE = 5e-6, 0.023
"""S3 Standard in us-east-1, dollars a PUT and a GB and month; not looked up again."""
CARD_PRICE = 2.0
"""Dollars an hour of one A100 of 80 GB, rented: assumed, not looked up."""


@dataclass(frozen=True)
class Size:
    """MultiDialog so many times."""

    times: int

    @property
    def corpus(self) -> Corpus:
        one = MULTIDIALOG
        parts = {name: getattr(one, name) * self.times for name in ("train", "dev", "test", "test_dialogues")}
        return replace(one, **parts)

    @property
    def files(self) -> int:
        return self.corpus.utterances

    @property
    def items(self) -> int:
        return 3 * math.ceil(self.files / SHARD) + OTHER_ITEMS

    def card_hours(self, spread: bool) -> float:
        """Of what is spread over machines, or of all else. As one card takes for MultiDialog whole: no setting bounds it."""
        return self.times * sum(h for stage, h in hours(MULTIDIALOG).items() if (stage in SPREAD) == spread)


def table() -> str:
    """Markdown."""
    lines = ["| what | rate | MultiDialog | × 1,000 | moved by |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows())])


def rows() -> list[tuple[str, ...]]:
    """What, at which rate, at one size and the other, and which setting moves it."""
    return [(what, rate, of(Size(1)), of(Size(1000)), setting) for what, rate, of, setting in ROWS]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.2g} h"


def _bytes(gb: float) -> str:
    for unit, size in (("TB", 1000.0), ("GB", 1.0)):
        if gb >= size:
            return f"{gb / size:.3g} {unit}"
    return f"{gb:.2g} GB" if gb >= 0.1 else f"{gb * 1000:.0f} MB"


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount < 1 else f"${amount:,.0f}"


def _cards(spread: bool):
    def told(size: Size) -> str:
        taken = size.card_hours(spread)
        return f"{taken:,.{1 if size.times == 1 else 0}f}, {_dollars(taken * CARD_PRICE)}"

    return told


def _stored(size: Size) -> str:
    gb = features_gb(size.corpus)
    return f"{_bytes(gb)}, {_dollars(gb * MONTH_PRICE)}"


def _opened(size: Size) -> str:
    lists = math.ceil(size.items * OBJECTS / LISTED)
    return f"{lists:,}, {_time(lists * REQUEST_S)}"


FEWER_FILES = "clips left in archives; several raw trees with a store each"
FEWER_ITEMS = "`data.bucket_rows`"
ROWS = (
    ("reading labels, one process", "26,000 rows a second", lambda s: _time(s.files / READ_A_SECOND), "none: once a change"),
    ("`status`: time", "0.36 s and a second for 70,000 files", lambda s: _time(STATUS_S + s.files / STATUS_A_SECOND), FEWER_FILES),
    ("`status`: memory", "66 MB and 1.05 kB a file", lambda s: _bytes(STATUS_GB + s.files * STATUS_A_FILE / GB), FEWER_FILES),
    ("host memory of every training's process", "16 GB and 12 kB an utterance", lambda s: _bytes(host_gb(s.corpus)), "none yet"),
    ("Prefect, the run's process and the server's", "9 and 7 ms an item",
     lambda s: f"{_time(s.items * RUN_S)} and {_time(s.items * SERVER_S)}", FEWER_ITEMS),
    ("the same items on a Ray cluster, at most", "15.6 ms an item", lambda s: _time(s.items * RAY_S), FEWER_ITEMS),
    ("what the store knows of items, 12 to 42 kB each", "20 kB an item", lambda s: _bytes(s.items * RECORD / GB), FEWER_ITEMS),
    ("a bucket: PUT requests", "three an item, $5 a million", lambda s: _dollars(s.items * PUTS * PUT_PRICE), FEWER_ITEMS),
    ("a bucket: to open it", "a LIST for 1,000 objects, 50 ms each", _opened, FEWER_ITEMS),
    ("a machine that is new to it", "a GET an item, sixteen at once, 50 ms each",
     lambda s: _time(s.items / AT_ONCE * REQUEST_S), FEWER_ITEMS),
    ("features, stored", "the table above; $0.023 a GB and month", _stored, "`features.video_tokens_per_frame`"),
    ("features, candidates, replies: card hours", f"the table above; ${CARD_PRICE:.0f} an hour", _cards(True),
     "spread by `run.runner=ray`; `candidates.budget`, `replies.exchanges`"),
    ("trainings and all else: card hours", f"the table above; ${CARD_PRICE:.0f} an hour", _cards(False),
     "`…training.max_tokens`, `ladder.exchanges`, `recognition.clips`"),
)  # fmt: skip


if __name__ == "__main__":
    print(table())
