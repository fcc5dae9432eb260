"""A models' hub on 127.0.0.1: folders OWNER/NAME served as the Hugging Face hub serves repositories, and its failures.

What its client asks of it: the files of a repository at a revision, each file's size and commit, and its bytes. `refusals`
says which repositories answer with an HTTP status instead; `cut_off`, of which a file breaks off halfway.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class Hub:
    """root: the folder of repositories. asked: every request's path, in order."""

    root: Path
    refusals: dict[str, int] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    address: str = ""

    def environment(self, folder: Path) -> dict[str, str]:
        """What a process needs to take it for the hub, with caches of its own in `folder`."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder / "huggingface"),
            "EMPAMBA_CACHE": str(folder / "weights"),
        }


@contextmanager
def served(root: Path) -> Iterator[Hub]:
    """A running hub of the repositories under `root`."""
    hub = Hub(root)

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_) -> None:
        """Nothing: the tests look at `asked`."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        found = next((m for kind in (TREE, REVISION, FILE) if (m := kind.fullmatch(path))), None)
        repository = found[1] if found else ""
        if repository in self.hub.refusals:
            return self._json({"error": "refused"}, with_body, self.hub.refusals[repository])
        if found is None or not (self.hub.root / repository).is_dir():
            return self._json(
                {"error": "Repository not found"}, with_body, 404, {"X-Error-Code": "RepoNotFound"}
            )
        commit = commit_at(repository, found[2] or "main")
        if found.re is TREE:
            return self._json(
                [_entry(self.hub.root / repository, file) for file in self._files(repository)], with_body
            )
        if found.re is REVISION:
            siblings = [
                {"rfilename": _entry(self.hub.root / repository, f)["path"]} for f in self._files(repository)
            ]
            return self._json(
                {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings}, with_body
            )
        file = self.hub.root / repository / found[3]
        if not file.is_file():
            return self._json({}, with_body, 404, {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        cut = repository in self.hub.cut_off and len(data) > 10_000
        self._send(200, data, with_body, {"X-Repo-Commit": commit, "ETag": f'"{_blob(data)}"'}, cut)

    def _files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.hub.root / repository).rglob("*") if path.is_file())

    def _json(self, value, with_body: bool, status: int = 200, headers: dict[str, str] | None = None) -> None:
        told = {"Content-Type": "application/json", **(headers or {})}
        self._send(status, json.dumps(value).encode(), with_body, told)

    def _send(
        self, status: int, data: bytes, with_body: bool, headers: dict[str, str], cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut and with_body:
            self.close_connection = True


def commit_at(repository: str, revision: str) -> str:
    """A revision's commit; of a branch some commit, always the same."""
    return revision if COMMIT.fullmatch(revision) else hashlib.sha1(repository.encode()).hexdigest()


def _blob(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _entry(folder: Path, file: Path) -> dict:
    data = file.read_bytes()
    return {
        "type": "file",
        "oid": _blob(data),
        "size": len(data),
        "path": file.relative_to(folder).as_posix(),
    }
