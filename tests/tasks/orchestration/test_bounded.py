"""However much has changed, what goes to Prefect stays below 64 KiB, and what is left out is counted."""

import json

from tasks.engine.planner import StagePlan
from tasks.orchestration import bounded
from tasks.orchestration.stage_page import stage_key, tables
from tasks.pipeline import UTTERANCES

LIMIT = 64 * 1024
CHANGED = [
    f"changed input: meld/train dialogue {number}: turns 1, 2 (tëxt, emotion)" for number in range(9_989)
]


def test_every_changed_row_stands_in_one_of_the_tables_none_of_which_is_large():
    plan = StagePlan(UTTERANCES, "stale", stale={"meld": CHANGED}, outputs={"meld": ()})
    found = tables(plan)
    assert all(len(json.dumps(rows)) <= LIMIT for rows in found) and len(found) > 2
    assert found[0][0]["why"].endswith("… and 9,986 more")
    assert [row["why"] for rows in found for row in rows][1:] == CHANGED


def test_more_than_the_tables_take_is_counted():
    plan = StagePlan(UTTERANCES, "stale", stale={"meld": CHANGED * 4}, outputs={"meld": ()})
    found = tables(plan)
    listed = sum(map(len, found[:-1])) - 1
    assert f"and {len(CHANGED) * 4 - listed:,} rows more" in found[-1][0]["why"]
    assert 0 < listed < len(CHANGED) * 4


def test_a_page_ends_with_how_much_it_leaves_out():
    text = bounded.page(CHANGED)
    assert len(json.dumps(text)) <= LIMIT
    kept = [line for line in text.splitlines() if line in set(CHANGED)]
    assert text.endswith(f"… and {len(CHANGED) - len(kept):,} lines more") and kept == CHANGED[: len(kept)]
    assert bounded.page(["a", "", "b"]) == "a\n\nb"


def test_a_long_text_is_cut_wherever_it_stands():
    assert len(bounded.short("x" * 5_000)) == bounded.LINE
    ((row,),) = list(bounded.parts([{"why": "x" * 100_000, "rows": 3}]))
    assert len(row["why"]) == bounded.LINE and row["rows"] == 3
    assert bounded.table(("a",), [("x|y\nz",)])[-2] == r"| x\|y z |"
    assert bounded.first_lines(["a", "b", "c"], 2) == ["a", "b", "… and 1 more"]


def test_keys_are_what_prefect_takes():
    assert stage_key("replies.5-EPO_x") == "stage-replies-5-epo-x"
