"""`empamba chat` and `empamba serve` as programs, over parts that need no run:

    python -m tests.support.talking FOLDER chat --web …

The parts (tests/support/talkative.py) are written into FOLDER and stand for those of the store's last run; all else is the
command's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flows.cli import chat, entry
from tests.support.talkative import talkative

TALKING = (sys.executable, "-m", "tests.support.talking")

if __name__ == "__main__":
    folder = Path(sys.argv.pop(1))
    chat._trained = lambda which: (talkative(folder), "a-run")
    entry.main()
