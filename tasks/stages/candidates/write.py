"""Stage `candidates`: eight emotion-conditioned replies per selected exchange, written by the chatbot's own LLM.

Rows are stored as they finish; a re-run asks only for those that are missing. Every shard of a run goes
through one engine process. Knows nothing of scoring or of which candidate is chosen.
"""

from __future__ import annotations

from collections import Counter

from model.candidates.prompts import candidate_messages
from model.candidates.settings import CandidateSettings
from model.candidates.usable import tidy, usable
from model.generation.protocol import GenerationRequest, request_seed
from model.generation.settings import EngineSettings
from model.zoo.resolve import resolve
from storage.answers import Candidate
from storage.exchanges import Exchange
from storage.shards import read_table, row_to_exchange, unscored_to_row
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.asked import AskedModel
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
    "openai", which asks for `llm.name` at its server; served/… then says what identified the model there.
    """
    read = [row_to_exchange(row) for row in read_table(work.store.read(exchanges), "exchanges")]
    chosen = [exchange for exchange, selected in read if selected]
    histories = _histories(work, utterances, settings.history)
    place_ = "/".join(exchanges.name.split("/")[1:])
    writer = AskedModel("candidates", place_, _engine_settings(settings, engine, llm), llm.identity, work)
    out = _candidates(chosen, histories, settings, writer)
    rows = [unscored_to_row(candidate) for candidate in out]
    shards = [write_shard(work.store, "candidates", f"candidates/{place_}", rows)]
    if settings.examples and settings.compare:
        few = smallest_hashed(chosen, settings.compare, settings.seed, "candidates.compare")
        keys = {exchange.key for exchange in few}
        plain = _candidates(few, histories, settings.model_copy(update={"examples": 0}), writer)
        facts = {
            "with": _usable_counts([candidate for candidate in out if candidate.key in keys]),
            "without": _usable_counts(plain),
        }
        shards.append(work.store.put_bytes(f"plain/{place_}", canonical(facts)))
    if writer.served:
        shards.append(work.store.put_bytes(f"served/{place_}", canonical(writer.identity)))
    return shards


def _usable_counts(candidates: list[Candidate]) -> dict:
    reasons = Counter(candidate.reason for candidate in candidates if not candidate.usable)
    usable_ones = sum(candidate.usable for candidate in candidates)
    return {"candidates": len(candidates), "usable": usable_ones, "unusable": dict(reasons)}


def _histories(work: Workspace, utterances: Ref | None, turns: int) -> dict[tuple, tuple[str, ...]]:
    """Exchange key -> the last `turns` role-tagged lines before its sentence."""
    if utterances is None:
        return {}
    from tasks.stages.examples import read_dialogues, tagged  # torch, which the engine's process alone needs

    found: dict[tuple, tuple[str, ...]] = {}
    for dialogue in read_dialogues(work.store, [utterances]).values():
        lines = tagged(dialogue)
        found |= {u.key: lines[max(0, at - turns) : at] for at, u in enumerate(dialogue)}
    return found


def _candidates(
    exchanges: list[Exchange],
    histories: dict[tuple, tuple[str, ...]],
    settings: CandidateSettings,
    writer: AskedModel,
) -> list[Candidate]:
    """One for each exchange and emotion."""
    requests = {
        (exchange.key, emotion): _request(exchange, emotion, histories.get(exchange.key, ()), settings)
        for exchange in exchanges
        for emotion in settings.emotions
    }
    answers = writer.answers({r.key: r for r in requests.values()})
    shown = {"examples": settings.examples, "history": settings.history}
    made_with = canonical(writer.made_with | shown).decode()
    return [
        candidate
        for exchange in exchanges
        for candidate in _candidates_of(
            exchange,
            {emotion: requests[exchange.key, emotion] for emotion in settings.emotions},
            answers,
            settings.keep_garbled,
            writer.weights,
            made_with,
        )
    ]


def _request(
    exchange: Exchange, emotion: str, history: tuple[str, ...], settings: CandidateSettings
) -> GenerationRequest:
    messages = tuple(candidate_messages(exchange.sentence, emotion, settings.examples, history))
    seed = request_seed(messages, settings.sampling)
    return GenerationRequest(key=f"{seed:016x}", messages=messages, seed=seed)


def _engine_settings(settings: CandidateSettings, engine: str, llm: Weights) -> EngineSettings:
    return EngineSettings(
        model=llm.name if engine == "openai" else str(resolve(llm.name)),
        engine=engine,
        args=settings.engine_args,
        sampling=settings.sampling,
        server=settings.server,
    )


def _candidates_of(
    exchange: Exchange,
    requests: dict[str, GenerationRequest],
    answers: dict[str, dict],
    keep_garbled: bool,
    weights: str,
    made_with: str,
) -> list[Candidate]:
    """The exchange's candidates, in the order of its emotions: the second of two alike is the duplicate.

    weights, made_with: what wrote them all, and the settings it wrote with.
    """
    candidates: list[Candidate] = []
    earlier: list[str] = []
    for emotion, request in requests.items():
        answer = answers[request.key]
        ending = answer["finish_reason"]
        if ending == "garbled" and keep_garbled:
            ending = "stop"
        text = tidy(answer["text"], ending)
        good, reason = usable(text, ending, exchange.sentence, emotion, earlier)
        earlier.append(text)
        candidates.append(
            Candidate(
                *exchange.key,
                source="prompted",
                emotion=emotion,
                sample=0,
                prompt=request.messages[-1]["content"],
                text=text,
                finish_reason=ending,
                usable=good,
                reason=reason,
                seed=request.seed,
                engine=answer["engine"],
                weights=weights,
                settings=made_with,
            )
        )
    return candidates
