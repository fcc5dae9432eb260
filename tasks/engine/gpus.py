"""The machine's GPUs, each held by one item at a time: among this run's, and among all runs of this user here.

Held is a kernel file lock. It is shared with the process that computes there, so that a run that is killed leaves its GPU
held until that process has gone too. Knows nothing of stages, or of how many items run.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from storage.errors import InputError
from storage.user_cache import user_cache

VISIBLE = "CUDA_VISIBLE_DEVICES"
CARDS = "cards"
"""Beside the folders of hosts, that of the locks of cards whose UUID is known, which no two machines share."""


@dataclass(frozen=True)
class Held:
    """GPUs that are held, by name, and the open locks that hold them."""

    names: tuple[str, ...] = ()
    locks: tuple[int, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """By which a process sees these GPUs and no others."""
        return {VISIBLE: ",".join(self.names)} if self.names else {}

    def release(self) -> None:
        """Give up this process's part in holding them. Once."""
        for lock in self.locks:
            os.close(lock)


class Gpus:
    """names, cards: asked for when they are first needed, since torch has to be asked for them."""

    def __init__(
        self,
        names: Callable[[], tuple[str, ...]] = tuple,
        folder: Path | None = None,
        cards: Callable[[], Mapping[str, str]] = dict,
    ):
        """folder: where the locks lie; None: in the user's cache.

        cards: name -> the card's UUID, by which it is locked: one run may call it "0" and another "GPU-5f", and containers of
        one machine each have a host name of their own. One of none is locked by its name, below that of its host.
        """
        self._find, self._find_cards = names, cards
        self.folder = folder or user_cache() / "gpus"

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self._find()

    @cached_property
    def _cards(self) -> Mapping[str, str]:
        return self._find_cards()

    def try_hold(self, count: int) -> Held | None:
        """So many GPUs, or None where fewer are free now."""
        found: list[tuple[str, int]] = []
        for name in self.names:
            if len(found) < count and (lock := self._lock(name)) is not None:
                found.append((name, lock))
        held = Held(tuple(name for name, _ in found), tuple(lock for _, lock in found))
        if len(found) == count:
            return held
        held.release()
        return None

    def is_held(self, name: str) -> bool:
        """Whether some run holds the GPU."""
        lock = self._lock(name)
        if lock is None:
            return True
        os.close(lock)
        return False

    def _lock(self, name: str) -> int | None:
        """The open lock on a GPU; None where it is held. InputError where locks cannot be written."""
        card = self._cards.get(name)
        folder = self.folder / (CARDS if card else quote(socket.gethostname(), safe=""))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / quote(card or name, safe="")
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}), and runs that share GPUs leave their locks there; "
                "set EMPAMBA_CACHE to a folder that can"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock


def visible_names(count: int) -> tuple[str, ...]:
    """What `CUDA_VISIBLE_DEVICES` calls the first `count` GPUs that this process sees."""
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(named[:count]) if named else tuple(str(number) for number in range(count))
