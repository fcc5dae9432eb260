"""The two ends of the terminal that commands write to, and the question that a person answers there."""

from __future__ import annotations

import typer

from tasks.terminal import Terminal

out, err = Terminal(), Terminal(stderr=True)


def confirmed(question: str) -> bool:
    """Whether it was answered with yes; an end of the input or Ctrl-C is a no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        out.print()
        return False
