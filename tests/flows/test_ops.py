"""`empamba ops` with a real server and worker: up, a change that the schedule handles end to end, failures, kills.

One machine's services for all tests here; they follow one another in this order.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from storage.sample.layout import write_sample
from tasks.orchestration.ops import ENDS_S, Ops
from tasks.orchestration.rest import Api
from tests.support.command_line import ROOT, empamba
from tests.support.waiting import wait_for
from tests.support.webhook import webhook

pytestmark = pytest.mark.slow

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
HELD = '''
"""A stage of three items, each of which notes that it began, waits for the word to go on, and notes that it is done."""

import time

from storage.store import Ref
from tasks.engine.declaration import Stage
from tasks.engine.item import Workspace


def beside(store, ending):
    return store.root.with_name(f"{store.root.name}.{ending}")


def note(store, line):
    with open(beside(store, "notes"), "a") as notes:
        notes.write(line + "\\n")


def hold(number: int, work: Workspace) -> list[Ref]:
    note(work.store, f"begun {number}")
    while not beside(work.store, f"go-{number}").exists():
        time.sleep(0.05)
    ref = work.store.put_bytes(f"held-{number}.json", b"{}")
    note(work.store, f"done {number}")
    return [ref]


STAGE = Stage(
    name="held",
    flow="write_report",
    needs=("utterances",),
    items=lambda made: {str(number): {"number": number} for number in range(3)},
    function="held_stage:hold",
)
'''
BEGINS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

from prefect import flow

from tasks.engine.stopping import Stop
from tasks.orchestration.run_stages import as_part

folder = Path(sys.argv[1])

@flow
def within(request):
    return "it was begun"

@flow
def around():
    (folder / "ready").touch()
    while not (folder / "alone").exists():
        time.sleep(0.05)
    with ThreadPoolExecutor(1) as pool:  # as flows that run side by side are begun
        (folder / "begins").touch()
        return pool.submit(copy_context().run, as_part, within, {}, Stop()).result()

print(around())
"""
"""A flow that begins another one while there is no server."""


