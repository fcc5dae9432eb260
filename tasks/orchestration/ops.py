"""One machine's Prefect for years: a server, the work pool and a worker, started, looked at and ended together.

All of it lies in one folder: Prefect's home with the server's database, logs, locks and the deployments as they were
deployed. Flow runs are asked about over the server's API. Knows nothing of stages; imports no Prefect itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import InputError
from storage.store import Store
from tasks.engine import run_marks
from tasks.engine.own_server import ServerFailed
from tasks.engine.run import RunRequest
from tasks.orchestration.deploy import PREFECT, ROOT, deploy, pool
from tasks.orchestration.places import PLACES, PLACES_FILE, keep_places
from tasks.orchestration.rest import Api
from tasks.orchestration.services import Service, wait_until

HOST, PORT = "127.0.0.1", 4200
STARTS_S = 300.0
"""The server's first start lays out its database, on a busy machine for minutes."""
ENDS_S = 15.0
"""In which a cancelled run has ended everything it started."""
STOPS_S = 20.0
"""For a server or a worker; what works after it is killed with its group."""
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
"""Where the server keeps who holds which place. In its memory, as it does unasked, a restart forgets them: a run that goes on
is then ended for having lost its place, and a dead one's place never comes back."""
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 24 * 3600),
}
"""The server forgets runs that ended ninety days ago, with their logs and artifacts; unasked it keeps them for ever, and `watch`
alone makes a hundred thousand a year."""
GOING = ("RUNNING", "PENDING", "CANCELLING")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
}


@dataclass(frozen=True)
class Health:
    """What `status` found. runs: flow runs by state; deployments: each with its next and its last run."""

    address: str
    server: int | None
    worker: int | None
    answers: bool
    runs: dict[str, int]
    deployments: list[dict]

    def as_dict(self) -> dict:
        return dict(vars(self))


