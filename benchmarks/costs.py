"""What a run of the paper profile costs on GPUs, by stage, from arithmetic: `make bench NAME=costs` prints docs/costs.md's tables.

Nothing is measured here, and none of it has been run on a GPU. Every number that goes in has a name and a source below:
the corpora's published counts, the models' shapes, the profile's settings, and what one card is assumed to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

HOUR, GB = 3600.0, 1e9


@dataclass(frozen=True)
class Corpus:
    """Utterances and mean seconds as published; tokens of an utterance and shares of exchanges are assumed."""

    name: str
    train: int
    dev: int
    test: int
    seconds: float
    tokens: float
    """Of one utterance, in the LLM's tokens."""
    history_text: float
    """Tokens of the history as text, on average; MultiDialog: 606 in all (paper, table 3) less the instruction."""
    exchanges: float
    """Share of utterances whose next one is another speaker's."""
    labelled_pairs: float
    """Share of train exchanges that a preference pair is made of."""
    test_dialogues: int
    """As published."""
    long: float
    """Share of test exchanges that twenty turns or more stand before."""

    @property
    def utterances(self) -> int:
        return self.train + self.dev + self.test


MELD = Corpus("MELD", 9989, 1109, 2610, 3.6, 11, 60, 0.70, 0.6, 280, 0.02)
MULTIDIALOG = Corpus("MultiDialog", 151_645, 18_072, 18_142, 6.51, 25, 478, 0.95, 0.6, 900, 0.08)


@dataclass(frozen=True)
class Card:
    """One GPU of 80 GB (A100's figures), and the host it stands in. Shares of the peaks are assumed."""

    flops: float = 312e12 * 0.40
    """Products in bfloat16: the data sheet's, at two fifths."""
    bytes_s: float = 2.0e12 * 0.60
    """Memory: the data sheet's, at three fifths."""
    vllm_step_s: float = 0.016
    """One step of vLLM at 256 sequences with CUDA graphs: weights and cache (17 GB) pass once, and a tenth."""
    vllm_start_s: float = 90.0
    """Assumed: 15 GB read from a disk, compiled kernels and CUDA graphs from a cache of the first start."""
    step_s: float = 0.035
    """One step of transformers' for 64 rows or fewer, or a prompt by itself: hundreds of kernels, started one by one."""
    load_s: float = 30.0
    """Assumed, of a 7B that transformers loads: libraries, and 15 GB read from a disk. An encoder's is taken as that too."""
    flops_fp32: float = 19.5e12 * 0.40
    """Products in float32, which the encoders compute in: the data sheet's, at two fifths."""
    cores: float = 16 * 0.7
    """Of which that share is kept busy."""


