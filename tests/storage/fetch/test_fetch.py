"""Fetching from a real HTTP server on this machine that breaks, forgets, lies and refuses."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from storage.fetch import download as module
from storage.fetch.catalogue import SOURCES, source_of
from storage.fetch.download import download, fetch
from storage.fetch.sources import (
    FetchError,
    FixedFiles,
    HubFolders,
    NamedInCsv,
    RemoteFile,
    Source,
    ZenodoRecord,
)

ROOT = Path(__file__).resolve().parents[3]
CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """pages: path -> content. What it does wrong is set by the tests; `log` holds (path, Range, status)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {"/file.bin": CONTENT}
        self.log: list[tuple[str, str | None, int]] = []
        self.break_after: list[int] = []  # bytes after which the next answers are cut off
        self.ranges = self.marks = True
        self.version = '"one"'
        self.fail: list[int] = []  # statuses of the next answers
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str = "/file.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        content = server.pages.get(self.path)
        if server.fail or content is None:
            status = server.fail.pop(0) if server.fail else 404
            server.log.append((self.path, asked, status))
            self.send_error(status)
            return
        first = 0
        if asked and server.ranges and self.headers.get("If-Range") in (None, server.version):
            first = int(asked.removeprefix("bytes=").rstrip("-"))
        if first and first >= len(content):
            server.log.append((self.path, asked, 416))
            self.send_error(416)
            return
        status = 206 if first else 200
        server.log.append((self.path, asked, status))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - first))
        if server.marks:
            self.send_header("ETag", server.version)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[first:]
        if server.break_after:
            body = body[: server.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def no_detours(monkeypatch):
    """No waiting between attempts, and no proxy between this machine and itself."""
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


def bring(server, target, checksum=SHA, size: int | None = 3_000_000):
    told = []
    download(RemoteFile("file.bin", server.url(), size, checksum), target, lambda *a: told.append(a))
    return told


def test_a_file_comes_whole_and_nothing_else_is_left(server, tmp_path):
    told = bring(server, tmp_path / "deep" / "file.bin")
    assert (tmp_path / "deep" / "file.bin").read_bytes() == CONTENT
    assert os.listdir(tmp_path / "deep") == ["file.bin"]
    assert told[-1] == ("file.bin", len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_gone_on_from(server, tmp_path):
    server.break_after = [1_000_000, 500_000, 1]
    bring(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [(asked, status) for _, asked, status in server.log] == [
        (None, 200),
        ("bytes=1000000-", 206),
        ("bytes=1500000-", 206),
        ("bytes=1500001-", 206),
    ]


def test_the_next_fetch_goes_on_where_this_one_gave_up(server, tmp_path):
    server.break_after = [700_000] + [0] * 10
    with pytest.raises(FetchError, match="700000 bytes are kept"):
        bring(server, tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    server.break_after, server.log = [], []
    bring(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.log == [("/file.bin", "bytes=700000-", 206)]


def test_a_server_that_knows_no_ranges_sends_all_again(server, tmp_path):
    server.break_after, server.ranges = [1_000_000], False
    bring(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [status for _, _, status in server.log] == [200, 200]


def test_a_server_without_marks_of_versions_is_not_gone_on_from(server, tmp_path):
    server.break_after, server.marks = [1_000_000], False
    bring(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [asked for _, asked, _ in server.log] == [None, None]


def test_a_new_version_is_not_glued_to_the_old_one(server, tmp_path):
    server.break_after = [1_000_000] + [0] * 10
    with pytest.raises(FetchError):
        bring(server, tmp_path / "file.bin")
    new = CONTENT[::-1]
    server.pages["/file.bin"], server.version, server.break_after = new, '"two"', []
    bring(server, tmp_path / "file.bin", "sha256:" + hashlib.sha256(new).hexdigest())
    assert (tmp_path / "file.bin").read_bytes() == new


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", b"<html>sign in</html>", CONTENT + b"more"])
def test_wrong_bytes_never_get_the_name(server, tmp_path, content):
    server.pages["/file.bin"] = content
    with pytest.raises(FetchError, match="published"):
        bring(server, tmp_path / "file.bin")
    assert os.listdir(tmp_path) == []


def test_a_pointer_in_place_of_the_file_is_told(server, tmp_path):
    server.pages["/file.bin"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    with pytest.raises(FetchError, match="LFS pointer"):
        bring(server, tmp_path / "file.bin", checksum=None, size=None)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "has moved"), (403, "sign in"), (410, "try again later")]
)
def test_a_refusal_is_one_line_at_once(server, tmp_path, status, words):
    server.fail = [status] * 10
    with pytest.raises(FetchError, match=words) as error:
        bring(server, tmp_path / "file.bin")
    assert str(status) in str(error.value) and "\n" not in str(error.value)
    assert len(server.log) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.fail = [503, 429, 500]
    bring(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_whole_part_that_lost_its_name_only_is_not_fetched_again(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    (tmp_path / "file.bin.part.json").write_text(json.dumps({"version": server.version}))
    bring(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.log == [("/file.bin", f"bytes={len(CONTENT)}-", 416)]


def test_two_fetches_do_not_write_one_file(server, tmp_path):
    with module._held(tmp_path / "file.bin.part"):
        with pytest.raises(FetchError, match="another fetch"):
            bring(server, tmp_path / "file.bin")


def source(*files):
    return Source("Test", "none", "http://127.0.0.1/licence", files, "nothing")


def test_a_zenodo_record_is_fetched_by_its_list(server, tmp_path):
    md5 = "md5:" + hashlib.md5(CONTENT).hexdigest()
    listing = {
        "files": [
            {"key": "a b.zip", "size": len(CONTENT), "checksum": md5},
            {"key": "c.zip", "size": 1, "checksum": "md5:0"},
        ]
    }
    server.pages |= {
        "/api/records/1": json.dumps(listing).encode(),
        "/api/records/1/files/a%20b.zip/content": CONTENT,
    }
    record = source(ZenodoRecord(server.url("/api/records/1")))
    assert fetch(record, tmp_path / "d", lambda name: name.startswith("a"), lambda *_: None) == (1, 0)
    assert (tmp_path / "d" / "a b.zip").read_bytes() == CONTENT
    server.log.clear()
    assert fetch(record, tmp_path / "d", lambda name: name.startswith("a"), lambda *_: None) == (0, 1)
    assert [path for path, _, _ in server.log] == ["/api/records/1"]


def test_folders_of_the_hub_are_fetched_by_their_lists(server, tmp_path):
    entries = [
        {"type": "directory", "path": "data/train/more", "size": 0},
        {
            "type": "file",
            "path": "data/train/x.tar.gz",
            "size": len(CONTENT),
            "lfs": {"oid": SHA[7:], "size": len(CONTENT)},
        },
        {"type": "file", "path": "data/train/y.jsonl", "size": 3},
    ]
    server.pages |= {
        "/api/datasets/A/B/tree/main/data/train": json.dumps(entries).encode(),
        "/datasets/A/B/resolve/main/data/train/x.tar.gz": CONTENT,
        "/datasets/A/B/resolve/main/data/train/y.jsonl": b"{}\n",
    }
    hub = source(HubFolders(server.url(""), "A/B", ("data/train",)))
    assert fetch(hub, tmp_path, lambda _: True, lambda *_: None) == (2, 0)
    assert (tmp_path / "data/train/x.tar.gz").read_bytes() == CONTENT
    assert (tmp_path / "data/train/y.jsonl").read_bytes() == b"{}\n"


def test_files_named_in_a_csv_are_fetched_with_it(server, tmp_path):
    server.pages |= {
        "/names.csv": b'"Number","Filename"\n1,"one"\n2,"two"\n',
        "/media/A/one.wav": b"RIFF1",
        "/media/A/two.wav": b"RIFF2",
    }
    listed = source(NamedInCsv(server.url("/names.csv"), "Filename", server.url("/media"), ("A/{}.wav",)))
    assert fetch(listed, tmp_path, lambda _: True, lambda *_: None) == (3, 0)
    assert (tmp_path / "A/two.wav").read_bytes() == b"RIFF2" and (tmp_path / "names.csv").exists()


@pytest.mark.parametrize(
    "page",
    [b"<html>", b'{"message": "no"}', b'{"files": [{"key": "../../x", "size": 1, "checksum": "md5:0"}]}'],
)
def test_a_list_that_is_none_or_leaves_the_folder_is_refused(server, tmp_path, page):
    server.pages["/r"] = page
    with pytest.raises(FetchError):
        fetch(source(ZenodoRecord(server.url("/r"))), tmp_path, lambda _: True, lambda *_: None)
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit_is_not_begun(server, tmp_path):
    huge = source(FixedFiles((RemoteFile("file.bin", server.url(), 10**18),)))
    with pytest.raises(FetchError, match="are free"):
        fetch(huge, tmp_path, lambda _: True, lambda *_: None)
    assert not server.log


def test_a_server_that_is_not_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch(source(ZenodoRecord(f"http://127.0.0.1:{port}/r")), tmp_path, lambda _: True, lambda *_: None)


def test_the_table_names_official_places_and_licences():
    for name, entry in SOURCES.items():
        assert entry.title and entry.licence and entry.licence_url.startswith("https://"), name
    with pytest.raises(FetchError, match="sail.usc.edu"):
        source_of("IEMOCAP")
    with pytest.raises(FetchError, match="known: crema-d, .*iemocap, meld"):
        source_of("melt")
    assert source_of("crema_d") is SOURCES["crema-d"]


def empamba(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "fetch", *arguments],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip


def test_the_command_shows_the_licence_and_wants_it_accepted(tmp_path):
    done = empamba("ravdess", "--to", str(tmp_path))
    assert done.returncode == 2 and "--accept-licence" in done.stderr
    assert "CC BY-NC-SA 4.0" in done.stdout and "creativecommons.org" in done.stdout
    assert os.listdir(tmp_path) == []


def test_the_command_says_where_to_ask_for_iemocap():
    done = empamba("iemocap")
    assert done.returncode == 2 and "sail.usc.edu/iemocap" in done.stderr and "Traceback" not in done.stderr


def test_the_command_brings_what_is_accepted(server, tmp_path, monkeypatch, capsys):
    from flows import cli

    monkeypatch.setitem(
        SOURCES, "meld", source(FixedFiles((RemoteFile("file.bin", server.url(), None, SHA),)))
    )
    server.break_after = [10]
    monkeypatch.setattr(sys, "argv", ["empamba", "fetch", "meld", "--to", str(tmp_path), "--accept-licence"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert (tmp_path / "meld" / "file.bin").read_bytes() == CONTENT
    assert "1 files brought" in capsys.readouterr().out
