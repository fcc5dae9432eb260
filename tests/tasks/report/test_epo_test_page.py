"""What EPO moved, on the page, in the CSV and in the answer: of all datasets together, and of each alone."""

import numpy as np
import pytest

from model.metrics.moved import OWN, USUAL, Sampled, moved, moved_by_dataset, sizes
from model.metrics.settings import BootstrapSettings
from storage.store import Store
from tests.tasks.report.test_write_report import Page, _artefacts, _json, _report, read_csv


def epo_test(*datasets: str) -> dict:
    """Of each dataset 30 exchanges of as many dialogues; EPO favours its own reference in the last one alone."""
    draw = np.random.default_rng(5)
    exchanges = [
        Sampled(
            name,
            (name, number),
            [10.0] * 4,
            [5] * 4,
            {OWN: draw.normal(0, 0.3, 4), USUAL: draw.normal(0, 0.3, 4)},
        )
        for name in datasets
        for number in range(30)
    ]
    after = {
        "epo": [
            [10.0 - 3 * worth * (e.dataset == datasets[-1]) for worth in e.worth[OWN]] for e in exchanges
        ],
        "shuffled": [[10.0] * 4 for _ in exchanges],
    }
    given = exchanges, after, "epo", BootstrapSettings()
    return {
        **moved(*given),
        "by_dataset": moved_by_dataset(*given),
        **sizes(exchanges),
        "left_out": {"exchanges": 0},
        "drawn": 4 * len(exchanges),
        "samples_each": 4,
    }


def reported(folder, found: dict) -> tuple[str, dict]:
    store = Store(folder / "store")
    artefacts = _artefacts(store, folder) | {"epo.test": [_json(store, "epo_test.json", found)]}
    return _report(folder, artefacts, store)


def test_each_dataset_is_told_alone(tmp_path):
    html, facts = reported(tmp_path, epo_test("meld", "topical_chat"))
    text = Page(html).text
    table = text["ladder"][text["ladder"].index("Of each dataset alone") :]
    assert table.index("MELD") < table.index("no difference seen") < table.index("topical_chat")
    assert "120 samples of 30 exchanges" in table
    assert " By dataset: MELD +0.000" in text["answer"] and "; topical_chat +0." in text["answer"]
    rows = {
        (row["dataset"], row["of"], row["training"], row["figure"]): float(row["mean"])
        for row in read_csv(html, "epo-test")
    }
    apart = rows["meld", "beside", "shuffled", "own"], rows["topical_chat", "beside", "shuffled", "own"]
    assert apart[0] == 0 and rows["all", "beside", "shuffled", "own"] == pytest.approx(
        sum(apart) / 2, abs=2e-6
    )
    assert set(facts["epo_test"]["by_dataset"]) == {"meld", "topical_chat"}


def test_one_dataset_is_not_told_twice(tmp_path):
    html, facts = reported(tmp_path, epo_test("meld"))
    assert "Of each dataset alone" not in html and "By dataset: MELD" not in html
    assert facts["epo_test"]["by_dataset"] == {}


def test_a_cpu_report_says_that_its_profile_does_not_measure_it_and_which_ones_do(tmp_path):
    store = Store(tmp_path / "store")
    html, _ = _report(tmp_path, _artefacts(store, tmp_path), store)
    told = "the cpu profile does not measure it (epo_test.exchanges = 0); night and paper do."
    assert Page(html).text["answer"].count(told) == 2
