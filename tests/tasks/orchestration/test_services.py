"""Programs that outlive their starter: found by the lock they hold, never by a number alone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tasks.orchestration.services import LOG_BYTES, LOG_KEPT, Service, wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
READY = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]


@pytest.fixture
def service(tmp_path):
    found = Service("one", tmp_path)
    yield found
    found.stop(0.2)


def test_it_is_started_once_found_by_others_and_ended(service, tmp_path):
    assert service.pid() is None and not service.stop(1)
    assert service.start(SLEEP, dict(os.environ), tmp_path, {"address": "here"})
    assert wait_until(service.pid, 10)
    other = Service("one", tmp_path)  # as another command sees it
    assert other.pid() == service.pid() and other.facts() == {"address": "here"}
    assert not other.start(SLEEP, dict(os.environ), tmp_path, {"address": "elsewhere"})
    assert other.facts() == {"address": "here"}
    pid = other.pid()
    assert other.stop(10)
    os.waitpid(pid, 0)
    assert service.pid() is None


def test_a_number_that_another_process_has_by_now_is_never_signalled(service, tmp_path):
    """It was killed, and its number is in its file still: here that of a process that has nothing to do with it."""
    assert service.start(SLEEP, dict(os.environ), tmp_path, {})
    assert wait_until(service.pid, 10)
    os.kill(service.pid(), 9)
    assert wait_until(lambda: service.pid() is None, 10)
    stranger = subprocess.Popen(SLEEP)
    try:
        (tmp_path / "one.pid").write_text(str(stranger.pid))
        assert service.pid() is None and not service.stop(1)
        time.sleep(0.3)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_does_not_end_is_killed(service, tmp_path):
    assert service.start(STUBBORN, dict(os.environ), tmp_path, {})
    assert wait_until(lambda: service.last_words() == "ready", 10)
    assert service.stop(0.5)
    assert service.pid() is None


def test_an_interrupt_reaches_what_was_started_where_it_was_ignored(service, tmp_path):
    """As all that a shell starts in the background has it."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert service.start(READY, dict(os.environ), tmp_path, {})
    finally:
        signal.signal(signal.SIGINT, usual)
    assert wait_until(lambda: service.last_words() == "ready", 10)
    os.kill(service.pid(), signal.SIGINT)
    assert wait_until(lambda: service.pid() is None, 10)


GROWS = """
import sys, time
from pathlib import Path
line = "x" * 1023
for n in range(int(sys.argv[1])):
    print(n, line)
print("full", flush=True)
while not Path("go").exists():
    time.sleep(0.05)
print("after", flush=True)
time.sleep(60)
"""


def test_a_log_that_has_grown_is_cut_while_its_program_writes_on(service, tmp_path):
    """Cut in the file that the program holds open, whose next line stands behind what was kept."""
    command = [sys.executable, "-c", GROWS, str(LOG_BYTES // 1024)]
    assert service.start(command, dict(os.environ), tmp_path, {})
    assert wait_until(lambda: service.last_words() == "full", 60)
    service.cut_log()
    (tmp_path / "go").touch()
    assert wait_until(lambda: service.last_words() == "after", 30)
    lines = service.log.read_text().splitlines()
    assert service.log.stat().st_size < LOG_KEPT + 10_000
    kept = [int(line.split()[0]) for line in lines[:-2]]
    assert kept == list(range(kept[0], LOG_BYTES // 1024)) and len(kept) > 4000
    before = service.log.read_bytes()
    service.cut_log()
    assert service.log.read_bytes() == before
