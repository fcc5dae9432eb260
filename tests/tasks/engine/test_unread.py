"""A process whose reader goes on, whatever prints: `print`, and rich, which ends a process over it."""

import subprocess
import sys

WRITES = """
import os, sys, time
from rich.console import Console
from tasks.engine.unread import goes_on_unread

if "guarded" in sys.argv:
    goes_on_unread()
print("ready", flush=True)
sys.stdin.read()  # until the reader has gone
nothing = os.stat(os.devnull).st_rdev
until = time.monotonic() + (60 if "guarded" in sys.argv else 0)
while os.fstat(1).st_rdev != nothing and time.monotonic() < until:
    time.sleep(0.01)
for number in range(100):
    print("line", number, flush=True)
    Console().print("line")
open(sys.argv[1], "w").close()
"""


def test_what_prints_goes_on_when_its_reader_has_gone(tmp_path):
    for guard in ("guarded", "unguarded"):
        command = [sys.executable, "-c", WRITES, str(tmp_path / guard), guard]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr is not None
        told = process.stderr.read()
        process.stderr.close()
        assert (process.wait(60) == 0) == (guard == "guarded"), told
        assert (tmp_path / guard).exists() == (guard == "guarded")
