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

from model.card import CARD, weights_identity
from model.checkpoints import Checkpoints
from model.compressor.compressor import (
    CONFIG,
    READER,
    TOKENIZER,
    WEIGHTS,
    MambaCompressor,
    new_compressor,
)
from model.compressor.reader import (
    copy_reader,
    learns,
    reader_weights,
    save_reader,
    trained_reader,
    with_reader,
)
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.half_products import halve_products
from model.json_files import write_json
from model.llm import greedy_replies, load_llm
from model.metrics.compared import compared_rows
from model.metrics.donors import donors
from model.settings import TrainingSettings
from model.spoken import Spoken, alone
from model.training import History, Progress, Trainable, TrainRows, looked_at
from model.training_run import Check, Outcome, run_training, use_threads, write_results
from model.zoo.resolve import resolve

RowSums = tuple[float, int, int]
"""Nats, tokens that are likeliest, tokens: of one row."""


@dataclass(frozen=True)
class Row:
    """Utterances of one sequence, the ids the compressor reads and the ids the LLM is to give back."""

    utterances: tuple[Spoken, ...]
    sources: tuple[Tensor, ...]
    target: Tensor
    dialogue: Hashable
    """What the row is of: rows of one dialogue are alike."""

    @property
    def text(self) -> str:
        """What the LLM is to give back, a line an utterance."""
        return "\n".join(utterance.text for utterance in self.utterances)


@dataclass(frozen=True)
class Stage:
    """Part of a training: what a memory covers meanwhile, and a schedule of its own."""

    span: int | None
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
    data = [
        rows_of(alone(texts), compressor, task, settings, longest, of)
        for texts, of in ((train, None), (heldout, dialogues))
    ]
    return _train(compressor, task, *data, stages, settings, out, progress, checkpoints, built_upon)


