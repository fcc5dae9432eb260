"""The stage `features` on clips good and bad, with the tiny profile's encoders; real clips all the way from raw files."""

import importlib.util
import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model.features.settings import FeatureSettings
from model.zoo.resolve import identity
from storage.errors import InputError
from storage.media.clip import Request, decode_clip
from storage.media.container import REASONS
from storage.media.pictures import Window
from storage.media.settings import MediaSettings
from storage.sample.media import write_avi, write_mp4, write_wav
from storage.shards import read_table, unpack_array, utterance_to_row, write_table
from storage.store import Store, digest_bytes
from storage.utterance import Utterance
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.engine.planner import Board, run_graph
from tasks.engine.session import Session
from tasks.settings import load_settings
from tasks.stages.features.extract import extract_features
from tasks.stages.shard_names import of_table

DEMO = Path(__file__).resolve().parents[2] / "../shared/data/multidialog_demo"
TINY = FeatureSettings(audio_weights="tiny-whisper", video_weights="tiny-vision", frames=2)
RATE = 16_000


def hum(seconds: float) -> np.ndarray:
    return 0.3 * np.sin(np.arange(int(seconds * RATE)) / 20)


def pictures(seconds: float, fps: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (int(seconds * fps), 64, 64, 3), np.uint8)


class Stage:
    """The stage in this process, on rows of one shard."""

    def __init__(self, folder: Path):
        self.raw, self.store = folder / "raw", Store(folder / "store")
        self.raw.mkdir()

    def clip(self, name: str, seconds: float) -> str:
        write_mp4(self.raw / name, pictures(seconds), 5, hum(seconds), RATE, 1)
        return name

    def run(
        self, utterances: list[Utterance], media: MediaSettings | None = None, batch_size: int = 1
    ) -> tuple[dict, dict, dict]:
        """Features and reject reasons by turn, and the summary of the clips."""
        shard = self.store.put_bytes(
            "utterances/meld/train/0", write_table([utterance_to_row(u) for u in utterances], "utterances")
        )
        self.encoded = []
        work = Workspace(self.store, self.raw, "basis", lambda done, of, _: self.encoded.append((done, of)))
        settings = TINY.model_copy(update={"batch_size": batch_size})
        weights = [Weights(name=n, identity=identity(n)) for n in (TINY.audio_weights, TINY.video_weights)]
        features, rejects, summary = extract_features(
            shard, settings, media or MediaSettings(), *weights, work
        )
        self.shard = self.store.object_path(features.digest)
        assert features.rows + rejects.rejects == len([u for u in utterances if u.media_digest])
        rows = read_table(self.store.read(features), "features")
        turned_away = read_table(self.store.read(rejects), "rejects")
        assert len(rows) == features.rows and len(turned_away) == rejects.rejects == features.rejects
        return (
            {row["turn"]: row for row in rows},
            {row["turn"]: row for row in turned_away},
            json.loads(self.store.read(summary)),
        )


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage(tmp_path)


def utterance(turn: int, video: str | None, audio: str | None, **more) -> Utterance:
    told = {"media_digest": digest_bytes(f"{video} {audio} {more.get('start')}".encode()), **more}
    return Utterance(
        "meld", "train", "0", turn, "A", "Hi.", None, None, video_path=video, audio_path=audio, **told
    )


