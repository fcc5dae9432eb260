"""What Prefect costs for each executed item: `make bench NAME=orchestration`.

The same items, which do nothing, through run_stages in a flow against a running server, and through the planner's
run_graph alone. CPU seconds of this process, and of the server beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from storage.sample.layout import write_sample
from storage.store import Ref
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.planner import Board, Node, run_graph
from tasks.engine.session import Session
from tasks.engine.slots import Slots
from tasks.settings import load_settings
from tests.support.prefect_server import prefect_server

NOTHING = Stage("nothing", "tasks.stages.shard_names:place")


class Idle(Session):
    """A session of one stage whose items are done as soon as they start."""

    def __init__(self, count: int, folder: Path, raw: Path):
        super().__init__(load_settings("tiny"), "tiny", folder, raw)
        self.slots = Slots(8, {NOTHING.name: 8}, {NOTHING.name: 1})
        self.items = [Item(NOTHING, f"meld/train/{i}", {"number": i}) for i in range(count)]

    def graph(self, until: str | None = None) -> list[Node]:
        return [Node(NOTHING, (), lambda _: self.items)]

    def execute(self, item: Item, progress) -> list[Ref]:
        return [Ref(name=f"nothing/{item.label}", digest="0" * 32, size=0)]


def spent(work) -> tuple[float, float]:
    """(seconds, CPU seconds of this process) of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def bare(session: Idle) -> None:
    with ThreadPoolExecutor(8) as pool:
        run_graph(
            session.store,
            session.graph(),
            Board(),
            lambda item, _: pool.submit(session.execute, item, None),
            lambda _: None,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200)
    count = parser.parse_args().items
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_sample(folder / "raw", media=False, dialogues=1, turns=2)
        with (
            prefect_server(folder / "prefect") as server,
            Idle(count, folder / "store", folder / "raw") as session,
        ):
            os.environ.update(server, PREFECT_LOGGING_LEVEL="CRITICAL")
            from prefect import flow

            from tasks.display import Display
            from tasks.engine.run import Run
            from tasks.orchestration.run_stages import run_stages

            @flow(name="overhead")
            def overhead(wanted: int) -> None:
                session.items = session.items[:wanted]
                with Display() as display:
                    run_stages(Run(session, display, Board()), (NOTHING.name,), None)

            items = session.items
            overhead(1)  # what the first flow of a process imports and connects is no cost of an item
            session.items = items
            serving = [
                p for p in psutil.Process().children(recursive=True) if "server" in " ".join(p.cmdline())
            ]
            before = sum(sum(p.cpu_times()[:2]) for p in serving)
            wall, cpu = spent(lambda: overhead(count))
            beside = sum(sum(p.cpu_times()[:2]) for p in serving) - before
            session.items = items
            bare_wall, bare_cpu = spent(lambda: bare(session))
    print(
        json.dumps(
            {
                "name": "orchestration",
                "ratio": round(20.0 / (1000 * (cpu - bare_cpu) / count), 2),
                "items": count,
                "client_cpu_ms_an_item": round(1000 * (cpu - bare_cpu) / count, 2),
                "server_cpu_ms_an_item": round(1000 * beside / count, 2),
                "wall_ms_an_item": round(1000 * (wall - bare_wall) / count, 2),
                "planner_alone_cpu_ms_an_item": round(1000 * bare_cpu / count, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
