"""Stage `replies`: each rung of the ladder answers the test exchanges. Knows nothing of metrics."""

from __future__ import annotations

from typing import Literal

from model.dialogue.dialogue import load_dialogue
from model.dialogue.settings import DialogueSettings
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.exchanges import Exchange
from storage.shards import reply_to_row, row_to_exchange
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.replies.likely import Likely, likelihoods, other_replies
from tasks.stages.selection import spread
from tasks.stages.shard_names import of_table, place
from tasks.stages.shards import dialogue_keys, read_rows, write_shard
from tasks.stages.stand_in import evaluated


def evaluation_split(exchanges: list[Ref]) -> dict[str, str]:
    """Dataset -> the split that gives the numbers: test, or dev where there is no test (readings).

    Of such a dev the dialogues that chose nothing are evaluated on (tasks/stages/stand_in.py).
    """
    splits: dict[str, set[str]] = {}
    for ref in of_table(exchanges, "exchanges"):
        dataset, split = place(ref)
        if ref.rows:
            splits.setdefault(dataset, set()).add(split)
    return {dataset: "test" if "test" in found else "dev" for dataset, found in sorted(splits.items())}


def write_replies(
    rung: str,
    utterances: list[Ref],
    exchanges: list[Ref],
    features: list[Ref],
    adapter: Ref | None,
    compressor: Ref | None,
    extractor: Ref | None,
    history: Literal["text", "memory"],
    dialogue: DialogueSettings,
    settings: ReplySettings,
    llm: Weights,
    work: Workspace,
) -> list[Ref]:
    """Greedy replies of one rung, and how likely it finds the true ones and others. Output: replies/all/test/RUNG."""
    splits = evaluation_split(exchanges)
    rows = [row_to_exchange(r)[0] for r in read_rows(work.store, exchanges, "exchanges", "test", "dev")]
    of_dev = dialogue_keys(read_rows(work.store, utterances, "utterances", "dev"))
    may = evaluated(of_dev, [dataset for dataset, split in splits.items() if split == "dev"])
    of_splits = [e for e in rows if splits.get(e.dataset) == e.split]
    unseen = [e for e in of_splits if e.split == "test" or e.key[:3] in may]
    chosen = spread(unseen, settings.exchanges, settings.seed, "replies.exchanges")
    wanted = {key_text(e.key): e for e in sorted(chosen, key=lambda e: e.key)}
    found = dialogue_examples(work.store, utterances, exchanges, features, "test", "dev")
    examples = [e for e in found if e.key in wanted]
    folder = work.store.folder
    model = load_dialogue(
        resolve(llm.name),
        adapter=None if adapter is None else folder(adapter),
        compressor=None if compressor is None else folder(compressor),
        extractor=None if extractor is None else folder(extractor),
        history=history,
        settings=dialogue,
        dtype=dialogue.training.dtype,
    )
    tokens = [len(prompt) for prompt in model.prompts(examples)]
    # Prompts of alike length together: less padding. The order is the examples' own, so the bytes are stable.
    order = sorted(range(len(examples)), key=lambda i: (tokens[i], i))
    others = other_replies([wanted[e.key] for e in examples], unseen)
    replies: dict[int, str] = {}
    likely: dict[int, Likely] = {}
    for start in range(0, len(order), dialogue.reply_batch_size):
        batch = order[start : start + dialogue.reply_batch_size]
        answers = model.reply([examples[i] for i in batch], settings.max_new_tokens)
        replies.update(zip(batch, answers, strict=True))
        found_likely = likelihoods(model, [examples[i] for i in batch], [others[i] for i in batch])
        likely.update(zip(batch, found_likely, strict=True))
        work.progress(len(replies), len(examples), {})
    out = [
        reply_to_row(_reply(wanted[e.key], rung, replies[i], tokens[i], likely[i]))
        for i, e in enumerate(examples)
    ]
    return [write_shard(work.store, "replies", f"replies/all/test/{rung}", out)]


def _reply(exchange: Exchange, rung: str, reply: str, prompt_tokens: int, likely: Likely) -> Reply:
    return Reply(
        *exchange.key,
        rung=rung,
        sentence=exchange.sentence,
        reference=exchange.reply,
        reply=reply,
        sentence_emotion=exchange.sentence_emotion,
        reference_emotion=exchange.reply_emotion,
        prompt_tokens=prompt_tokens,
        reference_nats=likely.nats,
        reference_tokens=likely.tokens,
        opposed_nats=likely.opposed,
        same_nats=likely.same,
    )
