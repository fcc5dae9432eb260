"""Signals, kills and cancels against real runs: what ends, how soon, and what Prefect says of it afterwards."""

import os
import signal
from pathlib import Path

import pytest

from storage.sample.layout import write_sample
from tests.support.prefect_server import api, prefect_server, wait_for
from tests.support.shell import ROOT, Shell, last_line

pytestmark = pytest.mark.slow

WITHIN_S = 10
SUBFLOWS = {"build-shards", "make-pairs", "train-models", "write-report"}
WORKER = "tasks.engine.worker"
SHARED = ("--set", "run.parallel=1")
OWN = ("--set", "run.parallel=1", "--set", "run.share_workers=false")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False, dialogues=2, turns=6)
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with prefect_server(tmp_path_factory.mktemp("server")) as client:
        yield client


def run(folder: Path, raw: Path, environment: dict, *arguments: str) -> Shell:
    """A run of the tiny profile into its own store; what is trained takes all the time there is."""
    return Shell(folder, "run", "--profile", "tiny", "--raw", str(raw), *arguments, environment=environment)


def flow_runs(server: dict) -> dict[str, dict]:
    """The latest run of each flow, by the flow's name."""
    names = {flow["id"]: flow["name"] for flow in api(server, "flows/filter", {"limit": 50})}
    runs = api(server, "flow_runs/filter", {"sort": "START_TIME_ASC", "limit": 200})
    return {names[run["flow_id"]]: run for run in runs}


def states(server: dict) -> dict[str, str]:
    return {name: run["state"]["name"] for name, run in flow_runs(server).items()}


def has_fork(shell: Shell) -> bool:
    """Whether an item runs in a fork of a shared worker: a child with the worker's own command line."""
    workers = shell.children(f"{WORKER} --forks")
    ids = {worker.pid for worker in workers}
    return any(worker.ppid() in ids for worker in workers)


def works(shell: Shell, word: str) -> bool:
    """Whether a process with `word` in its command line is at work."""
    return bool(shell.children(word))


def has_checkpoint(folder: Path) -> bool:
    """Whether a training has taken a step: its state lies in the store's scratch folder."""
    return any((folder / "store" / "scratch").glob("*/*"))


