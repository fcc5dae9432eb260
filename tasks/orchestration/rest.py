"""A Prefect server's API over HTTP, for commands that would rather not import Prefect. Knows nothing of what is asked."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

ASK_S = 20.0
PAUSES_S = (1.0, 2.0, 4.0)
"""Before it is asked again by a server whose database is locked for now, as SQLite's is on a busy machine."""


class Api:
    """The API at an address that ends with /api."""

    def __init__(self, address: str):
        self.address = address

    def ask(self, path: str, body: dict | None = None):
        """What the server answers, decoded; None where it does not, or refuses."""
        try:
            return self.post(path, body)
        except (OSError, ValueError):
            return None

    def post(self, path: str, body: dict | None):
        """As `ask`; OSError where it does not answer, or refuses."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.address}/{path}", data, {"Content-Type": "application/json"})
        for pause in PAUSES_S:
            try:
                return _answer(asked)
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(pause)
        return _answer(asked)


def _answer(asked: urllib.request.Request):
    with urllib.request.urlopen(asked, timeout=ASK_S) as answer:
        return json.load(answer)
