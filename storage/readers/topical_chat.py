"""Reader of Topical-Chat: conversations of two crowd workers, one JSON object a file.

Its frequent and its rare part of valid and of test are read together. Knows nothing of media: there are none.
Source: the release's README; Gopalakrishnan et al., Interspeech 2019.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from storage.fetch.sources import FixedFiles, RemoteFile, Source
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    file_name,
    is_text,
    one_line,
    printable,
    read_splits,
    read_text,
    without_repeated_dialogues,
)
from storage.readers.dataset import Dataset
from storage.readers.published import Published
from storage.settings import DataSettings, LabelPolicy
from storage.utterance import Reject, Utterance

DATASET = "topical_chat"
FILES = {
    "train.json": "train",
    "valid_freq.json": "dev",
    "valid_rare.json": "dev",
    "test_freq.json": "test",
    "test_rare.json": "test",
}
READING_SETS = re.compile(r"(?:.*/)?reading_sets/.*")
"""What the workers had read, in files of the same names."""
CURIOUS = "curious to dive deeper"


def labels_by_choice(policy: LabelPolicy) -> dict[str, str | None]:
    return {CURIOUS: policy.topical_chat_curious}


LABELS = LabelTable(
    DATASET,
    {
        "angry": "angry",
        "disgusted": "disgust",
        "fearful": "fearful",
        "happy": "happy",
        "neutral": "neutral",
        "sad": "sad",
        "surprised": "surprise",
    },
    labels_by_choice,
)


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of Topical-Chat; a train.json alone is anybody's."""
    named = [p for p in paths if file_name(p) in FILES and not READING_SETS.fullmatch(p)]
    folders = {p.rpartition("/")[0] for p in named if file_name(p) != "train.json"}
    return [p for p in named if p.rpartition("/")[0] in folders]


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances in train, dev and test; dialogue_id the conversation's key, turn the place in its content."""
    read_file = partial(read_conversations, root, settings=settings)
    result = read_splits(DATASET, FILES, raw.files, read_file)
    return without_repeated_dialogues(result, key=lambda said: said[0].dialogue_id)


def read_conversations(root: Path, path: str, split: str, settings: DataSettings) -> Dialogues:
    """One file. RawDataError: it is not JSON, or not an object of conversations; LabelError: an unknown sentiment."""
    try:
        content = json.loads(read_text(root, path))
    except (ValueError, RecursionError) as error:
        raise RawDataError(f"{path}: not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise RawDataError(f"{path}: no object of conversations; download it again")
    result = Dialogues()
    for key, conversation in content.items():
        turns = conversation.get("content") if isinstance(conversation, dict) else None
        if not is_text(key) or not key.isprintable() or not isinstance(turns, list):
            result.rejects.append(
                Reject(DATASET, split, "", None, "bad_conversation", f"{path}: {printable(key)}")
            )
            continue
        for turn, said in enumerate(turns):
            where = f"{path} {key} turn {turn}"
            text, problem = text_of(said)
            if problem:
                result.rejects.append(Reject(DATASET, split, key, turn, problem, where))
                continue
            emotion = LABELS.target(said["sentiment"], where, settings.labels)
            result.utterances.append(
                Utterance(DATASET, split, key, turn, said["agent"], text, emotion, said["sentiment"].strip())
            )
    if content and not result.utterances:
        raise RawDataError(f"{path}: no conversation of Topical-Chat among {len(content)}; download it again")
    return result


def text_of(said: object) -> tuple[str, str]:
    """(the text of a turn on one line, why it is none)."""
    names = ("message", "agent", "sentiment")
    if not isinstance(said, dict) or not all(
        isinstance(said.get(n), str) and is_text(said[n]) for n in names
    ):
        return "", "bad_row"
    text = one_line(said["message"])
    return text, "" if text and said["agent"].strip() else "empty_text"


TEXTS = "https://raw.githubusercontent.com/alexa/Topical-Chat/master/conversations"


def published(split: str, dialogues: int, utterances: int, *labels: int) -> Published:
    """labels: of each spelling in this order."""
    names = (
        "Angry",
        "Curious to dive deeper",
        "Disgusted",
        "Fearful",
        "Happy",
        "Neutral",
        "Sad",
        "Surprised",
    )
    return Published(split, (split,), utterances, dialogues, dict(zip(names, labels, strict=False)))


ENTRY = Dataset(
    DATASET,
    "Topical-Chat",
    "conversations/valid_freq.json",
    claim,
    read,
    LABELS,
    source=Source(
        "Topical-Chat (Gopalakrishnan et al., Interspeech 2019)",
        "CDLA-Sharing-1.0",
        "https://github.com/alexa/Topical-Chat/blob/master/DATALICENSE",
        (FixedFiles(tuple(RemoteFile(f"conversations/{name}", f"{TEXTS}/{name}") for name in FILES)),),
        "nothing to unpack",
    ),
    # The rare and the frequent part together; the labels of train stand nowhere.
    published=(
        published("train", 8628, 188_378),
        published("dev", 1078, 23_373, 152, 9863, 215, 80, 3570, 5067, 306, 4120),
        published("test", 1078, 23_530, 105, 10_411, 200, 68, 3658, 5362, 231, 3495),
    ),
    not_needed=re.compile(
        rf"{READING_SETS.pattern}|(?:.*/)?(?:README[^/]*|DATALICENSE[^/]*|LICENSE[^/]*|NOTICE[^/]*|CONTRIBUTING[^/]*|"
        r"CODE_OF_CONDUCT[^/]*|\.git[^/]*/?|(?:src|images)/.*)"
    ),
)
