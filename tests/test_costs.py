"""docs/costs.md: its tables are those of the program, and the program's arithmetic is that of a hand."""

import runpy
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks import scale
from model.candidates.prompts import candidate_messages
from model.zoo.errors import ZooError
from model.zoo.resolve import resolve
from tasks.pipeline import STAGES
from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
COSTS = runpy.run_path(str(ROOT / "benchmarks/costs.py"))
LOAD = 30
"""Seconds a model."""
CLIP = 6.51 * 50 * 384 * 2 + 8 * 50 * 768 * 2
"""Bytes of the features of one of MultiDialog's."""


def test_the_pages_tables_are_the_programs():
    page = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
    assert COSTS["tables"]() in page
    assert scale.table() in page


def test_every_stage_of_the_profile_that_computes_is_in_the_table():
    """What has torch or numpy among its libraries; the five rungs' replies are one row."""
    settings = load_settings("paper")
    computing = [s.name for s in STAGES if s.enabled(settings) and {"torch", "numpy"} & set(s.libraries)]
    assert {COSTS["REPLIES"] if s.startswith("replies.") else s for s in computing} == set(COSTS["STAGES"])
    assert sum(s.startswith("replies.") for s in computing) == COSTS["RUNGS"]


def test_the_serial_totals_are_within_what_was_aimed_at():
    for corpus, most in (("MELD", 3), ("MULTIDIALOG", 24)):
        assert sum(COSTS["hours"](COSTS[corpus]).values()) < most


def test_hours_by_hand():
    one = COSTS["hours"](COSTS["MULTIDIALOG"])
    # 187,859 clips: 107e9 products in float32 at 7.8e12 a second and 21 ms of storing; eight decode ahead at 174 ms a clip.
    assert one["features"] == pytest.approx((187_859 * (107 / 7800 + 0.021) + LOAD) / 3600)
    assert one["features"] > 187_859 * 0.174 / 8 / 3600
    # 151,645 x 0.95 rows of 478 + 25 + 25 tokens, four products of 6.5e9; seven passes of two over 2,000; 124.8e12 a second.
    tokens = 151_645 * 0.95 * 528, 2000 * 528 * 7
    seconds = (tokens[0] * 26e9 + tokens[1] * 13e9) / 124.8e12 + LOAD
    assert one["dialogue.text"] == pytest.approx(seconds / 3600)
    # Eight replies to every exchange of train and dev: 34 + 25 tokens read, 25 written in steps of 256 that take 16 ms.
    asked = (151_645 + 18_072) * 0.95 * 8
    seconds = asked * 59 * 13e9 / 124.8e12 + asked * 25 / 256 * 0.016 + 90
    scores = asked * 9 / 8 * (27 * 172e6 / 7.8e12 + 0.08e-3) + asked * 0.27e-3 + LOAD
    assert one["scores"] == pytest.approx(scores / 3600)
    assert one["candidates"] == pytest.approx(seconds / 3600)
    # Five rungs' 64 tokens to every test exchange, in steps of 256, five starts and loads; each prompt read twice, by vLLM and for the
    # likelihoods of three replies: two of 478 tokens of text, three of the memories and of what voice and face come to.
    exchanges, memories = 18_142 * 0.95, COSTS["memories"](COSTS["MULTIDIALOG"])
    read = exchanges * (2 * (2 * 478 + 3 * (memories + 64)) + 5 * 3 * 25)
    # Two of them read each clip twice, and check the shards.
    seconds = read * 13e9 / 124.8e12 + 5 * exchanges / 256 * 64 * 0.016 + 5 * (90 + LOAD)
    seconds += 2 * (2 * exchanges * 0.002 + 18_142 * CLIP / 0.9e9)
    assert one["replies (five rungs)"] == pytest.approx(seconds / 3600)


def test_hours_of_what_is_measured_by_hand():
    """None of it is vLLM's: 35 ms a step of transformers', 30 s a model."""
    one = COSTS["hours"](COSTS["MULTIDIALOG"])
    # 900 conversations twice, 16 at once: five utterances of 25 tokens and four more; 60 tokens around the memories.
    steps, passed = 900 * 2 / 16 * 129 * 0.035, 900 * 2 * 185 * 13e9 / 124.8e12
    scored = 900 * 2 * 2 * 5 * (27 * 2 * 17 * 12.6e6 / 7.8e12 + 0.08e-3)
    assert one["compressor.test"] == pytest.approx((steps + passed + scored + 2 * LOAD) / 3600)
    # Seven input settings and six again of every test clip: 32 queries a modality, 1.5 of them, 40 words, seven answers of two.
    # Each clip is read eight times, and its shard checked once.
    asked = 18_142 * 13 * 102 * 13e9 / 124.8e12 + 18_142 * (8 * 0.002 + CLIP / 0.9e9)
    assert one["extractor.test"] == pytest.approx((asked + LOAD) / 3600)
    # 500 exchanges' eight samples, 16 at once, of 48 tokens; four models: the sampler, before, after, the scorer.
    assert one["epo.test"] > (4000 / 16 * 48 * 0.035 + 4 * LOAD) / 3600
    # Eight of a hundred exchanges by both forms: each prompt alone takes a step at least, replies 64 steps for 64.
    rows = 18_142 * 0.95 * 0.08
    assert one["long-history"] > (2 * (rows + rows) * 0.035 + 3 * LOAD) / 3600
    # Ten systems' replies: 1.3 ms each on the host, two texts each through 17 layers of RoBERTa-large.
    said = 10 * 18_142 * 0.95
    assert one["metrics"] > said * (1.3e-3 + 2 * 27 * 2 * 17 * 12.6e6 / 7.8e12) / 3600
    assert one["pairs.quality"] == pytest.approx((151_645 + 18_072) * 0.95 * 0.6 * 0.16e-3 / 3600)


