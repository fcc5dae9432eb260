"""A webhook on this machine that keeps what is posted to it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict]]]:
    """Its address, as apprise writes one, and what it was told so far."""
    told: list[dict] = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")  # which Slack answers, and nothing else counts there

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"json://127.0.0.1:{server.server_port}/told", told
    finally:
        server.shutdown()
        server.server_close()
