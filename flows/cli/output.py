"""Standard output and error as the commands write to them, and yes-or-no questions."""

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
