"""Pretraining a small compressor on public text, for the command line and its flow.

No stage: what it makes is shipped with the project, not built by a run. Knows nothing of the method itself.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

from model.compressor.settings import CompressorSettings
from storage.errors import InputError
from storage.texts import read_texts
from tasks.settings import read_json_settings

UNFINISHED = "unfinished"
"""Folder of the step checkpoint and the curves while it trains."""
HELDOUT = 256
"""Texts that are not trained on; they choose the checkpoint."""
HELDOUT_SEED = 0
"""One for all: a run that goes on from another's compressor under a seed of its own holds out the same texts."""


def pretrain_on_texts(
    texts: list[Path], out: Path, settings: Path | None, llm: str, start: Path | None = None
) -> dict:
    """Pretrain a compressor for the LLM `llm` and write the folder `out`; returns its report.

    settings: a JSON file of CompressorSettings; None takes the defaults. A run that is cut off goes on from its
    last step when it is started again. Raises InputError.
    """
    from model.checkpoints import Checkpoints
    from model.compressor.train import pretrain
    from model.zoo.resolve import resolve

    chosen = CompressorSettings() if settings is None else read_json_settings(CompressorSettings, settings)
    rows, left_out = read_texts(texts)
    if len(rows) <= HELDOUT:
        raise InputError(
            f"{len(rows)} distinct texts; more than {HELDOUT} are needed, for so many are held out"
        )
    random.Random(HELDOUT_SEED).shuffle(rows)
    _say(f"{len(rows)} distinct texts, left out: {left_out}")
    checkpoints = Checkpoints(out / UNFINISHED, every_s=300, events=out / UNFINISHED / "logs")
    report = pretrain(
        resolve(llm), rows[HELDOUT:], rows[:HELDOUT], chosen, out, _tell, start=start, checkpoints=checkpoints
    )
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return report


def _tell(step: int, steps: int, logs: dict[str, float]) -> None:
    if step % 20 == 0 or step == steps:
        _say(f"step {step} of {steps}: loss {logs['loss']:.3f}")


def _say(line: str) -> None:
    """To standard error, past the orchestrator, which takes what is printed for a log of its own."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
