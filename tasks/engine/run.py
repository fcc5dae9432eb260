"""A run as flows and the command line see it: what was asked for, opening it, and where its report goes.

Knows nothing of Prefect or of what stages do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, Field

from storage.files import DEFAULT_STORE, shell_word
from storage.remote.address import is_address, working_folder
from storage.remote.opening import open_store, share_run
from storage.store import Ref, Store, StoreError, UnreadableError
from tasks.display import Display, Waiting
from tasks.engine.item import Item
from tasks.engine.planner import Board, StagePlan
from tasks.engine.preflight import preflight
from tasks.engine.runs import RunRecord, RunRecorder, recorded
from tasks.engine.session import Session
from tasks.engine.stopping import Stopped
from tasks.settings import Settings, load_settings, profile_names

PUBLISHED = ("report.html", "report.json", "report.csv")
"""The artefacts that are copied beside the store's artefacts, for people."""


class RunRequest(BaseModel, frozen=True, extra="forbid"):
    """What is to run: on which data, with which settings, into which store, and how far."""

    profile: str = Field("cpu", description="cpu, night, paper, tiny, or a TOML file.")
    changes: tuple[str, ...] = Field(
        (),
        description='Single settings over the profile: "data.dialogues=40".',
        # Of the form alone: on the command line a wrong one has a message of its own (tasks/settings.py).
        json_schema_extra={"items": {"type": "string", "pattern": r"^\s*[a-z_][a-z0-9_.]*\s*=.+$"}},
    )
    raw: str | None = Field(None, description="Folder of raw datasets; none: the bundled sample corpus.")
    store: str = Field("store", description="Folder of artefacts and records, or s3://bucket/prefix.")
    until: str | None = Field(None, description="Last stage to run; none: all.")
    rehash: bool = Field(False, description="Read every raw file again instead of trusting its time stamp.")
    force: tuple[str, ...] = Field((), description="Stages that run whether stale or not.")

    def settings(self) -> Settings:
        return load_settings(self.profile, self.changes)

    @property
    def folder(self) -> Path:
        """The folder that the store is, or this machine's working folder of its bucket."""
        return working_folder(self.store)

    def session(self) -> Session:
        raw = None if self.raw is None else Path(self.raw)
        settings = self.settings()
        with Waiting("reading the raw data", "MB") as waiting:
            return Session(
                settings,
                Path(self.profile).stem,
                self.folder,
                raw,
                self.rehash,
                self.force,
                reading=waiting.progress,
            )

    def command(self, verb: str, *arguments: str) -> str:
        """The command line that does `verb` with this run's data, settings and store; it works as it stands."""
        words = ["empamba", *verb.split(), *arguments]
        if self.profile != RunRequest().profile:
            words += ["--profile", self.profile]
        if self.raw is not None:
            words += ["--raw", self.raw]
        for change in self.changes:
            words += ["--set", change]
        return " ".join(map(shell_word, [*words, *self._store_words()]))

    def of_last_run(self, verb: str, *arguments: str) -> str:
        """The command line that does `verb` with the store's last run, where this one is it."""
        return " ".join(map(shell_word, ["empamba", *verb.split(), *arguments, *self._store_words()]))

    def _store_words(self) -> list[str]:
        return [] if self.store == DEFAULT_STORE else ["--store", self.store]

    @contextmanager
    def recorded(self) -> Iterator[RunRecorder]:
        """The store's record of this run, from here to the end of the block; paths in it are absolute."""
        placed = self.placed()
        with (
            ExitStack() as after,
            recorded(self.folder, placed.profile, placed.changes, placed.raw, placed.until) as note,
        ):
            after.callback(share_run, self.folder, note.record.id)
            yield note

    def placed(self) -> RunRequest:
        """The same request with absolute paths, for a process that may work in another folder."""
        named = self.profile in profile_names()
        return self.model_copy(
            update={
                "profile": self.profile if named else str(Path(self.profile).resolve()),
                "raw": None if self.raw is None else str(Path(self.raw).resolve()),
                "store": self.store if is_address(self.store) else str(Path(self.store).resolve()),
            }
        )

    @classmethod
    def of_run(cls, record: RunRecord, store: str) -> RunRequest:
        """What a run of the store was asked for, so that others can ask the same; all stages of it."""
        return cls(profile=record.profile, changes=record.changes, raw=record.raw, store=store)


@dataclass(frozen=True)
class Executor:
    """The session, display and board with which a process executes a run's items."""

    session: Session
    display: Display
    board: Board

    def item(self, stage: str, label: str) -> Item:
        """The item as this process planned it, or as it follows from the store where another one did."""
        plan = self.board.planned.get(stage)
        return self.session.item(stage, label) if plan is None else plan.item(label)


