"""Which datasets can be fetched, by the names they have on the command line. Derived from the registry."""

from __future__ import annotations

from storage.fetch.sources import FetchError, Source
from storage.readers.registry import DATASETS

SOURCES: dict[str, Source] = {
    dataset.name.replace("_", "-"): dataset.source for dataset in DATASETS if dataset.source is not None
}
"""Name on the command line -> publisher."""


def source_of(dataset: str) -> Source:
    """The publisher of a dataset that may be fetched. FetchError: unknown, or to be asked for by hand."""
    name = dataset.lower().replace("_", "-")
    if name not in SOURCES:
        raise FetchError(f"no dataset {dataset!r}; known: {', '.join(sorted(SOURCES))}")
    source = SOURCES[name]
    if source.files is None:
        raise FetchError(f"{source.title} needs {source.licence}: {source.after}")
    return source
