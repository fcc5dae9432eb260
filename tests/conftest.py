"""A chat server on the loopback that several tests ask; and unexpected skips, which fail CI."""

import pytest

from tests.support.chat_server import ChatServer
from tests.support.skips import pytest_configure  # noqa: F401 - a hook of pytest


@pytest.fixture
def chat_server():
    found = ChatServer()
    yield found
    found.closing.set()
    found.shutdown()
    found.server_close()
