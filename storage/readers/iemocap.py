"""Reader of IEMOCAP: transcriptions, consensus labels, sentence wavs and dialogue avis.

Knows nothing of decoding. The release has no official split; its utterances leave here without one.
Source: the release's documentation; Busso et al., 2008.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from storage.fetch.sources import Source
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    choose_copy,
    choose_file,
    copies_note,
    draw_test_split,
    lines_of,
    read_text,
)
from storage.readers.dataset import Dataset
from storage.readers.published import Published
from storage.settings import DataSettings, LabelPolicy
from storage.utterance import SPLITS, Reject, Utterance

DATASET = "iemocap"
DIALOGUE = r"(Ses0[1-5][FM]_[A-Za-z0-9_]+)"
TRANSCRIPTION = re.compile(rf"((?:.*/)?Session[1-5])/dialog/transcriptions/{DIALOGUE}\.txt")
# The folder itself only: Categorical/, Attribute/ and Self-evaluation/ repeat the ids in other formats.
EVALUATION = re.compile(rf"((?:.*/)?Session[1-5])/dialog/EmoEvaluation/{DIALOGUE}\.txt")
VIDEO = re.compile(rf"((?:.*/)?Session[1-5])/dialog/avi/(?:DivX/)?{DIALOGUE}\.avi")
AUDIO = re.compile(rf"((?:.*/)?Session[1-5])/sentences/wav/{DIALOGUE}/([A-Za-z0-9_]+)\.wav")

SECONDS = r"[0-9]{1,6}(?:\.[0-9]{1,9})?"
TURN_LINE = re.compile(
    r"(?P<id>Ses0[1-5][FM]_[A-Za-z0-9_]+_[FM](?:[0-9]{3}|XX[0-9]+))\s+"
    rf"\[(?P<start>{SECONDS})-(?P<end>{SECONDS})\]:\s*(?P<text>.*)"
)
LABEL_LINE = re.compile(rf"\[({SECONDS}) - ({SECONDS})\]\t(\S+)\t(\S+)\t\[.*\]")
TAGS = re.compile(r"\s*(?:\[[A-Za-z]+\]\s*)+")


def labels_by_choice(policy: LabelPolicy) -> dict[str, str | None]:
    return {"exc": policy.iemocap_excited, "fru": policy.iemocap_frustrated}


LABELS = LabelTable(
    DATASET,
    {
        "ang": "angry",
        "dis": "disgust",
        "fea": "fearful",
        "hap": "happy",
        "neu": "neutral",
        "sad": "sad",
        "sur": "surprise",
        "oth": None,
        "xxx": None,
    },
    labels_by_choice,
)


@dataclass(frozen=True)
class Line:
    """One transcribed turn, before order gives it its number."""

    utterance_id: str
    start: float
    end: float
    text: str


@dataclass
class Session:
    """The text of one session: turns in order, labels of each dialogue, and rejects."""

    turns: dict[str, list[Line]] = field(default_factory=dict)
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    defects: list[Reject] = field(default_factory=list)
    rows: int = 0


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of IEMOCAP; none where there is no transcription."""
    if not any(TRANSCRIPTION.fullmatch(p) for p in paths):
        return []
    return [p for p in paths if any(kind.fullmatch(p) for kind in (TRANSCRIPTION, EVALUATION, VIDEO, AUDIO))]


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances of all sessions, split empty, turn = position in time order within the dialogue."""
    result = Dialogues()
    ignored: list[str] = []
    audio, video = index_media(root, raw.files)
    for copies in session_folders(raw.files):
        session, others = choose_copy(
            DATASET, copies, lambda folder: read_session(root, raw.files, folder), normalised_rows
        )
        ignored += others
        result.rejects += session.rejects
        result.defects += session.defects
        result.rows += session.rows
        for dialogue in sorted(session.turns):
            result.utterances += build_dialogue(dialogue, session, audio, video, settings)
    result.notes += copies_note(DATASET, ignored) + coverage_notes(result.utterances)
    unused = len(audio.keys() - {u.rpartition("/")[2][:-4] for u in used_audio(result.utterances)})
    if unused:
        result.notes.append(f"{DATASET}: {unused} wavs without a transcribed turn, not used")
    return result


def session_folders(paths: tuple[str, ...]) -> list[list[str]]:
    """For each session number in order, the folders that hold it (several: copies)."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        match = TRANSCRIPTION.fullmatch(path)
        if match:
            folders.setdefault(match[1].rpartition("/")[2], set()).add(match[1])
    return [sorted(folders[name]) for name in sorted(folders)]


