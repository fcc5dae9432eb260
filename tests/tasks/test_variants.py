"""Stages made again with other training seeds, or from one dataset alone: which, from what, and what the report says of them."""

import json
import shutil
from pathlib import Path

import pytest

from model.metrics.settings import BootstrapSettings
from storage.errors import InputError
from storage.sample.layout import write_sample
from storage.store import Store, canonical
from tasks.engine.graph import Sources, build_graph
from tasks.pipeline import STAGES
from tasks.report.variants import (
    answers_over_seeds,
    judged_with_seeds,
    matrix_rows,
    mean_and_sd,
    trained_on,
    with_seeds,
)
from tasks.settings import load_settings
from tasks.variants import with_variants
from tests.support.rerun import run, session

TWO = "run.seeds=[0,1]"
ON_MELD = 'generalisation.train=["meld"]'


def graph(tmp_path, *changes: str) -> dict:
    settings = load_settings("tiny", changes)
    sources = Sources(settings, "tiny", Store(tmp_path), (), tmp_path)
    return {node.stage.name: node for node in build_graph(with_variants(STAGES, settings), sources)}


def test_another_seed_repeats_what_is_trained_and_what_is_compared_and_nothing_before(tmp_path):
    plain, two = graph(tmp_path), graph(tmp_path, TWO)
    again = {name.removesuffix(".seed-1") for name in two if name.endswith(".seed-1")}
    assert again == {
        "extractor", "extractor.test", "compressor.finetune", "compressor.test", "dialogue.text", "dialogue.memory",
        "dialogue.audiovisual", "epo", "epo.test", "replies.2-ft", "replies.3-mc", "replies.4-av", "replies.5-epo", "ladder",
        "metrics",
    }  # fmt: skip
    assert set(plain) == set(two) - {f"{name}.seed-1" for name in again}
    assert set(two["epo.seed-1"].needs) >= {"pairs", "compressor.finetune.seed-1", "extractor.seed-1"}
    assert "replies.1-llm" in two["metrics.seed-1"].needs and "metrics.seed-1" in two["report"].needs
    assert all(
        node.needs == plain[name].needs for name, node in two.items() if name in plain and name != "report"
    )


def test_a_finetuned_system_is_trained_again_by_a_seed_of_its_own_and_not_on_one_dataset(tmp_path):
    system = {"kind": "multimodal", "name": "hears", "weights": "w"}
    asked = [
        {"kind": "chatbot", "name": "talks", "weights": "w"},
        system | {"name": "came"},
        system | {"finetune": {}},
    ]
    found = graph(tmp_path, TWO, ON_MELD, f"systems={json.dumps(asked)}")
    assert {name for name in found if name.startswith("systems")} == {
        "systems", "systems.fit", "systems.multimodal", "systems.fit.seed-1", "systems.multimodal.seed-1",
    }  # fmt: skip
    assert "systems.multimodal.seed-1" in found["metrics.seed-1"].needs
    assert "systems.multimodal" in found["metrics.on-meld"].needs
    settings = load_settings("tiny", [f"systems={json.dumps(asked)}"])
    changed = found["systems.fit.seed-1"].stage.changed(settings).systems
    assert changed[:2] == settings.systems[:2] and changed[2].finetune.training.seed == 1


def test_a_judge_hears_every_seed_where_that_is_asked_for_and_not_else(tmp_path):
    judge = 'judge={"server": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}%s}'
    assert "judge.seed-1" not in graph(tmp_path, TWO, judge % "")
    found = graph(tmp_path, TWO, judge % ', "every_seed": true')
    assert "replies.5-epo.seed-1" in found["judge.seed-1"].needs and "judge.seed-1" in found["report"].needs
    one = {"first": "5-epo", "second": "2-ft", "questions": {"fit": {"share": [0.6, 0.5, 0.7]}}}
    other = one | {"questions": {"fit": {"share": [0.4]}}}
    (told,) = judged_with_seeds([one], [[other], []])
    assert told["questions"]["fit"]["seeds"] == {
        "values": [0.6, 0.4, None],
        "n": 2,
        "mean": 0.5,
        "sd": 0.141421,
    }
    assert judged_with_seeds([one], [[], []]) == [one]


