"""Speaking to a real S3 server over HTTP that fails in every way that passes, and in those that do not."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import InputError
from storage.files import StoreError
from storage.remote import bucket as bucket_module
from storage.remote.address import parsed
from storage.remote.bucket import Bucket
from tests.support.s3_server import BUCKET, CONDITIONS

DATA = bytes(range(256)) * 40


def one_line(error: pytest.ExceptionInfo) -> str:
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    return said


@pytest.mark.parametrize("how", ["503", "429", "slow", "cut"])
def test_what_passes_is_tried_again(s3, bucket, how):
    s3.fail("PUT", "a/b", how)
    bucket.put("a/b", DATA)
    s3.fail("GET", "a/b", how, times=1 if how == "slow" else 3)
    assert bucket.get("a/b") == DATA
    s3.fail("GET", "list-type", how)
    assert {name: entry.size for name, entry in bucket.list().items()} == {"a/b": len(DATA)}
    s3.fail("PUT", "a/c", how)
    assert bucket.create("a/c", DATA) is None and bucket.get("a/c") == DATA


def test_what_is_large_goes_and_comes_in_pieces(s3, bucket, monkeypatch, tmp_path):
    """Each of which is tried again by itself, also where it is cut off halfway."""
    monkeypatch.setattr(bucket_module, "PIECE", 5 * 2**20)
    large = DATA * 1100  # 11 MB
    (tmp_path / "large").write_bytes(large)
    s3.fail("PUT", "/a", "503")
    s3.fail("PUT", "/a", "cut")
    bucket.put("a", tmp_path / "large")
    s3.fail("GET", "/a", "half")
    with s3.counted() as requests:
        assert b"".join(bucket.pieces("a", len(large))) == large
    assert len(requests) == 4
    s3.fail("GET", "/a", "half")
    assert bucket.get("a") == large


@pytest.mark.parametrize("how", ["lost", "silent", "409"])
def test_a_conditional_put_without_an_answer_is_read_back(s3, bucket, how):
    """It came through and nobody said so, or another one was under way: either way it is this one's in the end."""
    s3.fail("PUT", "/mine", how)
    assert bucket.create("mine", b"first") is None
    assert bucket.get("mine") == b"first"
    # As above, of one that another machine had put before.
    s3.fail("PUT", "/mine", how)
    assert bucket.create("mine", b"second") == b"first"
    assert bucket.create("mine", b"first") is None
    assert bucket.get("mine") == b"first"


def test_of_many_that_put_at_once_one_is_first(bucket):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: bucket.create("race", b"%d" % n), range(8)))
    there = bucket.get("race")
    assert found.count(None) == 1 and found[int(there)] is None
    assert set(found) == {None, there}


def test_only_what_was_read_is_replaced(bucket):
    bucket.create("r", b"one")
    assert bucket.replace("r", b"two", there=b"one")
    assert not bucket.replace("r", b"three", there=b"one")
    assert bucket.replace("r", b"two", there=b"one")  # as after an answer that was lost
    assert bucket.get("r") == b"two"


@pytest.mark.parametrize(
    "ignored, named",
    [(CONDITIONS, "If-None-Match: *"), (["if-none-match"], "If-None-Match: *"), (["if-match"], "If-Match")],
)
def test_a_server_that_ignores_conditions_is_refused(s3, bucket, ignored, named):
    """Any of them: records are made by the one, and replaced by the other."""
    bucket.refuse_without_conditions()
    with s3.counted() as requests:
        bucket.refuse_without_conditions()
    assert [method for method, _ in requests] == ["PUT", "PUT"]
    s3.ignores = tuple(ignored)
    with pytest.raises(StoreError) as error:
        bucket.refuse_without_conditions()
    assert f"this server ignores `{named}`" in one_line(error)
    other = Bucket(parsed(f"s3://{BUCKET}/never-probed-{len(ignored)}-{ignored[0]}"))
    with pytest.raises(StoreError):
        other.refuse_without_conditions()
    with pytest.raises(StoreError):  # nor later, whatever the first probe has left there
        other.refuse_without_conditions()


def test_what_does_not_pass_is_told_at_once(s3, bucket):
    for ask, method in (
        (bucket.get, "GET"),
        (lambda n: bucket.put(n, b"x"), "PUT"),
        (lambda n: bucket.create(n, b"x"), "PUT"),
    ):
        s3.fail(method, "/denied", "403")
        with s3.counted() as requests, pytest.raises(StoreError) as error:
            ask("denied")
        assert len(requests) == 1
        assert f"{bucket}/denied: access denied; check AWS_ACCESS_KEY_ID" in one_line(error)
    s3.fail("GET", "list-type", "403")
    with pytest.raises(StoreError, match="access denied"):
        bucket.list()
    assert bucket.get("nothing") is None and bucket.size("nothing") is None
    nowhere = Bucket(parsed("s3://no-such-bucket/p"))
    for ask in (nowhere.list, lambda: nowhere.put("a", b"x"), lambda: nowhere.create("a", b"x")):
        with (
            s3.counted() as requests,
            pytest.raises(StoreError, match="s3://no-such-bucket/p: no such bucket; make it"),
        ):
            ask()
        assert len(requests) == 1


def test_a_server_that_is_not_there_is_told_in_one_line(s3, bucket, monkeypatch):
    monkeypatch.setattr(bucket_module, "RETRY_S", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    began = time.monotonic()
    for ask in (bucket.list, lambda: bucket.get("a"), lambda: bucket.create("a", b"x")):
        with pytest.raises(StoreError) as error:
            ask()
        assert "check the network and AWS_ENDPOINT_URL (http://127.0.0.1:9), and run again" in one_line(error)
    assert time.monotonic() - began < 20


def test_a_listing_is_a_request_a_page(s3, bucket, monkeypatch):
    monkeypatch.setattr(s3, "page", 3)
    for number in range(7):
        bucket.put(f"n/{number}", b"x" * number)
    with s3.counted() as requests:
        assert [entry.size for _, entry in sorted(bucket.list().items())] == list(range(7))
    assert len(requests) == 3


def test_what_is_read_is_bounded(bucket):
    bucket.put("large", DATA)
    with pytest.raises(StoreError, match=f"{len(DATA)} bytes, where 100 at most are expected"):
        bucket.get("large", most=100)


@pytest.mark.parametrize(
    "text",
    ["s3://", "s3://UPPER/x", "s3://bucket/../x", "s3://bucket//x", "s3://key:secret@bucket/x", "s3://bucket/x?versionId=1", "gs://bucket/x", "s3://b/x"],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_one_line(text):
    with pytest.raises(InputError) as error:
        parsed(text)
    assert "give a folder, or s3://bucket/prefix" in one_line(error)
