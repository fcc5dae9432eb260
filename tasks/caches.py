"""What Empamba leaves on a machine outside stores: converted weights, cached facts of files, and Prefect's records.

Removes without asking: the command asks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model.zoo.resolve import RECORD, default_cache
from storage.user_cache import user_cache

ORCHESTRATOR_MARKS = ("prefect.db", "profiles.toml", "memo_store.toml")
"""Files that show that a folder is Prefect's home."""
OWN_FOLDERS = ("locks", "folder-digests")
"""Files of the weight cache besides the weights' folders."""


@dataclass(frozen=True)
class Cache:
    """entries: what may be removed. question: what the command asks first."""

    what: str
    folder: Path
    entries: tuple[Path, ...]
    question: str

    def size(self) -> int:
        """Bytes of what may be removed."""
        return sum(path.stat().st_size for entry in self.entries for path in _files(entry))


def known_caches() -> list[Cache]:
    """The weights', the code facts', the buckets', the archives' and Prefect's."""
    weights = default_cache()
    facts = user_cache()
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    return [
        Cache(
            "weights",
            weights,
            tuple(p for p in _children(weights) if p.name in OWN_FOLDERS or (p / RECORD).is_file()),
            "Remove them? They are fetched and converted again when a run needs them.",
        ),
        Cache(
            "facts about source files",
            facts,
            _files_called(facts, "code-"),
            "Remove them? The next plan takes a few seconds longer.",
        ),
        Cache(
            "working folders of stores in buckets",
            facts / "stores",
            tuple(_children(facts / "stores")),
            "Remove them? What is finished lies in the buckets; rows and checkpoints of unfinished items are lost.",
        ),
        Cache(
            "places in archives",
            facts,
            _files_called(facts, "archives-"),
            "Remove them? Archives are passed over once more when they are next read.",
        ),
        Cache(
            "Prefect's home",
            home,
            tuple(_children(home)) if any((home / mark).is_file() for mark in ORCHESTRATOR_MARKS) else (),
            "Remove it? It holds the history, settings and profiles of EVERYTHING that uses Prefect here.",
        ),
    ]


def clear(cache: Cache) -> int:
    """Remove a cache's entries, and nothing else of its folder; returns how many there were."""
    for entry in cache.entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return len(cache.entries)


def _children(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _files_called(folder: Path, start: str) -> tuple[Path, ...]:
    return tuple(p for p in _children(folder) if p.is_file() and p.name.startswith(start))


def _files(entry: Path) -> Iterable[Path]:
    if entry.is_symlink() or not entry.is_dir():
        return [entry] if entry.is_file() else []
    return (path for path in entry.rglob("*") if path.is_file() and not path.is_symlink())
