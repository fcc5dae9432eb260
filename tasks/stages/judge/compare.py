"""Stage `judge`: an LLM compares two systems' replies to the same exchanges, in both orders.

A verdict is one that both orders give. A call that failed, or whose answer cannot be read, is a failure with its reason and
counts for neither. Replies that are equal word for word are not asked about. Knows nothing of how a judge is worded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from model.generation.protocol import NO_REPLY, GenerationRequest, Message, request_seed
from model.metrics.bootstrap import bootstrap_share
from model.metrics.judge import QUESTIONS, Question, Winner, both_orders, judge_prompt, read_judgement
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import FEW, LEAST_DIALOGUES, NO_DIFFERENCE
from storage.answers import Reply
from storage.shards import read_table, row_to_reply
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.asked import AskedModel
from tasks.stages.examples import read_dialogues, tagged
from tasks.stages.floors import replies_beside
from tasks.stages.judge.settings import JudgeSettings
from tasks.stages.selection import spread

UNREADABLE = "unreadable"
"""Why there is no judgement where the answer does not say A, B or tie for each question."""


def judge_pair(
    first: Ref,
    second: Ref | None,
    utterances: list[Ref],
    llm: Weights,
    settings: JudgeSettings,
    intervals: BootstrapSettings,
    work: Workspace,
    beside: str = "",
) -> list[Ref]:
    """Output: judge-SECOND.json: counts, and for each question who wins how often, with every row.

    first, second: replies of two systems, compared where both answered. beside: one of BESIDE in the place of a second
    system.
    """
    answered = _replies(first, work)
    other = beside or (second.name.split("/")[-1] if second is not None else "")
    said = replies_beside(beside, answered) if second is None else _replies(second, work)
    ours, theirs = ({reply.key: reply for reply in of} for of in (answered, said))
    common = [ours[key] for key in sorted(ours.keys() & theirs.keys())]
    chosen = sorted(spread(common, settings.exchanges, settings.seed, "judge.exchanges"), key=lambda r: r.key)
    differing = [reply for reply in chosen if reply.reply != theirs[reply.key].reply]
    dialogues = read_dialogues(work.store, utterances, "test", "dev")
    asked = {}
    for reply in differing:
        dialogue = dialogues[reply.key[:3]]
        at = next(i for i, utterance in enumerate(dialogue) if utterance.turn == reply.turn)
        history = tagged(dialogue)[max(0, at - settings.history) : at]
        asked[reply.key] = tuple(
            _request(judge_prompt(history, reply.sentence, *shown), settings)
            for shown in ((reply.reply, theirs[reply.key].reply), (theirs[reply.key].reply, reply.reply))
        )
    model = AskedModel("judge", other, settings.engine, llm.identity, work, paid=True)
    answers = model.answers({request.key: request for pair in asked.values() for request in pair})
    rows = [_row(reply, *(answers[request.key] for request in asked[reply.key])) for reply in differing]
    judged = [row for row in rows if row["failure"] is None]
    facts = {
        "first": first.name.split("/")[-1],
        "second": other,
        "judge": model.weights,
        "common": len(common),
        "exchanges": len(chosen),
        "identical": len(chosen) - len(differing),
        "failures": dict(sorted(Counter(row["failure"] for row in rows if row["failure"]).items())),
        "judged": len(judged),
        "questions": {question: _counted(question, judged, intervals) for question in QUESTIONS},
        "calls": len(answers),
        "retries": sum(answer["tries"] - 1 for answer in answers.values()),
        "prompt_tokens": sum(answer["prompt_tokens"] for answer in answers.values()),
        "reply_tokens": sum(answer["new_tokens"] for answer in answers.values()),
        "rows": rows,
    }
    return [work.store.put_bytes(f"judge-{other}.json", canonical(facts), rows=len(rows))]


def _replies(ref: Ref, work: Workspace) -> list[Reply]:
    return [row_to_reply(row) for row in read_table(work.store.read(ref), "replies")]


def _request(prompt: str, settings: JudgeSettings) -> GenerationRequest:
    messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
    seed = request_seed(messages, settings.engine.sampling)
    return GenerationRequest(f"{seed:016x}", messages, seed)


def _row(reply: Reply, straight: dict, turned: dict) -> dict:
    """An exchange's verdicts by question, None where the orders disagree; or why there is no judgement."""
    row: dict = {"key": list(reply.key), "failure": None}
    row.update(dict.fromkeys(QUESTIONS))
    failed = [answer["finish_reason"] for answer in (straight, turned) if answer["finish_reason"] in NO_REPLY]
    if failed:
        return {**row, "failure": failed[0]}
    read = [read_judgement(answer["text"]) for answer in (straight, turned)]
    if read[0] is None or read[1] is None:
        return {**row, "failure": UNREADABLE}
    return {**row, **both_orders(read[0], read[1])}


def _counted(question: Question, judged: list[dict], intervals: BootstrapSettings) -> dict:
    """Of the judged exchanges the share on which the orders agree; of those who wins, and the first system's share of the
    wins. Shares have intervals that resample dialogues; "grade" says whose share lies above a half.
    """
    agreed = [row for row in judged if row[question] is not None]
    decided = [row for row in agreed if row[question] != "tie"]
    share = _share([row[question] == "first" for row in decided], decided, intervals)
    return {
        "agreed": len(agreed),
        "agreement": _share([row[question] is not None for row in judged], judged, intervals),
        **{winner: sum(row[question] == winner for row in agreed) for winner in get_args(Winner)},
        "dialogues": len(_dialogues(decided)),
        "share": share,
        "grade": _grade(share, len(_dialogues(decided))),
    }


def _share(hits: Sequence[bool], rows: list[dict], intervals: BootstrapSettings) -> list[float] | None:
    """[share, low, high]; [share] where there is no interval, None of no rows."""
    found = bootstrap_share([float(hit) for hit in hits], [tuple(row["key"][:3]) for row in rows], intervals)
    known = [round(part, 6) for part in found if not math.isnan(part)]
    return known or None


def _dialogues(rows: list[dict]) -> set[tuple]:
    return {tuple(row["key"][:3]) for row in rows}


def _grade(share: list[float] | None, dialogues: int) -> str:
    """ "first", "second", or why that is not known."""
    if share is None or dialogues < LEAST_DIALOGUES:
        return FEW
    _, low, high = share
    return "first" if low > 0.5 else "second" if high < 0.5 else NO_DIFFERENCE
