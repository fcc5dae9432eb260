"""A chat server on the loopback that several tests ask; unexpected skips, which fail CI; and tests side by side."""

import pytest

from tests.support.chat_server import ChatServer
from tests.support.side_by_side import (  # noqa: F401 - hooks of pytest
    pytest_collection_modifyitems,
    pytest_xdist_make_scheduler,
)
from tests.support.skips import pytest_configure  # noqa: F401 - a hook of pytest


@pytest.fixture
def chat_server():
    found = ChatServer()
    yield found
    found.closing.set()
    found.shutdown()
    found.server_close()
