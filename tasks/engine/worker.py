"""Stage functions run here, in child processes that can be killed and give their memory back.

The parent (`StageWorker`) sends one item a line, as JSON, over standard input; the child answers with progress
lines, the artefacts or the failure, and last how the process ended that ran it. A shared worker imports a stage's
libraries once and forks for each item, so that all an item took goes back when it ends. When the parent goes, the
child's input ends and it goes too. A training that several processes do together is launched from here (launch.py).
Knows nothing of keys, records or Prefect.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_type_hints

from pydantic import TypeAdapter

from storage.child_process import pipes
from storage.errors import InputError
from storage.remote.address import working_folder
from storage.remote.opening import open_store
from storage.store import Ref
from tasks.engine.declaration import narrowed
from tasks.engine.gpus import Held
from tasks.engine.item import Workspace
from tasks.engine.launch import run_launched
from tasks.engine.passing import can_pass

FORKS, WATCHED = "--forks", "--watched"
NO_GPU = Held()
MODEL_LOG = logging.getLogger("model")
"""Parent of the loggers of all modules in model/."""
LOGGERS = (MODEL_LOG, logging.getLogger("storage"))


class StageWorker:
    """One child process that runs items, one after the other. Its log is named after its pool.

    forks: every item gets a fork of the child and leaves nothing behind in it. Otherwise what an item loads
    stays for the next one.
    """

    def __init__(
        self,
        pool: str,
        store: Path,
        raw: Path,
        environment: dict[str, str],
        forks: bool = False,
        gpus: Held = NO_GPU,
        watched: bool = False,
    ):
        """gpus: what the child alone may use; it holds them as long as it lives. watched: see `_watch_over`."""
        log = store / "logs" / f"{pool}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log_path, self.store, self.raw, self.gpus = log, store, raw, gpus
        self.log = open(log, "ab")
        self._ended = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tasks.engine.worker", *[FORKS] * forks, *[WATCHED] * watched],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **environment, **gpus.environment},
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            pass_fds=gpus.locks,
        )
        self._jobs, self._answers = pipes(self.process)

    def answers(self, job: dict) -> Iterator[dict]:
        """Run a job's item and give the answers to it as they come (jobs.py)."""
        silence = _Silence(job["silent_limit_s"], self.process.pid)
        code = None
        with contextlib.suppress(BrokenPipeError), silence:
            self._jobs.write(json.dumps(job).encode() + b"\n")
            self._jobs.flush()
            for line in self._answers:
                silence.hear()
                answer = json.loads(line)
                if "ended" in answer:  # only then may the next job be sent
                    code = answer["ended"]
                    break
                yield answer
        code = self.process.wait() if code is None else code
        yield {"ended": code, "silent": silence.broken, "log_path": str(self.log_path)}

    def close(self) -> None:
        """End the child: its input is closed, and what does not end by itself is killed with its children."""
        try:
            self._jobs.close()
            self.process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self) -> None:
        """End the child and all it started, at once, from any thread; a second call does nothing."""
        with self._ended:
            if self.log.closed:
                return
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self._answers.close()
            self.log.close()
            self.gpus.release()


class _Silence:
    """Within the block a process group that gives no sign for `limit_s` is killed; then `broken` is true. None: never."""

    def __init__(self, limit_s: float | None, group: int):
        self._limit_s, self._group = limit_s, group
        self._heard, self._ended = time.monotonic(), threading.Event()
        self.broken = False

    def hear(self) -> None:
        """A sign has come."""
        self._heard = time.monotonic()

    def __enter__(self) -> _Silence:
        if self._limit_s is not None:
            threading.Thread(target=self._watch, args=(self._limit_s,), name="silence", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()

    def _watch(self, limit_s: float) -> None:
        while not self._ended.wait(min(1.0, limit_s / 4)):
            if time.monotonic() - self._heard > limit_s:
                self.broken = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._group, signal.SIGKILL)
                return


