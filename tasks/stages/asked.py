"""Asking one model for texts, row by row: what it answered is kept as it comes, and read back by a later run.

Candidates and the systems of table 1 are asked in this way. Knows nothing of what the texts are for.
"""

from __future__ import annotations

import json

from model.generation.protocol import MAY_DO_BETTER, VARIES, Generation, GenerationRequest, ServerError
from model.generation.settings import EngineSettings
from storage.store import RowStore, canonical, digest_bytes
from tasks.engine.item import Workspace
from tasks.stages.engine import process_engine

UNCONFIRMED = "unconfirmed"
"""Field of a stored answer after which its server's model has not been identified yet."""
LOOKS = 3
"""Times a model is identified before it counts as another."""


class AskedModel:
    """Asks one model for an item's texts, and reads back those of earlier runs.

    A server's model may change under its name: it is identified at the start, after every `identify_every` answers
    and at the end. What identified it is part of every row's key, and a row counts only once the model has been
    found the same after it: until then it is stored as unconfirmed.
    """

    def __init__(
        self,
        stage: str,
        place: str,
        engine: EngineSettings,
        weights: str,
        work: Workspace,
        paid: bool = False,
    ) -> None:
        """stage: whose rows they are; place: which of its items asks; weights: what identifies the model.

        paid: a row's key is what is sent and who answers, and nothing of the code: what was paid for is not asked again
        for a change here.
        """
        self.stage, self.place, self.engine, self.work, self.paid = stage, place, engine, work, paid
        self.served = engine.engine == "openai"
        self.identity = process_engine(engine).identify() if self.served else {}
        self.weights = weights
        if self.identity:
            self.weights += f"@{digest_bytes(canonical(self.identity))[:12]}"
        self.trusted = self._as_last_time()

    @property
    def made_with(self) -> dict:
        """The settings that a text depends on, besides its prompt."""
        made = self.engine.sampling.model_dump(mode="json")
        if not self.served:
            return made | {"dtype": self.engine.args.dtype}
        server = self.engine.server
        sent = {name: None if name in server.leave_out else value for name, value in made.items()}
        return sent | {"dtype": None, "token_limit_field": server.token_limit_field, "extra": server.extra}

    def _row_key(self, *inputs) -> str:
        if self.paid:
            return digest_bytes(canonical([self.stage, self.engine.server.base_url, *inputs]))
        return self.work.row_key(*inputs)

    def _as_last_time(self) -> bool:
        """Whether the item's last run found this model too: what it left unconfirmed is then confirmed."""
        memo, mark, now = (
            self.work.store.rows(self.stage),
            self._row_key(self.place),
            canonical(self.weights),
        )
        before = memo.get_many([mark]).get(mark)
        if self.identity and before != now:
            memo.put(mark, now)
        memo.close()
        return before == now

    def answers(self, requests: dict[str, GenerationRequest]) -> dict[str, dict]:
        """Request key -> what the engine answered: all of a Generation but its key.

        Equal prompts are asked once, and stored ones not at all. Those that were too long, or got no answer that makes
        sense, are asked again: what may answer them is no part of a row's key. Raises ServerError where another model
        than at the start answers.
        """
        memo = self.work.store.rows(self.stage)
        try:
            return self._answers(requests, memo)
        finally:
            memo.close()

    def _answers(self, requests: dict[str, GenerationRequest], memo: RowStore) -> dict[str, dict]:
        row_keys = {
            key: self._row_key(request.messages, self.made_with, self.engine.engine, self.weights)
            for key, request in requests.items()
        }
        answers = self._stored(row_keys, memo)
        missing = [request for key, request in requests.items() if key not in answers]
        step = self.engine.server.identify_every if self.identity else max(1, len(missing))
        for start in range(0, len(missing), step):
            asked = missing[start : start + step]
            for row in process_engine(self.engine).generate(asked):
                answers[row.key] = _kept(row)
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
        identify_by = self.engine.server.identify_by
        for _ in range(LOOKS):  # a likeliest answer that is nearly tied may turn once
            now = process_engine(self.engine).identify()
            signs = [sign for sign in identify_by if now.get(sign) != self.identity.get(sign)]
            # Answers that varied from the start tell nothing; those that begin to may come of two models.
            if not signs or signs == ["probe"] and self.identity.get("probe") == VARIES:
                return
        raise ServerError(
            f"{self.engine.server.base_url}: another model answers to {self.engine.model!r} than when the "
            f"run began ({', '.join(signs)} changed); what it said since it was last known the same is dropped; run "
            f"again with --force {self.stage} to have all written by the one that answers now"
        )


def _kept(row: Generation) -> dict:
    return {
        "text": row.text,
        "finish_reason": row.finish_reason,
        "engine": row.engine,
        "prompt_tokens": row.prompt_tokens,
        "new_tokens": row.new_tokens,
        "tries": row.tries,
    }
