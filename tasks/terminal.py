"""The only way to print: text from outside cannot act on the terminal.

Texts, speakers, file names and labels come from outside. A control sequence in one of them could move the cursor,
hide a line or change the window's title, and a bidirectional mark could show it in another order; they are printed by
their code (`\\x1b`). Everything goes through `Terminal`, or through `json_line` for programs. Knows nothing of runs.
"""

from __future__ import annotations

import json
import math
import sys
import traceback
import unicodedata
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.text import Text

LAYOUT = "\n"
"""The one control character that rich puts between lines."""
JOINERS = "\u200c\u200d"
"""Format characters that text needs, as in Persian words and composed emoji."""
UNREADABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are no text: controls, format marks, lone surrogates, other line ends."""


def clean(text: str, keep: str = "") -> str:
    """The text with every unprintable character replaced by its code, except those in `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c in keep or c in JOINERS or not _unreadable(c) else _code(c) for c in text)


def _unreadable(character: str) -> bool:
    return unicodedata.category(character) in UNREADABLE


def _code(character: str) -> str:
    named = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
    number = ord(character)
    width = 2 if number < 0x100 else 4 if number < 0x10000 else 8
    return named.get(character) or f"\\{'xuU'[(2, 4, 8).index(width)]}{number:0{width}x}"


class Terminal(Console):
    """A console that cleans whatever it prints: strings before they are measured, other renderables as they are
    written.
    """

    def __init__(self, **options):
        super().__init__(emoji=False, **options)

    def render_str(self, text: str, **options) -> Text:
        return super().render_str(clean(text, LAYOUT), **options)

    def render(self, renderable: RenderableType, options=None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text=clean(segment.text, LAYOUT))

    def say(self, text: str, style: str | None = None) -> None:
        """One line as it is: no markup, no highlighting, not wrapped."""
        self.print(Text(clean(text), style=style or ""), soft_wrap=True)

    def say_traceback(self, error: BaseException) -> None:
        """Print a defect's traceback, cleaned."""
        lines = "".join(traceback.format_exception(error))
        self.print(Text(clean(lines, LAYOUT)), end="", soft_wrap=True)


def json_line(value: object) -> None:
    """One JSON value on standard output, ASCII alone; a figure that is no number is null."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False, default=str) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def seconds_text(seconds: float) -> str:
    """A time as people say it: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def size_text(size: float) -> str:
    """Bytes in the unit that shows them: "640 kB", "12 MB", "23.4 GB"."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.3g} {unit}"
    return f"{size:.0f} bytes"
