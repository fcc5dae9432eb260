"""Train the compressor to let a frozen LLM reconstruct utterances (paper, sections 3.2 and 7.2).

First single utterances, then whole dialogues, from coarse to fine. Knows nothing of datasets or storage.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.card import CARD, add_to_card, weights_identity
from model.checkpoints import Checkpoints
from model.compressor.compressor import (
    CONFIG,
    READER,
    TOKENIZER,
    WEIGHTS,
    MambaCompressor,
    new_compressor,
)
from model.compressor.measure import figures, heldout_check, measured
from model.compressor.reader import (
    copy_reader,
    learns,
    reader_weights,
    save_reader,
    trained_reader,
    with_reader,
)
from model.compressor.reconstruction import Reconstruction
from model.compressor.rows import Row, memories_of, rows_of
from model.compressor.scans import scan_of
from model.compressor.settings import CompressorSettings, SpanStage, WindowStage
from model.half_products import halve_products
from model.json_files import write_json
from model.llm import load_llm
from model.settings import TrainingSettings
from model.spoken import Spoken, alone
from model.training import History, Progress, Trainable, TrainRows, looked_at
from model.training_run import Outcome, run_training, use_threads, write_results
from model.zoo.resolve import resolve


@dataclass(frozen=True)
class Stage:
    """Part of a training: what a memory covers meanwhile, how many utterances a row has, and a schedule of its own."""

    span: int | None
    utterances: int
    training: TrainingSettings


def pretrain(
    llm_folder: Path,
    train: Sequence[str],
    heldout: Sequence[str],
    settings: CompressorSettings,
    out: Path,
    progress: Progress | None = None,
    start: Path | None = None,
    checkpoints: Checkpoints | None = None,
    dialogues: Sequence[Hashable] | None = None,
) -> dict:
    """Train on single utterances, save the compressor and report.json in `out`, and return the report.

    dialogues: which one each held-out utterance is of; by default each stands alone. start: the folder of a compressor to go on from, instead of settings.weights or a small one from scratch.
    `max_tokens` counts reconstructed tokens. ValueError where no utterance can be used.
    """
    use_threads(settings.pretrain)
    llm, tokenizer = load_llm(llm_folder, settings.pretrain.dtype)
    table, stages = llm.get_input_embeddings().weight, pretraining_stages(settings)
    built_upon = {"llm": llm_folder}
    if start is not None:
        built_upon["compressor"] = start
        compressor = MambaCompressor.load(start, tokenizer, table)
    else:
        weights = resolve(settings.weights) if settings.weights else None
        built_upon |= {"mamba": weights} if weights is not None else {}
        compressor = new_compressor(settings, tokenizer, table, weights)
    compressor.read_by(settings.prompt)
    compressor.use_span(settings.memory_span)
    task = _task(llm, tokenizer, compressor, start, settings, settings.pretrain, dialogue=False)
    longest = min(settings.max_pretrain_tokens or math.inf, settings.max_utterance_tokens)
    rows, heldout_rows = (
        rows_of(alone(texts), compressor, task, settings, longest, of)
        for texts, of in ((train, None), (heldout, dialogues))
    )
    data = [rows] * len(stages), heldout_rows
    return _train(compressor, task, *data, stages, settings, out, progress, checkpoints, built_upon)


def pretraining_stages(settings: CompressorSettings) -> list[Stage]:
    """The span curriculum's, and the one of `memory_span` last."""
    spans = [*(stage.span for stage in settings.span_curriculum), settings.memory_span]
    schedules = _schedules(settings.pretrain, settings.span_curriculum)
    return [Stage(span, 1, training) for span, training in zip(spans, schedules, strict=True)]


def finetuning_stages(settings: CompressorSettings, span: int | None) -> list[Stage]:
    """The window curriculum's, and the one of `max_dialogue_utterances` last. span: what a memory covers in all of them."""
    windows = [*(stage.utterances for stage in settings.window_curriculum), settings.max_dialogue_utterances]
    schedules = _schedules(settings.finetune, settings.window_curriculum)
    return [Stage(span, window, training) for window, training in zip(windows, schedules, strict=True)]


def _schedules(
    training: TrainingSettings, curriculum: Sequence[SpanStage | WindowStage]
) -> list[TrainingSettings]:
    """Of each stage of a curriculum and of the last one, which has the training's own budget; each with a seed of its own."""
    budgets = [*(stage.max_tokens for stage in curriculum), training.max_tokens]
    return [
        training.model_copy(update={"max_tokens": budget, "seed": training.seed + number})
        for number, budget in enumerate(budgets)
    ]


