"""One file over HTTP: what is there already is gone on from, and a file has its name only once it is whole.

What has come so far lies in NAME.part, with the server's mark of the version in NAME.part.json. Knows nothing of
which datasets there are.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.fetch.sources import FetchError, RemoteFile, Source

CHUNK = 1 << 20
TIMEOUT_S = 60.0
ATTEMPTS = 5
PAUSE_S = 1.0
"""Before the first new attempt; doubled for each further one that brought nothing."""
AGAIN = (408, 429, 500, 502, 503, 504)
"""Answers that are worth asking again after."""

Told = Callable[[str, int, int | None], None]
"""progress(name, bytes here, bytes in all where known)."""


def fetch(source: Source, folder: Path, wanted: Callable[[str], bool], progress: Told) -> tuple[int, int]:
    """Bring the wanted files of a dataset into `folder`; files that are there whole are kept.

    Returns how many were brought and how many were there. FetchError: nothing wanted, not enough room, or a file
    that cannot be had; what has come of it stays for the next try.
    """
    files = [file for file in source.listing(ask) if wanted(file.name)]
    if not files:
        raise FetchError(f"{source.title}: no file is named so; the publisher's list has none")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_whole(folder / file.name, file)]
    _check_room(folder, missing)
    for file in missing:
        download(file, folder / file.name, progress)
    return len(missing), len(files) - len(missing)


def ask(url: str) -> bytes:
    """The body of a small page."""
    for attempt in range(ATTEMPTS):
        try:
            with _opened(url, {}) as answer:
                return answer.read()
        except (OSError, http.client.HTTPException) as error:
            _give_up_or_wait(url, error, attempt)
    raise AssertionError("the last attempt raises")


def download(file: RemoteFile, target: Path, progress: Told) -> None:
    """Bring one file to `target`: resumed after a break, verified, and renamed when whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _held(part):
        failures, before = 0, -1
        while not _continue(file, part, progress):
            here = part.stat().st_size
            failures = 0 if here > before >= 0 else failures + 1
            before = max(before, here)
            if failures >= ATTEMPTS:
                raise FetchError(
                    f"{file.url}: the connection broke {failures} times without bringing anything; "
                    f"{here} bytes are kept, fetch again to go on"
                )
            time.sleep(PAUSE_S * 2 ** max(0, failures - 1))
        _verify(file, part)
        os.replace(part, target)
        _mark(part).unlink(missing_ok=True)


def _continue(file: RemoteFile, part: Path, progress: Told) -> bool:
    """Ask for what is missing and append it. Whether the file is whole now."""
    here = part.stat().st_size
    version = _version(part)
    headers = {"Range": f"bytes={here}-", "If-Range": version} if here and version else {}
    try:
        with _opened(file.url, headers) as answer, open(part, "r+b") as sink:
            if answer.status == 206 and _first_byte(answer) == here:
                sink.seek(here)
            else:  # the server has another version by now, or knows no ranges: from the start
                here = 0
                sink.truncate(0)
                _remember(part, answer)
            length = answer.headers.get("Content-Length")
            total = None if length is None else here + int(length)
            while block := answer.read(CHUNK):
                sink.write(block)
                here += len(block)
                progress(file.name, here, total or file.size)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies behind what is here: it is whole, or of another version
            if file.size is not None and here == file.size:
                return True
            _start_over(part)
            return False
        if error.code not in AGAIN:
            raise FetchError(_refusal(file.url, error)) from None
        return False
    except (OSError, http.client.HTTPException):
        return False
    if total is None:
        return file.size is None or here == file.size
    return here == total


def _opened(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    request = urllib.request.Request(
        url, headers={"Accept-Encoding": "identity", "User-Agent": "empamba", **headers}
    )
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _give_up_or_wait(url: str, error: Exception, attempt: int) -> None:
    refused = isinstance(error, urllib.error.HTTPError) and error.code not in AGAIN
    if refused:
        raise FetchError(_refusal(url, error)) from None
    if attempt == ATTEMPTS - 1:
        raise FetchError(f"{url}: cannot be reached: {error}") from None
    time.sleep(PAUSE_S * 2**attempt)


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    hint = {
        401: "it wants you to sign in; accept its terms there and fetch by hand",
        403: "it wants you to sign in; accept its terms there and fetch by hand",
        404: "it has moved; look at the dataset's page",
    }.get(error.code, "try again later")
    return f"{url}: the server says {error.code} {error.reason}: {hint}"


def _first_byte(answer: http.client.HTTPResponse) -> int:
    """Of a partial answer; -1 where it does not say."""
    told = answer.headers.get("Content-Range", "")
    digits = told.removeprefix("bytes ").split("-")[0]
    return int(digits) if digits.isdigit() else -1


def _mark(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _version(part: Path) -> str | None:
    """The server's mark of the version that the part is of; None: it gave none, so nothing can be gone on from."""
    try:
        return json.loads(_mark(part).read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(part: Path, answer: http.client.HTTPResponse) -> None:
    strong = answer.headers.get("ETag", "")
    version = strong if strong and not strong.startswith("W/") else answer.headers.get("Last-Modified")
    _mark(part).write_text(json.dumps({"version": version}), encoding="utf-8")


def _start_over(part: Path) -> None:
    os.truncate(part, 0)
    _mark(part).unlink(missing_ok=True)


def _verify(file: RemoteFile, part: Path) -> None:
    """Size and checksum as published; what differs is removed, since going on from it cannot help."""
    size = part.stat().st_size
    problem = ""
    if file.size is not None and size != file.size:
        problem = f"{size} bytes came, {file.size} are published"
    elif file.checksum is not None and _checksum(part, file.checksum) != file.checksum:
        problem = f"its checksum is {_checksum(part, file.checksum)}, published is {file.checksum}"
    elif file.checksum is None and _is_pointer(part):
        problem = "a Git LFS pointer came in place of the file"
    if problem:
        part.unlink()
        _mark(part).unlink(missing_ok=True)
        raise FetchError(f"{file.url}: {problem}; removed, fetch again")


def _checksum(path: Path, like: str) -> str:
    kind = like.split(":")[0]
    if kind not in hashlib.algorithms_available:
        raise FetchError(f"the publisher's checksum {like} is of a kind that is not known here")
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _is_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(24) == b"version https://git-lfs."


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """A file under its own name was whole when it got it; one of another size or content is brought again."""
    if not path.is_file() or (file.size is not None and path.stat().st_size != file.size):
        return False
    return file.checksum is None or _checksum(path, file.checksum) == file.checksum


def _check_room(folder: Path, files: list[RemoteFile]) -> None:
    wanted = sum(max(0, (file.size or 0) - _come(folder / file.name)) for file in files)
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise FetchError(
            f"{folder}: {wanted / 1e9:.1f} GB are to come and {free / 1e9:.1f} GB are free; "
            "give another folder, or fewer files with --only"
        )


def _come(target: Path) -> int:
    part = target.with_name(target.name + ".part")
    return part.stat().st_size if part.is_file() else 0


@contextmanager
def _held(part: Path) -> Iterator[None]:
    """The part file, made if need be, for this process alone."""
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{part}: another fetch is writing it") from None
        yield