# The models' shapes: Qwen2.5-7B's configuration, Mamba-370M's and the paper's settings.
LLM, EMBEDDINGS = 6.5e9, 1.1e9
WIDTH, LAYERS, KEY_VALUE = 3584, 28, 2 * 512
LORA = 128 * LAYERS * 2 * ((WIDTH + WIDTH) + (WIDTH + 512))
MAMBA, QUERIES, BRANCHES = 0.37e9, 32, 2
INSTRUCTION = 128
"""Tokens of table 6 that a batch encodes once (BENCHMARKS.md)."""
REPLY_TOKENS, CANDIDATES, RUNGS, ARMS = 64, 8, 5, 6
"""replies.max_new_tokens, the emotions, what answers, and ladder.arms."""
CANDIDATE_FRAME = 34
"""Tokens of a candidate's prompt beside its sentence (table 7), counted with SmolLM2's tokenizer and template."""
ACTIVATIONS = 6.51e6
"""Bytes a token that training keeps, in bfloat16, counted (`make bench NAME=activations`)."""
RECOMPUTED = 0.20e6 + 0.23e6
"""With activation_checkpointing: the layers' inputs, and one layer at a time."""
CHECKS, CONTROLS = 4, 3
"""Passes over the held-out rows: training.evaluations and the start; what a report compares them with."""
EVALUATIONS = 40
"""compressor.pretrain.evaluations."""
DECODING, STORING = 0.174, 0.021
"""Core-seconds a clip: decoded, measured on MultiDialog's (BENCHMARKS.md, clips); and stored, measured on clips of that length
(row, shard, digests), which the process that encodes does itself."""
READING, DIGESTING = 2e-3, 0.9e9
"""Seconds a clip whose features a batch needs, what storage/shards.py tells of a random row; and bytes a second of
blake2b, measured on one core, by which each process of a stage checks that the shards it reads are whole."""
DECODERS = 8
"""Processes that decode for one that encodes; half the cores, at most."""
ENCODING = 107e9
"""Products of a clip: Whisper-tiny over its 30 s window 37e9, CLIP ViT-B/32 over eight frames 70e9."""
ROBERTA, ROBERTA_LARGE = 2 * 86e6, 2 * 17 * 12.6e6
"""Products a token: RoBERTa-base, and the 17 layers of RoBERTa-large that BERTScore asks for."""
TOKENISING, REMEMBERING = 0.08e-3, 0.27e-3
"""Core-seconds a text, and a row of `scores` that is kept, measured (processor time, 8,000 texts and 20,000 rows)."""
TELLING_APART = 0.16e-3
"""Core-seconds a pair of pairs.quality, measured on 8,000."""
METRICS_HOST = (31.9 - 25.4) / 5000
"""Core-seconds a reply of metrics beside the encoders, intervals among them, measured on 5,000 (BENCHMARKS.md)."""
FLOORS = 5
"""Systems of metrics that read nothing."""
CALIBRATION = 2 * 2 * 600
"""Texts of scores.calibration: two kinds of so many pairs."""
A_CLIP_ASKED = 7 + 6
"""Input settings of figure 6, and again with another clip in those that show one."""
EXTRACTOR_ROW = 1.5 * QUERIES + 40 + 7 * 2
"""Tokens of a clip in one of them: half show sound and picture both; the words around, the seven answers."""
SHOWN, CLIP_READS = 1.5 / 2, 4 + 4
"""Of a clip what a row of the extractor shows; clips read for one that is asked: each modality is in four of seven, and in four
of six."""
RESTORED = 5
"""reconstruction.utterances."""
SAMPLED = 8 * 48
"""epo_test.samples, of so many tokens at most."""
MEASURED_BATCH = 16
"""Rows at once of compressor.test and epo.test."""
KV_CACHE, REPLIES_CACHE = 17.2, 8.6
"""candidates.engine_args.kv_cache_memory_bytes and replies.vllm.kv_cache_memory_bytes in GB."""


@dataclass(frozen=True)
class Settings:
    """Those that move most, as the paper profile has them. heldout_rows: of every training; None: all of dev."""

    heldout_rows: float | None = 2000
    reply_batch: int = 64
    exchanges: float | None = None
    """candidates.budget, in exchanges; None: all."""
    ladder: float = 5000
    """ladder.exchanges."""
    epo_test: float = 500
    """epo_test.exchanges."""

    def looked_at(self, rows: float) -> float:
        return rows if self.heldout_rows is None else min(rows, self.heldout_rows)


AS_IT_IS = Settings()
SPARING = Settings(heldout_rows=1000, exchanges=40_000)
"""--set extractor.training.heldout_rows=1000 and so for every training, and a budget."""


@dataclass(frozen=True)
class Work:
    """What a stage does. Tokens trained on, tokens passed through alone; decoding steps of vLLM's and of transformers'; clips;
    products of encoders in float32; a core's seconds; starts of vLLM, and models that are loaded; clips whose features are read
    again, and bytes of the shards that they lie in."""

    trained: float = 0.0
    passed: float = 0.0
    vllm_steps: float = 0.0
    steps: float = 0.0
    clips: float = 0.0
    encoded: float = 0.0
    host_s: float = 0.0
    starts: float = 0.0
    loads: float = 1.0
    read: float = 0.0
    checked: float = 0.0

    def hours(self, card: Card, workers: float = 1.0, items: float = 1.0) -> float:
        """workers: how many cards' pace it goes at; the host that decodes is one. items: of the stage, which load by turns as
        many models as there are items on a card; one item's workers each load what it needs."""
        products = (self.trained * 4 + self.passed * 2) * LLM / card.flops + self.encoded / card.flops_fp32
        steps = self.vllm_steps * card.vllm_step_s + self.steps * card.step_s
        encoding = self.clips * (ENCODING / card.flops_fp32 + STORING)
        decoding = self.clips * DECODING / min(DECODERS * workers, card.cores)
        loading = self.starts * card.vllm_start_s + self.loads * card.load_s + self.checked / DIGESTING
        # Clips are decoded ahead of those that are encoded.
        computing = products + steps + encoding + self.host_s + self.read * READING
        shared = max(computing / workers, decoding)
        return (shared + loading / min(items, workers)) / HOUR


