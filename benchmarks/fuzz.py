"""Damaged and invented raw files through every text reader and the archive reader: `make bench NAME=fuzz`.

At least 10,000 inputs a parser: half of them real files (or files in a release's layout) with bytes damaged, half
made by hypothesis from the pieces such files consist of. An input may be refused with the one clear line of an
InputError; it may not crash a reader, hang it, or lose a row: what the reader counts must be what an independent
look at the text counts, and every row must become an utterance or a reject that a shard can hold. Damaged media
are the business of fuzz_media.py, where it is there.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import random
import re
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from storage import archives, inflate
from storage.errors import InputError
from storage.readers import (
    crema_d,
    iemocap,
    meld,
    multidialog,
    multidialog_media,
    multidialog_metadata,
    ravdess,
)
from storage.readers.common import RawDataset
from storage.settings import DataSettings
from storage.shards import reject_to_row, utterance_to_row, write_table
from storage.utterance import Reject, Utterance

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
INPUTS = 10_000
HANG_S = 5
SHARD_EVERY = 20
"""One input in so many is written as shards too, which costs more than reading it."""
READ = DataSettings()
CONVERSATION = "t_ffa55df6-114d-4b36-87a1-7af6b8b63d9b"


@dataclass
class Verdict:
    """What became of the inputs of one parser."""

    inputs: int = 0
    refused: int = 0
    rows: int = 0
    crashed: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def failures(self) -> list[str]:
        return self.crashed + self.hung + self.uncounted


@dataclass(frozen=True)
class Counted:
    """A reader's answer: the rows it counts, those an independent look counts, and what they became."""

    counted: int
    expected: int
    utterances: list[Utterance]
    rejects: list[Reject]
    kept: int | None = None
    """Rows that became something that is no utterance; None: the utterances are all."""


@dataclass(frozen=True)
class Parser:
    """A reader under test: `read(folder, data)`, whole files to damage, and pieces to make files from."""

    name: str
    read: Callable[[Path, bytes], Counted]
    wholes: tuple[bytes, ...]
    pieces: tuple[str, ...]
    head: str = ""


# The readers -------------------------------------------------------------------------------------------


def lines(data: bytes) -> list[str]:
    """Lines that are not blank, told apart from the reader's own way of it."""
    text = data.decode("utf-8-sig", errors="replace")
    return [line for line in re.sub("\r\n?", "\n", text).split("\n") if line.strip()]


def put(folder: Path, name: str, data: bytes) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return name


def read_meld(folder: Path, data: bytes) -> Counted:
    found = meld.read_labels(folder, put(folder, "dev_sent_emo.csv", data), "dev", READ)
    # Of the damaged encoding's controls none is blank once it is read; a no-break space is.
    seen = re.sub("[\x80-\x9f]", "x", re.sub("\r\n?", "\n", data.decode("utf-8-sig")))
    rows = [line for line in seen.split("\n")[1:] if line.strip()]
    return Counted(found.rows, len(rows), found.utterances, found.rejects)


def read_multidialog(folder: Path, data: bytes) -> Counted:
    name = put(folder, "metadata/train/train_metadata_0000.jsonl", data)
    found = multidialog_metadata.read_metadata(folder, [name], "train")
    said = multidialog.build_utterances(found, "train", multidialog_media.Media(), READ)
    return Counted(found.rows, len(lines(data)), said, found.rejects)


def read_transcription(folder: Path, data: bytes) -> Counted:
    session = iemocap.Session()
    name = put(folder, "Ses01F_impro01.txt", data)
    session.turns["Ses01F_impro01"] = iemocap.read_turns(folder, name, "Ses01F_impro01", session)
    said = iemocap.build_dialogue("Ses01F_impro01", session, {}, {}, READ)
    return Counted(session.rows, len(lines(data)), said, session.rejects)


