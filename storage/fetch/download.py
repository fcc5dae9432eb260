"""One file over HTTP: a broken download is resumed, and a file gets its name only once it is whole.

What has come so far lies in NAME.part, with the server's mark of the version in NAME.part.json. Nothing that a server
says is trusted: versions are compared before anything is appended, what comes is limited in bytes and in time, and a
login page is never taken for a file. Knows nothing of which datasets there are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from storage.fetch.sources import FetchError, RemoteFile, Source
from storage.settings import FetchLimits

CHUNK = 1 << 20
ATTEMPTS = 5
PAUSE_S = 1.0
"""Seconds before the first retry; doubled for each further one that brings nothing."""
USUAL = FetchLimits()
AGAIN = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which it is worth trying again."""

PAGES = ("text/html", "application/xhtml+xml")
PAGE_STARTS = (b"<!doctype html", b"<html")
STARTS = {
    ".tar.gz": (b"\x1f\x8b",), ".tgz": (b"\x1f\x8b",), ".zip": (b"PK",), ".wav": (b"RIFF",), ".flv": (b"FLV",),
}  # fmt: skip
"""How files of a suffix begin; checked where no checksum is published."""

Progress = Callable[[str, int, int | None], None]
"""progress(name, bytes here, bytes in all where known)."""


def fetch(
    source: Source,
    folder: Path,
    wanted: Callable[[str], bool],
    progress: Progress,
    limits: FetchLimits = USUAL,
) -> tuple[int, int]:
    """Download the wanted files of a dataset into `folder`; complete files are kept.

    Returns how many were downloaded and how many were there. FetchError: nothing wanted, not enough room, or a file
    that cannot be had; the part that came is kept for the next try.
    """
    files = [file for file in source.listing(partial(get_page, limits=limits)) if wanted(file.name)]
    if not files:
        raise FetchError(f"{source.title}: no file is named so; the publisher's list has none")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_whole(folder / file.name, file)]
    _check_room(folder, missing)
    for file in missing:
        download(file, folder / file.name, progress, limits)
    return len(missing), len(files) - len(missing)


class _Unwanted(FetchError):
    """What comes is not the file, so there is nothing to resume."""


def get_page(url: str, limits: FetchLimits = USUAL) -> bytes:
    """The body of a small page. FetchError: it cannot be had, or is beyond the limits."""
    for attempt in range(ATTEMPTS):
        try:
            with _opened(url, {}, limits) as answer:
                return b"".join(_blocks(url, answer, limits, limits.page_mb << 20, "fetch.page_mb"))
        except (OSError, http.client.HTTPException) as error:
            _give_up_or_wait(url, error, attempt)
    raise AssertionError("the last attempt raises")


def download(file: RemoteFile, target: Path, progress: Progress, limits: FetchLimits = USUAL) -> None:
    """Download one file to `target`: resumed after a break, verified, and renamed when complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with _held(part):
        try:
            _bring_all(file, part, progress, limits)
            _verify(file, part)
        except _Unwanted:
            part.unlink()
            _mark(part).unlink(missing_ok=True)
            raise
        os.replace(part, target)
        _mark(part).unlink(missing_ok=True)


def _bring_all(file: RemoteFile, part: Path, progress: Progress, limits: FetchLimits) -> None:
    failures, before = 0, -1
    while not _continue(file, part, progress, limits):
        here = part.stat().st_size
        failures = 0 if here > before >= 0 else failures + 1
        before = max(before, here)
        if failures >= ATTEMPTS:
            raise FetchError(
                f"{file.url}: the connection broke {failures} times without bringing anything; "
                f"{here} bytes are kept, fetch again to go on"
            )
        time.sleep(PAUSE_S * 2 ** max(0, failures - 1))


def _continue(file: RemoteFile, part: Path, progress: Progress, limits: FetchLimits) -> bool:
    """Ask for what is missing and append it. Whether the file is whole now."""
    here = part.stat().st_size
    version = _version(part)
    headers = {"Range": f"bytes={here}-", "If-Range": version} if here and version else {}
    try:
        with _opened(file.url, headers, limits) as answer, open(part, "r+b") as sink:
            _check_kind(file, answer)
            if answer.status == 206 and not (headers and _goes_on(answer, here, version)):
                _start_over(part)  # the server glues on another version, or another place, than was asked for
                return False
            if answer.status == 206:
                sink.seek(here)
            else:  # the server has another version by now, or knows no ranges: from the start
                here = 0
                sink.truncate(0)
                _remember(part, answer)
            total = None if answer.length is None else here + answer.length
            if None not in (total, file.size) and total != file.size:
                raise _Unwanted(f"{file.url}: the server announces {total} bytes, {file.size} are published")
            most, setting = (limits.unpublished_gb << 30, "fetch.unpublished_gb")
            if file.size is not None:
                most, setting = (file.size, "")
            for block in _blocks(file.url, answer, limits, most - here, setting):
                if not here:
                    _check_start(file, block)
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


def _goes_on(answer: http.client.HTTPResponse, here: int, version: str | None) -> bool:
    """Whether a partial answer continues what is here: from that byte on, and of the same version."""
    return _first_byte(answer) == here and _mark_of(answer) == version


def _blocks(
    url: str, answer: http.client.HTTPResponse, limits: FetchLimits, most: int, setting: str
) -> Iterator[bytes]:
    """A body as it comes. FetchError: more than `most` bytes, or slower for a while than the limits allow.

    setting: the setting that limits it to `most`; empty: `most` is the published size.
    """
    came, since, counted = 0, time.monotonic(), 0
    while block := answer.read1(CHUNK):
        came += len(block)
        counted += len(block)
        if came > most:
            limit = f"{setting} allows" if setting else "are published"
            raise _Unwanted(f"{url}: more bytes come than {limit}; stopped")
        spent = time.monotonic() - since
        if spent >= limits.window_s:
            if counted < limits.slowest_bytes_s * spent:
                raise FetchError(
                    f"{url}: {counted} bytes in {spent:.0f} s, slower than fetch.slowest_bytes_s="
                    f"{limits.slowest_bytes_s}; what came is kept, fetch again to go on"
                )
            since, counted = time.monotonic(), 0
        yield block


def _check_kind(file: RemoteFile, answer: http.client.HTTPResponse) -> None:
    """FetchError: the answer's headers say that it is a web page, or packed on the way."""
    packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise _Unwanted(f"{file.url}: the body comes packed as {packed[:20]!r}, which was not asked for")
    kind = answer.headers.get_content_type() if answer.headers.get("Content-Type") else ""
    if kind in PAGES and not file.name.endswith((".html", ".htm")):
        raise _Unwanted(_page_came(file))


