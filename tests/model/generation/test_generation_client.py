"""The engine in its child process: all rows come, failures are said, no process stays."""

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from model.candidates.prompts import candidate_messages
from model.candidates.settings import GENERATION_EMOTIONS, CandidateSettings
from model.generation.client import EngineError, GenerationEngine, child_environment, resolve_engine
from model.generation.protocol import GenerationRequest, request_seed
from model.generation.settings import EngineArgs, EngineSettings, Sampling
from model.generation.worker import may_pass
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[3]


def _settings(folder, **changes) -> EngineSettings:
    return EngineSettings(
        model=str(folder),
        engine="transformers",
        args=EngineArgs(dtype="float32", batch_size=32, max_model_len=256),
        sampling=Sampling(max_new_tokens=8),
    ).model_copy(update=changes)


def _requests(count: int, sampling: Sampling) -> list[GenerationRequest]:
    requests = []
    for n in range(count):
        messages = ({"role": "user", "content": f"w{n % 58} w{n // 58}"},)
        requests.append(GenerationRequest(f"row{n}", messages, request_seed(messages, sampling)))
    return requests


def _gone(pid: int) -> bool:
    """Waits until no process of the group is left: a kill takes a moment."""

    def gone():
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True

    return wait_for(gone)


@pytest.fixture(scope="module")
def shared_engine(tiny_chat_model):
    """One engine for the tests that do not need a fresh one: starting a child takes seconds."""
    with GenerationEngine(_settings(tiny_chat_model)) as engine:
        yield engine


def test_all_rows_come_once(shared_engine):
    requests = _requests(330, shared_engine.settings.sampling)
    rows = list(shared_engine.generate(requests))
    pid = shared_engine.pid
    again = list(shared_engine.generate(requests[:5]))
    assert shared_engine.pid == pid
    assert shared_engine.version.startswith("transformers ")
    assert sorted(row.key for row in rows) == sorted(request.key for request in requests)
    assert {row.engine for row in rows} == {"transformers"}
    texts = {row.key: row.text for row in rows}
    assert {row.key: row.text for row in again} == {r.key: texts[r.key] for r in requests[:5]}


def test_an_engine_that_dies_is_started_again_for_what_is_left(tiny_chat_model):
    settings = _settings(tiny_chat_model, restart_backoff_s=0.1)
    requests = _requests(2000, settings.sampling)
    with GenerationEngine(settings) as engine:
        rows = engine.generate(requests)
        found = [next(rows) for _ in range(5)]
        killed = engine.pid
        os.kill(killed, signal.SIGKILL)
        found += rows
        assert engine.pid not in (None, killed) and _gone(killed)
    keys = [row.key for row in found]
    assert len(keys) == len(set(keys)) == 2000


def test_killed_midway_keeps_rows_starts_again_and_leaves_nothing(tiny_chat_model):
    settings = _settings(tiny_chat_model, restarts=0)
    requests = _requests(2000, settings.sampling)
    with GenerationEngine(settings) as engine:
        rows = []
        with pytest.raises(
            EngineError, match="died with exit status -9 with .* of 2000 rows unfinished"
        ) as failure:
            for row in engine.generate(requests):
                rows.append(row)
                if len(rows) == 5:
                    pid = engine.pid
                    os.kill(pid, signal.SIGKILL)
        assert "\n" not in str(failure.value)
        assert 5 <= len(rows) < 2000
        assert _gone(pid)
        done = {row.key for row in rows}
        rest = [request for request in requests if request.key not in done][:10]
        assert len(list(engine.generate(rest))) == 10
        pid = engine.pid
    assert engine.pid is None and _gone(pid)


def test_threads_wait_for_one_another(shared_engine):
    requests = _requests(60, shared_engine.settings.sampling)
    found = {}

    def run(n: int) -> None:
        found[n] = {row.key for row in shared_engine.generate(requests[n * 20 : (n + 1) * 20])}

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: {r.key for r in requests[n * 20 : (n + 1) * 20]} for n in range(3)}


def test_an_iteration_given_up_kills_the_child(shared_engine):
    rows = shared_engine.generate(_requests(300, shared_engine.settings.sampling))
    next(rows)
    pid = shared_engine.pid
    rows.close()
    assert shared_engine.pid is None and _gone(pid)


