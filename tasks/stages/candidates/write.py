"""Stage `candidates`: eight emotion-conditioned replies per selected exchange, written by the chatbot's own LLM.

Rows are stored as they finish; a re-run asks only for those that are missing. Every shard of a run goes
through one engine process. Knows nothing of scoring or of which candidate is chosen.
"""

from __future__ import annotations

import json
from collections import Counter

from model.candidates.prompts import candidate_messages
from model.candidates.settings import CandidateSettings
from model.candidates.usable import tidy, usable
from model.generation.protocol import MAY_DO_BETTER, VARIES, GenerationRequest, ServerError, request_seed
from model.generation.settings import EngineSettings
from model.zoo.resolve import resolve
from storage.answers import Candidate
from storage.exchanges import Exchange
from storage.shards import read_table, row_to_exchange, unscored_to_row
from storage.store import Ref, RowStore, canonical, digest_bytes
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.candidates.engine import process_engine
from tasks.stages.selection import smallest_hashed
from tasks.stages.shards import write_shard

UNCONFIRMED = "unconfirmed"
"""Field of a stored answer after which its server's model has not been identified yet."""
LOOKS = 3
"""Times a model is identified before it counts as another."""


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
    writer = _Writer(settings, engine, llm, place_, work)
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
    writer: _Writer,
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


class _Writer:
    """Writes one shard's answers with one model, and reads back those of earlier runs.

    A server's model may change under its name: it is identified at the start, after every `identify_every` answers
    and at the end. What identified it is part of every row's key, and a row counts only once the model has been
    found the same after it: until then it is stored as unconfirmed.
    """

    def __init__(
        self, settings: CandidateSettings, engine: str, llm: Weights, place: str, work: Workspace
    ) -> None:
        self.settings, self.kind, self.work, self.place = settings, engine, work, place
        self.served = engine == "openai"
        self.engine_settings = _engine_settings(settings, engine, llm)
        self.identity = process_engine(self.engine_settings).identify() if self.served else {}
        self.weights = llm.identity
        if self.identity:
            self.weights += f"@{digest_bytes(canonical(self.identity))[:12]}"
        self.trusted = self._as_last_time()

    @property
    def made_with(self) -> dict:
        """The settings that a candidate's text depends on, besides its prompt."""
        made = self.settings.sampling.model_dump(mode="json")
        if not self.served:
            return made | {"dtype": self.settings.engine_args.dtype}
        server = self.settings.server
        sent = {name: None if name in server.leave_out else value for name, value in made.items()}
        return sent | {"dtype": None, "token_limit_field": server.token_limit_field, "extra": server.extra}

    def _as_last_time(self) -> bool:
        """Whether the shard's last run found this model too: what it left unconfirmed is then confirmed."""
        memo, mark, now = (
            self.work.store.rows("candidates"),
            self.work.row_key(self.place),
            canonical(self.weights),
        )
        before = memo.get_many([mark]).get(mark)
        if self.identity and before != now:
            memo.put(mark, now)
        memo.close()
        return before == now

    def answers(self, requests: dict[str, GenerationRequest]) -> dict[str, dict]:
        """Request key -> what the engine answered; equal prompts are asked once, and stored ones not at all.

        Those that were too long, or got no answer that makes sense, are asked again: what may answer them is no
        part of a row's key. Raises ServerError where another model than at the start answers.
        """
        memo = self.work.store.rows("candidates")
        try:
            return self._answers(requests, memo)
        finally:
            memo.close()

    def _answers(self, requests: dict[str, GenerationRequest], memo: RowStore) -> dict[str, dict]:
        row_keys = {
            key: self.work.row_key(request.messages, self.made_with, self.kind, self.weights)
            for key, request in requests.items()
        }
        answers = self._stored(row_keys, memo)
        missing = [request for key, request in requests.items() if key not in answers]
        step = self.settings.server.identify_every if self.identity else max(1, len(missing))
        for start in range(0, len(missing), step):
            asked = missing[start : start + step]
            for row in process_engine(self.engine_settings).generate(asked):
                answers[row.key] = {
                    "text": row.text,
                    "finish_reason": row.finish_reason,
                    "engine": row.engine,
                }
                unconfirmed = {UNCONFIRMED: True} if self.identity else {}
                memo.put(row_keys[row.key], canonical(answers[row.key] | unconfirmed))
                self.work.progress(len(answers), len(requests), {})
            if self.identity:
                self._same_as_before()
                self._confirm([request.key for request in asked], answers, row_keys, memo)
        return answers

    def _stored(self, row_keys: dict[str, str], memo: RowStore) -> dict[str, dict]:
        """The answers of earlier runs; what one of them left unconfirmed where it can be trusted now."""
        found = memo.get_many(row_keys.values())
        rows = {key: json.loads(found[row]) for key, row in row_keys.items() if row in found}
        rows = {key: row for key, row in rows.items() if row and row["finish_reason"] not in MAY_DO_BETTER}
        if not self.identity:
            return rows
        unconfirmed = [key for key, row in rows.items() if row.pop(UNCONFIRMED, False)]
        if self.trusted:
            self._confirm(unconfirmed, rows, row_keys, memo)
            return rows
        for key in unconfirmed:
            memo.put(row_keys[key], canonical(None))
        return {key: row for key, row in rows.items() if key not in unconfirmed}

    def _confirm(
        self, keys: list[str], answers: dict[str, dict], row_keys: dict[str, str], memo: RowStore
    ) -> None:
        for key in keys:
            memo.put(row_keys[key], canonical(answers[key]))

    def _same_as_before(self) -> None:
        identify_by = self.settings.server.identify_by
        for _ in range(LOOKS):  # a likeliest answer that is nearly tied may turn once
            now = process_engine(self.engine_settings).identify()
            signs = [sign for sign in identify_by if now.get(sign) != self.identity.get(sign)]
            # Answers that varied from the start tell nothing; those that begin to may come of two models.
            if not signs or signs == ["probe"] and self.identity.get("probe") == VARIES:
                return
        raise ServerError(
            f"{self.settings.server.base_url}: another model answers to {self.engine_settings.model!r} than when the "
            f"run began ({', '.join(signs)} changed); what it said since it was last known the same is dropped; run "
            "again with --force candidates to have all written by the one that answers now"
        )


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
