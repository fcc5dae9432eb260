"""Two nodes of a Ray cluster and a store in a bucket, or a model's server, beside one machine and a folder."""

from pathlib import Path

import pytest

from storage.remote.address import working_folder
from storage.sample.layout import write_sample
from tests.support.ray_cluster import ray_cluster
from tests.support.rerun import digests, run, session
from tests.support.s3_server import BUCKET, s3_server

UNTIL = "utterances.exchanges"


@pytest.mark.slow
def test_nodes_with_folders_of_their_own_make_what_one_machine_makes(tmp_path, monkeypatch):
    """A real S3 server; the run's machine and each node have a cache, and so a working folder, of their own."""
    raw = tmp_path / "raw"
    write_sample(raw, media=False, dialogues=2, turns=6)
    with s3_server() as s3:
        for name, value in {**s3.environment(), "EMPAMBA_CACHE": str(tmp_path / "run")}.items():
            monkeypatch.setenv(name, value)
        nodes = [{"EMPAMBA_CACHE": str(tmp_path / name)} for name in ("one", "two")]
        with ray_cluster(*nodes) as head, session("tiny", tmp_path / "store", raw) as here:
            run(here, UNTIL)
            changes = ["run.runner=ray", f"run.cluster={head}", "run.parallel=2"]
            with session("tiny", working_folder(f"s3://{BUCKET}/a/store"), raw, changes) as there:
                assert len(run(there, UNTIL)) == 4
                assert run(there, UNTIL) == []
                assert digests(there, UNTIL) == digests(here, UNTIL)
            assert len(s3.names("/records/")) == 4
    worked = {
        name for name in ("run", "one", "two") for _ in Path(tmp_path / name).glob("stores/*/logs/*@*.log")
    }
    assert worked <= {"one", "two"} and worked


@pytest.mark.slow
def test_nodes_ask_a_server_for_candidates_and_get_what_one_machine_gets(pipeline, chat_server, tmp_path):
    here = pipeline.run()
    asked = len(chat_server.asked)
    (tmp_path / "there").mkdir()
    there = type(pipeline)(tmp_path / "there", pipeline.raw, chat_server)
    with ray_cluster() as head:
        changes = ("run.runner=ray", f"run.cluster={head}", "run.parallel=2", "run.candidate_workers=2")
        assert there.run(*changes) == here
    assert len(chat_server.asked) == 2 * asked
    assert list((tmp_path / "there" / "store" / "logs").glob("candidates@*.log"))
