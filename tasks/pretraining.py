"""Pretraining a small compressor on public text, for the command line and its flow.

No stage: what it makes is shipped with the project, not built by a run. Knows nothing of the method itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from model.compressor.settings import CompressorSettings
from model.zoo.errors import ZooError
from storage.errors import InputError
from storage.texts import read_texts
from tasks.settings import flat, read_json_settings
from tasks.terminal import Terminal

UNFINISHED = "unfinished"
"""Folder of the step checkpoint and the curves while it trains."""
HELDOUT = 256
"""Texts that are not trained on; they choose the checkpoint."""
HELDOUT_SEED = 0
"""The same for all runs: one that starts from another's compressor, with another seed, holds out the same texts."""


def pretrain_on_texts(
    texts: list[Path], out: Path, settings: Path | None, llm: str, start: Path | None = None
) -> dict:
    """Pretrain a compressor for the LLM `llm` and write the folder `out`; returns its report.

    settings: a JSON file of CompressorSettings; None takes the defaults. A run that is cut off goes on from its
    last step when it is started again; where the step is another training's (other texts, settings or
    weights) it is refused. Raises InputError.
    """
    from model.checkpoints import Checkpoints, OtherTrainingError
    from model.compressor.train import pretrain
    from model.zoo.resolve import resolve

    chosen = CompressorSettings() if settings is None else read_json_settings(CompressorSettings, settings)
    if start is not None and start.resolve() == out.resolve():
        raise InputError(
            f"{out}: is the compressor that training starts from, so it cannot be written; use another OUT"
        )
    rows, left_out = read_texts(texts)
    if len(rows) <= HELDOUT:
        raise InputError(
            f"{len(rows)} distinct texts; more than {HELDOUT} are needed, for so many are held out"
        )
    random.Random(HELDOUT_SEED).shuffle(rows)
    _print(f"{len(rows)} distinct texts, left out: {left_out}")
    try:
        basis = _basis(rows, chosen, llm, start)
    except ZooError as error:
        raise InputError(str(error)) from None
    checkpoints = Checkpoints(out / UNFINISHED, every_s=300, events=out / UNFINISHED / "logs", basis=basis)
    train, heldout = rows[HELDOUT:], rows[:HELDOUT]
    try:
        checkpoints.check()  # refused before an LLM is loaded and every text is tokenised
        with _model_log_printed():
            report = pretrain(
                resolve(llm), train, heldout, chosen, out, _on_step, start=start, checkpoints=checkpoints
            )
    except OtherTrainingError as error:
        raise InputError(f"{error}; remove the folder {checkpoints.folder} or use another OUT") from None
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return report


def _basis(rows: Sequence[str], settings: CompressorSettings, llm: str, start: Path | None) -> dict[str, str]:
    """All that the training depends on, named for people; settings by their dotted names."""
    from model.zoo.resolve import identity

    weights = str(start or settings.weights)
    return {
        "texts": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "llm": identity(llm),
        "start" if start else "weights": identity(weights) if weights else "",
        **{name: json.dumps(value) for name, value in flat(settings, "settings.").items()},
    }


@contextmanager
def _model_log_printed() -> Iterator[None]:
    """What the model logs for people, the memory it needs above all, goes where the progress goes."""
    log, handler = logging.getLogger("model"), _RecordingHandler(logging.INFO)
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # the orchestrator's console shows all that reaches the root, a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


class _RecordingHandler(logging.Handler):
    """Log records as lines."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(record.getMessage())


def _on_step(step: int, steps: int, logs: dict[str, float]) -> None:
    if step % 20 == 0 or step == steps:
        _print(f"step {step} of {steps}: loss {logs['loss']:.3f}")


def _print(line: str) -> None:
    """Print to standard error, since Prefect captures standard output as its log."""
    Terminal(stderr=True).say(line)
