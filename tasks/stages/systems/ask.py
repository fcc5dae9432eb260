"""Stage `systems`: one system of table 1 answers the test exchanges that the rungs answer. Knows nothing of metrics.

A call that fails is a reject with its reason and no reply, so that nothing scores it. Rows are kept as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model.dialogue.settings import DialogueSettings
from model.generation.protocol import NO_REPLY, GenerationRequest, Message, request_seed
from model.prompts import dialogue_prompt
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.exchanges import Exchange
from storage.shards import reject_to_row, reply_to_row
from storage.store import Ref, canonical
from storage.utterance import Reject, Utterance
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.asked import AskedModel
from tasks.stages.evaluation import evaluation_exchanges, exchanges_to_answer
from tasks.stages.examples import read_dialogues, tagged
from tasks.stages.shards import write_rejects, write_shard
from tasks.stages.systems.settings import EndpointSystem, System


def ask_system(
    system: System,
    weights: Weights,
    utterances: list[Ref],
    exchanges: list[Ref],
    settings: ReplySettings,
    dialogue: DialogueSettings,
    work: Workspace,
) -> list[Ref]:
    """Outputs: replies/all/test/system-NAME, rejects/system-NAME, NAME.json: what was asked, answered and counted."""
    unseen = evaluation_exchanges(work.store, utterances, exchanges)
    chosen = exchanges_to_answer(unseen, settings.exchanges, settings.seed)
    served = isinstance(system, EndpointSystem)
    engine = system.engine(weights.name if served else str(resolve(weights.name)), settings.max_new_tokens)
    dialogues = read_dialogues(work.store, utterances, "test", "dev")
    prompt, requests = _in_one_prompt if served else _turn_by_turn, {}
    for exchange in chosen:
        messages = prompt(exchange, dialogues[exchange.key[:3]], dialogue.max_history_utterances)
        seed = request_seed(messages, engine.sampling)
        requests[exchange.key] = GenerationRequest(f"{seed:016x}", messages, seed)
    model = AskedModel("systems", system.name, engine, weights.identity, work, paid=served)
    answers = model.answers({request.key: request for request in requests.values()})
    said = [(exchange, answers[requests[exchange.key].key]) for exchange in chosen]
    rows = [_reply(e, system.row, a) for e, a in said if a["finish_reason"] not in NO_REPLY]
    failed = [
        Reject(*e.key, a["finish_reason"], f"{system.name} gave no reply")
        for e, a in said
        if a["finish_reason"] in NO_REPLY
    ]
    facts = {
        "name": system.name,
        "model": model.weights,
        "identity": model.identity,
        "exchanges": len(chosen),
        "answered": len(rows),
        "failures": dict(sorted(Counter(reject.reason for reject in failed).items())),
        **_counted(answers.values()),
    }
    return [
        write_shard(work.store, "replies", f"replies/all/test/{system.row}", [reply_to_row(r) for r in rows]),
        write_rejects(work.store, system.row, [reject_to_row(r, "systems") for r in failed]),
        work.store.put_bytes(f"{system.name}.json", canonical(facts)),
    ]


def _in_one_prompt(exchange: Exchange, dialogue: list[Utterance], turns: int) -> tuple[Message, ...]:
    """Table 6, as rung 1 is given it: the last `turns` before the sentence as role-tagged text."""
    at = _place(exchange, dialogue)
    history = "\n".join(tagged(dialogue)[max(0, at - turns) : at])
    return ({"role": "user", "content": dialogue_prompt(exchange.sentence, history, False, False)},)


def _turn_by_turn(exchange: Exchange, dialogue: list[Utterance], turns: int) -> tuple[Message, ...]:
    """The last `turns` and the sentence, without an instruction; who is to reply is the assistant."""
    at = _place(exchange, dialogue)
    return tuple(
        {"role": "assistant" if u.speaker == exchange.reply_speaker else "user", "content": u.text}
        for u in dialogue[max(0, at - turns) : at + 1]
    )


def _place(exchange: Exchange, dialogue: list[Utterance]) -> int:
    return next(i for i, utterance in enumerate(dialogue) if utterance.turn == exchange.turn)


def _reply(exchange: Exchange, row: str, answer: dict) -> Reply:
    return Reply(
        *exchange.key,
        rung=row,
        sentence=exchange.sentence,
        reference=exchange.reply,
        reply=answer["text"].strip(),
        sentence_emotion=exchange.sentence_emotion,
        reference_emotion=exchange.reply_emotion,
        finish_reason=answer["finish_reason"],
        prompt_tokens=answer["prompt_tokens"] or None,
        reply_tokens=answer["new_tokens"] or None,
    )


def _counted(answers: Iterable[dict]) -> dict[str, int]:
    """Over all distinct prompts, those that failed included. uncounted: answers whose server told no tokens."""
    answers = list(answers)
    return {
        "prompts": len(answers),
        "prompt_tokens": sum(a["prompt_tokens"] for a in answers),
        "reply_tokens": sum(a["new_tokens"] for a in answers),
        "uncounted": sum(not a["prompt_tokens"] for a in answers),
        "retries": sum(a["tries"] - 1 for a in answers),
    }
