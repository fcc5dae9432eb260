"""Name and tags by which a person finds a flow run: flow, data, profile. Knows nothing of how stages run."""

from __future__ import annotations

from pathlib import Path

from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext

from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest
from tasks.terminal import clean


def name_flow_run(request: RunRequest, plans: list[StagePlan]) -> None:
    """Name the current flow run after the request; its tags are the profile and the datasets that the plans read."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow is None:
        return
    profile = profile_name(request)
    data = Path(request.raw).name if request.raw else "sample"
    datasets = (
        [item.label for item in plans[0].items] if plans else []
    )  # the first stage's items are datasets
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(
                context.flow_run.id,
                name=f"{context.flow.name} {clean(data)} {profile}",
                tags=sorted({*context.flow_run.tags, profile, *datasets}),
            )
    except Exception as error:  # a run that has no name of its own is a run all the same
        get_run_logger().warning("the flow run was not named: %s", error)


def profile_name(request: RunRequest) -> str:
    """The profile's name; of a file its name without the ending."""
    return Path(request.profile).stem


def task_tags(request: RunRequest, stage: str, label: str) -> set[str]:
    """Tags of an item's task run: stage, profile, and the dataset that its label names, as "meld/train/0" does.

    Not the whole label: Prefect keeps a thread and a client for every set of tags, to ask for leave to begin.
    """
    first = label.split("/")[0]
    return {stage, profile_name(request), *([first] if first != "all" else [])}
