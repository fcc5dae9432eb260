"""Run a generation engine in a child process and get rows back as they finish.

One child serves all batches of a run: loading is paid once, its environment is its own, its memory goes when it
exits, and it can be killed at any time. Knows nothing of what the text is for and imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Literal

from model.generation import worker
from model.generation.protocol import VARIES, Generation, GenerationRequest, encode_identify, encode_requests
from model.generation.settings import EngineKind, EngineSettings

LOG = logging.getLogger(__name__)

_BATCH = 2048
"""Requests sent at once: many times what an engine decodes together, so that few steps run half empty."""

_TAIL_LINES = 6


class EngineError(RuntimeError):
    """The engine process did not start, died, hung, or broke the protocol. One line: what, and its last words.

    passing: it died without saying why, or for want of memory, so that another may live.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


Engine = Literal["vllm", "transformers", "openai", "chatbot"]


def resolve_engine(kind: EngineKind | Literal["chatbot"]) -> Engine:
    """The engine that `kind` means on this machine: "auto" is vLLM where it is installed."""
    if kind == "auto":
        return "vllm" if importlib.util.find_spec("vllm") else "transformers"
    return kind


def child_environment(threads: int | None) -> dict[str, str]:
    """Environment of the engine process: this one's, offline, quiet, one process, `threads` OpenMP threads."""
    environment = dict(os.environ)
    environment.update(
        # The engine runs inside the child itself: a third of the memory, and nothing left behind.
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        # With several GPUs vLLM's own children are started anew: what has looked for a GPU must not be forked.
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="WARNING",
        DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",
        # Kernels that are compiled at first use look there for the tools that were installed with them.
        PATH=os.pathsep.join(filter(None, [str(Path(sys.executable).parent), environment.get("PATH")])),
        PYTHONPATH=os.pathsep.join(filter(None, [_import_root(), environment.get("PYTHONPATH")])),
    )
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


