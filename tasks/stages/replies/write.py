"""Stage `replies`: each rung of the ladder answers the test exchanges. Knows nothing of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model.dialogue.dialogue import DialogueModel, load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.prompter import load_prompter
from model.dialogue.settings import DialogueSettings
from model.generation.vllm_start import vllm_rows
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.exchanges import Exchange
from storage.shards import reply_to_row
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.evaluation import evaluation_exchanges, exchanges_to_answer
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.replies.answers import Answer, answers
from tasks.stages.replies.likely import other_replies
from tasks.stages.replies.through_vllm import Written, written
from tasks.stages.shards import write_shard

if TYPE_CHECKING:
    from model.generation.vllm_rows import VllmRows


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
    vllm: str | None = None,
) -> list[Ref]:
    """Greedy replies of one rung, and how likely it finds the true ones and others. Output: replies/all/test/RUNG.

    vllm: the version that writes the replies; None: transformers does.
    """
    unseen = evaluation_exchanges(work.store, utterances, exchanges)
    chosen = exchanges_to_answer(unseen, settings.exchanges, settings.seed)
    wanted = {key_text(e.key): e for e in chosen}
    found = dialogue_examples(work.store, utterances, exchanges, features, "test", "dev")
    examples = [e for e in found if e.key in wanted]
    parts = {"adapter": adapter, "compressor": compressor, "extractor": extractor}

    def folders() -> list[Path | None]:
        return [work.folder(ref) for ref in (adapter, compressor, extractor)]

    def load() -> DialogueModel:
        its_adapter, its_compressor, its_extractor = folders()
        return load_dialogue(
            resolve(llm.name),
            its_adapter,
            its_compressor,
            its_extractor,
            history,
            dialogue.training.dtype,
            dialogue,
        )

    others = other_replies([wanted[example.key] for example in examples], unseen)
    made_with: list = [
        history, dialogue.model_dump(mode="json"), {name: ref and ref.content for name, ref in parts.items()},
        [ref.content for ref in features],
    ]  # fmt: skip
    replies = None
    if vllm is not None:
        made_with += [vllm, settings.vllm.model_dump(mode="json")]
        replies = _through_vllm(llm, folders(), history, dialogue, settings, examples, made_with, work)
    found_answers = answers(
        load, examples, others, settings.max_new_tokens, settings.batch_size, made_with, work, replies
    )
    out = [
        reply_to_row(_reply(wanted[example.key], rung, answer))
        for example, answer in zip(examples, found_answers, strict=True)
    ]
    return [write_shard(work.store, "replies", f"replies/all/test/{rung}", out)]


def _through_vllm(
    llm: Weights,
    folders: Sequence[Path | None],
    history: Literal["text", "memory"],
    dialogue: DialogueSettings,
    settings: ReplySettings,
    examples: Sequence[DialogueExample],
    made_with: list,
    work: Workspace,
) -> list[Written]:
    """The replies; vLLM has ended when they are returned. folders: adapter, compressor, extractor."""
    (adapter, compressor, extractor), engine = folders, settings.vllm

    def load() -> DialogueModel:
        return load_prompter(
            resolve(llm.name), adapter, compressor, extractor, history, dialogue, engine.max_model_len
        )

    def start(model: DialogueModel) -> VllmRows:
        args = engine.engine_args(dialogue.training.dtype, model.window or engine.max_model_len)
        adapters = [] if adapter is None else [adapter]
        return vllm_rows(resolve(llm.name), args, [model.tokenizer.eos_token_id], adapters)

    # Twice as many as are decoded at once: who ends is followed at once.
    most = 2 * engine.max_num_seqs
    return written(load, start, adapter, examples, settings.max_new_tokens, most, made_with, work)


def _reply(exchange: Exchange, rung: str, answer: Answer) -> Reply:
    return Reply(
        *exchange.key,
        rung=rung,
        sentence=exchange.sentence,
        reference=exchange.reply,
        reply=answer.reply,
        sentence_emotion=exchange.sentence_emotion,
        reference_emotion=exchange.reply_emotion,
        prompt_tokens=answer.prompt_tokens,
        reference_nats=answer.likely.nats,
        reference_tokens=answer.likely.tokens,
        opposed_nats=answer.likely.opposed,
        same_nats=answer.likely.same,
    )
