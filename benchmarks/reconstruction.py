"""What one vector tells a frozen LLM of an utterance it has never seen. `make bench NAME=reconstruction`.

A seeded sample of distinct MELD dev utterances of at most 32 tokens (`--longest`) that do not stand in train word for
word (the bundled sample's where MELD is not there), or of a file's (`--texts`, as `compressor pretrain` reads them), the
`cpu` profile's LLM and the shipped compressor, or the one that `--compressor` names, with its reader if it has one, read
back as it was trained to be: with table 5, or with nothing around its memories. Beside it no memory, the mean of the utterance's token embeddings, another
utterance's memory, and on a few short utterances the best vector that 500 steps of Adam find for each: what the LLM
could take. Free-running: exact, the reconstruction is the utterance; BLEU-1, clipped single words with the brevity
penalty, over all utterances of a row together. Teacher-forced: nats a token, end of turn included, and how many of
them the memory saves. The curve is read from the compressor's report.json.

Then the form: all of the project's stages give the compressor the bare utterance, alone in pretraining and after its
dialogue in use, and the same is measured; beside it what role tags in the text ("gpt: …") cost, of which no nat is
counted.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from texts import dialogues, source, spoken_dialogues
from torch import Tensor

from model.compressor.compressor import MambaCompressor
from model.compressor.reader import with_reader
from model.compressor.reconstruction import Reconstruction
from model.llm import greedy_replies, load_llm, token_ids
from model.metrics.bootstrap import bootstrap_mean
from model.metrics.dist import words
from model.spoken import Spoken, alone, role_tag
from model.zoo.resolve import resolve
from storage.texts import read_texts

LLM, COMPRESSOR = "smollm2-135m-instruct", "memory-smollm2-135m"
BUCKETS = ((1, 4), (5, 8), (9, 16), (17, 32))
"""Tokens of an utterance, end of turn not counted."""
OPTIMISED, OPTIMISED_TOKENS = 8, 16
"""Utterances whose best vector is looked for, and the most tokens of one."""
RATE = 0.1
"""Adam's at first, in standard deviations of the LLM's embeddings; it falls to nothing in a straight line."""
BATCH = 64
SHOWN = 6


@dataclass(frozen=True)
class Outcome:
    """One utterance and what became of it: its nats and tokens, teacher-forced, and what was said freely."""

    original: str
    said: str
    nats: float
    hits: int
    tokens: int

    @property
    def exact(self) -> bool:
        return self.said.strip() == self.original.strip()


def utterances(tokenizer, count: int, seed: int, longest: int, file: Path | None) -> list[str]:
    """`count` distinct held-out utterances of at most `longest` tokens, in the order drawn; file: see `--texts`."""
    if file is None:
        train, dev = (
            {line for dialogue in dialogues(split) for line in dialogue} for split in ("train", "dev")
        )
        unseen = sorted(dev - train if source() == "MELD" else dev)
    else:
        unseen = sorted(read_texts([file])[0])
    short = [text for text in unseen if 0 < len(token_ids(tokenizer, text)) <= longest]
    return random.Random(seed).sample(short, min(count, len(short)))


class Bench:
    """The LLM, with the reader of a compressor's folder, its task and the utterances; memories come from outside."""

    def __init__(self, llm_folder: Path, dtype: str, compressor: Path | None, asked: argparse.Namespace):
        self.llm, self.tokenizer = load_llm(llm_folder, dtype)
        self.compressor = None
        if compressor is not None:
            table = self.llm.get_input_embeddings().weight
            self.compressor = MambaCompressor.load(compressor, self.tokenizer, table)
            self.llm = with_reader(self.llm, compressor)
        bare = self.compressor is not None and self.compressor.bare
        self.task = Reconstruction(self.llm, self.tokenizer, dialogue=False, cached=True, bare=bare)
        self.texts = utterances(self.tokenizer, asked.utterances, asked.seed, asked.longest, asked.texts)
        self.targets = [self.task.target((text,)) for text in self.texts]
        self.table = self.task.table.float()

    def size(self, row: int) -> int:
        """Tokens of an utterance."""
        return len(self.targets[row]) - 1

    @torch.no_grad()
    def outcomes(self, rows: Sequence[int], memories: dict[int, Tensor] | None) -> dict[int, Outcome]:
        """Of utterances `rows` from their memories [1, d]; None leaves the memory's line out of the prompt."""
        bare = self.task.empty_prompt()
        order, found = sorted(rows, key=lambda i: (len(self.targets[i]), i)), {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            targets = [self.targets[i] for i in part]
            longest = max(map(len, targets)) + 4
            if memories is None:
                log_probs, hits = self.task.without_memory(targets)
                said = greedy_replies(self.llm, self.tokenizer, [bare], longest) * len(part)
            else:
                known = [memories[i] for i in part]
                log_probs, hits = self.task.log_probs(known, targets)
                prompts = [self.task.prompt(memory, whole=True) for memory in known]
                said = greedy_replies(self.llm, self.tokenizer, prompts, longest)
            sizes = [len(target) for target in targets]
            by_row = zip(part, said, log_probs.split(sizes), hits.split(sizes), strict=True)
            for i, text, of_row, right in by_row:
                nats = -of_row.double().sum().item()
                found[i] = Outcome(self.texts[i], text, nats, int(right.sum()), len(of_row))
        return found

    def mean_pooled(self, rows: Sequence[int]) -> dict[int, Tensor]:
        """The mean [1, d] of each utterance's token embeddings."""
        return {i: self.table[self.targets[i][:-1]].mean(0, keepdim=True) for i in rows}

    def optimum(
        self, rows: Sequence[int], steps: int, progress: Callable[[int, float], None]
    ) -> dict[int, Tensor]:
        """The vector [1, d] that gives each utterance its likelihood, sought from the mean-pooled one."""
        center, spread = self.table.mean(0), self.table.std(0)
        start = torch.cat([self.mean_pooled([i])[i] for i in rows])
        place = ((start - center) / spread).requires_grad_()
        optimizer = torch.optim.Adam([place], lr=RATE)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
            memories = (center + spread * place).split(1)
            loss = -self.task.log_probs(memories, [self.targets[i] for i in rows])[0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(step + 1, loss.item())
        return dict(zip(rows, (center + spread * place.detach()).split(1), strict=True))


def forms(bench: Bench, compressor: MambaCompressor, count: int) -> dict[str, dict[str, float]]:
    """Nats a token of the first `count` utterances by what the compressor is given, printed and returned.

    Each with its own memory, another's and none.

    Of tagged text the tag's tokens are not counted and the sum is divided by the bare text's tokens, so that all
    rows are of the same words.
    """
    rows = range(min(count, len(bench.texts)))
    # Where a text is said several times, the first time.
    places = [(dialogue[: i + 1], u) for dialogue in spoken_dialogues("dev") for i, u in enumerate(dialogue)]
    said = {u.text: (before, u) for before, u in reversed(places)}
    chosen = [said[bench.texts[i]] for i in rows]
    tags = [f"{role_tag(u.role)}: " for _, u in chosen]
    given = {
        "bare, alone (pretraining)": [[Spoken(u.text)] for _, u in chosen],
        "bare, after its dialogue (use)": [before for before, _ in chosen],
        "tagged, alone": [[Spoken(u.line)] for _, u in chosen],
        "tagged, after its dialogue (use until now)": [
            [Spoken(b.line) for b in before] for before, _ in chosen
        ],
    }
    print(
        f"\n| given to the compressor, {len(rows)} utterances: nats a token | own memory | another's | none | "
        "recovered |\n|---|---|---|---|---|"
    )
    found = {}
    for name, dialogues_given in given.items():
        made = compressor.compress(dialogues_given)
        own = {
            i: memories[-compressor.counts(dialogue)[-1] :]
            for i, (dialogue, memories) in enumerate(zip(dialogues_given, made, strict=True))
        }
        before = tags if name.startswith("tagged") else [""] * len(chosen)
        kinds = {"own": own, "other": others(own, bench.size), "none": None}
        f = found[name] = {kind: round(_nats(bench, before, known), 4) for kind, known in kinds.items()}
        recovered = f["none"] - f["own"]
        print(
            f"| {name} | {f['own']:.2f} | {f['other']:.2f} | {f['none']:.2f} | {recovered:.2f} |", flush=True
        )
    return found


@torch.no_grad()
def _nats(bench: Bench, tags: Sequence[str], memories: dict[int, Tensor] | None) -> float:
    """Nats a token of the first texts, each after a tag that is not counted; None: without memory."""
    targets = [bench.task.target((tag + bench.texts[i],)) for i, tag in enumerate(tags)]
    skipped = [len(token_ids(bench.tokenizer, tag.rstrip())) if tag else 0 for tag in tags]
    nats = 0.0
    for start in range(0, len(targets), BATCH):
        part = targets[start : start + BATCH]
        if memories is None:
            log_probs, _ = bench.task.without_memory(part)
        else:
            known = [memories[i] for i in range(start, start + len(part))]
            log_probs, _ = bench.task.log_probs(known, part)
        pieces = log_probs.split([len(target) for target in part])
        for piece, skip in zip(pieces, skipped[start:], strict=False):
            nats -= piece[skip:].double().sum().item()
    return nats / sum(bench.size(i) + 1 for i in range(len(tags)))


def others(memories: dict[int, Tensor], size: Callable[[int], int]) -> dict[int, Tensor]:
    """Each utterance with the memory of the next in length: what any memory says of the task."""
    order = sorted(memories, key=lambda i: (size(i), i))
    return {i: memories[j] for i, j in zip(order, [*order[1:], order[0]], strict=True)}


def bleu1(outcomes: Sequence[Outcome]) -> float:
    """Share of reconstructed words that the utterance holds, each as often as it does, times exp(1 - r/c) where short.

    Papineni et al., 2002, unigrams only, over a corpus.
    """
    pairs = [(words(o.said), words(o.original)) for o in outcomes]
    said, wanted = (sum(map(len, column)) for column in zip(*pairs, strict=True))
    if not said:
        return 0.0
    right = sum((Counter(a) & Counter(b)).total() for a, b in pairs)
    return right / said * min(1.0, math.exp(1 - wanted / said))


def summary(outcomes: Sequence[Outcome], without: Sequence[Outcome]) -> dict[str, float]:
    """Figures of some utterances; `without`: the same ones without memory."""
    tokens = sum(o.tokens for o in outcomes)
    nats, bare = (sum(o.nats for o in found) for found in (outcomes, without))
    return {
        "utterances": len(outcomes),
        "exact": round(sum(o.exact for o in outcomes) / len(outcomes), 4),
        "bleu1": round(bleu1(outcomes), 4),
        "nats": round(nats / tokens, 4),
        "recovered": round((bare - nats) / tokens, 4),
        "recovered_share": round(1 - nats / bare, 4),
        "right": round(sum(o.hits for o in outcomes) / tokens, 4),
    }


def intervals(found: dict[str, dict[int, Outcome]]) -> tuple[list[float], list[float]]:
    """Mean, low and high, of 95 %, of nats a token with the own memory, and of another's less the own; utterances resampled.

    The figure of all tokens together, as in the table: each utterance weighs as its tokens do.
    """
    own, other = found["the compressor"], found["another utterance's memory"]
    mean = sum(o.tokens for o in own.values()) / len(own)
    for_own = [o.nats / mean for o in own.values()]
    differences = [(other[i].nats - o.nats) / mean for i, o in own.items()]
    return tuple(
        [round(end, 4) for end in bootstrap_mean(values, range(len(values)))]
        for values in (for_own, differences)
    )


def told(interval: Sequence[float]) -> str:
    """ "0.91 (0.80 to 1.02)"."""
    return f"{interval[0]:.2f} ({interval[1]:.2f} to {interval[2]:.2f})"


HEAD = """
| {} | utterances | exact | BLEU-1 | nats a token | recovered | tokens right, teacher-forced |
|---|---|---|---|---|---|---|"""


def line(name: str, f: dict[str, float]) -> str:
    """A row of a table under HEAD."""
    return (
        f"| {name} | {f['utterances']} | {f['exact']:.1%} | {f['bleu1']:.3f} | {f['nats']:.2f} | "
        f"{f['recovered']:.2f} ({f['recovered_share']:.0%}) | {f['right']:.1%} |"
    )


def compare(bench: Bench, title: str, rows: Sequence[int], found: dict[str, dict[int, Outcome]]) -> dict:
    """Print a table of all kinds over `rows`, and return it."""
    print(HEAD.format(title))
    without = [found["no memory"][i] for i in rows]
    figures = {name: summary([of[i] for i in rows], without) for name, of in found.items()}
    for name, f in figures.items():
        print(line(name, f), flush=True)
    return figures


def curve(folder: Path) -> list[dict[str, float]]:
    """Held-out figures of the compressor's own training by the tokens it had been trained on."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    history, bare = report["history"], report["heldout_no_memory"]["loss"]
    steps = len(history["train"])
    return [
        {
            "step": check["step"],
            "tokens": check.get("tokens", round(history["tokens"] * check["step"] / max(1, steps))),
            "nats": round(check["loss"], 4),
            "recovered": round(bare - check["loss"], 4),
            "right": round(check["accuracy"], 4),
        }
        for check in history["heldout"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--compressor", default=COMPRESSOR, help="weight name or folder; '': none is measured"
    )
    parser.add_argument("--llm", default=LLM, help="weight name or folder; a compressor fits one LLM alone")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--utterances", type=int, default=256)
    parser.add_argument("--longest", type=int, default=BUCKETS[-1][1], help="most tokens of an utterance")
    parser.add_argument("--texts", type=Path, help="a file of utterances instead of MELD dev's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500, help="of the search for the best vector; 0: none")
    parser.add_argument("--forms", type=int, default=128, help="utterances given in several forms; 0: none")
    parser.add_argument("--forms-only", action="store_true", help="nothing else is measured")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    folder = resolve(asked.compressor) if asked.compressor else None
    bench = Bench(resolve(asked.llm), asked.dtype, folder, asked)
    rows = list(range(len(bench.texts)))
    memories = {"no memory": None, "mean of the embeddings": bench.mean_pooled(rows)}
    if folder:
        compressor, begin = bench.compressor, time.process_time()
        if asked.forms_only:
            found = forms(bench, compressor, asked.forms)
            print(json.dumps({"name": "reconstruction", "data": source(), "forms": found}))
            return
        own = dict(zip(rows, compressor.compress(alone(bench.texts)), strict=True))
        seconds = time.process_time() - begin
        memories |= {"the compressor": own, "another utterance's memory": others(own, bench.size)}
    found = {name: bench.outcomes(rows, known) for name, known in memories.items()}
    data = asked.texts.name if asked.texts else source()
    print(f"{len(rows)} utterances of {data}, {asked.llm} in {asked.dtype}")
    result = {"name": "reconstruction", "data": data, "utterances": len(rows)}
    result["overall"] = compare(bench, "memory", rows, found)
    if folder:
        result["memories"] = round(sum(map(len, own.values())) / len(rows), 3)
        result["own"], result["other_less_own"] = intervals(found)
        print(
            f"{result['memories']:.2f} memories an utterance of {sum(map(bench.size, rows)) / len(rows):.1f} tokens, made in "
            f"{seconds:.2f} CPU s; nats a token {told(result['own'])}, another's less the own {told(result['other_less_own'])}"
        )
    for low, high in BUCKETS:
        within = [i for i in rows if low <= bench.size(i) <= high]
        if within:
            name = f"{low} to {high} tokens"
            result[name] = compare(bench, name, within, found)
    if folder and asked.forms and asked.texts is None:
        result["forms"] = forms(bench, compressor, asked.forms)
    if folder:
        print()
        for i in rows[:SHOWN]:
            print(f"{found['the compressor'][i].original!r} -> {found['the compressor'][i].said!r}")
        result["curve"] = curve(folder)
        print(
            "\n| trained on tokens | nats a token | recovered | tokens right, teacher-forced |\n|---|---|---|---|"
        )
        for f in result["curve"]:
            print(
                f"| {f['tokens']:,} | {f['nats']:.2f} | {f['recovered']:.2f} | {f['right']:.1%} |", flush=True
            )
    few = [i for i in rows if bench.size(i) <= OPTIMISED_TOKENS][:OPTIMISED] if asked.steps else []
    if few:

        def progress(step: int, loss: float) -> None:
            if step % 50 == 0:
                print(f"best vector: step {step} of {asked.steps}, {loss:.3f} nats", flush=True)

        best = bench.optimum(few, asked.steps, progress)
        found["the best vector"] = bench.outcomes(few, best)
        result["optimum"] = compare(bench, f"{len(few)} utterances, the best vector of each", few, found)
    if folder:
        result["ratio"] = round(result["overall"]["the compressor"]["recovered_share"], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
