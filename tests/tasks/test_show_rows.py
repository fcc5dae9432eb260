"""Which rows `empamba show` prints: the first ones, or a seeded few of all."""

from collections import Counter

import pytest

from storage.shards import utterance_to_row
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.show import table_rows
from tasks.stages.shards import write_shard

SHARDS, EACH = 4, 10


@pytest.fixture
def shards(tmp_path) -> tuple[Store, list[Ref]]:
    """Four shards of ten utterances, numbered from 0 to 39."""
    store = Store(tmp_path / "store")
    return store, [
        write_shard(
            store,
            "utterances",
            f"utterances/meld/train/{shard}",
            [
                utterance_to_row(
                    Utterance("meld", "train", f"d{shard}", turn, "A", str(EACH * shard + turn), None, None)
                )
                for turn in range(EACH)
            ],
        )
        for shard in range(SHARDS)
    ]


def numbers(found: tuple[Store, list[Ref]], limit: int, seed: int | None = None) -> list[int]:
    store, refs = found
    return [int(row["text"]) for row in table_rows(store, "utterances", refs, limit, seed)[1]]


def test_without_a_seed_they_are_the_first(shards):
    assert numbers(shards, 12) == list(range(12)) and numbers(shards, 99) == list(range(40))


def test_a_seed_draws_from_all_shards_and_always_the_same(shards):
    drawn = numbers(shards, 20, 3)
    assert drawn == numbers(shards, 20, 3) and len(set(drawn)) == 20
    assert {number // EACH for number in drawn} == set(range(SHARDS))
    assert numbers(shards, 5, 3) == drawn[:5]  # more rows go on from fewer
    assert set(numbers(shards, 20, 4)) != set(drawn)
    assert sorted(numbers(shards, 99, 3)) == list(range(40))


def test_every_row_is_as_likely_as_another(shards):
    """Of 200 draws of ten of forty each row is in 50 by chance, give or take 6."""
    often = Counter(number for seed in range(200) for number in numbers(shards, 10, seed))
    assert len(often) == 40 and 25 <= min(often.values()) <= max(often.values()) <= 75
