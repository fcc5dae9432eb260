"""Stage `replies`: each rung of the ladder answers the test exchanges. Knows nothing of metrics."""

from __future__ import annotations

from typing import Literal

from model.dialogue.dialogue import load_dialogue, prompt_tokens
from model.dialogue.settings import DialogueSettings
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.exchanges import Exchange
from storage.shards import reply_to_row
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.evaluation import evaluation_exchanges
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.replies.likely import Likely, likelihoods, other_replies
from tasks.stages.selection import spread
from tasks.stages.shards import write_shard


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
    unseen = evaluation_exchanges(work.store, utterances, exchanges)
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
    prompts = model.pieces(examples, reply=settings.max_new_tokens)
    replies = model.reply_to(prompts, settings.max_new_tokens, work.progress)
    others = other_replies([wanted[example.key] for example in examples], unseen)
    likely = likelihoods(model, examples, others, dialogue.reply_batch_size)
    out = [
        reply_to_row(_reply(wanted[example.key], rung, reply, prompt_tokens(prompt), of_true))
        for example, prompt, reply, of_true in zip(examples, prompts, replies, likely, strict=True)
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