def test_seeds_are_added_to_every_trainings_own_and_a_first_of_another_is_the_runs(tmp_path):
    def seeds(node) -> list[int]:
        read = node.stage.changed(load_settings("tiny", ["epo.training.seed=5"]))
        return [
            read.dialogue.training.seed,
            read.compressor.finetune.seed,
            read.epo.training.seed,
            read.replies.seed,
        ]

    two = graph(tmp_path, "run.seeds=[3,1]")
    assert seeds(two["epo"]) == [3, 3, 8, 0] and seeds(two["epo.seed-1"]) == [1, 1, 6, 0]
    for wrong in ("[]", "[1,1]", "[-1]"):
        with pytest.raises(InputError, match=r"run\.seeds"):
            load_settings("tiny", [f"run.seeds={wrong}"])


def test_one_dataset_alone_trains_the_rungs_asked_for_and_a_dataset_without_dialogues_is_one_line(tmp_path):
    names = [name for name in graph(tmp_path, ON_MELD) if name.endswith("on-meld")]
    assert names == ["dialogue.text.on-meld", "replies.2-ft.on-meld", "metrics.on-meld"]
    names = graph(tmp_path, ON_MELD, 'generalisation.rungs=["3-mc"]')
    assert "compressor.finetune.on-meld" in names and "dialogue.text.on-meld" not in names
    for wrong in ("ravdess", "mled"):
        with pytest.raises(InputError, match=f"no dialogues of '{wrong}'; give some of .*meld"):
            graph(tmp_path, f'generalisation.train=["{wrong}"]')


# What the report makes of them ------------------------------------------------------------------------


def metrics(value: float, gain: float | None) -> dict:
    rows = [{"rung": rung, "dataset": "all", "bertscore": value} for rung in ("1-llm", "2-ft", "floor-okay")]
    step = {"rung": "2-ft", "against": "1-llm", "bertscore": {"grade": "learned", "mean": gain}}
    return {"systems": rows, "steps": [step], "over_floors": []}


def test_the_spread_is_a_samples_and_stands_beside_trained_rungs_alone():
    """By hand: 1, 2 and 6 have the mean 3 and the variance (4 + 1 + 9) / 2 = 7."""
    assert mean_and_sd([1.0, 2.0, 6.0]) == {
        "values": [1.0, 2.0, 6.0],
        "n": 3,
        "mean": 3.0,
        "sd": round(7**0.5, 6),
    }
    assert mean_and_sd([1.0, None])["sd"] is None and mean_and_sd([None])["mean"] is None
    base = metrics(0.5, 0.1)
    found = with_seeds(base, [metrics(0.7, None)])
    llm, tuned, floor = found["systems"]
    assert tuned["bertscore_seeds"]["mean"] == 0.6 and "bertscore_seeds" not in llm | floor
    assert found["steps"][0]["bertscore"]["seeds"] == {"values": [0.1, None], "n": 1, "mean": 0.1, "sd": None}
    assert with_seeds(base, []) is base
    named = with_seeds(base, [metrics(0.7, None)], ["floor-okay"])["systems"][2]
    assert named["bertscore_seeds"]["n"] == 2


def test_an_answer_says_how_many_seeds_show_it():
    first = {"about": "?", "grade": "shown", "says": "It did.", "difference": 0.2}
    other = first | {"grade": "not shown", "difference": 0.1}
    (found,) = answers_over_seeds([first], [[other]], [0, 7])
    assert found["says"] == (
        "It did. With 1 of 2 training seeds (0, 7) it is shown: differences +0.200, +0.100, mean +0.150, standard "
        "deviation 0.071."
    )
    assert answers_over_seeds([first], [], [0]) == [first]


