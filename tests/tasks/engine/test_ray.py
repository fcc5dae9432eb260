"""Items on the nodes of a Ray cluster: the same artefacts, lost workers, a stop, other code, and settings that will not do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from storage.errors import InputError
from storage.sample.layout import write_sample
from tasks.engine import ray_node
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.jobs import StageFailed
from tasks.engine.ray_node import Claims
from tasks.engine.ray_pool import RayPool
from tasks.engine.resources import Resources
from tasks.engine.session import Session
from tasks.engine.stopping import Stopped
from tasks.settings import load_settings
from tests.support import fan_out
from tests.support.ray_cluster import ray_cluster
from tests.support.rerun import SMALL, digests, run, session, write_meld
from tests.support.shell import STARTS_S, Shell
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]
ENDED_S = 15
"""Within so many seconds of a stop nothing of a run may be left."""


@pytest.fixture(scope="module")
def modules(tmp_path_factory) -> Path:
    """A folder of further modules that the nodes know."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="module")
def cluster(modules):
    node = {"PYTHONPATH": str(modules)}
    with ray_cluster(node, node) as head:
        yield head


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False, dialogues=2, turns=6)
    return root


@pytest.fixture
def on_ray(cluster, raw, tmp_path):
    """A session whose items of the waiting stage run on the cluster."""

    def opened(**asked) -> Session:
        os.environ["FAN_OUT"] = json.dumps(asked)
        changes = [
            fan_out.RUN,
            "run.runner=ray",
            f"run.cluster={cluster}",
            "run.parallel=8",
            "run.retry_after_s=0.1",
        ]
        return session("tiny", tmp_path / "store", raw, changes)

    yield opened
    del os.environ["FAN_OUT"]


def at_work(folder: Path, count: int) -> list[psutil.Process]:
    """The processes of waiting items that run, once so many have begun, and after them all that those have started."""
    begun = wait_for(lambda: len(found := sorted(folder.glob("*-*"))) >= count and found)
    numbers = [int(path.name.split("-")[1]) for path in begun]
    processes = [psutil.Process(number) for number in numbers if psutil.pid_exists(number)]
    return processes + [child for process in processes for child in process.children(recursive=True)]


def above(process: psutil.Process) -> psutil.Process:
    """The worker on the node, which the item's process, or the one that it is a fork of, was started by."""
    return next(
        found for found in process.parents() if "ray::NodeWorker" in found.name() + found.cmdline()[0]
    )


def in_thread(work) -> tuple[threading.Thread, list]:
    """A thread that calls `work`, and what it returned or raised."""
    ended: list = []

    def call() -> None:
        try:
            ended.append(work())
        except Exception as error:  # noqa: BLE001 - looked at by the test
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, ended


@pytest.mark.slow
def test_two_nodes_make_what_one_machine_makes(cluster, raw, tmp_path):
    """Text alone, with a training that two processes share, on the node that has so many GPUs."""
    until, found = "compressor.pretrain", {}
    for runner, changes in {"local": [], "ray": ["run.runner=ray", f"run.cluster={cluster}"]}.items():
        with session(
            "tiny", tmp_path / runner, raw, ["run.parallel=2", "run.processes=2", *changes]
        ) as opened:
            assert len(run(opened, until)) == 4
            assert run(opened, until) == []
            found[runner] = digests(opened, until)
    assert found["ray"] == found["local"]
    logs = {path.name for path in (tmp_path / "ray" / "logs").glob("*.log")}
    assert logs and all("@" in name for name in logs)


def test_the_items_of_a_stage_run_side_by_side_and_each_once(on_ray):
    with on_ray(count=6, seconds=0.0) as opened:
        assert opened.workers.check() == ("Ray cluster: nodes 2, cores 2, GPUs 2, 8 GB",)
        assert run(opened, "waits") == [f"waits sample/{number}" for number in range(6)]
        assert set(digests(opened, "waits")) == {
            f"waits sample/{number} waits/{number}" for number in range(6)
        }


def test_an_item_sees_the_gpus_that_its_worker_holds_and_an_idle_one_gives_them_up(on_ray, tmp_path):
    """GPUs that a node only says it has; which of them an item may use is all that is looked at."""
    with on_ray() as opened:
        for count, names in {1: ("0", "1"), 2: ("0,1",)}.items():
            item = Item(Stage(f"takes-{count}", "tests.support.shows_gpus:show"), "all", {})
            (shown,) = opened.workers.run(
                item, tmp_path / "scratch", lambda *_: None, takes=Resources(count, 0.3, 1)
            )
            assert shown.name in names


