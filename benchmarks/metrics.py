"""What figures cost: metrics beside bare forward passes, a report made again, and a rung's replies. `make bench NAME=metrics`.

1,000 replies, each a line of another dialogue, over MELD's lines where it lies beside the repository, else the sample's; on
the tiny profile, whose BERTScore and two emotion scorers are all MiniLM. The bare side is each encoder's forward passes over the
distinct texts that it is given, in batches of like length. The report is of five rungs with these replies. With --replies N
also a finetuned rung's N replies to test exchanges by the cpu profile, through its stage's own function; they are of whole
dialogues, as 2,000 of MELD's test part are. --texts 0: these alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from texts import dialogues, source
from transformers import AutoModel, AutoTokenizer

from model.batches import length_sorted_batches
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.exchanges import Exchange
from storage.shards import exchange_to_row, reply_to_row, utterance_to_row
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.engine.declaration import named_weights
from tasks.engine.item import Workspace
from tasks.pipeline import STAGES
from tasks.settings import Settings, load_settings, weight_names
from tasks.stages.metrics.measure import measure_replies
from tasks.stages.replies.rungs import LADDER
from tasks.stages.replies.write import write_replies
from tasks.stages.report.write import write_report
from tasks.stages.shards import write_shard

BATCH = 64


def timed(work: Callable[[], object]) -> tuple[object, dict]:
    """What it gives, and its seconds by the clock and of CPU."""
    started = time.monotonic(), time.process_time()
    found = work()
    took = time.monotonic() - started[0], time.process_time() - started[1]
    return found, {"s": round(took[0], 2), "cpu_s": round(took[1], 2)}


def replies(count: int) -> list[Reply]:
    """Exchanges, each answered by the true reply of another one that is not among them, where there are as many."""
    lines = [
        (f"{n}", turn, said)
        for n, d in enumerate(_said())
        for turn, said in enumerate(zip(d, d[1:], strict=False))
    ]
    random.Random(0).shuffle(lines)
    others = [true for _, _, (_, true) in lines[::-1]][:count]
    lines = lines[:count]
    return [
        Reply("meld", "test", dialogue, turn, rung="", sentence=sentence, reference=true, reply=other,
              sentence_emotion=None, reference_emotion="happy", prompt_tokens=100)
        for (dialogue, turn, (sentence, true)), other in zip(lines, others, strict=True)
    ]  # fmt: skip


def _said() -> list[list[str]]:
    splits = ("dev", "train") if source() == "MELD" else ("dev",)
    return [dialogue for split in splits for dialogue in dialogues(split)]


def forward_passes(name: str, texts: list[str]) -> None:
    """An encoder over texts, and nothing else."""
    folder = resolve(name)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = [tokenizer(text, truncation=True, max_length=128)["input_ids"] for text in texts]
    with torch.inference_mode():
        for rows in length_sorted_batches([len(row) for row in ids], BATCH):
            encoder(**tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt"))


def measure(settings: Settings, shards: list[Ref], work: Workspace) -> list[Ref]:
    chosen = settings.metrics
    return measure_replies(
        shards, None, {}, chosen, settings.scorer, named_weights(chosen.bertscore.weights),
        named_weights(settings.scorer.weights), named_weights(chosen.second_scorer), work,
    )  # fmt: skip


def report(settings: Settings, shards: list[Ref], metrics: list[Ref], work: Workspace) -> list[Ref]:
    asked = [stage for stage in STAGES if stage.enabled(settings) and stage.name != "report"]
    told = [{"name": s.name, "title": s.title, "trains": s.trains, "reason": None} for s in asked]
    weights = {role: named_weights(name) for role, name in weight_names(settings).items()}
    made = {"replies": shards, "metrics": metrics}
    licences: dict[str, dict[str, str]] = {"weights": {}, "datasets": {}}
    return write_report("tiny", settings, made, weights, told, licences, work)


def texts(count: int, settings: Settings, work: Workspace) -> dict:
    """What metrics and a report of so many replies cost, beside the forward passes."""
    said = replies(count)

    def shard(name: str) -> Ref:
        rows = [reply_to_row(replace(reply, rung=name)) for reply in said]
        return write_shard(work.store, "replies", f"replies/all/test/{name}", rows)

    distinct = sorted({text for reply in said for text in (reply.reply, reply.reference)})
    names = ("minilm-l6",) * 3
    _, bare = timed(lambda: [forward_passes(name, distinct) for name in names])
    shards = [shard(of.name) for of in LADDER]
    _, one = timed(lambda: measure(settings, shards[:1], work))
    made, all_five = timed(lambda: measure(settings, shards, work))
    _, page = timed(lambda: report(settings, shards, made, work))
    return {
        "replies": len(said), "distinct_texts": len(distinct),
        "forward_passes": bare, "metrics": one, "five_rungs": all_five, "report": page,
        "cpu_ratio": round(one["cpu_s"] / bare["cpu_s"], 2),
    }  # fmt: skip


def rung(count: int, work: Workspace) -> dict:
    """The finetuned rung's replies by the cpu profile, its LLM without an adapter: one merged takes as long.

    What one reply costs is told of two runs, of which the shorter is of one exchange: so what is loaded first is apart.
    """
    shards = _test_shards(count, work)
    (_, start), (made, whole) = (timed(lambda n=n: _replies(n, *shards, work)) for n in (1, count))
    each = (whole["cpu_s"] - start["cpu_s"]) / (made[0].rows - 1)
    return {
        "replies": made[0].rows, **whole, "start_cpu_s": start["cpu_s"],
        "cpu_s_for_2000": round(start["cpu_s"] + 2000 * each),
    }  # fmt: skip


def _replies(count: int, utterances: list[Ref], exchanges: list[Ref], work: Workspace) -> list[Ref]:
    settings = load_settings("cpu", [f"replies.exchanges={count}"])
    return write_replies(
        "2-ft", utterances, exchanges, [], None, None, None, "text", settings.dialogue, settings.replies,
        named_weights(settings.llm.weights), work,
    )  # fmt: skip


def _test_shards(count: int, work: Workspace) -> tuple[list[Ref], list[Ref]]:
    """Utterances and so many exchanges of the first dialogues, as a test split."""
    spoken: list[Utterance] = []
    cut: list[Exchange] = []
    for n, lines in enumerate(_said()):
        lines = lines[: count - len(cut) + 1]
        spoken += [Utterance("meld", "test", str(n), t, "AB"[t % 2], line) for t, line in enumerate(lines)]
        cut += [
            Exchange("meld", "test", str(n), t, sentence, reply, None, None, "AB"[t % 2], "AB"[(t + 1) % 2])
            for t, (sentence, reply) in enumerate(zip(lines, lines[1:], strict=False))
        ]
    rows = {
        "utterances": [utterance_to_row(u) for u in spoken],
        "exchanges": [exchange_to_row(e, True) for e in cut],
    }
    utterances, exchanges = (
        [write_shard(work.store, t, f"{t}/meld/test/0", found)] for t, found in rows.items()
    )
    return utterances, exchanges


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--replies", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings("tiny")
    with tempfile.TemporaryDirectory() as folder:
        work = Workspace(Store(Path(folder) / "store"), None, "benchmark", lambda *_: None)
        figures: dict = {"name": "metrics", "source": source()}
        if arguments.texts:
            figures |= texts(arguments.texts, settings, work)
        if arguments.replies:
            figures["rung"] = rung(arguments.replies, work)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
