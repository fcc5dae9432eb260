"""deployments/prefect.yaml against a real server and real process workers: as deployed, on its schedule, cancelled, and
after a crash of the machine."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import ray
import yaml

from storage.sample.layout import write_sample
from tests.support import fan_out
from tests.support.prefect_server import PREFECT, api, prefect_server, wait_for
from tests.support.ray_cluster import ray_cluster

ROOT = Path(__file__).resolve().parents[2]


ENDLESS = (
    "run.checkpoint_s=0", "compressor.pretrain.epochs=1000", "compressor.pretrain.max_tokens=null",
)  # fmt: skip
"""A training that is still at it whenever a test looks."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of clients of a server to which prefect.yaml is deployed as it stands."""
    with prefect_server(tmp_path_factory.mktemp("server")) as client:
        found = {**os.environ, **client, "EMPAMBA_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
        prefect(found, "work-pool", "create", "empamba", "--type", "process")
        prefect(found, "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
        # What it sees of this folder would start a run of the default profile beside the tests.
        watch = api(found, "deployments/name/watch/watch")
        api(found, f"deployments/{watch['id']}/pause_deployment", {})
        yield found


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False, dialogues=2, turns=6)
    return root


def prefect(environment, *arguments: str) -> None:
    subprocess.run(
        [*PREFECT, *arguments], env=environment, cwd=ROOT, check=True, capture_output=True, timeout=180
    )


@contextlib.contextmanager
def worker(environment, folder: Path):
    """A process worker of the pool; ends with the block."""
    with open(folder / "worker.log", "ab") as log:
        # Where tests run in the background SIGINT is ignored, and a worker ends by sending itself one.
        command = ["env", "--default-signal=INT", *PREFECT, "worker", "start", "--pool", "empamba"]
        started = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                started.kill()
                raise


def flow_runs(environment) -> list[dict]:
    return api(environment, "flow_runs/filter", {"sort": "START_TIME_ASC", "limit": 200})


def state(environment, flow_run: str) -> str:
    return api(environment, f"flow_runs/{flow_run}")["state"]["name"]


def started(environment, deployment: str, request: dict) -> str:
    """Start a deployment by hand, as the UI does; the id of its flow run."""
    found = api(environment, f"deployments/name/{deployment}/{deployment}")
    return api(
        environment, f"deployments/{found['id']}/create_flow_run", {"parameters": {"request": request}}
    )["id"]


def processes_of(store: Path, worker: subprocess.Popen) -> list[psutil.Process]:
    """What runs below a worker, once a training in it has taken a step."""
    wait_for(lambda: any((store / "scratch").glob("*/*")), 300)
    return psutil.Process(worker.pid).children(recursive=True)


def below(environment, flow_run: str) -> dict[str, str]:
    """The states of the flow runs that one started, at any depth, by flow."""
    names = {flow["id"]: flow["name"] for flow in api(environment, "flows/filter", {"limit": 50})}
    filters = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}, "limit": 50}
    found = {}
    for run in api(environment, "flow_runs/filter", filters):
        found |= {names[run["flow_id"]]: run["state"]["name"], **below(environment, run["id"])}
    return found