KINDS = {
    "an item forked from a shared worker": (
        SHARED,
        lambda shell, folder: "exchanges first run" in shell.text() and has_fork(shell),
    ),
    "an item in a worker of its stage": (
        OWN,
        lambda shell, folder: "exchanges first run" in shell.text() and works(shell, WORKER),
    ),
    "an engine in a process of its own": (
        SHARED,
        lambda shell, folder: "candidates [" in shell.text() and works(shell, "model.generation.worker"),
    ),
    "a training": (
        (*SHARED, "--set", "run.checkpoint_s=0", "--until", "compressor.pretrain",
         "--set", "compressor.pretrain.epochs=1000", "--set", "compressor.pretrain.max_tokens=null"),
        lambda shell, folder: has_checkpoint(folder),
    ),
    "a training in several processes": (
        (*SHARED, "--set", "run.checkpoint_s=0", "--until", "compressor.pretrain", "--set", "run.processes=2",
         "--set", "compressor.pretrain.epochs=1000", "--set", "compressor.pretrain.max_tokens=null"),
        lambda shell, folder: has_checkpoint(folder),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind, number, code",
    [
        ("an item forked from a shared worker", signal.SIGINT, 130),
        ("an item in a worker of its stage", signal.SIGTERM, 143),
        ("an engine in a process of its own", signal.SIGINT, 130),
        ("a training", signal.SIGTERM, 143),
        ("a training in several processes", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_the_run_and_all_it_started(tmp_path, raw, server, kind, number, code):
    arguments, at_work = KINDS[kind]
    with run(tmp_path, raw, server, *arguments) as shell:
        shell.until(lambda: at_work(shell, tmp_path))
        begun = shell.text().count("first run")
        shell.send(number)
        shell.send(number)  # an impatient second one changes nothing
        assert shell.ends(WITHIN_S) == code
        said = shell.text()
        assert said.count("first run") == begun, said
        assert last_line(said) == (
            f"stopped by {number.name}; `empamba run --profile tiny --raw {raw}"
            + "".join(f" {argument}" for argument in arguments)
            + "` goes on from here"
        )
        assert "Traceback" not in said, said
        assert shell.leaves(WITHIN_S) == []
    found = states(server)
    assert found["reproduce"] == "Cancelled"
    # On a busy machine the signal may come before the last of them has begun.
    parts = {found[name] for name in SUBFLOWS if name in found}
    assert "Cancelled" in parts and parts <= {"Cancelled", "Completed"}


STUCK = """
import threading
from pathlib import Path
from tasks.engine.declaration import Stage

def items(made):
    if threading.current_thread() is not threading.main_thread():
        Path("stuck").touch()
        while True:
            threading.Event().wait()
    return {"all": {}}  # the plan before the run is made in the main thread

STAGE = Stage(name="stuck", title="Stuck", flow="make_pairs", needs=(), items=items, function="stuck_stage:work")

def work(work):
    return []
"""


def test_what_the_forced_end_cuts_off_is_cancelled_and_not_left_running(tmp_path, raw, server):
    """A stage of somebody's own whose planning never comes back, and hears nothing."""
    (tmp_path / "stuck_stage.py").write_text(STUCK)
    here = {**server, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    asked = ("--set", 'run.stages=["stuck_stage:STAGE"]', "--until", "stuck")
    with run(tmp_path, raw, here, *asked) as shell:
        shell.until(lambda: (tmp_path / "stuck").exists())
        shell.send(signal.SIGTERM)
        assert shell.ends(WITHIN_S) == 143
        assert "stopped by SIGTERM" in last_line(shell.text())
    found = states(server)
    assert (found["reproduce"], found["make-pairs"]) == ("Cancelled", "Cancelled")


def test_work_in_the_command_itself_ends_too(tmp_path):
    """The sample corpus is filmed by processes of the command's own, before any stage."""
    with Shell(tmp_path, "sample", "corpus") as shell:
        shell.until(lambda: list(tmp_path.rglob("*.mp4")))  # in a folder of its own until all is there
        shell.send(signal.SIGTERM)
        assert shell.ends(WITHIN_S) == 143
        assert last_line(shell.text()).startswith("stopped by SIGTERM; ")
        assert shell.leaves(WITHIN_S) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_outlives_a_run_that_is_killed_or_hung_up(tmp_path, raw, number):
    """Its own server among the rest, and a worker that is in the middle of a training."""
    arguments, at_work = KINDS["a training"]
    with run(tmp_path, raw, {"PREFECT_HOME": str(tmp_path / "prefect")}, *arguments, *OWN) as shell:
        shell.until(lambda: at_work(shell, tmp_path))
        assert works(shell, "uvicorn") and works(shell, WORKER)
        shell.send(number)
        assert shell.ends(WITHIN_S) == 128 + number
        assert shell.leaves(WITHIN_S) == []


def test_the_death_of_its_own_server_ends_a_run_in_seconds(tmp_path, raw):
    arguments, at_work = KINDS["a training"]
    with run(tmp_path, raw, {"PREFECT_HOME": str(tmp_path / "prefect")}, *arguments) as shell:
        shell.until(lambda: at_work(shell, tmp_path))
        (own,) = shell.children("uvicorn")
        own.kill()
        assert shell.ends(WITHIN_S) == 1
        assert "the run's own server was killed by signal 9" in last_line(shell.text())
        assert last_line(shell.text()).endswith("goes on from here")
        assert shell.leaves(WITHIN_S) == []


def test_a_cancel_ends_a_run_that_reports_to_a_server(tmp_path, raw, server):
    arguments, at_work = KINDS["a training"]
    with run(tmp_path, raw, server, *arguments) as shell:
        shell.until(lambda: at_work(shell, tmp_path))
        begun = shell.text().count("first run")
        reproduce = flow_runs(server)["reproduce"]
        assert reproduce["state"]["name"] == "Running"
        wanted = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        assert api(server, f"flow_runs/{reproduce['id']}/set_state", wanted)["status"] == "ACCEPT"
        assert shell.ends(WITHIN_S + 2) == 143  # it asks every two seconds
        assert "cancelled in Prefect" in last_line(shell.text())
        assert shell.text().count("first run") == begun
        assert shell.leaves(WITHIN_S) == []
    found = states(server)
    assert found["reproduce"] == "Cancelled" and found["train-models"] == "Cancelled"


def test_runs_at_once_have_a_server_and_a_database_each(tmp_path, raw):
    """In a new home, where both would set up the same database."""
    home = {"PREFECT_HOME": str(tmp_path / "prefect")}
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with (
        run(folders[0], raw, home, "--until", "utterances") as one,
        run(folders[1], raw, home, "--until", "utterances") as other,
    ):
        one.until(lambda: works(one, "uvicorn"))
        other.until(lambda: works(other, "uvicorn"))
        assert (one.ends(240), other.ends(240)) == (0, 0), one.text() + other.text()
        said = one.text() + other.text()
    logs = {path.name: path.read_text() for path in (tmp_path / "prefect" / "empamba").glob("*.log")}
    assert sorted(logs) == ["0.log", "1.log"]
    assert "locked" not in said + "".join(logs.values())


def test_a_killed_runs_flow_runs_are_crashed_once_the_next_one_starts(tmp_path, raw, server):
    arguments, at_work = KINDS["a training"]
    with run(tmp_path, raw, server, *arguments) as shell:
        shell.until(lambda: at_work(shell, tmp_path))
        killed = {name: run["id"] for name, run in flow_runs(server).items()}
        os.kill(shell.process.pid, signal.SIGKILL)
        shell.ends(WITHIN_S)
    assert api(server, f"flow_runs/{killed['reproduce']}")["state"]["name"] == "Running"
    with run(tmp_path, raw, server, "--until", "utterances") as shell:
        living = shell.until(
            lambda: [r for r in flow_runs(server).values() if r["id"] not in killed.values()]
        )
        shell.until(lambda: api(server, f"flow_runs/{killed['reproduce']}")["state"]["name"] == "Crashed")
        assert wait_for(lambda: living, 1)
        shell.ends(240)
    assert api(server, f"flow_runs/{killed['train-models']}")["state"]["name"] == "Crashed"
    filters = {"flow_runs": {"id": {"any_": list(killed.values())}}, "limit": 200}
    left = {run["state"]["name"] for run in api(server, "task_runs/filter", filters)}
    assert left <= {"Crashed", "Completed"} and "Crashed" in left
    assert states(server)["reproduce"] == "Completed"
