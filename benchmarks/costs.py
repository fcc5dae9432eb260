"""What a run of the paper profile costs on GPUs, by stage, from arithmetic: `make bench NAME=costs` prints docs/costs.md's tables.

Nothing is measured here, and none of it has been run on a GPU. Every number that goes in has a name and a source below:
the corpora's published counts, the models' shapes, the profile's settings, and what one card is assumed to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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

    @property
    def utterances(self) -> int:
        return self.train + self.dev + self.test


MELD = Corpus("MELD", 9989, 1109, 2610, 3.6, 11, 60, 0.70, 0.6)
MULTIDIALOG = Corpus("MultiDialog", 151_645, 18_072, 18_142, 6.51, 25, 478, 0.95, 0.6)


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
REPLY_TOKENS, CANDIDATES, RUNGS = 64, 8, 5
"""replies.max_new_tokens, the emotions, and what answers."""
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
DECODERS = 8
"""Processes that decode for one that encodes; half the cores, at most."""
ENCODING = 107e9
"""Products of a clip: Whisper-tiny over its 30 s window 37e9, CLIP ViT-B/32 over eight frames 70e9."""
KV_CACHE, REPLIES_CACHE = 17.2, 8.6
"""candidates.engine_args.kv_cache_memory_bytes and replies.vllm.kv_cache_memory_bytes in GB."""


@dataclass(frozen=True)
class Settings:
    """Those that move most, as the paper profile has them. heldout_rows: of every training; None: all of dev."""

    heldout_rows: float | None = 2000
    reply_batch: int = 64
    exchanges: float | None = None
    """candidates.budget, in exchanges; None: all."""

    def looked_at(self, rows: float) -> float:
        return rows if self.heldout_rows is None else min(rows, self.heldout_rows)


AS_IT_IS = Settings()
SPARING = Settings(heldout_rows=1000, exchanges=40_000)
"""--set extractor.training.heldout_rows=1000 and so for every training, and a budget."""


@dataclass(frozen=True)
class Work:
    """What a stage does: tokens trained on, tokens passed through alone, vLLM's decoding steps and starts, clips."""

    trained: float = 0.0
    passed: float = 0.0
    vllm_steps: float = 0.0
    starts: float = 0.0
    clips: float = 0.0

    def hours(self, card: Card, workers: float = 1.0) -> float:
        """workers: how many cards' pace it goes at; the host that decodes is one."""
        products = (self.trained * 4 + self.passed * 2) * LLM / card.flops
        steps = self.vllm_steps * card.vllm_step_s + self.starts * card.vllm_start_s
        encoding = self.clips * (ENCODING / card.flops_fp32 + STORING)
        decoding = self.clips * DECODING / min(DECODERS * workers, card.cores)
        # Clips are decoded ahead of those that are encoded.
        return max((products + steps + encoding) / workers, decoding) / HOUR


def held_out(settings: Settings, rows: float, tokens: float, checks: int = CHECKS + CONTROLS) -> float:
    """Tokens passed through for the held-out rows."""
    return settings.looked_at(rows) * tokens * checks


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
    as text. Adapters beside vLLM's weights are not counted."""
    rows = corpus.test * corpus.exchanges
    shown = 2 * corpus.history_text + 3 * (memories(corpus) + QUERIES * BRANCHES)
    passed = rows * (2 * shown + 5 * 3 * corpus.tokens)
    return Work(passed=passed, vllm_steps=RUNGS * rows / 256 * REPLY_TOKENS, starts=RUNGS)


def _ladder(corpus: Corpus, settings: Settings) -> Work:
    """Six arms on the test exchanges, each with its own history and another one."""
    rows = corpus.test * corpus.exchanges
    return Work(passed=2 * rows * (3 * corpus.history_text + 3 * memories(corpus) + 6 * 2 * corpus.tokens))