def held_out(settings: Settings, rows: float, tokens: float, checks: int = CHECKS + CONTROLS) -> float:
    """Tokens passed through for the held-out rows."""
    return settings.looked_at(rows) * tokens * checks


def clip_bytes(corpus: Corpus) -> float:
    """Fifty audio states a second of 384 numbers, eight frames of fifty tokens of 768, two bytes each."""
    return corpus.seconds * 50 * 384 * 2 + 8 * 50 * 768 * 2


def with_clips(corpus: Corpus, settings: Settings, work: Work, share: float = 1.0) -> Work:
    """A training on exchanges, so many of all, that reads each train row's clip once and those of held-out rows at each check."""
    train, dev = (n * corpus.exchanges * share for n in (corpus.train, corpus.dev))
    checked = (corpus.train + corpus.dev) * clip_bytes(corpus)
    return replace(work, read=train + held_out(settings, dev, 1), checked=checked)


def _training(
    corpus: Corpus, settings: Settings, prompt: float, replies: float = 1.0, share: float = 1.0
) -> Work:
    """A training on exchanges whose prompts compute `prompt` tokens after the shared instruction."""
    a_row = prompt + (1 + replies) * corpus.tokens  # the sentence, and so many replies
    train, dev = (n * corpus.exchanges * share for n in (corpus.train, corpus.dev))
    return Work(trained=train * a_row, passed=held_out(settings, dev, a_row))


def memories(corpus: Corpus) -> float:
    """One a history's utterance."""
    return corpus.history_text / corpus.tokens


def _reconstructed(corpus: Corpus) -> float:
    """Tokens of a row's second term: the prompt of table 5, its memories, at most 128 of their tokens."""
    return 60 + memories(corpus) + min(128.0, corpus.history_text)


def _replies(corpus: Corpus, settings: Settings) -> Work:
    """Five rungs' greedy replies, through vLLM, and three human replies' likelihoods each, here; two rungs show the history
    as text, and two read a clip for either. Adapters beside vLLM's weights are not counted."""
    rows = corpus.test * corpus.exchanges
    shown = 2 * corpus.history_text + 3 * (memories(corpus) + QUERIES * BRANCHES)
    passed = rows * (2 * shown + 5 * 3 * corpus.tokens)
    steps = RUNGS * rows / 256 * REPLY_TOKENS
    read, checked = 2 * 2 * rows, 2 * corpus.test * clip_bytes(corpus)
    return Work(passed=passed, vllm_steps=steps, starts=RUNGS, loads=RUNGS, read=read, checked=checked)


def _ladder(corpus: Corpus, settings: Settings) -> Work:
    """Six arms on test exchanges, each with its own history and another one."""
    rows = min(settings.ladder, corpus.test * corpus.exchanges)
    prompts = 3 * corpus.history_text + 3 * memories(corpus)
    return Work(passed=2 * rows * (prompts + ARMS * 2 * corpus.tokens), loads=ARMS)


def _asked(corpus: Corpus, settings: Settings) -> float:
    """Candidates that are written."""
    there = (corpus.train + corpus.dev) * corpus.exchanges
    return CANDIDATES * (there if settings.exchanges is None else min(there, settings.exchanges))


def _candidates(corpus: Corpus, settings: Settings) -> Work:
    asked = _asked(corpus, settings)
    passed, steps = asked * (CANDIDATE_FRAME + corpus.tokens), asked * corpus.tokens / 256
    return Work(passed=passed, vllm_steps=steps, starts=1, loads=0)


def _scores(corpus: Corpus, settings: Settings) -> Work:
    """Every candidate and every true reply through RoBERTa, and a row kept of each candidate."""
    asked = _asked(corpus, settings)
    return _encoded(corpus, asked * (1 + 1 / CANDIDATES), ROBERTA, host_s=asked * REMEMBERING)


