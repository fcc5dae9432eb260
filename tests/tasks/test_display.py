"""What a person sees of a plan and of a run in the terminal."""

import io
import threading
import time

import pytest
from rich.console import Console

from tasks.display import Display, Waiting, left_s, status_tree
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.planner import StagePlan
from tasks.terminal import Terminal


def shown(*plans: StagePlan) -> list[str]:
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(status_tree(list(plans)))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_parts_stand_below_their_stage_and_reasons_below_their_item():
    features = Stage("features", "")
    items = [Item(features, "meld/train/0", {}), Item(features, "meld/train/1", {})]
    trained = StagePlan(
        Stage("compressor.pretrain", ""), "fresh", behind={"all": "behind the data by 3 rows"}
    )
    assert shown(
        StagePlan(Stage("utterances", ""), "fresh"),
        StagePlan(Stage("utterances.exchanges", ""), "fresh"),
        StagePlan(features, "stale", items, {"meld/train/1": ["changed input: meld/train dialogue [17]"]}),
        trained,
        StagePlan(Stage("epo", ""), "unknown", reason="unknown until features has run"),
    ) == [
        "pipeline",
        "├── utterances fresh",
        "│   └── utterances.exchanges fresh",
        "├── features stale 1 of 2 items",
        "│   └── meld/train/1",
        "│       └── changed input: meld/train dialogue [17]",
        "├── compressor",
        "│   └── compressor.pretrain fresh",
        "│       └── behind the data by 3 rows",
        "└── epo unknown (unknown until features has run)",
    ]


def test_what_is_left_is_told_by_the_pace_since_the_first_step():
    """By hand: from step 1000 at 0 s to step 1300 at 60 s are 5 a second, and 3700 are left: 740 s."""
    assert left_s((0.0, 1000), 60.0, 1300, 5000) == pytest.approx(740)
    assert left_s((0.0, 1000), 60.0, 1000, 5000) is None  # nothing was done since
    assert left_s((0.0, 0), 4.9, 10, 20) is None  # too short to tell
    assert left_s((0.0, 0), 10.0, 20, 20) == 0


class Lines(io.StringIO):
    """What is printed, line by line, for whoever waits for one."""

    def __init__(self):
        super().__init__()
        self.written = threading.Condition()

    def write(self, text):
        with self.written:
            super().write(text)
            self.written.notify_all()
        return len(text)

    def wait_for(self, part: str) -> str:
        with self.written:
            assert self.written.wait_for(lambda: part in self.getvalue(), timeout=60), self.getvalue()
        return self.getvalue()


def test_without_a_terminal_an_item_tells_now_and_then_how_far_it_is():
    lines = Lines()
    with Display(Terminal(file=lines, width=100), line_every_s=0.01) as display:
        with display.item("candidates [a]", "first run") as progress:
            lines.wait_for("candidates [a]: at work for 0 s")
            progress(3, 50, {"loss": 1.5})
            lines.wait_for("candidates [a]: 3 of 50, loss 1.500")
    shown = lines.getvalue().splitlines()
    assert shown[0] == "candidates [a] first run" and shown[-1] == "  done candidates [a] in 0 s"
    assert set(display.seconds) == {"candidates"}


def test_lines_come_no_more_often_than_asked_for():
    lines = Lines()
    with Display(Terminal(file=lines, width=100), line_every_s=3600) as display:
        with display.item("epo", "first run") as progress:
            for step in range(1000):
                progress(step, 1000, {"loss": 1.0})
    assert len(lines.getvalue().splitlines()) == 2  # that it began, and that it is done


def test_what_is_waited_for_is_told_once_it_takes_long_and_one_ends_the_other():
    lines = Lines()
    console = Terminal(file=lines, width=100)
    with Waiting("quick work", console=console, after_s=3600):
        pass
    first = Waiting("reading the raw data", "files", console, after_s=0.01).start()
    lines.wait_for("reading the raw data …")
    second = Waiting("starting", console=console, after_s=0.01).start()
    lines.wait_for("starting …")
    first.progress(3, 10)
    assert first.line() == "reading the raw data: 3 of 10 files"
    with Display(console):
        assert Waiting.active is None and second._ended.is_set()
    assert "quick" not in lines.getvalue()


def test_an_estimate_stands_beside_what_is_waited_for(monkeypatch):
    waiting = Waiting("reading the raw data", "files", Terminal(file=io.StringIO()))
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    waiting.progress(0, 1000)
    monkeypatch.setattr(time, "monotonic", lambda: 150.0)
    waiting.progress(100, 1000)
    assert waiting.line() == "reading the raw data: 100 of 1000 files, about 8 min left"