class Machine:
    """A folder with raw data and a store, what `ops up` started for them, and what its webhook was told."""

    def __init__(self, folder: Path, notify: str, told: list[dict]):
        self.folder, self.notify, self.told = folder, notify, told
        self.ops = Ops(folder / "ops")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.request = {"profile": "tiny", "raw": str(folder / "raw"), "store": str(folder / "store")}

    def command(self, verb: str, *arguments: str):
        here = os.pathsep.join((str(ROOT), str(self.folder)))
        return empamba(self.folder, "ops", verb, "--home", "ops", *arguments, PYTHONPATH=here)

    def up(self):
        """As a person calls it; but the schedule of every five minutes would look, and refresh, beside the tests, which
        start their looks themselves."""
        words = ["--port", str(self.port), "--notify", self.notify, "--profile", "tiny"]
        done = self.command("up", *words, "--raw", "raw", "--store", "store", "--set", "run.retries=0")
        if done.returncode == 0:
            watch = self.ask("deployments/name/watch/watch")
            self.ask(f"deployments/{watch['id']}/pause_deployment", {})
        return done

    def status(self) -> dict:
        """`ops status --json`, with the next planned start of each deployment by its name."""
        done = self.command("status", "--json")
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        found = json.loads(done.stdout)
        return {**found, "deployments": {one["name"]: one["next"] for one in found["deployments"]}}

    def ask(self, path: str, body: dict | None = None):
        return Api(f"http://127.0.0.1:{self.port}/api").post(path, body)

    def started(self, deployment: str, **request) -> str:
        """The id of a run of it that was started by hand, as the form does."""
        flow = {"refresh": "refresh", "watch": "watch", "train": "train-models"}[deployment]
        found = self.ask(f"deployments/name/{flow}/{deployment}")
        body = {"parameters": {"request": {**self.request, **request}}}
        return self.ask(f"deployments/{found['id']}/create_flow_run", body)["id"]

    def run(self, flow_run: str) -> dict:
        return self.ask(f"flow_runs/{flow_run}")

    def ended(self, flow_run: str, seconds: float = 300) -> dict:
        wait_for(lambda: self.run(flow_run)["state_type"] in FINAL, seconds)
        return self.run(flow_run)

    def look(self) -> None:
        """A run of `watch`, to its end; again where one of the schedule was at work, which a second up may have started."""

        def looked() -> bool:
            return self.ended(self.started("watch", changes=["run.retries=0"]))["state_type"] == "COMPLETED"

        wait_for(looked, 120)

    def artifacts(self, flow_run: str) -> list[tuple[str, str]]:
        """(key, data) of a flow run's own, in the order in which they were made."""
        body = {"artifacts": {"flow_run_id": {"any_": [flow_run]}}, "sort": "CREATED_DESC", "limit": 100}
        return [(one["key"], one["data"]) for one in reversed(self.ask("artifacts/filter", body))]

    def items_run(self, since: set[str]) -> Counter:
        """Names of the items' task runs that are not in `since`, by how often each was run."""
        found = self.ask("task_runs/filter", {"limit": 200})
        return Counter(
            r["name"] for r in found if r["task_key"].startswith("run_item") and r["id"] not in since
        )

    def refresh(self, store: str) -> str:
        """The id of a refresh of a store of its own, whose last items wait to go on."""
        changes = ['run.stages=["held_stage:STAGE"]', "run.parallel=1", "run.retries=0"]
        return self.started("refresh", store=str(self.folder / store), until="held", changes=changes)

    def held(self, store: str) -> str:
        """The same, where one of these items is at work."""
        found = self.refresh(store)
        wait_for(lambda: self.noted(store) or self.run(found)["state_type"] in FINAL, 300)
        assert self.noted(store), self.told_of(found)
        return found

    def begins(self) -> subprocess.Popen:
        """A flow of its own on this machine's server, which begins another when it is let go on."""
        here = {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(self.folder / "own"),
        }
        command = [sys.executable, "-c", BEGINS, str(self.folder)]
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT), **here}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip

    def noted(self, store: str) -> list[str]:
        notes = self.folder / f"{store}.notes"
        return notes.read_text().split("\n")[:-1] if notes.exists() else []

    def go_on(self, store: str, *items: int) -> None:
        for item in items:
            (self.folder / f"{store}.go-{item}").touch()

    def places(self) -> int:
        """How many of the places for refreshes are taken."""
        return self.ask("deployments/name/refresh/refresh")["global_concurrency_limit"]["active_slots"]

    def told_of(self, flow_run: str) -> str:
        """What there is to say of a run that did not end as it should."""
        logs = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200})
        return "\n".join([self.run(flow_run)["state"]["message"] or "", *(line["message"] for line in logs)])

    def task_runs(self) -> set[str]:
        return {run["id"] for run in self.ask("task_runs/filter", {"limit": 200})}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    write_sample(folder / "raw", media=False, dialogues=2, turns=6)
    (folder / "held_stage.py").write_text(HELD)
    with webhook() as (place, told):
        found = Machine(folder, place, told)
        done = found.up()
        try:
            assert done.returncode == 0, done.stderr.decode()[-2000:]
            assert f"http://127.0.0.1:{found.port} " in done.stdout.decode()
            yield found
        finally:
            found.ops.down()


def test_a_second_up_starts_nothing_and_status_tells_what_is_planned(machine):
    pids = machine.ops.server.pid(), machine.ops.worker.pid()
    assert machine.up().returncode == 0
    assert (machine.ops.server.pid(), machine.ops.worker.pid()) == pids
    wait_for(
        lambda: machine.status()["deployments"]["refresh"], 60
    )  # the server plans some seconds after `up`
    found = machine.status()
    assert found["answers"] and (found["server"], found["worker"]) == pids
    planned = found["deployments"]
    assert set(planned) == {"refresh", "watch", "reproduce", "build", "pairs", "train", "report"}
    assert planned["refresh"][11:16] == "03:00" and planned["train"] is None
    taken = empamba(machine.folder, "ops", "up", "--home", "other", "--port", str(machine.port))
    assert taken.returncode == 2 and b"Address already in use" in taken.stderr


