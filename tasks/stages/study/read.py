"""Stage `study`: a study's judgements -> its means, differences and agreement. Knows nothing of how people were asked."""

from __future__ import annotations

import json
from pathlib import Path

from model.metrics.settings import BootstrapSettings
from storage.errors import InputError
from storage.filestat import content_digest
from storage.store import Ref
from tasks.engine.declaration import RawFiles
from tasks.engine.item import Workspace
from tasks.study.export import beside_judge
from tasks.study.judgements import read_judgements
from tasks.study.score import scored


def read_study(
    judgements: RawFiles, judged: list[Ref], intervals: BootstrapSettings, work: Workspace
) -> list[Ref]:
    """Output: study.json: every figure of tasks/study/score.py, and "beside_judge" where an LLM judged too.

    judged: what stage `judge` left. InputError where the file is not the one that was planned with.
    """
    ((name, digest),) = judgements.files.items()
    path = Path(judgements.folder) / name
    found = read_judgements(path)
    if content_digest(path) != digest:
        raise InputError(f"{path}: changed while the run began; run again")
    facts = scored(found, intervals)
    facts["beside_judge"] = beside_judge(
        found, [json.loads(work.store.read(ref)) for ref in judged], intervals
    )
    data = json.dumps(facts, ensure_ascii=False).encode()  # the questions keep their order
    return [work.store.put_bytes("study.json", data, rows=facts["counts"]["judgements"])]
