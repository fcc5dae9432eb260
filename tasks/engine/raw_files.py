"""Which raw files lie below a root, with the digest of each. Knows nothing of formats (storage/readers)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

from storage.filestat import StatCache
from storage.readers.find import find_datasets
from storage.sample import is_sample
from tasks.engine.declaration import RawFiles


def read_raw_files(
    root: Path, cache: StatCache, reading: Callable[[int, int], None] = lambda done, total: None
) -> tuple[RawFiles, ...]:
    """The datasets below `root` with the digest of every file they depend on. Raises RawDataError.

    reading(done, total) is called for every file looked at.
    """
    found = list(find_datasets(root))
    total, seen = sum(len(raw.files) for raw in found), count(1)

    def digest(path: str) -> str:
        value = cache.digest(f"{root}/{path}")
        reading(next(seen), total)
        return value

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
