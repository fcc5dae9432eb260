"""A run's first artifact: what changed and what will run, however much that is; and its last: what came of it."""

import json
import re

import pytest

from storage.sample.layout import write_sample
from storage.shards import write_table
from storage.store import Store, canonical
from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest, open_run
from tasks.engine.runs import recorded
from tasks.orchestration.account import Account, plan_lines, summary_lines
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
    assert "… and 9,969 more items: `empamba status --json`" in text
    several = plan_lines(
        account(*(StagePlan(stage, "stale", stale=stale) for stage in (UTTERANCES, CANDIDATES) * 3))
    )
    assert sum(line.count("| meld/train/") for line in several) == 100
    assert any(line.startswith("… and 59,834 more items: ") for line in several)
    few = dict(list(stale.items())[:20])
    assert "more items" not in page(plan_lines(account(StagePlan(CANDIDATES, "stale", stale=few))))


# The last one --------------------------------------------------------------------------------------------


def report(gamma: float = 0.5, bertscore: float = 0.5) -> dict:
    """As much of a report as says that a setting and a figure moved, where they did."""
    row = {"rung": "2-ft", "system": "finetuned", "dataset": "all", "split": "test", "n": 6, "dialogues": 6}
    return {
        "systems": [{**row, "bertscore": bertscore, "bertscore_ci": [bertscore - 0.1, bertscore + 0.1]}],
        "settings": {"epo": {"gamma": gamma}},
    }


class Ended:
    """A run of a store, opened for real and with no work to do; `summary` is its last artifact."""

    def __init__(self, folder):
        write_sample(folder / "raw", media=False, dialogues=2, turns=6)
        self.store = Store(folder / "store")
        self.request = RunRequest(profile="tiny", raw=str(folder / "raw"), store=str(folder / "store"))

    def made(self, facts: dict) -> str:
        """The digest of a report.json of these facts."""
        return self.store.put_bytes("report.json", canonical(facts)).digest

    def before(self, facts: dict):
        """The record of a run that came to this report."""
        with recorded(self.store.root, "tiny", (), None, None) as note:
            note.update(report=self.made(facts))
        return note.record

    def summary(self, *settled: StagePlan, now: dict | None = None, last=None) -> str:
        with open_run(self.request) as run:
            for plan in settled:
                run.board.settle(plan)
            run.note.update(report=None if now is None else self.made(now))
            published = None if now is None else str(self.store.root / "report.html")
            return page(summary_lines(Account(self.request, list(settled), last, run, published, "finished")))


@pytest.fixture
def ended(tmp_path):
    return Ended(tmp_path)


def test_figures_that_moved_since_the_last_report_are_shown_beside_what_changed(ended):
    last = ended.before(report())
    text = ended.summary(now=report(gamma=0.4, bertscore=0.625), last=last)
    assert f"## Against the last report (run {last.id})\n" in text
    assert re.search(rf"Report: `empamba report --run [0-9a-f-]+ --store {ended.store.root}` prints it", text)
    assert "| setting | epo.gamma | 0.5 | 0.4 |" in text
    (row,) = [line for line in text.splitlines() if "| BERTScore |" in line]
    assert "| 0.500 | 0.625 | +0.125 | not paired |" in row
    assert f"0 figures are the same in both; 0 more that differ: `empamba report --against {last.id}" in text


def test_the_same_report_is_said_to_be_the_same_and_the_first_one_to_be_the_first(ended):
    last = ended.before(report())
    text = ended.summary(now=report(), last=last)
    assert f"(run {last.id})\n\nThe report is the same, byte for byte.\n" in text and "BERTScore" not in text
    assert "This is the store's first." in ended.summary(now=report())
    assert "Against the last report" not in ended.summary(last=last)  # of a run that came to none


def test_a_last_report_that_cannot_be_read_is_not_compared_and_it_is_said_why(ended):
    last = ended.before({"systems": ["of another form"]})
    text = ended.summary(now=report(), last=last)
    assert f"Not compared: --against {last.id}: " in text and "no figures that this version can read" in text


def test_what_was_rejected_and_which_models_are_behind_stand_in_the_summary(ended):
    turned_away = [
        {"dataset": "meld", "split": "train", "dialogue_id": f"d{n}", "stage": "utterances", "reason": reason, "detail": ""}
        for n, reason in enumerate(["empty", "no_media", "empty"])
    ]  # fmt: skip
    rejects = ended.store.put_bytes("rejects/meld", write_table(turned_away, "rejects"), rejects=3)
    read = StagePlan(UTTERANCES, "stale", stale={"meld": ["first run"]}, outputs={"meld": (rejects,)})
    waits = StagePlan(EPO, "fresh", behind={"all": "3 of 800 rows changed (0.4 %): waits for 5 %"})
    text = ended.summary(read, waits)
    assert "## Rejected\n" in text and "| utterances | empty | 2 |\n| utterances | no_media | 1 |" in text
    assert "## Models behind their data\n\n- epo: 3 of 800 rows changed (0.4 %): waits for 5 %" in text
    assert "## Rejected" not in ended.summary(waits)


def test_the_summary_counts_the_reasons_it_leaves_out_and_leads_to_every_stages_table(ended):
    turned_away = [
        {"dataset": "meld", "split": "train", "dialogue_id": "d", "stage": "utterances", "reason": f"fault {n}", "detail": ""}
        for n in range(67)
    ]  # fmt: skip
    rejects = ended.store.put_bytes("rejects/meld", write_table(turned_away, "rejects"), rejects=67)
    read = StagePlan(UTTERANCES, "stale", stale={"meld": ["first run"]}, outputs={"meld": (rejects,)})
    text = ended.summary(read, StagePlan(EPO, "fresh"))
    assert text.count("| utterances | fault ") == 60 and "… and 7 more reasons" in text
    assert "[utterances](/artifacts/key/stage-utterances), [epo](/artifacts/key/stage-epo)" in text
