"""What servers of OpenAI's protocol say when they do not answer: how each words it, and what it means.

Knows nothing of how they are asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

PASSING = (408, 409, 425, 429, 502, 503, 504, 529)
"""Statuses of a server that is not up to it just now; other ones from 500 on may be one prompt's own fault."""

REFUSED = (400, 413, 422)
"""Statuses of one request that a server does not take."""

ERROR_BYTES = 1 << 16
"""How much is read of an answer that is an error."""

_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error", "model_context_window_exceeded")
_TOO_LONG = re.compile(
    # OpenAI, vLLM and SGLang; llama.cpp and its Python server, which say it with status 500 too; Text Generation
    # Inference. Each says that a length was exceeded: a message that merely has the words is none of them.
    r"maximum (?:context|model|prompt|input) length (?:is|of) (?:only )?\d"
    r"|(?:longer|greater|larger|bigger) than the (?:[a-z']+ ){0,3}(?:context|model) (?:length|window|size)"
    r"|exceeds? (?:the )?(?:[a-z']+ ){0,3}context (?:size|length|window)"
    r"|context (?:size|length|window) (?:has been |was )?exceeded"
    r"|input prompt is too big compared to kv size"
    r"|`inputs` (?:tokens \+|must have less than)",
    re.IGNORECASE,
)
"""How servers word that a prompt is too long for them."""


def is_too_long(status: int, message: str, codes: tuple[str, ...]) -> bool:
    """Whether a prompt is refused since it is too long for the server."""
    worded = _TOO_LONG.search(message) is not None or any(code in _TOO_LONG_CODES for code in codes)
    return status in (*REFUSED, 500) and worded


def error_of(text: str) -> dict[str, str]:
    """{"message", "code", "type", "param"} of an error's body, as text, in whatever form it has them."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    inner = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        inner = {"message": inner if isinstance(inner, str) else text}
    found = {name: inner.get(name) for name in ("message", "code", "type", "param")}
    found = {name: value if isinstance(value, str) else "" for name, value in found.items()}
    return found | {"message": (found["message"] or text)[:ERROR_BYTES]}


def names_field(message: str, field: str) -> bool:
    return re.search(rf"(?<![A-Za-z_]){re.escape(field)}(?![A-Za-z_])", message) is not None


def retry_after_s(headers: Mapping[str, str]) -> float:
    """How long `Retry-After` asks to wait, in seconds or until a date; 0 where it says nothing of use."""
    header = headers.get("retry-after", "").strip()
    try:
        wait = float(header)
    except ValueError:
        try:
            until = parsedate_to_datetime(header)
            wait = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return 0.0 if math.isnan(wait) else max(0.0, wait)