def _encoded(corpus: Corpus, texts: float, products: float, host_s: float = 0.0) -> Work:
    """Texts through an encoder of so many products a token, with two marks each."""
    return Work(encoded=texts * (corpus.tokens + 2) * products, host_s=host_s + texts * TOKENISING)


def _quality(corpus: Corpus, settings: Settings) -> Work:
    """Two classifiers on the host."""
    pairs = _asked(corpus, settings) / CANDIDATES * corpus.labelled_pairs
    return Work(host_s=pairs * TELLING_APART, loads=0)


def _restored(corpus: Corpus, settings: Settings) -> Work:
    """Test conversations' first utterances, said again from their memories and from another's; those of a length together."""
    tokens, said = RESTORED * corpus.tokens, 2 * corpus.test_dialogues
    score = _bert_score(corpus, 2 * said * RESTORED)
    return Work(
        passed=said * (60 + tokens),
        steps=said / MEASURED_BATCH * (tokens + 4),
        encoded=score.encoded,
        host_s=score.host_s,
        loads=2,
    )


def _bert_score(corpus: Corpus, texts: float) -> Work:
    return _encoded(corpus, texts, ROBERTA_LARGE)


def _long_history(corpus: Corpus, settings: Settings) -> Work:
    """Both forms' prompts one by one, each no faster than a step, and their replies, `reply_batch` at once."""
    rows = corpus.test * corpus.exchanges * corpus.long
    read = 2 * INSTRUCTION + corpus.history_text + memories(corpus)
    score = _bert_score(corpus, 2 * 2 * rows)
    return Work(
        passed=2 * rows * read,
        steps=2 * (rows + math.ceil(rows / settings.reply_batch) * REPLY_TOKENS),
        encoded=score.encoded,
        host_s=score.host_s,
        loads=3,
    )


def _epo_test(corpus: Corpus, settings: Settings) -> Work:
    """Samples from before EPO, and their likelihoods before and after it; the second scorer is small and not counted."""
    rows = min(settings.epo_test, corpus.test * corpus.exchanges)
    prompt, samples = memories(corpus) + QUERIES * BRANCHES + corpus.tokens, CANDIDATES * rows
    return Work(
        passed=samples * prompt + 2 * (rows * prompt + samples * corpus.tokens),
        steps=rows / MEASURED_BATCH * SAMPLED,
        loads=4,
        read=3 * rows,
        checked=corpus.test * clip_bytes(corpus),
    )


def _extractor(corpus: Corpus, settings: Settings) -> Work:
    """Every train clip is read for the mean and spread of its states, and again in its row."""
    return Work(
        trained=corpus.train * (1.5 * QUERIES + 40),
        passed=held_out(settings, corpus.dev, EXTRACTOR_ROW),
        read=corpus.train * (1 + SHOWN) + held_out(settings, corpus.dev, SHOWN),
        checked=(corpus.train + corpus.dev) * clip_bytes(corpus),
    )


def _recognised(corpus: Corpus, settings: Settings) -> Work:
    return Work(
        passed=corpus.test * A_CLIP_ASKED * EXTRACTOR_ROW,
        read=corpus.test * CLIP_READS,
        checked=corpus.test * clip_bytes(corpus),
    )


def _metrics(corpus: Corpus, settings: Settings) -> Work:
    """BERTScore of every system's replies and of what they are compared with, two emotion scorers (the second is taken as
    large as the first) of each distinct text, and what is done with the figures."""
    rows = corpus.test * corpus.exchanges
    said, distinct = (RUNGS + FLOORS) * rows, (RUNGS + 1) * rows
    score, scorers = _bert_score(corpus, 2 * said), _encoded(corpus, 2 * distinct, ROBERTA)
    return Work(
        encoded=score.encoded + scorers.encoded,
        host_s=said * METRICS_HOST + score.host_s + scorers.host_s,
        loads=3,
    )


def _pretraining(corpus: Corpus, settings: Settings) -> Work:
    """Ten epochs at most; the LLM reads a memory and the utterance, Mamba the utterance."""
    a_row = 2 + corpus.tokens * (1 + 1.5 * MAMBA / LLM)
    return Work(
        trained=10 * corpus.train * a_row,
        passed=held_out(settings, corpus.dev, a_row, EVALUATIONS + CONTROLS),
    )


