"""The conversations that a server holds: each under an id that nobody can guess, and there when a page comes back.

A page listens to a conversation and may lose the connection at any time: each turn has the number of its last change, so
that a page that says what it has seen is told what it missed, and nothing twice. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import uuid4

from storage.errors import InputError
from tasks.chat.clips import Decoded
from tasks.chat.talk import Talk, Turn

MOST_ROOMS = 200
"""Conversations that are held; beyond them the one that was longest without a turn goes."""
MOST_CLIPS = 2
"""Decoded clips that a conversation holds until they are said."""
ALIVE_S = 15.0
"""A page hears at least this often, so that either side notices a lost connection."""


@dataclass(eq=False)
class Room:
    """One conversation, and who listens to it."""

    talk: Talk
    loop: asyncio.AbstractEventLoop
    name: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    clips: OrderedDict[str, Decoded] = field(default_factory=OrderedDict)
    version: int = 0
    closed: bool = False
    _changes: dict[int, int] = field(default_factory=dict)
    _listeners: set[asyncio.Event] = field(default_factory=set)

    def say(self, text: str, clip: str | None) -> None:
        """A turn, to the end of its answers. InputError as `Talk.say`, and where the clip is not there."""
        decoded = None
        if clip is not None:
            if clip not in self.clips:
                raise InputError("the clip is gone; record or choose it again")
            decoded = self.clips[clip]
        self.talk.say(text, decoded, self.changed)
        if clip is not None:
            self.clips.pop(clip, None)

    def keep(self, clip: Decoded) -> str:
        """Hold a clip until it is said. Returns its id."""
        name = uuid4().hex
        self.clips[name] = clip
        while len(self.clips) > MOST_CLIPS:
            self.clips.popitem(last=False)
        return name

    def changed(self, turn: Turn | None = None) -> None:
        """A turn, or else what is around the turns, has changed. From any thread."""
        number = None if turn is None else next(i for i, t in enumerate(self.talk.turns) if t is turn)
        self.loop.call_soon_threadsafe(self._note, number)

    def _note(self, number: int | None) -> None:
        self.version += 1
        if number is not None:
            self._changes[number] = self.version
        for listener in self._listeners:
            listener.set()

    @property
    def listeners(self) -> int:
        """How many pages listen."""
        return len(self._listeners)

    def close(self) -> None:
        """Whoever listens is told what there is, and then no more. In the loop's thread."""
        self.closed = True
        for listener in self._listeners:
            listener.set()

    async def changes(self, after: int) -> AsyncIterator[dict | None]:
        """What has changed since version `after`, at once, and then whatever changes, until the room is closed; None where
        nothing did for a while."""
        listener = asyncio.Event()
        listener.set()
        self._listeners.add(listener)
        try:
            while not self.closed:
                try:
                    await asyncio.wait_for(listener.wait(), ALIVE_S)
                except TimeoutError:
                    yield None
                    continue
                listener.clear()
                yield self._since(after)
                after = self.version
        finally:
            self._listeners.discard(listener)

    def _since(self, after: int) -> dict:
        turns = {n: self.talk.turns[n].as_dict() for n, at in self._changes.items() if at > after}
        return {
            "version": self.version,
            "rung": self.talk.rung,
            "beside": self.talk.beside,
            "count": len(self._changes),
            "turns": turns,
        }


class Rooms:
    """All of them, by id."""

    def __init__(self, most: int = MOST_ROOMS):
        self.most = most
        self._rooms: OrderedDict[str, Room] = OrderedDict()

    def open(self, talk: Talk, loop: asyncio.AbstractEventLoop) -> Room:
        """A new conversation; for one that goes for it, whoever listens hears no more. In the loop's thread."""
        room = Room(talk, loop)
        self._rooms[room.name] = room
        while len(self._rooms) > self.most:
            self._rooms.popitem(last=False)[1].close()
        return room

    def find(self, name: str) -> Room:
        """The conversation of this id. LookupError where there is none."""
        room = self._rooms.get(name)
        if room is None:
            raise LookupError(
                "no such conversation: the server was started again, or held too many; begin a new one"
            )
        self._rooms.move_to_end(name)
        return room

    def close(self) -> None:
        """All of them, as the server stops. In its loop's thread."""
        for room in self._rooms.values():
            room.close()