@pytest.mark.parametrize(
    "wrong, named",
    [({"profil": "tiny"}, "profil"), ({"profile": 3}, "profile"), ({"changes": ["gamma"]}, "gamma")],
)
def test_the_form_refuses_what_is_no_request(machine, wrong, named):
    with pytest.raises(urllib.error.HTTPError) as refused:
        machine.started("train", **wrong)
    assert 400 <= refused.value.code < 500 and named in refused.value.read().decode()


def test_a_change_is_seen_told_and_refreshed(machine):
    """Two looks, the event, the automation, and a run whose first artifact says what changed and whose last what was done."""
    body = {"flow_runs": {"name": {"like_": "refresh"}}, "limit": 50}
    before = {run["id"] for run in machine.ask("flow_runs/filter", body)}
    # Only the automation's own request reaches `refresh`: that of `ops up`, all stages. One of them is forbidden here.
    for _ in range(2):
        machine.look()
    refresh = machine.ask("deployments/name/refresh/refresh")["id"]
    body = {
        "deployments": {"id": {"any_": [refresh]}},
        "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}},
    }
    (run,) = wait_for(lambda: machine.ask("flow_runs/filter", body), 90)
    assert run["id"] not in before and run["created_by"]["type"] == "AUTOMATION"
    wait_for(lambda: (machine.folder / "store" / "records" / "utterances.exchanges").is_dir(), 120)
    wanted = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    machine.ask(f"flow_runs/{run['id']}/set_state", wanted)
    machine.ended(run["id"], 60)
    assert machine.run(run["id"])["name"] == "refresh raw tiny"
    assert {"tiny", "meld", "iemocap", "multidialog"} <= set(machine.run(run["id"])["tags"])
    # The run tells it itself, as it ends.
    wait_for(lambda: machine.artifacts(run["id"])[-1][0] == "run-summary")
    found = machine.artifacts(run["id"])
    assert found[0][0] == "run-plan" and "| utterances | meld | first run |" in found[0][1]
    assert found[-1][0] == "run-summary" and found[-1][1].startswith("# Stopped")
    assert "| utterances | ran | 3 | 0 |" in found[-1][1]


def test_a_failure_is_told(machine):
    flow_run = machine.started("refresh", raw=str(machine.folder / "nowhere"))
    assert machine.ended(flow_run)["state_type"] == "FAILED"
    (told,) = wait_for(lambda: [one for one in machine.told if "Failed" in one["title"]], 30)
    assert told["title"].startswith("refresh ") and "nowhere" in told["message"]


def test_another_place_is_told_though_the_worker_was_not_started_again(machine):
    """And another port, which a server that runs cannot heed, is said to be not."""
    pids = machine.ops.server.pid(), machine.ops.worker.pid()
    with webhook() as (place, told):
        request = ("--profile", "tiny", "--raw", "raw", "--store", "store")
        done = machine.command("up", "--port", "1", "--notify", place, *request)
        assert done.returncode == 0, done.stderr
        assert f"goes on at http://127.0.0.1:{machine.port}; --port 1 is heeded" in done.stderr.decode()
        assert (machine.ops.server.pid(), machine.ops.worker.pid()) == pids
        flow_run = machine.started("refresh", raw=str(machine.folder / "no more"))
        assert machine.ended(flow_run)["state_type"] == "FAILED"
        (one,) = wait_for(lambda: [one for one in told if "refresh " in one["title"]], 30)
        assert "no more" in one["message"]
        assert machine.up().returncode == 0  # the others' own place again


def test_two_refreshes_at_once_run_one_after_the_other_and_do_everything_once(machine):
    store, since = str(machine.folder / "twice"), machine.task_runs()
    both = [machine.started("refresh", store=store, until="utterances.exchanges") for _ in range(2)]
    assert [machine.ended(one)["state_type"] for one in both] == ["COMPLETED", "COMPLETED"]
    first, second = sorted((machine.run(one) for one in both), key=lambda run: run["start_time"])
    assert second["start_time"] >= first["end_time"]
    ran = machine.items_run(since)
    assert set(ran.values()) == {1} and len(ran) == 4
    assert "Nothing is stale" in machine.artifacts(second["id"])[0][1]


