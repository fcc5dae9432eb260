"""EPO's controls: what each adds to the graph, and its gain beside EPO's."""

import json

import numpy as np
import pytest

from model.metrics.settings import BootstrapSettings
from model.pairs.settings import stage_name
from storage.errors import InputError
from tasks.engine.session import Session
from tasks.settings import load_settings
from tasks.stages.metrics.measure import COMPARED, gain_beside_control

ADDED = {
    "random": {"pairs.random", "epo.random", "replies.6-random"},
    "most_similar": {"pairs.most-similar", "epo.most-similar", "replies.7-most-similar"},
    "shuffled": {"pairs.shuffled", "epo.shuffled", "replies.8-shuffled"},
    "nll": {"epo.nll", "replies.9-nll"},
}


def _needs(tmp_path, *changes: str) -> dict[str, tuple[str, ...]]:
    with Session(load_settings("tiny", changes), "tiny", tmp_path / "store", None) as session:
        return {node.stage.name: node.needs for node in session.graph()}


@pytest.mark.parametrize("asked", [("random",), ("nll",), ("shuffled", "random"), tuple(ADDED)])
def test_a_control_is_in_the_graph_only_where_asked_for(tmp_path, asked):
    plain = _needs(tmp_path)
    controlled = _needs(tmp_path, f"pairs.control={json.dumps(asked)}")
    added = set().union(*(ADDED[name] for name in asked))
    assert controlled.keys() - plain.keys() == added
    assert "pairs.quality" in plain["epo"]  # EPO waits for the gate
    pairs = {name for name in added if name.startswith("pairs.")}
    assert set(controlled["epo"]) == {*plain["epo"], *pairs}
    for name in asked:  # which takes EPO's rows and steps
        assert set(controlled[stage_name("epo", name)]) == {*controlled["epo"], "epo"}
    assert {name for name in added if name.startswith("replies.")} <= set(controlled["metrics"])
    assert added <= set(controlled["report"])
    order = list(controlled)
    assert all(order.index(need) < order.index(name) for name, needs in controlled.items() for need in needs)


@pytest.mark.parametrize(
    "value, told",
    [
        ("true", r'pairs.control=\["random"\]'),
        ("false", r"pairs.control=\[\]"),
        ('["randm"]', "'random', 'most_similar', 'shuffled' or 'nll'"),
        ('["nll", "nll"]', "named twice"),
    ],
)
def test_controls_are_named_and_the_old_form_names_the_new_one(value, told):
    with pytest.raises(InputError, match=told) as failure:
        load_settings("tiny", [f"pairs.control={value}"])
    assert "\n" not in str(failure.value)
    assert load_settings("tiny", ["pairs.control=random"]).pairs.control == ("random",)
    assert load_settings("paper").pairs.control == () and load_settings("paper").pairs.chosen == "human"


@pytest.mark.parametrize("better, shown", [(0.2, True), (0.0, False)])
def test_gains_are_paired_over_the_same_replies(better, shown):
    """Replies differ far more among themselves than EPO moves them: only pairing sees the gain."""
    base = np.linspace(-1, 1, 200)
    noise = np.random.default_rng(0).normal(0, 0.05, 200)
    values = {"3-mc": base, "5-epo": base + 0.1 + better + noise, "6-random": base + 0.1 - noise}
    measured = {rung: dict.fromkeys(COMPARED, array) for rung, array in values.items()}
    keys = dict.fromkeys(values, [("meld", "test", str(i // 5), i % 5) for i in range(200)])
    found = gain_beside_control("6-random", measured, keys, BootstrapSettings())
    assert (found["base"], found["shown"], found["exchange_shown"]) == ("3-mc", shown, shown)
    gains = found["emotionscore_second"]
    assert gains["epo"]["mean"] == pytest.approx(0.1 + better, abs=0.02)
    assert gains["control"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert gains["difference"]["low"] < better + 2 * noise.mean() < gains["difference"]["high"]
    assert (gains["difference"]["rows"], gains["difference"]["dialogues"]) == (200, 40)
    measured["4-av"], keys["4-av"] = measured["6-random"], keys["6-random"]
    assert gain_beside_control("6-random", measured, keys, BootstrapSettings())["base"] == "4-av"
