"""Twenty seeded kills: half while candidates are written, half while a model is trained. All of them: `make bench NAME=faults`."""

import pytest

from benchmarks.faults import campaign, lay_out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return lay_out(tmp_path_factory.mktemp("raw") / "raw")


@pytest.mark.parametrize("until, seed", [("pairs", 1), ("compressor.finetune", 2)])
def test_kills_cost_nothing_but_time(raw, tmp_path, until, seed):
    told = campaign(10, seed, raw, tmp_path, until=until)
    assert told.wrong == []
    assert told.killed == 10 and told.finished >= 1
