"""A stage's page says where the rest is that it has no room for."""

from pathlib import Path

import prefect
import pytest

from storage.store import Store
from tasks.engine.planner import StagePlan
from tasks.orchestration.bounded import page
from tasks.orchestration.stage_page import page_lines
from tasks.pipeline import UTTERANCES


def test_every_table_of_a_stage_is_one_click_away(tmp_path):
    reasons = [f"changed input: meld/train dialogue {number}" for number in range(50)]
    plan = StagePlan(UTTERANCES, "stale", stale={"meld": reasons}, outputs={"meld": ()})
    text = page(
        page_lines(Store(tmp_path), plan, None, None, ["stage-utterances", "stage-utterances-part-2"])
    )
    assert "- … and 30 more" in text
    assert "[stage-utterances](/artifacts/key/stage-utterances)" in text
    assert "[stage-utterances-part-2](/artifacts/key/stage-utterances-part-2)" in text


@pytest.mark.parametrize(
    "folder, route",
    [
        (prefect.__ui_static_path__, "`key/:artifactKey`"),
        (prefect.__ui_v2_static_path__, "`/artifacts/key/$key`"),
    ],
    ids=["the UI", "the second UI"],
)
def test_prefects_pages_have_the_path_that_is_linked(folder, route):
    assert any(route in path.read_text("utf-8") for path in Path(folder).rglob("index-*.js"))
