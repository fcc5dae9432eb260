"""The memory ladder and rung 4f on the page and in the JSON, from figures made up by hand."""

from dataclasses import replace

import pytest

from model.metrics.memory_ladder import ArmRow, arm_figures, by_dataset, comparisons
from model.metrics.settings import BootstrapSettings
from storage.store import Store
from tasks.report.flat import flat_figures
from tasks.report.method_tables import memory_ladder
from tests.tasks.report.test_write_report import (
    RUNGS,
    Page,
    _artefacts,
    _json,
    _metrics,
    _report,
    _trained,
    read_csv,
)


def rows(gain: float, tokens: int, nats: float = 3.0) -> list[ArmRow]:
    """Twelve replies of as many dialogues: at turn 3, and the last two at turn 12."""
    return [
        ArmRow(
            f"meld/k{i}",
            f"d{i}",
            3 if i < 10 else 12,
            nats + i / 10,
            nats + i / 10 + gain + (i - 5.5) / 100,
            tokens,
        )
        for i in range(12)
    ]


def ladder(second: float | None = None) -> dict:
    """Of MELD; and of Topical-Chat too, where its memories' gain is given."""
    arms = {"full": rows(0.4, 200, 2.75), "mean": rows(0.1, 8, 3.0), "memory": rows(0.2, 8, 3.125)}
    if second is not None:
        other = {**arms, "memory": rows(second, 8, 3.125)}
        arms = {
            name: [
                replace(row, key=row.key.replace("meld", dataset), dialogue=(dataset, row.dialogue))
                for dataset, found in (("meld", arms), ("topical_chat", other))
                for row in found[name]
            ]
            for name in arms
        }
    about = {
        "full": ("the full history as text", "rung 2", True),
        "mean": ("mean embeddings", "own", True),
        "memory": ("MambaCompressor memories", "rung 3", False),
    }
    return {
        "arms": {
            name: dict(zip(("title", "adapter", "prepared"), about[name], strict=True))
            | {"dropped_utterances": 7 if name == "full" else 0, "cost": None}
            | arm_figures(found, arms["full"], BootstrapSettings())
            for name, found in arms.items()
        },
        "comparisons": comparisons(arms, BootstrapSettings()),
        "by_dataset": by_dataset(arms, BootstrapSettings()),
        "turns": [2, 3],
        "exchanges": 13,
        "alone": 1,
        "cache_bytes": 1024,
        "history_utterances": 90,
        "most_utterances": 32,
        "most_tokens": 1024,
    }


def test_the_page_shows_each_arm_and_says_what_it_means(tmp_path):
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path) | {"ladder": [_json(store, "ladder.json", ladder())]}
    html, facts = _report(tmp_path, artefacts, store)
    page = Page(html)
    text = page.text["memory"]
    assert text.index("mean embeddings 25 %") < text.index("MambaCompressor memories 50 %")
    # The learnt memory leaves 0.125 nats more of every reply.
    assert "The learnt memory does not beat mean embeddings in use: nats a token spared −0.125" in text
    assert facts["memory_ladder"]["sentences"][0] in text
    assert "50 %" in text and "25 %" in text  # 0.2 and 0.1 of 0.4
    assert "96 %" in text and "200.0" in text and "8 KiB" in text  # 8 tokens of 200; of 1024 bytes each
    assert text.count("zero-shot") == 2 and "an adapter of its own" in text  # the row, and the sentence
    assert "1 of 13 exchanges are left out" in text and "10 to 14" in text and page.bare_tables == 0
    assert (
        "as text their last 1,024 tokens: of 90 turns have no place 7 in the full history as text; 0 in mean"
        in text
    )
    assert any("Other minus own" in image["alt"] for image in page.images)
    assert facts["other_stages"].keys().isdisjoint({"ladder"})
    assert "test exchanges of each arm of the memory ladder" in html


def test_each_dataset_has_its_own_rows_on_the_page_in_the_csv_and_in_the_answer(tmp_path):
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path) | {"ladder": [_json(store, "ladder.json", ladder(0.05))]}
    html, facts = _report(tmp_path, artefacts, store)
    text = Page(html).text["memory"]
    table = text[text.index("Of each dataset alone") :]
    assert "MELD" in table and table.count("MambaCompressor memories") >= 2
    assert "By dataset: MELD +0.200" in text and "topical_chat +0.050" in text
    csv = {(row["dataset"], row["arm"]): row for row in read_csv(html, "memory-by-dataset")}
    assert float(csv["meld", "memory"]["gain.mean"]) == pytest.approx(0.2)
    assert float(csv["topical_chat", "memory"]["gain.mean"]) == pytest.approx(0.05)
    assert {row["dataset"] for row in read_csv(html, "memory-comparisons")} == {
        "all",
        "meld",
        "topical_chat",
    }
    assert facts["memory_ladder"]["by_dataset"]["meld"]["arms"]["memory"]["n"] == 12
    alone, _ = _report(tmp_path, artefacts | {"ladder": [_json(store, "ladder.json", ladder())]}, store)
    assert "Of each dataset alone" not in alone and "By dataset: MELD" not in alone


