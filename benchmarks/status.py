"""What it costs to learn that nothing is stale: `status` and a no-op `run` beside DVC's. `make bench NAME=status`.

A store of MELD's size and shape on the tiny profile: 13,708 utterances in the release's three CSVs and a clip of
a few kB for each. Utterances and exchanges are really made; the stages after them, whose work a plan never looks
at, get stub artefacts under their real keys. At 4 and 16 times the files are stubs too. DVC has one stage for each
of ours and the raw tree as one dependency; it is installed into a throwaway environment unless `--dvc` names one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from storage.store import Record, Store
from tasks.engine.item import Item
from tasks.engine.planner import Board, run_graph
from tasks.engine.session import Session
from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
SPLITS = {
    "train": ("train_splits", 1038, 9989),
    "dev": ("dev_splits_complete", 114, 1109),
    "test": ("output_repeated_splits_test", 280, 2610),
}
"""Split -> clip folder, dialogues and utterances of the release."""

COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
EMOTIONS = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")
REAL = ("utterances", "utterances.exchanges")
REPEATS = 5
FRESH = '"state": "fresh"'
"""What `status --json` says of a stage with nothing to do."""


@dataclass(frozen=True)
class Cost:
    """The least of several runs of one command."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def lay_out(root: Path, times: int) -> None:
    """A raw tree of `times` MELD's size. Clips: 3 kB of noise each, or a few bytes where there are more."""
    draw = random.Random(0)
    for split, (folder, dialogues, utterances) in SPLITS.items():
        (root / folder).mkdir(parents=True)
        with open(root / f"{split}_sent_emo.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for row in range(utterances * times):
                dialogue, turn = row % (dialogues * times), row // (dialogues * times)
                name, words = f"dia{dialogue}_utt{turn}.mp4", draw.choices("ab cd ef gh ij".split(), k=8)
                line = [
                    row,
                    " ".join(words),
                    f"S{turn % 2}",
                    draw.choice(EMOTIONS),
                    "neutral",
                    dialogue,
                    turn,
                ]
                writer.writerow([*line, 1, 1, "0:00:01,000", "0:00:03,000"])
                (root / folder / name).write_bytes(draw.randbytes(3000) if times == 1 else name.encode())


def fill(store: Path, raw: Path) -> int:
    """Make the store: the first stages for real, stubs under their real keys after them. Returns the items."""
    count = 0
    with Session(load_settings("tiny"), "tiny", store, raw) as session, ThreadPoolExecutor(1) as pool:

        def submit(item: Item, why: list[str]) -> Future:
            nonlocal count
            count += 1
            if item.stage.name in REAL:
                return pool.submit(session.execute, item, lambda *_: None)
            return pool.submit(_stub, session.store, item)

        run_graph(session.store, session.graph(), Board(), submit, lambda _: None)
    return count


def _stub(store: Store, item: Item):
    table = item.stage.name.split(".")[0]
    names = {
        "report": ["report.html", "report.json"],
        "pairs": ["pairs.json", "pairs/meld/train/0", "pairs/meld/dev/0"],
    }.get(table, [f"{table}/{item.label}"])
    outputs = tuple(store.put_bytes(name, b"{}", rows=1) for name in names)
    parts = item.parts()
    store.commit(Record(stage=item.stage.name, label=item.label, key=item.key(parts), outputs=outputs), parts)
    return outputs


def cost(command: list[str], folder: Path, says: str = "", before: Callable[[], None] = lambda: None) -> Cost:
    """Seconds, CPU seconds and peak memory of a command, the least of REPEATS runs; it must print `says`.

    before: called before each run.
    """
    found = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # both keep their byte code, as installed programs do
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    for _ in range(REPEATS):
        before()
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT
            )
            started = time.perf_counter()
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            printed.seek(0)
            text = printed.read().decode()
        if process.returncode or says not in text:
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}: {text[-2000:]}")
        found.append(Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000))
    return Cost(*(min(getattr(f, name) for f in found) for name in ("wall_s", "cpu_s", "peak_mb")))


def command(name: str, store: Path | str, raw: Path, *more: str) -> list[str]:
    """A command of this project's on a store that `fill` made."""
    options = ["--profile", "tiny", "--store", str(store), "--raw", str(raw)]
    return [sys.executable, "-m", "flows.cli", name, *more, *options]


def ours(store: Path, raw: Path) -> dict[str, Cost]:
    return {
        "status": cost(command("status", store, raw, "--json"), store.parent, FRESH),
        "run": cost(command("run", store, raw), store.parent, "Nothing is stale"),
    }


def theirs(dvc: str, folder: Path, raw: Path) -> Cost:
    """DVC's no-op `repro` over one stage for each of ours."""
    with Session(load_settings("tiny"), "tiny", folder / "unused", raw) as session:
        graph = session.graph()
    lines = ["stages:"]
    for node in graph:
        name = node.stage.name.replace(".", "-")
        needs = [f"{need.replace('.', '-')}.out" for need in node.needs] or [str(raw)]
        lines += [f"  {name}:", f"    cmd: echo {name} > {name}.out", "    deps:"]
        lines += [f"    - {need}" for need in needs] + ["    outs:", f"    - {name}.out"]
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    quiet = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for command in (["init", "--no-scm"], ["repro"], ["repro"]):
        subprocess.run([dvc, *command], **quiet)
    return cost([dvc, "repro"], folder, "up to date")


def install_dvc(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", "dvc"], check=True)
    return str(folder / "bin/dvc")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dvc", help="an installed DVC's executable")
    parser.add_argument("--times", type=int, nargs="*", default=[1, 4, 16])
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for times in arguments.times:
            place = folder / str(times)
            lay_out(place / "raw", times)
            items = fill(place / "store", place / "raw")
            rows[times] = {"items": items, **ours(place / "store", place / "raw")}
            for name in ("status", "run"):
                print(f"{times}x, {items} items: {name} {rows[times][name]}", flush=True)
        (folder / "dvc").mkdir()
        dvc = theirs(arguments.dvc or install_dvc(folder / "env"), folder / "dvc", folder / "1" / "raw")
        print(f"1x: dvc repro, nothing changed {dvc}", flush=True)
    figures = {
        "name": "status",
        "ratio": round(dvc.cpu_s / rows[1]["run"].cpu_s, 2),
        "status_ratio": round(dvc.cpu_s / rows[1]["status"].cpu_s, 2),
        "dvc_cpu_s": round(dvc.cpu_s, 2),
        **{
            f"{name}_{times}x": [
                round(row[name].wall_s, 2),
                round(row[name].cpu_s, 2),
                round(row[name].peak_mb),
            ]
            for times, row in rows.items()
            for name in ("status", "run")
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