def test_a_model_that_cannot_load_is_one_clear_line(tiny_chat_model, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with GenerationEngine(_settings(tmp_path)) as engine:
        with pytest.raises(
            EngineError, match="transformers engine failed while it loaded the model: "
        ) as failure:
            list(engine.generate(_requests(1, Sampling())))
    assert "\n" not in str(failure.value)
    assert not failure.value.passing


UNUSED = 1 << 30

SHORT_OF_MEMORY = f"""
import os, resource, sys

with open(os.environ["STARTS"], "a") as starts:
    starts.write(".")
    short = starts.tell() <= int(os.environ["SHORT"])

def limit(event, args):
    # Torch is loaded by then and may stay; the weights will not fit.
    if event == "open" and str(args[0]).endswith("/config.json"):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + {UNUSED // 2}, resource.RLIM_INFINITY))

if short:
    sys.addaudithook(limit)
"""
"""What a child of Python runs first when it is named sitecustomize: the first SHORT starts have too little memory."""


@pytest.fixture
def big_chat_model(tiny_chat_model, tmp_path) -> Path:
    """The tiny model with a hole of `UNUSED` bytes in its file: loading maps it, but it costs no memory."""
    folder = tmp_path / "big"
    shutil.copytree(tiny_chat_model, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    size = len(whole) - head
    names = json.loads(whole[8:head])
    names["unused"] = {"dtype": "U8", "shape": [UNUSED], "data_offsets": [size, size + UNUSED]}
    header = json.dumps(names).encode()
    with open(weights, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + whole[head:])
        file.truncate(8 + len(header) + size + UNUSED)
    return folder


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """Called with how many of the engine's starts find too little memory; gives the file that counts them."""

    def prepare(short: int) -> Path:
        (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
        monkeypatch.setenv("SHORT", str(short))
        return tmp_path / "starts"

    return prepare


def test_an_engine_that_finds_no_memory_is_started_again(big_chat_model, starts):
    counted = starts(short=1)
    settings = _settings(big_chat_model, restart_backoff_s=0.1)
    requests = _requests(40, settings.sampling)
    with GenerationEngine(settings) as engine:
        rows = [row.key for row in engine.generate(requests)]
    assert sorted(rows) == sorted(request.key for request in requests)
    assert counted.read_text() == ".."


def test_an_engine_that_never_finds_memory_is_one_line_after_bounded_starts(big_chat_model, starts):
    counted = starts(short=9)
    with GenerationEngine(_settings(big_chat_model, restarts=1, restart_backoff_s=0.1)) as engine:
        with pytest.raises(
            EngineError, match="transformers engine failed while it loaded the model: .*allocate memory"
        ) as failure:
            list(engine.generate(_requests(1, Sampling())))
        assert engine.pid is None
    assert "\n" not in str(failure.value) and counted.read_text() == ".."


def test_memory_that_runs_out_midway_costs_no_row(tiny_chat_model):
    """Short prompts are decoded first; the long ones need more memory than the engine then may have."""
    settings = _settings(tiny_chat_model, restart_backoff_s=0.1)
    settings = settings.model_copy(update={"args": settings.args.model_copy(update={"batch_size": 256})})
    requests = [
        GenerationRequest(
            f"row{n}",
            ({"role": "user", "content": "w1" if n < 256 else f"w{n % 50} w{n // 50} " + "w1 " * 198},),
            n,
        )
        for n in range(512)
    ]
    with GenerationEngine(settings) as engine:
        rows = engine.generate(requests)
        found = [next(rows)]
        first = engine.pid
        resource.prlimit(first, resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))
        found += rows
        assert engine.pid not in (None, first) and _gone(first)
    assert sorted(row.key for row in found) == sorted(request.key for request in requests)


def test_what_another_start_may_do_without():
    """In the words of engines that need a GPU, or more of it than a test can have."""
    passing = [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."),
        ValueError("Free memory on device cuda:0 (1.0/80.0 GiB) on startup is less than desired"),
        RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}"),
    ]
    assert all(may_pass(error) for error in passing)
    wrapped = RuntimeError("the model cannot be loaded")
    wrapped.__cause__ = MemoryError()
    assert may_pass(wrapped)
    lasting = [FileNotFoundError(2, "No such file or directory", "model"), TypeError("unexpected keyword")]
    assert not any(may_pass(error) for error in lasting)


def test_a_silent_child_is_given_up(tiny_chat_model):
    args = EngineArgs(start_timeout_s=0.01)
    with GenerationEngine(_settings(tiny_chat_model, args=args)) as engine:
        with pytest.raises(EngineError, match="was silent for 0.01 s while it loaded the model") as failure:
            list(engine.generate(_requests(1, Sampling())))
        assert engine.pid is None
    _settable(str(failure.value), "start_timeout_s")


def test_a_child_that_stalls_is_given_up(tiny_chat_model):
    settings = _settings(tiny_chat_model)
    settings = settings.model_copy(update={"args": settings.args.model_copy(update={"stall_timeout_s": 0.5})})
    with GenerationEngine(settings) as engine:
        list(engine.generate(_requests(1, settings.sampling)))
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match="silent for 0.5 s with 1 of 1 rows unfinished") as failure:
            list(engine.generate(_requests(1, settings.sampling)))
        assert engine.pid is None
    _settable(str(failure.value), "stall_timeout_s")


