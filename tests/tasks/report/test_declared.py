"""What the report's declaration hands over: each stage as declared, why it was not run, and the licences."""

import pytest

from storage.store import Store
from tasks.engine.declaration import Made, NotRun, RawFiles, Stage
from tasks.settings import load_settings
from tasks.stages.replies.stage import REPLIES
from tasks.stages.report.stage import REPORT

RAN = Stage("replies.judge", "lab:judge", title="How long the replies are")
TRAINED = Stage("lab.fit", "lab:fit", title="A training", trains=True, items=lambda made: NotRun("no media"))


@pytest.fixture
def call(tmp_path):
    stages = (RAN, TRAINED, REPLIES[0])
    outputs = {"replies.judge": {"all": ()}, "lab.fit": None, REPLIES[0].name: {"all": ()}}
    raw = (
        RawFiles(dataset="meld", folder="m", files={}),
        RawFiles(dataset="iemocap", folder="i", files={}, synthetic=True),
    )
    made = Made(load_settings("tiny"), "tiny", Store(tmp_path), raw, outputs, stages)
    return REPORT.items(made)["all"]


def test_stages_are_told_as_declared_with_the_reason_of_one_that_was_not_run(call):
    first, second, _ = call["stages"]
    assert first == {"name": "replies.judge", "title": RAN.title, "trains": False, "reason": None}
    assert second == {"name": "lab.fit", "title": "A training", "trains": True, "reason": "no media"}
    assert call["artefacts"] == {"replies.judge": [], "lab.fit": None, "replies": []}


def test_licences_are_the_publishers_and_the_samples_own(call):
    datasets, weights = call["licences"]["datasets"], call["licences"]["weights"]
    assert datasets["meld"].startswith("GPL-3.0 (MELD") and "bundled sample" in datasets["iemocap"]
    assert weights.keys() == call["weights"].keys() and all(weights.values())
