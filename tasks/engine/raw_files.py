"""Which raw files lie below a root, with the digest of each. Knows nothing of formats (storage/readers)."""

from __future__ import annotations

from pathlib import Path

from storage.filestat import StatCache
from storage.readers.find import find_datasets
from storage.sample import is_sample
from tasks.engine.declaration import RawFiles


def read_raw_files(root: Path, cache: StatCache) -> tuple[RawFiles, ...]:
    """The datasets below `root` with the digest of every file they depend on. Raises RawDataError."""
    return tuple(
        RawFiles(
            dataset=raw.dataset,
            folder=raw.folder.relative_to(root).as_posix(),
            files={path: cache.digest(f"{root}/{path}") for path in raw.files},
            synthetic=is_sample(root),
            notes=raw.notes,
            not_read=raw.not_read,
        )
        for raw in find_datasets(root)
    )