def answers_on_stdout() -> Callable[[dict], None]:
    """How to answer on what is standard output now; what libraries print goes to the log, never between the answers."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(message: dict) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    return answer


def serve(forks: bool) -> None:
    """The child: run the items that come in on standard input until it ends."""
    answer = answers_on_stdout()
    if forks:
        _end_with_run()
    for line in sys.stdin.buffer if forks else _awaited_lines():
        job = json.loads(line)
        answer({"ended": _run_forked(job, answer) if forks else _run(job, answer)})


def _watch_over() -> None:
    """Start a process that ends this one's group as soon as this one has gone, whoever has killed it.

    For a node of a cluster, which kills a process that it knows of and leaves what that has started.
    """
    this = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        select.select([this], [], [])
        os.killpg(0, signal.SIGKILL)
    os.close(this)


def _end_with_run() -> None:
    """Kill this process's group as soon as nobody holds the other end of its input, whatever it is importing.

    By a signal, since a process that forks should have no threads.
    """

    def look(*_) -> None:
        state = select.poll()
        state.register(0, 0)
        if any(event & select.POLLHUP for _, event in state.poll(0)):
            os.killpg(os.getpid(), signal.SIGKILL)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    look()


def _awaited_lines() -> Iterator[bytes]:
    """Lines of standard input, read by a thread that ends this process and its group where nobody waits any more.

    That is where the input ends while a line is still being worked on: the run has gone.
    """
    lines: queue.Queue[bytes | None] = queue.Queue()
    given = done = 0

    def read() -> None:
        nonlocal given
        for line in sys.stdin.buffer:
            given += 1
            lines.put(line)
        if given > done:
            os.killpg(os.getpid(), signal.SIGKILL)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        yield line
        done += 1


def _run(job: dict, answer: Callable[[dict], None]) -> int:
    """Run one item here, or in processes of its own. Returns 0, the exit code of a process that did so."""
    return run_item(job, answer) if job["processes"] == 1 else run_launched(job, answer)


def run_item(job: dict, answer: Callable[[dict], None]) -> int:
    """Run one item and tell the parent what came of it. Returns 0, the exit code of a process that did so."""
    work = Workspace(
        store=open_store(working_folder(job["store"]), rows_anew=job["rows_anew"]),
        raw=Path(job["raw"]),
        basis=job["basis"],
        progress=lambda step, steps, logs: answer({"progress": [step, steps, logs]}),
        scratch=None if job["scratch"] is None else Path(job["scratch"]),
        checkpoint_s=job["checkpoint_s"],
        events=None if job["events"] is None else Path(job["events"]),
    )
    handler = _CallbackHandler(answer)
    MODEL_LOG.setLevel(logging.INFO)
    for log in LOGGERS:
        log.addHandler(handler)
    try:
        made = _call(job, work)
        work.store.share(made)
        answer({"done": [ref.model_dump() for ref in made]})
    except Exception as error:  # process boundary: every failure is reported to the parent
        text = str(error).strip() or type(error).__name__
        known = isinstance(error, (InputError, RuntimeError, ValueError))
        answer(
            {
                "failed": text if known else f"{type(error).__name__}: {text}",
                "usage": isinstance(error, InputError),
                "passing": can_pass(error),
            }
        )
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
    finally:
        for log in LOGGERS:
            log.removeHandler(handler)
    return 0


class _CallbackHandler(logging.Handler):
    """What the model logs for people, as answers."""

    def __init__(self, answer: Callable[[dict], None]):
        super().__init__(logging.INFO)
        self._answer = answer

    def emit(self, record: logging.LogRecord) -> None:
        self._answer({"log": record.getMessage()})


def _run_forked(job: dict, answer: Callable[[dict], None]) -> int:
    """Run one item in a fork of this process, which itself only imports: no threads, nothing computed.

    Returns the fork's exit code.
    """
    if job["processes"] == 1:
        _function(job)
    gc.freeze()  # a collection in the fork would touch, and so copy, every page that is shared
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        code = 1
        try:
            code = _run(job, answer)
        finally:
            os._exit(code)
    return _wait(child)


def _wait(child: int) -> int:
    """Exit code of a fork, negative for the signal that ended it. When the parent goes meanwhile, all of this
    process's group is killed."""
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([sys.stdin.buffer, ended], [], [])
    if (
        ended not in ready
    ):  # the input has ended: nobody waits for the answer, nor for what the item has started
        os.killpg(os.getpid(), signal.SIGKILL)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _function(job: dict) -> Callable[..., list[Ref]]:
    module, name = job["function"].split(":")
    return getattr(importlib.import_module(module), name)


def _call(job: dict, work: Workspace) -> list[Ref]:
    function = _function(job)
    hints = get_type_hints(function)
    untyped = [name for name in job["arguments"] if name not in hints]
    if untyped:
        raise TypeError(f"{job['function']}: say the type of its argument {untyped[0]}")
    arguments = {
        key: TypeAdapter(hints[key]).validate_python(value) for key, value in job["arguments"].items()
    }
    for name, names in job["read"].items():
        arguments[name] = narrowed(arguments[name], names)
    return function(**arguments, work=work)


if __name__ == "__main__":
    if WATCHED in sys.argv[1:]:
        _watch_over()
    serve(forks=FORKS in sys.argv[1:])
