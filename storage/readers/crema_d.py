"""Reader of CREMA-D: acted sentences described by their file names; sound from the wavs, pictures from the flvs.

One utterance for each clip: no dialogue, and no reply. The release has no official split; its utterances leave
here without one. Knows nothing of decoding.
Source: the release's README; Cao et al., 2014.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from storage.fetch.sources import FixedFiles, NamedInCsv, RemoteFile, Source
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    choose_copy,
    choose_file,
    copies_note,
    fields_of,
    file_name,
    is_pointer_file,
    lines_of,
    read_text,
)
from storage.readers.dataset import Dataset, share_of_actors
from storage.readers.known_bad import KnownBad
from storage.readers.published import Published
from storage.settings import DataSettings
from storage.utterance import SPLITS, Reject, Utterance

DATASET = "crema_d"
LABELS = LabelTable(
    DATASET,
    {
        "ang": "angry",
        "dis": "disgust",
        "fea": "fearful",
        "hap": "happy",
        "neu": "neutral",
        "sad": "sad",
        "a": "angry",
        "d": "disgust",
        "f": "fearful",
        "h": "happy",
        "n": "neutral",
        "s": "sad",
    },
)
"""The acted emotion in a file's name, and the letters of the votes."""
NAME = re.compile(
    r"(?P<actor>10[0-8][0-9]|109[01])_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>LO|MD|HI|XX)"
)
MEDIA = re.compile(r"([0-9]{4}_[A-Z]{3}_[A-Z]{3}_[A-Z]{2})\.(wav|mp3|flv)")
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
VOTES_FILE = "summaryTable.csv"
VOTE_COLUMNS = ("FileName", "MultiModalVote")
TIE = ":"
"""Joins the emotions of a tied vote: "F:N"."""


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of CREMA-D; none where there is no clip (the votes alone are no data)."""
    media = [p for p in paths if MEDIA.fullmatch(file_name(p))]
    votes = [p for p in paths if file_name(p) == VOTES_FILE]
    return sorted(media + votes) if media else []


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """One utterance for each clip, split empty, dialogue_id its name, turn 0.

    RawDataError: only Git LFS pointers lie there (a clone without git-lfs), or two files of one name differ.
    """
    result = Dialogues()
    votes: dict[str, str] | None = None
    if settings.crema_d_label == "votes":
        votes = read_all_votes(raw, root, settings, result)
    for name, files in sorted(index_clips(root, raw.files, result).items()):
        result.rows += 1
        match = NAME.fullmatch(name)
        if match is None or match["sentence"] not in SENTENCES:
            result.rejects.append(Reject(DATASET, "", name, 0, "bad_name", ", ".join(files.values())))
            continue
        label = match["emotion"] if votes is None else votes.get(name, "")
        where = next(iter(files.values()))
        result.utterances.append(
            Utterance(
                DATASET,
                "",
                name,
                0,
                speaker=match["actor"],
                text=SENTENCES[match["sentence"]],
                emotion=emotion_of(label, where, settings),
                emotion_raw=label,
                video_path=files.get("flv"),
                # The flv's sound is compressed, and some flvs were released without any.
                audio_path=files.get("wav") or files.get("mp3") or files.get("flv"),
            )
        )
    result.notes += notes(result.utterances)
    return result


def index_clips(root: Path, paths: tuple[str, ...], result: Dialogues) -> dict[str, dict[str, str]]:
    """Clip -> suffix -> file."""
    found: dict[tuple[str, str], list[str]] = {}
    pointers = []
    for path in paths:
        if match := MEDIA.fullmatch(file_name(path)):
            if is_pointer_file(root / path):
                pointers.append(path)
            else:
                found.setdefault((match[1], match[2]), []).append(path)
    if pointers and not found:
        raise RawDataError(
            f"{DATASET}: {pointers[0]} and {len(pointers) - 1} more are Git LFS pointers, not media; "
            "run `git lfs pull` in the clone"
        )
    result.defects += [Reject(DATASET, "", "", None, "lfs_pointer", path) for path in pointers]
    clips: dict[str, dict[str, str]] = {}
    for (name, suffix), files in found.items():
        clips.setdefault(name, {})[suffix], _ = choose_file(root, f"{DATASET}: {name}", files)
    return clips


def emotion_of(label: str, where: str, settings: DataSettings) -> str | None:
    """The target of a label: an emotion acted or voted for; a tie, and no vote, have none."""
    if TIE in label or not label:
        return None
    return LABELS.target(label, where, settings.labels)


def read_all_votes(raw: RawDataset, root: Path, settings: DataSettings, result: Dialogues) -> dict[str, str]:
    """Clip -> multimodal vote. RawDataError where there is no table of votes."""
    files = [p for p in raw.files if file_name(p) == VOTES_FILE]
    if not files:
        raise RawDataError(
            f"{DATASET}: no {VOTES_FILE}, which data.crema_d_label=votes reads; "
            "download it or take the intended labels"
        )
    (votes, rejects), others = choose_copy(
        DATASET, files, lambda path: read_votes(root, path, settings), lambda parsed: parsed[0]
    )
    result.defects += rejects
    result.notes += copies_note(DATASET, others)
    return votes


def read_votes(root: Path, path: str, settings: DataSettings) -> tuple[dict[str, str], list[Reject]]:
    """The table's multimodal votes by clip, and its lines that are no votes. LabelError: an unknown vote."""
    lines = lines_of(read_text(root, path))
    header = [name.lower() for name in fields_of(lines[0])]
    missing = [name for name in VOTE_COLUMNS if name.lower() not in header]
    if missing:
        raise RawDataError(f"{path}: columns missing: {', '.join(missing)}; download it again")
    places = [header.index(name.lower()) for name in VOTE_COLUMNS]
    votes: dict[str, str] = {}
    rejects = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = fields_of(line)
        name, vote = (fields[place] for place in places) if len(fields) == len(header) else ("", "")
        where = f"{path} line {number}"
        if NAME.fullmatch(name) is None or name in votes:
            reason = "duplicate_vote" if name in votes else "bad_vote_line"
            rejects.append(Reject(DATASET, "", "", None, reason, f"{where}: {line[:80]}"))
            continue
        for part in vote.split(TIE):
            LABELS.target(part, where, settings.labels)
        votes[name] = vote
    return votes, rejects