def _settable(message: str, name: str) -> None:
    """The setting that a message names is one that a profile may hold."""
    assert f"candidates.engine_args.{name}" in message
    assert name in CandidateSettings.model_validate({"engine_args": {name: 5}}).engine_args.model_dump()


def test_refused_before_any_process_starts(tiny_chat_model, tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        GenerationEngine(_settings(tmp_path))
    with GenerationEngine(_settings(tiny_chat_model)) as engine:
        twice = _requests(1, Sampling()) * 2
        with pytest.raises(ValueError, match="share a key"):
            list(engine.generate(twice))
        assert list(engine.generate([])) == []
        assert engine.pid is None


def test_the_child_goes_when_its_client_is_killed(tiny_chat_model):
    code = (
        "import sys; from model.generation.client import *; from model.generation.protocol import *\n"
        "settings = EngineSettings.model_validate_json(sys.argv[1])\n"
        "messages = ({'role': 'user', 'content': 'w1'},)\n"
        "requests = [GenerationRequest(str(n), messages, n) for n in range(2000)]\n"
        "engine = GenerationEngine(settings)\n"
        "for row in engine.generate(requests): print(engine.pid, flush=True)\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code, _settings(tiny_chat_model).model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    pid = int(client.stdout.readline())
    client.kill()
    client.wait()
    client.stdout.close()
    assert _gone(pid)


def test_environment_and_engine_choice(monkeypatch):
    assert child_environment(2)["OMP_NUM_THREADS"] == "2"
    assert child_environment(1)["HF_HUB_OFFLINE"] == "1"
    installed = importlib.util.find_spec("vllm") is not None
    assert resolve_engine("auto") == ("vllm" if installed else "transformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_engine("auto") == "transformers"
    assert resolve_engine("vllm") == "vllm"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_answers_more_prompts_than_a_step_holds():
    """Seeded rows on the CPU engine: over 300 prompts, several times max_num_batched_tokens, with equal texts
    for equal seeds."""
    folder = _pretrained("smollm2-135m-instruct")
    sampling = Sampling(max_new_tokens=12)
    requests = []
    for n in range(304):
        messages = tuple(candidate_messages(f"I have {n} cats.", GENERATION_EMOTIONS[n % 8], examples=2))
        requests.append(GenerationRequest(f"row{n}", messages, request_seed(messages, sampling)))
    settings = EngineSettings(
        model=str(folder), engine="vllm", sampling=sampling, args=EngineArgs(dtype="float32")
    )
    with GenerationEngine(settings) as engine:
        rows = {row.key: row for row in engine.generate(requests)}
        again = {row.key: row for row in engine.generate(requests[40:20:-1])}
        pid = engine.pid
    assert set(rows) == {request.key for request in requests}
    assert {row.engine for row in rows.values()} == {"vllm"}
    assert sum(row.prompt_tokens for row in rows.values()) > 4 * settings.args.max_num_batched_tokens
    assert len({row.text for row in rows.values()}) > 250
    assert {key: row.text for key, row in again.items()} == {key: rows[key].text for key in again}
    assert _gone(pid)


def _pretrained(name: str) -> Path:
    """The converted folder of a weight name, or a skip where it cannot be had."""
    resolve = pytest.importorskip("model.zoo.resolve").resolve
    try:
        return Path(resolve(name))
    except (OSError, ValueError, RuntimeError) as error:
        pytest.skip(f"weights {name} are not at hand: {error}")
