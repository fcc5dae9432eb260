"""Whether the models' hub will give what is wanted, asked before anything long starts; and what its errors mean.

A stage that fetches weights itself goes by model/zoo/resolve.py. Knows nothing of what the weights are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from model.zoo.errors import ZooError
from model.zoo.resolve import HUB_PATTERNS, is_cached, offline, resolve, source_of
from model.zoo.settings import WeightSource

ASKED = "config.json"
"""A file that every repository of a model has, and to which its access rules apply."""
ASK_S = 20.0
TOKEN = "log in (`hf auth login`, or HF_TOKEN) with an account that may read it"


def must_be_fetched(name: str) -> bool:
    """Whether `resolve` would ask the hub for these weights."""
    return source_of(name).kind == "hub" and not is_cached(name)


def check_hub(name: str, never_ask: bool = False) -> None:
    """Ask the hub whether it will give the weights `name`, unless they lie in its client's own cache already.

    never_ask: only that cache counts. Raises ZooError, one line that says what to do.
    """
    source = source_of(name)
    never_ask = never_ask or offline()
    try:
        if not never_ask:
            _ask(source)
    except Exception as error:  # the hub client raises many unrelated types; `explained` tells them apart
        if not _in_its_cache(source):
            raise ZooError(explained(source, error)) from error
    else:
        if never_ask and not _in_its_cache(source):
            raise ZooError(
                f"weights {name!r}: {source.hub_id} is not on this machine and the hub is not to be asked; unset "
                f"HF_HUB_OFFLINE (setting run.offline), or give the path of a local copy in place of the name"
            )


def fetched(name: str) -> Path:
    """`resolve`, with what the hub's error means where it fails. Raises ZooError."""
    try:
        return resolve(name)
    except ZooError as error:
        if source_of(name).kind != "hub" or error.__cause__ is None:
            raise
        raise ZooError(explained(source_of(name), error.__cause__)) from error.__cause__


def explained(source: WeightSource, error: BaseException) -> str:
    """One line: which repository, what its hub answered, and what to do."""
    status, why = _status(error), _first_line(error)
    where = f"weights {source.name!r}: the hub"
    asked = f"{source.hub_id} at {source.revision}"
    local = "give the path of a local copy in place of the name"
    if source.instead:
        local += f", or use {source.instead!r} (profile cpu), which needs no hub"
    if status in (401, 403):
        return f"{where} refuses {asked} ({status}): {TOKEN}, or {local}"
    if status == 404:
        return f"{where} has no {asked} (404): if it is private, {TOKEN}; else {local}"
    if status == 429:
        return f"{where} has had too many requests ({status}): wait some minutes and run this again"
    if status is not None and status >= 500:
        return f"{where} is out of order ({status} for {asked}): run this again later, or {local}"
    if _is_broken_off(error):
        return f"{where} broke off while it sent {asked} ({why}): run this again, what has come is kept; or {local}"
    return f"{where} cannot be reached for {asked} ({why}): connect, or {local}"


def _ask(source: WeightSource) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(source.hub_id, ASKED, revision=source.revision), timeout=ASK_S)


def _in_its_cache(source: WeightSource) -> bool:
    """Whether the hub client has the repository's weights from before."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            source.hub_id, revision=source.revision, allow_patterns=list(HUB_PATTERNS), local_files_only=True
        )
    except Exception:  # of many types, that all mean no
        return False
    return any(any(Path(found).glob(kind)) for kind in ("*.safetensors", "pytorch_model*.bin"))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status behind an error."""
    answers = (getattr(link, "response", None) for link in _chain(error))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _is_broken_off(error: BaseException) -> bool:
    """Whether the connection was there and ended early."""
    names = {type(link).__name__ for link in _chain(error)}
    told = " ".join(str(link) for link in _chain(error))
    return bool(names & {"RemoteProtocolError", "ReadError", "IncompleteRead"}) or "Consistency check" in told


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:160]}"
