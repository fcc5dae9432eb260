"""What a run shows in the terminal: a line per item with its reason, and a bar while it works.

Knows nothing of Prefect or of how items are run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.tree import Tree

from tasks.engine.planner import StagePlan

LINE_EVERY_S = 30.0
STATE_STYLE = {"fresh": "green", "stale": "yellow", "unknown": "magenta", "not run": "dim"}
ITEMS_SHOWN, REASONS_SHOWN = 6, 4
BAR = 10
"""Characters of a cosine's bar on either side of zero."""


def status_tree(plans: list[StagePlan]) -> Tree:
    """The plan as a tree: stages with their parts below, and below a stale one its items and why they are."""
    tree = Tree("pipeline", guide_style="dim")
    branches: dict[str, Tree] = {}
    for plan in plans:
        group, _, part = plan.stage.name.partition(".")
        if part and group not in branches:
            branches[group] = tree.add(group)
        branch = (branches[group] if part else tree).add(_stage_line(plan))
        branches.setdefault(plan.stage.name, branch)
        for label, reasons in list(plan.stale.items())[:ITEMS_SHOWN]:
            item = branch.add(escape(label)) if label != "all" else branch
            for reason in [*reasons[:REASONS_SHOWN], *(["…"] if len(reasons) > REASONS_SHOWN else [])]:
                item.add(f"[dim]{escape(reason)}[/]")
        if len(plan.stale) > ITEMS_SHOWN:
            branch.add(f"[dim]… and {len(plan.stale) - ITEMS_SHOWN} more items[/]")
        for line in dict.fromkeys(plan.behind.values()):
            branch.add(f"[cyan]{escape(line)}[/]")
    return tree


def _stage_line(plan: StagePlan) -> str:
    count = f" {len(plan.stale)} of {len(plan.items)} items" if plan.stale else ""
    reason = f" [dim]({escape(plan.reason)})[/]" if plan.reason else ""
    return f"{plan.stage.name} [{STATE_STYLE[plan.state]}]{plan.state}[/]{count}{reason}"


def candidate_card(example: dict) -> Group:
    """One exchange as in figure 8: sentence, true reply, and every candidate with its cosine to it as a bar."""
    place = (
        f"{example['dataset']}/{example['split']} dialogue {example['dialogue_id']}, turn {example['turn']}"
    )
    emotion = f" [dim]({escape(example['reply_emotion'])})[/]" if example["reply_emotion"] else ""
    table = Table.grid(padding=(0, 1))
    for wide in (False, False, False, True):
        table.add_column(overflow="fold", no_wrap=not wide)
    for candidate in example["candidates"]:
        style = "bold red" if candidate["chosen"] else "" if candidate["usable"] else "dim"
        cosine = candidate["cosine"]
        note = " ◀ counter-emotional" if candidate["chosen"] else ""
        if not candidate["usable"]:
            note = f" (unusable: {candidate['reason']})"
        figures = ("", "") if cosine is None else (_bar(cosine), f"{cosine:+.2f}")
        table.add_row(
            candidate["emotion"], *figures, escape(f"{candidate['text'] or '(nothing)'}{note}"), style=style
        )
    lines = [
        f"[dim]{escape(place)}[/]"
        + (f" [yellow]no pair: {example['outcome']}[/]" if example["outcome"] else ""),
        f"  [bold]sentence[/]    {escape(example['sentence'])}",
        f"  [bold]true reply[/]  {escape(example['reply'])}{emotion}",
    ]
    return Group(*lines, Padding(table, (0, 0, 1, 2)))


def _bar(cosine: float) -> str:
    """A cosine as a bar from the middle: less than zero to the left."""
    filled = round(min(1.0, abs(cosine)) * BAR)
    left, right = ("█" * filled, "") if cosine < 0 else ("", "█" * filled)
    return f"{left:>{BAR}}│{right:<{BAR}}"


class Display:
    """One per run, used from several threads. Without a terminal it prints a line now and then."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.bars = Progress(*columns, console=self.console, transient=True)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_) -> None:
        self.bars.stop()

    @contextmanager
    def item(self, name: str, why: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """Show one item while it runs; yields whom to tell of progress."""
        started = time.monotonic()
        self.console.print(f"[bold]{escape(name)}[/] [dim]{escape(_short(why))}[/]", soft_wrap=True)
        bar = self.bars.add_task(name, total=None, figures="")
        told = started

        def progress(step: int, steps: int, figures: dict[str, float]) -> None:
            nonlocal told
            text = " ".join(f"{key} {value:.3f}" for key, value in figures.items() if key != "step")
            self.bars.update(bar, completed=step, total=steps, figures=text)
            if not self.console.is_terminal and time.monotonic() - told > LINE_EVERY_S:
                told = time.monotonic()
                self.console.print(f"  {escape(name)}: {step} of {steps} {text}", soft_wrap=True)

        try:
            yield progress
        finally:
            self.bars.remove_task(bar)
        self.console.print(f"  [green]done[/] {escape(name)} in {time.monotonic() - started:.0f} s")

    def tell(self, name: str, line: str) -> None:
        """What a running item has to say."""
        self.console.print(f"  {escape(name)}: {escape(line)}", soft_wrap=True)

    def settled(self, plan: StagePlan, learned: str | None = None) -> None:
        """A stage that is complete, whether it ran, was reused, or had nothing to do; and what it learned."""
        if plan.state == "not run":
            self.console.print(
                f"[yellow]{plan.stage.name}: not run: {escape(plan.reason)}[/]", soft_wrap=True
            )
        elif not plan.stale:
            self.console.print(f"[dim]{plan.stage.name}: {len(plan.items)} items reused[/]")
        if learned:
            self.console.print(f"  {plan.stage.name}: {escape(learned)}", soft_wrap=True)


def _short(text: str, width: int = 150) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