def _check_start(file: RemoteFile, block: bytes) -> None:
    if block[:200].lstrip().lower().startswith(PAGE_STARTS) and not file.name.endswith((".html", ".htm")):
        raise _Unwanted(_page_came(file))


def _page_came(file: RemoteFile) -> str:
    return (
        f"{file.url}: a web page came in place of the file that is published there, such as one that asks you to sign "
        "in; open the address in a browser, or fetch by hand"
    )


class _Patient(http.client.HTTPConnection):
    """A connection that hangs up on a server whose headers take too long, drop by drop."""

    hung_up = False

    def getresponse(self):
        timer = threading.Timer(self.timeout, self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
        if self.hung_up:  # what had come of the headers may look like all of them
            raise TimeoutError("the headers took too long")
        return answer

    def _hang_up(self) -> None:
        self.hung_up = True
        with contextlib.suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Https(_Patient, http.client.HTTPSConnection):
    pass


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_Patient, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_Https, request)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, message, headers, address):
        if not address.lower().startswith(("http://", "https://")):
            raise FetchError(f"{request.full_url}: it leads on to {address[:80]!r}, which is not the web")
        return super().redirect_request(request, answer, code, message, headers, address)


def _opened(url: str, headers: dict[str, str], limits: FetchLimits) -> http.client.HTTPResponse:
    request = urllib.request.Request(
        url, headers={"Accept-Encoding": "identity", "User-Agent": "empamba", **headers}
    )
    opener = urllib.request.build_opener(_HttpHandler, _HttpsHandler, _Redirects)
    return opener.open(request, timeout=limits.window_s)


def _give_up_or_wait(url: str, error: Exception, attempt: int) -> None:
    if isinstance(error, urllib.error.HTTPError) and error.code not in AGAIN:
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
    return f"{url}: the server says {error.code} {' '.join(str(error.reason).split())}: {hint}"


def _first_byte(answer: http.client.HTTPResponse) -> int:
    """First byte of a partial answer; -1 where the server does not say."""
    header = answer.headers.get("Content-Range", "")
    digits = header.removeprefix("bytes ").split("-")[0]
    return int(digits) if digits.isdigit() else -1


def _mark(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _version(part: Path) -> str | None:
    """The server's mark of the version that the part is of; None: it gave none, so the download cannot be resumed."""
    try:
        return json.loads(_mark(part).read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mark_of(answer: http.client.HTTPResponse) -> str | None:
    """The server's mark of the version it sends."""
    strong = answer.headers.get("ETag", "")
    return strong if strong and not strong.startswith("W/") else answer.headers.get("Last-Modified")


def _remember(part: Path, answer: http.client.HTTPResponse) -> None:
    _mark(part).write_text(json.dumps({"version": _mark_of(answer)}), encoding="utf-8")


def _start_over(part: Path) -> None:
    os.truncate(part, 0)
    _mark(part).unlink(missing_ok=True)


def _verify(file: RemoteFile, part: Path) -> None:
    """Size and checksum as published; what differs is removed, since resuming it cannot help."""
    size = part.stat().st_size
    problem = ""
    if file.size is not None and size != file.size:
        problem = f"{size} bytes came, {file.size} are published"
    elif file.checksum is not None and _checksum(part, file.checksum) != file.checksum:
        problem = f"its checksum is {_checksum(part, file.checksum)}, published is {file.checksum}"
    elif file.checksum is None and _is_pointer(part):
        problem = "a Git LFS pointer came in place of the file"
    elif file.checksum is None and not _begins_as_named(file.name, part):
        problem = f"what came does not begin like a {''.join(Path(file.name).suffixes[-2:])}"
    if problem:
        raise _Unwanted(f"{file.url}: {problem}; removed, fetch again")


def _checksum(path: Path, like: str) -> str:
    kind = like.split(":")[0]
    if kind not in hashlib.algorithms_available:
        raise FetchError(f"the publisher's checksum {like} is of a kind that is not known here")
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _is_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(24) == b"version https://git-lfs."


def _begins_as_named(name: str, part: Path) -> bool:
    with open(part, "rb") as file:
        head = file.read(8)
    return all(head.startswith(starts) for suffix, starts in STARTS.items() if name.endswith(suffix))


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether the file is complete: it got its name when it was, but one of another size or content is fetched again."""
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
    """The part file, created where needed and locked for this process."""
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{part}: another fetch is writing it") from None
        yield
