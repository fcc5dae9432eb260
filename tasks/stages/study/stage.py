"""Stage `study`, declared: people's judgements of replies. Only where a run names a study's."""

from __future__ import annotations

from pathlib import Path

from storage.errors import InputError
from storage.filestat import content_digest
from tasks.engine.declaration import Calls, Made, RawFiles, Stage
from tasks.stages.judge.stage import JUDGE


def judgements(made: Made) -> Calls:
    path = Path(made.settings.study.judgements).absolute()
    try:
        digest = content_digest(path)
    except OSError as error:
        raise InputError(
            f"study.judgements: {path} cannot be read ({error.strerror}): name the judgements.json that `empamba study "
            "score` wrote"
        ) from None
    judged = made.refs(JUDGE.name) if JUDGE.name in made.outputs else []
    files = RawFiles(dataset="study", folder=str(path.parent), files={path.name: digest})
    return {"all": {"judgements": files, "judged": [ref for ref in judged if ref.name.startswith("judge-")]}}


STUDY = Stage(
    name="study",
    title="Replies judged by people",
    flow="write_report",
    needs=(JUDGE.name,),
    items=judgements,
    function="tasks.stages.study.read:read_study",
    settings={"intervals": "metrics.intervals"},
    libraries=("numpy",),
    enabled=lambda settings: settings.study is not None and settings.study.judgements is not None,
)
