"""A program that ends when its standard input does: `python -m tasks.engine.lifeline MODULE ARGUMENTS…`.

Whoever starts it keeps the other end of that pipe and writes nothing. The kernel closes it when the starter ends in
any way, so a kill leaves nothing behind. Knows nothing of the module.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def end_with_input(descriptor: int) -> None:
    """Wait until the pipe's other end is closed, and end this process at once."""
    while os.read(descriptor, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    pipe = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the module's own standard input is an empty one
    threading.Thread(target=end_with_input, args=(pipe,), daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
