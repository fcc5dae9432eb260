"""Items in worker processes: what a forked item leaves behind, how its death is told, and who ends with whom."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from storage.store import Ref, Store
from tasks.engine.declaration import Stage
from tasks.engine.item import Item, Workspace
from tasks.engine.jobs import StageFailed, job_of, outcome
from tasks.engine.worker import StageWorker
from tasks.settings import RunSettings

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
SEEN: list[str] = []


def remember(word: str, work: Workspace) -> list[Ref]:
    """A stage that would notice an item before it in the same process."""
    SEEN.append(word)
    return [work.store.put_bytes(f"seen/{word}", f"{os.getpid()} {' '.join(SEEN)}".encode())]


def die(word: str, work: Workspace) -> list[Ref]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def sleep(word: str, work: Workspace) -> list[Ref]:
    """A stage that has started a program of its own, as decoding does, which hangs."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    work.progress(1, 2, {})
    time.sleep(600)
    return []


def item(function: str, word: str) -> Item:
    return Item(Stage(function, f"{HERE.stem}:{function}"), "all", {"word": word})


def run(worker: StageWorker, given: Item, progress=lambda *_: None, **settings) -> tuple[Ref, ...]:
    job = job_of(given, worker.store, worker.raw, RunSettings(**settings))
    return outcome(job, worker.answers(job), progress)


@pytest.fixture
def environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(ROOT)])}


@pytest.fixture
def worker(tmp_path, environment):
    started = StageWorker("shared", tmp_path, tmp_path, environment, forks=True)
    yield started
    started.kill()


def seen(worker: StageWorker, word: str) -> tuple[str, str]:
    """(process id, words seen by that process) of one item."""
    (ref,) = run(worker, item("remember", word))
    pid, _, words = Store(worker.store).read(ref).decode().partition(" ")
    return pid, words


def test_items_in_quick_succession_do_not_end_one_another(worker):
    words = [f"w{i}" for i in range(60)]
    assert [seen(worker, word)[1] for word in words] == words


def test_a_forked_item_leaves_nothing_behind(worker):
    first, second = seen(worker, "one"), seen(worker, "two")
    assert (first[1], second[1]) == ("one", "two")
    assert len({first[0], second[0], str(worker.process.pid)}) == 3


def test_a_worker_of_one_stage_keeps_what_it_loaded(tmp_path, environment):
    worker = StageWorker("remember", tmp_path, tmp_path, environment)
    try:
        assert seen(worker, "one") == (str(worker.process.pid), "one")
        assert seen(worker, "two") == (str(worker.process.pid), "one two")
    finally:
        worker.kill()


def test_the_death_of_a_forked_item_is_told_and_the_next_one_runs(worker):
    with pytest.raises(StageFailed, match=r"die \[all\]: its process was killed by SIGSEGV; log: "):
        run(worker, item("die", "one"))
    assert seen(worker, "two")[1] == "two"


@pytest.mark.parametrize("forks", [True, False])
def test_an_item_ends_with_all_it_started_when_the_run_is_killed(tmp_path, environment, forks):
    program = (
        "import sys; from test_worker import *\n"
        f"worker = StageWorker('shared', Path(sys.argv[1]), Path(sys.argv[1]), {{}}, forks={forks})\n"
        "run(worker, item('sleep', 'one'), lambda *_: print(worker.process.pid, flush=True))\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
    worker = psutil.Process(int(run.stdout.readline()))
    family = [worker, *worker.children(recursive=True)]
    assert len(family) == (3 if forks else 2)
    run.kill()
    run.wait()
    run.stdout.close()
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_a_worker_that_is_importing_ends_with_the_run_too(tmp_path, environment):
    """A fork server, which has no thread to look, in the middle of a stage's module."""
    program = (
        "import sys; from test_worker import *\n"
        "worker = StageWorker('shared', Path(sys.argv[1]), Path(sys.argv[1]), {}, forks=True)\n"
        "print(worker.process.pid, flush=True)\n"
        "run(worker, Item(Stage('slow', 'slow_module:nothing'), 'all', {}))\n"
    )
    (tmp_path / "slow_module.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'importing')!r}).touch()\n"
        "while True: time.sleep(0.01)\n"
    )
    path = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    run = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
    )
    worker = psutil.Process(int(run.stdout.readline()))
    deadline = time.monotonic() + 60
    while not (tmp_path / "importing").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "importing").exists() and worker.is_running()
    run.kill()
    run.wait()
    run.stdout.close()
    assert psutil.wait_procs([worker], timeout=60)[1] == []


@pytest.mark.parametrize("forks", [True, False])
def test_an_item_that_gives_no_sign_is_ended_with_all_it_started(tmp_path, environment, forks):
    worker = StageWorker("sleep", tmp_path, tmp_path, environment, forks=forks)
    below: list[psutil.Process] = []
    try:
        with pytest.raises(
            StageFailed, match=r"no sign of its process for 2 s.*run\.silent_limit_s"
        ) as failed:
            run(
                worker,
                item("sleep", "one"),
                lambda *_: below.extend(psutil.Process(worker.process.pid).children(recursive=True)),
                silent_limit_s=2.0,
            )
        assert not failed.value.passing and below
        assert psutil.wait_procs(below, timeout=10)[1] == []
    finally:
        worker.kill()


def unlucky(word: str, work: Workspace) -> list[Ref]:
    """A stage whose hub breaks the connection off the first two times."""
    tries = work.raw / "tries"
    tries.write_text(tries.read_text() + "." if tries.exists() else ".")
    if word == "never" or len(tries.read_text()) < 3:
        raise ConnectionResetError(word)
    return [work.store.put_bytes("lucky", b"")]


def test_a_failure_says_whether_it_can_pass(worker):
    with pytest.raises(StageFailed) as failed:
        run(worker, item("unlucky", "once"))
    assert failed.value.passing and not failed.value.usage
