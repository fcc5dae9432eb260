"""Which raw files lie below a root, with the digest of each. Knows nothing of formats (storage/readers)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from storage.filestat import StatCache
from storage.readers.find import find_datasets
from storage.sample import is_sample
from tasks.engine.declaration import RawFiles


def read_raw_files(
    root: Path, cache: StatCache, reading: Callable[[int, int], None] = lambda done, total: None
) -> tuple[RawFiles, ...]:
    """The datasets below `root` with the digest of every file they depend on. Raises RawDataError.

    reading(done, total): called with the megabytes read and those to be read; before the first byte too.
    """
    found = list(find_datasets(root))
    total, done = sum(cache.to_read(f"{root}/{path}") for raw in found for path in raw.files), 0

    def read(size: int) -> None:
        nonlocal done
        done += size
        reading(round(done / 1e6), max(1, round(total / 1e6)))

    def digest(path: str) -> str:
        return cache.digest(f"{root}/{path}", read)

    if total:
        read(0)

    return tuple(
        RawFiles(
            dataset=raw.dataset,
            folder=raw.folder.relative_to(root).as_posix(),
            files={path: digest(path) for path in raw.files},
            synthetic=is_sample(root),
            notes=raw.notes,
            not_read=raw.not_read,
        )
        for raw in found
    )
