"""People's judgements as preference pairs, in the form of `empamba export pairs`, and beside an LLM judge's.

Knows nothing of servers, or of how replies were made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from model.metrics.agreement import kappa_interval
from model.metrics.settings import BootstrapSettings
from storage.errors import InputError
from storage.preferences import COLUMNS, write_preferences
from storage.store import write_atomic
from storage.tables import KEY_COLUMNS
from tasks.stages.floors import HUMAN
from tasks.study.judgements import Judgements, Row
from tasks.study.score import with_ends
from tasks.study.study import Study, StudyItem

JUDGE_QUESTIONS = {"empathy": "empathy", "fit": "semantics"}
"""What the judge is asked -> what people are."""
OUTCOMES = ("second", "tie", "first")


@dataclass(frozen=True)
class Preference:
    """Of two replies to an item the one that people judged better, by how much, and by how many people."""

    item: StudyItem
    chosen: str
    rejected: str
    margin: float
    people: int


def preferences(
    study: Study, found: Judgements, margin: float, people: int
) -> tuple[list[Preference], Counter[str]]:
    """Of each conversation the reply that was judged best and the one that was judged worst; and why others gave none.

    A reply's judgement is the mean over both questions and all who answered both. margin: points that the two differ by at
    least. people: that judged each of them at least.
    """
    pairs, without = [], Counter[str]()
    for item in study.items:
        means = _means(found, item.id, people)
        if len(means) < 2:
            without["too few judgements"] += 1
            continue
        # Names break ties, so that the same judgements give the same pair.
        best = max(sorted(means), key=lambda system: means[system][0])
        worst = min(sorted(means), key=lambda system: means[system][0])
        gap = means[best][0] - means[worst][0]
        if gap < margin or gap <= 0:
            without["no clear preference"] += 1
        elif item.replies[best] == item.replies[worst]:
            without["the same reply"] += 1
        else:
            pairs.append(Preference(item, best, worst, gap, min(means[best][1], means[worst][1])))
    return pairs, without


def _means(found: Judgements, item: str, people: int) -> dict[str, tuple[float, int]]:
    """System -> mean and number of people, of the replies that enough judged by both questions."""
    said: dict[str, dict[int, list[int]]] = {}
    for row in _counted(found):
        if row.item == item:
            said.setdefault(row.system, {}).setdefault(row.participant, []).append(row.value)
    whole = {
        system: [sum(v) / len(v) for v in by.values() if len(v) == len(found.questions)]
        for system, by in said.items()
    }
    return {system: (sum(v) / len(v), len(v)) for system, v in whole.items() if len(v) >= people}


def _counted(found: Judgements) -> list[Row]:
    counted = set(found.counted)
    return [row for row in found.rows if row.participant in counted]


def export_preferences(study: Study, found: Judgements, folder: Path, margin: float, people: int) -> dict:
    """Write SPLIT.parquet and README.md to a new folder; returns {"pairs", "without"}. InputError where it is not new."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: give a new folder")
    pairs, without = preferences(study, found, margin, people)
    if not pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(without.items()))
        raise InputError(
            f"no pair comes of these judgements ({why}): ask more people, or lower --margin or --people"
        )
    for split in sorted({pair.item.split for pair in pairs}):
        rows = [_row(pair) for pair in pairs if pair.item.split == split]
        write_atomic(folder / f"{split}.parquet", write_preferences(rows))
    write_atomic(folder / "README.md", _card(study, found, pairs, without, margin, people).encode())
    return {"pairs": len(pairs), "without": dict(sorted(without.items()))}


def _row(pair: Preference) -> dict:
    item = pair.item
    return {
        "prompt": [{"role": "user", "content": item.sentence}],
        "chosen": [{"role": "assistant", "content": item.replies[pair.chosen]}],
        "rejected": [{"role": "assistant", "content": item.replies[pair.rejected]}],
        "reply": item.reference,
        "history": _tagged(item),
        **dict(zip(KEY_COLUMNS, item.key, strict=True)),
        "sentence_emotion": item.sentence_emotion,
        "chosen_emotion": item.reference_emotion if pair.chosen == HUMAN else None,
        "engine": pair.rejected,
    }


def _tagged(item: StudyItem) -> list[str]:
    """The turns before the sentence with a role tag for each speaker, as in figure 11."""
    from model.spoken import Spoken

    places = {speaker: at for at, speaker in enumerate(dict.fromkeys(t.speaker for t in item.turns))}
    return [Spoken(turn.text, places[turn.speaker]).line for turn in item.turns[:-1]]


