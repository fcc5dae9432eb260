"""docs/costs.md: its tables are those of the program, and the program's arithmetic is that of a hand."""

import runpy
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from model.candidates.prompts import candidate_messages
from model.zoo.errors import ZooError
from model.zoo.resolve import resolve
from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
COSTS = runpy.run_path(str(ROOT / "benchmarks/costs.py"))


def test_the_pages_tables_are_the_programs():
    page = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
    assert COSTS["tables"]() in page


def test_hours_by_hand():
    one = COSTS["hours"](COSTS["MULTIDIALOG"])
    # 187,859 clips: 107e9 products in float32 at 7.8e12 a second and 21 ms of storing; eight decode ahead at 174 ms a clip.
    assert one["features"] == pytest.approx(187_859 * (107 / 7800 + 0.021) / 3600)
    assert one["features"] > 187_859 * 0.174 / 8 / 3600
    # 151,645 x 0.95 rows of 478 + 25 + 25 tokens, four products of 6.5e9; seven passes of two over 2,000; 124.8e12 a second.
    tokens = 151_645 * 0.95 * 528, 2000 * 528 * 7
    assert one["dialogue.text"] == pytest.approx((tokens[0] * 26e9 + tokens[1] * 13e9) / 124.8e12 / 3600)
    # Eight replies to every exchange of train and dev: 34 + 25 tokens read, 25 written in steps of 256 that take 16 ms.
    asked = (151_645 + 18_072) * 0.95 * 8
    seconds = asked * 59 * 13e9 / 124.8e12 + asked * 25 / 256 * 0.016 + 90
    assert one["candidates"] == pytest.approx(seconds / 3600)
    # Five rungs' 64 tokens to every test exchange, in steps of 256, and five starts; each prompt read twice, by vLLM and for the
    # likelihoods of three replies: two of 478 tokens of text, three of the memories and of what voice and face come to.
    exchanges, memories = 18_142 * 0.95, COSTS["memories"](COSTS["MULTIDIALOG"])
    read = exchanges * (2 * (2 * 478 + 3 * (memories + 64)) + 5 * 3 * 25)
    seconds = read * 13e9 / 124.8e12 + 5 * exchanges / 256 * 64 * 0.016 + 5 * 90
    assert one["replies (five rungs)"] == pytest.approx(seconds / 3600)


def test_four_cards_share_what_they_can():
    one, four = (COSTS["hours"](COSTS["MULTIDIALOG"], cards) for cards in (1, 4))
    for stage in ("candidates", "dialogue.text", "compressor.finetune"):
        assert four[stage] == pytest.approx(one[stage] / 3.6)
    assert four["replies (five rungs)"] == pytest.approx(
        one["replies (five rungs)"] * 2 / 5
    )  # two on one of them
    assert four["ladder"] == one["ladder"]
    # All cores that are busy decode then, and are what is waited for.
    assert four["features"] == pytest.approx(187_859 * 0.174 / 11.2 / 3600)


def test_memory_and_disk_by_hand():
    # rank 128 on q, k, v and o of 28 layers of Qwen2.5-7B: (3584 + 3584) twice, (3584 + 512) twice.
    assert COSTS["LORA"] == 128 * 28 * (2 * 7168 + 2 * 4096) == 80_740_352
    # 13,708 clips of 3.6 s: 180 audio states of 384 halves, 400 frame tokens of 768.
    assert COSTS["features_gb"](COSTS["MELD"]) == pytest.approx(13_708 * (180 * 768 + 400 * 1536) / 1e9)
    assert COSTS["gpu_gb"]("candidates", COSTS["MELD"]) == pytest.approx(15.2 + 17.2)


def test_the_profile_asks_for_a_card_that_all_of_the_table_fits_and_no_larger_one():
    corpora = COSTS["MELD"], COSTS["MULTIDIALOG"]
    largest = max(COSTS["gpu_gb"](stage, corpus) for stage in COSTS["STAGES"] for corpus in corpora)
    assert largest <= load_settings("paper").run.least_gpu_gb <= 80
    # What docs/costs.md and the profile say of activation_checkpointing.
    without = [
        stage
        for stage in COSTS["STAGES"]
        if max(COSTS["gpu_gb"](stage, corpus, stage in RECOMPUTED) for corpus in corpora) > 40
    ]
    assert without == []


RECOMPUTED = "compressor.finetune", "dialogue.text", "dialogue.memory", "dialogue.audiovisual"
"""What compressor.finetune.activation_checkpointing and dialogue.training.activation_checkpointing are of."""


def test_activations_are_those_that_are_counted():
    counted = runpy.run_path(str(ROOT / "benchmarks/activations.py"))["bytes_a_token"]
    assert counted(recomputed=False) == pytest.approx(COSTS["ACTIVATIONS"], rel=0.01)
    # 28 layers' inputs of 3,584 numbers of two bytes.
    assert counted(recomputed=True) == pytest.approx(28 * 3584 * 2, rel=0.01)


def test_a_candidates_prompt_is_as_long_as_it_says():
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve("smollm2-135m-instruct"))
    except ZooError as error:
        pytest.skip(str(error))
    messages = candidate_messages("", "Surprised")
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert len(rendered["input_ids"]) == COSTS["CANDIDATE_FRAME"]


def test_what_it_says_of_the_settings_is_what_the_profile_has():
    s = load_settings("paper")
    assert (s.extractor.queries, s.dialogue.rank, s.dialogue.target_modules) == (
        COSTS["QUERIES"], 128, ("q_proj", "k_proj", "v_proj", "o_proj"),
    )  # fmt: skip
    assert (s.replies.max_new_tokens, s.replies.batch_size) == (64, COSTS["AS_IT_IS"].reply_batch)
    assert s.candidates.engine_args.kv_cache_memory_bytes == pytest.approx(COSTS["KV_CACHE"] * 1e9, rel=0.01)
    assert s.replies.vllm.kv_cache_memory_bytes == pytest.approx(COSTS["REPLIES_CACHE"] * 1e9, rel=0.01)
    assert (
        s.replies.engine == "vllm" and s.replies.vllm.max_num_seqs == 256 and not s.replies.vllm.enforce_eager
    )
    assert (s.compressor.pretrain.epochs, s.compressor.pretrain.evaluations) == (10, COSTS["EVALUATIONS"])
    trainings = (s.extractor, s.dialogue, s.epo)
    trainings = (*(group.training for group in trainings), s.compressor.pretrain, s.compressor.finetune)
    assert {training.heldout_rows for training in trainings} == {COSTS["AS_IT_IS"].heldout_rows}
    assert s.dialogue.training.evaluations + 1 == COSTS["CHECKS"] and s.features.dtype == "float32"
    assert not s.candidates.engine_args.enforce_eager
    assert len(s.candidates.emotions) == COSTS["CANDIDATES"] and len(s.ladder.arms) == 6
