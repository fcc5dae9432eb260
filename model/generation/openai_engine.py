"""Text generation by a server that speaks OpenAI's chat completions: a vLLM fleet that is already up, or any other.

The server applies the model's chat template and its own limit of length. A request that fails for a while (no
connection, no answer in time, 408, 409, 429, 5xx, an answer that makes no sense) is tried again with growing pauses.
What comes from the server is read up to a size and a time, and is trusted in nothing. Knows nothing of processes or
of what the text is for.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

import httpx

from model.generation.protocol import (
    NO_REPLY,
    VARIES,
    FinishReason,
    Generation,
    GenerationRequest,
    Message,
    ServerError,
)
from model.generation.reply import reply_of
from model.generation.server_errors import (
    ERROR_BYTES,
    PASSING,
    REFUSED,
    error_of,
    is_too_long,
    names_field,
    retry_after_s,
)
from model.generation.settings import EngineSettings

Made = TypeVar("Made")


PROBES = (
    "How would you spend a rainy day, and why?",
    "Tell me about a person you admire in one sentence.",
)
PROBE_TOKENS = 24


class _Failed(Exception):
    """A request that failed and may be tried again. after_s: how long the server asks to be left alone.

    row: how the row ends when every try fails, where it is the answer that is bad and not the server that is down.
    """

    def __init__(self, cause: str, after_s: float = 0.0, row: FinishReason | None = None) -> None:
        super().__init__(cause)
        self.after_s, self.row = after_s, row


class OpenAIEngine:
    """A client of one server. `settings.model` is the model's name there; `settings.args` are not used."""

    version = f"openai client, httpx {httpx.__version__}"

    def __init__(self, settings: EngineSettings) -> None:
        """Raises ServerError for an address or a key that cannot be sent."""
        self.settings, self.server = settings, settings.server
        self._key = self._read_key()
        self._base = self._read_address()
        self._gone = threading.Event()
        self._bad: Counter[str] = Counter()
        self._last_fault = ""
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=self.server.connect_timeout_s),
            limits=httpx.Limits(max_connections=self.server.concurrency),
            # Compressed answers would have to be unpacked to know how large they are.
            headers={"Accept-Encoding": "identity", "Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            # A proxy of the environment is for the world outside, not for a fleet.
            trust_env=False,
        )
        # A loop, since it alone can end a request at a moment, whatever the server is sending.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._pool = ThreadPoolExecutor(self.server.concurrency)

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request; rows come as they finish, not in order.

        An answer that is no reply is a row that says so. Raises ServerError once the server fails for good, or has
        given `bad_in_a_row` of those; rows that were under way are still given before.
        """
        self._gone.clear()
        asked = [self._pool.submit(self._answer, request) for request in requests]
        failure: BaseException | None = None
        for future in as_completed(asked):
            if future.cancelled():
                continue
            error = future.exception()
            if error is None:
                yield future.result()
                error = self._too_many_bad(future.result())
            if error is not None and failure is None:
                failure = error
                self._stop(asked)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End what runs beside the caller; a process that ends need not."""
        self._pool.shutdown(cancel_futures=True)
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def identify(self) -> dict:
        """What tells which model stands behind the name, by `server.identify_by`; what the server lacks is left out.

        models: the model's entry in the server's list, as far as `identity_fields` name it; fingerprint: its
        system_fingerprint; probe: a digest of what it answers to `PROBES` at temperature 0, or "varies". Raises
        ServerError.
        """
        self._gone.clear()
        found: dict[str, object] = {}
        wanted = self.server.identify_by
        if "models" in wanted and (entry := self._until_it_works(self._entry)):
            found["models"] = entry
        probing = "probe" in wanted and "temperature" not in self.server.leave_out
        if probing or "fingerprint" in wanted:
            asked = [probe for probe in PROBES for _ in range(2)] if probing else [PROBES[0]]
            told = list(self._pool.map(lambda p: self._until_it_works(lambda: self._probe(p)), asked))
            prints = sorted({mark for _, mark in told if mark})
            if "fingerprint" in wanted and prints:
                found["fingerprint"] = " ".join(prints)
            if probing and all(answer is not None for answer, _ in told):
                answers = [answer for answer, _ in told]
                steady = answers[0::2] == answers[1::2]
                found["probe"] = _digest(answers[0::2]) if steady else VARIES
        return found

    # Asking -------------------------------------------------------------------------------------------

    def _answer(self, request: GenerationRequest) -> Generation:
        try:
            return self._tried(lambda: self._ask(request))
        except _Failed as failed:
            if failed.row is None or self._gone.is_set():
                raise self._given_up(failed) from None
            self._last_fault = str(failed)
            return Generation(request.key, "", failed.row, "openai", 0, 0)

    def _until_it_works(self, ask: Callable[[], Made]) -> Made:
        try:
            return self._tried(ask)
        except _Failed as failed:
            raise self._given_up(failed) from None

    def _tried(self, ask: Callable[[], Made]) -> Made:
        """What `ask` gives, after as many tries as it takes; _Failed after the last."""
        for tried in range(self.server.retries + 1):
            try:
                return ask()
            except _Failed as failed:
                last = failed
            pause = min(max(self.server.backoff_s * 2**tried, last.after_s), self.server.longest_pause_s)
            if tried == self.server.retries or self._gone.wait(pause):
                break
        tries = "1 try" if tried == 0 else f"{tried + 1} tries"
        raise _Failed(f"{last}, after {tries}", row=last.row)

    def _given_up(self, failed: _Failed) -> ServerError:
        return ServerError(f"{self._base}: {failed}; see to the server and run again: finished rows are kept")

    def _stop(self, asked: Sequence[Future]) -> None:
        """Ask nothing new and try nothing again."""
        self._gone.set()
        for future in asked:
            future.cancel()

    def _ask(self, request: GenerationRequest) -> Generation:
        sampling = self.settings.sampling
        body = self._body(
            request.messages, sampling.max_new_tokens, sampling.temperature, sampling.top_p, request.seed
        )
        status, headers, text = self._exchange("POST", "/chat/completions", body)
        if status != 200:
            ending = self._refused(status, headers, text, request.messages)
            return Generation(request.key, "", ending, "openai", 0, 0)
        answer, choice = self._read(text)
        reply = reply_of(choice.get("message"), choice.get("finish_reason"))
        if reply.finish_reason == "malformed":
            raise self._nonsense(text)
        if reply.finish_reason in NO_REPLY or not reply.text.strip():
            self._last_fault = self._told(text)
        usage = answer.get("usage")
        counts = [
            _count(usage.get(name)) if isinstance(usage, Mapping) else 0
            for name in ("prompt_tokens", "completion_tokens")
        ]
        return Generation(request.key, reply.text, reply.finish_reason, "openai", *counts)

    def _body(
        self, messages: Sequence[Message], tokens: int, temperature: float, top_p: float, seed: int
    ) -> dict:
        fields = {"temperature": temperature, "top_p": top_p, "seed": seed}
        return {
            "model": self.settings.model,
            "messages": list(messages),
            self.server.token_limit_field: tokens,
            **{name: value for name, value in fields.items() if name not in self.server.leave_out},
            **(json.loads(self.server.extra) if self.server.extra else {}),
        }

    def _entry(self) -> dict:
        """What the server's list of models says of the model; empty where it has no such list."""
        status, headers, text = self._exchange("GET", "/models")
        if status in PASSING:
            raise self._unwell(status, headers, text)
        try:
            entries = [entry for entry in json.loads(text)["data"] if isinstance(entry, dict)]
        except (ValueError, LookupError, TypeError, RecursionError):
            return {}
        named = [entry for entry in entries if entry.get("id") == self.settings.model]
        # A server of one model may answer to any name.
        (entry,) = named[:1] or (entries if len(entries) == 1 else [{}])
        return {
            name: _plain_json(entry[name])
            for name in self.server.identity_fields
            if entry.get(name) is not None
        }

    def _probe(self, prompt: str) -> tuple[str | None, str]:
        """(digest of the likeliest answer to a prompt, None where there is none; the server's fingerprint)."""
        messages = ({"role": "user", "content": prompt},)
        status, headers, text = self._exchange(
            "POST", "/chat/completions", self._body(messages, PROBE_TOKENS, 0.0, 1.0, 0)
        )
        if status != 200:
            self._refused(status, headers, text, messages)
            return None, ""
        answer, choice = self._read(text)
        message = choice.get("message")
        said = (
            {name: message.get(name) for name in ("content", "reasoning_content", "reasoning")}
            if isinstance(message, Mapping)
            else message
        )
        mark = answer.get("system_fingerprint")
        return _digest(said), _printable(mark)[:200] if isinstance(mark, str) else ""

    # Reading ------------------------------------------------------------------------------------------

    def _exchange(self, method: str, path: str, body: dict | None = None) -> tuple[int, httpx.Headers, str]:
        """(status, headers, text) of one request, within `timeout_s` from its first byte to its last."""
        content = None if body is None else json.dumps(body).encode()
        try:
            return asyncio.run_coroutine_threadsafe(
                self._transfer(method, f"{self._base}{path}", content), self._loop
            ).result()
        except httpx.ConnectTimeout:
            raise _Failed(f"no connection within {self.server.connect_timeout_s:g} s") from None
        except TimeoutError:
            raise _Failed(f"no answer within {self.server.timeout_s:g} s", row="no_answer") from None
        except httpx.TransportError as error:
            raise _Failed(f"no connection ({self._told(str(error)) or type(error).__name__})") from None

    async def _transfer(self, method: str, url: str, content: bytes | None) -> tuple[int, httpx.Headers, str]:
        async with asyncio.timeout(self.server.timeout_s):
            async with self._client.stream(method, url, content=content) as response:
                whole = response.status_code == 200
                packed = response.headers.get("content-encoding", "identity").strip().lower()
                if packed not in ("", "identity"):
                    if not whole:
                        return response.status_code, response.headers, ""
                    raise _Failed(
                        f"a compressed answer ({self._told(packed, 20)}), which was not asked for",
                        row="malformed",
                    )
                limit = self.server.max_bytes if whole else ERROR_BYTES
                found = bytearray()
                async for part in response.aiter_raw():
                    found += part
                    if len(found) > limit and whole:
                        raise _Failed(
                            f"an answer of more than {limit} bytes (candidates.server.max_bytes)",
                            row="malformed",
                        )
                    if len(found) > limit:
                        break
        return response.status_code, response.headers, found[:limit].decode("utf-8", "replace")

    def _read(self, text: str) -> tuple[dict, dict]:
        """(the answer, its first choice)."""
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            if isinstance(answer, dict) and isinstance(choice, dict):
                return answer, choice
        # Deep brackets end in a RecursionError.
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        raise self._nonsense(text)

    def _refused(
        self, status: int, headers: httpx.Headers, text: str, messages: Sequence[Message]
    ) -> FinishReason:
        """How the row of a refused prompt ends; an error where it is not the prompt that is refused."""
        error = error_of(text)
        message = error["message"]
        for said in messages:  # some servers repeat what they were sent
            message = message.replace(said["content"], " ") if said["content"] else message
        codes = (error["code"], error["type"])
        if is_too_long(status, message, codes):
            return "too_long"
        if status in REFUSED and "content_filter" in codes:
            return "filtered"
        if status >= 500 or status in PASSING:
            raise self._unwell(status, headers, text)
        fault = f"status {status} ({self._told(text)})"
        advice = self._advice(status, error["param"], message)
        if status in REFUSED and not advice:
            self._last_fault = fault
            return "no_answer"
        raise ServerError(f"{self._base}: {fault}; {advice or 'check the settings candidates.server'}")

    def _unwell(self, status: int, headers: httpx.Headers, text: str) -> _Failed:
        own = None if status in PASSING else "no_answer"
        return _Failed(f"status {status} ({self._told(text)})", retry_after_s(headers), own)

    def _advice(self, status: int, param: str, message: str) -> str:
        """The setting that makes up for what the server refuses; empty where none is to blame."""
        if status in (401, 403):
            return f"check the key in {self.server.key_variable} (candidates.server.key_variable)"
        if status == 404:
            return "check candidates.server.model and candidates.server.base_url"
        if status not in REFUSED:
            return "check candidates.server.base_url" if 300 <= status < 400 or status == 405 else ""
        ours = self.server.token_limit_field
        other = "max_completion_tokens" if ours == "max_tokens" else "max_tokens"
        extra = json.loads(self.server.extra) if self.server.extra else {}
        names = [
            ours,
            *(n for n in ("temperature", "top_p", "seed") if n not in self.server.leave_out),
            *extra,
        ]
        blamed = next((n for n in names if param == n or (not param and names_field(message, n))), None)
        if blamed is None:
            return ""
        if blamed in extra:
            return f"take {self._told(blamed)} out of candidates.server.extra"
        if blamed == ours:
            return f"set candidates.server.token_limit_field={other}"
        left = json.dumps([*self.server.leave_out, blamed])
        return f"set candidates.server.leave_out='{left}', and the server goes by its own {blamed}"

    def _too_many_bad(self, row: Generation) -> ServerError | None:
        """The error that ends a run of answers that are no replies."""
        if row.finish_reason not in NO_REPLY and row.text.strip():
            self._bad.clear()
            return None
        self._bad[row.finish_reason if row.finish_reason in NO_REPLY else "empty"] += 1
        count, limit = self._bad.total(), self.server.bad_in_a_row
        if limit is None or count < limit:
            return None
        (most, _), *_ = self._bad.most_common(1)
        kinds = ", ".join(f"{n} {kind}" for kind, n in self._bad.most_common())
        self._bad.clear()
        advice = {
            "thought": "raise candidates.max_new_tokens, or let it not think aloud (candidates.server.extra)",
            "empty": "it may think aloud: raise candidates.max_new_tokens, or see candidates.server.extra",
            "too_long": "give the server a longer window, or lower candidates.history",
        }.get(most, "see to the server")
        return ServerError(
            f"{self._base}: {count} answers in a row are no replies ({kinds}; the last: {self._last_fault}); {advice} "
            "and run again (candidates.server.bad_in_a_row): finished rows are kept"
        )

    def _nonsense(self, text: str) -> _Failed:
        return _Failed(f"an answer that makes no sense ({self._told(text)})", row="malformed")

    def _told(self, text: str, longest: int = 200) -> str:
        """What the server said, in one short printable line and without the key, which some servers repeat."""
        if self._key:
            text = text.replace(self._key, "***")
        # What is shown is short; an answer need not be walked through to its end for it.
        line = " ".join(_printable(text[: 20 * longest]).split())
        return line[:longest] + ("…" if len(line) > longest else "")

    def _read_key(self) -> str:
        key = os.environ.get(self.server.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ServerError(
                f"the key in {self.server.key_variable} has characters that no key has; set it again"
            )
        return key

    def _read_address(self) -> str:
        base = self.server.base_url.rstrip("/")
        try:
            if not httpx.URL(base).host:
                raise httpx.InvalidURL("no host")
        except httpx.InvalidURL as error:
            raise ServerError(f"candidates.server.base_url {base!r} is no address ({error})") from None
        return base


def _count(value: object) -> int:
    """A count of tokens; 0 for what is none."""
    return value if type(value) is int and 0 <= value < 1 << 31 else 0


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _plain_json(value: object) -> object:
    """A value as it was read, where it can be kept in a row's key; else its digest."""
    text = json.dumps(value, sort_keys=True)
    return (
        json.loads(text)
        if len(text) <= 1000 and text == _printable(text) and "\\ud" not in text
        else _digest(value)
    )


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