def read_evaluation(folder: Path, data: bytes) -> Counted:
    session = iemocap.Session()
    turns = [iemocap.Line(f"Ses01F_impro01_F00{n}", n, n + 1.0, "Hi.") for n in range(6)]
    session.turns["Ses01F_impro01"] = turns
    iemocap.read_labels(folder, put(folder, "Ses01F_impro01.txt", data), "Ses01F_impro01", session)
    said = iemocap.build_dialogue("Ses01F_impro01", session, {}, {}, READ)
    labels = [line for line in lines(data) if line.startswith("[")]
    made = len(session.labels) + len(session.defects)
    return Counted(made, len(labels), said, session.defects, kept=len(session.labels))


def read_votes(folder: Path, data: bytes) -> Counted:
    votes, rejects = crema_d.read_votes(folder, put(folder, "summaryTable.csv", data), READ)
    rows = re.sub("\r\n?", "\n", data.decode("utf-8-sig")).split("\n")[1:]
    expected = sum(bool(line.strip()) for line in rows)
    return Counted(len(votes) + len(rejects), expected, [], rejects, kept=len(votes))


def file_names(data: bytes) -> list[str]:
    """One file name a line, such as a file system takes."""
    names = {re.sub("[/\0]", "", line)[:60] for line in lines(data)}
    return sorted(name for name in names if name.strip(".") and not name.startswith("."))


def read_ravdess_names(folder: Path, data: bytes) -> Counted:
    paths = ravdess.claim(file_names(data))
    result = ravdess.read(with_files(folder, "ravdess", paths), folder, READ)
    trials = {ravdess.NAME.fullmatch(p)[2] for p in paths}
    bad = [r for r in result.rejects if r.reason == "bad_name"]
    expected = len(trials - {r.dialogue_id for r in bad} | {u.dialogue_id for u in result.utterances}) + len(
        bad
    )
    return Counted(result.rows, expected, result.utterances, result.rejects)


def read_crema_d_names(folder: Path, data: bytes) -> Counted:
    paths = crema_d.claim(file_names(data))
    result = crema_d.read(with_files(folder, "crema_d", paths), folder, READ)
    clips = {crema_d.MEDIA.fullmatch(p)[1] for p in paths}
    return Counted(result.rows, len(clips), result.utterances, result.rejects)


def with_files(folder: Path, dataset: str, paths: list[str]) -> RawDataset:
    for path in paths:
        (folder / path).touch()
    return RawDataset(dataset, folder, tuple(paths))


def read_archive(folder: Path, data: bytes) -> Counted:
    """Every member that is listed can be read, and one that is not is no reader's to lose: the problem is told."""
    put(folder, "train_chunks_0000.tar.gz", data)
    index = archives._build(folder / "train_chunks_0000.tar.gz", READ.limits)
    whole = sum(
        archives._digest(read_listed(folder / "train_chunks_0000.tar.gz", index, m)) == m.digest
        for m in index.members.values()
    )
    told = index.problem != "" or whole == len(index.members)
    return Counted(whole, len(index.members) if told else -1, [], [], kept=whole)


def read_listed(file: Path, index: archives.Index, member: archives.Member) -> bytes:
    with open(file, "rb") as raw:
        points = [p for p in index.points if p.start <= member.start]
        if points:
            return inflate.inflate_from(raw, points[-1], member.start, member.size)
        raw.seek(member.start)
        return raw.read(member.size)


# Files to damage, and pieces ---------------------------------------------------------------------------

NASTY = (
    "", " ", "\x00", "\x85", "\u2028", "\xa0", "\x92", "’", '"', '""', ",", "\\", "\t", "\r", "\n", "\r\n", "../../etc/passwd",
    "/etc/passwd", "9" * 30, "-1", "1e400", "NaN", "Infinity", "٣", "1_0", "true", "null", "\ufeff", "{", "[" * 3000,
    "\\ud83d", "𝒳" * 3, "Ses01F_impro01_FXX0", "._", "version https://git-lfs", "a" * 5000, "_1" * 400,
)  # fmt: skip


def head_of(path: Path, count: int) -> bytes | None:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count]) if path.is_file() else None


