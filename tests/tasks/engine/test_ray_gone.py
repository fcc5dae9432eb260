"""A Ray cluster that is gone: told in one line, and no other one is started in its place."""

import json

import pytest

from storage.sample.layout import write_sample
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.jobs import StageFailed
from tasks.engine.ray_pool import connected
from tests.support import fan_out
from tests.support.ray_cluster import ray_cluster
from tests.support.rerun import run, session


def test_what_is_asked_of_it_fails_and_starts_no_cluster_on_this_machine(tmp_path, monkeypatch):
    """Ray starts one of its own wherever it is asked for something and has none, unless told not to."""
    raw = tmp_path / "raw"
    write_sample(raw, media=False, dialogues=2, turns=6)
    monkeypatch.setenv("FAN_OUT", json.dumps({"count": 2, "seconds": 0.0}))
    with ray_cluster({}) as head:
        changes = [fan_out.RUN, "run.runner=ray", f"run.cluster={head}"]
        with session("tiny", tmp_path / "store", raw, changes) as opened:
            assert len(run(opened, "waits")) == 2
            ray = connected(head)
            ray.shutdown()
            with pytest.raises(StageFailed, match="the Ray cluster is gone") as refused:
                with opened.workers.alone_at(opened.store, "a key", lambda: None):
                    pass
            assert "\n" not in str(refused.value)
            for stage in ("waits", "another"):  # one whose worker is free, and one that needs a new one
                item = Item(Stage(stage, fan_out.STAGE.function, own_process=stage == "another"), "all", {})
                with pytest.raises(StageFailed, match="is lost|is gone"):
                    opened.workers.run(item, tmp_path / "scratch", lambda *_: None)
        assert not ray.is_initialized()