def pretraining_stages(settings: CompressorSettings) -> list[Stage]:
    """The curriculum's, each with its budget and a seed of its own, and the one of `memory_span` last."""
    budgets = [(stage.span, stage.max_tokens) for stage in settings.span_curriculum]
    budgets.append((settings.memory_span, settings.pretrain.max_tokens))
    return [
        Stage(
            span,
            settings.pretrain.model_copy(
                update={"max_tokens": budget, "seed": settings.pretrain.seed + number}
            ),
        )
        for number, (span, budget) in enumerate(budgets)
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
        **_measured(compressor, task, rows, found, found, None, settings, batch),
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

    A dialogue beyond the limits is trained on in consecutive windows, each a sequence of its own. What is given back
    is the bare text, as in pretraining; figure 11's role tags are left to what tells the roles.
    """
    use_threads(settings.finetune)
    llm, tokenizer = load_llm(llm_folder, settings.finetune.dtype)
    compressor = MambaCompressor.load(compressor_folder, tokenizer, llm.get_input_embeddings().weight)
    task = _task(llm, tokenizer, compressor, compressor_folder, settings, settings.finetune, dialogue=True)
    longest = settings.max_utterance_tokens
    data = [rows_of(dialogues, compressor, task, settings, longest) for dialogues in (train, heldout)]
    built_upon = {"llm": llm_folder, "compressor": compressor_folder}
    stages = [Stage(compressor.shape.memory_span, settings.finetune)]
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
    """What is learnt, by an LLM that is frozen, with the reader that `folder` may have, or learns as a reader too."""
    learnt = settings.reader_rank > 0
    llm = trained_reader(llm, folder, settings, training.seed) if learnt else with_reader(llm, folder)
    if settings.half_products:
        halve_products(llm)
    return Reconstruction(llm, tokenizer, dialogue, cached=not learnt, bare=compressor.bare)


def windows(sizes: Sequence[int], most_rows: int, most_tokens: int) -> list[range]:
    """Consecutive ranges over utterances of `sizes` tokens, each within both limits or one utterance long."""
    found, start, tokens = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == most_rows or tokens + size > most_tokens):
            found.append(range(start, i))
            start, tokens = i, 0
        tokens += size
    return [*found, range(start, len(sizes))] if sizes else found


def rows_of(
    dialogues: Sequence[Sequence[Spoken]],
    compressor: MambaCompressor,
    task: Reconstruction,
    settings: CompressorSettings,
    longest: float,
    keys: Sequence[Hashable] | None = None,
) -> tuple[list[Row], dict[str, int]]:
    """Rows to train on, and how many utterances were left out because they are empty or too long.

    keys: what tells each of `dialogues` from the others; by default its number.
    """
    rows, left_out = [], {"empty": 0, "too_long": 0}
    for key, dialogue in zip(range(len(dialogues)) if keys is None else keys, dialogues, strict=True):
        kept = []
        for utterance in dialogue:
            if not utterance.text.strip():
                left_out["empty"] += 1
                continue
            ids = compressor.ids(utterance.text)
            if len(ids) > longest:
                left_out["too_long"] += 1
            else:
                kept.append((utterance, ids))
        sizes = [task.text_tokens(utterance.text) + 1 for utterance, _ in kept]
        for window in windows(sizes, settings.max_dialogue_utterances, settings.max_dialogue_tokens):
            utterances, ids = zip(*(kept[i] for i in window), strict=True)
            target = task.target([utterance.text for utterance in utterances])
            rows.append(Row(utterances, ids, target, key))
    return rows, left_out


def _train(
    compressor: MambaCompressor,
    task: Reconstruction,
    train: tuple[list[Row], dict],
    heldout: tuple[list[Row], dict],
    stages: Sequence[Stage],
    settings: CompressorSettings,
    out: Path,
    progress: Progress | None,
    checkpoints: Checkpoints | None,
    built_upon: dict[str, Path],
) -> dict:
    """Train stage after stage, save and measure. A run that was cut off goes on in the stage where it was."""
    rows, heldout_set, last = train[0], heldout[0], stages[-1].training
    if not rows or not heldout_set:
        raise ValueError(
            f"compressor: {len(rows)} train and {len(heldout_set)} held-out rows are usable "
            f"(left out: {train[1]}, {heldout[1]}); both need at least one"
        )
    heldout_set = _looked_at(heldout_set, stages[0].training)
    outcomes = []
    for number, stage in enumerate(stages, 1):
        compressor.use_span(stage.span)
        own, finished = checkpoints, None
        if checkpoints is not None and len(stages) > 1:
            own, finished = (
                checkpoints.within(f"stage-{number}"),
                checkpoints.within(f"stage-{number}-finished"),
            )
        outcomes.append(
            _train_stage(compressor, task, rows, heldout_set, stage, settings, progress, own, finished)
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
    report = {
        "train_rows": len(rows),
        "train_left_out": train[1],
        **_measured(compressor, task, heldout_set, before, after, first, settings, last.batch_size),
        "heldout_left_out": heldout[1],
        "history": history.as_dict(),
    }
    if len(stages) > 1:
        report["stages"] = [
            {
                "span": stage.span,
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
    # A checkpoint of the user's is told by its digest, not by where it lay.
    said = settings.model_copy(update={"weights": Path(settings.weights).name})
    write_results(out, report, built_upon, seen, said, history)
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
        log_probs, hits = task.log_probs(_memories(compressor, chosen), [row.target for row in chosen])
        return -log_probs.sum() / tokens, {"accuracy": hits.sum().item() / tokens}

    peaks = dict.fromkeys(reader, settings.reader_learning_rate)
    outcome = run_training(
        Trainable(parameters, [task.llm, compressor], peaks=peaks),
        TrainRows([len(row.target) for row in rows], [repr(row.text) for row in rows]),
        loss,
        lambda: checked(compressor, task, heldout, stage.training.batch_size),
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


def _measured(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: list[Row],
    before: dict[str, float],
    after: dict[str, float],
    first: list[float] | None,
    limits: CompressorSettings,
    batch: int,
) -> dict:
    """What `after` is worth: beside no memory, another dialogue's memory, and reconstructions in free running.

    first: each row's loss before training; None where there was none.
    """
    without = figures(compressor, task, rows, batch, memories="none")
    own = row_losses(compressor, task, rows, batch)
    given = row_losses(compressor, task, rows, batch, memories="other")
    told = [(loss, len(row.target)) for loss, row in zip(given, rows, strict=True) if loss is not None]
    other = {"loss": sum(loss * n for loss, n in told) / sum(n for _, n in told)} if told else None
    return {
        "heldout_rows": len(rows),
        "heldout_tokens": sum(len(row.target) for row in rows),
        "heldout_before": before,
        "heldout_after": after,
        "heldout_no_memory": without,
        "heldout_other_memory": other,
        "nats_recovered": without["loss"] - after["loss"],
        "compared": compared_rows(
            [row.dialogue for row in rows],
            before=own if first is None else first,
            after=own,
            other_memory=given,
        ),
        "free_running": free_running(compressor, task, _short(rows, limits)),
    }


def _looked_at(rows: list[Row], settings: TrainingSettings) -> list[Row]:
    """The seeded held-out rows that are measured."""
    return looked_at(rows, settings, "compressor")


def figures(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: Sequence[Row],
    batch_size: int,
    memories: str = "own",
) -> dict[str, float]:
    """Nats per token ("loss") and teacher-forced token accuracy over `rows`.

    memories: "own"; "none", the memory line left out of the prompt; "other", each row given those of a row of another
    dialogue, which tells what a memory says of its utterance from what any memory says of the task. Rows without
    such another are left out.
    """
    return _together(_row_sums(compressor, task, rows, batch_size, memories))


def row_losses(
    compressor: MambaCompressor,
    task: Reconstruction,
    rows: Sequence[Row],
    batch_size: int,
    memories: str = "own",
) -> list[float | None]:
    """Nats per token of each row, as `figures`; None where there is no other dialogue."""
    return _each(_row_sums(compressor, task, rows, batch_size, memories))


def checked(compressor: MambaCompressor, task: Reconstruction, rows: Sequence[Row], batch_size: int) -> Check:
    """`figures` and `row_losses` of one pass over `rows`."""
    sums = _row_sums(compressor, task, rows, batch_size, "own")
    return Check(_together(sums), _each(sums))


def _together(sums: Sequence[RowSums | None]) -> dict[str, float]:
    """Nats per token and accuracy of all rows."""
    nats, hits, tokens = (sum(part) for part in zip(*(row for row in sums if row is not None), strict=True))
    return {"loss": nats / tokens, "accuracy": hits / tokens}


def _each(sums: Sequence[RowSums | None]) -> list[float | None]:
    """Nats per token of each row."""
    return [None if row is None else row[0] / row[2] for row in sums]


@torch.no_grad()
def _row_sums(
    compressor: MambaCompressor, task: Reconstruction, rows: Sequence[Row], batch_size: int, memories: str
) -> list[RowSums | None]:
    """Of each row; None where there is no other dialogue."""
    sources: list[Row | None] = list(rows)
    if memories == "other":
        sizes = [sum(compressor.counts_of(row.sources)) for row in rows]
        given = donors([row.dialogue for row in rows], sizes)
        sources = [None if other is None else rows[other] for other in given]
    order = sorted(
        (i for i, source in enumerate(sources) if source is not None), key=lambda i: (len(rows[i].target), i)
    )
    found: list[RowSums | None] = [None] * len(rows)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        targets = [rows[i].target for i in batch]
        if memories == "none":
            log_probs, right = task.without_memory(targets)
        else:
            log_probs, right = task.log_probs(_memories(compressor, [sources[i] for i in batch]), targets)
        sizes = [len(target) for target in targets]
        parts = zip(log_probs.double().split(sizes), right.split(sizes), sizes, strict=True)
        for i, (nats, hits, size) in zip(batch, parts, strict=True):
            found[i] = (-nats.sum().item(), int(hits.sum()), size)
    return found


def free_running(compressor: MambaCompressor, task: Reconstruction, rows: Sequence[Row]) -> dict:
    """Greedy reconstructions of `rows`: the share that is exact, and the texts side by side.

    Teacher-forced figures flatter: a first token gone wrong takes the rest with it.
    """
    if not rows:
        return {"rows": 0, "exact": None, "examples": []}
    with torch.no_grad():
        prompts = [task.prompt(m, whole=True) for m in _memories(compressor, rows)]
    longest = max(len(row.target) for row in rows)
    texts = greedy_replies(task.llm, task.tokenizer, prompts, longest + 4)
    wanted = [row.text for row in rows]
    examples = [{"original": w, "reconstructed": t} for w, t in zip(wanted, texts, strict=True)]
    exact = sum(w.strip() == t.strip() for w, t in zip(wanted, texts, strict=True))
    return {"rows": len(rows), "exact": exact / len(rows), "examples": examples}


def _short(rows: Sequence[Row], limits: CompressorSettings) -> list[Row]:
    """The first rows short enough to be generated; long dialogues take minutes on a CPU."""
    return [row for row in rows if len(row.target) <= limits.free_running_tokens][: limits.free_running_rows]


def _memories(compressor: MambaCompressor, rows: Sequence[Row]) -> list[Tensor]:
    roles = [[utterance.role for utterance in row.utterances] for row in rows]
    return compressor.memories([row.sources for row in rows], roles)
