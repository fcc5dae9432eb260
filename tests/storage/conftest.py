"""An S3 server that the tests of a module share; each has a prefix of its own."""

import re

import pytest

from storage.remote import bucket as bucket_module
from storage.remote.address import parsed
from storage.remote.bucket import Bucket
from tests.support.s3_server import BUCKET, s3_server


@pytest.fixture(scope="module")
def running():
    with s3_server() as found:
        yield found


@pytest.fixture
def s3(running, monkeypatch):
    """The server, as this process's environment names it, with pauses that are short."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    for name, value in (("REQUEST_S", 1.0), ("FIRST_PAUSE_S", 0.02), ("RETRY_S", 15.0)):
        monkeypatch.setattr(bucket_module, name, value)
    yield running
    assert running.planned == [], "a failure that was planned never came"
    running.planned, running.ignores = [], ()


@pytest.fixture
def address(request, running) -> str:
    running.prefix = re.sub("[^a-z0-9_]", "", request.node.name)[:60] + "/x"
    return f"s3://{BUCKET}/{running.prefix}"


@pytest.fixture
def bucket(s3, address) -> Bucket:
    return Bucket(parsed(address))