def notes(utterances: Iterable[Utterance]) -> list[str]:
    notes = []
    for kind, missing in (
        ("picture", sum(u.video_path is None for u in utterances)),
        ("sound of its own (the flv's is taken)", sum(u.audio_path == u.video_path for u in utterances)),
        ("label: a tie, or no vote", sum(u.emotion is None for u in utterances)),
    ):
        if missing:
            notes.append(f"{DATASET}: {missing} clips without a {kind}")
    return notes


README = "CheyneyComputerScience/CREMA-D README and issue 8"
REPOSITORY = "CheyneyComputerScience/CREMA-D/master"
TEXTS = f"https://raw.githubusercontent.com/{REPOSITORY}"

ENTRY = Dataset(
    DATASET,
    "CREMA-D",
    "1001_IEO_ANG_HI.wav",
    claim,
    read,
    LABELS,
    test_parts=share_of_actors,
    single_clips=True,
    source=Source(
        "CREMA-D (Cao et al., IEEE TAC 2014)",
        "ODbL 1.0, contents under DbCL 1.0",
        "https://github.com/CheyneyComputerScience/CREMA-D/blob/master/LICENSE.txt",
        (
            FixedFiles(
                (
                    RemoteFile(
                        "processedResults/summaryTable.csv", f"{TEXTS}/processedResults/summaryTable.csv"
                    ),
                    RemoteFile("VideoDemographics.csv", f"{TEXTS}/VideoDemographics.csv"),
                )
            ),
            NamedInCsv(
                f"{TEXTS}/SentenceFilenames.csv",
                "Filename",
                f"https://media.githubusercontent.com/media/{REPOSITORY}",
                ("AudioWAV/{}.wav", "VideoFlash/{}.flv"),
            ),
        ),
        "nothing to unpack",
    ),
    known_bad=(
        KnownBad(None, "1076_MTI_SAD_XX", 0, "media", "no sound, and an error picture", README),
        KnownBad(None, "1064_IEO_DIS_MD", 0, "media", "a minute with every emotion", README),
        KnownBad(None, "1076_MTI_NEU_XX", 0, "flag", "the flv has no sound; the wav has", README),
        KnownBad(None, "1064_TIE_SAD_XX", 0, "flag", "the flv states no length", README),
    ),
    not_needed=re.compile(
        r"(?:.*/)?(?:\.git[^/]*/?|README[^/]*|LICENSE[^/]*|[^/]+\.R|processedResults/[^/]+|SentenceFilenames\.csv|"
        r"VideoDemographics\.csv|finished(?:Emo)?Responses\.csv|Finished[^/]*\.csv)"
    ),
    published=(
        Published(
            "91 actors",
            SPLITS,
            7442,
            None,
            {"ANG": 1271, "DIS": 1271, "FEA": 1271, "HAP": 1271, "NEU": 1087, "SAD": 1271},
        ),
    ),
)