def adopt(
    llm_folder: Path,
    start: Path,
    heldout: Sequence[str],
    settings: CompressorSettings,
    out: Path,
    dialogues: Sequence[Hashable] | None = None,
) -> dict:
    """Take a compressor that is pretrained already as it is; measure it, save it and report.json in `out`.

    start: its folder, whose card stays its card; one without a card is taken without, for the report names its
    weights by their digest either way. dialogues: as for `pretrain`. ValueError where no held-out utterance can be used.
    """
    use_threads(settings.pretrain)
    llm, tokenizer = load_llm(llm_folder, settings.pretrain.dtype)
    compressor = MambaCompressor.load(start, tokenizer, llm.get_input_embeddings().weight)
    llm = with_reader(llm, start)
    task = Reconstruction(llm, tokenizer, dialogue=False, cached=True, bare=compressor.bare)
    longest = settings.max_utterance_tokens
    rows, left_out = rows_of(alone(heldout), compressor, task, settings, longest, dialogues)
    if not rows:
        raise ValueError(
            f"compressor: no held-out row is usable (left out: {left_out}); it needs at least one"
        )
    rows, batch = _looked_at(rows, settings.pretrain), settings.pretrain.batch_size
    found = figures(compressor, task, rows, batch)
    report = {
        "adopted": weights_identity(start),
        "scan": scan_of(llm.device.type).name,
        **measured(compressor, task, rows, found, found, None, settings, batch),
        "heldout_left_out": left_out,
        "history": History().as_dict(),
    }
    for part in (Path(start) / name for name in (CONFIG, WEIGHTS, CARD, TOKENIZER, READER)):
        if part.is_dir():
            shutil.copytree(part, Path(out) / part.name, dirs_exist_ok=True)
        elif part.exists():
            shutil.copyfile(part, Path(out) / part.name)
    write_json(report, Path(out) / "report.json")
    return report