def _epo(corpus: Corpus, settings: Settings) -> Work:
    """On the pairs: of those exchanges that candidates were written for."""
    there = (corpus.train + corpus.dev) * corpus.exchanges
    share = corpus.labelled_pairs * (
        1.0 if settings.exchanges is None else min(1.0, settings.exchanges / there)
    )
    trained = _training(corpus, settings, memories(corpus) + QUERIES * BRANCHES, replies=2, share=share)
    return with_clips(corpus, settings, trained, share)


def _av(corpus: Corpus) -> float:
    return memories(corpus) + _reconstructed(corpus) + QUERIES * BRANCHES


REPLIES = "replies (five rungs)"
STAGES: dict[str, Callable[[Corpus, Settings], Work]] = {
    "features": lambda c, s: Work(clips=c.utterances),
    "candidates": _candidates,
    "scores": _scores,
    "scores.calibration": lambda c, s: _encoded(c, CALIBRATION, ROBERTA),
    "pairs.quality": _quality,
    "extractor": _extractor,
    "compressor.pretrain": _pretraining,
    "compressor.finetune": lambda c, s: Work(
        trained=c.train * (c.tokens + 1), passed=held_out(s, c.dev, c.tokens + 1)
    ),
    "dialogue.text": lambda c, s: _training(c, s, c.history_text),
    "dialogue.memory": lambda c, s: _training(c, s, memories(c) + _reconstructed(c)),
    "dialogue.audiovisual": lambda c, s: with_clips(c, s, _training(c, s, _av(c))),
    "epo": _epo,
    REPLIES: _replies,
    "compressor.test": _restored,
    "ladder": _ladder,
    "long-history": _long_history,
    "epo.test": _epo_test,
    "extractor.test": _recognised,
    "metrics": _metrics,
}
"""Every stage of the paper profile that computes. What reads, cuts and chooses on the host (utterances, exchanges, pairs,
report) takes minutes, beside others."""
TRAININGS = (
    "extractor",
    "compressor.pretrain",
    "compressor.finetune",
    *(s for s in STAGES if s.startswith("dialogue")),
    "epo",
)
ON_ALL_CARDS = "features", "candidates", *TRAININGS
SPREAD = "features", "candidates", REPLIES
"""What a cluster's machines share, a shard or a rung each."""
SMALL = "features", "scores", "scores.calibration", "pairs.quality", "metrics"
"""Stages that the 7B has no part in."""


def pace(stage: str, cards: int) -> float:
    """How many cards' pace a stage goes at, of so many: nine tenths of their number, of replies a rung on each, else one.

    run.processes, run.candidate_workers and run.feature_workers are the number of cards.
    """
    if stage == REPLIES:
        return RUNGS / math.ceil(RUNGS / cards)
    return 0.9 * cards if stage in ON_ALL_CARDS and cards > 1 else 1.0


def gpu_gb(stage: str, corpus: Corpus, recomputed: bool = False) -> float:
    """Memory at the peak: weights, and a training's masters, moments, gradients and activations of its largest step.

    recomputed: with activation_checkpointing in every training.
    """
    weights = 2 * (LLM + EMBEDDINGS) / GB
    a_token = (RECOMPUTED if recomputed else ACTIVATIONS) / GB
    if stage == "pairs.quality":
        return 0.0
    if stage == "metrics":
        return 6.0  # RoBERTa-large in float32, and the states of 8,192 texts
    if stage in SMALL:
        return 3.0  # 32 clips or 64 texts at once: CUDA itself, weights of 0.4 GB, activations
    if stage == "candidates":
        return weights + KV_CACHE
    if stage == REPLIES:
        return weights + REPLIES_CACHE + EMBEDDINGS / GB  # one table of two bytes a number makes the prompts
    if stage.startswith("dialogue") or stage == "epo":
        work = STAGES[stage](corpus, AS_IT_IS)
        rows = corpus.train * corpus.exchanges * (corpus.labelled_pairs if stage == "epo" else 1.0)
        return weights + LORA * 20 / GB + 8 * work.trained / rows * 2 * a_token
    if stage == "compressor.pretrain":
        return weights + 18 * MAMBA / GB + 32 * 2 * corpus.tokens * a_token
    if stage == "compressor.finetune":
        return weights + 18 * MAMBA / GB + 4 * 1024 * a_token
    return weights + AS_IT_IS.reply_batch * 1000 * 2 * LAYERS * KEY_VALUE / GB + 4


