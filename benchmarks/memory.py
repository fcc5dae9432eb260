"""Peak resident memory of stages over 1, 4 and 16 times as many clips: `make bench NAME=memory`.

The stages' own functions with the tiny profile's models, each in a process of its own. Training and replies are given clips of
full size (0.9 MB), features real ones of two seconds, of which 64 frames are read; a shard holds as many as the smallest
corpus has. What is told is the largest resident set less that of the smallest corpus.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peak import peak_mb

from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.features.settings import FeatureSettings
from model.settings import TrainingSettings
from model.zoo.resolve import identity
from storage.media.settings import MediaSettings
from storage.sample.media import write_mp4
from storage.shards import utterance_to_row
from storage.store import Ref, Store, digest_bytes
from storage.utterance import Utterance
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import ReplySettings
from tasks.stages.shards import write_shard
from tests.support.many_clips import write_corpus

ROOT = Path(__file__).resolve().parents[1]
CLIPS, TIMES = 8, (1, 4, 16)
"""Of each split, and how many times as many."""
TRAINING = TrainingSettings(dtype="float32", batch_size=4, evaluations=1, threads=1)
DIALOGUE = DialogueSettings(rank=2, alpha=4, memory="mean", training=TRAINING)
TINY = FeatureSettings(audio_weights="tiny-whisper", video_weights="tiny-vision", frames=64)
Made = dict[str, list[Ref]]


def weights(name: str) -> Weights:
    return Weights(name=name, identity=identity(name))


def of(made: Made, *splits: str) -> list[list[Ref]]:
    """Utterances, exchanges and features of the splits."""
    tables = ("utterances", "exchanges", "features")
    return [[ref for ref in made[table] if ref.name.split("/")[2] in splits] for table in tables]


def features(work: Workspace, made: Made) -> None:
    from tasks.stages.features.extract import extract_features

    for shard in made["filmed"]:
        extract_features(shard, TINY, MediaSettings(), weights("tiny-whisper"), weights("tiny-vision"), work)


def dialogue(work: Workspace, made: Made) -> Ref:
    from tasks.stages.dialogue.fit import fit_dialogue

    parts = of(made, "train", "dev")
    return fit_dialogue(*parts, None, made["extractor"][0], "memory", DIALOGUE, weights("tiny-llm"), work)[0]


def epo(work: Workspace, made: Made) -> None:
    from tasks.stages.epo.fit import fit_epo

    settings = EpoSettings(training=TRAINING, sampled_replies=0)
    parts = of(made, "train", "dev")
    fit_epo(made["pairs"], *parts, made["adapter"][0], None, made["extractor"][0], DIALOGUE, settings, weights("tiny-llm"), work)  # fmt: skip


def replies(work: Workspace, made: Made) -> None:
    from tasks.stages.replies.write import write_replies

    write_replies(
        "4-av", *of(made, "test"), made["adapter"][0], None, made["extractor"][0], "memory", DIALOGUE,
        ReplySettings(max_new_tokens=2, batch_size=4), weights("tiny-llm"), work,
    )  # fmt: skip


STAGES: dict[str, Callable[[Workspace, Made], Ref | None]] = {
    "features": features,
    "dialogue": dialogue,
    "epo": epo,
    "replies": replies,
}


def filmed(store: Store, raw: Path, clips: int) -> list[Ref]:
    """Shards of utterances with a clip each; the files are one film's, each with a digest of its own."""
    raw.mkdir()
    random = np.random.default_rng(0)
    hum = 0.3 * np.sin(np.arange(2 * 16_000) / 20)
    write_mp4(raw / "film.mp4", random.integers(0, 255, (66, 64, 64, 3), np.uint8), 33, hum, 16_000, 1)
    rows = []
    for number in range(clips):
        name = f"{number}.mp4"
        shutil.copyfile(raw / "film.mp4", raw / name)
        digest = digest_bytes(name.encode())
        media = {"video_path": name, "audio_path": name, "media_digest": digest}
        rows.append(Utterance("meld", "train", f"{number:05d}", 0, "A", "Hi.", None, None, **media))
    cut = [rows[at : at + CLIPS] for at in range(0, clips, CLIPS)]
    named = [
        (f"utterances/meld/train/{n}", [utterance_to_row(u) for u in part]) for n, part in enumerate(cut)
    ]
    return [write_shard(store, "utterances", name, part) for name, part in named]


def measured(stage: str, folder: Path, made: Made) -> tuple[float, Ref | None]:
    """The peak in MB of a process that runs the stage, and what it made, where others need it."""
    told = json.dumps({name: [ref.model_dump() for ref in refs] for name, refs in made.items()})
    done = subprocess.run(
        [sys.executable, __file__, stage, str(folder), told], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{stage}: {done.stderr[-2000:]}")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    return facts["mb"], None if facts["ref"] is None else Ref(**facts["ref"])


def child(stage: str, folder: Path, told: str) -> None:
    made = {name: [Ref(**ref) for ref in refs] for name, refs in json.loads(told).items()}
    work = Workspace(Store(folder / "store"), folder / "raw", "basis", lambda *_: None)
    ref = STAGES[stage](work, made)
    print(json.dumps({"mb": peak_mb(), "ref": None if ref is None else ref.model_dump()}))


def peaks(folder: Path, clips: int) -> dict[str, float]:
    """Stage -> its peak in MB."""
    folder.mkdir()
    made = {name: [Ref(**ref) for ref in refs] for name, refs in write_corpus(folder, clips).items()}
    made["filmed"] = filmed(Store(folder / "store"), folder / "raw", clips)
    found = {}
    for stage in STAGES:
        found[stage], ref = measured(stage, folder, made)
        made |= {"adapter": [ref]} if ref is not None else {}
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        columns = [peaks(Path(folder) / str(times), CLIPS * times) for times in TIMES]
    clips = CLIPS * 3 * TIMES[-1]
    print(f"| peak MB | {' | '.join(f'{times} x' for times in TIMES)} | {TIMES[-1]} x beside 1 x |")
    print("|---" * (len(TIMES) + 2) + "|")
    for stage in STAGES:
        of_stage = [column[stage] for column in columns]
        shown = " | ".join(f"{mb:.0f}" for mb in of_stage)
        print(f"| {stage} | {shown} | {of_stage[-1] - of_stage[0]:+.0f} |")
    worst = max(columns[-1][stage] / columns[0][stage] for stage in STAGES)
    print(
        json.dumps(
            {
                "name": "memory",
                "ratio": round(TIMES[-1] / worst, 2),
                "worst_growth": round(worst, 3),
                "clips": clips,
            }
        )
    )


if __name__ == "__main__":
    main() if len(sys.argv) == 1 else child(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
