"""What a run shows in the terminal: first what it is doing, then a line per item with its reason, and a bar while it
works.

Knows nothing of Prefect or of how items are run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status
from rich.tree import Tree

from tasks.engine.planner import StagePlan
from tasks.terminal import Terminal, clean, seconds_text

FIRST_LINE_S, LINE_EVERY_S = 1.0, 30.0
"""Without a terminal: seconds until the first progress line, and between the next ones."""
ESTIMATE_AFTER_S = 5.0
STATE_STYLE = {"fresh": "green", "stale": "yellow", "unknown": "magenta", "not run": "dim"}
ITEMS_SHOWN, REASONS_SHOWN = 6, 4


def status_tree(plans: list[StagePlan]) -> Tree:
    """The plan as a tree: stages, their parts, and the items of stale ones with their reasons."""
    tree = Tree("pipeline", guide_style="dim")
    branches: dict[str, Tree] = {}
    for plan in plans:
        group, _, part = plan.stage.name.partition(".")
        if part and group not in branches:
            branches[group] = tree.add(group)
        branch = (branches[group] if part else tree).add(_stage_line(plan))
        branches.setdefault(plan.stage.name, branch)
        for label, reasons in list(plan.stale.items())[:ITEMS_SHOWN]:
            item = branch.add(_plain(label)) if label != "all" else branch
            for reason in [*reasons[:REASONS_SHOWN], *(["…"] if len(reasons) > REASONS_SHOWN else [])]:
                item.add(f"[dim]{_plain(reason)}[/]")
        if len(plan.stale) > ITEMS_SHOWN:
            branch.add(f"[dim]… and {len(plan.stale) - ITEMS_SHOWN} more items[/]")
        for line in dict.fromkeys(plan.behind.values()):
            branch.add(f"[cyan]{_plain(line)}[/]")
    return tree


def _stage_line(plan: StagePlan) -> str:
    count = f" {len(plan.stale)} of {len(plan.items)} items" if plan.stale else ""
    reason = f" [dim]({_plain(plan.reason)})[/]" if plan.reason else ""
    return f"{plan.stage.name} [{STATE_STYLE[plan.state]}]{plan.state}[/]{count}{reason}"


def _plain(text: str) -> str:
    """Text from outside, as a part of rich's markup."""
    return escape(clean(text))


def left_s(first: tuple[float, int], now: float, step: int, steps: int) -> float | None:
    """Seconds that the steps left will take, at the pace since the first one told of; None while there is too little
    to go by.

    first: (when, which step). Steps done before it, as in a run that goes on, do not count.
    """
    began, at = first
    if step <= at or now - began < ESTIMATE_AFTER_S:
        return None
    return (now - began) / (step - at) * (steps - step)


class Waiting:
    """A spinner that says what is being done; without a terminal a line, if it takes long.

    One at a time: the next, or a run's display, ends the one before.
    """

    active: Waiting | None = None

    def __init__(
        self, what: str, unit: str = "", console: Console | None = None, after_s: float = FIRST_LINE_S
    ):
        self.what, self.unit, self.after_s = what, unit, after_s
        self.console = console or Terminal(stderr=True)
        self.done = self.total = 0
        self._ended = threading.Event()
        self._first: tuple[float, int] | None = None
        self._spinner: Status | None = None

    def start(self) -> Waiting:
        Waiting.end()
        Waiting.active = self
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._spinner = self.console.status(_plain(self.what))
            self._spinner.start()
        threading.Thread(target=self._tell, daemon=True).start()
        return self

    def stop(self) -> None:
        self._ended.set()
        if self._spinner is not None:
            self._spinner.stop()
        if Waiting.active is self:
            Waiting.active = None

    @classmethod
    def end(cls) -> None:
        """Stop showing anything."""
        if cls.active is not None:
            cls.active.stop()

    def progress(self, done: int, total: int) -> None:
        self._first = self._first or (time.monotonic(), done)
        self.done, self.total = done, total

    def line(self) -> str:
        """What is being done, how far it is and what is left."""
        if not self.total or self._first is None:
            return f"{self.what} …"
        left = left_s(self._first, time.monotonic(), self.done, self.total)
        estimate = "" if left is None else f", about {seconds_text(left)} left"
        return f"{self.what}: {self.done} of {self.total} {self.unit}{estimate}"

    def _tell(self) -> None:
        pause = 0.2 if self._spinner is not None else self.after_s
        while not self._ended.wait(pause):
            if self._spinner is not None:
                self._spinner.update(_plain(self.line()))
            else:
                self.console.print(_plain(self.line()), highlight=False, soft_wrap=True)
                pause = LINE_EVERY_S

    def __enter__(self) -> Waiting:
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()


