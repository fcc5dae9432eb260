"""RAVDESS and CREMA-D as a user has them, small and synthetic: nobody who is trained on is tested on."""

import json
from collections import defaultdict

import av
import numpy as np
import pytest

from storage.sample.media import write_mp4, write_wav
from storage.shards import read_table
from tests.support.rerun import run, session

RATE = 16_000
RAVDESS_ACTORS, CREMA_ACTORS = range(1, 6), range(1001, 1006)
RAVDESS_CODES = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry"}
CREMA_CODES = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry"}
SETTINGS = (
    "data.actor_test_share=0.4", "recognition.clips=null", "extractor.training.max_tokens=400",
    "features.frames=1",
)  # fmt: skip


def film(mark: int) -> np.ndarray:
    return np.random.default_rng(mark).integers(0, 255, (5, 64, 64, 3), np.uint8)


def sound(mark: int) -> np.ndarray:
    return 0.3 * np.sin(np.arange(RATE) * (0.02 + 0.001 * mark))


def write_flv(path, frames: np.ndarray) -> None:
    """Pictures alone, in the codec of CREMA-D's films."""
    with av.open(str(path), "w", format="flv") as container:
        stream = container.add_stream("flv", rate=5)
        stream.height, stream.width, stream.pix_fmt = (*frames.shape[1:3], "yuv420p")
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def lay_out(root) -> None:
    """Four emotions of five actors in each release's names and folders; two of RAVDESS's actors have sound alone."""
    mark = 0
    for actor in RAVDESS_ACTORS:
        for code in RAVDESS_CODES:
            folder = root / "RAVDESS" / f"Actor_{actor:02}"
            folder.mkdir(parents=True, exist_ok=True)
            trial, mark = f"01-{code}-01-01-01-{actor:02}", mark + 1
            if actor > 3:
                write_wav(folder / f"03-{trial}.wav", sound(mark), RATE)
            else:
                write_mp4(folder / f"01-{trial}.mp4", film(mark), 5, sound(mark), RATE, 1)
    for folder in ("AudioWAV", "VideoFlash"):
        (root / "CREMA-D" / folder).mkdir(parents=True)
    for actor in CREMA_ACTORS:
        for code in CREMA_CODES:
            name, mark = f"{actor}_DFA_{code}_XX", mark + 1
            write_wav(root / "CREMA-D" / "AudioWAV" / f"{name}.wav", sound(mark), RATE)
            write_flv(root / "CREMA-D" / "VideoFlash" / f"{name}.flv", film(mark))


@pytest.mark.slow
def test_the_extractor_learns_from_some_actors_and_is_tested_on_others(tmp_path):
    lay_out(tmp_path / "raw")
    with session("tiny", tmp_path / "store", tmp_path / "raw", SETTINGS) as opened:
        run(opened, "extractor.test")
        outputs = {plan.stage.name: plan.outputs for plan in opened.plan("extractor.test")}
        store = opened.store
        refs = [ref for found in outputs["utterances"].values() for ref in found]
        actors, clips = defaultdict(set), defaultdict(int)
        for ref in (ref for ref in refs if ref.name.startswith("utterances/")):
            for row in read_table(store.read(ref), "utterances"):
                actors[row["dataset"], row["split"]].add(row["speaker"])
                clips[row["dataset"], row["split"]] += 1
        for dataset in ("ravdess", "crema_d"):
            parts = [actors[dataset, split] for split in ("train", "dev", "test")]
            assert all(parts) and sum(map(len, parts)) == 5 == len(set.union(*parts))
            assert len(parts[2]) == 2 and clips[dataset, "test"] == 8
        (extractor,) = outputs["extractor"]["all"]
        report = next(m for m in store.members(extractor) if m.name == "report.json")
        trained = json.loads(store.read(report))
        assert trained["train_clips"] == clips["ravdess", "train"] + clips["crema_d", "train"]
        assert trained["heldout_clips"] == min(8, clips["ravdess", "dev"] + clips["crema_d", "dev"])
        (found,) = outputs["extractor.test"]["all"]
        facts = json.loads(store.read(found))
    assert facts["clips"] == facts["there"] == 16 and facts["dialogues"] == 4  # actors
    assert facts["splits"] == {"crema_d": "test", "ravdess": "test"}
    for dataset in ("ravdess", "crema_d"):
        bars = facts["accuracy_by_dataset"][dataset]
        assert {name: bars[name]["clips"] for name in ("A", "T")} == {"A": 8, "T": 8}
        assert bars["A"]["dialogues"] == 2 and bars["A"]["accuracy_ci"] is not None
        assert bars["A"]["majority"] == 0.25 and set(bars["A"]["confusion"]) == set(CREMA_CODES.values())
        assert bars["A"]["over_other"]["rows"] == 8
        assert {
            m["n"] for m in facts["mcnemar_by_dataset"][dataset] if "V" not in m["first"] + m["second"]
        } == {8}
    assert facts["accuracy_by_dataset"]["crema_d"]["A+V+T"]["clips"] == 8