class Ops:
    """The server and worker whose files lie in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.server, self.worker = (Service(name, self.folder) for name in ("server", "worker"))
        self.places = self.folder / "notify"
        """Where failures are told, as the last `up` that named any did."""

    @property
    def address(self) -> str:
        """The server's, as it was last started; empty before the first time."""
        return str(self.server.facts().get("address", ""))

    def up(self, request: RunRequest, host: str | None, port: int | None, notify: str | None) -> str:
        """Start what does not run, and deploy for the request; returns the server's address. Raises ServerFailed, InputError.

        host, port: where the server listens; notify: where failures are told (tasks/orchestration/notify.py). None: as the last
        `up` that said it.
        """
        with self._alone():
            told = notify if notify is not None else os.environ.get(PLACES) or None
            if told is not None:
                keep_places(self.places, told)
            for service in (self.server, self.worker):
                service.cut_log()
            if self.server.pid() is None:
                last_host, last_port = self._last()
                self._start_server(host or last_host, port or last_port)
            self._wait_for_server()
            self._mark_crashed(request.placed().folder)
            deploy(self._api, self._environment(), self.folder, request.placed())
            command = [PREFECT, "worker", "start", "--pool", pool()["name"], "--name", socket.gethostname()]
            self.worker.start(command, self._environment(), ROOT, {})
            if not wait_until(lambda: self.worker.pid() is None or self._has_worker(), STARTS_S):
                raise ServerFailed(f"the worker has not reported to the server; log: {self.worker.log}")
            if self.worker.pid() is None:
                raise ServerFailed(
                    f"the worker did not start: {self.worker.last_words()}; log: {self.worker.log}"
                )
        return self.address

    def not_heeded(self, host: str | None, port: int | None) -> str:
        """What of these a server that runs goes on without, as a line; "" where there is nothing."""
        last_host, last_port = self._last()
        asked = [f"--host {host}"] if host not in (None, last_host) else []
        asked += [f"--port {port}"] if port not in (None, last_port) else []
        if not asked or self.server.pid() is None:
            return ""
        return (
            f"the server goes on at {self.address}; {' '.join(asked)} is heeded when it starts: "
            "`empamba ops down`, then `up` with it"
        )

    def status(self) -> Health:
        """What runs, and what is planned."""
        server, worker = self.server.pid(), self.worker.pid()
        answers = server is not None and self._api.ask("health") is True
        if not answers:
            return Health(self.address, server, worker, False, {}, [])
        runs = {
            state.lower(): self._api.ask(
                "flow_runs/count", {"flow_runs": {"state": {"type": {"any_": [state]}}}}
            )
            for state in (*GOING, "SCHEDULED", "FAILED", "CRASHED")
        }
        found = self._api.ask("deployments/filter", {"limit": 100}) or []
        deployments = [self._deployment(one) for one in sorted(found, key=lambda one: one["name"])]
        return Health(self.address, server, worker, True, {s: n for s, n in runs.items() if n}, deployments)

    def down(self) -> dict[str, int | bool]:
        """End runs, worker and server, in this order, and nothing else. Returns how many runs were cut off, and what ran."""
        with self._alone():
            # A run goes on where its worker has died: whoever is told of it, the server tells it.
            cut = self._cancel_runs() if self.server.pid() is not None else 0
            worker = self.worker.stop(STOPS_S)
            server = self.server.stop(STOPS_S)
        return {"runs": cut, "worker": worker, "server": server}

    # Starting -----------------------------------------------------------------------------------------

    def _last(self) -> tuple[str, int]:
        """Where the server listens, or did when it was last started."""
        facts = self.server.facts()
        return facts.get("host", HOST), facts.get("port", PORT)

    def _start_server(self, host: str, port: int) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise InputError(
                    f"--port {port} on {host}: {error.strerror}; give another, or end what has it"
                ) from None
        everywhere = host == "0.0.0.0"
        address = f"http://{'127.0.0.1' if everywhere else host}:{port}"
        # What the page asks from within a browser: Prefect's default port unless it is told.
        page = f"http://{socket.gethostname()}:{port}" if everywhere else address
        environment = {
            **self._environment(),
            "PREFECT_SERVER_UI_API_URL": f"{page}/api",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
            **RETENTION,
        }
        environment.pop("PREFECT_API_URL", None)
        command = [PREFECT, "server", "start", "--host", host, "--port", str(port)]
        self.server.start(command, environment, ROOT, {"address": address, "host": host, "port": port})

    def _wait_for_server(self) -> None:
        answers = wait_until(lambda: self.server.pid() is None or self._api.ask("health") is True, STARTS_S)
        if self.server.pid() is None:
            raise ServerFailed(
                f"the server did not start: {self.server.last_words()}; log: {self.server.log}"
            )
        if not answers:
            raise ServerFailed(f"the server has not answered within {STARTS_S:.0f} s; log: {self.server.log}")

    def _mark_crashed(self, store: Path) -> None:
        """Runs of this store whose process has gone are Crashed from now on: the next one need not wait for their places."""
        marked = any(
            (store / "locks").glob(f"{run_marks.PREFIX}*")
        )  # a folder that is no store yet stays as it is
        dead = run_marks.dead(Store(store), self._api.address) if marked else []
        if not dead:
            return
        from tasks.orchestration.notify import send  # Prefect, which nothing else here needs

        told = self.places.read_text(encoding="utf-8") if self.places.exists() else ""
        for run in self._crashed("flow_runs", dead):
            if run["parent_task_run_id"] is None:
                send(f"{run['name']}: Crashed", run_marks.GONE, told)
        self._crashed("task_runs", dead)

    def _crashed(self, kind: str, dead: list[str]) -> list[dict]:
        """Those of these flow runs, or of the task runs in them, that had not ended; they have now."""
        asked = {"flow_runs": {"id": {"any_": dead}}, "limit": 200}
        found = [
            run for run in self._api.ask(f"{kind}/filter", asked) or [] if run["state_type"] not in ENDED
        ]
        state = {"type": "CRASHED", "name": "Crashed", "message": run_marks.GONE}
        for run in found:
            self._api.ask(f"{kind}/{run['id']}/set_state", {"state": state, "force": True})
        return found

    def _environment(self) -> dict[str, str]:
        """Of Prefect's programs. Nothing of the user's own Prefect is read or written."""
        ours = {
            **QUIET,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.address}/api",
            "EMPAMBA_HOME": str(ROOT),
            PLACES_FILE: str(self.places),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_SERVER_")}
        others.pop(PLACES, None)  # they are in the file, which the next `up` may change
        return {**others, **ours}

    def _has_worker(self) -> bool:
        workers = self._api.ask(f"work_pools/{pool()['name']}/workers/filter", {}) or []
        return any(w["name"] == socket.gethostname() and w["status"] == "ONLINE" for w in workers)

    # Asking -------------------------------------------------------------------------------------------

    def _deployment(self, one: dict) -> dict:
        def run(states: list[str], sort: str) -> dict | None:
            wanted = {"state": {"type": {"any_": states}}}
            asked = {
                "flow_runs": wanted,
                "deployments": {"id": {"any_": [one["id"]]}},
                "sort": sort,
                "limit": 1,
            }
            return next(iter(self._api.ask("flow_runs/filter", asked) or []), None)

        coming = run(["SCHEDULED"], "EXPECTED_START_TIME_ASC")
        last = run([*ENDED, *GOING], "EXPECTED_START_TIME_DESC")
        return {
            "name": one["name"],
            "next": coming and coming["expected_start_time"],
            "last": last and last["state_name"],
            "last_at": last and (last["end_time"] or last["start_time"] or last["expected_start_time"]),
        }

    def _cancel_runs(self) -> int:
        """Cancel what runs, and wait until it has ended; how many runs that were."""
        going = {
            "flow_runs": {"state": {"type": {"any_": list(GOING)}}, "parent_task_run_id": {"is_null_": True}}
        }
        found = self._api.ask("flow_runs/filter", {**going, "limit": 200}) or []
        for run in found:
            wanted = {"state": {"type": "CANCELLING", "name": "Cancelling", "message": "empamba ops down"}}
            self._api.ask(f"flow_runs/{run['id']}/set_state", wanted)
        wait_until(lambda: not self._api.ask("flow_runs/count", going), ENDS_S)
        return len(found)

    @property
    def _api(self) -> Api:
        return Api(f"{self.address}/api")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two commands do not start or end the same programs at once."""
        with open(self.folder / "ops.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
