"""Train the Q-Formers on emotion recognition, the LLM frozen (paper, section 3.1, figure 2, table 4).

Every row shows an example in one input setting of figure 6: audio, video or both; and for a share of the rows the
sentence, alone or with any of them. The loss is the LLM's own: negative log-likelihood of the answer word and the end of turn.
Knows nothing of datasets, splits or storage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from model.checkpoints import Checkpoints
from model.extractor.extractor import Extractor, load_extractor, new_extractor
from model.extractor.recognise import EMOTIONS
from model.extractor.rows import EmotionExample, Recogniser, Row, drawn_rows, rows_with_other_clips
from model.extractor.settings import ExtractorSettings
from model.features.stored import in_memory
from model.llm import load_llm
from model.processes import Processes
from model.prompts import EMOTION_WORDS
from model.training import Progress, Trainable, TrainRows, looked_at
from model.training_run import Check, run_training, use_threads, write_results


def train_extractor(
    llm_folder: Path,
    train: Sequence[EmotionExample],
    heldout: Sequence[EmotionExample],
    settings: ExtractorSettings,
    out: Path,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    start: Path | None = None,
) -> dict:
    """Train, save the extractor and report.json in `out`, and return the report.

    The report holds held-out loss and accuracy before and after over rows drawn as in training, how many rows of each
    input setting were trained on, the history, and "compared": each held-out row's nats per token of its answer
    before, after, and after with another clip's features. Accuracy by input setting is measured on test, by
    model/extractor/recognition.py. start: the folder of an
    extractor of the same settings to go on from, instead of new weights. ValueError names a clip without
    features or with an unknown emotion, and an empty split.
    """
    _check(train, "train")
    _check(heldout, "heldout")
    use_threads(settings.training)
    llm, tokenizer = load_llm(llm_folder, settings.training.dtype)
    if start is not None:
        extractor = load_extractor(start).requires_grad_(True).train()
    else:
        table = llm.get_input_embeddings().weight
        extractor = new_extractor(settings, _width(train, "audio"), _width(train, "video"), table)
        standardise(extractor, train)
    recogniser = Recogniser(llm, tokenizer, extractor.to(llm.device))
    rows = drawn_rows(train, settings)
    train_set = TrainRows([recogniser.tokens(row) for row in rows], [row.example.key for row in rows])
    heldout = looked_at(heldout, settings.training, "extractor")
    heldout_set = drawn_rows(heldout, settings, epochs=1)
    batch_size = settings.training.batch_size
    once = settings.training.model_copy(update={"epochs": 1})  # the epochs are in the rows already
    # A modality that no row shows gets no gradient; weight decay must not move it either.
    shown = {n: p for n, p in extractor.named_parameters() if _is_shown(n, rows)}
    outcome = run_training(
        Trainable(shown, [llm, recogniser.extractor]),
        train_set,
        lambda part, batch: recogniser.loss([rows[i] for i in part], [rows[i] for i in batch]),
        lambda: Check(*recogniser.measured(heldout_set, batch_size)),
        once,
        progress=progress,
        checkpoints=checkpoints,
    )
    others = rows_with_other_clips(heldout_set)
    given = iter(recogniser.row_losses([row for row in others if row is not None], batch_size))
    taken = [i for batch in train_set.batches(once)[: len(outcome.history.train)] for i in batch]
    report = {
        "train_clips": len(train),
        "heldout_clips": len(heldout),
        "train_rows_of": dict(sorted(Counter(rows[i].setting for i in taken).items())),
        **outcome.report(
            [row.example.group for row in heldout_set],
            before=outcome.rows_before,
            after=outcome.rows_after,
            other_clip=[None if row is None else next(given) for row in others],
        ),
    }
    extractor.save(out)
    data = {"train": train, "heldout": heldout}
    write_results(out, report, {"llm": llm_folder}, data, settings, outcome.history)
    return report


@torch.no_grad()
def standardise(extractor: Extractor, examples: Sequence[EmotionExample]) -> None:
    """Set the feature mean and spread of both Q-Formers from `examples`, over all their states.

    Each process that trains reads its share of them.
    """
    processes = Processes()
    for branch, name in ((extractor.audio, "audio"), (extractor.video, "video")):
        width = branch.qformer.center.shape[0]
        count, total, square = (torch.zeros(n, dtype=torch.float64) for n in (1, width, width))
        for example in examples[processes.index :: processes.count]:
            states = example.audio if name == "audio" else example.video
            if states is not None:
                wide = in_memory(states).double()
                count, total, square = count + len(wide), total + wide.sum(0), square + wide.square().sum(0)
        count, total, square = processes.summed(count, total, square)
        if count:
            mean = total / count
            spread = (square / count - mean.square()).clamp_min(0).sqrt()
            branch.qformer.center.copy_(mean)
            # A dimension that hardly moves must not be blown up.
            branch.qformer.spread.copy_(spread.clamp_min(1e-3 * spread.mean().clamp_min(1e-6)))


def _width(examples: Sequence[EmotionExample], modality: str) -> int:
    """Feature width of a modality; 1 where no example has it, so that its untrained branch stays small."""
    features = (e.audio if modality == "audio" else e.video for e in examples)
    return next((f.shape[1] for f in features if f is not None), 1)


def _is_shown(parameter: str, rows: Sequence[Row]) -> bool:
    if not parameter.startswith(("audio.", "video.")):
        return any(row.setting == "T" for row in rows)
    part = "A" if parameter.startswith("audio.") else "V"
    return any(part in row.setting.split("+") for row in rows)


def _check(examples: Sequence[EmotionExample], split: str) -> None:
    if not examples:
        raise ValueError(f"extractor: no {split} clips; add data with media or leave the stage out")
    for example in examples:
        if example.emotion not in EMOTION_WORDS:
            raise ValueError(
                f"extractor: {example.key} has emotion {example.emotion!r}; wanted one of {', '.join(EMOTIONS)}"
            )
        if example.audio is None and example.video is None:
            raise ValueError(f"extractor: {example.key} has neither audio nor video; leave it out of {split}")
        for modality, features in (("audio", example.audio), ("video", example.video)):
            if features is not None and not len(features):
                raise ValueError(
                    f"extractor: the {modality} of {example.key} has length zero; leave it out of {split}"
                )
