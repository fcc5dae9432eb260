"""A rung's answers to test exchanges, stored as they finish: a rung that was killed goes on, to the same bytes.

Replies are written here, or were written by vLLM before (through_vllm.py) and are only measured. Exchanges are answered in
windows of some batches, those of a dialogue one after the other, so that what their prompts share is read once; and no more
than a batch's prompts and clips are ever held. Knows nothing of tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from model.dialogue.dialogue import DialogueModel, Memories
from model.dialogue.examples import DialogueExample
from model.dialogue.likelihood import answered
from storage.store import RowStore, canonical
from tasks.engine.item import Workspace
from tasks.stages.replies.likely import Likely, asked_of, likely
from tasks.stages.replies.through_vllm import Written

WINDOW = 16
"""Batches of a window."""
Others = tuple[str | None, str | None]


class Answer(NamedTuple):
    """The reply, how many tokens its prompt has, and how likely the rung finds human replies."""

    reply: str
    prompt_tokens: int
    likely: Likely


def answers(
    load: Callable[[], DialogueModel],
    examples: Sequence[DialogueExample],
    others: Sequence[Others],
    max_new_tokens: int,
    batch: int,
    made_with: list,
    work: Workspace,
    written: Sequence[Written] | None = None,
) -> list[Answer]:
    """Of each example, in their order. load: the rung's model, asked for where an answer is not stored yet.

    written: the examples' replies, where they are there already. made_with: what the answers depend on beside the examples and the code. A stored answer counts for the very window
    that it was made in: what stands beside a row in its batch moves the last bits of its numbers.
    """
    memo = work.store.rows("replies")
    model = cache(load)
    found: list[Answer] = []
    before = len(written or ())
    try:
        for start in range(0, len(examples), batch * WINDOW):
            part = slice(start, start + batch * WINDOW)
            said = None if written is None else written[part]
            window = _Window(examples[part], others[part], max_new_tokens, batch, said)
            keys = window.keys(work, made_with)
            stored = {row: _read(value) for row, value in _stored(memo, keys)}
            for rows, made in window.missing(model, stored) if len(stored) < len(keys) else ():
                for row, answer in zip(rows, made, strict=True):
                    stored[row] = answer
                    memo.put(keys[row], canonical([answer.reply, answer.prompt_tokens, list(answer.likely)]))
                work.progress(before + start + len(stored), before + len(examples), {})
            found += [stored[row] for row in range(len(keys))]
    finally:
        memo.close()
    return found


class _Window(NamedTuple):
    """Examples that are answered together, with the human replies that each is compared with."""

    examples: Sequence[DialogueExample]
    others: Sequence[Others]
    max_new_tokens: int
    batch: int
    written: Sequence[Written] | None

    def keys(self, work: Workspace, made_with: list) -> list[str]:
        """The key of each answer in the row store."""
        shown = [
            [e.key, [[u.text, u.role] for u in e.history], e.sentence, e.reply, *pair]
            for e, pair in zip(self.examples, self.others, strict=True)
        ]
        said = [] if self.written is None else [[list(reply) for reply in self.written]]
        window = work.row_key(*made_with, self.max_new_tokens, self.batch, shown, *said)
        return [work.row_key(window, row) for row in range(len(self.examples))]

    def missing(
        self, load: Callable[[], DialogueModel], stored: dict[int, Answer]
    ) -> Iterator[tuple[list[int], list[Answer]]]:
        """The rows of each batch that is not stored whole, with their answers."""
        model = load()
        memories = model.memories([e.history for e in self.examples])
        count = len(self.examples)
        for start in range(0, count, self.batch):
            rows = list(range(start, min(start + self.batch, count)))
            if not stored.keys() >= set(rows):
                yield rows, self._answered(model, rows, memories)

    def _answered(self, model: DialogueModel, rows: Sequence[int], memories: Memories) -> list[Answer]:
        examples = [self.examples[row] for row in rows]
        asked = [asked_of(self.examples[row].reply, self.others[row]) for row in rows]
        written = None if self.written is None else [self.written[row] for row in rows]
        found = answered(model, examples, asked, self.max_new_tokens, memories, written is None)
        said = written or [Written(one.reply, one.prompt_tokens) for one in found]
        return [
            Answer(one.reply, one.prompt_tokens, likely(read.nats))
            for one, read in zip(said, found, strict=True)
        ]


def _stored(memo: RowStore, keys: Sequence[str]) -> Iterator[tuple[int, bytes]]:
    values = memo.get_many(keys)
    return ((row, values[key]) for row, key in enumerate(keys) if key in values)


def _read(value: bytes) -> Answer:
    reply, tokens, likely = json.loads(value)
    return Answer(reply, tokens, Likely(*likely))
