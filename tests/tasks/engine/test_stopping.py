"""A stop as its parts hear it, and a process's signals; whole runs are in tests/flows/test_stopping.py."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.pool import WorkerPool
from tasks.engine.session import Session
from tasks.engine.slots import Slots
from tasks.engine.stopping import Stop, Stopped
from tasks.settings import RunSettings, load_settings
from tests.support.shell import as_from_a_terminal

ROOT = Path(__file__).resolve().parents[3]
ITEM = Item(Stage("one", "tasks.stages.shard_names:place"), "all", {})


def test_everybody_hears_the_first_reason_once_and_who_comes_later_too():
    stop, heard, both = Stop(), [], threading.Semaphore(0)

    def hear(why: str) -> None:
        heard.append(why)
        both.release()

    stop.on_stop(hear)
    stop.check()
    stop.request("first")
    stop.request("second")
    assert both.acquire(timeout=20)
    stop.on_stop(hear)
    assert heard == ["first", "first"]
    with pytest.raises(Stopped, match="first"):
        stop.check()


def test_who_waits_for_a_place_is_told_and_who_has_one_keeps_it():
    slots, told = Slots(1, {"a": 2}, {"a": 1}), []

    def wait() -> None:
        try:
            with slots.take("a"):
                told.append("a place")
        except Stopped as stopped:
            told.append(str(stopped))

    with slots.take("a"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        slots.close("enough")
        waiting.join(20)
    assert told == ["enough"]
    with pytest.raises(Stopped, match="enough"), slots.take("a"):
        pass


def test_a_closed_pool_starts_nothing(tmp_path):
    pool = WorkerPool(RunSettings(), tmp_path, tmp_path, {})
    pool.close("enough")
    with pytest.raises(Stopped, match="enough"):
        pool.run(ITEM, tmp_path / "scratch", lambda *_: None)
    assert not (tmp_path / "logs").exists()


def test_who_waits_for_another_runs_item_hears_the_stop(tmp_path):
    """The other one holds the item's lock for as long as it works, which may be hours."""
    told = []
    with Session(load_settings("tiny"), "tiny", tmp_path / "store", None) as session:

        def wait() -> None:
            try:
                session.execute(ITEM, lambda *_: None)
            except Stopped as stopped:
                told.append(str(stopped))

        with session.store.lock(ITEM.key()):
            waiting = threading.Thread(target=wait, daemon=True)
            waiting.start()
            assert told == []
            session.stop.request("enough")
            waiting.join(20)
            assert told == ["enough"]


PROGRAM = """
import sys, threading, os
from tasks.engine.stopping import Interrupted, Stop, handling_signals, stopped_by_signals, notified_at_exit
import tasks.engine.stopping as stopping
stopping.PATIENCE_S = float(sys.argv[1])
stop = Stop()
def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # whole lines, from any thread
with (
    handling_signals(lambda why: say("last words:", why)) as heed,
    stopped_by_signals(stop),
    notified_at_exit(lambda why: say("cut off:", why)),
    notified_at_exit(lambda why: threading.Event().wait()),
):
    stop.on_stop(lambda why: say("heard:", why))
    try:
        say("ready")
        while True:
            threading.Event().wait()
    except Interrupted as interrupted:
        say("raised:", interrupted)
    if sys.argv[2] == "stuck":
        while True:
            threading.Event().wait()
    sys.exit(handler.code)
"""


@pytest.fixture
def process():
    """process(patience, ending): the program above, ready; it ends with the test."""
    started = []

    def start(patience: str, ending: str) -> subprocess.Popen:
        command = [sys.executable, "-c", PROGRAM, patience, ending]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=ROOT, text=True, preexec_fn=as_from_a_terminal
        )
        started.append(process)
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for running in started:
        running.kill()
        running.wait()
        running.stdout.close()


def test_a_signal_is_heard_raised_once_and_an_impatient_second_one_changes_nothing(process):
    running = process("60", "stuck")
    os.kill(running.pid, signal.SIGINT)
    assert {running.stdout.readline(), running.stdout.readline()} == {
        "heard: stopped by SIGINT\n", "raised: stopped by SIGINT\n"
    }  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(running.pid, number)
    assert running.poll() is None
    running.kill()
    assert running.stdout.read() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_does_not_end_in_time_is_ended_with_the_signals_code(process, number):
    running = process("0.1", "stuck")
    os.kill(running.pid, number)
    assert running.wait(60) == 128 + number
    said = running.stdout.read().splitlines()
    # Whoever does not come back from telling holds nobody up.
    assert (
        f"cut off: stopped by {number.name}" in said and said[-1] == f"last words: stopped by {number.name}"
    )
