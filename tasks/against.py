"""The run that another one is compared with: found by its id, in another store, or in a report.json; and what is at hand
of both. Knows nothing of how they are compared (tasks/report/compare.py) or shown.
"""

from __future__ import annotations

import json
from pathlib import Path

from storage.errors import InputError
from storage.files import on_store, store_name
from storage.remote.opening import open_store
from storage.store import Ref, Store, StoreError
from tasks.engine.run import RunRequest, published, read_report
from tasks.engine.runs import RunRecord, run_of, runs
from tasks.report.compare import Side, compare

UNKNOWN = "not recorded"
CARD = {"run": "run", "started": "date", "commit": "commit", "profile": "profile", "raw data": "raw data"}
"""What a card tells -> its name in a published report's provenance."""


def compared(root: Path, wanted: str, now: Side) -> dict:
    """`now` beside the run that `wanted` names: an id in this store, another store's folder, or a report.json.

    InputError, in one line, where there is none; StoreError where its report is gone or damaged.
    """
    then = other_run(root, wanted)
    if (then.card["run"], then.card["started"]) == (now.card["run"], now.card["started"]):
        raise InputError(f"--against {wanted}: that is the run itself; {on_store('runs', root)} lists others")
    try:
        return compare(then, now)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"--against {wanted}: its report has no figures that this version can read"
        ) from error


def other_run(root: Path, wanted: str) -> Side:
    """The run that `wanted` names, as `compared` reads it."""
    if any(record.id.startswith(wanted) for record in runs(root)[0]):
        return side_of(root, run_of(root, wanted, "--against"))
    place = Path(wanted)
    if place.is_file():
        return _of_file(place)
    if place.is_dir():
        latest = next((record for record in runs(place)[0] if record.report), None)
        if latest is None:
            raise InputError(
                f"--against {wanted}: no run in it came to a report; {on_store('runs', place)} lists them"
            )
        return side_of(place, latest)
    raise InputError(
        f"--against {wanted}: no such run in {root}, and no store or report.json there; {on_store('runs', root)} lists runs"
    )


def side_of(root: Path, record: RunRecord) -> Side:
    """A run of a store. InputError where it came to no report; StoreError where that is gone or damaged."""
    if record.report is None:
        raise InputError(
            f"run {record.id} in {root} came to no report; {on_store('runs', root)} says which did"
        )
    report = read_report(RunRequest(store=store_name(root)), record.report)
    made = _provenance(report)
    known = {
        "run": record.id,
        "started": record.started.strftime("%Y-%m-%d %H:%M UTC"),
        "commit": record.commit or (made.get("commit") if made.get("run") == record.id else None) or UNKNOWN,
        "profile": record.profile,
        "raw data": record.raw or "the bundled sample corpus",
    }
    return Side(report, _replies(open_store(root), report), known)


def side_of_settings(request: RunRequest, digest: str) -> Side:
    """What lies in the store with these settings and data, whichever run made it."""
    report = read_report(request, digest)
    raw = request.raw or "the bundled sample corpus"
    known = {
        "run": "these settings",
        "started": "",
        "commit": UNKNOWN,
        "profile": request.profile,
        "raw data": raw,
    }
    return Side(report, _replies(open_store(request.folder), report), known)


def page_of(root: Path, digest: str, page: str) -> str:
    """The page of the report `digest`: its published copy, which says what the run did, or the artefact `page` itself."""
    store = open_store(root)
    if published(store) == digest:
        return (store.root / "report.html").read_text(encoding="utf-8")
    return store.read(Ref(name="report.html", digest=page, size=0)).decode("utf-8")


def _of_file(path: Path) -> Side:
    """A report.json; single replies are at hand where it lies in its store."""
    try:
        report = json.loads(path.read_bytes())
        if not {"systems", "settings"} <= report.keys():
            raise ValueError("no report")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise InputError(f"--against {path}: is no report.json of Empamba") from None
    made = _provenance(report)
    known = {name: str(made.get(of, UNKNOWN)) for name, of in CARD.items()}
    return Side(report, _replies(Store(path.parent), report), {**known, "run": str(made.get("run", path))})


def _provenance(report: dict) -> dict:
    """What a published copy says of its run; nothing in the artefact itself."""
    return (report.get("run") or {}).get("provenance") or {}


def _replies(store: Store, report: dict) -> dict | None:
    """by_reply.json; None where the report names none, or it is gone."""
    try:
        return json.loads(store.read(Ref.model_validate(report["by_reply"])))
    except (LookupError, TypeError, ValueError, StoreError):
        return None