def meld_file() -> bytes:
    rows = [
        f'{n},"Well, line {n}.",Ross,joy,positive,{n // 3},{n % 3},8,21,"00:16:{n:02},059","0:16:{n + 1:02},731"'
        for n in range(9)
    ]
    return "\r\n".join([MELD_HEAD, *rows, ""]).encode()


MELD_HEAD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
)
VOTES_HEAD = (
    '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"'
)


def multidialog_file() -> bytes:
    rows = []
    for n in range(8):
        name = f"{CONVERSATION}/{CONVERSATION}_{n}{'ik'[n % 2]}.wav"
        new = {"file_name": name, "conv_id": CONVERSATION, "utterance_id": n, "from": "gpt", "value": f"Line {n}.",
               "emotion": "Happy", "original_full_path": f"data/train/{name}"}  # fmt: skip
        old = {
            "id": CONVERSATION,
            "utterance": str(n),
            "from": "human",
            "value": "Ho.",
            "emotion": "Sad",
            "audpath": f"/x/{name}",
        }
        rows.append(json.dumps(old if n % 4 == 3 else new))
    return "\n".join([*rows, ""]).encode()


def transcription_file() -> bytes:
    turns = [
        f"Ses01F_impro01_{'FM'[n % 2]}00{n} [00{n}.2901-00{n + 1}.2357]: Line [LAUGHTER] {n}: yes."
        for n in range(8)
    ]
    return "\n".join([*turns, "M: Well.", "Ses01F_impro01_MXX0 [015.0000-016.0000]: Hm.", ""]).encode()


