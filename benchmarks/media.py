"""Clips a second of the decoding road, beside the bare decoder and one-file-a-clip extraction. `make bench NAME=media`.

All sides take the same clips on two processes, turn about, in one run; the best round of each counts, since other
work on a machine only ever slows one down, and processor seconds are counted beside the wall's. The real MultiDialog clips are used where they lie beside the
repository, else clips of the sample corpus' kind. Ends with one JSON line: `ratio` is the road's throughput as a
share of the bare decoder's (1 and above: nothing is lost to judging, resampling, resizing and the process border).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import pandas
import psutil
import soundfile
from PIL import Image

from storage.media.clip import Clip, Request
from storage.media.decoder_pool import DecoderPool
from storage.media.pictures import Window
from storage.sample.media import write_mp4

DEMO = Path(__file__).resolve().parents[1] / "../shared/data/multidialog_demo"
PROCESSES = 2
FRAMES = 8


def bare(path: str) -> int:
    """The decoder alone: every frame of both streams in one pass, eight of them and the sound as arrays."""
    taken = []
    with av.open(path) as container:
        video = container.streams.video[0]
        video.thread_count = 1
        wanted = set(drawn(video.frames).tolist())
        seen = 0
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.AudioFrame):
                taken.append(frame.to_ndarray())
            else:
                if seen in wanted:
                    taken.append(frame.to_ndarray(format="rgb24"))
                seen += 1
    return len(taken)


def bare_stopping(path: str) -> int:
    """The same, but no picture is decoded behind the last one wanted: the least a decoder can do in sequence."""
    taken = []
    with av.open(path) as container:
        video = container.streams.video[0]
        video.thread_count = 1
        wanted = set(drawn(video.frames).tolist())
        seen, last = 0, max(wanted)
        for packet in container.demux(video=0, audio=0):
            if packet.stream.type == "video" and seen > last:
                continue
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    taken.append(frame.to_ndarray())
                else:
                    if seen in wanted:
                        taken.append(frame.to_ndarray(format="rgb24"))
                    seen += 1
    return len(taken)


def drawn(count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).choice(count, FRAMES, replace=False))


def bare_decord(path: str) -> int:
    """decord alone: eight frames by number; the sound by PyAV, since decord's own is not right."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    taken = [reader.get_batch(drawn(len(reader))).asnumpy()]
    with av.open(path) as container:
        taken += [frame.to_ndarray() for frame in container.decode(audio=0)]
    return len(taken)


def extracted(path: str, folder: str) -> dict:
    """One file a clip: the sound as a wav, eight frames as pictures, read again by their names in a table."""
    name = Path(tempfile.mkdtemp(dir=folder))
    sound, pictures = [], []
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        wanted = set(drawn(container.streams.video[0].frames).tolist())
        resampler = av.AudioResampler("s16", "mono", 16_000)
        seen = 0
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.AudioFrame):
                sound += [block.to_ndarray()[0] for block in resampler.resample(frame)]
            else:
                if seen in wanted:
                    pictures.append(name / f"{seen}.jpg")
                    frame.to_image().save(pictures[-1], quality=95)
                seen += 1
    soundfile.write(name / "sound.wav", np.concatenate(sound), 16_000)
    return {"sound": str(name / "sound.wav"), "pictures": [str(p) for p in pictures]}


def read_extracted(row: dict) -> int:
    samples, _ = soundfile.read(row["sound"], dtype="float32")
    taken = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in row["pictures"]]
    return len(samples) + len(taken)


def road(pool: DecoderPool, folder: Path, names: list[str], decoder: str = "pyav") -> int:
    """What the features stage asks for: both modalities of every clip, in order."""
    requests = (
        Request(str(folder), name, name, (Window(0),), FRAMES, max_seconds=30, decoder=decoder)
        for name in names
    )
    answers = sum(isinstance(answer, Clip) for answer in pool.map(requests))
    if answers != len(names):
        raise SystemExit(f"{len(names) - answers} of {len(names)} clips were not decoded")
    return answers


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """On the wall, and of the processor: this process's and its children's."""
    started, before = time.perf_counter(), processor_seconds()
    call()
    return time.perf_counter() - started, processor_seconds() - before


def processor_seconds() -> float:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)


