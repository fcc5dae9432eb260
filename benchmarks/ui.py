"""A run in Prefect's own UI, in a real browser: pictures of its lists, graph, pages, form and automation, to be looked at.

make bench NAME=ui ARGS="--pictures DIR [--folder DIR] [--until STAGE]"

`ops up` over a small sample of text, profile tiny; `reproduce` is started as its form does and waited for. --folder keeps store
and server's home, so that a second time finds the run made and takes its pictures alone.
"""

from __future__ import annotations

import argparse
import base64
import socket
import tempfile
import time
from pathlib import Path

from storage.sample.layout import write_sample
from tasks.engine.run import RunRequest
from tasks.orchestration.ops import ENDED, Ops
from tasks.orchestration.rest import Api
from tests.support.browser import Browser

WIDTH, HEIGHT = 1400, 1000


def deployed_run(api: Api) -> str:
    """The id of a run of `reproduce` that has ended: the last one, or, where there is none, one that is made now."""
    watch = api.post("deployments/name/watch/watch", None)["id"]
    api.ask(f"deployments/{watch}/pause_deployment", {})  # it would start a refresh beside it
    deployment = api.post("deployments/name/reproduce/reproduce", None)["id"]
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "sort": "START_TIME_DESC", "limit": 1}
    found = api.post("flow_runs/filter", wanted)
    run = found[0] if found else api.post(f"deployments/{deployment}/create_flow_run", {})
    while (state := api.post(f"flow_runs/{run['id']}", None)["state_type"]) not in ENDED:
        time.sleep(2)
    print(f"reproduce {state.lower()}")
    return run["id"]


def addresses(api: Api, run: str, training: str) -> dict[str, tuple[str, str]]:
    """A picture's name -> the page's path, and words that it shows once it is drawn. training: whose page is one of them."""
    ask = api.post
    parts = {
        one["name"].split(" ")[0]: one["id"]
        for one in ask("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
    }

    def artifact(key: str) -> str:
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
        return f"artifacts/artifact/{ask('artifacts/filter', wanted)[0]['id']}"

    form = ask("deployments/name/reproduce/reproduce", None)["id"]
    return {
        "runs": ("runs", "reproduce"),
        "run": (f"runs/flow-run/{run}", "Completed"),
        "graph": (f"runs/flow-run/{parts['train-models']}", "Completed"),
        "training": (artifact(f"stage-{training}-page"), "Artefacts"),
        "plan": (artifact("run-plan"), "What will run"),
        "summary": (artifact("run-summary"), "What was done"),
        "form": (f"deployments/deployment/{form}/run", "profile"),
        "automation": ("automations", "refresh-what-watch-has-seen"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--folder", type=Path, default=None, help="where store and server lie; kept")
    parser.add_argument("--until", default=None, help="last stage to run; none: all")
    parser.add_argument("--training", default="epo", help="the training whose page is looked at")
    parser.add_argument(
        "--settles",
        type=float,
        default=10.0,
        help="seconds in which what a page draws is there; more, where busy",
    )
    given = parser.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = (given.folder or Path(name)).resolve()
        raw = folder / "raw"
        if not raw.exists():
            write_sample(raw, media=False, dialogues=2, turns=6)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        ops = Ops(folder / "ops")
        request = RunRequest(profile="tiny", raw=str(raw), store=str(folder / "store"), until=given.until)
        try:
            address = ops.up(request, "127.0.0.1", port, None)
            api = Api(f"{address}/api")
            pages = addresses(api, deployed_run(api), given.training.replace(".", "-"))
            with Browser(folder / "browser") as page:
                page.ask(
                    "Emulation.setDeviceMetricsOverride",
                    width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False,
                )  # fmt: skip
                for picture, (path, words) in pages.items():
                    page.go(f"{address}/{path}")
                    page.until(f"document.body.innerText.includes({words!r})", 120)
                    time.sleep(given.settles)
                    taken = page.ask("Page.captureScreenshot")
                    (given.pictures / f"{picture}.png").write_bytes(base64.b64decode(taken["data"]))
                print("\n".join(page.problems) or "no script raised anything")
        finally:
            ops.down()


if __name__ == "__main__":
    main()