def evaluation_file() -> bytes:
    blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for n in range(6):
        blocks += [f"[{n}.2901 - {n + 1}.2357]\tSes01F_impro01_F00{n}\tneu\t[2.5000, 2.5000, 2.5000]",
                   "C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]  # fmt: skip
    return "\n".join(blocks).encode()


def votes_file() -> bytes:
    rows = [
        f'"{n}","10{n:02}_IEO_NEU_XX","N","69.1","N","92.22","{"F:N" if n == 3 else "N"}","64.78"'
        for n in range(1, 9)
    ]
    return "\n".join([VOTES_HEAD, *rows, ""]).encode()


def archive_file() -> bytes:
    buffer, draw = io.BytesIO(), random.Random(0)
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for n in range(6):
            entry = tarfile.TarInfo(f"{CONVERSATION}/{CONVERSATION}_{n}i.wav")
            entry.size = 900
            archive.addfile(entry, io.BytesIO(draw.randbytes(300) * 3))
    return buffer.getvalue()


RAVDESS_NAMES = b"03-01-06-01-02-01-12.wav\n01-01-06-01-02-01-12.mp4\n02-01-06-01-02-01-12.mp4\n03-02-01-01-01-01-24.wav\n"
CREMA_D_NAMES = b"1001_IEO_NEU_XX.wav\n1001_IEO_NEU_XX.flv\n1076_MTI_SAD_XX.wav\n1091_WSI_ANG_HI.mp3\n"


def parsers() -> list[Parser]:
    real_meld = [head_of(SHARED / "meld" / p, 12) for p in ("dev_sent_emo.csv", "raw_2018/dev_sent_emo.csv")]
    real_votes = head_of(SHARED / "crema_d/summaryTable.csv", 12)
    talk = {"conv_id": "a", "from": "gpt", "value": "x", "emotion": "Sad"}
    rows = {
        "meld": tuple(f"1,Hi.,A,joy,neutral,0,{n},8,21,1,2\n" for n in range(5)),
        "multidialog": tuple(json.dumps({**talk, "utterance_id": n}) + "\n" for n in range(5)),
        "votes": tuple(f'"{n}","100{n}_IEO_NEU_XX","N",1,"N",1,"F:N","1:1"\n' for n in range(5)),
    }
    return [
        Parser(
            "meld csv",
            read_meld,
            tuple(filter(None, [meld_file(), *real_meld])),
            (*rows["meld"], ",", "joy", "0", "7", "\r\n", '"Hi, you."'),
            MELD_HEAD + "\n",
        ),
        Parser(
            "multidialog jsonl",
            read_multidialog,
            (multidialog_file(),),
            (
                *rows["multidialog"],
                '"',
                "}",
                ":",
                ', "emotion": "Sad"',
                "\n",
                '{"file_name": "',
                CONVERSATION,
                "_3k.wav",
            ),
        ),
        Parser(
            "iemocap transcription",
            read_transcription,
            (transcription_file(),),
            ("Ses01F_impro01_F000", " [1.0-2.0]: ", "Hi.", "\n", "Ses01F_impro01_M", "001", "]:", "[", "-"),
        ),
        Parser(
            "iemocap evaluation",
            read_evaluation,
            (evaluation_file(),),
            ("[1.0 - 2.0]", "\t", "Ses01F_impro01_F003", "neu", "xxx", "[1, 2, 3]", "\n", "C-E2:"),
        ),
        Parser(
            "crema-d votes",
            read_votes,
            tuple(filter(None, [votes_file(), real_votes])),
            (*rows["votes"], '"1"', ",", '"N"', '"F:N"', "\n", "64.78"),
            VOTES_HEAD + "\n",
        ),
        Parser(
            "ravdess names",
            read_ravdess_names,
            (RAVDESS_NAMES,),
            ("03", "-", "01", "25", ".wav", ".mp4", "\n", "03-01-06-01-02-01-12.wav"),
        ),
        Parser(
            "crema-d names",
            read_crema_d_names,
            (CREMA_D_NAMES,),
            ("1001", "_", "IEO", "NEU", "XX", ".wav", ".flv", "\n", "1001_IEO_NEU_XX.mp3"),
        ),
        Parser("archive", read_archive, (archive_file(),), ("\x1f\x8b", "ustar", "0000644")),
    ]


# Inputs ------------------------------------------------------------------------------------------------


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """A file with a few bytes changed, dropped, doubled, cut off, moved, or replaced by nasty ones."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(len(data) + 1)
        length = draw.choice((1, 1, 2, 8, 64, 400))
        kind = draw.randrange(7)
        if kind == 0:
            text = draw.random() < 0.8  # what is no UTF-8 at all is refused before a row is read
            data[at : at + length] = (
                bytes(draw.randrange(9, 127) for _ in range(length)) if text else draw.randbytes(length)
            )
        elif kind == 1:
            data[at : at + length] = b""
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3:
            data[at:at] = draw.choice(NASTY).encode("utf-8", "surrogatepass")
        elif kind == 4 and at < len(data):
            data[at] ^= 1 << draw.choice((0, 1, 2, 3, 4, 5, 6, 6, 7))
        elif kind == 5 and draw.random() < 0.3:
            del data[at:]
        elif kind == 6:
            pieces = bytes(data).split(b"\n")
            draw.shuffle(pieces)
            data = bytearray(b"\n".join(pieces))
    return bytes(data)


def invented(parser: Parser) -> st.SearchStrategy[bytes]:
    """Files that hypothesis puts together from a format's pieces, nasty ones and any text."""
    piece = st.one_of(st.sampled_from(parser.pieces), st.sampled_from(NASTY), st.text(max_size=12))
    body = st.lists(piece, max_size=40).map(lambda parts: "".join(parts).encode("utf-8", "replace"))
    return st.one_of(body, body, body, st.binary(max_size=200)).map(lambda data: parser.head.encode() + data)


# Judging -----------------------------------------------------------------------------------------------


def _alarm(*_) -> None:
    raise TimeoutError


def judge(parser: Parser, data: bytes, folder: Path, verdict: Verdict) -> None:
    """Read one input, and note in `verdict` what became of it."""
    verdict.inputs += 1
    shown = f"{parser.name} {data[:300]!r}"
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        found = parser.read(folder, data)
        verdict.rows += found.counted
        kept = len(found.utterances) if found.kept is None else found.kept
        if not found.counted == found.expected == kept + len(found.rejects):
            verdict.uncounted.append(
                f"{shown}: counts {found.counted}, {found.expected} are there, {kept} + {len(found.rejects)} came out"
            )
        check_shards(found, verdict.inputs % SHARD_EVERY == 0)
    except TimeoutError:
        verdict.hung.append(shown)
    except InputError as error:
        verdict.refused += 1
        if "\n" in str(error).strip():
            verdict.crashed.append(f"{shown}: its error has several lines: {error}")
    except Exception as error:  # noqa: BLE001 - whatever else a reader raises is what is looked for
        verdict.crashed.append(f"{shown}: {type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def check_shards(found: Counted, write: bool) -> None:
    """Every row fits a shard: text that is UTF-8, turns of 32 bits, no key twice."""
    keys = Counter(u.key for u in found.utterances)
    if any(count > 1 for count in keys.values()):
        raise AssertionError(f"a key twice: {keys.most_common(1)}")
    for row in found.utterances:
        (row.text + row.speaker + row.dialogue_id + (row.emotion_raw or "")).encode()
        if not 0 <= row.turn < 2**31:
            raise AssertionError(f"turn {row.turn}")
    for reject in found.rejects:
        (reject.dialogue_id + reject.detail).encode()
    if write:
        write_table(map(utterance_to_row, found.utterances), "utterances")
        write_table((reject_to_row(r, "utterances") for r in found.rejects), "rejects")


def campaign(parser: Parser, inputs: int, start: int = 0) -> Verdict:
    """`inputs` inputs or more through one parser, half damaged and half invented, from a seed."""
    verdict = Verdict()
    with tempfile.TemporaryDirectory() as name:
        folder, place = Path(name), 0

        def one(data: bytes) -> None:
            nonlocal place
            place += 1
            own = folder / str(place // 100)
            own.mkdir(exist_ok=True)
            if parser.name.endswith("names"):  # the files themselves are the input
                own = Path(tempfile.mkdtemp(dir=own))
            judge(parser, data, own, verdict)

        draw = random.Random(start)
        for _ in range(inputs - inputs // 2):
            one(damaged(draw.choice(parser.wholes), draw))

        @seed(start)
        @settings(
            max_examples=inputs // 2, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(invented(parser))
        def invent(data: bytes) -> None:
            one(data)

        invent()
        while verdict.inputs < inputs:  # hypothesis stops early where it has seen all there is
            one(damaged(draw.choice(parser.wholes), draw))
    return verdict


def media_verdict() -> dict | None:
    """What fuzz_media.py says, where it is there."""
    path = Path(__file__).with_name("fuzz_media.py")
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("fuzz_media", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main()


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=INPUTS, help="inputs a parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-media", action="store_true", help="leave fuzz_media.py out")
    options = parser.parse_args(None if arguments is None else list(arguments))
    told, failures = {}, []
    for one in parsers():
        begin = time.perf_counter()
        verdict = campaign(one, options.inputs, options.seed)
        failures += verdict.failures()
        told[one.name] = {
            "inputs": verdict.inputs, "refused": verdict.refused, "rows": verdict.rows,
            "crashed": len(verdict.crashed), "hung": len(verdict.hung), "uncounted": len(verdict.uncounted),
            "seconds": round(time.perf_counter() - begin, 1),
        }  # fmt: skip
        print(f"{one.name}: {told[one.name]}", file=sys.stderr)
    for line in failures[:20]:
        print(line, file=sys.stderr)
    media = None if options.no_media else media_verdict()
    # A crash in the child that decodes is what the child is for: such a file is a counted reject.
    lost = 0 if media is None else media["uncounted"]
    least = min(facts["inputs"] for facts in told.values())
    print(
        json.dumps(
            {"name": "fuzz", "ratio": round(least / INPUTS, 2), "other": f"{INPUTS} inputs a parser asked for",
             "failures": len(failures) + lost, "parsers": told, "media": media}
        )
    )  # fmt: skip
    return 1 if failures or lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
