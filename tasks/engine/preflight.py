"""What a run asks before anything long starts: GPUs and vLLM, if its settings need them, and the models' hub, whose weights
it fetches.

Each fault is one InputError that says what to do; what was found is the run's first lines. Knows nothing of stages.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from model.accelerator import Accelerator, Gpu, may_have_gpu, too_slow
from model.zoo.hub import check_hub, must_be_fetched
from storage.errors import InputError
from tasks.display import Waiting
from tasks.engine.declaration import Stage, Weights
from tasks.engine.fetching import Broken, fetch
from tasks.engine.gpus import VISIBLE, Gpus, visible_names
from tasks.engine.passing import can_pass, tried
from tasks.engine.planner import StagePlan
from tasks.settings import RunSettings, Settings, weight_names

if TYPE_CHECKING:
    from tasks.engine.session import Session

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 600
"""A first look compiles the scan's kernels."""
WITH_LESS = (
    "set activation_checkpointing of compressor.finetune and dialogue.training, and run.least_gpu_gb to what is needed then "
    "(docs/costs.md)"
)
ANYWAY = "`--set run.least_gpu_gb=null` runs without asking, `--profile cpu` needs no GPU"


def preflight(session: Session, until: str | None) -> tuple[str, ...]:
    """The run's first lines. Raises InputError or ZooError where the machine, or the hub, has not what the run needs."""
    lines = session.workers.check()
    _check_stages(session, until)
    _fetch_weights(session, until)
    return lines


def check_machine(plans: Sequence[StagePlan], settings: Settings) -> None:
    """Of `preflight` what needs no run, for a command that has a server to start first. Raises InputError."""
    if settings.run.runner == "local":
        check_accelerator(settings.run)
    stages = with_work(plans)
    fault = own_fault(stages, settings) or vllm_fault(stages, settings)
    if fault is not None:
        raise InputError(fault)


def _check_stages(session: Session, until: str | None) -> None:
    """Raises InputError where a stage that has anything to do cannot do it, or needs vLLM, or GPUs, that are not here."""
    settings, gpus = session.settings, session.workers.machine.gpus

    def fault(stages: Sequence[Stage]) -> str | None:
        return (
            own_fault(stages, settings) or vllm_fault(stages, settings) or gpu_fault(stages, settings, gpus)
        )

    # What has to be done is asked only where it matters: of a large corpus that takes minutes.
    if fault([node.stage for node in session.graph(until)]):
        found = fault(with_work(session.plan(until)))
        if found is not None:
            raise InputError(found)


def with_work(plans: Sequence[StagePlan]) -> list[Stage]:
    """The stages that have anything to do, or may have."""
    return [plan.stage for plan in plans if plan.state in ("stale", "unknown")]


def own_fault(stages: Sequence[Stage], settings: Settings) -> str | None:
    """What these stages themselves say against the settings; None where nothing."""
    return next((fault for stage in stages if (fault := stage.fault(settings))), None)


def vllm_fault(stages: Sequence[Stage], settings: Settings) -> str | None:
    """What to do where these stages start vLLM and it is not installed; None where they can."""
    asked = sorted({engine.asked_by for stage in stages for engine in stage.vllm(settings)})
    if not asked or find_spec("vllm"):
        return None
    return (
        f"{' and '.join(asked)}: vllm, and vLLM is not installed here; `make setup-gpu` installs it (`make setup` where there "
        "is no GPU), or set transformers in its place, which takes longer"
    )


def gpu_fault(stages: Sequence[Stage], settings: Settings, gpus: int) -> str | None:
    """What to do where an item takes more GPUs than there are, which are `gpus`; None where it does not.

    Without any, the processes of a training share the CPU, and vLLM's do not.
    """
    for stage in stages:
        engines, wanted = stage.vllm(settings), stage.gpus_of(settings)
        if wanted > max(gpus, 1) and (gpus or engines):
            by = max(engines, key=lambda engine: engine.gpus).shared_by if engines else "run.processes"
            return (
                f"{by} is {wanted}, and {stage.name} finds {gpus} GPUs: lower it, or make more of them visible "
                "(CUDA_VISIBLE_DEVICES, run.gpus)"
            )
    return None


def gpu_names(settings: RunSettings) -> tuple[str, ...]:
    """The GPUs that a run's items hold, as `CUDA_VISIBLE_DEVICES` names them: those that have what is asked of one."""
    least = settings.least_gpu_gb
    if least is None and settings.gpus is not None:
        return settings.gpus
    there = _named(accelerator(settings), settings)
    return tuple(
        name for name, gpu in there.items() if least is None or shortcoming(name, gpu, least) is None
    )


def gpu_cards(settings: RunSettings) -> dict[str, str]:
    """The same by name, those whose UUID torch tells: which card it is, whatever a run calls it."""
    there = _named(accelerator(settings), settings)
    return {name: gpu.uuid for name, gpu in there.items() if gpu.uuid}


def _visible(found: Accelerator) -> dict[str, Gpu]:
    """All GPUs that this process sees, by name."""
    return dict(zip(visible_names(len(found.gpus)), found.gpus, strict=True))


def _named(found: Accelerator, settings: RunSettings) -> dict[str, Gpu]:
    """The GPUs that the settings let a run have, by name."""
    there = _visible(found)
    return {name: gpu for name, gpu in there.items() if settings.gpus is None or name in settings.gpus}


