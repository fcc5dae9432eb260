"""A connection to a server on the loopback that can be cut, and is there again at the same address."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Relay:
    """Carries bytes both ways. A context manager. asked: what clients have sent so far, of all connections."""

    def __init__(self, address: str):
        there = urlsplit(address)
        self._there = (there.hostname, there.port)
        self.asked = b""
        self._open: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self._port = 0
        self.mend()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Take connections."""
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._take, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """End the connections, and refuse further ones."""
        if self._listening is not None:
            _end(self._listening)
            self._listening = None
        for connection in tuple(self._open):
            _end(connection)

    def _take(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._there)
            self._open |= {client, server}
            threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, asked: bool) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                if asked:
                    self.asked += part
                target.sendall(part)
        for end in (source, target):
            self._open.discard(end)
            _end(end)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_) -> None:
        self.cut()


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
    end.close()
