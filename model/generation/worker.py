"""The engine process: `python -m model.generation.worker CLIENT`, started by `model.generation.client`, of that process id.

Reads settings and batches as JSON lines on standard input and writes rows on standard output (protocol.py). What
libraries print goes to standard error. Ends when its input ends; where the client is gone by then, it leaves its
batch and kills its whole process group. Knows nothing of what the text is for.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import sys
import threading
import time
import traceback
from typing import TextIO

from model.generation.protocol import ServerError, decode_requests, encode_row, is_identify
from model.generation.settings import EngineSettings

_PASSING = re.compile(
    # Python and its C libraries; torch on the GPU and on the CPU, where it raises a plain RuntimeError.
    r"cannot allocate memory|can't allocate memory|can't start new thread|out of memory|std::bad_alloc"
    r"|CUBLAS_STATUS_ALLOC_FAILED"
    # vLLM, which measures first; then its own children, whose reasons stay in the log.
    r"|No available memory for the cache blocks|Free memory on device"
    r"|Engine core initialization failed|WorkerProc initialization failed",
    re.IGNORECASE,
)
"""What errors say that another start may do without: most are plain ones that no type tells apart."""


def main() -> int:
    """Serve batches until the input ends. Returns the exit status."""
    out = _own_stdout()
    lines = _InputLines(sys.stdin, client=int(sys.argv[1]))
    first = lines.next()
    if first is None:
        return 0
    try:
        _serve(EngineSettings.model_validate_json(first), lines, out)
    except Exception as error:
        traceback.print_exc()
        whole = isinstance(error, ServerError)
        text = str(error) if whole else f"{type(error).__name__}: {error}"
        _send(out, json.dumps({"error": text, "whole": whole, "passing": may_pass(error)}) + "\n")
        return 1
    return 0


def may_pass(error: BaseException) -> bool:
    """Whether another start may do without `error`: memory ran out, or vLLM's own child failed and did not say why."""
    causes = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return any(isinstance(cause, MemoryError) or _PASSING.search(str(cause)) for cause in causes)


def load_engine(settings: EngineSettings):
    """The engine that `settings.engine` names; "auto" must have been resolved before."""
    if settings.engine == "vllm":
        from model.generation.vllm_engine import VllmEngine

        return VllmEngine(settings)
    if settings.engine == "transformers":
        from model.generation.transformers_engine import TransformersEngine

        return TransformersEngine(settings)
    if settings.engine == "openai":
        from model.generation.openai_engine import OpenAIEngine

        return OpenAIEngine(settings)
    if settings.engine == "chatbot":
        from model.generation.chatbot_engine import ChatbotEngine

        return ChatbotEngine(settings)
    raise ValueError(
        f"engine {settings.engine!r} cannot be loaded; name vllm, transformers, openai or chatbot"
    )


def _serve(settings: EngineSettings, lines: _InputLines, out: TextIO) -> None:
    engine = load_engine(settings)
    _send(out, json.dumps({"ready": {"engine": settings.engine, "version": engine.version}}) + "\n")
    while (line := lines.next()) is not None:
        if is_identify(line):
            _send(out, json.dumps({"identity": engine.identify()}) + "\n")
            continue
        rows = 0
        for row in engine.generate(decode_requests(line)):
            _send(out, encode_row(row))
            rows += 1
        _send(out, json.dumps({"done": rows}) + "\n")


def _own_stdout() -> TextIO:
    """Keep standard output for the protocol, and send whatever else writes there to standard error."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


def _send(out: TextIO, line: str) -> None:
    out.write(line)
    out.flush()


class _InputLines:
    """Lines of standard input, read ahead by a thread that notices when the client is gone."""

    def __init__(self, stream: TextIO, client: int) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._client = client  # told, not asked for: it may be gone before this process has started
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def next(self) -> str | None:
        """The next line, or None at the end of the input."""
        return self._lines.get()

    def _read(self, stream: TextIO) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)
        # A process that is killed closes its files a moment before its children get another parent.
        time.sleep(1)
        if os.getppid() != self._client:
            _kill_own_group()


def _kill_own_group() -> None:
    """End this process and those it started. The client makes it the leader of a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
