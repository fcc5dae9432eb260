"""A chat server on the loopback that several tests ask."""

import pytest

from tests.support.chat_server import ChatServer


@pytest.fixture
def chat_server():
    found = ChatServer()
    yield found
    found.shutdown()
    found.server_close()
