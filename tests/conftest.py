"""A chat server on the loopback that several tests ask; and unexpected skips, which fail CI."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.skips import pytest_configure  # noqa: F401 - a hook of pytest


class ChatServer(ThreadingHTTPServer):
    """Chat completions whose text is a digest of messages and seed. `faults(n, request)` names what to do instead
    with the n-th request, or None."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.answered, self.faults = [], Counter(), lambda n, request: None
        self.busy = self.most_busy = 0
        self.guard, self.closing = threading.Lock(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @staticmethod
    def text(request: dict) -> str:
        digest = hashlib.sha256(json.dumps([request["messages"], request["seed"]]).encode()).hexdigest()
        return f"Word {digest[:12]}."

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            self.server.asked.append((self.path, dict(self.headers), request))
            number = len(self.server.asked)
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
        try:
            self._answer(request, self.server.faults(number, request))
        finally:
            with self.server.guard:
                self.server.busy -= 1

    def _answer(self, request, fault):
        ending = "stop"
        if fault == "hang":
            self.server.closing.wait()  # for as long as the client does
            return
        if fault == "drop":
            self.connection.close()
            return
        if isinstance(fault, int):
            said = {"error": {"message": f"status {fault} for {self.headers.get('Authorization')}"}}
            if fault == 400:
                said = {"error": {"message": "This model's maximum context length is 9 tokens."}}
            return self._send(fault, json.dumps(said))
        if fault == "nonsense":
            return self._send(200, "<html>gateway</html>")
        if fault == "empty":
            return self._send(200, '{"choices": []}')
        if fault in ("length", "content_filter"):
            ending = fault
        with self.server.guard:
            self.server.answered[request["messages"][-1]["content"]] += 1
        choice = {
            "message": {"role": "assistant", "content": self.server.text(request)},
            "finish_reason": ending,
        }
        if ending == "content_filter":
            choice["message"]["content"] = None
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        self._send(200, json.dumps({"choices": [choice], "usage": usage}))

    def _send(self, status, text):
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def chat_server():
    found = ChatServer()
    yield found
    found.closing.set()
    found.shutdown()
    found.server_close()