@dataclass(frozen=True)
class Run(Executor):
    """An open run. joined: other flows of the same run settle the stages that are not this flow's."""

    request: RunRequest
    note: RunRecorder
    joined: bool = False

    def settled(self) -> list[StagePlan]:
        """The stages that have settled, in the pipeline's order."""
        names = [node.stage.name for node in self.session.graph()]
        return [self.board.settled[name] for name in names if name in self.board.settled]


_OPEN: dict[RunRequest, Run] = {}
"""This process's open runs, by their requests with absolute paths."""


@contextmanager
def open_run(request: RunRequest) -> Iterator[Run]:
    """A session with its raw data in place and its display, protected from `gc`.

    Within an open run of the same request it joins that one.
    """
    placed = request.placed()
    if placed in _OPEN:
        yield replace(_OPEN[placed], joined=True)
        return
    with request.session() as session, session.store.lock("gc", shared=True), request.recorded() as note:
        first_lines = preflight(session, request.until)
        session.lay_out_sample()
        board = Board()
        session.stop.on_stop(lambda why: board.fail(Stopped(why)))
        with Display() as display:
            # Gives the terminal its cursor back, whatever follows.
            session.stop.on_stop(lambda _: display.__exit__())
            for line in first_lines:
                display.say(line)
            _OPEN[placed] = Run(session, display, board, request, note)
            try:
                yield _OPEN[placed]
            finally:
                del _OPEN[placed]
                with suppress(StoreError):  # the run itself has reported a full disk
                    note.update(seconds=display.seconds)


@contextmanager
def executor(request: RunRequest) -> Iterator[Executor]:
    """The executor for an item of the request's run: the open run, where this process holds it, else a new session.

    request: with absolute paths.
    """
    if request in _OPEN:
        yield _OPEN[request]
        return
    # The run itself has read the raw files again, if that was asked for.
    with request.model_copy(update={"rehash": False}).session() as session:
        with session.store.lock("gc", shared=True), Display() as display:
            session.lay_out_sample()
            yield Executor(session, display, Board())


def stale_plan(request: RunRequest) -> list[StagePlan]:
    """The plan as it is now."""
    with request.session() as session, Waiting("planning"):
        return session.plan(request.until)


def publish_report(request: RunRequest, plans: list[StagePlan], note: RunRecorder) -> str | None:
    """Copy a run's report beside the store's artefacts, under its plain name; None where there is none.

    plans: the settled stages; what they did is added to the copy. A copy that stands already stays as it is
    when nothing ran. note: where the run's record names the report.
    """
    plan = {p.stage.name: p for p in plans}.get("report")
    if plan is None or "all" not in plan.outputs:
        return None
    store = open_store(request.folder)
    copies = plan.outputs["all"]
    names = tuple(ref.name for ref in copies)
    if names != PUBLISHED:
        raise StoreError(
            f"{store.root}: the report's record names {', '.join(names)}; "
            f"`{request.command('run', '--force', 'report')}` writes it again"
        )
    html, facts, _ = copies
    note.update(report=facts.digest, page=html.digest)
    if any(p.stale for p in plans) or published(store) != facts.digest:
        from tasks.report import this_run  # jinja2, which a plan does not need

        told = this_run.describe(plans)
        made = this_run.provenance(note.record)
        store.publish(
            {r.name: this_run.published(r.name, store.read(r), r.digest, told, made) for r in copies}
        )
    return str(store.root / html.name)


def publish_where_missing(request: RunRequest, plans: list[StagePlan]) -> str | None:
    """Publish the report of plans of which nothing is stale, as a run of the store, where what stands there is another one's.

    Its path; None where there is nothing to publish.
    """
    found = {
        ref.name: ref.digest
        for plan in plans
        if plan.stage.name == "report"
        for ref in plan.outputs.get("all", ())
    }
    if not found or published(open_store(request.folder)) == found.get("report.json"):
        return None
    with request.recorded() as note:
        return publish_report(request, plans, note)


def published(store: Store) -> str | None:
    """The digest of the report artefact that the copy beside the store's artefacts is of."""
    try:
        if store.damaged_published():
            return None
        facts = json.loads((store.root / "report.json").read_bytes())
        return facts["run"]["artefact"] if (store.root / "report.html").is_file() else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, UnreadableError):
        return None  # a copy of what the store holds: it is written again


def read_report(request: RunRequest, digest: str) -> dict:
    """The report of that digest: its published copy, which says what the run did, or the artefact itself.

    Raises StoreError where it is gone or damaged.
    """
    store = open_store(request.folder)
    if published(store) == digest:
        return json.loads((store.root / "report.json").read_bytes())
    return json.loads(store.read(Ref(name="report.json", digest=digest, size=0)))