def _candidates(corpus: Corpus, settings: Settings) -> Work:
    there = (corpus.train + corpus.dev) * corpus.exchanges
    asked = CANDIDATES * (there if settings.exchanges is None else min(there, settings.exchanges))
    return Work(
        passed=asked * (CANDIDATE_FRAME + corpus.tokens), vllm_steps=asked * corpus.tokens / 256, starts=1
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
    return _training(corpus, settings, memories(corpus) + QUERIES * BRANCHES, replies=2, share=share)


def _av(corpus: Corpus) -> float:
    return memories(corpus) + _reconstructed(corpus) + QUERIES * BRANCHES


STAGES: dict[str, Callable[[Corpus, Settings], Work]] = {
    "features": lambda c, s: Work(clips=c.utterances),
    "candidates": _candidates,
    "extractor": lambda c, s: Work(
        trained=c.train * (1.5 * QUERIES + 40), passed=held_out(s, c.dev, 1.5 * QUERIES + 40 + 7 * 2)
    ),
    "compressor.pretrain": _pretraining,
    "compressor.finetune": lambda c, s: Work(
        trained=c.train * (c.tokens + 1), passed=held_out(s, c.dev, c.tokens + 1)
    ),
    "dialogue.text": lambda c, s: _training(c, s, c.history_text),
    "dialogue.memory": lambda c, s: _training(c, s, memories(c) + _reconstructed(c)),
    "dialogue.audiovisual": lambda c, s: _training(c, s, _av(c)),
    "epo": _epo,
    "replies (five rungs)": _replies,
    "ladder": _ladder,
}


def pace(stage: str, cards: int) -> float:
    """How many cards' pace a stage goes at, of so many: nine tenths of their number, of replies a rung on each.

    run.processes, run.candidate_workers and run.feature_workers are the number of cards.
    """
    if cards == 1 or stage == "ladder":
        return 1.0
    return RUNGS / math.ceil(RUNGS / cards) if stage.startswith("replies") else 0.9 * cards


def gpu_gb(stage: str, corpus: Corpus, recomputed: bool = False) -> float:
    """Memory at the peak: weights, and a training's masters, moments, gradients and activations of its largest step.

    recomputed: with activation_checkpointing in every training.
    """
    weights = 2 * (LLM + EMBEDDINGS) / GB
    a_token = (RECOMPUTED if recomputed else ACTIVATIONS) / GB
    if stage == "features":
        return 3.0  # 32 clips at once: CUDA itself, weights of 0.4 GB, activations
    if stage == "candidates":
        return weights + KV_CACHE
    if stage.startswith("replies"):
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
    """Fifty audio states a second of 384 numbers, eight frames of fifty tokens of 768, two bytes each."""
    a_clip = corpus.seconds * 50 * 384 * 2 + 8 * 50 * 768 * 2
    return corpus.utterances * a_clip / GB


def host_gb(corpus: Corpus) -> float:
    """A training's process: libraries and weights on their way (16 GB), a few kB an utterance, no clips."""
    return 16 + corpus.utterances * 12e3 / GB


def hours(
    corpus: Corpus, cards: int = 1, settings: Settings = AS_IT_IS, card: Card | None = None
) -> dict[str, float]:
    return {
        name: work(corpus, settings).hours(card or Card(), pace(name, cards)) for name, work in STAGES.items()
    }


def table(corpus: Corpus) -> list[str]:
    """Markdown: hours on one card, on four, and on one with SPARING; and GPU memory, by stage and in all."""
    columns = [hours(corpus), hours(corpus, 4), hours(corpus, 1, SPARING)]
    lines = [
        f"| {corpus.name} | hours, one card | four | one, sparing settings | GPU memory |",
        "|---|---|---|---|---|",
    ]
    for name in STAGES:
        memory = gpu_gb(name, corpus)
        told = " | ".join(f"{column[name]:.2f}" for column in columns)
        lines.append(f"| {name} | {told} | {memory:.0f} GB |")
    sums = " | ".join(f"**{sum(column.values()):.1f}**" for column in columns)
    lines.append(f"| **all, one after the other** | {sums} | |")
    below = f"Disk: {features_gb(corpus):.0f} GB of features, 20 GB of weights. Host memory: {host_gb(corpus):.0f} GB."
    return [*lines, "", below]


def tables() -> str:
    return "\n".join([*table(MELD), "", *table(MULTIDIALOG)])


if __name__ == "__main__":
    print(tables())
