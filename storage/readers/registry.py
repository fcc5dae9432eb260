"""The datasets this project knows: one line each. Everything else that lists datasets is derived from here.

Knows nothing of any layout.
"""

from __future__ import annotations

from storage.readers import (
    crema_d,
    dailydialog,
    empathetic_dialogues,
    iemocap,
    meld,
    multidialog,
    own,
    ravdess,
    topical_chat,
)
from storage.readers.common import RawDataError
from storage.readers.dataset import Dataset

DATASETS: tuple[Dataset, ...] = (
    crema_d.ENTRY,
    ravdess.ENTRY,
    meld.ENTRY,
    iemocap.ENTRY,
    topical_chat.ENTRY,
    dailydialog.ENTRY,
    empathetic_dialogues.ENTRY,
    multidialog.ENTRY,
    own.ENTRY,
)
"""In the order in which they claim files: a file belongs to one, and those recognised by their own file names go
first.
"""

SINGLE_CLIPS = frozenset(dataset.name for dataset in DATASETS if dataset.single_clips)
"""Datasets of single acted clips: for emotion recognition alone, without dialogues or replies."""


def dataset_named(name: str) -> Dataset:
    """RawDataError: there is none of that name."""
    for dataset in DATASETS:
        if dataset.name == name:
            return dataset
    raise RawDataError(f"no reader for dataset {name!r}; known: {', '.join(d.name for d in DATASETS)}")