def test_prefect_yaml_is_deployed_as_it_is_written(environment):
    found = {d["name"]: d for d in api(environment, "deployments/filter", {"limit": 50})}
    assert set(found) == {"refresh", "watch", "reproduce", "build", "pairs", "train", "report"}
    refresh = found["refresh"]
    (schedule,) = refresh["schedules"]
    assert schedule["active"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 3 * * *", "UTC")
    assert refresh["global_concurrency_limit"]["limit"] == 1
    assert refresh["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert refresh["entrypoint"] == "flows/refresh.py:refresh" and refresh["work_pool_name"] == "empamba"
    assert refresh["parameters"] == {"request": {"profile": "cpu", "store": "store"}}
    reproduce = found["reproduce"]
    assert reproduce["schedules"] == [] and reproduce["global_concurrency_limit"] is None
    form = reproduce["parameter_openapi_schema"]["definitions"]["RunRequest"]["properties"]
    assert {"profile", "changes", "raw", "store", "until", "rehash", "force"} <= set(form)


def test_a_cancel_ends_a_workers_run_and_all_below_it(environment, raw, tmp_path):
    store = tmp_path / "store"
    request = {"profile": "tiny", "raw": str(raw), "store": str(store), "changes": ENDLESS}
    with worker(environment, tmp_path) as serving:
        flow_run = started(environment, "reproduce", request)
        running = processes_of(store, serving)
        assert len(running) >= 2
        wanted = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        assert api(environment, f"flow_runs/{flow_run}/set_state", wanted)["status"] == "ACCEPT"
        assert psutil.wait_procs(running, timeout=15)[1] == []
        wait_for(lambda: state(environment, flow_run) == "Cancelled", 30)
    found = below(environment, flow_run)
    assert found["train-models"] == "Cancelled"
    assert set(found.values()) <= {"Cancelled", "Completed"}


def test_a_cancel_ends_what_a_run_has_on_the_nodes_of_a_cluster(environment, raw, tmp_path):
    """Items on a Ray cluster that would wait for ever, in the place of refreshes; afterwards nobody holds that or a node's core."""
    held, asked = tmp_path / "held", {"count": 2, "folder": str(tmp_path / "held")}
    held.mkdir()
    with ray_cluster() as head, worker({**environment, "FAN_OUT": json.dumps(asked)}, tmp_path):
        request = {"profile": "tiny", "raw": str(raw), "store": str(tmp_path / "store"), "until": "waits"}
        changes = (fan_out.RUN, "run.runner=ray", f"run.cluster={head}", "run.parallel=2")
        flow_run = started(environment, "refresh", {**request, "changes": changes})
        wait_for(lambda: len(list(held.glob("*-*"))) == 2, 300)
        items = [psutil.Process(int(path.name.split("-")[1])) for path in held.glob("*-*")]
        running = items + [below for item in items for below in item.children(recursive=True)]
        assert len(running) >= 4 and places(environment) == 1
        wanted = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        assert api(environment, f"flow_runs/{flow_run}/set_state", wanted)["status"] == "ACCEPT"
        assert psutil.wait_procs(running, timeout=15)[1] == []
        wait_for(lambda: state(environment, flow_run) == "Cancelled", 30)
        wait_for(lambda: places(environment) == 0, 30)
        wait_for(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"] == 2, 30)


def places(environment) -> int:
    """How many of the places for refreshes are taken."""
    return api(environment, "deployments/name/refresh/refresh")["global_concurrency_limit"]["active_slots"]


def test_after_a_crash_of_the_machine_the_next_run_starts_soon_and_the_dead_one_is_crashed(
    environment, raw, tmp_path
):
    """Worker and flow process are killed while a run holds the deployment's only place."""
    store = tmp_path / "store"
    request = {"profile": "tiny", "raw": str(raw), "store": str(store)}
    with worker(environment, tmp_path) as serving:
        killed = started(environment, "refresh", {**request, "changes": ENDLESS})
        running = processes_of(store, serving)
        flow_process = psutil.Process(serving.pid).children()
        for process in (serving, *flow_process):
            os.kill(process.pid, signal.SIGKILL)
        crashed_at = time.monotonic()
        assert psutil.wait_procs(running, timeout=20)[1] == []
    assert state(environment, killed) == "Running"
    with worker(environment, tmp_path):
        waiting = started(environment, "refresh", {**request, "until": "utterances"})
        wait_for(lambda: state(environment, waiting) in ("Running", "Completed"), 240)
        took = time.monotonic() - crashed_at
        wait_for(lambda: state(environment, waiting) in ("Completed", "Failed", "Crashed"), 240)
    said = (tmp_path / "worker.log").read_text()[-3000:]
    assert state(environment, waiting) == "Completed", said
    assert took < 200
    assert state(environment, killed) == "Crashed"
    assert set(below(environment, killed).values()) <= {"Crashed", "Completed"}
    assert below(environment, killed)["reproduce"] == "Crashed"


def test_a_worker_runs_refresh_on_its_schedule(environment, raw, tmp_path):
    """The last test here: it deploys the file once more, with a schedule that a test can wait for."""
    wanted = {"profile": "tiny", "raw": str(raw), "store": str(tmp_path / "store"), "until": "utterances"}
    before = {run["id"] for run in api(environment, "flow_runs/filter", {"limit": 200})}
    deployed = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    (refresh,) = (one for one in deployed["deployments"] if one["name"] == "refresh")
    refresh["parameters"] = {"request": wanted}
    refresh["schedules"] = [{"interval": 30, "slug": one["slug"]} for one in refresh["schedules"]]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(deployed))
    prefect(
        environment,
        "--no-prompt",
        "deploy",
        "--prefect-file",
        str(tmp_path / "prefect.yaml"),
        "--name",
        "refresh",
    )
    with worker(environment, tmp_path):

        def finished():
            runs = api(environment, "flow_runs/filter", {"sort": "END_TIME_DESC", "limit": 50})
            ended = [
                r
                for r in runs
                if r["state_type"] in ("COMPLETED", "FAILED", "CRASHED")
                and r["deployment_id"]
                and r["id"] not in before
            ]
            return ended if len(ended) >= 2 else None

        runs = wait_for(finished, 400)
    assert {run["state_type"] for run in runs} == {"COMPLETED"}, (tmp_path / "worker.log").read_text()[-3000:]
    assert all(run["auto_scheduled"] for run in runs)
    # Subflows stand among the task runs too; the stages' are those of run_item.
    ours = {run["id"] for run in flow_runs(environment) if run["id"] not in before}
    task_runs = api(environment, "task_runs/filter", {"limit": 200})
    tasks = {
        run["name"]
        for run in task_runs
        if run["task_key"].startswith("run_item") and run["flow_run_id"] in ours
    }
    # The second scheduled run found nothing stale and ran no task.
    assert tasks == {
        "utterances [iemocap]", "utterances [meld]", "utterances [multidialog]", "utterances.exchanges",
    }  # fmt: skip