def choose_test_dialogues(name: str, dialogues: set[str], settings: DataSettings) -> set[str]:
    """Those of the session to be left out, or a share of all. RawDataError: there is no such session."""
    session = settings.iemocap_test_session
    if session is None:
        return draw_test_split(dialogues, settings.iemocap_test_share, settings.seed, name)
    left_out = {dialogue for dialogue in dialogues if session_of(dialogue) == session}
    if not left_out:
        raise RawDataError(f"{name}: no Session{session} to leave out as test")
    return left_out


def session_of(dialogue: str) -> int:
    """The number of the session a dialogue belongs to: Ses05M_script01_1 -> 5."""
    return int(dialogue[3:5])


def read_session(root: Path, paths: tuple[str, ...], folder: str) -> Session:
    session = Session()
    for path in paths:
        match = TRANSCRIPTION.fullmatch(path)
        if match and match[1] == folder:
            session.turns[match[2]] = read_turns(root, path, match[2], session)
    for path in paths:
        match = EVALUATION.fullmatch(path)
        if match and match[1] == folder:
            read_labels(root, path, match[2], session)
    return session


def read_turns(root: Path, path: str, dialogue: str, session: Session) -> list[Line]:
    """The turns of one transcription in conversation order: by (start, end), ties as in the file.

    Lines without a numbered id of this dialogue (bare speaker lines, XX ids, which have neither label nor
    wav) are rejected. Turns overlap in time, since segments carry silence: that is no fault.
    """
    lines: list[Line] = []
    seen: set[str] = set()
    for number, line in enumerate(lines_of(read_text(root, path)), start=1):
        if not line.strip():
            continue
        session.rows += 1
        where = f"{path} line {number}"
        match = TURN_LINE.fullmatch(line.strip())
        reason = "junk_line" if match is None else turn_problem(match, dialogue, seen)
        if match is None or reason:
            session.rejects.append(
                Reject(DATASET, "", dialogue, None, reason, f"{where}: {line.strip()[:80]}")
            )
            continue
        seen.add(match["id"])
        lines.append(Line(match["id"], float(match["start"]), float(match["end"]), match["text"].strip()))
    return sorted(lines, key=lambda turn: (turn.start, turn.end))


def turn_problem(match: re.Match, dialogue: str, seen: set[str]) -> str:
    owner, _, last = match["id"].rpartition("_")
    if "XX" in last:
        return "xx_id"
    # Compared as a whole: Ses05M_script01_1 is a prefix of Ses05M_script01_1b.
    if owner != dialogue:
        return "foreign_id"
    if match["id"] in seen:
        return "duplicate"
    if float(match["end"]) < float(match["start"]):
        return "ends_before_it_starts"
    return "" if match["text"].strip() else "empty_text"


def read_labels(root: Path, path: str, dialogue: str, session: Session) -> None:
    """Add the consensus labels of one file to the session. The file lists all F turns, then all M turns.

    A label line that labels no turn costs no row; it is a defect.
    """
    known = {turn.utterance_id for turn in session.turns.get(dialogue, [])}
    for number, line in enumerate(lines_of(read_text(root, path)), start=1):
        where = f"{path} line {number}"
        if not line.startswith("["):
            continue  # header, blank line, or a vote below its summary line
        match = LABEL_LINE.fullmatch(line.strip())
        if match is None:
            reason = "bad_label_line"
        elif match[3] not in known:
            reason = "label_without_text"
        elif match[3] in session.labels:
            reason = "duplicate_label"
        else:
            session.labels[match[3]] = (match[4], where)
            continue
        session.defects.append(Reject(DATASET, "", dialogue, None, reason, f"{where}: {line.strip()[:80]}"))


