"""A run's first artifact: what changed and what will run, however much that is."""

import json

from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest
from tasks.orchestration.account import Account, plan_lines
from tasks.orchestration.bounded import page
from tasks.pipeline import CANDIDATES, EPO, UTTERANCES

REQUEST = RunRequest(profile="tiny", raw="/data/MELD", store="/store", changes=("epo.gamma=0.4",))


def account(*plans: StagePlan) -> Account:
    return Account(REQUEST, list(plans), None)


def test_it_says_what_changed_what_runs_and_which_models_are_behind():
    text = page(
        plan_lines(
            account(
                StagePlan(
                    UTTERANCES,
                    "stale",
                    stale={"meld": ["changed input: meld/train dialogue 3: turn 2 (text)"]},
                ),
                StagePlan(CANDIDATES, "unknown", reason="unknown until utterances has run"),
                StagePlan(EPO, "fresh", behind={"all": "3 of 800 rows changed (0.4 %): waits for 5 %"}),
            )
        )
    )
    assert "- data: /data/MELD\n- profile: tiny\n- settings changed: epo.gamma=0.4\n" in text
    assert "| utterances | meld | changed input: meld/train dialogue 3: turn 2 (text) |" in text
    assert "| candidates |  | unknown until utterances has run |" in text
    assert "Stages that are fresh, and reused: 1." in text
    assert "## Models behind their data\n\n- epo: 3 of 800 rows changed (0.4 %): waits for 5 %" in text


def test_nothing_stale_is_said():
    found = account(StagePlan(UTTERANCES, "fresh"))
    assert not found.stale and plan_lines(found)[-1] == "Nothing is stale: no task will run."


def test_ten_thousand_stale_items_of_many_reasons_fit():
    stale = {
        f"meld/train/{shard}": [f"changed input: dialogue {n}: tëxt" for n in range(50)]
        for shard in range(9_989)
    }
    text = page(plan_lines(account(StagePlan(CANDIDATES, "stale", stale=stale))))
    assert len(json.dumps(text)) < 64 * 1024
    assert "… and 45 more" in text