def test_a_cell_of_the_matrix_is_paired_with_the_llm_as_it_came(tmp_path):
    store = Store(tmp_path)
    places = [[name, "test", str(n), 0, "digest"] for name in ("meld", "own") for n in range(4)]
    gains = [0.1, 0.2, 0.3, 0.4, -0.1, -0.1, -0.1, None]
    each = {
        "exchanges": places,
        "figures": {"1-llm": {"bertscore": [0.5] * 8},
                    "2-ft": {"bertscore": [None if g is None else 0.5 + g for g in gains]}},
    }  # fmt: skip
    rows = [
        {"rung": rung, "system": rung, "dataset": name, "n": 4, "bertscore": 0.5}
        for rung in ("1-llm", "2-ft")
        for name in ("all", "meld", "own")
    ]
    made = [
        store.put_bytes("metrics.json", canonical({"systems": rows})),
        store.put_bytes("by_reply.json", canonical(each)),
    ]
    floor = {"rung": "floor-okay", "system": "always", "n": 4, "dialogues": 4, "bertscore": 0.25}
    floors = [{**floor, "dataset": name} for name in ("all", "meld", "own")]
    found, absent, nothing = trained_on(
        ["meld", "iemocap"], {"on-meld": {"metrics": made}}, [*rows, *floors], BootstrapSettings(), store
    )
    assert (found["trained_on"], found["rung"], list(found["tested"])) == ("meld", "2-ft", ["meld", "own"])
    gained = {name: cell["over"]["bertscore"] for name, cell in found["tested"].items()}
    assert gained["meld"]["mean"] == pytest.approx(0.25) and gained["meld"]["rows"] == 4
    assert gained["own"]["mean"] == pytest.approx(-0.1) and gained["own"]["rows"] == 3
    assert absent["not_run"] and absent["trained_on"] == "iemocap"
    assert (nothing["trained_on"], nothing["rung"]) == ("nothing", "floor-okay")
    assert {name: cell["bertscore"] for name, cell in nothing["tested"].items()} == {
        "meld": 0.25,
        "own": 0.25,
    }
    lines = matrix_rows([found | {"tested": {}}, nothing])
    assert [(line["tested_on"], line["figure"], line["value"], line["grade"]) for line in lines] == [
        ("meld", "bertscore", 0.25, None), ("own", "bertscore", 0.25, None),
    ]  # fmt: skip
    assert trained_on([], {}, floors, BootstrapSettings(), store) == []


# On the pipeline --------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path) -> Path:
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=4)
    shutil.rmtree(tmp_path / "raw" / "MultiDialog")
    return tmp_path / "raw"


@pytest.mark.slow
def test_two_seeds_and_a_training_on_meld_alone_over_one_store(tmp_path, raw):
    small = [
        "candidates.budget=80", "ladder.arms=[]", "epo_test.exchanges=0", "replies.exchanges=4",
        *(f"{name}.max_tokens=300" for name in ("compressor.pretrain", "compressor.finetune")),
        *(f"{name}.training.max_tokens=600" for name in ("dialogue", "epo")),
    ]  # fmt: skip

    def opened(*changes: str):
        return session("tiny", tmp_path / "store", raw, [*small, *changes])

    with opened(TWO, ON_MELD) as both:
        ran = run(both)
        plans = {plan.stage.name: plan for plan in both.plan()}
        made = {name: [ref for refs in plan.outputs.values() for ref in refs] for name, plan in plans.items()}
        named = {ref.name: ref for ref in made["report"]}
        facts = json.loads(both.store.read(named["report.json"]))
        page = both.store.read(named["report.html"]).decode()
        adapters = {}
        for name in ("dialogue.text", "dialogue.text.seed-1", "dialogue.text.on-meld"):
            (adapters[name],) = made[name]
    names = [line.split(" ")[0] for line in ran]
    assert names.count("epo") == names.count("epo.seed-1") == 1 and "metrics.on-meld" in names
    assert not {"candidates.seed-1", "compressor.pretrain.seed-1", "replies.1-llm.seed-1"} & set(names)
    assert len({ref.digest for ref in adapters.values()}) == 3
    assert 0 < adapters["dialogue.text.on-meld"].rows < adapters["dialogue.text"].rows
    tuned = next(row for row in facts["systems"] if (row["rung"], row["dataset"]) == ("2-ft", "all"))
    assert facts["run_seeds"] == [0, 1] and len(tuned["log_likelihood_seeds"]["values"]) == 2
    assert tuned["log_likelihood_seeds"]["sd"] > 0 and "2 seeds:" in page
    assert all(len(part["seeds"]["grades"]) == 2 for part in facts["answer"])
    matrix, *floors = facts["trained_on"]
    assert {row["trained_on"] for row in floors} == {"nothing"} and "floor-okay" in {
        row["rung"] for row in floors
    }
    assert set(matrix["tested"]) == {"meld", "iemocap"} and "Trained on one dataset alone" in page
    with opened() as plain:
        assert {p.stage.name for p in plain.plan() if p.state != "fresh" and p.state != "not run"} == {
            "report"
        }
    with opened("dialogue.training.seed=1") as shifted:  # the very training that the other seed made
        run(shifted, "dialogue.text")
        (plan,) = [p for p in shifted.plan("dialogue.text") if p.stage.name == "dialogue.text"]
        assert plan.outputs["all"][0].digest == adapters["dialogue.text.seed-1"].digest
