"""A chat completions server on the loopback interface that misbehaves as a test asks."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from model.generation.openai_engine import PROBES


class ChatServer(ThreadingHTTPServer):
    """Chat completions whose text is a digest of messages, seed and `weights`.

    faults(n, request): what to do instead with the n-th request, or None: a status, a name, an answer as it is
    (status, headers, body), or a function that is given the handler. Questions that identify the model are
    answered and counted apart. card: the model's entry in the list of models, None for a server without that list.
    """

    daemon_threads = True

    def __init__(self):
        self.asked, self.answered, self.faults = [], Counter(), lambda n, request: None
        self.probed, self.probe_faults = [], lambda n, request: None
        self.weights, self.fingerprint = "", None
        self.card = {"id": "some-7b", "object": "model", "owned_by": "tests"}
        self.busy = self.most_busy = 0
        self.guard, self.closing = threading.Lock(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def text(self, request: dict, weights: str | None = None) -> str:
        """What these weights answer; by default the server's own."""
        told = [request["messages"], request.get("seed"), self.weights if weights is None else weights]
        return f"Word {hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}."

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.server.card is None:
            return self.answer(404, {}, '{"error": {"message": "not found"}}')
        self.answer(200, {}, json.dumps({"object": "list", "data": [self.server.card]}))

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = request["messages"]
        probe = len(messages) == 1 and messages[0]["content"] in PROBES
        with self.server.guard:
            seen = self.server.probed if probe else self.server.asked
            seen.append((self.path, dict(self.headers), request))
            number = len(seen)
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
        try:
            faults = self.server.probe_faults if probe else self.server.faults
            self._answer(request, faults(number, request), probe)
        finally:
            with self.server.guard:
                self.server.busy -= 1

    def _answer(self, request, fault, probe):
        ending = "stop"
        if callable(fault):
            return fault(self)
        if isinstance(fault, tuple):
            return self.answer(*fault)
        if fault == "hang":
            self.server.closing.wait()  # as long as the client waits
            return
        if fault == "drop":
            self.connection.close()
            return
        if isinstance(fault, int):
            said = {"error": {"message": f"status {fault} for {self.headers.get('Authorization')}"}}
            if fault == 400:
                said = {"error": {"message": "This model's maximum context length is 9 tokens."}}
            return self.answer(fault, {"Retry-After": "0"} if fault == 429 else {}, json.dumps(said))
        if fault == "nonsense":
            return self.answer(200, {}, "<html>gateway</html>")
        if fault == "empty":
            return self.answer(200, {}, '{"choices": []}')
        if fault in ("length", "content_filter"):
            ending = fault
        if not probe:
            with self.server.guard:
                self.server.answered[request["messages"][-1]["content"]] += 1
        message = {"role": "assistant", "content": self.server.text(request)}
        if ending == "content_filter":
            message["content"] = None
        self.answer(200, {}, completion(message, ending, self.server.fingerprint))

    def answer(self, status: int, headers: dict, body: str | bytes):
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def completion(message, ending="stop", fingerprint=None) -> str:
    """The body of an answer."""
    answer = {
        "choices": [{"index": 0, "message": message, "finish_reason": ending}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    }
    return json.dumps(answer | ({"system_fingerprint": fingerprint} if fingerprint else {}))