def test_what_comes_out_is_what_goes_in_or_a_reject_with_its_reason(stage):
    good, silent = stage.clip("good.mp4", 1), "silent.avi"
    write_avi(stage.raw / silent, pictures(2), 5, 64, 64)
    write_avi(stage.raw / "long.avi", pictures(40), 5, 64, 64)
    write_wav(stage.raw / "nothing.wav", np.zeros(RATE), RATE)
    whole = (stage.raw / good).read_bytes()
    (stage.raw / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    features, rejects, summary = stage.run(
        [
            utterance(0, good, good, seconds=1.2),
            utterance(1, "cut.mp4", "cut.mp4"),
            utterance(2, "absent.mp4", "absent.mp4"),
            utterance(3, silent, None),
            utterance(4, "long.avi", None),  # no sound that could tell its length
            utterance(5, silent, silent),
            utterance(6, None, "nothing.wav"),
            utterance(7, None, None, media_digest=None),
            utterance(8, good, good, seconds=2.3),
            utterance(9, good, good, seconds=0.4),
        ]
    )
    assert sorted(features) == [0, 3, 9]
    assert {turn: row["reason"] for turn, row in rejects.items()} == {
        1: "corrupt",
        2: "missing",
        4: "too_long",
        5: "no_audio",
        6: "silent",
        8: "mis_cut",
    }
    # Names of files as the rows have them: a tree elsewhere gives the same table.
    assert all(row["detail"].split(": ")[0] in str(row) for row in rejects.values())
    assert rejects[2]["detail"] == "absent.mp4: no such file"
    assert "the release says 2.30 s" in rejects[8]["detail"]
    assert features[3]["audio"] is None and features[3]["video"] is not None
    assert features[0]["audio_shape"] == [pytest.approx(50, abs=4), 32]  # a second of 20 ms states
    assert summary["clips"] == 3 and summary["rejects"]["mis_cut"] == 1
    assert summary["shared"] == [["0 turn 0", "0 turn 9"]]
    assert summary["decoder"] == {"pyav": 3}


def test_mis_cut_clips_are_kept_when_asked(stage):
    name = stage.clip("good.mp4", 1)
    row = utterance(0, name, name, seconds=9.0)
    assert not stage.run([row], MediaSettings(mis_cut_seconds=None))[1]
    # A row that was made before is judged anew: what is known of a clip includes how long it is.
    assert stage.run([row])[1][0]["reason"] == "mis_cut"


def test_a_clip_that_hangs_is_a_reject_and_the_others_go_on(stage):
    os.mkfifo(stage.raw / "pipe.mp4")
    names = ["a.mp4", "pipe.mp4", "b.mp4"]
    for name in ("a.mp4", "b.mp4"):
        stage.clip(name, 1)
    rows = [utterance(turn, name, name) for turn, name in enumerate(names)]
    features, rejects, _ = stage.run(rows, MediaSettings(timeout_s=3))
    assert sorted(features) == [0, 2]
    assert rejects[1]["reason"] == "timeout" and "pipe.mp4" in rejects[1]["detail"]


def test_one_bad_sound_of_a_dialogue_costs_its_own_utterance(stage):
    write_avi(stage.raw / "dialog.avi", pictures(9), 5, 128, 64)
    for n in range(3):
        write_wav(stage.raw / f"{n}.wav", hum(2.5), RATE)
    (stage.raw / "1.wav").write_bytes(b"RIFF")
    spans = [dict(start=3.0 * n, end=3.0 * n + 2.5, side="left", seconds=2.5) for n in range(3)]
    rows = [utterance(n, "dialog.avi", f"{n}.wav", **span) for n, span in enumerate(spans)]
    rows.append(utterance(3, "dialog.avi", None, start=50.0, end=51.0, side="right"))
    features, rejects, summary = stage.run(rows)
    assert sorted(features) == [0, 2]
    assert {turn: row["detail"].split(":")[0] for turn, row in rejects.items()} == {
        1: "1.wav",
        3: "dialog.avi",
    }
    assert summary["seconds"] == 5.0


def test_utterances_that_share_a_clip_share_its_row(stage):
    first, second = stage.clip("a.mp4", 1), "b.mp4"
    shutil.copy(stage.raw / first, stage.raw / second)
    rows = [utterance(n, name, name, media_digest="00" * 16) for n, name in enumerate((first, second))]
    (stage.raw / second).unlink()  # its content is known by its digest; nobody needs to look again
    features, _, summary = stage.run(rows)
    assert features[0]["audio"] == features[1]["audio"] and features[0]["video"] == features[1]["video"]
    assert summary["shared"] == [["0 turn 0", "0 turn 1"]]


def test_clips_are_stored_once_and_found_again(stage):
    rows = [
        utterance(turn, name, name) for turn, name in enumerate([stage.clip(f"{n}.mp4", 1) for n in range(3)])
    ]
    first, _, told = stage.run(rows, batch_size=2)
    assert stage.encoded == [(2, 3), (3, 3)]
    size = stage.shard.stat().st_size
    rows_kept = stage.store.rows("features")
    values = rows_kept.get_many([key for (key,) in rows_kept.connection.execute("select key from rows")])
    rows_kept.close()
    # The shard has the clips; of each row is left where it lies and what the clip is.
    assert len(values) == 3 and sum(map(len, values.values())) < 3000 < size
    # A changed utterance costs its own clip alone; the others are what they were, blobs and facts.
    again, _, told_again = stage.run([*rows, utterance(3, stage.clip("3.mp4", 1), "3.mp4")])
    assert stage.encoded == [(1, 1)]
    assert all(again[turn][name] == row[name] for turn, row in first.items() for name in ("audio", "video"))
    assert told_again["clips"] == 4 and told_again["bytes"] > told["bytes"]
    # Where a shard has gone, or is not what it was, its clips are made again.
    stage.shard.write_bytes(stage.shard.read_bytes()[:-1])
    assert stage.run(rows)[0] == first and len(stage.encoded) == 3


def test_a_shard_that_was_cut_off_goes_on_from_its_finished_clips(stage, monkeypatch):
    rows = [
        utterance(turn, name, name) for turn, name in enumerate([stage.clip(f"{n}.mp4", 1) for n in range(3)])
    ]
    with monkeypatch.context() as patch:
        patch.setattr("tasks.stages.features.extract.write_shard", lambda *_, **__: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception):
            stage.run(rows)
    assert stage.encoded == [(1, 3), (2, 3), (3, 3)]
    assert sorted(stage.run(rows)[0]) == [0, 1, 2] and stage.encoded == []


def test_decord_asked_for_and_absent_stops_the_run(stage, monkeypatch):
    monkeypatch.setattr("storage.media.decord_frames.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install decord"):
        stage.run([utterance(0, "a.mp4", "a.mp4")], MediaSettings(decoder="decord"))


def test_forty_damaged_files_are_features_or_rejects(stage):
    """A seeded part of the campaign of benchmarks/fuzz_media.py, through the whole stage."""
    fuzz = load("fuzz_media", Path(__file__).resolve().parents[2] / "benchmarks/fuzz_media.py")
    rows = []
    for turn, name in enumerate(fuzz.damaged_files(stage.raw, 40, seed=3)):
        asked = fuzz.request(stage.raw, name)
        rows.append(utterance(turn, asked.video, asked.audio))
    features, rejects, summary = stage.run(rows, MediaSettings(timeout_s=30))
    assert features.keys() | rejects.keys() == set(range(40)) and not features.keys() & rejects.keys()
    assert {row["reason"] for row in rejects.values()} <= set(REASONS) - {"timeout", "crashed"}
    assert 5 < len(rejects) < 35 and summary["clips"] == len(features)


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not DEMO.is_dir(), reason="the real clips do not lie in ../shared/data/multidialog_demo")
def test_real_clips_go_all_the_way_to_shards(tmp_path):
    """MultiDialog's own demo clips, laid out as its release is, read, decoded and encoded by the real stages."""
    raw = tmp_path / "raw"
    clips = lay_out_demo(raw)
    assert len(clips) == 13  # the twelve, and one of them again, as the project page has it
    settings = load_settings("tiny", ["features.frames=4"])
    with Session(settings, "tiny", tmp_path / "store", raw) as session, ThreadPoolExecutor(2) as pool:
        run_graph(
            session.store,
            session.graph("features"),
            Board(),
            lambda item, why: pool.submit(session.execute, item, lambda *_: None),
            lambda _: None,
        )
        plan = {p.stage.name: p for p in session.plan("features")}
        refs = [ref for outputs in plan["features"].outputs.values() for ref in outputs]
        rows = [
            row
            for ref in of_table(refs, "features")
            for row in read_table(session.store.read(ref), "features")
        ]
        summaries = [json.loads(session.store.read(ref)) for ref in refs if ref.name.startswith("media/")]
        utterances = {
            (u["dialogue_id"], u["turn"]): u
            for outputs in plan["utterances"].outputs.values()
            for ref in of_table(outputs, "utterances")
            for u in read_table(session.store.read(ref), "utterances")
        }
    assert {(row["dialogue_id"], row["turn"]) for row in rows} == set(clips) == set(utterances)
    assert sum(ref.rejects for ref in refs) == 0
    for row in rows:
        key = (row["dialogue_id"], row["turn"])
        audio, video = (unpack_array(row[kind], row[f"{kind}_shape"]) for kind in ("audio", "video"))
        request = Request(
            str(raw), utterances[key]["video_path"], utterances[key]["audio_path"], (Window(0),)
        )
        clip = decode_clip(request)
        assert len(audio) == -(-len(clip.audio) // 320)  # Whisper: 20 ms a state
        assert video.shape[0] % 4 == 0 and np.isfinite(audio).all() and np.isfinite(video).all()
    told = Counter()
    for summary in summaries:
        told.update({"clips": summary["clips"], "shared": len(summary["shared"])})
        assert all(name.startswith("h264 900x700 at 25.000") for name in summary["picture"])
        assert set(summary["sound"]) <= {"aac 48000 Hz stereo, mean", "aac 44100 Hz stereo, mean"}
    assert told["clips"] == 13
    digests = Counter(row["media_digest"] for row in rows)
    assert sorted(digests.values()) == [1] * 11 + [2]
    by_digest = {row["media_digest"]: row["audio"] for row in rows}
    assert all(by_digest[row["media_digest"]] == row["audio"] for row in rows)


def lay_out_demo(raw: Path) -> dict[tuple[str, int], str]:
    """The demo clips as a MultiDialog tree: (conversation, turn) -> clip."""
    texts = dict(line.split("\t") for line in (DEMO / "transcripts.tsv").read_text().splitlines()[1:])
    conversations: dict[str, list[str]] = {}
    for name in sorted(texts, key=lambda n: (n.split("_")[0], n.split("-")[1:], n)):
        conversations.setdefault(name.split("_")[0], []).append(name)
    conversations["demo6"] = ["demo2_user1.mp4"]
    (raw / "metadata/train").mkdir(parents=True)
    lines, placed = [], {}
    for conversation, names in conversations.items():
        (raw / "video" / conversation).mkdir(parents=True)
        for turn, name in enumerate(names):
            letter = "ab"["user2" in name]
            shutil.copyfile(DEMO / name, raw / "video" / conversation / f"{conversation}_{turn}{letter}.mp4")
            placed[conversation, turn] = name
            lines.append(
                {
                    "file_name": f"{conversation}/{conversation}_{turn}{letter}.wav",
                    "conv_id": conversation,
                    "utterance_id": turn,
                    "from": ("gpt", "human")[turn % 2],
                    "value": texts[name],
                    "emotion": "Neutral",
                }
            )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (raw / "metadata/train/train_metadata_0000.jsonl").write_text(text)
    return placed