def finetune(
    llm_folder: Path,
    compressor_folder: Path,
    train: Sequence[Sequence[Spoken]],
    heldout: Sequence[Sequence[Spoken]],
    settings: CompressorSettings,
    out: Path,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> dict:
    """As `pretrain`, on dialogues, from a pretrained one; only here the vectors that tell the roles are trained.

    A dialogue beyond the limits is trained on in consecutive windows, each a sequence of its own; with a curriculum on
    shorter windows first, and held-out figures are of the last stage's throughout. What is given back is the bare text,
    as in pretraining; figure 11's role tags are left to what tells the roles.
    """
    use_threads(settings.finetune)
    llm, tokenizer = load_llm(llm_folder, settings.finetune.dtype)
    compressor = MambaCompressor.load(compressor_folder, tokenizer, llm.get_input_embeddings().weight)
    task = _task(llm, tokenizer, compressor, compressor_folder, settings, settings.finetune, dialogue=True)
    stages = finetuning_stages(settings, compressor.shape.memory_span)
    longest = settings.max_utterance_tokens
    rows = [
        rows_of(train, compressor, task, settings, longest, utterances=stage.utterances) for stage in stages
    ]
    data = rows, rows_of(heldout, compressor, task, settings, longest)
    built_upon = {"llm": llm_folder, "compressor": compressor_folder}
    return _train(compressor, task, *data, stages, settings, out, progress, checkpoints, built_upon)


def _task(
    llm: nn.Module,
    tokenizer,
    compressor: MambaCompressor,
    folder: Path | None,
    settings: CompressorSettings,
    training: TrainingSettings,
    dialogue: bool,
) -> Reconstruction:
    """What is trained for: an LLM that is frozen, with the reader that `folder` may have, or learns as a reader too."""
    trains_reader = settings.reader_rank > 0
    llm = trained_reader(llm, folder, settings, training.seed) if trains_reader else with_reader(llm, folder)
    if settings.half_products:
        halve_products(llm)
    return Reconstruction(llm, tokenizer, dialogue, cached=not trains_reader, bare=compressor.bare)


def _train(
    compressor: MambaCompressor,
    task: Reconstruction,
    train: Sequence[tuple[list[Row], dict]],
    heldout: tuple[list[Row], dict],
    stages: Sequence[Stage],
    settings: CompressorSettings,
    out: Path,
    progress: Progress | None,
    checkpoints: Checkpoints | None,
    built_upon: dict[str, Path],
) -> dict:
    """Train stage after stage, save and measure. A run that was cut off goes on in the stage where it was.

    train: the rows of each stage and what was left out of them, the same of all.
    """
    rows, left_out = train[-1]
    heldout_set, last = heldout[0], stages[-1].training
    if not rows or not heldout_set:
        raise ValueError(
            f"compressor: {len(rows)} train and {len(heldout_set)} held-out rows are usable "
            f"(left out: {left_out}, {heldout[1]}); both need at least one"
        )
    heldout_set = _looked_at(heldout_set, stages[0].training)
    outcomes = []
    for number, (stage, (stage_rows, _)) in enumerate(zip(stages, train, strict=True), 1):
        compressor.use_span(stage.span)
        own, finished = checkpoints, None
        if checkpoints is not None and len(stages) > 1:
            own, finished = (
                checkpoints.within(f"stage-{number}"),
                checkpoints.within(f"stage-{number}-finished"),
            )
        outcomes.append(
            _train_stage(compressor, task, stage_rows, heldout_set, stage, settings, progress, own, finished)
        )
    compressor.requires_grad_(False).eval()
    if settings.saved_as == "float16":
        compressor.round_to_half()
    if learns(task.llm):
        save_reader(task.llm, out, settings.saved_as)
    else:
        copy_reader(built_upon.get("compressor"), out)
    history, first = joined([outcome.history for outcome in outcomes]), outcomes[0].rows_before
    before, after = history.first_check, history.best_check
    scan = scan_of(task.llm.device.type)
    report = {
        "scan": scan.name,
        "train_rows": len(rows),
        "train_left_out": left_out,
        **measured(compressor, task, heldout_set, before, after, first, settings, last.batch_size),
        "heldout_left_out": heldout[1],
        "history": history.as_dict(),
    }
    if len(stages) > 1:
        report["stages"] = [
            {
                "span": stage.span,
                "utterances": stage.utterances,
                "tokens": record.tokens,
                "steps": len(record.train),
                "ended": record.ended,
                "heldout_after": record.best_check,
            }
            for stage, record in zip(stages, (outcome.history for outcome in outcomes), strict=True)
        ]
    compressor.save(out, settings.saved_as)
    seen = {
        split: [row.utterances for row in part] for split, part in (("train", rows), ("heldout", heldout_set))
    }
    # A checkpoint of the user's is named by its digest, not by where it lay.
    stated = settings.model_copy(update={"weights": Path(settings.weights).name})
    write_results(out, report, built_upon, seen, stated, history)
    add_to_card(out, scan=scan.line)
    return report


def _train_stage(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: list[Row],
    heldout: list[Row],
    stage: Stage,
    settings: CompressorSettings,
    progress: Progress | None,
    checkpoints: Checkpoints | None,
    finished: Checkpoints | None,
) -> Outcome:
    """Train the compressor, and the reader if there is one, in place.

    finished: where what a stage that ended made is kept, so that a run that was cut off in a later one finds it.
    """
    compressor.requires_grad_(True).train()
    reader = reader_weights(task.llm)
    parameters = dict(compressor.named_parameters()) | reader
    made = finished.load() if finished is not None else None
    if made is not None:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(made[0][name])
        return Outcome(History(**made[1]["history"]), made[1]["before"], made[1]["after"])

    def loss(part: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        chosen, tokens = [rows[i] for i in part], sum(len(rows[i].target) for i in batch)
        log_probs, hits = task.log_probs(memories_of(compressor, chosen), [row.target for row in chosen])
        return -log_probs.sum() / tokens, {"accuracy": hits.sum().item() / tokens}

    peaks = dict.fromkeys(reader, settings.reader_learning_rate)
    outcome = run_training(
        Trainable(parameters, [task.llm, compressor], peaks=peaks),
        TrainRows([len(row.target) for row in rows], [repr(row.text) for row in rows]),
        loss,
        lambda: heldout_check(compressor, task, heldout, stage.training.batch_size),
        stage.training,
        progress=progress,
        checkpoints=checkpoints,
    )
    if finished is not None:
        facts = {
            "history": outcome.history.as_dict(),
            "before": outcome.rows_before,
            "after": outcome.rows_after,
        }
        finished.save(parameters, facts)
    return outcome


def joined(records: Sequence[History]) -> History:
    """The histories of stages as one; a stage's first check stands for the last one of the stage before."""
    whole = records[0]
    for record in records[1:]:
        steps = len(whole.train)
        whole = History(
            train=whole.train + [{**entry, "step": entry["step"] + steps} for entry in record.train],
            heldout=[entry for entry in whole.heldout if entry["step"] < steps]
            + [{**entry, "step": entry["step"] + steps} for entry in record.heldout],
            tokens=whole.tokens + record.tokens,
            rows=whole.rows + record.rows,
            best_step=record.best_step + steps,
            ended=record.ended,
        )
    return whole


def _looked_at(rows: list[Row], settings: TrainingSettings) -> list[Row]:
    """The seeded held-out rows that are measured."""
    return looked_at(rows, settings, "compressor")