@dataclass
class _Working:
    """An item that runs: how far it is, and when that was last told."""

    name: str
    bar: int
    started: float
    told: float
    first: tuple[float, int] | None = None
    step: int = 0
    steps: int = 0
    figures: str = ""

    def left(self) -> str:
        seconds = self.first and left_s(self.first, time.monotonic(), self.step, self.steps)
        return "" if seconds is None else f"about {seconds_text(seconds)} left"

    def line(self) -> str:
        if self.first is None:
            return f"{self.name}: at work for {seconds_text(time.monotonic() - self.started)}"
        told = [f"{self.step} of {self.steps}", self.figures, self.left()]
        return f"{self.name}: {', '.join(part for part in told if part)}"


class Display:
    """One per run, used from several threads. Without a terminal it prints a line of every item now and then.

    seconds: of work by stage, items added up.
    """

    def __init__(self, console: Console | None = None, line_every_s: float = LINE_EVERY_S):
        self.console = console or Terminal(stderr=True)
        self.line_every_s = line_every_s
        self.seconds: dict[str, float] = {}
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        self.bars = Progress(*columns, console=self.console, transient=True)
        self._live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._working: dict[int, _Working] = {}
        self._guard, self._ended = threading.Lock(), threading.Event()

    def __enter__(self) -> Display:
        Waiting.end()
        if self._live:
            self.bars.start()
        else:
            threading.Thread(target=self._tell_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._live:
            self.bars.stop()

    @contextmanager
    def item(self, name: str, why: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """Show one item while it runs; yields the callback for its progress."""
        started = time.monotonic()
        self._print(f"[bold]{_plain(name)}[/] [dim]{_plain(_short(why))}[/]")
        bar = self.bars.add_task(clean(name), total=None, figures="at work")
        shown = _Working(name, bar, started, started)
        with self._guard:
            self._working[bar] = shown

        def progress(step: int, steps: int, figures: dict[str, float]) -> None:
            shown.first = shown.first or (time.monotonic(), step)
            shown.step, shown.steps = step, steps
            shown.figures = " ".join(f"{key} {value:.3f}" for key, value in figures.items() if key != "step")
            beside = "  ".join(part for part in (shown.figures, shown.left()) if part)
            self.bars.update(bar, completed=step, total=steps, figures=beside)

        try:
            yield progress
        finally:
            self.bars.remove_task(bar)
            took, stage = time.monotonic() - started, name.split(" ")[0]
            with self._guard:
                del self._working[bar]
                self.seconds[stage] = round(self.seconds.get(stage, 0.0) + took, 1)
        self._print(f"  [green]done[/] {_plain(name)} in {seconds_text(took)}")

    def _tell_now_and_then(self) -> None:
        while not self._ended.wait(min(1.0, self.line_every_s)):
            now = time.monotonic()
            with self._guard:
                due = [shown for shown in self._working.values() if now - shown.told >= self.line_every_s]
            for shown in due:
                shown.told = now
                self._print(f"  {_plain(shown.line())}")

    def say(self, line: str) -> None:
        """A line about the run itself."""
        self._print(f"[dim]{_plain(line)}[/]")

    def print_line(self, name: str, line: str) -> None:
        """A message of a running item."""
        self._print(f"  {_plain(name)}: {_plain(line)}")

    def settled(self, plan: StagePlan, learned: str | None = None) -> None:
        """A stage that is complete, whether it ran, was reused, or had nothing to do; and what it learned."""
        if plan.state == "not run":
            self._print(f"[yellow]{plan.stage.name}: not run: {_plain(plan.reason)}[/]")
        elif not plan.stale:
            self._print(f"[dim]{plan.stage.name}: {len(plan.items)} items reused[/]")
        if learned:
            self._print(f"  {plan.stage.name}: {_plain(learned)}")

    def _print(self, markup: str) -> None:
        self.console.print(markup, soft_wrap=True)


def _short(text: str, width: int = 150) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