class GenerationEngine:
    """A generation engine in a child process, as a context manager.

    The child starts with the first `generate`, again after an error, and a few times by itself when it dies or finds
    no memory; leaving the context kills it and all that it started. `generate` may be called from several threads,
    which then wait for one another.
    """

    def __init__(self, settings: EngineSettings) -> None:
        """Raises ValueError when the model folder holds no model, or a server's model has no name."""
        kind = resolve_engine(settings.engine)
        if kind == "openai":
            if not settings.model:
                raise ValueError(f"{settings.names.server}.model is empty; name the model as its server does")
            model = settings.model
        elif (Path(settings.model) / "config.json").is_file():
            model = str(Path(settings.model).resolve())
        else:
            raise ValueError(f"{settings.model}: no config.json there; give the folder of a converted model")
        self.settings = settings.model_copy(update={"engine": kind, "model": model})
        self.engine: Engine = kind
        self.version: str | None = None
        """The engine and its version, as the child named it; None until it has started."""
        self._child: _Child | None = None
        self._told_doubts = False
        self._lock = threading.Lock()

    def __enter__(self) -> GenerationEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, and of its process group; None while none runs."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """Kill the child with all it started; a later `generate` starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request, each exactly once; rows come as they finish, not in order.

        Raises ValueError when two requests share a key, and EngineError when the engine fails: the rows
        yielded before stand. An iteration that is given up kills the child.
        """
        requests = list(requests)
        if len({request.key for request in requests}) != len(requests):
            raise ValueError("two generation requests share a key; give each its own")
        with self._lock:
            whole = False
            try:
                remaining = iter(requests)
                while batch := list(islice(remaining, _BATCH)):
                    yield from self._generate_and_restart(batch)
                whole = True
            finally:
                if not whole:
                    self.close()

    def identify(self) -> dict:
        """What tells which model answers behind a server's name (OpenAIEngine.identify), asked now.

        Of the engine openai alone; the others are given weights whose bytes are known. EngineError as `generate`.
        """
        with self._lock:
            for restarts in range(self.settings.restarts + 1):
                try:
                    child = self._started()
                    child.send(encode_identify())
                    told = child.receive(
                        2 * self.settings.stall_limit_s,
                        "stall_timeout_s",
                        "while it asked which model answers",
                    )
                    break
                except EngineError as error:
                    self.close()
                    if not error.passing or restarts == self.settings.restarts:
                        raise
                    time.sleep(self.settings.restart_backoff_s * 2**restarts)
        self._tell_doubts(told["identity"])
        return told["identity"]

    def _tell_doubts(self, identity: dict) -> None:
        """Say once what will go unnoticed."""
        doubt = ""
        if not identity:
            doubt = "says nothing by which its model can be told from another"
        elif identity.get("probe") == VARIES:
            doubt = (
                "answers one prompt in two ways at temperature 0, so that these answers do not tell its model"
            )
        if doubt and not self._told_doubts:
            self._told_doubts = True
            LOG.warning(
                "%s (%s) %s: a change of its weights may go unnoticed; see %s.identify_by",
                self.settings.server.base_url,
                self.settings.model,
                doubt,
                self.settings.names.server,
            )

    def _generate_and_restart(self, batch: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """The rows of a batch; what a child that died or found no memory left is asked of another, a few times."""
        pending = {request.key: request for request in batch}
        for restarts in range(self.settings.restarts + 1):
            try:
                for row in self._generate_batch(list(pending.values())):
                    del pending[row.key]
                    yield row
                return
            except EngineError as error:
                self.close()
                if not error.passing or restarts == self.settings.restarts:
                    raise
                if not pending:
                    return
                time.sleep(self.settings.restart_backoff_s * 2**restarts)

    def _generate_batch(self, batch: Sequence[GenerationRequest]) -> Iterator[Generation]:
        child = self._started()
        child.send(encode_requests(batch))
        pending = {request.key for request in batch}
        while True:
            message = child.receive(
                self.settings.stall_limit_s,
                "stall_timeout_s",
                f"with {len(pending)} of {len(batch)} rows unfinished",
            )
            if "done" in message:
                break
            row = Generation(**message["row"])
            if row.key not in pending:
                raise EngineError(
                    f"{self.engine} engine returned row {row.key!r}, which it was not asked for"
                )
            pending.remove(row.key)
            yield row
        if pending:
            raise EngineError(
                f"{self.engine} engine returned no row for {len(pending)} of {len(batch)} requests"
            )

    def _started(self) -> _Child:
        if self._child is None:
            self._child = _Child(self.settings)
            self._child.send(self.settings.model_dump_json() + "\n")
            ready = self._child.receive(
                self.settings.args.start_timeout_s, "start_timeout_s", "while it loaded the model"
            )
            self.version = ready["ready"]["version"]
        return self._child


class _Child:
    """The worker process, the thread that reads its rows, and the file that takes its standard error."""

    def __init__(self, settings: EngineSettings) -> None:
        self._name, self._args = f"{settings.engine} engine", settings.names.args
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", worker.main.__module__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=child_environment(settings.args.threads),
            encoding="utf-8",
            # A group of its own: one signal ends it and its children, and Ctrl-C is ours to handle.
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, line: str) -> None:
        """Write one line. A child that died is noticed by `receive`, which knows its last words."""
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def receive(self, timeout_s: float, setting: str, when: str) -> dict:
        """The next message; EngineError when the child dies, reports an error, or is silent for `timeout_s`.

        setting: the engine argument that allows it more time.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise EngineError(
                f"{self._name} was silent for {timeout_s:g} s {when}; run again, or with a larger "
                f"{self._args}.{setting} ({self._last_words()})"
            ) from None
        if line is None:
            status = self.process.wait()
            raise EngineError(
                f"{self._name} died with exit status {status} {when} ({self._last_words()})", passing=True
            )
        message = json.loads(line)
        if "error" in message:
            reason = " ".join(message["error"].split())
            further = "" if message["whole"] else f" ({self._last_words()})"
            raise EngineError(f"{self._name} failed {when}: {reason}{further}", message["passing"])
        return message

    def kill(self) -> None:
        """End the child and its process group, and wait for it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.stdout.close()
        self._stderr.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        """The last lines of the child's standard error, in one line."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 4096))
        text = self._stderr.read().decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return "its last words: " + (" | ".join(lines[-_TAIL_LINES:]) or "none")


def _import_root() -> str:
    """The folder from which the package `model` is imported; the child must import the same one."""
    return str(Path(__file__).resolve().parents[2])
