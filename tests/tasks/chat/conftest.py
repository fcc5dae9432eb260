"""Parts to talk to, and an engine over them that several files of tests share."""

import pytest

from tasks.chat.engine import Engine
from tasks.chat.models import Models
from tests.support.talkative import talkative


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    return talkative(tmp_path_factory.mktemp("talkative"))


@pytest.fixture(scope="session")
def engine(found):
    with Engine(lambda: Models(found)) as started:
        yield started
