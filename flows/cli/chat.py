"""Talking to what a run trained: `chat`, in the terminal or as a page, and `serve`, behind OpenAI's chat completions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import WhichRun, grouped
from flows.cli.output import err, out
from storage.errors import InputError
from tasks.display import Waiting

if TYPE_CHECKING:
    from tasks.chat.engine import Engine
    from tasks.chat.models import Models
    from tasks.chat.weights import Trained
    from tasks.run_settings import RunSettings

LOOPBACK = "127.0.0.1"
LastRung = Annotated[
    str | None, typer.Option("--rung", help="A rung, by its number or name; unless told, the ladder's last.")
]


class Answering(StrEnum):
    """Who writes the replies that are served."""

    AUTO = "auto"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"


Host = Annotated[str, typer.Option(help="Address to listen on; this machine alone unless another is given.")]


@grouped
def chat(
    which: WhichRun,
    rung: LastRung = None,
    web: Annotated[bool, typer.Option("--web", help="As a page in the browser.")] = False,
    host: Host = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 0,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Of the replies' draws; 0: greedy, as in the report.")
    ] = 0.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Longest reply; unless told, dialogue.max_new_tokens.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the replies, where there is a temperature.")] = 0,
) -> None:
    """Talk to a rung of a run: history compressed turn by turn, with clips, in the terminal or (--web) as a page."""
    from model.generation.settings import Sampling
    from tasks.chat.talk import Talk

    found, run = _trained(which)
    first = found.named(rung).rung.name
    limit = max_new_tokens or found.settings.dialogue.max_new_tokens
    sampling = Sampling(temperature=temperature, max_new_tokens=limit, seed=seed)
    with _engine(found, first) as engine:
        if web:
            from tasks.chat.web import web_app
            from tasks.local_server import listen

            _warn(host)
            app = web_app(engine, found, first, sampling, run, host)
            listen(
                app,
                host,
                port,
                lambda url: out.say(f"{url}  (Ctrl-C ends it)"),
                lifespan="off",
                stopping=app.state.rooms.close,
            )
            return
        from tasks.chat.terminal import TerminalChat

        TerminalChat(Talk(engine, found, first, sampling), out, run).go_on()


@grouped
def serve_rungs(
    which: WhichRun,
    rung: Annotated[
        str | None, typer.Option("--rung", help="This rung alone, by its number or name; unless told, all.")
    ] = None,
    host: Host = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Requests that are answered together.")] = 16,
    engine: Annotated[
        Answering | None,
        typer.Option(
            help="Who writes the replies; auto: vLLM where it is installed; unless told, replies.engine."
        ),
    ] = None,
) -> None:
    """Serve a run's rungs as models of an OpenAI-compatible endpoint: /v1/chat/completions, /v1/completions, /v1/models."""
    from tasks.chat.openai_api import openai_app
    from tasks.local_server import listen
    from tasks.stages.replies.stage import through_vllm

    found, _ = _trained(which)
    chosen = found.named(rung).rung.name
    rungs = found.rungs if rung is None else {chosen: found.rungs[chosen]}
    # The one that answers where no model is named stands last.
    ordered = {name: parts for name, parts in rungs.items() if name != chosen} | {chosen: found.rungs[chosen]}
    _warn(host)
    kind = found.settings.replies.engine if engine is None else engine.value
    with _engine(found, chosen, at_once, list(ordered) if through_vllm(kind) else None) as started:
        app = openai_app(started, found, ordered, host)
        told = f"/v1 has {', '.join(ordered)}  (Ctrl-C ends it)"
        listen(
            app,
            host,
            port,
            lambda url: out.say(url + told),
            lifespan="off",
            stopping=started.stop_replies,
        )


def _warn(host: str) -> None:
    """A line where others than this machine will reach what listens there."""
    from tasks.local_server import is_local

    if not is_local(host):
        err.say(
            f"listening on {host}: whoever reaches this machine can talk to it; nobody is asked who they are"
        )


def _trained(which: WhichRun) -> tuple[Trained, str]:
    """The parts of the chosen run, and what it is called."""
    from tasks.chat.weights import trained

    request, record = which.chosen()
    with Waiting("finding the run's parts"):
        found = trained(request)
    for note in found.notes:
        err.say(note, style="dim")
    return found, record.id if record is not None else "by these settings"


@contextmanager
def _engine(
    found: Trained, rung: str, at_once: int = 16, vllm: Sequence[str] | None = None
) -> Iterator[Engine]:
    """The engine, with the rung loaded, on GPUs that it holds as a run's item does. vllm: the rungs that vLLM answers for.
    InputError where it cannot be."""
    from transformers.utils.logging import disable_progress_bar

    from model.adapter import AdapterError
    from model.compressor.shape import CompressorError
    from model.generation.client import EngineError
    from tasks.chat.engine import Engine
    from tasks.chat.models import Models

    disable_progress_bar()

    def load() -> Models:
        if vllm is None:
            return Models(found)
        from tasks.chat.vllm_models import VllmModels

        return VllmModels(found, vllm)

    count = 1 if vllm is None else found.settings.replies.vllm.tensor_parallel_size
    with _gpus(found.settings.run, count), Engine(load, at_once) as engine:
        try:
            with Waiting("loading the models" if vllm is None else "starting vLLM"):
                engine.call(lambda models: models.decoder(rung)).result()
        except (AdapterError, CompressorError, EngineError) as error:
            raise InputError(str(error)) from None
        yield engine


@contextmanager
def _gpus(run: RunSettings, count: int) -> Iterator[None]:
    """So many GPUs are held, and are those that this process sees. Before torch has looked for any."""
    from tasks.engine.runners import held_to_talk

    held = held_to_talk(run, count)
    os.environ.update(held.environment)
    try:
        yield
    finally:
        held.release()
