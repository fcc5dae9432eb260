"""A mail server on this machine that keeps what is sent to it: as much of SMTP (RFC 5321) as a client needs that has no secrets."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage


@contextmanager
def mailbox() -> Iterator[tuple[str, list[EmailMessage]]]:
    """Its HOST:PORT, and the messages that came so far."""
    came: list[EmailMessage] = []

    class Session(socketserver.StreamRequestHandler):
        def handle(self):
            self.say("220 mailbox")
            while line := self.rfile.readline().strip().upper():
                if line == b"DATA":
                    self.say("354 go on")
                    came.append(email.message_from_bytes(self.message(), policy=email.policy.default))
                self.say("221 bye" if line == b"QUIT" else "250 ok")

        def message(self) -> bytes:
            """All lines up to one that is a full stop; of one that begins with a full stop another stands before it."""
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
            return b"".join(lines)

        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", came
    finally:
        server.shutdown()
        server.server_close()
