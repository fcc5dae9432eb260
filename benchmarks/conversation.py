"""What memories tell of a long conversation, turn by turn: `make bench NAME=conversation`.

Conversations of 30 utterances: Topical-Chat's valid_freq (the bundled sample's where it is not there), whose dialogues are shorter,
are strung together, none used twice. The compressor reads the whole of one, and it is read back in one go from all its
memories, as in figure 11, or (`--each`) each utterance by itself from its memories there; once from its own, and once from the
next conversation's, of as many. Teacher-forced nats a token of
each turn, the other's less the own, with 95 % intervals over conversations. The reader is the compressor's own, which was
trained with it, or another (`--adapter`: a rung's).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from history import TOPICAL_CHAT
from texts import sample_dialogues
from torch import Tensor

from model.adapter import load_adapter
from model.compressor.compressor import MambaCompressor
from model.compressor.reader import with_reader
from model.compressor.reconstruction import Reconstruction
from model.llm import load_llm
from model.metrics.bootstrap import bootstrap_mean
from model.spoken import Spoken
from model.zoo.resolve import resolve

LLM, COMPRESSOR = "smollm2-135m-instruct", "memory-smollm2-135m"
LENGTH = 30
SHOWN = (1, 3, 6, 10, 15, 21, 30)
"""Turns of the table."""


def conversations(count: int) -> list[list[Spoken]]:
    """`count` conversations of LENGTH utterances by two speakers in turn, or as many as there are; drawn by seed."""
    if TOPICAL_CHAT.is_file():
        content = json.loads(TOPICAL_CHAT.read_text(encoding="utf-8"))
        said = [[turn["message"] for turn in dialogue["content"]] for dialogue in content.values()]
    else:
        said = sample_dialogues()
    random.Random(0).shuffle(said)
    lines = [line.strip() for dialogue in said for line in dialogue if line.strip()]
    cut = [lines[at : at + LENGTH] for at in range(0, len(lines) - LENGTH + 1, LENGTH)]
    return [[Spoken(text, i % 2) for i, text in enumerate(part)] for part in cut[:count]]


class Reader:
    """The LLM with its reader, and the compressor."""

    def __init__(self, llm: Path, compressor: Path, adapter: Path | None):
        self.llm, tokenizer = load_llm(llm, "float32")
        self.compressor = MambaCompressor.load(compressor, tokenizer, self.llm.get_input_embeddings().weight)
        self.llm = with_reader(self.llm, compressor) if adapter is None else load_adapter(self.llm, adapter)
        bare = self.compressor.bare
        self.task = Reconstruction(self.llm, tokenizer, dialogue=True, cached=False, bare=bare)

    def memories(self, said: Sequence[Spoken]) -> tuple[Tensor, ...]:
        """Of each utterance of a conversation its memories [count, d]: with a span longer ones have several."""
        return self.compressor.compress([said])[0].split(self.compressor.counts(said))

    @torch.no_grad()
    def nats(self, said: Sequence[Spoken], memories: Sequence[Tensor] | None) -> list[float]:
        """Nats a token of each utterance of a conversation, read back in one go from a conversation's memories, or none."""
        target = self.task.target([u.text for u in said])
        scores = self._scores([target], None if memories is None else [torch.cat(tuple(memories))])
        # Its end of turn is no utterance's; the line break before an utterance is its own.
        ends = [0, *(len(self.task.target([u.text for u in said[: i + 1]])) - 1 for i in range(len(said)))]
        return [-scores[a:b].mean().item() for a, b in zip(ends, ends[1:], strict=False)]

    @torch.no_grad()
    def nats_of_each(self, said: Sequence[Spoken], memories: Sequence[Tensor] | None) -> list[float]:
        """The same, each utterance by itself from the memories of its place."""
        targets = [self.task.target([u.text]) for u in said]
        scores = self._scores(targets, memories)
        return [-part.mean().item() for part in scores.split([len(target) for target in targets])]

    def _scores(self, targets: Sequence[Tensor], memories: Sequence[Tensor] | None) -> Tensor:
        found = (
            self.task.without_memory(targets) if memories is None else self.task.log_probs(memories, targets)
        )
        return found[0].double()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compressor", default=COMPRESSOR, help="weight name or folder")
    parser.add_argument("--llm", default=LLM, help="weight name or folder; a compressor fits one LLM alone")
    parser.add_argument("--adapter", type=Path, help="the folder of a rung's adapter, in the reader's place")
    parser.add_argument("--each", action="store_true", help="each utterance is read back by itself")
    parser.add_argument("--conversations", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    reader = Reader(resolve(asked.llm), resolve(asked.compressor), asked.adapter)
    said = conversations(asked.conversations)
    made = [reader.memories(one) for one in said]
    nats = reader.nats_of_each if asked.each else reader.nats
    rows = {
        "own": [nats(one, memories) for one, memories in zip(said, made, strict=True)],
        "other": [nats(one, memories) for one, memories in zip(said, [*made[1:], made[0]], strict=True)],
        "none": [nats(one, None) for one in said],
    }
    print(
        f"| turn, {len(said)} conversations of {LENGTH} | no memory | own | other less own |\n|---|---|---|---|"
    )
    told = {}
    for turn in [*SHOWN, None]:
        own, other, none = (of_turn(rows[kind], turn) for kind in ("own", "other", "none"))
        gain, low, high = bootstrap_mean([b - a for a, b in zip(own, other, strict=True)], range(len(own)))
        name = "all" if turn is None else str(turn)
        told[name] = {"own": mean(own), "none": mean(none), "gain": [round(x, 4) for x in (gain, low, high)]}
        print(f"| {name} | {mean(none):.2f} | {mean(own):.2f} | {gain:.2f} ({low:.2f} to {high:.2f}) |")
    print(json.dumps({"name": "conversation", "compressor": asked.compressor, "turns": told}))


def of_turn(rows: Sequence[Sequence[float]], turn: int | None) -> list[float]:
    """Of each conversation its nats at a turn, counted from 1; None: the mean of its turns."""
    return [sum(row) / len(row) if turn is None else row[turn - 1] for row in rows]


def mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


if __name__ == "__main__":
    main()
