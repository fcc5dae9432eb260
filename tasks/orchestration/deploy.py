"""deployments/prefect.yaml for one request, on a server: work pool, queues, deployments and their automation.

Knows nothing of how the server came to run; imports no Prefect itself.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from storage.files import write_atomic
from tasks.engine.own_server import ServerFailed
from tasks.engine.run import RunRequest
from tasks.orchestration.rest import Api

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS, POOL = ROOT / "deployments" / "prefect.yaml", ROOT / "deployments" / "work_pool.yaml"
PREFECT = str(Path(sys.executable).with_name("prefect"))


def deploy(api: Api, environment: dict[str, str], folder: Path, request: RunRequest) -> None:
    """Deploy for the request, whose paths are absolute. What is there already is replaced; a pool and its queues stay.

    environment: of Prefect's command; folder: where the file that was deployed is kept, and the log of one that was
    refused. Raises ServerFailed.
    """
    try:
        _make_pool(api)
    except OSError as error:
        raise ServerFailed(f"{api.address}: no work pool was made: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    rendered = folder / "prefect.yaml"
    write_atomic(rendered, deployed_for(request).encode())
    done = subprocess.run(
        [PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(rendered)],
        env=environment, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        log = folder / "deploy.log"
        log.write_text(done.stdout + done.stderr)
        raise ServerFailed(f"{rendered} was not deployed; log: {log}")


def deployed_for(request: RunRequest) -> str:
    """deployments/prefect.yaml with this request as every deployment's."""
    found = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    asked = {"profile": request.profile, "store": request.store} | request.model_dump(
        mode="json", exclude_defaults=True
    )
    for one in found["deployments"]:
        one["parameters"] = {"request": asked}
    return yaml.safe_dump(found, sort_keys=False)


def pool() -> dict:
    """The work pool's name, type and queues, by their priorities."""
    return yaml.safe_load(POOL.read_text(encoding="utf-8"))


def _make_pool(api: Api) -> None:
    wanted = pool()
    name = wanted["name"]
    if api.ask(f"work_pools/{name}") is None:
        api.post("work_pools/", {"name": name, "type": wanted["type"]})
    known = {queue["name"] for queue in api.post(f"work_pools/{name}/queues/filter", {})}
    for queue, priority in wanted["queues"].items():
        if queue not in known:
            api.post(f"work_pools/{name}/queues", {"name": queue, "priority": priority})
