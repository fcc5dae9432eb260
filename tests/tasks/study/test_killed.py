"""The server is killed while people judge: what was acknowledged is there, once. As benchmarks/study.py, smaller."""

import asyncio

import pytest

from benchmarks.study import measure
from tests.support.small_study import small_study


@pytest.mark.slow
def test_no_acknowledged_click_is_lost_or_doubled(tmp_path):
    _, access = small_study(tmp_path, participants=30, each=4)
    found = asyncio.run(measure(tmp_path, access.tokens, pause=0.3, kills=3, every=1.0))
    assert found["kills"] == 3 and found["done"] == 30 and found["clicks"] == 30 * 4 * 3 * 2
    assert (found["lost"], found["doubled"], found["not_acknowledged"]) == (0, 0, 0) and found[
        "tried_again"
    ] > 0
