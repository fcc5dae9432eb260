"""Finetune the LLM on dialogue with LoRA, alongside memory reconstruction (paper, section 4.2).

Compressor and extractor stay frozen. Knows nothing of datasets, splits or storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from model.adapter import load_adapter, save_adapter
from model.branches import reply_log_probs
from model.card import write_card
from model.checkpoints import Checkpoints
from model.compressor.reconstruction import Reconstruction
from model.dialogue.dialogue import DialogueModel, HistoryForm, load_parts
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.llm import body_and_head, embed, load_llm, reply_ids
from model.report import write_json
from model.sharding import is_sharded
from model.training import Progress, fit, seeded_order


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
) -> dict:
    """Train a LoRA adapter, save it in peft's layout and report.json in `out`, and return the report.

    The loss is the token mean over replies, plus, where the history is memories, the weighted token mean of
    their reconstruction (table 5): so the LLM keeps understanding them. start: the folder of an adapter of the
    same settings to go on from, instead of a new one. ValueError names an empty reply.
    """
    if not train or not heldout:
        raise ValueError(f"dialogue: {len(train)} train and {len(heldout)} held-out exchanges; both need one")
    if settings.training.threads is not None:
        torch.set_num_threads(settings.training.threads)
    llm, tokenizer = load_llm(llm_folder, settings.training.dtype)
    parts = load_parts(llm, tokenizer, compressor if history == "memory" else None, extractor)
    adapted = add_adapter(llm, settings) if start is None else load_adapter(llm, start, trainable=True)
    model = DialogueModel(adapted, tokenizer, history, *parts, settings)
    kept = seeded_order(len(heldout), settings.training.seed, 0)[: settings.training.heldout_rows]
    learnt = Exchanges(model, train)
    dropped = dict(model.counts)
    checked = Exchanges(model, [heldout[i] for i in sorted(kept)])
    batch, weight = settings.training.batch_size, settings.reconstruction_weight

    def loss(rows: list[int], whole: list[int]) -> tuple[Tensor, dict[str, float]]:
        reply = learnt.reply_loss(rows, whole)
        reconstruction = learnt.reconstruction_loss(rows, whole)
        if reconstruction is None:
            return reply, {"reply": reply.item()}
        logs = {"reply": reply.item(), "reconstruction": reconstruction.item()}
        return reply + weight * reconstruction, logs

    record = fit(
        {name: p for name, p in model.llm.named_parameters() if p.requires_grad},
        learnt.lengths,
        loss,
        lambda: checked.figures(batch, weight),
        settings.training,
        progress,
        checkpoints,
        [example.key for example in train],
        [part for part in (model.llm, model.compressor, model.extractor) if part is not None],
    )
    before = record.heldout[0]
    after = next(check for check in record.heldout if check["step"] == record.best_step)
    report = {
        "history_form": history,
        "audio_visual": model.use_audio_visual,
        "train_exchanges": len(train),
        "train_counts": dropped,
        "heldout_exchanges": len(checked.examples),
        "heldout_before": before,
        "heldout_after": after,
        "heldout_no_history": checked.without_history().figures(batch, 0.0)["reply"],
        "learned": after["reply"] < before["reply"],
        "history": record.as_dict(),
    }
    save_adapter(model.llm, out)
    write_json(report, Path(out) / "report.json")
    parts_of = {"llm": llm_folder, "compressor": compressor, "extractor": extractor}
    weights = {role: folder for role, folder in parts_of.items() if folder is not None}
    write_card(out, weights, {"train": train, "heldout": checked.examples}, settings, record)
    return report


def add_adapter(llm: nn.Module, settings: DialogueSettings) -> nn.Module:
    """The LLM with a new LoRA adapter in its own dtype, drawn from the seed; all else frozen."""
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return get_peft_model(llm, config, autocast_adapter_dtype=False).eval()


class Exchanges:
    """Exchanges made ready for training: prompts as pieces, and what of each history is reconstructed.

    Tokens, memories and emotion embeddings do not change in training and are computed once, held on the CPU;
    ids become embeddings when a batch is run.
    """

    def __init__(self, model: DialogueModel, examples: Sequence[DialogueExample]):
        for example in examples:
            if not example.reply.strip():
                raise ValueError(f"dialogue: exchange {example.key} has an empty reply; leave it out")
        self.model, self.examples = model, list(examples)
        self.memories = model.memories([e.history for e in examples])
        batch = model.settings.training.batch_size
        self.pieces = [
            [piece.cpu() for piece in pieces]
            for start in range(0, len(examples), batch)
            for pieces in model.pieces(self.examples[start : start + batch], self.memories)
        ]
        self.replies = [reply_ids(model.tokenizer, e.reply) for e in examples]
        self.task, self.targets = None, {}
        if model.history == "memory":
            self.task = Reconstruction(model.llm, model.tokenizer, dialogue=True, cached=False)
            limit = model.settings.max_reconstruction_tokens
            self.targets = {h: _reconstructed(self.task, h, limit) for h in sorted(self.memories)}
        self.lengths = [self._tokens(i) for i in range(len(examples))]
        """Tokens the LLM reads for each exchange."""

    def reply_loss(self, rows: Sequence[int], whole: Sequence[int] | None = None) -> Tensor:
        """Token mean of the replies' negative log-likelihood; of the rows of `whole`, the share that `rows` have."""
        with torch.no_grad():
            prompts = [embed(self.model.llm, self.pieces[i]) for i in rows]
        log_probs, _ = reply_log_probs(self.model.llm, prompts, [self.replies[i] for i in rows])
        return -log_probs.sum() / self.reply_tokens(rows if whole is None else whole)

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
        memories = [self.memories[h][-count:] for h, (count, _) in zip(histories, targets, strict=True)]
        log_probs, _ = self.task.log_probs(memories, [ids for _, ids in targets])
        return -weight * log_probs.sum() / self.reconstructed_tokens(whole)

    def _histories(self, rows: Sequence[int]) -> list[tuple[str, ...]]:
        """The rows' histories that have anything to reconstruct."""
        return [self.examples[i].history for i in rows if self.examples[i].history in self.targets]

    def reply_tokens(self, rows: Sequence[int]) -> int:
        """Tokens of the rows' replies."""
        return sum(len(self.replies[i]) for i in rows)

    def reconstructed_tokens(self, rows: Sequence[int]) -> int:
        """Tokens that are reconstructed of the rows' histories."""
        return sum(len(self.targets[history][1]) for history in self._histories(rows))

    @torch.no_grad()
    def figures(self, batch: int, weight: float) -> dict[str, float]:
        """Nats per token of all replies, of all reconstructions, and "loss", their weighted sum."""
        order = sorted(range(len(self.lengths)), key=lambda i: (self.lengths[i], i))
        totals = {"reply": 0.0, "reconstruction": 0.0}
        tokens = {"reply": 0, "reconstruction": 0}
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            count = self.reply_tokens(rows)
            totals["reply"] += self.reply_loss(rows).item() * count
            tokens["reply"] += count
            reconstruction = self.reconstruction_loss(rows) if weight else None
            if reconstruction is not None:
                count = self.reconstructed_tokens(rows)
                totals["reconstruction"] += reconstruction.item() * count
                tokens["reconstruction"] += count
        means = {name: totals[name] / tokens[name] for name in totals if tokens[name]}
        return {"loss": means["reply"] + weight * means.get("reconstruction", 0.0), **means}

    def without_history(self) -> Exchanges:
        """The same exchanges as if nothing had been said before."""
        return Exchanges(
            self.model,
            [DialogueExample(e.key, (), e.sentence, e.reply, e.audio, e.video) for e in self.examples],
        )

    def _tokens(self, row: int) -> int:
        tokens = sum(len(piece) for piece in self.pieces[row]) + len(self.replies[row])
        target = self.targets.get(self.examples[row].history)
        return tokens + (self.task.overhead + target[0] + len(target[1]) if target else 0)


def _reconstructed(task: Reconstruction, history: tuple[str, ...], limit: int) -> tuple[int, Tensor]:
    """How many of the last utterances are reconstructed, at least one, and the token ids they become."""
    count, tokens = 0, 0
    for utterance in reversed(history):
        tokens += task.text_tokens(utterance) + 1
        if count and tokens > limit:
            break
        count += 1
    return count, task.target(history[-count:])