def normalised_rows(session: Session) -> tuple:
    labels = {utterance: label for utterance, (label, _) in session.labels.items()}
    faults = sorted((r.dialogue_id, r.reason) for r in session.rejects + session.defects)
    return session.turns, labels, faults


def index_media(root: Path, paths: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """(utterance id -> wav, dialogue -> avi); of several files the shallowest."""
    found: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for path in paths:
        if match := AUDIO.fullmatch(path):
            found[0].setdefault(match[3], []).append(path)
        elif match := VIDEO.fullmatch(path):
            found[1].setdefault(match[2], []).append(path)
    audio, video = (
        {name: choose_file(root, f"{DATASET}: {name}", copies)[0] for name, copies in kind.items()}
        for kind in found
    )
    return audio, video


def used_audio(utterances: list[Utterance]) -> list[str]:
    return [u.audio_path for u in utterances if u.audio_path]


def build_dialogue(
    dialogue: str, session: Session, audio: dict[str, str], video: dict[str, str], settings: DataSettings
) -> list[Utterance]:
    """Utterances of one dialogue.

    The letter in the dialogue's name is the actor who wears the markers and sits on the left; who speaks
    is the letter of the last token of the utterance id.
    """
    result = []
    avi = video.get(dialogue)
    for turn, line in enumerate(session.turns[dialogue]):
        letter = line.utterance_id.rpartition("_")[2][0]
        raw, where = session.labels.get(line.utterance_id, (None, ""))
        result.append(
            Utterance(
                dataset=DATASET,
                split="",
                dialogue_id=dialogue,
                turn=turn,
                speaker=dialogue[:5] + letter,
                text=line.text,
                emotion=None if raw is None else LABELS.target(raw, where, settings.labels),
                emotion_raw=raw,
                video_path=avi,
                audio_path=audio.get(line.utterance_id),
                start=line.start if avi else None,
                end=line.end if avi else None,
                side=("left" if letter == dialogue[5] else "right") if avi else None,
                seconds=round(line.end - line.start, 4),
            )
        )
    return result


def coverage_notes(utterances: list[Utterance]) -> list[str]:
    notes = []
    unlabelled = sum(u.emotion_raw is None for u in utterances)
    if unlabelled:
        notes.append(f"{DATASET}: {unlabelled} utterances without a consensus label line, kept as context")
    tags = sum(TAGS.fullmatch(u.text) is not None for u in utterances)
    if tags:
        notes.append(f"{DATASET}: {tags} utterances are sounds alone, such as [LAUGHTER]")
    for kind, missing in (
        ("audio", sum(u.audio_path is None for u in utterances)),
        ("video", sum(u.video_path is None for u in utterances)),
    ):
        if missing == len(utterances):
            notes.append(f"{DATASET}: no {kind}")
        elif missing:
            notes.append(f"{DATASET}: {missing} utterances without {kind}")
    return notes


ENTRY = Dataset(
    DATASET,
    "IEMOCAP",
    "Session1/dialog/transcriptions/Ses01F_impro01.txt",
    claim,
    read,
    LABELS,
    test_parts=choose_test_dialogues,
    source=Source(
        "IEMOCAP (Busso et al., 2008)",
        "an agreement with USC's SAIL, for each user",
        "https://sail.usc.edu/iemocap/",
        None,
        "ask for it with the form at https://sail.usc.edu/iemocap/iemocap_release.htm, then unpack the archive "
        "that you are sent and name its folder with --raw",
    ),
    not_needed=re.compile(
        r"(?:.*/)?(?:README[^/]*|Documentation/.*|Session[1-5]/(?:dialog/(?:lab|wav)/.*|dialog/MOCAP_[^/]+/|"
        r"dialog/EmoEvaluation/(?:Attribute|Categorical|Self-evaluation)/.*|"
        r"sentences/(?:ForcedAlignment|MOCAP_[^/]+)/))"
    ),
    published=(
        Published(
            "five sessions", SPLITS, 10_039, 151,
            {"ang": 1103, "dis": 2, "exc": 1041, "fea": 40, "fru": 1849, "hap": 595, "neu": 1708, "oth": 3,
             "sad": 1084, "sur": 107, "xxx": 2507},
        ),
    ),
)  # fmt: skip
