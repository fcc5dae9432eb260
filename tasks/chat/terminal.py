"""A conversation in the terminal: what is typed becomes turns and commands, and what is answered streams.

Knows nothing of models.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from storage.errors import InputError
from storage.files import shell_word
from storage.store import StoreError, write_atomic
from tasks.chat.clips import Decoded, decode
from tasks.chat.conversation import HistorySize
from tasks.chat.talk import Answer, Talk, Turn
from tasks.terminal import LAYOUT, Terminal, clean, size_text

HELP = """/clip FILE      a video or sound file that goes with the next turn
/recall         what the memories give back of the last utterances
/rung N         another rung goes on with the conversation
/compare N      rung N answers beside this one; /compare alone: no more
/save [FILE]    the conversation as JSON
/help, /quit    Ctrl-C stops a reply, Ctrl-D ends"""
EMOTIONS_SHOWN = 3
ENDINGS: dict[str | None, str] = {"length": " …", "stopped": " [stopped]"}
"""What stands behind an answer that did not come to its own end."""


class TerminalChat:
    """talk: the conversation. out: where it is shown. run: the run's id, for the first line and for what is saved."""

    def __init__(self, talk: Talk, out: Terminal, run: str):
        self.talk, self.out, self.run = talk, out, run
        self.clip: Decoded | None = None
        self._answering = False
        self._commands: dict[str, Callable[[str], None]] = {
            "clip": self._clip,
            "recall": self._recall,
            "rung": self._rung,
            "compare": self._compare,
            "save": self._save,
            "help": self._help,
        }

    def go_on(self) -> None:
        """Until the input ends, or /quit."""
        title = self.talk.found.rungs[self.talk.rung].rung.title
        self.out.say(
            f"rung {self.talk.rung} ({title}) of run {self.run}; /help lists the commands, Ctrl-D ends"
        )
        with self._own_interrupt():
            for line in self._lines():
                if line.strip() in ("/quit", "/exit"):
                    return
                try:
                    self._do(line.strip())
                except (InputError, StoreError) as error:
                    self.out.say(str(error), style="red")
                except KeyboardInterrupt:
                    self.out.print()

    def _lines(self) -> Iterator[str]:
        asking = sys.stdin.isatty()
        if asking:
            import readline  # noqa: F401 - editing, and lines longer than the terminal's own 4096 bytes
        while True:
            try:
                line = input("you › ") if asking else sys.stdin.readline()
            except KeyboardInterrupt:
                self.out.print()
                self.out.say("/quit or Ctrl-D ends", style="dim")
                continue
            except EOFError:
                self.out.print()
                return
            if not line and not asking:
                return
            if line.strip():
                yield line

    def _do(self, line: str) -> None:
        if not line.startswith("/"):
            self._say(line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise InputError(f"/{name}: no such command; /help lists them")
        self._commands[name](rest.strip())

    # Turns --------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        clip = self.clip
        self._answering = True
        try:
            if self.talk.beside is not None and self.out.is_terminal:
                turn = self._side_by_side(text, clip)
            else:
                turn = self.talk.say(text, clip, _Streamed(self.out))
        finally:
            self._answering = False
        self.clip = None
        if clip is None and turn.emotion:
            self.out.say(f"  emotion: {emotion_text(turn.emotion)}", style="dim")
        for note in turn.notes:
            self.out.say(f"  {note}", style="dim")
        if turn.history is not None:
            self.out.say(f"  {history_text(turn.history)}", style="dim")

    def _side_by_side(self, text: str, clip: Decoded | None) -> Turn:
        with Live(console=self.out, auto_refresh=False) as live:

            def changed(turn: Turn) -> None:
                panels = Columns([self._panel(answer) for answer in turn.answers])
                felt = [Text(felt_text(turn.emotion), style="dim")] if clip and turn.emotion else []
                live.update(Group(*felt, panels), refresh=True)

            return self.talk.say(text, clip, changed)

    def _panel(self, answer: Answer) -> Panel:
        waiting = "…" if answer.ended is None and not answer.text else ""
        said = Text(clean(answer.text or waiting, LAYOUT)).append(ENDINGS.get(answer.ended, ""), style="dim")
        return Panel(said, title=answer.rung, width=max(20, self.out.width // 2 - 1))

    @contextmanager
    def _own_interrupt(self) -> Iterator[None]:
        """Within the block Ctrl-C stops a reply, and ends nothing else."""

        def interrupted(*_) -> None:
            if not self._answering:
                raise KeyboardInterrupt
            self.talk.stop()

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # Commands -----------------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        for line in HELP.splitlines():
            self.out.say(line)

    def _clip(self, file: str) -> None:
        if not file:
            raise InputError("/clip FILE: name a video or sound file")
        settings = self.talk.found.settings
        self.clip = decode(Path(file).expanduser(), settings.features, settings.media)
        self.out.say(f"{self.clip}; now type what is said", style="dim")

    def _recall(self, _: str) -> None:
        lines = self.talk.recall()
        if not lines:
            self.out.say("nothing was said yet", style="dim")
        for said, recalled in lines:
            self.out.say(f"  said      {said}")
            self.out.say(f"  recalled  {recalled or '–'}", style="cyan")

    def _rung(self, wanted: str) -> None:
        if not wanted:
            self._list_rungs()
            return
        self.talk.rung = self.talk.found.named(wanted).rung.name
        self.out.say(f"{self.talk.rung} goes on", style="dim")

    def _list_rungs(self) -> None:
        for name, parts in self.talk.found.rungs.items():
            self.out.say(f"{'›' if name == self.talk.rung else ' '} {name}: {parts.rung.title}")
        absent: dict[str, list[str]] = {}
        for name, why in self.talk.found.absent.items():
            absent.setdefault(why, []).append(name)
        for why, names in absent.items():
            self.out.say(f"  {', '.join(names)}: not there, {why}", style="dim")

    def _compare(self, wanted: str) -> None:
        other = self.talk.found.named(wanted).rung.name if wanted else None
        if other == self.talk.rung:
            raise InputError(f"{other} answers already; name another rung")
        self.talk.beside = other
        if other is None:
            self.out.say(f"{self.talk.rung} alone", style="dim")
        else:
            self.out.say(f"{other} answers beside; {self.talk.rung} goes on", style="dim")

    def _save(self, file: str) -> None:
        path = Path(file or f"chat-{time.strftime('%Y%m%d-%H%M%S')}.json").expanduser()
        if path.exists():
            raise InputError(f"{path}: exists; name another file")
        saved = {"run": self.run, **self.talk.saved()}
        write_atomic(path, (json.dumps(saved, ensure_ascii=False, indent=1) + "\n").encode())
        self.out.say(f"{shell_word(str(path))}: {len(self.talk.turns)} turns", style="dim")


class _Streamed:
    """Shows a turn's answers one after the other, each as it grows."""

    def __init__(self, out: Terminal):
        self.out = out
        self.number = 0
        self.shown = 0
        self.named = self.felt = False
        self._guard = threading.Lock()

    def __call__(self, turn: Turn) -> None:
        with self._guard:
            self._show(turn)

    def _show(self, turn: Turn) -> None:
        if turn.clip is not None and turn.emotion and not self.felt:
            self.felt = True
            self.out.say(felt_text(turn.emotion), style="dim")
        while self.number < len(turn.answers):
            answer = turn.answers[self.number]
            if not self.named and (answer.text or answer.ended):
                self.named = True
                self.out.print(Text(f"{answer.rung} › ", style="bold"), end="")
            self.out.print(Text(clean(answer.text[self.shown :], LAYOUT)), end="", soft_wrap=True)
            self.shown = len(answer.text)
            if answer.ended is None:
                return
            self.out.say(ENDINGS.get(answer.ended, ""), style="dim")
            self.number, self.shown, self.named = self.number + 1, 0, False


def felt_text(emotion: dict[str, float]) -> str:
    """The line above the answers to a turn with a clip."""
    return f"  emotion, by clip and words: {emotion_text(emotion)}"


def emotion_text(emotion: dict[str, float]) -> str:
    """The likeliest: "sad 0.41 · neutral 0.30"."""
    return " · ".join(f"{name} {share:.2f}" for name, share in list(emotion.items())[:EMOTIONS_SHOWN])


def history_text(size: HistorySize) -> str:
    """What the rung has of the conversation, a dot an utterance."""
    dots = "●" * size.shown
    if size.form == "text":
        return f"history {dots} as text: {size.positions} tokens"
    older = size.utterances - size.shown
    before = f", {older} older in its state alone" if older else ""
    return (
        f"memory {dots} {size.positions} embeddings for {size.as_text} tokens of text{before}; "
        f"state {size_text(size.state_bytes)}"
    )
