"""Text generation by a server that speaks OpenAI's chat completions: a vLLM fleet that is already up, or any other.

The server applies the model's chat template and its own limit of length. A request that fails for a while (no
connection, no answer in time, 408, 409, 429, 5xx, an answer that makes no sense) is tried again with growing pauses.
Knows nothing of processes or of what the text is for.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import httpx

from model.generation.protocol import FinishReason, Generation, GenerationRequest, ServerError
from model.generation.settings import LONGEST_PAUSE_S, EngineSettings

PASSING = (408, 409, 425, 429)
"""Statuses below 500 that may not come again."""

FINISHED = {
    "stop": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "content_filter": "filtered",
}
"""What the server calls an ending -> what the protocol calls it. The second and third: Text Generation Inference."""

_REFUSED = (400, 413, 422)
_DOES_NOT_FIT = re.compile(
    # vLLM, SGLang and OpenAI; llama.cpp; Text Generation Inference.
    r"context[ _]length|exceeds? the available context size|`inputs` (?:tokens \+|must have less than)",
    re.IGNORECASE,
)
"""How servers word, with one of `_REFUSED`, that a prompt is too long for them."""


class _Passing(Exception):
    """A failure that may not come again. after_s: how long the server asks to be left alone."""

    def __init__(self, cause: str, after_s: float = 0.0) -> None:
        super().__init__(cause)
        self.after_s = after_s


class OpenAIEngine:
    """A client of one server. `settings.model` is the model's name there; `settings.args` are not used."""

    version = f"openai client, httpx {httpx.__version__}"

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.server = settings, settings.server
        self._key = os.environ.get(self.server.key_variable, "")
        self._gone = threading.Event()
        self._client = httpx.Client(
            timeout=httpx.Timeout(self.server.timeout_s),
            limits=httpx.Limits(max_connections=self.server.concurrency),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            # A proxy of the environment is for the world outside, not for a fleet.
            trust_env=False,
        )
        self._pool = ThreadPoolExecutor(self.server.concurrency)

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request; rows come as they finish, not in order.

        Raises ServerError once a request has failed for good; rows that were under way are still given before.
        """
        self._gone.clear()
        asked = [self._pool.submit(self._answer, request) for request in requests]
        failure: BaseException | None = None
        for future in as_completed(asked):
            error = None if future.cancelled() else future.exception()
            if future.cancelled():
                continue
            if error is None:
                yield future.result()
            elif failure is None:
                failure = error
                self._stop(asked)
        if failure is not None:
            raise failure

    def _stop(self, asked: Sequence[Future]) -> None:
        """Ask nothing new and try nothing again."""
        self._gone.set()
        for future in asked:
            future.cancel()

    def _answer(self, request: GenerationRequest) -> Generation:
        for tried in range(self.server.retries + 1):
            try:
                return self._ask(request)
            except _Passing as failed:
                last, pause = failed, max(self.server.backoff_s * 2**tried, failed.after_s)
            if tried == self.server.retries or self._gone.wait(min(pause, LONGEST_PAUSE_S)):
                break
        raise ServerError(
            f"{self.server.base_url}: {last}, after {tried + 1} {'try' if tried == 0 else 'tries'}; "
            "see to the server and run again: finished rows are kept"
        )

    def _ask(self, request: GenerationRequest) -> Generation:
        sampling = self.settings.sampling
        try:
            response = self._client.post(
                f"{self.server.base_url.rstrip('/')}/chat/completions",
                json={
                    "model": self.settings.model,
                    "messages": list(request.messages),
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "max_tokens": sampling.max_new_tokens,
                    "seed": request.seed,
                },
            )
        except httpx.TimeoutException:
            raise _Passing(f"no answer within {self.server.timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _Passing(f"no connection ({self._told(str(error))})") from None
        except httpx.DecodingError as error:
            raise _nonsense(self._told(str(error))) from None
        if response.status_code != 200:
            return self._refused(request, response)
        return self._row(request, response)

    def _refused(self, request: GenerationRequest, response: httpx.Response) -> Generation:
        """The row of a prompt that does not fit; an error for every other status."""
        said = self._told(response.text)
        if response.status_code in _REFUSED and _DOES_NOT_FIT.search(response.text):
            return Generation(request.key, "", "too_long", "openai", 0, 0)
        if response.status_code >= 500 or response.status_code in PASSING:
            raise _Passing(f"status {response.status_code} ({said})", _seconds(response))
        raise ServerError(
            f"{self.server.base_url}: status {response.status_code} ({said}); check the settings"
        )

    def _row(self, request: GenerationRequest, response: httpx.Response) -> Generation:
        try:
            answer = response.json()
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text, ending = _said(choice["message"], FINISHED[choice["finish_reason"]])
            counts = [int(usage.get(name, 0)) for name in ("prompt_tokens", "completion_tokens")]
        # Deep brackets end in a RecursionError, a count of Infinity in an OverflowError.
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
            raise _nonsense(self._told(response.text)) from None
        if not isinstance(text, str):
            raise _Passing(f"an answer without text ({self._told(response.text)})")
        return Generation(request.key, text, ending, "openai", *counts)

    def _told(self, text: str, longest: int = 200) -> str:
        """What the server said, in one short line and without the key, which some servers repeat."""
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:longest] + ("…" if len(text) > longest else "")


def _said(message: dict, ending: FinishReason) -> tuple[str | None, FinishReason]:
    """The text and how it ended. A refusal that a server tells apart from an answer counts as withheld."""
    text = message.get("content")
    if not text and message.get("refusal"):
        return message["refusal"], "filtered"
    return (text or "" if ending == "filtered" else text), ending


def _nonsense(said: str) -> _Passing:
    return _Passing(f"an answer that makes no sense ({said})")


def _seconds(response: httpx.Response) -> float:
    """How long `Retry-After` asks to wait; 0 where it does not say so in seconds."""
    told = response.headers.get("retry-after", "")
    return float(told) if told.isdigit() else 0.0
