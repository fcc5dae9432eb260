"""The cache of what source files come to: damage in it changes no key, and is no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import json
from tasks.engine.fingerprint import fingerprint
print(json.dumps(fingerprint("storage.filestat:content_digest")))
"""


def fingerprints(home: Path) -> dict[str, str]:
    """As a process of its own with that folder's cache finds them; a file that is new to it is remembered when it ends."""
    environment = {**os.environ, "EMPAMBA_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, check=True, cwd=ROOT
    )
    assert done.stderr == b""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def remembered(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    home = tmp_path_factory.mktemp("home")
    found = fingerprints(home)
    (cache,) = (home / "cache").iterdir()
    return cache, found


def test_a_digest_that_rotted_in_the_cache_is_not_believed(remembered):
    cache, found = remembered
    whole = cache.read_bytes()
    digest = found["storage/filestat.py:content_digest"]
    assert digest.encode() in whole
    cache.write_bytes(whole.replace(digest.encode(), b"0" * len(digest)))
    assert fingerprints(cache.parents[1]) == found
    assert cache.read_bytes() == whole  # written again


@pytest.mark.parametrize("text", [b"", b"\n", b"[]", b"{}", b"\xff\xfe", b"0\n{}"])
def test_a_cache_of_any_bytes_is_made_again(remembered, text):
    cache, found = remembered
    cache.write_bytes(text)
    assert fingerprints(cache.parents[1]) == found