def test_features_are_read_again_by_what_shows_them_and_by_nothing_else():
    work = {name: of(COSTS["MULTIDIALOG"], COSTS["AS_IT_IS"]) for name, of in COSTS["STAGES"].items()}
    # Mean and spread, then 1.5 of two modalities in a row; seven passes over 2,000 held-out rows.
    assert work["extractor"].read == pytest.approx(151_645 * 1.75 + 2000 * 7 * 0.75)
    assert work["dialogue.audiovisual"].read == pytest.approx(151_645 * 0.95 + 2000 * 7)
    assert work["epo"].read == pytest.approx(151_645 * 0.95 * 0.6 + 2000 * 7)
    shards = (151_645 + 18_072) * CLIP
    assert {name: round(one.checked / CLIP) for name, one in work.items() if one.read} == {
        **dict.fromkeys(("extractor", "dialogue.audiovisual", "epo"), round(shards / CLIP)),
        COSTS["REPLIES"]: 2 * 18_142, "epo.test": 18_142, "extractor.test": 18_142,
    }  # fmt: skip
    settings = load_settings("paper")
    reads = {s.name for s in STAGES if s.enabled(settings) and "features" in s.needs and s.libraries}
    assert reads >= {name for name, one in work.items() if one.read and not name.startswith("replies")}


def test_four_cards_share_what_they_can():
    one, four = (COSTS["hours"](COSTS["MULTIDIALOG"], cards) for cards in (1, 4))
    for stage, alone in (("candidates", 90), ("dialogue.text", LOAD), ("compressor.finetune", LOAD)):
        of_each = alone / 3600  # what every card's process starts or loads for itself
        assert four[stage] - of_each == pytest.approx((one[stage] - of_each) / 3.6)
    assert four["replies (five rungs)"] == pytest.approx(
        one["replies (five rungs)"] * 2 / 5
    )  # two on one of them
    # Four processes train, and hold the texts and the weights on their way each; the ladder is one process as ever.
    host, corpus = COSTS["host_gb"], COSTS["MULTIDIALOG"]
    assert host(corpus, "epo", 4) == 4 * host(corpus, "epo") and host(corpus, "ladder", 4) == host(
        corpus, "ladder"
    )
    assert four["ladder"] == one["ladder"]
    # All cores that are busy decode then, and are what is waited for.
    assert four["features"] == pytest.approx((187_859 * 0.174 / 11.2 + LOAD) / 3600)


def test_memory_and_disk_by_hand():
    # rank 128 on q, k, v and o of 28 layers of Qwen2.5-7B: (3584 + 3584) twice, (3584 + 512) twice.
    assert COSTS["LORA"] == 128 * 28 * (2 * 7168 + 2 * 4096) == 80_740_352
    # 13,708 clips of 3.6 s: 180 audio states of 384 halves, 400 frame tokens of 768.
    assert COSTS["features_gb"](COSTS["MELD"]) == pytest.approx(13_708 * (180 * 768 + 400 * 1536) / 1e9)
    assert COSTS["gpu_gb"]("candidates", COSTS["MELD"]) == pytest.approx(15.2 + 17.2)
    # Libraries and weights on their way, 12 kB of each of 187,859 utterances; vLLM's process beside them.
    assert COSTS["host_gb"](COSTS["MULTIDIALOG"]) == pytest.approx(16 + 187_859 * 12e3 / 1e9)
    assert COSTS["host_gb"](COSTS["MULTIDIALOG"], COSTS["REPLIES"]) == pytest.approx(
        32 + 187_859 * 12e3 / 1e9
    )
    # Masters, the best, two moments, the saved: five numbers of four bytes.
    assert COSTS["disk_gb"]("epo", COSTS["MELD"]) == pytest.approx(80_740_352 * 20 / 1e9)


def test_a_thousand_times_multidialog_by_hand():
    many = scale.Size(1000)
    assert many.items == 3 * 375_718 + 42 and scale.Size(1).items == 3 * 376 + 42
    told = {what: (one, thousand) for what, _, one, thousand, _ in scale.rows()}
    assert told["host memory of every training's process"] == ("18.3 GB", "2.27 TB")
    assert told["`status`: time"] == ("3 s", "45 min")  # 187,859,000 / 70,000 = 2,684 s
    hours = sum(COSTS["hours"](COSTS["MULTIDIALOG"]).values())
    assert many.card_hours(True) + many.card_hours(False) == pytest.approx(1000 * hours)


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
    assert s.ladder.exchanges == COSTS["AS_IT_IS"].ladder and s.replies.exchanges is None
    assert (s.recognition.clips, s.long_history.exchanges, s.reconstruction.conversations) == (None,) * 3
    assert s.long_history.measure_cost and s.long_history.least_turns == 20
    assert (s.epo_test.exchanges, s.epo_test.samples * s.epo_test.max_new_tokens) == (500, COSTS["SAMPLED"])
    assert {s.epo_test.batch_size, s.reconstruction.batch_size} == {COSTS["MEASURED_BATCH"]}
    assert s.reconstruction.utterances == COSTS["RESTORED"]
    assert s.metrics.bertscore.num_layers == 17 and s.scorer.dtype == "float32"
    assert 2 * 2 * s.pairs.calibration_pairs == COSTS["CALIBRATION"] and s.data.bucket_rows == scale.SHARD
    assert s.dialogue.training.evaluations + 1 == COSTS["CHECKS"] and s.features.dtype == "float32"
    assert not s.candidates.engine_args.enforce_eager
    assert len(s.candidates.emotions) == COSTS["CANDIDATES"] and len(s.ladder.arms) == COSTS["ARMS"]
