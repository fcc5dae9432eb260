"""Servers that glue, lie, drip and never end: a real one on this machine, one path a misdeed."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from storage.fetch import download as module
from storage.fetch.download import download, get_page
from storage.fetch.sources import FetchError, NamedInCsv, RemoteFile
from storage.settings import FetchLimits

QUICK = FetchLimits(window_s=0.5, slowest_bytes_s=10_000, page_mb=1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def out(self, status, body, **headers):
        self.close_connection = True
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        try:
            getattr(self, "do" + self.path.split(".")[0].replace("/", "_"))(asked)
        except OSError:
            pass

    def do_glue(self, asked):
        """Cut off once; then the rest of another version, whatever If-Range says."""
        first = {"ETag": '"v1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        if len(self.server.asked) == 1:
            return self.out(200, b"A" * 500, **{"Content-Length": "1000", **first})
        if asked:
            return self.out(206, b"B" * 500, **{"Content-Range": "bytes 500-999/1000", **self.server.second})
        return self.out(200, b"B" * 1000, **self.server.second)

    def do_part(self, asked):
        self.out(206, b"zz", **{"Content-Range": "bytes 0-1/100"})

    def do_page(self, asked):
        self.out(200, b"<html>please sign in</html>", **{"Content-Type": "text/html; charset=utf-8"})

    def do_bare(self, asked):
        self.out(
            200, b"\n <!DOCTYPE HTML><title>Sign in</title>", **{"Content-Type": "application/octet-stream"}
        )

    def do_badlength(self, asked):
        self.out(200, b"PKshort", **{"Content-Length": "abc"})

    def do_negative(self, asked):
        self.out(200, b"PKshort", **{"Content-Length": "-5"})

    def do_packed(self, asked):
        self.out(200, b"\x1f\x8b", **{"Content-Encoding": "gzip"})

    def do_ftp(self, asked):
        self.out(302, b"", Location="ftp://127.0.0.1/x")

    def do_loop(self, asked):
        self.out(302, b"", Location=self.path)

    def do_endless(self, asked):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")

    def do_drip(self, asked):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while not self.server.ended.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def do_head(self, asked):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not self.server.ended.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.asked, server.ended, server.second = True, [], threading.Event(), {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()


def bring(server, path, folder, size=None, checksum=None, limits=QUICK):
    address = f"http://127.0.0.1:{server.server_port}{path}"
    target = folder / path.strip("/")
    download(RemoteFile(target.name, address, size, checksum), target, lambda *_: None, limits)
    return target.read_bytes()


@pytest.mark.parametrize(
    "second",
    [{"ETag": '"v2"'}, {}, {"ETag": 'W/"v1"', "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}],
)
def test_the_rest_of_another_version_is_never_appended(server, tmp_path, second):
    server.second = second
    assert bring(server, "/glue.bin", tmp_path) == b"B" * 1000
    assert [asked for _, asked in server.asked] == [None, "bytes=500-", None]


def test_the_rest_of_the_same_version_is(server, tmp_path):
    server.second = {"ETag": '"v1"'}
    assert bring(server, "/glue.bin", tmp_path) == b"A" * 500 + b"B" * 500


@pytest.mark.parametrize(
    ("path", "more", "told"),
    [
        ("/page.tar.gz", {}, "a web page came in place"),
        ("/bare.bin", {}, "a web page came in place"),
        ("/page.bin", {"size": 27}, "a web page came in place"),
        ("/badlength.zip", {"size": 1000}, "the connection broke"),
        ("/negative.tar.gz", {}, r"does not begin like a \.tar\.gz"),
        ("/packed.bin", {}, "comes packed as 'gzip'"),
        ("/ftp.bin", {}, "which is not the web"),
        ("/loop.bin", {}, "302"),
        ("/endless.bin", {"size": 5000}, "more bytes come than are published"),
        ("/drip.bin", {}, "slower than fetch.slowest_bytes_s=10000"),
        ("/head.bin", {}, "the connection broke"),
        ("/part.bin", {}, "the connection broke"),
    ],
)  # fmt: skip
def test_a_misdeed_is_one_line_and_leaves_no_file(server, tmp_path, path, more, told):
    begin = time.monotonic()
    with pytest.raises(FetchError, match=told) as error:
        bring(server, path, tmp_path, **more)
    assert "\n" not in str(error.value) and time.monotonic() - begin < 30
    assert not (tmp_path / path.strip("/")).exists()


def test_lists_of_files_are_bounded_too(server):
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(FetchError, match="more bytes come than fetch.page_mb allows"):
        get_page(f"{address}/endless.json", QUICK)
    with pytest.raises(FetchError, match="no table with a column Filename"):
        NamedInCsv(f"{address}/page.csv", "Filename", address, ("{}",)).listing(get_page)
