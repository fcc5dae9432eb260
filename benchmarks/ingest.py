"""Label files to shards, storage called directly, beside pandas: `make bench NAME=ingest`.

MELD's train and dev (11,098 rows) where they lie in ../shared/data, else rows of that size and shape. Ours reads,
checks and counts every row, splits, and writes one sorted Parquet file a bucket. pandas reads the same files,
renames the labels, takes the same buckets and writes the same number of files: what a notebook does, without the
checks. Both sides in one process, one after the other; the least of several repeats counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas

from storage.filestat import content_digest
from storage.labels import EKMAN
from storage.readers.find import find_datasets, read_dataset
from storage.settings import DataSettings
from storage.shards import bucket_count, bucket_of, utterance_to_row, write_table

MELD = Path(__file__).resolve().parents[1] / "../shared/data/meld"
SPLITS = {"train": (1038, 9989), "dev": (114, 1109)}
COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
TARGET_S = 2.0
REPEATS = 7


def lay_out(root: Path) -> str:
    """The two label files; returns what they are."""
    if MELD.is_dir():
        for split in SPLITS:
            shutil.copy(MELD / f"{split}_sent_emo.csv", root)
        return "MELD's own label files"
    draw = random.Random(0)
    for split, (dialogues, utterances) in SPLITS.items():
        with open(root / f"{split}_sent_emo.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in range(utterances):
                words = " ".join(draw.choices("well you know that is what they said".split(), k=8))
                place = (row % dialogues, row // dialogues)
                writer.writerow([row, words, f"S{row % 3}", draw.choice(list(EKMAN)), "neutral", *place, 1, 1,
                                 f"0:{row // 60 % 60:02}:{row % 60:02},000", f"0:{row // 60 % 60:02}:{row % 60:02},900"])  # fmt: skip
    return "made rows of MELD's size"


def ours(root: Path, out: Path) -> int:
    settings = DataSettings()
    (raw,) = find_datasets(root)
    read = read_dataset(raw, root, settings, content_digest)
    buckets: dict[tuple[str, int], list[dict]] = {}
    sizes = Counter(u.split for u in read.utterances)
    counts = {split: bucket_count(size, settings.bucket_rows) for split, size in sizes.items()}
    for u in read.utterances:
        place = bucket_of(u.dataset, u.split, u.dialogue_id, counts[u.split])
        buckets.setdefault((u.split, place), []).append(utterance_to_row(u))
    for (split, place), rows in buckets.items():
        (out / f"{split}-{place}.parquet").write_bytes(write_table(rows, "utterances"))
    return sum(map(len, buckets.values()))


def with_pandas(root: Path, out: Path) -> int:
    rows = 0
    for split in SPLITS:
        table = pandas.read_csv(root / f"{split}_sent_emo.csv")
        table["split"], table["emotion"] = split, table["Emotion"].map(EKMAN)
        count = bucket_count(len(table), DataSettings().bucket_rows)
        table["bucket"] = [bucket_of("meld", split, str(d), count) for d in table["Dialogue_ID"]]
        for place, part in table.groupby("bucket"):
            ordered = part.sort_values(["Dialogue_ID", "Utterance_ID"])
            ordered.to_parquet(out / f"{split}-{place}.parquet", compression="zstd", index=False)
        rows += len(table)
    return rows


def least(function: Callable[[Path, Path], int], root: Path, repeats: int) -> tuple[int, float, float]:
    """Rows, and the least wall and CPU seconds of several repeats."""
    walls, cpus, rows = [], [], 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            wall, cpu = time.perf_counter(), time.process_time()
            rows = function(root, Path(out))
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return rows, min(walls), min(cpus)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        what = lay_out(root)
        first = time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            ours(root, Path(out))
        first = time.perf_counter() - first
        rows, wall, cpu = least(ours, root, options.repeats)
        theirs, other_wall, other_cpu = least(with_pandas, root, options.repeats)
    print(f"{what}: {rows} rows; pandas {theirs}", file=sys.stderr)
    facts = {
        "name": "ingest",
        "ratio": round(other_wall / wall, 2),
        "other": "pandas read_csv, groupby, to_parquet, without checks",
        "target_s": TARGET_S,
        "first_s": round(first, 3),
        "wall_s": round(wall, 3),
        "cpu_s": round(cpu, 3),
        "rows_per_s": round(rows / wall),
        "pandas_wall_s": round(other_wall, 3),
        "pandas_cpu_s": round(other_cpu, 3),
        "pandas_rows_per_s": round(theirs / other_wall),
        "rows": rows,
    }
    print(json.dumps(facts))
    return 0 if first <= TARGET_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