def features_gb(corpus: Corpus) -> float:
    return corpus.utterances * clip_bytes(corpus) / GB


WHOLE = "dialogue.text"
"""A stage whose process is as large as any other that reads the corpus."""


def host_gb(corpus: Corpus, stage: str = WHOLE, cards: int = 1) -> float:
    """Processes of a stage, which are as many as cards where they share it; of each: libraries and a 7B's weights on their way (16 GB; where vLLM writes, its process too), a few kB an
    utterance, no clips."""
    rows = corpus.test * corpus.exchanges
    if cards > 1:
        return host_gb(corpus, stage) * (cards if stage in (*ON_ALL_CARDS, REPLIES) else 1)
    if stage == "features":
        return (
            4 + DECODERS * 0.16 + 2 * 500 * features_gb(corpus) / corpus.utterances
        )  # a shard, and its file
    if stage == "candidates":
        return 4 + 16.0  # a shard at a time
    if stage.startswith("scores"):
        return 4.0
    if stage == "pairs.quality":
        return 1 + _asked(corpus, AS_IT_IS) / CANDIDATES * corpus.labelled_pairs * 4 * 140 * 8 / GB
    if stage == "metrics":
        return 6 + (RUNGS + FLOORS) * rows * 4e3 / GB
    return (32 if stage == REPLIES else 16) + corpus.utterances * 12e3 / GB


def disk_gb(stage: str, corpus: Corpus) -> float:
    """What a stage leaves, and a training's checkpoint while it runs: masters, the best so far, moments, and what is saved."""
    trained = {"extractor": 42e6, "compressor.pretrain": MAMBA, "compressor.finetune": MAMBA}
    if stage == "features":
        return features_gb(corpus)
    if stage in ("candidates", "scores"):
        return _asked(corpus, AS_IT_IS) * 2 * 300 / GB  # as a row, and in its shard
    if stage in TRAININGS:
        return trained.get(stage, LORA) * 20 / GB
    return 0.1


def hours(
    corpus: Corpus, cards: int = 1, settings: Settings = AS_IT_IS, card: Card | None = None
) -> dict[str, float]:
    return {
        name: work(corpus, settings).hours(
            card or Card(), pace(name, cards), RUNGS if name == REPLIES else 1.0
        )
        for name, work in STAGES.items()
    }


def table(corpus: Corpus) -> list[str]:
    """Markdown, by stage and in all: hours on one card, on four, and on one with SPARING; memory of GPU and host; disk."""
    columns = [hours(corpus), hours(corpus, 4), hours(corpus, 1, SPARING)]
    lines = [
        f"| {corpus.name} | hours, one card | four | one, sparing settings | GPU, GB | host, GB | host, four | disk, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in STAGES:
        told = " | ".join(f"{column[name]:.2f}" for column in columns)
        disk = disk_gb(name, corpus)
        hosts = " | ".join(f"{host_gb(corpus, name, cards):.0f}" for cards in (1, 4))
        sizes = f"{gpu_gb(name, corpus):.0f} | {hosts} | {'<1' if disk < 0.5 else f'{disk:.0f}'}"
        lines.append(f"| {name} | {told} | {sizes} |")
    sums = " | ".join(f"**{sum(column.values()):.1f}**" for column in columns)
    largest = " | ".join(
        f"{max(of(name) for name in STAGES):.0f}"
        for of in (
            lambda name: gpu_gb(name, corpus),
            lambda name: host_gb(corpus, name),
            lambda name: host_gb(corpus, name, 4),
        )
    )
    disk = 20 + sum(disk_gb(name, corpus) for name in STAGES)
    return [*lines, f"| **all, one after the other** | {sums} | {largest} | {disk:.0f}, 20 of weights |"]


def tables() -> str:
    return "\n".join([*table(MELD), "", *table(MULTIDIALOG)])


if __name__ == "__main__":
    print(tables())
