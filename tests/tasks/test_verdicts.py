"""What a run prints of a trained stage."""

import json

from storage.store import Store
from tasks.stages.verdicts import training_line


def line(tmp_path, report: dict) -> str | None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "report.json").write_text(json.dumps(report))
    store = Store(tmp_path / "store")
    return training_line(store, (store.put_tree("model", tmp_path / "model"),))


def test_a_gain_is_told_in_figures(tmp_path):
    report = {"heldout_before": {"loss": 4.1}, "heldout_after": {"loss": 3.5}, "learned": True}
    assert line(tmp_path, report) == "held-out loss 4.100 → 3.500: learned"


def test_no_gain_is_told_as_such(tmp_path):
    report = {"heldout_before": {"loss": 4.1}, "heldout_after": {"loss": 4.1}, "learned": False}
    assert line(tmp_path, report).endswith("did not learn")


def test_a_collapse_of_epo_is_told(tmp_path):
    epo = {"heldout_before": {"loss": 4.1}, "heldout_after": {"loss": 4.0}, "learned": True}
    for number, (collapsed, step, told) in enumerate(
        (
            (True, 62, "learned; COLLAPSED: at step 62"),
            (None, None, "too few steps"),
            (False, None, ": learned"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        said = line(folder, {**epo, "collapsed": collapsed, "collapsed_at_step": step})
        assert told in said and ("COLLAPSED" in said) == bool(collapsed)


def test_other_artefacts_have_no_line(tmp_path):
    store = Store(tmp_path)
    assert training_line(store, (store.put_bytes("shard", b"x"),)) is None
