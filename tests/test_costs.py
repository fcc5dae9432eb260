"""docs/costs.md: its tables are those of the program, and the program's arithmetic is that of a hand."""

import runpy
from pathlib import Path

import pytest

from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
COSTS = runpy.run_path(str(ROOT / "benchmarks/costs.py"))


def test_the_pages_tables_are_the_programs():
    page = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
    assert COSTS["tables"]() in page


def test_hours_by_hand():
    one = COSTS["hours"](COSTS["MULTIDIALOG"])
    # 187,859 clips of 1.5 core-seconds on 11.2 busy cores.
    assert one["features"] == pytest.approx(187_859 * 1.5 / 11.2 / 3600)
    # 151,645 x 0.95 rows of 478 + 25 + 25 tokens, four products of 6.5e9; seven passes of two over dev; 124.8e12 a second.
    tokens = 151_645 * 0.95 * 528, 18_072 * 0.95 * 528 * 7
    assert one["dialogue.text"] == pytest.approx((tokens[0] * 26e9 + tokens[1] * 13e9) / 124.8e12 / 3600)
    # Eight replies to every exchange of train and dev: 100 tokens read, 25 written in steps of 256 that take 25 ms.
    asked = (151_645 + 18_072) * 0.95 * 8
    seconds = asked * 100 * 13e9 / 124.8e12 + asked * 25 / 256 * 0.025
    assert one["candidates"] == pytest.approx(seconds / 3600)


def test_four_cards_share_what_is_trained_and_nothing_else():
    one, four = (COSTS["hours"](COSTS["MELD"], cards) for cards in (1, 4))
    assert four["candidates"] == one["candidates"] and four["features"] == one["features"]
    trained = 9989 * (11 + 1) * 26e9 / 124.8e12 / 3600
    assert one["compressor.finetune"] - four["compressor.finetune"] == pytest.approx(trained * (1 - 1 / 3.6))


def test_memory_and_disk_by_hand():
    # rank 128 on q, k, v and o of 28 layers of Qwen2.5-7B: (3584 + 3584) twice, (3584 + 512) twice.
    assert COSTS["LORA"] == 128 * 28 * (2 * 7168 + 2 * 4096) == 80_740_352
    # 13,708 clips of 3.6 s: 180 audio states of 384 halves, 400 frame tokens of 768; twice.
    assert COSTS["features_gb"](COSTS["MELD"]) == pytest.approx(2 * 13_708 * (180 * 768 + 400 * 1536) / 1e9)
    assert COSTS["gpu_gb"]("candidates", COSTS["MELD"]) == pytest.approx(15.2 + 17.2)


def test_what_it_says_of_the_settings_is_what_the_profile_has():
    s = load_settings("paper")
    assert (s.extractor.queries, s.dialogue.rank, s.dialogue.target_modules) == (
        COSTS["QUERIES"], 128, ("q_proj", "k_proj", "v_proj", "o_proj"),
    )  # fmt: skip
    assert (s.replies.max_new_tokens, s.dialogue.reply_batch_size) == (64, COSTS["AS_IT_IS"].reply_batch)
    assert s.candidates.engine_args.kv_cache_memory_bytes == pytest.approx(COSTS["KV_CACHE"] * 1e9, rel=0.01)
    assert (s.compressor.pretrain.epochs, s.compressor.pretrain.evaluations) == (10, COSTS["EVALUATIONS"])
    assert s.dialogue.training.evaluations + 1 == COSTS["CHECKS"] and s.dialogue.training.heldout_rows is None
    assert len(s.candidates.emotions) == COSTS["CANDIDATES"] and len(s.ladder.arms) == 6
