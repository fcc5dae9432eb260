"""What a Ray cluster costs for each item: `make bench NAME=fan_out`.

Items that do nothing (64, 512, 4,096), and 512 that sleep for 0.5 s, over two nodes of one core each on this machine, through
the planner and the session; the same items by the runner of this machine beside them. With --flow the sleeping ones go
through Prefect too, as `empamba run` does. Sleeping takes no core, so that the share of the ideal means something on a busy
machine as well. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from storage.sample.layout import write_sample
from tests.support import fan_out
from tests.support.prefect_server import prefect_server
from tests.support.ray_cluster import ray_cluster
from tests.support.rerun import digests, run, session

COUNTS = (64, 512, 4096)
COUNT, SECONDS, WORKERS = 512, 0.5, 2


def changes(cluster: str | None) -> list[str]:
    runner = [] if cluster is None else ["run.runner=ray", f"run.cluster={cluster}"]
    return [fan_out.RUN, f"run.parallel={WORKERS}", *runner]


def spent(
    cluster: str | None, folder: Path, count: int, seconds: float
) -> tuple[float, float, dict[str, str]]:
    """(seconds, CPU seconds of this process, digests) of so many items in a new store, their workers' start included."""
    os.environ["FAN_OUT"] = json.dumps({"count": count, "seconds": seconds})
    with session(
        "tiny", folder / f"{cluster is None}-{count}-{seconds}", folder / "raw", changes(cluster)
    ) as opened:
        wall, cpu = time.perf_counter(), time.process_time()
        assert len(run(opened, "waits")) == count
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu, digests(opened, "waits")


def through_prefect(cluster: str, folder: Path) -> float:
    """Seconds of the sleeping items as a flow's task runs."""
    from flows.write_report import write_report
    from tasks.engine.run import RunRequest

    os.environ["FAN_OUT"] = json.dumps({"count": COUNT, "seconds": SECONDS})
    request = RunRequest(
        profile="tiny",
        changes=tuple(changes(cluster)),
        raw=str(folder / "raw"),
        store=str(folder / "flow"),
        until="waits",
    )
    begun = time.perf_counter()
    write_report(request)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--flow", action="store_true")
    asked = parser.parse_args()
    found: dict[str, dict] = {}
    ideal = COUNT * SECONDS / WORKERS
    with tempfile.TemporaryDirectory() as scratch, ray_cluster(*[{}] * WORKERS) as cluster:
        folder = Path(scratch)
        write_sample(folder / "raw", media=False, dialogues=1, turns=2)
        spent(cluster, folder, 2, 0.0)  # the first use of a cluster starts what keeps its claims
        for count in asked.counts:
            (wall, cpu, made), (local, _, same) = (spent(who, folder, count, 0.0) for who in (cluster, None))
            assert made == same
            found[str(count)] = {
                "ray_ms_an_item": round(1000 * wall / count, 2),
                "ray_cpu_ms_of_the_run_an_item": round(1000 * cpu / count, 2),
                "local_ms_an_item": round(1000 * local / count, 2),
            }
            print(count, found[str(count)], flush=True)
        share = ideal / spent(cluster, folder, COUNT, SECONDS)[0]
        print("of the ideal:", round(share, 3), flush=True)
        beside = {}
        if asked.flow:
            with prefect_server(folder / "prefect") as server:
                os.environ.update(server, PREFECT_LOGGING_LEVEL="CRITICAL")
                beside = {"of_ideal_through_prefect": round(ideal / through_prefect(cluster, folder), 3)}
    print(
        json.dumps(
            {
                "name": "fan_out",
                "ratio": round(share / 0.8, 2),
                "of_ideal": round(share, 3),
                **beside,
                "items": found,
            }
        )
    )


if __name__ == "__main__":
    main()
