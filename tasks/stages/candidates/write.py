"""Stage `candidates`: eight emotion-conditioned replies per selected exchange, written by the chatbot's own LLM.

Rows are stored as they finish; a re-run asks only for those that are missing. Every shard of a run goes
through one engine process. Knows nothing of scoring or of which candidate is chosen.
"""

from __future__ import annotations

import atexit
import json
from collections import Counter
from functools import cache

from model.candidates.prompts import candidate_messages
from model.candidates.settings import CandidateSettings
from model.candidates.usable import tidy, usable
from model.generation.client import GenerationEngine
from model.generation.protocol import GenerationRequest, request_seed
from model.generation.settings import EngineSettings
from model.zoo.resolve import resolve
from storage.exchanges import Exchange
from storage.shards import read_table, row_to_exchange
from storage.store import Ref, canonical
from storage.tables import KEY_COLUMNS
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.selection import smallest_hashed
from tasks.stages.shards import write_shard


def write_candidates(
    exchanges: Ref,
    utterances: Ref | None,
    settings: CandidateSettings,
    engine: str,
    llm: Weights,
    work: Workspace,
) -> list[Ref]:
    """Outputs: candidates/… with the usable ones marked; plain/…, what is usable with and without worked examples.

    utterances: the shard of the same dialogues where the prompt shows history. engine: "vllm", "transformers" or
    "openai", which asks for `llm.name` at its server.
    """
    rows = [row_to_exchange(row) for row in read_table(work.store.read(exchanges), "exchanges")]
    chosen = [exchange for exchange, selected in rows if selected]
    histories = _histories(work, utterances, settings.history)
    out = _candidates(chosen, histories, settings, engine, llm, work)
    place_ = "/".join(exchanges.name.split("/")[1:])
    shards = [write_shard(work.store, "candidates", f"candidates/{place_}", out)]
    if settings.examples and settings.compare:
        few = smallest_hashed(chosen, settings.compare, settings.seed, "candidates.compare")
        keys = {exchange.key for exchange in few}
        plain = _candidates(few, histories, settings.model_copy(update={"examples": 0}), engine, llm, work)
        facts = {
            "with": _usable_counts([row for row in out if tuple(row[c] for c in KEY_COLUMNS) in keys]),
            "without": _usable_counts(plain),
        }
        shards.append(work.store.put_bytes(f"plain/{place_}", canonical(facts)))
    return shards


def _usable_counts(rows: list[dict]) -> dict:
    reasons = Counter(row["reason"] for row in rows if not row["usable"])
    return {"candidates": len(rows), "usable": sum(row["usable"] for row in rows), "unusable": dict(reasons)}


def _histories(work: Workspace, utterances: Ref | None, turns: int) -> dict[tuple, tuple[str, ...]]:
    """Exchange key -> the last `turns` role-tagged lines before its sentence."""
    if utterances is None:
        return {}
    from tasks.stages.examples import read_dialogues, tagged  # torch, which the engine's process alone needs

    found = {}
    for dialogue in read_dialogues(work.store, [utterances]).values():
        lines = tagged(dialogue)
        found |= {u.key: lines[max(0, at - turns) : at] for at, u in enumerate(dialogue)}
    return found


def _candidates(
    exchanges: list[Exchange],
    histories: dict[tuple, tuple[str, ...]],
    settings: CandidateSettings,
    engine: str,
    llm: Weights,
    work: Workspace,
) -> list[dict]:
    """A row for each exchange and emotion."""
    requests = {
        (exchange.key, emotion): _request(exchange, emotion, histories.get(exchange.key, ()), settings)
        for exchange in exchanges
        for emotion in settings.emotions
    }
    answers = _generate({r.key: r for r in requests.values()}, settings, engine, llm, work)
    shown = {"examples": settings.examples, "history": settings.history}
    made = {
        "weights": llm.identity,
        "settings": canonical(_made_with(settings, engine) | shown).decode(),
    }
    return [
        {**row, **made}
        for exchange in exchanges
        for row in _rows_of(exchange, {e: requests[exchange.key, e] for e in settings.emotions}, answers)
    ]


def _made_with(settings: CandidateSettings, engine: str) -> dict:
    """The settings that a candidate's text depends on, besides its prompt."""
    dtype = None if engine == "openai" else settings.engine_args.dtype
    return {**settings.sampling.model_dump(mode="json"), "dtype": dtype}


def _request(
    exchange: Exchange, emotion: str, history: tuple[str, ...], settings: CandidateSettings
) -> GenerationRequest:
    messages = tuple(candidate_messages(exchange.sentence, emotion, settings.examples, history))
    seed = request_seed(messages, settings.sampling)
    return GenerationRequest(key=f"{seed:016x}", messages=messages, seed=seed)


def _generate(
    requests: dict[str, GenerationRequest],
    settings: CandidateSettings,
    engine: str,
    llm: Weights,
    work: Workspace,
) -> dict[str, dict]:
    """Request key -> what the engine answered; equal prompts are asked once, and stored ones not at all.

    Those that were too long are asked again.
    """
    memo = work.store.rows("candidates")
    made = _made_with(settings, engine)
    row_keys = {key: work.row_key(r.messages, made, engine) for key, r in requests.items()}
    stored = memo.get_many(row_keys.values())
    answers = {key: json.loads(stored[row]) for key, row in row_keys.items() if row in stored}
    # What was too long may fit another engine's or server's window, which is no part of a row's key.
    answers = {key: answer for key, answer in answers.items() if answer["finish_reason"] != "too_long"}
    missing = [request for key, request in requests.items() if key not in answers]
    if missing:
        for row in _engine(_engine_settings(settings, engine, llm)).generate(missing):
            answers[row.key] = {"text": row.text, "finish_reason": row.finish_reason, "engine": row.engine}
            memo.put(row_keys[row.key], canonical(answers[row.key]))
            work.progress(len(answers), len(requests), {})
    memo.close()
    return answers


def _engine_settings(settings: CandidateSettings, engine: str, llm: Weights) -> EngineSettings:
    return EngineSettings(
        model=llm.name if engine == "openai" else str(resolve(llm.name)),
        engine=engine,
        args=settings.engine_args,
        sampling=settings.sampling,
        server=settings.server,
    )


@cache
def _engine(settings: EngineSettings) -> GenerationEngine:
    """One engine for the life of this process; it ends with it."""
    started = GenerationEngine(settings)
    atexit.register(started.close)
    return started


def _rows_of(
    exchange: Exchange, requests: dict[str, GenerationRequest], answers: dict[str, dict]
) -> list[dict]:
    """The exchange's rows, in the order of its emotions: the second of two alike is the duplicate."""
    rows, earlier = [], []
    for emotion, request in requests.items():
        answer = answers[request.key]
        text = tidy(answer["text"], answer["finish_reason"])
        good, reason = usable(text, answer["finish_reason"], exchange.sentence, emotion, earlier)
        earlier.append(text)
        rows.append(
            {
                "dataset": exchange.dataset,
                "split": exchange.split,
                "dialogue_id": exchange.dialogue_id,
                "turn": exchange.turn,
                "emotion": emotion,
                "prompt": request.messages[-1]["content"],
                "text": text,
                "finish_reason": answer["finish_reason"],
                "usable": good,
                "reason": reason,
                "seed": request.seed,
                "engine": answer["engine"],
            }
        )
    return rows