def killed(*pids: int) -> None:
    """With SIGKILL, as the kernel ends what takes too much memory; on return they are gone."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(psutil.pid_exists, pids)), 60)


def test_a_refresh_goes_on_through_a_kill_of_its_server_and_of_its_worker(machine):
    """An item ends while there is no server, and the next is to begin then; the last ones are told to a worker that is gone."""
    store = "served twice"
    beginning = machine.begins()
    first = machine.held(store)
    wait_for((machine.folder / "ready").exists, 120)
    killed(machine.ops.server.pid())
    machine.go_on(store, 0)
    (machine.folder / "alone").touch()
    wait_for(lambda: (machine.folder / "begins").exists() and "done 0" in machine.noted(store), 60)
    assert machine.up().returncode == 0
    told, errors = beginning.communicate(timeout=120)
    assert beginning.returncode == 0 and "it was begun" in told, errors[-3000:]
    wait_for(lambda: "begun 1" in machine.noted(store) or machine.run(first)["state_type"] in FINAL, 120)
    assert machine.run(first)["state_type"] == "RUNNING", machine.told_of(first)
    killed(machine.ops.worker.pid())
    machine.go_on(store, 1, 2)
    assert machine.ended(first)["state_type"] == "COMPLETED", machine.told_of(first)
    assert Counter(machine.noted(store)) == Counter(
        f"{what} {n}" for what in ("begun", "done") for n in range(3)
    )
    assert machine.artifacts(first)[-1][0] == "run-summary"
    assert machine.up().returncode == 0
    second = machine.refresh(store)
    assert machine.ended(second)["state_type"] == "COMPLETED", machine.told_of(second)
    assert "Nothing is stale" in machine.artifacts(second)[0][1]
    wait_for(lambda: machine.places() == 0, 60)


def test_after_a_kill_of_server_worker_and_run_the_next_refresh_does_the_rest(machine):
    """As a power cut does it. The dead run held the only place, and the server that gave it has forgotten all it held in memory."""
    dead = machine.held("store")
    worker = machine.ops.worker.pid()
    running = psutil.Process(worker).children(recursive=True)
    killed(machine.ops.server.pid(), worker, *(process.pid for process in running))
    machine.go_on("store", 0, 1, 2)
    done = machine.up()
    assert done.returncode == 0, done.stderr
    following = machine.refresh("store")
    assert machine.ended(following)["state_type"] == "COMPLETED", machine.told_of(following)
    assert machine.run(dead)["state_type"] == "CRASHED"
    noted = Counter(machine.noted("store"))
    assert (
        noted.pop("begun 0") == 2 and set(noted.values()) == {1} and len(noted) == 5
    )  # the item that was cut off
    wait_for(lambda: machine.places() == 0, 60)
    (told,) = [one for one in machine.told if "Crashed" in one["title"]]
    assert "process has gone" in told["message"]


def alive(process: psutil.Process) -> bool:
    """Not so of a zombie, whose parent has only not asked yet how it ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_down_ends_a_run_whose_worker_was_killed_and_nothing_else(machine):
    """The last test of all: what the others share is gone after it. The run's processes have no parent that would end them."""
    machine.held("left")
    worker, server = machine.ops.worker.pid(), psutil.Process(machine.ops.server.pid())
    running = psutil.Process(worker).children(recursive=True)
    killed(worker)
    assert running and all(map(alive, running))
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=machine.folder)
    try:
        with ThreadPoolExecutor(1) as pool:
            down = pool.submit(machine.ops.down)
            wait_for(lambda: not any(map(alive, running)), ENDS_S)
            assert down.result() == {"runs": 1, "worker": False, "server": True}
        assert not alive(server) and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert not any(note.startswith("done") for note in machine.noted("left"))
