"""Finetune the LLM on dialogue with LoRA, alongside memory reconstruction (paper, section 4.2).

The extractor stays frozen, and the compressor unless the settings have it learn. Knows nothing of datasets, splits or
storage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from model.adapter import load_adapter, new_adapter, save_adapter
from model.batches import length_sorted_batches
from model.branches import reply_log_probs
from model.checkpoints import Checkpoints
from model.compressor.reader import checked_reader
from model.compressor.reconstruction import Reconstruction
from model.dialogue.dialogue import (
    COMPRESSOR,
    DialogueModel,
    HistoryForm,
    Memories,
    load_parts,
    own_compressor,
)
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.draws import draw_number
from model.llm import body_and_head, embed, load_llm, mean_by_row, reply_ids, token_ids
from model.metrics.donors import with_others
from model.processes import Processes
from model.sharding import is_sharded
from model.spoken import Spoken
from model.training import Progress, Trainable, TrainRows, looked_at
from model.training_run import Check, Outcome, run_training, use_threads, write_results

HISTORY_DROPOUT = "dialogue.history_dropout"
"""The draw of the train rows whose history is withheld."""


def train_dialogue(
    llm_folder: Path,
    train: Sequence[DialogueExample],
    heldout: Sequence[DialogueExample],
    settings: DialogueSettings,
    out: Path,
    history: HistoryForm,
    compressor: Path | None = None,
    extractor: Path | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    start: Path | None = None,
    shared_schedule: bool = False,
) -> dict:
    """Train a LoRA adapter, save it in peft's layout and report.json in `out`, and return the report.

    The loss is the token mean over replies, plus, where the history is memories, the weighted token mean of
    their reconstruction (table 5): so the LLM keeps understanding them. "compared" in the report holds each held-out
    reply's nats a token before and after, and after it with another dialogue's history, or clip, in place of its own:
    the controls. start: the folder of an adapter of the
    same settings to go on from, instead of a new one. shared_schedule: batches are planned, and `max_tokens` is spent,
    by sentences and true replies alone, so that trainings with other forms of the history take the same rows at the
    same step. A compressor that learns is saved in `out` too, in the folder "compressor". An exchange that does not fit the LLM's window without any
    history is left out and counted. ValueError names an empty reply or clip, and where nothing is left.
    """
    if not train or not heldout:
        raise ValueError(f"dialogue: {len(train)} train and {len(heldout)} held-out exchanges; both need one")
    use_threads(settings.training)
    compressor = own_compressor(start) or compressor
    model = model_to_train(llm_folder, settings, history, compressor, extractor, start)
    learns = model.compressor if model.compressor_learns else None
    train, withheld = with_history_dropout(train, settings)
    train_set = Exchanges(model, train)
    dropped = dict(model.counts)
    heldout_set = Exchanges(model, looked_at(heldout, settings.training, "dialogue"))
    if not train_set.examples or not heldout_set.examples:
        raise ValueError(
            f"dialogue: {len(train_set.examples)} train and {len(heldout_set.examples)} held-out exchanges are usable "
            f"(left out: {train_set.left_out}, {heldout_set.left_out}); both need one"
        )
    batch, weight = settings.training.batch_size, settings.reconstruction_weight

    def loss(rows: list[int], whole: list[int]) -> tuple[Tensor, dict[str, float]]:
        reply = train_set.reply_loss(rows, whole)
        reconstruction = train_set.reconstruction_loss(rows, whole) if weight else None
        if reconstruction is None:
            return reply, {"reply": reply.item()}
        logs = {"reply": reply.item(), "reconstruction": reconstruction.item()}
        return reply + weight * reconstruction, logs

    modules = [part for part in (model.compressor, model.extractor) if isinstance(part, nn.Module)]
    trained = {name: p for name, p in model.llm.named_parameters() if p.requires_grad}
    if learns is not None:
        trained |= {f"{COMPRESSOR}.{name}": p for name, p in learns.named_parameters()}
    names = [example.key for example in train_set.examples]
    outcome = run_training(
        Trainable(trained, [model.llm, *modules]),
        TrainRows(train_set.lengths, names, train_set.shared_lengths if shared_schedule else None),
        loss,
        lambda: heldout_set.check(batch, weight),
        settings.training,
        progress=progress,
        checkpoints=checkpoints,
    )
    report = {
        "compressor_learnt": learns is not None,
        "train_histories_withheld": withheld,
        "train_exchanges": len(train_set.examples),
        "train_left_out": train_set.left_out,
        "train_counts": dropped,
        **_findings(model, heldout_set, outcome, batch),
    }
    save_adapter(model.llm, out)
    if learns is not None:
        learns.save(Path(out) / COMPRESSOR)
    parts_of = {"llm": llm_folder, "compressor": compressor, "extractor": extractor}
    weights = {role: folder for role, folder in parts_of.items() if folder is not None}
    data = {"train": train_set.examples, "heldout": heldout_set.examples}
    write_results(out, report, weights, data, settings, outcome.history)
    return report


def model_to_train(
    llm_folder: Path,
    settings: DialogueSettings,
    history: HistoryForm,
    compressor: Path | None,
    extractor: Path | None,
    start: Path | None,
) -> DialogueModel:
    """The dialogue model whose adapter learns, and whose compressor does where the settings say so; all else is frozen.

    start: the folder of an adapter to go on from; None: the compressor's reader, where the settings say so, or a new one.
    """
    llm, tokenizer = load_llm(llm_folder, settings.training.dtype)
    needed = history == "memory" and settings.memory == "mamba"
    encoder, clips = load_parts(llm, tokenizer, compressor if needed else None, extractor)
    if encoder is not None and settings.train_compressor:
        encoder.requires_grad_(True)
    if start is None and settings.start_from_reader and needed:
        start = checked_reader(compressor, settings.rank, settings.alpha, settings.target_modules)
    adapted = add_adapter(llm, settings) if start is None else load_adapter(llm, start, trainable=True)
    return DialogueModel(adapted, tokenizer, history, encoder, clips, settings)


def _findings(model: DialogueModel, heldout: Exchanges, outcome: Outcome, batch: int) -> dict:
    """What the model is shown, and the held-out part of the report."""
    memories = model.history == "memory"
    shown = ("memory", "recent_utterances") if memories else ()
    clips = {"other_clip": heldout.losses_with_another_clip(batch)} if model.use_audio_visual else {}
    return {
        "history_form": model.history,
        **{name: getattr(model.settings, name) for name in shown},
        "audio_visual": model.use_audio_visual,
        "heldout_exchanges": len(heldout.examples),
        "heldout_left_out": heldout.left_out,
        "heldout_no_history": heldout.without_history().check(batch, 0.0).figures["reply"],
        **outcome.report(
            [example.group for example in heldout.examples],
            before=outcome.rows_before,
            after=outcome.rows_after,
            other_history=heldout.losses_with_another_history(batch),
            **clips,
        ),
    }


def with_history_dropout(
    examples: Sequence[DialogueExample], settings: DialogueSettings
) -> tuple[list[DialogueExample], int]:
    """The examples, the history of some withheld, and of how many; by key, so that they are the same in every epoch."""
    bound, seed = settings.history_dropout * 2**64, settings.training.seed
    withheld = {e.key for e in examples if e.history and draw_number(seed, HISTORY_DROPOUT, e.key) < bound}
    return [e.without_history() if e.key in withheld else e for e in examples], len(withheld)


def add_adapter(llm: nn.Module, settings: DialogueSettings) -> nn.Module:
    """The LLM with a new LoRA adapter in its own dtype, drawn from the seed; all else frozen."""
    return new_adapter(llm, settings.rank, settings.alpha, settings.target_modules, settings.training.seed)


class Exchanges:
    """Exchanges made ready for training: how long each prompt is, and what of each history is reconstructed.

    Prompts are made when a batch is run, so that what is held does not grow with clips: memories alone are computed once,
    a few numbers an utterance; where the compressor learns, they are made anew too. `left_out` counts the exchanges that do
    not fit the LLM's window even without history;
    the model's counts, how many utterances of the others' histories are not reconstructed.
    """

    def __init__(self, model: DialogueModel, examples: Sequence[DialogueExample]):
        for example in examples:
            if not example.reply.strip():
                raise ValueError(f"dialogue: exchange {example.key} has an empty reply; leave it out")
        self.model = model
        with torch.no_grad():
            self.memories = model.memories([e.history for e in examples])
        sizes = model.prompt_sizes(examples, self.memories)
        self.examples = [e for e, size in zip(examples, sizes, strict=True) if size is not None]
        self.left_out = {"too_long": len(examples) - len(self.examples)}
        self.prompt_sizes = [size for size in sizes if size is not None]
        self.replies = [reply_ids(model.tokenizer, e.reply) for e in self.examples]
        self.task, self.targets = None, {}
        if model.history == "memory":
            bare = getattr(model.compressor, "bare", False)
            self.task = Reconstruction(model.llm, model.tokenizer, dialogue=True, cached=False, bare=bare)
            self._choose_targets()
        self.lengths = [self._tokens(i) for i in range(len(self.examples))]
        """Tokens the LLM reads for each exchange."""
        self.shared_lengths = [
            len(token_ids(model.tokenizer, e.sentence)) + len(reply)
            for e, reply in zip(self.examples, self.replies, strict=True)
        ]
        """Tokens of each sentence and its true reply: what all forms of the history have in common."""

    def reply_loss(self, rows: Sequence[int], whole: Sequence[int] | None = None) -> Tensor:
        """Token mean of the replies' negative log-likelihood; of the rows of `whole`, the share that `rows` have."""
        log_probs, _ = reply_log_probs(self.model.llm, self.prompts(rows), [self.replies[i] for i in rows])
        return -log_probs.sum() / self.reply_tokens(rows if whole is None else whole)

    def prompts(self, rows: Sequence[int]) -> list[Tensor]:
        """Input embeddings [T_i, d] of the rows' prompts; with a gradient where the compressor learns."""
        examples = [self.examples[i] for i in rows]
        with nullcontext() if self.model.compressor_learns else torch.no_grad():
            made = self._memories([e.history for e in examples])
            return [embed(self.model.llm, pieces) for pieces in self.model.pieces(examples, made)]

    def _memories(self, histories: Sequence[tuple[Spoken, ...]]) -> Memories:
        """The histories' memories as the compressor is now."""
        return self.model.memories(histories) if self.model.compressor_learns else self.memories

    def reconstruction_loss(self, rows: Sequence[int], whole: Sequence[int] | None = None) -> Tensor | None:
        """As `reply_loss`, over what is reconstructed of the rows' histories; None where no row has a history.

        Where processes hold shards of the LLM, each runs it if one of them must: a history of `whole` stands in.
        """
        whole = rows if whole is None else whole
        histories, weight = self._histories(rows), 1.0
        if not histories and is_sharded(body_and_head(self.model.llm)[0].layers):
            histories, weight = self._histories(whole)[:1], 0.0
        if not histories:
            return None
        targets = [self.targets[h] for h in histories]
        made = self._memories(histories)
        memories = [
            torch.cat([made[h][place] for place in places])
            for h, (places, _) in zip(histories, targets, strict=True)
        ]
        log_probs, _ = self.task.log_probs(memories, [ids for _, ids in targets])
        return -weight * log_probs.sum() / self.reconstructed_tokens(whole)

    def _histories(self, rows: Sequence[int]) -> list[tuple[Spoken, ...]]:
        """The rows' histories that have anything to reconstruct."""
        return [self.examples[i].history for i in rows if self.examples[i].history in self.targets]

    def reply_tokens(self, rows: Sequence[int]) -> int:
        """Tokens of the rows' replies."""
        return sum(len(self.replies[i]) for i in rows)

    def reconstructed_tokens(self, rows: Sequence[int]) -> int:
        """Tokens that are reconstructed of the rows' histories."""
        return sum(len(self.targets[history][1]) for history in self._histories(rows))

    @torch.no_grad()
    def check(self, batch: int, weight: float) -> Check:
        """Nats per token of all replies, of all reconstructions, and "loss", their weighted sum; and `row_losses`."""
        losses = self.row_losses(batch)
        total = sum(loss * len(reply) for loss, reply in zip(losses, self.replies, strict=True))
        means = {"reply": total / self.reply_tokens(range(len(losses)))}
        batches = length_sorted_batches(self.lengths, batch) if weight else []
        told = [rows for rows in batches if self._histories(rows)]
        if told:
            counts = [self.reconstructed_tokens(rows) for rows in told]
            found = Processes().dealt(told, lambda rows: self.reconstruction_loss(rows).item())
            total = sum(loss * count for loss, count in zip(found, counts, strict=True))
            means["reconstruction"] = total / sum(counts)
        loss = means["reply"] + weight * means.get("reconstruction", 0.0)
        return Check({"loss": loss, **means}, losses)

    @torch.no_grad()
    def row_losses(self, batch: int) -> list[float]:
        """Nats per token of each exchange's reply."""
        batches = length_sorted_batches(self.lengths, batch)
        found: dict[int, float] = {}
        for rows, losses in zip(batches, Processes().dealt(batches, self._losses), strict=True):
            found.update(zip(rows, losses, strict=True))
        return [found[i] for i in range(len(self.lengths))]

    def _losses(self, rows: Sequence[int]) -> list[float]:
        replies = [self.replies[i] for i in rows]
        log_probs, owner = reply_log_probs(self.model.llm, self.prompts(rows), replies)
        return mean_by_row(-log_probs, owner, len(rows)).tolist()

    def losses_with_another_history(self, batch: int) -> list[float | None]:
        """As `row_losses`, each with a history of another dialogue, as like its own in turns as there is one.

        None of a row without a history, whose prompt has no place for one.
        """
        sizes = [len(e.history) for e in self.examples]
        kinds = ["told" if size else None for size in sizes]
        return self._losses_of(with_others(self.examples, ("history",), kinds, sizes), batch)

    def losses_with_another_clip(self, batch: int) -> list[float | None]:
        """As `row_losses`, each with a clip of another dialogue that has the same modalities; None without a clip."""
        has = [(e.audio is not None, e.video is not None) for e in self.examples]
        kinds = [modalities if any(modalities) else None for modalities in has]
        sizes = [sum(len(f) for f in (e.audio, e.video) if f is not None) for e in self.examples]
        return self._losses_of(with_others(self.examples, ("audio", "video"), kinds, sizes), batch)

    def _losses_of(self, examples: Sequence[DialogueExample | None], batch: int) -> list[float | None]:
        given = [e for e in examples if e is not None]
        if not given:
            return [None] * len(examples)
        others = Exchanges(self.model, given)
        losses = dict(zip((e.key for e in others.examples), others.row_losses(batch), strict=True))
        return [None if e is None else losses.get(e.key) for e in examples]

    def without_history(self) -> Exchanges:
        """The same exchanges as if nothing had been said before."""
        return Exchanges(self.model, [e.without_history() for e in self.examples])

    def _choose_targets(self) -> None:
        """Of each history, the places of the utterances that are reconstructed and the ids they become."""
        for history in dict.fromkeys(e.history for e in self.examples):
            places = self._reconstructed(history)
            if places:
                self.targets[history] = places, self.task.target([history[i].text for i in places])
        kept = sum(len(self.targets[e.history][0]) for e in self.examples if e.history in self.targets)
        recent = self.model.settings.recent_utterances
        total = sum(max(0, len(e.history) - recent) for e in self.examples)
        self.model.counts["unreconstructed_utterances"] += total - kept

    def _reconstructed(self, history: tuple[Spoken, ...]) -> list[int]:
        """Places of the newest utterances that have `max_reconstruction_tokens` together, or of one that has more.

        One that the compressor does not read to its end, or that the LLM's window cannot hold, is passed over:
        its memory cannot tell it, and the compressor was not trained on such either.
        """
        window, places, tokens = self.model.window, [], 0
        older = len(history) - self.model.settings.recent_utterances  # the last ones stand as text
        # The other half is ample for the memories: an utterance has no more of them than it has tokens and a new line.
        most = math.inf if window is None else (window - self.task.overhead) // 2
        limit = min(self.model.settings.max_reconstruction_tokens, most)
        for place in reversed(range(older)):
            text = history[place].text
            size = self.task.text_tokens(text) + 1
            if size > most or not self.model.compressor.reads_whole(text):
                continue
            tokens += size
            if places and tokens > limit:
                break
            places.insert(0, place)
        return places

    def _tokens(self, row: int) -> int:
        tokens = self.prompt_sizes[row] + len(self.replies[row])
        target = self.targets.get(self.examples[row].history)
        if not target:
            return tokens
        memories = self.memories[self.examples[row].history]
        return tokens + self.task.overhead + sum(len(memories[p]) for p in target[0]) + len(target[1])
