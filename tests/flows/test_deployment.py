"""deployments/prefect.yaml against a real server and a real process worker: `refresh` runs on its schedule."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from storage.sample.layout import write_sample
from tests.support.prefect_server import PREFECT, api, prefect_server, wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(tmp_path):
    with prefect_server(tmp_path / "prefect") as client:
        yield {**os.environ, **client, "EMPAMBA_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}


def prefect(environment, *arguments: str) -> None:
    subprocess.run(
        [*PREFECT, *arguments], env=environment, cwd=ROOT, check=True, capture_output=True, timeout=180
    )


@pytest.mark.slow
def test_a_worker_runs_refresh_on_its_schedule(environment, tmp_path):
    raw, store = tmp_path / "raw", tmp_path / "store"
    write_sample(raw, media=False)
    wanted = {"profile": "tiny", "raw": str(raw), "store": str(store), "until": "utterances"}
    prefect(environment, "work-pool", "create", "empamba", "--type", "process")
    prefect(
        environment, "--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--name", "refresh",
        "--param", f"request={json.dumps(wanted)}", "--interval", "30",
    )  # fmt: skip
    with open(tmp_path / "worker.log", "wb") as log:
        worker = subprocess.Popen(
            [*PREFECT, "worker", "start", "--pool", "empamba"],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        try:

            def finished():
                runs = api(environment, "flow_runs/filter", {"sort": "END_TIME_DESC", "limit": 50}) or []
                ended = [
                    r
                    for r in runs
                    if r["state_type"] in ("COMPLETED", "FAILED", "CRASHED") and r["deployment_id"]
                ]
                return ended if len(ended) >= 2 else None

            runs = wait_for(finished, 400)
        finally:
            worker.terminate()
            worker.wait(60)
    assert {run["state_type"] for run in runs} == {"COMPLETED"}, (tmp_path / "worker.log").read_text()[-3000:]
    assert all(run["auto_scheduled"] for run in runs)
    # Subflows stand among the task runs too; the stages' are those of run_item.
    task_runs = api(environment, "task_runs/filter", {"limit": 50})
    tasks = {run["name"] for run in task_runs if run["task_key"].startswith("run_item")}
    # The second scheduled run found nothing stale and ran no task.
    assert tasks == {
        "utterances [iemocap]", "utterances [meld]", "utterances [multidialog]", "utterances.exchanges",
    }  # fmt: skip
    tables = {a["key"] for a in api(environment, "artifacts/filter", {"limit": 50}) if a["type"] == "table"}
    assert {"stage-utterances", "stage-utterances-exchanges"} <= tables
