"""A rung's replies through vLLM, stored as they finish: a rung that was killed goes on with those that are missing.

vLLM holds the LLM and this process its embeddings alone, so that a GPU holds the weights once. Knows nothing of tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample
from model.dialogue.prompter import one_tensor
from model.generation.settings import Sampling
from model.generation.streaming import Row
from storage.store import canonical
from tasks.engine.item import Workspace

if TYPE_CHECKING:
    from model.generation.vllm_rows import VllmRows

PART = 256
"""Exchanges whose memories are held at once."""
CLIPS = 16
"""Prompts that are made together, with the clips in them."""


class Written(NamedTuple):
    """A reply, and how many tokens its prompt has."""

    reply: str
    prompt_tokens: int


def written(
    load: Callable[[], DialogueModel],
    start: Callable[[DialogueModel], VllmRows],
    adapter: Path | None,
    examples: Sequence[DialogueExample],
    max_new_tokens: int,
    most: int,
    made_with: list,
    work: Workspace,
) -> list[Written]:
    """Greedy replies, in the order of the examples. load: what makes their prompts; start: the engine for these.

    Both are asked for where a reply is not stored yet. most: prompts that are with the engine at once. made_with: what replies
    depend on beside the examples and the code. Half of the work: their likelihoods follow.
    """
    memo = work.store.rows("replies")
    keys = [
        work.row_key("vllm", *made_with, max_new_tokens, e.key, [[u.text, u.role] for u in e.history], e.sentence)
        for e in examples
    ]  # fmt: skip
    try:
        stored = memo.get_many(keys)
        found = {row: Written(*json.loads(stored[key])) for row, key in enumerate(keys) if key in stored}
        missing = [row for row in range(len(keys)) if row not in found]
        if missing:
            model = load()
            with start(model) as engine:
                greedy = Sampling(temperature=0, max_new_tokens=max_new_tokens)
                for row, reply in _answered(model, engine, adapter, greedy, examples, missing, most):
                    found[row] = reply
                    memo.put(keys[row], canonical(list(reply)))
                    work.progress(len(found), 2 * len(keys), {})
    finally:
        memo.close()
    return [found[row] for row in range(len(keys))]


def _answered(
    model: DialogueModel,
    engine: VllmRows,
    adapter: Path | None,
    sampling: Sampling,
    examples: Sequence[DialogueExample],
    wanted: Sequence[int],
    most: int,
) -> Iterator[tuple[int, Written]]:
    """Of each wanted example, as they finish. The engine works while the next prompts are made."""
    places: dict[Row, int] = {}

    def finished() -> Iterator[tuple[int, Written]]:
        for row in engine.step():
            if row.ended is not None:
                text = model.tokenizer.decode(row.tokens, skip_special_tokens=True).strip()
                yield places.pop(row), Written(text, len(row.prompt))

    for part in _parts(wanted, PART):
        memories = model.memories([examples[place].history for place in part])
        for few in _parts(part, CLIPS):
            while len(engine) > max(0, most - len(few)):
                yield from finished()
            shown = [examples[place] for place in few]
            prompts = model.pieces(shown, memories, sampling.max_new_tokens)
            for place, pieces in zip(few, prompts, strict=True):
                row = Row(one_tensor(model, pieces), sampling)
                places[row] = place
                engine.add(row, adapter)
    while len(engine):
        yield from finished()


def _parts(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (places[start : start + size] for start in range(0, len(places), size))
