"""The one way to the terminal: nothing that is printed does anything but be read."""

import io
import json
import subprocess
import unicodedata

import pytest
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from storage.files import shell_word
from tasks.terminal import Terminal, clean, json_line, seconds_text, size_text

HOSTILE = "a\x1b[31mb\x1b]0;t\x07c\u202ed\u2066e\x9bf\x00g\u2028h\ud800i\x7fj\ufeffk"


def dangerous(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n"}


def test_every_character_that_is_no_text_is_shown_by_its_code():
    shown = clean("".join(map(chr, range(0x110000))))
    assert dangerous(shown) == {"\u200c", "\u200d"}  # which Persian words and emoji are joined by
    assert clean("\x1b \n \u202e \U000e0041") == r"\x1b \n \u202e \U000e0041"
    for text in ("Ça va, señor? 你好 — “yes”…", "می\u200cخواهم", "👩\u200d🚀 e\u0301"):
        assert clean(text) == text


@pytest.mark.parametrize("colour", [None, "truecolor"])
def test_nothing_gets_through_rich_whatever_it_is_put_into(colour):
    """Strings, markup, cells, trees, titles, bars. Styles are rich's own, so with them only the rest is looked at."""
    file = io.StringIO()
    console = Terminal(file=file, width=60, force_terminal=colour is not None, color_system=colour)
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    tree = Tree(HOSTILE)
    tree.add(Text(HOSTILE))
    bar = Progress(TextColumn("{task.description}"), console=console)
    bar.add_task(HOSTILE, total=1)
    for thing in (
        HOSTILE,
        f"[bold]{HOSTILE}[/]",
        Text(HOSTILE),
        table,
        tree,
        Panel(HOSTILE),
        bar.get_renderable(),
    ):
        console.print(thing)
    console.say(HOSTILE)
    console.say_traceback(ValueError(HOSTILE))
    shown = file.getvalue()
    assert shown.count(r"\x1b]0;t\x07") >= 8
    assert "\x1b]0" not in shown and "\x07" not in shown
    assert dangerous(shown) <= ({"\x1b"} if colour else set())


def test_a_table_with_codes_is_as_wide_as_it_should_be():
    file = io.StringIO()
    table = Table("text")
    table.add_row("\x1b[31mred")
    Terminal(file=file, width=60).print(table)
    assert len({len(line) for line in file.getvalue().splitlines()}) == 1


def test_words_of_a_command_come_back_as_they_were():
    words = ["plain", "it's here", "$(touch x) `id`", "a\x1b]0;t\x07\n\u202eb", "naïve ü", "-", ""]
    line = " ".join(map(shell_word, words))
    assert dangerous(line) == set() and "\n" not in line
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert said.decode().split("\0")[:-1] == words


def test_json_stays_json(capsys):
    json_line({"a": float("nan"), "b": [float("inf"), 1.5], "c": HOSTILE, 3: ("x",)})
    shown = capsys.readouterr().out
    assert shown.isascii() and dangerous(shown) == set() and shown.count("\n") == 1
    assert json.loads(shown) == {"a": None, "b": [None, 1.5], "c": HOSTILE, "3": ["x"]}


def test_sizes_and_times_have_a_unit_that_shows_them():
    assert [size_text(n) for n in (0, 999, 534_000, 6_700_000, 23.4e9)] == [
        "0 bytes", "999 bytes", "534 kB", "6.7 MB", "23.4 GB",
    ]  # fmt: skip
    assert [seconds_text(s) for s in (0.4, 99, 101, 720, 12_000)] == [
        "0 s",
        "99 s",
        "2 min",
        "12 min",
        "3 h 20 min",
    ]