def clips(folder: Path) -> tuple[Path, list[str]]:
    if DEMO.is_dir():
        return DEMO.resolve(), sorted(path.name for path in DEMO.glob("*.mp4"))
    generator = np.random.default_rng(0)
    for n in range(6):
        film = np.repeat(generator.integers(0, 255, (25 * 4, 45, 80, 3), np.uint8), 8, axis=1).repeat(
            8, axis=2
        )
        sound = generator.normal(0, 0.1, 16_000 * 4)
        write_mp4(folder / f"{n}.mp4", film, 25, sound, 16_000, 2)
    return folder, sorted(path.name for path in folder.glob("*.mp4"))


def resident_mb(pid: int) -> float:
    return round(psutil.Process(pid).memory_info().rss / 1e6, 1)


def memory(folder: Path, names: list[str], total: int) -> dict[str, float]:
    """Resident MB of this process and of its decoders after 200 clips and after `total`, the two smallest ones
    over and over."""
    small = sorted(names, key=lambda name: (folder / name).stat().st_size)[:2]
    told = {}
    with DecoderPool(PROCESSES) as pool:
        for done in range(100, total + 1, 100):
            road(pool, folder, [small[n % len(small)] for n in range(100)])
            family = [psutil.Process().pid, *(child.pid for child in psutil.Process().children())]
            here, *decoders = (resident_mb(pid) for pid in family)
            print(f"{done} clips: {here} MB here, {decoders} MB in the decoders", file=sys.stderr)
            if done in (200, total):
                told |= {f"rss_mb_at_{done}": here, f"decoders_rss_mb_at_{done}": round(sum(decoders), 1)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-clips", type=int, default=2000)
    asked = parser.parse_args()
    decoders = ["pyav"]
    try:
        import decord  # noqa: F401

        decoders.append("decord")
    except ImportError:
        print("decord is not installed: left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder, names = clips(Path(scratch))
        timings = timed(folder, names, scratch, decoders, asked.rounds) if asked.rounds else {}
        told = memory(folder, names, asked.memory_clips) if asked.memory_clips else {}
    result = {"name": "media", **timings, "clips": len(names), "processes": PROCESSES, **told}
    print(json.dumps(result))


def timed(folder: Path, names: list[str], scratch: str, decoders: list[str], rounds: int) -> dict:
    """The best of the rounds, of every side, and the ratios."""
    wall: dict[str, float] = {}
    processor: dict[str, float] = {}
    paths = [str(folder / name) for name in names]
    with ProcessPoolExecutor(PROCESSES) as bare_pool, DecoderPool(PROCESSES) as pool:

        def extraction() -> None:
            table = pandas.DataFrame(bare_pool.map(extracted, paths, [scratch] * len(paths)))
            list(bare_pool.map(read_extracted, table.to_dict("records")))

        sides: dict[str, Callable[[], object]] = {
            "pyav bare": lambda: list(bare_pool.map(bare, paths)),
            "pyav bare, stopping": lambda: list(bare_pool.map(bare_stopping, paths)),
        }
        if "decord" in decoders:
            sides["decord bare"] = lambda: list(bare_pool.map(bare_decord, paths))
        for decoder in decoders:
            sides[f"{decoder} road"] = lambda decoder=decoder: road(pool, folder, names, decoder)
        sides["one file a clip"] = extraction
        for side in sides.values():
            side()  # imports, caches, started processes
        paired = []
        for n in range(rounds):
            took = {}
            for name, side in sides.items():
                spent, worked = seconds(side)
                took[name] = spent
                wall[name] = min(wall.get(name, spent), spent)
                processor[name] = min(processor.get(name, worked), worked)
                print(f"round {n + 1}, {name}: {spent:.2f} s, processor {worked:.2f} s", file=sys.stderr)
            paired.append(took["pyav bare"] / took["pyav road"])
    figures = {
        "ratio": wall["pyav bare"] / wall["pyav road"],
        "paired_ratio": statistics.median(paired),
        "processor_ratio": processor["pyav bare"] / processor["pyav road"],
        "against_bare_stopping": wall["pyav bare, stopping"] / wall["pyav road"],
        "processor_against_bare_stopping": processor["pyav bare, stopping"] / processor["pyav road"],
        "against_one_file_a_clip": wall["one file a clip"] / wall["pyav road"],
    }
    if "decord" in decoders:
        figures["decord_ratio"] = wall["decord bare"] / wall["decord road"]
        figures["decord_processor_ratio"] = processor["decord bare"] / processor["decord road"]
    return {
        **{name: round(value, 2) for name, value in figures.items()},
        "clips_per_s": {name: round(len(names) / spent, 2) for name, spent in wall.items()},
        "processor_ms_per_clip": {name: round(spent / len(names) * 1e3) for name, spent in processor.items()},
    }


if __name__ == "__main__":
    main()
