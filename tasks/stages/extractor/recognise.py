"""Stage `extractor.test`: the finished extractor on test clips -> figure 6. Knows nothing of the method itself.

Nothing was chosen on these clips: where a dataset has no test split and dev stands in, which is said, they are of the
dialogues of dev that chose nothing.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from model.extractor.recognise import EMOTIONS
from model.extractor.recognition import Answers, recognised
from model.extractor.rows import INPUT_SETTINGS, EmotionExample
from model.extractor.settings import RecognitionSettings
from model.metrics.bootstrap import ROUNDING, Interval, bootstrap_of, bootstrap_share
from model.metrics.emotion_of import agreement
from model.metrics.mcnemar import mcnemar
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import verdict
from model.zoo.resolve import resolve
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import emotion_examples, that_are_evaluated
from tasks.stages.selection import spread

TEXT = "T"


def recognise_test(
    utterances: list[Ref],
    features: list[Ref],
    extractor: Ref,
    settings: RecognitionSettings,
    dtype: str,
    threads: int | None,
    intervals: BootstrapSettings,
    llm: Weights,
    work: Workspace,
    stand_ins: tuple[str, ...] = (),
    single_clips: tuple[str, ...] = (),
) -> list[Ref]:
    """Output: recognition.json, see `figure_6`, with the clips' splits and how many there were to choose from."""
    found = {
        split: emotion_examples(work.store, utterances, features, split, single_clips=single_clips)
        for split in ("test", "dev")
    }
    splits = {clip.dataset: split for split in ("dev", "test") for clip in found[split]}
    evaluated_clips = [
        clip for split, clips in found.items() for clip in clips if splits[clip.dataset] == split
    ]
    evaluated_clips = that_are_evaluated(evaluated_clips, work.store, utterances, stand_ins)
    clips = spread(evaluated_clips, settings.clips, settings.seed, "recognition.clips")
    clips.sort(key=lambda clip: clip.key)
    if threads is not None:
        torch.set_num_threads(threads)
    answers, others = recognised(
        resolve(llm.name),
        work.folder(extractor),
        clips,
        settings.batch_size,
        dtype,
        work.progress,
    )
    facts = figure_6(clips, answers, others, intervals)
    facts |= {"splits": dict(sorted(splits.items())), "there": len(evaluated_clips)}
    return [work.store.put_bytes("recognition.json", canonical(facts), rows=len(clips))]


def figure_6(
    clips: Sequence[EmotionExample], answers: Answers, others: Answers, intervals: BootstrapSettings
) -> dict:
    """{"clips", "dialogues" (or actors), "accuracy": by input setting, "accuracy_by_dataset"}; see `_setting`.

    "mcnemar", "mcnemar_by_dataset": every two settings on the clips that both have, see `_compared`.
    """
    by_dataset = {
        name: [i for i, clip in enumerate(clips) if clip.dataset == name]
        for name in sorted({clip.dataset for clip in clips})
    }

    def part(rows: Sequence[int]) -> dict:
        found = (
            (name, _setting(name, [i for i in rows if answers[i][name]], clips, answers, others, intervals))
            for name in INPUT_SETTINGS
        )
        return {name: figures for name, figures in found if figures["clips"]}

    return {
        "clips": len(clips),
        "dialogues": len({clip.group for clip in clips}),
        "answers": list(EMOTIONS),
        "accuracy": part(range(len(clips))),
        "accuracy_by_dataset": {name: part(rows) for name, rows in by_dataset.items()},
        "mcnemar": _compared(range(len(clips)), clips, answers),
        "mcnemar_by_dataset": {name: _compared(rows, clips, answers) for name, rows in by_dataset.items()},
    }


def _compared(rows: Sequence[int], clips: Sequence[EmotionExample], answers: Answers) -> list[dict]:
    """Every two input settings by McNemar's exact test, on the clips that have both; no clip, no line."""
    found = []
    for first, second in combinations(INPUT_SETTINGS, 2):
        both = [i for i in rows if answers[i][first] and answers[i][second]]
        if both:
            right = [[answers[i][name] == clips[i].emotion for i in both] for name in (first, second)]
            found.append({"first": first, "second": second, **mcnemar(*right).as_dict()})
    return found


def _setting(
    name: str,
    rows: Sequence[int],
    clips: Sequence[EmotionExample],
    answers: Answers,
    others: Answers,
    intervals: BootstrapSettings,
) -> dict:
    """One bar: accuracy with its interval (clips of one dialogue or actor are drawn together, `bootstrap_share`).

    "balanced": mean accuracy of the emotions that occur, "balanced_ci": its interval. "majority": share of the commonest
    label. "other": accuracy with another clip's features; "over_other", "over_text": verdicts on the share right beyond
    that, and beyond text alone, over the same clips. "confusion": label -> answer -> clips.
    """
    right = {i: float(answers[i][name] == clips[i].emotion) for i in rows}
    labels = Counter(clips[i].emotion for i in rows)
    confusion: dict[str, Counter] = defaultdict(Counter)
    for i in rows:
        confusion[clips[i].emotion][answers[i][name]] += 1
    groups = [clips[i].group for i in rows]
    found = bootstrap_share(list(right.values()), groups, intervals)
    balanced = _balanced([clips[i].emotion for i in rows], list(right.values()), groups, intervals)
    compared = {i: float(others[i][name] == clips[i].emotion) for i in rows if others[i][name]}
    spoken = {} if name == TEXT else {i: float(answers[i][TEXT] == clips[i].emotion) for i in rows}

    def beyond(control: dict[int, float]) -> dict | None:
        gains = [right[i] - share for i, share in control.items()]
        return verdict(gains, [clips[i].group for i in control], intervals).as_dict() if control else None

    return {
        "clips": len(rows),
        "dialogues": len(set(groups)),
        "accuracy": _mean(right),
        "accuracy_ci": _ends(found),
        "balanced": round(balanced.mean, 6) if rows else None,
        "balanced_ci": _ends(balanced),
        "majority": round(max(labels.values()) / len(rows), 6) if rows else None,
        "other": _mean(compared),
        "over_other": beyond(compared),
        "over_text": beyond(spoken),
        "confusion": {label: dict(sorted(said.items())) for label, said in sorted(confusion.items())},
    }


def _balanced(
    emotions: list[str], right: list[float], groups: list[str], intervals: BootstrapSettings
) -> Interval:
    """The mean accuracy of the emotions that occur; without an interval where it did not vary."""
    kinds = sorted(set(emotions))
    there = np.array([[float(emotion == kind) for kind in kinds] for emotion in emotions])
    counts = np.hstack([there, there * np.array(right)[:, None]]) if emotions else np.zeros((0, 0))
    found = bootstrap_of(counts, groups, agreement, intervals)
    return found if found.high - found.low > ROUNDING else Interval(found.mean, math.nan, math.nan)


def _ends(found: Interval) -> list[float] | None:
    """Of a share's interval, within 0 and 1."""
    return None if math.isnan(found.low) else [round(max(0.0, found.low), 6), round(min(1.0, found.high), 6)]


def _mean(shares: dict[int, float]) -> float | None:
    return round(sum(shares.values()) / len(shares), 6) if shares else None
