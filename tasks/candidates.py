"""Stage `candidates`: eight emotion-conditioned replies per selected exchange, written by the chatbot's own LLM.

Rows are stored as they finish; a re-run asks only for those that are missing. Every shard of a run goes
through one engine process. Knows nothing of scoring or of which candidate is chosen.
"""

from __future__ import annotations

import atexit
import json
from functools import cache

from model.candidates.prompts import candidate_messages, candidate_prompt
from model.candidates.settings import CandidateSettings
from model.candidates.usable import tidy, usable
from model.generation.client import GenerationEngine
from model.generation.protocol import GenerationRequest, request_seed
from model.generation.settings import EngineSettings
from model.zoo.resolve import resolve
from storage.exchanges import Exchange
from storage.shards import read_table, row_to_exchange
from storage.store import Ref, canonical
from tasks.shard_names import place, shard_name
from tasks.shards import write_shard
from tasks.stages.stage import Weights, Workspace


def write_candidates(
    exchanges: Ref, settings: CandidateSettings, engine: str, llm: Weights, work: Workspace
) -> list[Ref]:
    """Outputs: candidates/… with the usable ones marked. `engine`: "vllm" or "transformers"."""
    rows = [row_to_exchange(row) for row in read_table(work.store.read(exchanges), "exchanges")]
    chosen = [exchange for exchange, selected in rows if selected]
    texts = _generate(chosen, settings, engine, llm.name, work)
    out = [row for exchange in chosen for row in _candidate_rows(exchange, settings, texts)]
    dataset, split = place(exchanges)
    name = shard_name("candidates", dataset, split, int(exchanges.name.split("/")[-1]))
    return [write_shard(work.store, "candidates", name, out)]


def _request(exchange: Exchange, emotion: str, settings: CandidateSettings) -> GenerationRequest:
    messages = tuple(candidate_messages(exchange.sentence, emotion, settings.examples))
    seed = request_seed(messages, settings.sampling)
    return GenerationRequest(key=f"{seed:016x}", messages=messages, seed=seed)


def _generate(
    exchanges: list[Exchange], settings: CandidateSettings, engine: str, llm: str, work: Workspace
) -> dict[str, dict]:
    """Request key -> what the engine answered; equal prompts are asked once."""
    requests = {
        request.key: request
        for exchange in exchanges
        for request in (_request(exchange, emotion, settings) for emotion in settings.emotions)
    }
    memo = work.store.rows("candidates")
    sampling = settings.sampling.model_dump(mode="json")
    row_keys = {
        key: work.row_key(r.messages, sampling, engine, settings.engine_args.dtype)
        for key, r in requests.items()
    }
    stored = memo.get_many(row_keys.values())
    answers = {key: json.loads(stored[row]) for key, row in row_keys.items() if row in stored}
    missing = [request for key, request in requests.items() if key not in answers]
    if missing:
        for row in _engine(str(resolve(llm)), engine, settings).generate(missing):
            answers[row.key] = {"text": row.text, "finish_reason": row.finish_reason, "engine": row.engine}
            memo.put(row_keys[row.key], canonical(answers[row.key]))
            work.progress(len(answers), len(requests), {})
    memo.close()
    return answers


@cache
def _engine(folder: str, engine: str, settings: CandidateSettings) -> GenerationEngine:
    """One engine for the life of this process; it ends with it."""
    started = GenerationEngine(
        EngineSettings(model=folder, engine=engine, args=settings.engine_args, sampling=settings.sampling)
    )
    atexit.register(started.close)
    return started


def _candidate_rows(exchange: Exchange, settings: CandidateSettings, answers: dict[str, dict]) -> list[dict]:
    rows, earlier = [], []
    for emotion in settings.emotions:
        request = _request(exchange, emotion, settings)
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
                "prompt": candidate_prompt(exchange.sentence, emotion),
                "text": text,
                "finish_reason": answer["finish_reason"],
                "usable": good,
                "reason": reason,
                "seed": request.seed,
                "engine": answer["engine"],
            }
        )
    return rows
