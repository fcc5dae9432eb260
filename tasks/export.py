"""What a finished run made, as datasets of their own: preference pairs, or every reply with its figures; Parquet and a card.

Knows nothing of how pairs were chosen, or figures measured, beyond what the run's artefacts say.
"""

from __future__ import annotations

import json
from pathlib import Path

from model.metrics.catalogue import METRICS as FIGURES
from storage.answers import Candidate, Pair
from storage.errors import InputError
from storage.exchanges import Exchange
from storage.measured import COLUMNS as MEASURED_COLUMNS
from storage.preferences import COLUMNS, write_preferences
from storage.shards import row_to_candidate, row_to_exchange, row_to_pair
from storage.store import Ref, Store, write_atomic
from storage.tables import KEY_COLUMNS
from tasks.engine.declaration import Weights
from tasks.engine.run import RunRequest
from tasks.settings import Settings
from tasks.stages.metrics.by_reply import EACH_REPLY
from tasks.stages.metrics.stage import METRICS
from tasks.stages.shards import read_rows

SPLITS = ("train", "dev")
NEEDED = ("utterances", "utterances.exchanges", "scores", "pairs", "pairs.quality")


def export_pairs(request: RunRequest, folder: Path) -> dict[str, int]:
    """Write SPLIT.parquet and README.md to `folder`; returns the rows of each split.

    Raises InputError where the pairs have not been made with these settings, or the folder holds something.
    """
    _must_be_new(folder)
    with request.session() as session:
        plans = {plan.stage.name: plan for plan in session.plan("pairs")}
        for name in NEEDED:
            if plans[name].state != "fresh":
                command = request.command("run", "--until", "pairs")
                raise InputError(f"{name} is {plans[name].state}: `{command}` makes the pairs")
        if not plans["candidates"].items:
            raise InputError("no exchange was selected, so there are no pairs to export")
        artefacts = {name: [r for refs in plans[name].outputs.values() for r in refs] for name in NEEDED}
        (scorer,) = {item.arguments["scorer"].identity for item in plans["scores"].items}
        rows = _rows(session.store, artefacts, scorer)
        counts = {}
        for split in SPLITS:
            inside = [row for row in rows if row["split"] == split]
            counts[split] = len(inside)
            write_atomic(folder / f"{split}.parquet", write_preferences(inside))
        weights = plans["candidates"].items[0].arguments["llm"]
        card = _card(session.store, artefacts, session.settings, counts, weights)
        write_atomic(folder / "README.md", card.encode())
    return counts


def export_replies(request: RunRequest, folder: Path) -> int:
    """Write replies.parquet and README.md to `folder`: every reply to the test exchanges beside its figures; returns its rows.

    Raises InputError where they have not been measured with these settings, or the folder holds something.
    """
    _must_be_new(folder)
    with request.session() as session:
        (plan,) = (plan for plan in session.plan(METRICS.name) if plan.stage.name == METRICS.name)
        if plan.state != "fresh":
            command = request.command("run", "--until", METRICS.name)
            raise InputError(f"{METRICS.name} is {plan.state}: `{command}` measures the replies")
        (ref,) = (ref for refs in plan.outputs.values() for ref in refs if ref.name == EACH_REPLY)
        write_atomic(folder / "replies.parquet", session.store.read(ref))
    write_atomic(folder / "README.md", _card_of_replies().encode())
    return ref.rows or 0


def _must_be_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: give a new folder")


def _card_of_replies() -> str:
    """What the columns of replies.parquet hold."""
    figures = {one.key: f"{one.title}: {one.source}" for one in FIGURES if one.per == "reply"}
    columns = "\n".join(f"| {name} | {what} |" for name, what in (MEASURED_COLUMNS | figures).items())
    return f"""# Replies and their figures

`replies.parquet` has a row for each system and test exchange. A figure is of this reply alone, and null where it has none;
those that are made of a whole corpus (BLEU, perplexity, Dist of the corpus) stand in report.json. The dialogues' texts are
their datasets' and fall under their licences.

| column | what it holds |
|---|---|
{columns}
"""