def name_fault(found: Accelerator, settings: RunSettings) -> str | None:
    """What to do where the settings name a GPU that is not among those found; None where they do not.

    A process that is given such a name sees no GPU, and would compute on the CPU.
    """
    there = _visible(found)
    absent = [name for name in settings.gpus or () if name not in there]
    if not there or not absent:
        return None
    listed = ", ".join(f"{name} ({gpu.name})" for name, gpu in there.items())
    return (
        f"run.gpus: no visible GPU is called {' or '.join(absent)}; there are {listed}: name some of these, or make others "
        f"visible ({VISIBLE})"
    )


def shortcoming(name: str, gpu: Gpu, least: float) -> str | None:
    """Why a GPU does not do where `least` GB are needed, and what to do; one that another run holds is waited for."""
    where = f"GPU {name} ({gpu.name})"
    if gpu.total_gb < least:
        return f"{where} has {gpu.total_gb:.1f} GB and {least:g} are needed; take a larger one, or {WITH_LESS}; {ANYWAY}"
    cards = {name: gpu.uuid} if gpu.uuid else {}
    if gpu.free_gb < least and not Gpus(cards=lambda: cards).is_held(name):
        return (
            f"{where} has {gpu.free_gb:.1f} of its {gpu.total_gb:.1f} GB free and {least:g} are needed: "
            f"another process holds the rest; end it (nvidia-smi names it) or choose another GPU "
            f"(CUDA_VISIBLE_DEVICES); {ANYWAY}"
        )
    return None


def check_accelerator(settings: RunSettings) -> tuple[str, ...]:
    """What a run computes on, and its scan, in a line each. Raises InputError where that will not do."""
    found = accelerator(settings)
    fault = refusal(found, settings)
    if fault is not None:
        raise InputError(fault)
    return found.lines


@cache  # of this process: a command asks before it starts the orchestrator, its flows once more
def accelerator(settings: RunSettings) -> Accelerator:
    """What torch finds here; it is not asked where there is no GPU and none is needed."""
    if settings.least_gpu_gb is None and not may_have_gpu():
        return Accelerator()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "model.accelerator"],
            capture_output=True, text=True, cwd=ROOT, timeout=LOOK_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Accelerator.from_json(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise InputError(
            f"the GPU gave no answer within {LOOK_S} s: nvidia-smi says whether it works"
        ) from None
    except (IndexError, ValueError, TypeError, KeyError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(
            f"torch cannot be asked for a GPU ({last[:200]}); install again: make setup-gpu"
        ) from None


def refusal(found: Accelerator, settings: RunSettings) -> str | None:
    """Why these settings do not run on what was found, and what to do; None where they do."""
    least, unknown = settings.least_gpu_gb, name_fault(found, settings)
    if unknown is not None:
        return unknown
    if least is not None:
        if not found.gpus:
            return f"a GPU of {least:g} GB is needed, and torch has none: {found.fault}; {_way_on(found.fault or '')}; {ANYWAY}"
        there = _named(found, settings)
        if len(there) < settings.processes:
            return (
                f"run.processes is {settings.processes} and torch finds {len(there)} GPUs: lower it, or make more "
                "of them visible (CUDA_VISIBLE_DEVICES, run.gpus)"
            )
        faults = [shortcoming(name, gpu, least) for name, gpu in there.items()]
        if faults.count(None) < settings.processes:
            return next(fault for fault in faults if fault is not None)
    if found.slow_scan and not settings.allow_slow_scan:
        return too_slow(found.scan)
    return None


def _way_on(fault: str) -> str:
    """What to do about torch's reason."""
    if "too old" in fault:
        return "update the driver to one for the CUDA version that requirements-gpu.lock installs"
    if "not compiled" in fault:
        return "`make setup-gpu` installs the torch for GPUs"
    return "run it on a machine with a GPU and its driver (nvidia-smi lists both)"


def _fetch_weights(session: Session, until: str | None) -> None:
    """Every repository of the hub that a stale stage reads and that is not on this machine yet: the hub is asked for all of
    them, and then they are fetched. A Ray cluster's machines fetch their own.

    Not those of a stage that has nothing to do in such raw files: a corpus of text loads no encoder.
    """
    every = {name for name in weight_names(session.settings).values() if must_be_fetched(name)}
    if not every:
        return
    run = session.settings.run
    plans = [plan for plan in session.plan(until) if plan.state == "stale" or session.may_run(plan.stage)]
    wanted = sorted(every & _read_by(plans, session.settings))

    def again(make: Callable[[], None]) -> None:
        def passes(error: Exception) -> bool:
            return error.passes if isinstance(error, Broken) else can_pass(error)

        tried(make, run.retries, run.retry_after_s, passes, lambda seconds, _: session.stop.wait(seconds))

    for name in wanted:  # a refusal is said before gigabytes of others are fetched
        again(partial(check_hub, name, run.offline))
    for name in wanted if run.runner == "local" else ():
        with Waiting(f"fetching {name}"):
            again(partial(fetch, name, run.offline, session.stop))


def _read_by(plans: Sequence[StagePlan], settings: Settings) -> set[str]:
    """What the stages read that have anything to do; of one whose items are not known yet, all that it declares."""
    found: set[str] = set()
    for plan in plans:
        if plan.state == "stale":
            stale = [item for item in plan.items if item.label in plan.stale]
            values = (value for item in stale for value in item.arguments.values())
            found |= {value.name for value in values if isinstance(value, Weights)}
        elif plan.state == "unknown":
            found |= {read.of(settings) for read in plan.stage.weight_reads().values()}
            found |= set(plan.stage.loads(settings))
    return found