@pytest.mark.parametrize("who", ["the item's process", "the worker"])
def test_what_a_lost_worker_was_at_is_run_by_another(on_ray, tmp_path, who):
    """-9 of the process that computes, or of the one on the node that has started it."""
    with on_ray(count=2, folder=str(tmp_path)) as opened:
        running, ended = in_thread(lambda: run(opened, "waits"))
        family = at_work(tmp_path, 2)
        (family[0] if who == "the item's process" else above(family[0])).kill()
        family += at_work(tmp_path, 3)
        (tmp_path / "go").touch()
        running.join(60)
        begun = sorted(f"waits sample/{path.name.split('-')[0]}" for path in tmp_path.glob("*-*"))
        assert ended == [begun] and len(begun) == 3 and set(begun) == {"waits sample/0", "waits sample/1"}
        assert len(digests(opened, "waits")) == 2
    assert psutil.wait_procs(family, timeout=ENDED_S)[1] == []


def test_a_stop_ends_all_that_runs_anywhere(on_ray, tmp_path):
    with on_ray(count=5, folder=str(tmp_path)) as opened:
        running, ended = in_thread(lambda: run(opened, "waits"))
        family = at_work(tmp_path, 2)
        assert len(family) == 6  # each item with its program, and who watches over them
        opened.stop.request("enough")
        assert psutil.wait_procs(family, timeout=ENDED_S)[1] == []
        running.join(ENDED_S)
        assert isinstance(ended[0], Stopped) and str(ended[0]) == "enough"
    assert len(list(tmp_path.glob("*-*"))) == 2  # the others never began


def test_a_run_that_is_killed_takes_along_what_it_started_anywhere(cluster, raw, tmp_path):
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.support.rerun", "tiny", str(tmp_path / "store"), str(raw), "--until", "waits",
         fan_out.RUN, "run.runner=ray", f"run.cluster={cluster}", "run.parallel=8"],
        cwd=ROOT, env={**os.environ, "FAN_OUT": json.dumps({"count": 2, "folder": str(tmp_path)})},
    )  # fmt: skip
    family = at_work(tmp_path, 2)
    started.kill()
    started.wait()
    assert psutil.wait_procs(family, timeout=ENDED_S)[1] == []


OTHER = """
from storage.store import Ref
from tasks.engine.declaration import Stage
from tasks.engine.item import Workspace

def make(work: Workspace) -> list[Ref]:
    return [work.store.put_bytes("made", b"as it is here")]

STAGE = Stage("made", "made_elsewhere:make", flow="write_report", items=lambda made: {"all": {}})
"""