def _rows(store: Store, artefacts: dict[str, list[Ref]], scorer: str) -> list[dict]:
    from tasks.stages.examples import read_dialogues, tagged  # torch, which no refusal needs

    histories: dict[tuple, list[str]] = {}
    for dialogue in read_dialogues(store, artefacts["utterances"], *SPLITS).values():
        lines = tagged(dialogue)
        histories |= {u.key: list(lines[:at]) for at, u in enumerate(dialogue)}
    read = [
        row_to_exchange(r)[0]
        for r in read_rows(store, artefacts["utterances.exchanges"], "exchanges", *SPLITS)
    ]
    exchanges = {exchange.key: exchange for exchange in read}
    candidates = map(row_to_candidate, read_rows(store, artefacts["scores"], "scores"))
    # Of an exchange's usable candidates no two say the same.
    made = {(*one.key, one.text): one for one in candidates if one.usable}
    pairs = map(row_to_pair, read_rows(store, artefacts["pairs"], "pairs"))
    return [
        _row(pair, made[*pair.key, pair.rejected], exchanges[pair.key], histories[pair.key], scorer)
        for pair in pairs
    ]


def _row(pair: Pair, candidate: Candidate, exchange: Exchange, history: list[str], scorer: str) -> dict:
    """A pair as it goes out, of the columns of storage.preferences.PREFERENCES."""
    return {
        "prompt": [{"role": "user", "content": pair.sentence}],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "reply": pair.reply,
        "history": history,
        **dict(zip(KEY_COLUMNS, pair.key, strict=True)),
        "sentence_emotion": exchange.sentence_emotion,
        "chosen_emotion": exchange.reply_emotion,
        "rejected_emotion": pair.rejected_emotion,
        "cosine": pair.cosine,
        "candidate_prompt": candidate.prompt,
        "engine": candidate.engine,
        "weights": candidate.weights,
        "settings": candidate.settings,
        "seed": candidate.seed,
        "scorer": scorer,
    }


def _card(
    store: Store,
    artefacts: dict[str, list[Ref]],
    settings: Settings,
    counts: dict[str, int],
    llm: Weights,
) -> str:
    """The data card, with the YAML head that dataset hubs and `datasets` read."""
    pairs, quality = (
        json.loads(store.read(next(r for r in artefacts[stage] if r.name == name)))
        for stage, name in (("pairs", "pairs.json"), ("pairs.quality", "quality.json"))
    )
    alone = {name: "too few to say" if v is None else f"{v:.1%}" for name, v in quality["accuracy"].items()}
    above = (
        " **Above the bound: these pairs can be told apart without their emotion.**"
        if quality["above"]
        else ""
    )
    sources = ", ".join(f"{n} {f['pairs']} of {f['exchanges']}" for n, f in pairs["by_dataset"].items())
    splits = "\n".join(f"| {split} | {count} |" for split, count in counts.items())
    columns = "\n".join(f"| {name} | {what} |" for name, what in COLUMNS.items())
    sampling = settings.candidates.sampling
    return f"""---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.parquet
  - split: dev
    path: dev.parquet
task_categories:
- text-generation
tags:
- preference
- emotion
---

# Counter-emotional preference pairs

For each exchange of a dialogue the true reply (chosen) and a reply to the same sentence in another emotion (rejected),
as in arXiv 2412.17572, sections 3.3 and 8: the LLM answers in {len(settings.candidates.emotions)} emotions, and the
usable answer whose emotion is least like the true reply's is kept where its cosine is below a threshold.

| split | rows |
|---|---|
{splits}

- **Sources** (pairs of exchanges): {sources or "none"}. The dialogues' texts are their datasets' and fall under their
  licences, which may forbid passing this dataset on.
- **Rejected replies** by `{llm.name}` (`{llm.identity}`), engine {", ".join(pairs["engines"]) or "none"},
  temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, {sampling.max_new_tokens} tokens at most,
  {settings.candidates.examples} worked examples.
- **Selection**: {pairs["selection"]}, cosine below {pairs["threshold"]:.4g} (the paper's: {pairs["paper_threshold"]:g}),
  by the scorer `{settings.scorer.weights}`.
- **What else tells the replies apart**: length alone ranks {alone["length"]} of held-out pairs right, style alone
  {alone["style"]} (50 % would be nothing, the bound is {quality["bound"]:.0%}).{above}

| column | |
|---|---|
{columns}
"""
