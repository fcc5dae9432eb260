"""The random control: what it adds to the graph, and its gain beside EPO's."""

import numpy as np
import pytest

from model.metrics.settings import BootstrapSettings
from tasks.engine.session import Session
from tasks.settings import load_settings
from tasks.stages.metrics.measure import COMPARED, gain_beside_control

ADDED = {"pairs.control", "epo.control", "replies.6-random"}


def _needs(tmp_path, *changes: str) -> dict[str, tuple[str, ...]]:
    with Session(load_settings("tiny", changes), "tiny", tmp_path / "store", None) as session:
        return {node.stage.name: node.needs for node in session.graph()}


def test_the_control_is_in_the_graph_only_where_asked_for(tmp_path):
    plain, controlled = _needs(tmp_path), _needs(tmp_path, "pairs.control=true")
    assert controlled.keys() - plain.keys() == ADDED
    assert "pairs.quality" in plain["epo"]  # EPO waits for the gate
    assert set(controlled["epo.control"]) == {*plain["epo"], "pairs.control"}
    assert "replies.6-random" in controlled["metrics"] and ADDED <= set(controlled["report"])
    order = list(controlled)
    assert all(order.index(need) < order.index(name) for name, needs in controlled.items() for need in needs)


@pytest.mark.parametrize("better, shown", [(0.2, True), (0.0, False)])
def test_gains_are_paired_over_the_same_replies(better, shown):
    """Replies differ far more among themselves than EPO moves them: only pairing sees the gain."""
    base = np.linspace(-1, 1, 200)
    noise = np.random.default_rng(0).normal(0, 0.05, 200)
    values = {"3-mc": base, "5-epo": base + 0.1 + better + noise, "6-random": base + 0.1 - noise}
    measured = {rung: dict.fromkeys(COMPARED, array) for rung, array in values.items()}
    keys = dict.fromkeys(values, [("meld", "test", str(i // 5), i % 5) for i in range(200)])
    found = gain_beside_control(measured, keys, BootstrapSettings())
    assert (found["base"], found["shown"], found["exchange_shown"]) == ("3-mc", shown, shown)
    gains = found["emotionscore_second"]
    assert gains["epo"]["mean"] == pytest.approx(0.1 + better, abs=0.02)
    assert gains["random"]["mean"] == pytest.approx(0.1, abs=0.02)
    assert gains["difference"]["low"] < better + 2 * noise.mean() < gains["difference"]["high"]
    assert (gains["difference"]["rows"], gains["difference"]["dialogues"]) == (200, 40)
    measured["4-av"], keys["4-av"] = measured["6-random"], keys["6-random"]
    assert gain_beside_control(measured, keys, BootstrapSettings())["base"] == "4-av"