def test_a_node_with_other_code_is_refused_in_one_line(cluster, modules, raw, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(modules)
    (modules / "made_elsewhere.py").write_text(OTHER)
    changes = ['run.stages=["made_elsewhere:STAGE"]', "run.runner=ray", f"run.cluster={cluster}"]
    with session("tiny", tmp_path / "store", raw, changes) as opened:
        assert [plan.state for plan in opened.plan("made")] == ["stale"]
        # The nodes read the same file; from here on they find another one than this process has read.
        (modules / "made_elsewhere.py").write_text(OTHER.replace("as it is here", "as it is there"))
        with pytest.raises(StageFailed) as refused:
            run(opened, "made")
        line = str(refused.value)
        assert refused.value.usage and "\n" not in line
        assert " has another made_elsewhere.py:make than this run: install the same commit" in line
        (modules / "made_elsewhere.py").write_text(OTHER)
        assert run(opened, "made") == ["made all"]


def test_two_runs_of_one_store_do_an_item_once(on_ray, tmp_path):
    """The second waits for the cluster's word, not for a file of the store."""
    with on_ray(count=2, folder=str(tmp_path)) as first, on_ray(count=2, folder=str(tmp_path)) as second:
        running, ran = in_thread(lambda: run(first, "waits"))
        at_work(tmp_path, 2)
        waiting, ran_too = in_thread(lambda: run(second, "waits"))
        time.sleep(1.0)
        assert not ran_too and not list((tmp_path / "store" / "locks").glob("?" * 32))
        (tmp_path / "go").touch()
        running.join(60)
        waiting.join(60)
    assert (ran, ran_too) == ([["waits sample/0", "waits sample/1"]], [[]])


def test_a_claim_is_one_runs_until_it_frees_it_or_is_heard_of_no_more(monkeypatch):
    monkeypatch.setattr(ray_node, "LEASE_S", 0.3)
    claims = Claims()
    assert claims.take("item", "a") and claims.take("item", "a")
    assert not claims.take("item", "b")
    claims.free("item", "b")
    assert not claims.take("item", "b")
    claims.free("item", "a")
    assert claims.take("item", "b")
    time.sleep(0.2)
    claims.renew(["item"], "b")
    time.sleep(0.2)
    assert not claims.take("item", "a")
    time.sleep(0.3)
    assert claims.take("item", "a")
    # A restart has forgotten everything, and hears of it from whoever holds something.
    claims = Claims()
    claims.renew(["item"], "a")
    assert not claims.take("item", "b")


def test_settings_that_will_not_do_are_one_line_each(cluster, raw, tmp_path, monkeypatch):
    def told(*changes: str) -> str:
        with pytest.raises(InputError) as refused:
            session("tiny", tmp_path / "store", raw, ["run.runner=ray", *changes]).workers.check()
        assert "\n" not in str(refused.value)
        return str(refused.value)

    here = f"run.cluster={cluster}"
    assert "no Ray cluster at 127.0.0.1:1 (" in told("run.cluster=127.0.0.1:1")
    assert "run.cluster" in told("run.cluster=ray://head:10001")
    assert "3 GPUs of one machine are needed, and no node of the Ray cluster has more than 2" in told(
        here, "run.least_gpu_gb=10", "run.processes=3"
    )
    assert "run.runner" in told("run.runner=slurm")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "ray is not installed: .venv/bin/pip install -e '.[ray]'" in told(here)


@pytest.mark.slow
def test_a_signal_ends_the_command_and_what_it_runs_anywhere_and_the_next_goes_on(cluster, raw, tmp_path):
    """Through Prefect, whose server is the command's own."""
    arguments = ["run", "--profile", "tiny", "--raw", str(raw), "--until", "waits", "--set", fan_out.RUN,
                 "--set", "run.runner=ray", "--set", f"run.cluster={cluster}", "--set", "run.parallel=2"]  # fmt: skip
    environment = {
        "FAN_OUT": json.dumps({"count": 2, "folder": str(tmp_path)}),
        "PREFECT_HOME": str(tmp_path / "p"),
    }
    with Shell(tmp_path, *arguments, environment=environment) as shell:
        shell.until(lambda: len(list(tmp_path.glob("[01]-*"))) == 2)
        family = at_work(tmp_path, 2)
        shell.send(signal.SIGTERM)
        assert shell.ends(ENDED_S) == 128 + signal.SIGTERM
        assert psutil.wait_procs(family, timeout=ENDED_S)[1] == []
        assert "Ray cluster: nodes 2" in shell.text() and "Traceback" not in shell.text(), shell.text()
    (tmp_path / "go").touch()
    with Shell(tmp_path, *arguments, environment=environment) as shell:
        assert shell.ends(STARTS_S) == 0, shell.text()


class KillsOnceAStage(RayPool):
    """-9 of what each stage's first item is at: by turns its own process and the worker on the node. Items come one at a time."""

    def __init__(self, *given):
        super().__init__(*given)
        self.killed: list[str] = []
        self.killers: list[threading.Thread] = []

    def run(self, item: Item, *rest, **more):
        if item.stage.name not in self.killed:
            wait_for(lambda: computing() is None)  # the item before it has come to its end there too
            self.killed.append(item.stage.name)
            self.killers.append(threading.Thread(target=self._kill, args=(len(self.killed) % 2 == 0,)))
            self.killers[-1].start()
        return super().run(item, *rest, **more)

    def _kill(self, the_worker: bool) -> None:
        worker, process = wait_for(computing)
        (worker if the_worker else process).kill()


def computing() -> tuple[psutil.Process, psutil.Process] | None:
    """The worker of this process's cluster that has an item, and the process that it has started for it, whose end ends what
    computes; None as long as there is none."""
    for worker in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if worker.cmdline()[:1] == ["ray::NodeWorker.answers"] and (started := worker.children()):
                return worker, started[0]
    return None


@pytest.mark.slow
def test_a_worker_killed_in_every_stage_up_to_the_dialogue_over_memories_costs_nothing_but_time(
    cluster, tmp_path
):
    """Shards, clips and trainings; not what comes after: voice and face, EPO, replies, figures, the report."""
    until = "dialogue.memory"
    filmed = write_meld(tmp_path / "filmed")
    with session("tiny", tmp_path / "one", filmed, SMALL) as here:
        ran = run(here, until)
        wanted = digests(here, until)
    changes = (*SMALL, "run.runner=ray", f"run.cluster={cluster}", "run.parallel=1", "run.retry_after_s=0.1")
    pool = KillsOnceAStage(load_settings("tiny", changes).run, tmp_path / "store", filmed, {})
    with closing(pool), session("tiny", tmp_path / "store", filmed, changes, pool) as there:
        tried = Counter(run(there, until))
        for killer in pool.killers:
            killer.join(60)
        assert digests(there, until) == wanted
    assert sorted(tried) == ran
    again = [name.split(" ")[0] for name, times in tried.items() for _ in range(times - 1)]
    assert sorted(again) == sorted(pool.killed) == sorted({name.split(" ")[0] for name in ran})
