"""`empamba chat` on a real terminal: replies as they come, clips, two rungs side by side, and Ctrl-C."""

import pytest

from tests.support.clips import write_clip
from tests.support.talking import TALKING
from tests.support.typing_terminal import TypingTerminal

CTRL_C, CTRL_D = "\x03", "\x04"
PROMPT = "you › "
FELT = r"emotion, by clip and words: [a-z]+ [01]\.\d\d · "
LONG = "1000"
"""Tokens of a reply: so many that it is still being made when it is stopped."""


@pytest.mark.slow
def test_a_talk_on_a_terminal(tmp_path):
    clip = write_clip(tmp_path / "a.mp4")
    command = (*TALKING, str(tmp_path / "parts"), "chat", "--rung", "3", "--max-new-tokens", LONG)
    with TypingTerminal(tmp_path, command) as terminal:
        terminal.until(f"rung 3-mc .*{PROMPT}")
        terminal.types_until(CTRL_C, f"/quit or Ctrl-D ends.*{PROMPT}")  # nothing to stop, and no end
        terminal.types(f"/clip {clip}\n")
        terminal.until(rf"1\.\d s, heard and seen; now type what is said.*{PROMPT}")
        terminal.types("Go on and on.\n")
        # The reply is read while it is made: its first words are there, and it has not ended.
        begun = terminal.until(FELT + r".*3-mc › \S") + terminal.until(".{20}")
        assert "[stopped]" not in begun and "memory ●" not in begun
        terminal.types(CTRL_C)
        terminal.until(rf" \[stopped\].*memory ●●.*{PROMPT}")

        terminal.types("/compare 2\n")
        terminal.until(f"2-ft answers beside; 3-mc goes on.*{PROMPT}")
        terminal.types(f"/clip {clip}\n")
        terminal.until(f"now type what is said.*{PROMPT}")
        terminal.types("And both of you?\n")
        begun = terminal.until(FELT + r".*─ 3-mc ─.*─ 2-ft ─.*│ [^\s…][^│]*│ │ \S")
        assert "[stopped]" not in begun
        terminal.types(CTRL_C)
        shown = terminal.until(f"memory ●.*{PROMPT}")
        assert shown.count("[stopped]") >= 2
        # What stays on the screen begins with the emotion, and has both panels.
        last = shown[shown.rindex("emotion, by clip and words") :]
        assert "─ 3-mc ─" in last and "─ 2-ft ─" in last and last.count("[stopped]") == 2
        terminal.types(CTRL_D)
        assert terminal.ends() == 0
    assert "Traceback" not in terminal.shown
