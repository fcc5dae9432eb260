"""The stat cache: what is read again, and what is not."""

import hashlib
import os

import pytest

from storage.filestat import StatCache


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    settle(path, 1_000)
    return path


def settle(path, seconds):
    os.utime(path, (seconds, seconds))


def test_unchanged_files_are_read_once(tmp_path, file):
    cache = StatCache(tmp_path / "cache.sqlite")
    expected = hashlib.blake2b(b"one", digest_size=16).hexdigest()
    assert cache.digest(file) == cache.digest(file) == expected
    assert cache.hashed == 1
    cache.save()
    later = StatCache(tmp_path / "cache.sqlite")
    assert later.digest(file) == expected and later.hashed == 0


def test_changes_are_seen(tmp_path, file):
    cache = StatCache(tmp_path / "cache.sqlite")
    first = cache.digest(file)
    file.write_bytes(b"two")
    settle(file, 2_000)
    assert cache.digest(file) != first and cache.hashed == 2
    replacement = tmp_path / "new"
    replacement.write_bytes(b"six")
    settle(replacement, 2_000)
    os.replace(replacement, file)  # same size and time, another inode
    assert cache.digest(file) == hashlib.blake2b(b"six", digest_size=16).hexdigest()


def test_a_file_just_written_is_not_trusted_later(tmp_path):
    path = tmp_path / "fresh"
    cache = StatCache(tmp_path / "cache.sqlite")
    path.write_bytes(b"one")
    future = path.stat().st_mtime + 3600
    settle(path, future)
    first = cache.digest(path)
    path.write_bytes(b"two")
    settle(path, future)
    assert cache.digest(path) != first


def test_rehash_reads_all(tmp_path, file):
    first = StatCache(tmp_path / "cache.sqlite")
    digest = first.digest(file)
    first.save()
    file.write_bytes(b"two")
    settle(file, 1_000)  # damage that a stat does not show
    assert StatCache(tmp_path / "cache.sqlite").digest(file) == digest
    again = StatCache(tmp_path / "cache.sqlite", rehash=True)
    assert again.digest(file) != digest
    again.save()
    assert StatCache(tmp_path / "cache.sqlite").digest(file) != digest


def test_two_writers_keep_each_others_records(tmp_path, file):
    other = tmp_path / "other"
    other.write_bytes(b"x")
    settle(other, 1_000)
    caches = [StatCache(tmp_path / "cache.sqlite") for _ in range(2)]
    caches[0].digest(file)
    caches[1].digest(other)
    for cache in caches:
        cache.save()
    both = StatCache(tmp_path / "cache.sqlite")
    both.digest(file), both.digest(other)
    assert both.hashed == 0


def test_a_damaged_cache_is_rebuilt(tmp_path, file):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database at all, but longer than a header" * 10)
    cache = StatCache(path)
    cache.digest(file)
    cache.save()
    assert StatCache(path).digest(file) and StatCache(path).hashed == 0


def test_absent_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        StatCache(tmp_path / "cache.sqlite").digest(tmp_path / "absent")
