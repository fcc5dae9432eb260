"""A short pipeline over text alone that several tests run, through real worker and engine processes."""

import json
import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from model.generation.client import GenerationEngine
from storage.sample.layout import write_sample
from storage.shards import read_table
from tasks.engine.session import Session
from tasks.stages.shard_names import of_table
from tests.support.rerun import run, session


@pytest.fixture
def raw(tmp_path) -> Path:
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=6)
    for tree in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(tmp_path / "raw" / tree)
    return tmp_path / "raw"


class Pipeline:
    """Runs stages on the sample's MELD text, with candidates that a server on the loopback writes."""

    def __init__(self, folder: Path, raw: Path, server):
        self.folder, self.raw = folder, raw
        asked = {
            "base_url": server.url,
            "model": "some-7b",
            "concurrency": 4,
            "backoff_s": 0.01,
            "retries": 1,
        }
        self.changes = ["candidates.budget=null", "candidates.engine=openai"]
        self.changes += [f"candidates.server.{name}={json.dumps(value)}" for name, value in asked.items()]

    def run(
        self, *changes: str, until: str = "candidates", progress=lambda *_: None, force: tuple[str, ...] = ()
    ) -> list[dict]:
        """The candidates' rows."""
        with self.session(*changes, force=force) as opened:
            run(opened, "utterances")  # whose progress is not what `progress` is to hear of
            run(opened, until, progress)
            return [r for ref in self.refs(opened, "candidates") for r in self.read(opened, ref)]

    def session(self, *changes: str, **options) -> Session:
        return session("tiny", self.folder / "store", self.raw, [*self.changes, *changes], **options)

    def refs(self, session, table):
        plans = session.plan("candidates")
        return of_table([r for p in plans for refs in p.outputs.values() for r in refs], table)

    def read(self, session, ref):
        return read_table(session.store.read(ref), "candidates")


@pytest.fixture
def pipeline(tmp_path, raw, chat_server) -> Pipeline:
    return Pipeline(tmp_path, raw, chat_server)


@pytest.fixture
def engines_of_its_own(monkeypatch):
    """Engines that a stage's function starts in the test's own process end with the test."""
    with ExitStack() as started:
        process_engine = cache(lambda settings: started.enter_context(GenerationEngine(settings)))
        monkeypatch.setattr("tasks.stages.asked.process_engine", process_engine)
        yield