def _card(
    study: Study,
    found: Judgements,
    pairs: list[Preference],
    without: Counter[str],
    margin: float,
    people: int,
) -> str:
    splits = Counter(pair.item.split for pair in pairs)
    files = "\n".join(f"  - split: {split}\n    path: {split}.parquet" for split in sorted(splits))
    counts = "\n".join(f"| {split} | {count} |" for split, count in sorted(splits.items()))
    wins = Counter(pair.chosen for pair in pairs)
    best = ", ".join(f"{study.systems[name]} {count}" for name, count in wins.most_common())
    left = ", ".join(f"{count} {why}" for why, count in sorted(without.items())) or "none"
    null = {"cosine", "candidate_prompt, engine, weights, settings, seed", "scorer", "rejected_emotion"}
    told = COLUMNS | {
        "chosen": "one assistant message: the reply that people judged best",
        "rejected": "one assistant message: the reply that they judged worst",
    }
    columns = "\n".join(f"| {name} | {what} |" for name, what in told.items() if name not in null)
    return f"""---
configs:
- config_name: default
  data_files:
{files}
task_categories:
- text-generation
tags:
- preference
- emotion
---

# Preference pairs judged by people

Of each conversation of a study the reply that people judged best (chosen) and the one that they judged worst (rejected), by the
mean of both questions on three points (arXiv 2412.17572, section 5.2).

| split | rows |
|---|---|
{counts}

- **{_use(study)}**
- **People**: {len(found.counted)} whose judgements count; at least {people} of them judged each reply, and the two differ by
  {margin:g} points or more.
- **Chosen replies** by: {best}. No pair from: {left}.
- **Sources**: the dialogues' texts are their datasets' and fall under their licences.

| column | |
|---|---|
{columns}
| engine | the system that wrote the rejected reply |
| cosine, candidate_prompt, weights, settings, seed, scorer, rejected_emotion | null: no scorer chose these pairs |
"""


def _use(study: Study) -> str:
    if study.of_pairs:
        return "May train EPO: those of train teach, those of dev choose the checkpoint."
    return "Evaluated on: rungs are measured on these exchanges, and what is trained on them must be measured elsewhere."


# People beside a judge --------------------------------------------------------------------------------


def beside_judge(
    found: Judgements, judged: list[dict], settings: BootstrapSettings | None = None
) -> list[dict]:
    """How far people and an LLM judge agree on who replies better: quadratically weighted kappa by pair and question,
    with an interval over dialogues.

    judged: the facts of judge-SECOND.json. Of each exchange that both compared the people's outcome is the sign of the mean
    difference of all who judged both replies.
    """
    items = {tuple(key): item for item, key in found.keys.items()}
    made = []
    for facts in judged:
        if not {facts["first"], facts["second"]} <= found.systems.keys():
            continue
        for asked, question in JUDGE_QUESTIONS.items():
            machine, people, dialogues = [], [], []
            for row in facts["rows"]:
                item = items.get((*row["key"][:3], int(row["key"][3])))
                if row["failure"] is None and row[asked] is not None and item is not None:
                    outcome = _outcome(found, item, facts["first"], facts["second"], question)
                    if outcome is not None:
                        machine.append(row[asked])
                        people.append(outcome)
                        dialogues.append(tuple(row["key"][:3]))
            kappa = kappa_interval(machine, people, OUTCOMES, dialogues, settings)
            same = sum(a == b for a, b in zip(machine, people, strict=True))
            made.append(
                {
                    "first": facts["first"],
                    "second": facts["second"],
                    "question": question,
                    **with_ends("kappa", kappa),
                    "exchanges": len(machine),
                    "same": same,
                }
            )
    return made


def _outcome(found: Judgements, item: str, first: str, second: str, question: str) -> str | None:
    """ "first", "second" or "tie"; None where nobody judged both."""
    said: dict[str, dict[int, int]] = {first: {}, second: {}}
    for row in _counted(found):
        if row.item == item and row.question == question and row.system in said:
            said[row.system][row.participant] = row.value
    both = said[first].keys() & said[second].keys()
    if not both:
        return None
    difference = sum(said[first][person] - said[second][person] for person in both)
    return "first" if difference > 0 else "second" if difference < 0 else "tie"
