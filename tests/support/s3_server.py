"""A real S3 server (moto's) on 127.0.0.1, behind a proxy that counts requests and fails as a test asks.

moto keeps what it is given in memory, heeds If-None-Match and If-Match, and checks no signature: it can show neither that
credentials are refused nor how a server behaves whose machines disagree.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

BUCKET = "shelf"
FAILURES = {
    "503": "answers 503 and does nothing",
    "429": "answers 429 and does nothing",
    "403": "answers 403 and does nothing",
    "409": "answers 409 and does nothing",
    "slow": "answers after `slow_s`",
    "cut": "hangs up and does nothing",
    "lost": "does what is asked and hangs up without an answer",
    "silent": "does what is asked and answers after `slow_s`",
    "half": "does what is asked and hangs up after half of the answer's body",
}
CONDITIONS = ("if-none-match", "if-match")


@dataclass
class S3:
    """requests: method and name of each, in order. ignores: conditions that do not reach the server. page: names that one answer
    lists at most; None: a thousand. prefix: of the names that `names` tells. away_s: added to every answer, as by a network.
    """

    url: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    ignores: tuple[str, ...] = ()
    slow_s: float = 1.5
    away_s: float = 0.0
    page: int | None = None
    prefix: str = ""
    planned: list[tuple[str, str, str]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)
    putting: threading.Lock = field(default_factory=threading.Lock)
    store: Callable = lambda: None

    def fail(self, method: str, part: str, how: str, times: int = 1) -> None:
        """The next requests of this method whose name holds `part` fail so."""
        assert how in FAILURES
        self.planned += [(method, part, how)] * times

    def failure(self, method: str, name: str) -> str | None:
        """Notes a request; how it is to fail."""
        with self.guard:
            self.requests.append((method, name))
            for plan in self.planned:
                if plan[0] == method and plan[1] in name:
                    self.planned.remove(plan)
                    return plan[2]
        return None

    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAWHOREADSTHIS",
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-written-nowhere",
            "AWS_REGION": "us-east-1",
        }

    @contextmanager
    def counted(self) -> Iterator[list[tuple[str, str]]]:
        """The requests made within the block, once it has ended."""
        before, found = len(self.requests), []
        yield found
        found += self.requests[before:]

    # What is there, beside the proxy --------------------------------------------------------------

    def names(self, part: str = "") -> list[str]:
        pages = self.store().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ()) if part in one["Key"]]

    def read(self, name: str) -> bytes:
        return self.store().get_object(Bucket=BUCKET, Key=name)["Body"].read()

    def write(self, name: str, data: bytes) -> None:
        self.store().put_object(Bucket=BUCKET, Key=name, Body=data)

    def remove(self, *names: str) -> None:
        for name in names:
            self.store().delete_object(Bucket=BUCKET, Key=name)


@contextmanager
def s3_server() -> Iterator[S3]:
    """A server with one empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    behind = ":".join(map(str, moto.get_host_and_port()))
    found = S3()
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://{behind}", **keys)
    found.store = lambda: client
    urlopen(
        Request(f"http://{behind}/moto-api/reset", method="POST")
    ).close()  # what it keeps is the process's
    client.create_bucket(Bucket=BUCKET)

    class Handler(_Handler):
        s3, target = found, behind

    proxy = _Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{proxy.server_port}"
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield found
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3
    target: str

    def log_message(self, *_):
        pass

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        name = unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/") or f"?{parts.query}"
        how = self.s3.failure(self.command, name)
        time.sleep(self.s3.away_s)
        if how is not None and how.isdigit():
            return self._answer(int(how), {}, b"")
        if how == "cut":
            return self._hang_up()
        if how == "slow":
            time.sleep(self.s3.slow_s)
        status, headers, data = self._ask(body)
        if how == "silent":
            time.sleep(self.s3.slow_s)
        if how == "lost":
            return self._hang_up()
        self._answer(status, headers, data, half=how == "half")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the server behind answers."""
        headers = {n: value for n, value in self.headers.items() if n.lower() not in self.s3.ignores}
        paged = self.s3.page is not None and "list-type=2" in self.path
        connection = HTTPConnection(self.target, timeout=60)
        # One put at a time: moto looks at a condition and puts in two steps, and S3 in one.
        with self.s3.putting if self.command == "PUT" else nullcontext(), closing(connection):
            path = f"{self.path}&max-keys={self.s3.page}" if paged else self.path
            connection.request(self.command, path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def _answer(self, status: int, headers: dict[str, str], data: bytes, half: bool = False) -> None:
        length = headers.pop("Content-Length", None)
        headers = {
            n: v
            for n, v in headers.items()
            if n.lower() not in ("connection", "transfer-encoding", "date", "server")
        }
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
