"""Decoding in child processes: the same clips as here, and what becomes of files that hang or kill one."""

import os
import signal
import threading
import time

import numpy as np
import psutil
import pytest

from storage.media.clip import Clip, Request, decode_clip
from storage.media.decoder_pool import AHEAD, DecoderPool
from storage.media.pictures import Window
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def folder(film, tmp_path_factory):
    """Six good clips, and three that cannot be decoded."""
    folder = tmp_path_factory.mktemp("clips")
    for n in range(6):
        pictures = [film.coded(20 * n + i) for i in range(20)]
        film.write_video(folder / f"{n}.mp4", pictures, sound=(film.tone(16_000, 0.8)[None], 16_000, "mono"))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video")
    return folder


def request(folder, name):
    return Request(str(folder), name, name, (Window(7),), count=4, size=64, max_seconds=30)


def decoders():
    """Child processes of this one that decode. Another test's child may have ended and not been waited for."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "storage.media.decoder_process" in " ".join(child.cmdline())]


def test_answers_come_in_order_and_are_those_of_this_process(folder):
    names = ["0.mp4", "empty.mp4", *(f"{n}.mp4" for n in range(1, 6)), "text.mp4", "absent.mp4"]
    with DecoderPool(2) as pool:
        answers = list(pool.map(request(folder, name) for name in names))
        assert len(decoders()) == 2
    assert not decoders()
    bad = {"empty.mp4": "empty", "text.mp4": "corrupt", "absent.mp4": "missing"}
    for name, answer in zip(names, answers, strict=True):
        if name in bad:
            assert answer.reason == bad[name] and str(answer).startswith(f"{name}: ")
            continue
        here = decode_clip(request(folder, name))
        np.testing.assert_array_equal(answer.audio, here.audio)
        np.testing.assert_array_equal(answer.frames[0], here.frames[0])
        assert (answer.seconds, answer.facts) == (here.seconds, here.facts)


def test_windows_keep_their_own_errors(folder):
    asked = Request(str(folder), "1.mp4", None, (Window(0), Window(0, 50, 51), Window(1, 0.2, 0.4)), size=32)
    with DecoderPool() as pool:
        ((first, outside, last),) = [answer.frames for answer in pool.map([asked])]
    assert first.shape == last.shape == (8, 32, 32, 3)
    assert outside.reason == "corrupt" and "1.mp4" in str(outside)


def test_a_file_that_never_ends_costs_its_own_clip(folder):
    """A pipe that nobody writes to: opening it waits for ever, inside the decoder."""
    os.mkfifo(folder / "pipe.mp4")
    names = ["0.mp4", "pipe.mp4", "1.mp4", "2.mp4"]
    with DecoderPool(1, timeout_s=3) as pool:
        started = time.monotonic()
        answers = list(pool.map(request(folder, name) for name in names))
    os.unlink(folder / "pipe.mp4")
    assert time.monotonic() - started >= 3
    assert answers[1].reason == "timeout" and str(answers[1]) == "pipe.mp4: not decoded within 3 s"
    assert [type(answer) for answer in answers].count(Clip) == 3


def test_the_start_of_a_decoder_costs_no_clip(folder, tmp_path, monkeypatch):
    """On a busy machine a process may take longer to start than a clip may take to decode."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import time\ntime.sleep(4)\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with DecoderPool(1, timeout_s=3) as pool:
        (answer,) = pool.map([request(folder, "0.mp4")])
    assert isinstance(answer, Clip)


def test_a_file_on_which_the_decoder_dies_costs_its_own_clip(folder):
    """The decoder is killed in the middle of a clip, as the kernel kills what takes too much memory."""
    os.mkfifo(folder / "fatal.mp4")
    names = ["0.mp4", "fatal.mp4", "1.mp4", "2.mp4"]

    def kill_whoever_opens():
        with open(folder / "fatal.mp4", "wb"):  # returns once the decoder has the pipe open
            (child,) = decoders()
            child.send_signal(signal.SIGSEGV)

    killer = threading.Thread(target=kill_whoever_opens)
    killer.start()
    with DecoderPool(1, timeout_s=60) as pool:
        answers = list(pool.map(request(folder, name) for name in names))
    killer.join()
    os.unlink(folder / "fatal.mp4")
    assert answers[1].reason == "crashed"
    assert str(answers[1]) == "fatal.mp4: its decoder was killed by SIGSEGV"
    assert [type(answer) for answer in answers].count(Clip) == 3


def test_memory_a_decoder_may_have_is_bounded(film, tmp_path):
    """One picture of 4096 x 4096 is 25 MB; without that room it is a reject, and the next clip is decoded."""
    film.write_video(tmp_path / "wide.mp4", [np.zeros((4096, 4096, 3), np.uint8)] * 2, preset="ultrafast")
    film.write_video(tmp_path / "small.mp4", [film.coded(n) for n in range(10)])
    wide, small = (Request(str(tmp_path), name, None, (Window(0),)) for name in ("wide.mp4", "small.mp4"))
    with DecoderPool(1) as roomy:
        assert isinstance(next(roomy.map([small])), Clip)
        enough = decoders()[0].memory_info().vms + (8 << 20)
        assert isinstance(next(roomy.map([wide])), Clip)
    with DecoderPool(1, memory_bytes=enough) as tight:
        first, then = tight.map([wide, small])
    assert first.reason in ("crashed", "corrupt") and isinstance(then, Clip)


def test_only_a_few_requests_are_ahead_of_the_reader(folder):
    asked = []

    def requests():
        for n in range(40):
            asked.append(n)
            yield request(folder, f"{n % 6}.mp4")

    with DecoderPool(2) as pool:
        for done, _ in enumerate(pool.map(requests())):
            assert len(asked) <= done + 1 + 2 * AHEAD
    assert len(asked) == 40


def test_a_reader_that_stops_early_leaves_nothing_behind(folder):
    with DecoderPool(2) as pool:
        next(pool.map(request(folder, f"{n % 6}.mp4") for n in range(100)))
    wait_for(lambda: not decoders())
