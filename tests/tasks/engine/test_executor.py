"""An item executed from nothing but plain data, in a process that did not plan it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.sample.layout import write_sample
from tasks.engine.jobs import StageFailed
from tasks.engine.run import RunRequest, executor, open_run
from tests.support.prefect_server import api, prefect_server
from tests.support.rerun import run

ROOT = Path(__file__).resolve().parents[3]
ELSEWHERE = """
import json, sys
from tasks.engine.run import RunRequest, executor
request, stage, label = json.loads(sys.argv[1])
with executor(RunRequest.model_validate(request)) as found:
    refs = found.session.execute(found.item(stage, label), lambda *_: None)
print(json.dumps([ref.model_dump(mode="json") for ref in refs]))
"""
CARRIED = """
import json, sys
from prefect.task_runners import ProcessPoolTaskRunner
from flows.build_shards import build_shards
from tasks.engine.run import RunRequest

class JsonAlone(ProcessPoolTaskRunner):
    def submit(self, task, parameters, *rest, **more):
        text = json.dumps(parameters)
        with open(sys.argv[2], "a") as file:
            file.write(text + "\\n")
        return super().submit(task, json.loads(text), *rest, **more)

if __name__ == "__main__":
    request = RunRequest.model_validate(json.loads(sys.argv[1]))
    build_shards.with_options(task_runner=JsonAlone(max_workers=2))(request)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False, dialogues=2, turns=6)
    return root


@pytest.fixture
def here(tmp_path, raw) -> RunRequest:
    """A run as far as the exchanges, executed in this process."""
    request = RunRequest(profile="tiny", raw=str(raw), store=str(tmp_path / "here"))
    with request.session() as session:
        run(session, "utterances.exchanges")
    return request


def python(program: str, *given, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(json.dumps, given)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def records(store: str) -> dict[str, bytes]:
    root = Path(store) / "records"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.json")}


def test_another_process_makes_the_same_record_of_request_stage_and_label_alone(here, tmp_path):
    """And of a stage whose own needs are to be found in the store, forced though they were."""
    there = here.model_copy(update={"store": str(tmp_path / "there"), "force": ("utterances",)})
    items = [("utterances", "meld"), ("utterances", "multidialog"), ("utterances", "iemocap")]
    for stage, label in (*items, ("utterances.exchanges", "all")):
        told = json.loads(python(ELSEWHERE, [there.model_dump(mode="json"), stage, label], cwd=tmp_path))
        assert told and {ref["name"].split("/")[0] for ref in told}
    made = records(there.store)
    assert len(made) == 4 and made == records(here.store)
    with here.session() as session:
        refs = [
            ref for plan in session.plan("utterances.exchanges") for ref in sum(plan.outputs.values(), ())
        ]
    for ref in refs:
        path = Path("objects") / ref.digest[:2] / ref.digest
        assert (Path(there.store) / path).read_bytes() == (Path(here.store) / path).read_bytes()


def test_what_cannot_be_found_is_said(here, tmp_path):
    with executor(here.placed()) as found:
        with pytest.raises(StageFailed, match="utterances has no item 'friends'"):
            found.item("utterances", "friends")
    there = here.model_copy(update={"store": str(tmp_path / "there")})
    with executor(there.placed()) as found:
        with pytest.raises(StageFailed, match=r"exchanges \[all\]: unknown until utterances has run"):
            found.item("utterances.exchanges", "all")


def test_the_process_that_holds_the_run_executes_with_it(here, tmp_path, monkeypatch):
    """Whatever folder it is named from."""
    monkeypatch.chdir(tmp_path)
    with open_run(here.model_copy(update={"store": "here"})) as opened:
        with executor(opened.request.placed()) as found:
            assert found.session is opened.session and found.board is opened.board


@pytest.mark.slow
def test_a_task_runner_carries_task_runs_to_other_processes_as_json(here, tmp_path):
    """Through a real server and Prefect's own runner of processes."""
    there = here.model_copy(update={"store": str(tmp_path / "there"), "until": "utterances.exchanges"})
    program = tmp_path / "carried.py"
    program.write_text(CARRIED)
    with prefect_server(tmp_path / "server") as client:
        done = subprocess.run(
            [sys.executable, str(program), json.dumps(there.model_dump(mode="json")), str(tmp_path / "carried")],
            cwd=ROOT, env={**os.environ, **client, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        task_runs = api(client, "task_runs/filter", {"limit": 200})
    carried = (tmp_path / "carried").read_text().splitlines()
    assert all(len(text.encode()) < 64 * 1024 for text in carried)
    assert records(there.store) == records(here.store)
    ours = [task_run for task_run in task_runs if task_run["task_key"].startswith("run_item")]
    names = {"utterances [meld]", "utterances [multidialog]", "utterances [iemocap]", "utterances.exchanges"}
    assert {task_run["name"] for task_run in ours} == names
    assert {task_run["state_type"] for task_run in ours} == {"COMPLETED"}
    assert len(carried) == len(ours) == 4
    assert all(json.loads(text)["request"] == there.model_dump(mode="json") for text in carried)
    read = {task_run["id"] for task_run in ours if task_run["name"] != "utterances.exchanges"}
    for task_run in ours:
        inputs = dict(task_run["task_inputs"])
        before = {one["id"] for one in inputs.pop("wait_for", [])}  # lines of Prefect's graph
        assert before == (read if task_run["name"] == "utterances.exchanges" else set())
        assert set(inputs) == {"request", "stage", "label", "why"}