def test_the_first_screen_says_what_the_finetuned_compressor_reads_of_its_own_memories(tmp_path):
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path)
    found = {}
    for learned in (True, False):
        compressor = _trained(store, tmp_path / f"c{learned}", learned, "other_memory")
        html, facts = _report(tmp_path, artefacts | {"compressor.finetune": compressor}, store)
        found[learned] = facts["answer"][2]
        assert found[learned]["says"] in Page(html).text["answer"]
    # Eight rows of as many dialogues: another's memory costs .5 nats more, or nothing.
    assert found[True]["grade"] == "shown" and "nats a token, +0.500" in found[True]["says"]
    assert found[False]["grade"] == "not shown" and "n = 8 (8 dialogues)" in found[False]["says"]


def test_what_prompts_cost_stands_on_the_page_in_the_csv_and_in_the_terminal_where_it_was_measured(tmp_path):
    store = Store(tmp_path / "store")
    found = ladder()
    for place, arm in enumerate(("full", "mean")):
        found["arms"][arm]["cost"] = {
            "n": 5, "dialogues": 3, "seconds": 0.1234 + place, "seconds_ci": [0.1, 2.0], "gigabytes": 1.25,
            "memory_of": "the device's allocations",
        }  # fmt: skip
    html, facts = _report(
        tmp_path, _artefacts(store, tmp_path) | {"ladder": [_json(store, "ladder.json", found)]}, store
    )
    text = Page(html).text["memory"]
    assert (
        "time, s" in text
        and "0.1234" in text
        and "1.1234" in text
        and "0.1000 to 2.0000" in text
        and "1.25" in text
    )
    assert "of 5 prompts of 3 dialogues, one by one" in text and "the device's allocations" in text
    csv = {row["arm"]: row for row in read_csv(html, "memory-ladder")}
    assert float(csv["full"]["cost.seconds"]) == 0.1234 and csv["memory"].get("cost.seconds") in ("", None)
    (table, *_) = memory_ladder(facts | {"counts": {"titles": {}}})
    assert {"time, s", "memory, GB"} <= set(table.columns) and table.rows[0]["time, s"].startswith("0.1234")
    told = {(row.of, row.figure): row for row in flat_figures(facts) if row.table == "Memory ladder"}
    assert told["mean embeddings", "seconds"].value == 1.1234 and told["mean embeddings", "seconds"].n == 5
    html, facts = _report(
        tmp_path, _artefacts(store, tmp_path) | {"ladder": [_json(store, "ladder.json", ladder())]}, store
    )
    text = Page(html).text["memory"]
    assert "time, s" not in text and "ladder.timed=64" in text
    assert "time, s" not in next(memory_ladder(facts | {"counts": {"titles": {}}})).columns


def test_a_run_without_it_has_no_such_section(tmp_path):
    store = Store(tmp_path / "store")
    html, facts = _report(tmp_path, _artefacts(store, tmp_path), store)
    assert facts["memory_ladder"] is None and 'id="memory"' not in html


def test_rung_4f_stands_after_4_with_its_parts(tmp_path):
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path)
    artefacts |= {"dialogue.audiovisual": artefacts["dialogue.memory"]}
    artefacts |= {"dialogue.text-audiovisual": artefacts["dialogue.memory"]}
    artefacts |= {"metrics": _metrics(store, [*RUNGS[:4], "4f-text", RUNGS[4]])}
    html, facts = _report(tmp_path, artefacts, store)
    table = [(row["rung"], row["parts"]) for row in facts["ladder"]]
    assert table[3:] == [
        ("4-av", [True, True, True, False]),
        ("4f-text", [True, False, True, False]),
        ("5-epo", [True, True, True, True]),
    ]
    row = next(row for row in facts["ladder"] if row["rung"] == "4f-text")
    assert row["run"]["bertscore"] == pytest.approx(0.6) and row["paper"] is None
    assert "4 with the full history as text" in Page(html).text["ladder"]
