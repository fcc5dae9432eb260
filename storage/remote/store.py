"""A store that many machines share: its working folder here, and the bucket that holds what is true.

The working folder is an ordinary store (storage/store.py), and a cache: what it lacks is fetched when it is read, and a record
counts only as long as the bucket has it. An item is done once its record stands in the bucket, which is put last and on the
condition that there is none: of two machines that did the same item the first one's record stands, and the other takes
it over. Nothing is renamed or locked there; only a record is ever replaced, by a put on the condition that it is still the one that was read.

What comes from a bucket is data, not trusted: names are checked, sizes bounded, every object compared with its digest before it
is used. Knows nothing of S3 (storage/remote/bucket).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from storage.files import REPAIR, digest_bytes, sealed, unsealed, write_atomic
from storage.filestat import StatCache, content_digest
from storage.names import DIGEST_BYTES
from storage.records import FORMAT, Member, NewerError, Record, Ref
from storage.remote.bucket import Bucket
from storage.remote.listing import (
    Listing,
    fixed_name,
    listing,
    object_name,
    record_name,
    run_name,
    segment_name,
)
from storage.remote.notes import packed_number, packed_record, unpacked_number, unpacked_record
from storage.remote.segments import LARGEST, Segments, unpacked
from storage.rows import RowStore
from storage.store import Store, StoreError, UnreadableError, first_line

LOG = logging.getLogger(__name__)
AT_ONCE = 16
"""Requests that run side by side."""
LATEST_RUNS = 100
"""Records of runs that are pulled, of those there are; a store keeps no more (tasks/engine/runs.py)."""
TRIES = 5
"""How often a record is put where each time another one has got there in between."""

T = TypeVar("T")


class BucketStore(Store):
    """The working folder of a bucket. What `listed` holds is as old as the last `pull`, but for what this store did since."""

    def __init__(
        self,
        root: Path | str,
        bucket: Bucket,
        stats: StatCache | None = None,
        rows_anew: bool = False,
        listed: Listing | None = None,
    ):
        super().__init__(root, stats, rows_anew)
        self.bucket = bucket
        self._listed = listed
        self._sizes: dict[str, int] = {} if listed is None else listed.objects
        self._conditions_seen = False
        self._rows_of: set[str] = set()
        """Stages whose rows were opened here: they were pulled before, and go to the bucket with what is made of them."""

    # What the bucket has ------------------------------------------------------------------------------

    @property
    def listed(self) -> Listing:
        if self._listed is None:
            self._listed = listing(self.bucket.list())
            self._sizes = self._listed.objects
        return self._listed

    def pull(self) -> Listing:
        """List the bucket, and take over the records, fixed numbers and runs that are not known here; what was listed.

        A request for each thousand objects, and one for each thing that is new. A record that the bucket has lost does not count
        here either: it is put aside, and goes there again before its item would run.
        """
        known = self.record_paths()  # before the listing: what is here by then went to the bucket first
        listed = self.listed
        for path in known:
            if (path.parent.name, path.stem) not in listed.records:
                aside = self._aside_path(path.parent.name, path.stem)
                aside.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, aside)
        new = [key for key in listed.records if not self.record_path(*key).exists()]
        names = [record_name(*key) for key in new]
        pulled = zip(new, self._get_all(names), strict=True)
        for (stage, key), data in sorted(pulled, key=lambda one: listed.records[one[0]]):
            if data is None or not self._take_over(stage, key, data):
                del listed.records[stage, key]
        self._pull_fixed()
        self._pull_runs()
        if listed.strange:
            examples = ", ".join(ascii(name)[1:-1] for name in listed.strange[:3])
            LOG.warning(
                "%s: %d objects that are no store's are not read: %s",
                self.bucket,
                len(listed.strange),
                examples,
            )
        return listed

    def _get_all(self, names: list[str]) -> Iterable[bytes | None]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.bucket.get, names))

    def _take_over(self, stage: str, key: str, data: bytes) -> bool:
        """Write the bucket's record here; False where it cannot be believed. It tells what its item was last made from,
        unless something made later does."""
        name = record_name(stage, key)
        try:
            record, parts = unpacked_record(name, data, stage, key)
        except NewerError as error:
            LOG.warning("%s/%s: not used: %s", self.bucket, name, error)
            return False
        except ValueError as error:
            return self._is_damaged(name, error)
        last = self.last(stage, record.label)
        times = self.listed.records
        never = datetime.min.replace(tzinfo=UTC)
        latest = last is None or times.get((stage, last["key"]), never) <= times.get((stage, key), never)
        write_atomic(
            self.record_path(stage, key), sealed({**record.model_dump(mode="json"), "format": FORMAT})
        )
        if latest:
            self.remember(stage, record.label, key, parts)
        return True

    def _pull_fixed(self) -> None:
        with self.lock("fixed"):
            known = self.all_fixed()
            new = [name for name in self.listed.fixed if name not in known]
            for name, data in zip(new, self._get_all([fixed_name(name) for name in new]), strict=True):
                if data is not None:
                    known[name] = self._number(name, data)
            if new:
                self.write_fixed(known)

    def _pull_runs(self) -> None:
        written = self.listed.runs
        latest = sorted(written, key=lambda run: (written[run], run), reverse=True)[:LATEST_RUNS]
        new = [run for run in latest if not self._run_path(run).exists()]
        for run, data in zip(new, self._get_all([run_name(run) for run in new]), strict=True):
            try:
                if data is None or not unsealed(data)[1]:
                    raise ValueError("no record of a run")
            except ValueError as error:
                self._is_damaged(run_name(run), error)
            else:
                write_atomic(self._run_path(run), data)

    def _is_damaged(self, name: str, error: ValueError) -> Literal[False]:
        why = first_line(error)
        if self._listed is not None:
            self._listed.damaged[name] = why
        LOG.warning("%s/%s: not used: %s", self.bucket, name, why)
        return False

    def _run_path(self, run: str) -> Path:
        return self.root / run_name(run)

    def _aside_path(self, stage: str, key: str) -> Path:
        return self.root / "unshared" / stage / f"{key}.json"

    # Artefacts ----------------------------------------------------------------------------------------

    def holds(self, ref: Ref | Member, rehash: bool = False) -> bool:
        """Whether the bucket lists the artefact with its size; `rehash`: whether it is in the working folder, by its digest."""
        if rehash:
            return super().holds(ref, rehash=True)
        if self.listed.objects.get(ref.digest) != ref.size:
            return False
        try:
            return not isinstance(ref, Ref) or not ref.tree or all(map(self.holds, self.members(ref)))
        except (OSError, StoreError):
            return False

    def size(self, digest: str) -> int:
        return self.listed.objects.get(digest, 0)

    def _checked(self, ref: Ref | Member, read: Callable[[Path], T], digest_of: Callable[[T], str]) -> T:
        try:
            return super()._checked(ref, read, digest_of)
        except StoreError:
            if not self._fetch(ref):
                raise
            return super()._checked(ref, read, digest_of)

    def _fetch(self, ref: Ref | Member) -> bool:
        """Bring an artefact into the working folder; False where the bucket has none. UnreadableError where it is damaged."""
        size = ref.size or self.bucket.size(object_name(ref.digest))
        if size is None:
            return False
        try:
            write_atomic(self.object_path(ref.digest), self._pieces(ref.name, ref.digest, size))
        except _NotThereError:
            return False
        return True

    def _pieces(self, name: str, digest: str, size: int) -> Iterator[bytes]:
        """The bytes of an object, and at their end an error where they are not those of its name."""
        seen = hashlib.blake2b(digest_size=DIGEST_BYTES)
        try:
            for piece in self.bucket.pieces(object_name(digest), size):
                seen.update(piece)
                yield piece
        except FileNotFoundError:
            raise _NotThereError(name) from None
        if seen.hexdigest() != digest:
            raise UnreadableError(
                f"{name}: {self.bucket}/{object_name(digest)} is damaged; {self.hint(REPAIR)} drops it, then run again"
            )

    def object_fault(self, digest: str) -> str | None:
        """What is wrong with an object of the bucket, all of which is read; None where it is whole."""
        try:
            for _ in self._pieces("an artefact", digest, self.listed.objects[digest]):
                pass
        except StoreError as error:
            return str(error)
        return None

    def drop_object(self, digest: str) -> None:
        """Remove an object from the bucket, so that what made it is stale; where it is whole here it is put again instead."""
        if _is_whole(self.object_path(digest), digest):
            self.bucket.put(object_name(digest), self.object_path(digest))
        else:
            self.bucket.delete(object_name(digest))
            self._sizes.pop(digest, None)

    # An item ------------------------------------------------------------------------------------------

    def prepare(self, stage: str, key: str, parts: dict) -> None:
        """Before an item runs: take over what others have done of it.

        StoreError where the server ignores conditions, and where it cannot be reached: before any work is done.
        """
        if not self._conditions_seen:
            self.bucket.refuse_without_conditions()
            self._conditions_seen = True
        self._share_again(stage, key, parts)
        data = self.bucket.get(record_name(stage, key))
        theirs = None if data is None else self._believed(stage, key, data)
        if data is not None and theirs is not None and all(map(self._is_there, theirs.outputs)):
            self.listed.records.setdefault((stage, key), self.listed.newest)
            self._take_over(stage, key, data)

    def _believed(self, stage: str, key: str, data: bytes) -> Record | None:
        """The bucket's record; None where it is damaged. NewerError, which must stop the item, where it is a later version's."""
        try:
            return unpacked_record(record_name(stage, key), data, stage, key)[0]
        except ValueError:
            return None

    def _is_there(self, ref: Ref | Member) -> bool:
        """Whether the bucket has the artefact by now."""
        if self._sizes.get(ref.digest) != ref.size:
            size = self.bucket.size(object_name(ref.digest))
            if size is not None:
                self._sizes[ref.digest] = size
        if self._sizes.get(ref.digest) != ref.size:
            return False
        return not isinstance(ref, Ref) or not ref.tree or all(map(self._is_there, self.members(ref)))

    def _share_again(self, stage: str, key: str, parts: dict) -> None:
        """Put a record that the bucket has lost there again, with its artefacts, where they are all whole here."""
        aside = self._aside_path(stage, key)
        try:
            record = self.read_record(aside)
        except UnreadableError:
            record = None
        if record is not None and all(self.holds(ref, rehash=True) for ref in record.outputs):
            self.commit(record, parts)
        aside.unlink(missing_ok=True)

    def share(self, refs: Iterable[Ref]) -> None:
        """Put artefacts that the bucket does not have, and the rows that were made with them.

        By the process that made them, which may be on another machine than the run's: what a record names is there before it.
        """
        needed: dict[str, Ref | Member] = {}
        for ref in refs:
            needed |= {one.digest: one for one in [*(self.members(ref) if ref.tree else ()), ref]}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._put_artefact, needed.values()))
        for stage in sorted(self._rows_of):
            self._push_rows(stage)

    def _put_artefact(self, ref: Ref | Member) -> None:
        if not self._is_there(Member(name=ref.name, digest=ref.digest, size=ref.size)):
            self.bucket.put(object_name(ref.digest), self.path(ref))
            self._sizes[ref.digest] = ref.size

    def commit(self, record: Record, parts: dict) -> Record:
        """Artefacts first, then rows, the record last. The record that stands then, which may be another machine's."""
        self.share(record.outputs)
        standing = self._agreed_record(record, parts)
        self.listed.records[record.stage, record.key] = self.listed.newest
        return super().commit(standing, parts)

    def _agreed_record(self, record: Record, parts: dict) -> Record:
        """The record that stands. This one replaces what it was made in the place of, and what cannot be used."""
        before = self.record(record.stage, record.key)
        name, data = record_name(record.stage, record.key), packed_record(record, parts)
        for _ in range(TRIES):
            there = self.bucket.create(name, data)
            if there is None:
                return record
            theirs = self._believed(record.stage, record.key, there)
            if theirs is not None and theirs.outputs == record.outputs:
                return theirs
            if theirs is not None and theirs != before and all(map(self._is_there, theirs.outputs)):
                return theirs
            if self.bucket.replace(name, data, there):
                return record
        raise StoreError(
            f"{self.bucket}/{name}: others replace it again and again; nothing is lost: run again"
        )

    # Rows and numbers ---------------------------------------------------------------------------------

    def rows(self, stage: str) -> RowStore:
        """The stage's rows here, those of the bucket's segments among them."""
        if stage not in self._rows_of:
            self._pull_rows(stage)
            self._rows_of.add(stage)
        return super().rows(stage)

    @contextlib.contextmanager
    def _segments(self, stage: str) -> Iterator[Segments]:
        with self.lock(f"segments-{stage}"), contextlib.closing(super().rows(stage)) as rows:
            yield Segments(rows)

    def _push_rows(self, stage: str) -> None:
        """Put the rows that no segment holds."""
        with self._segments(stage) as segments:
            for keys, data in segments.unshared():
                name = digest_bytes(data) if data else None
                if name is not None:
                    self.bucket.put(segment_name(stage, name), data)
                segments.shared(keys, name)

    def _pull_rows(self, stage: str) -> None:
        """Take in the segments that are not known here; one that is damaged is named and left out: its rows are made again."""
        names = listing(self.bucket.list(f"rows/{stage}")).segments.get(stage)
        if names:
            with self._segments(stage) as segments:
                taken = segments.taken()
                for name in names:
                    if name not in taken:
                        self._take_segment(segments, stage, name)

    def _take_segment(self, segments: Segments, stage: str, name: str) -> None:
        try:
            segments.take(name, self._segment(stage, name))
        except ValueError as error:  # its rows are made again
            self._is_damaged(segment_name(stage, name), error)

    def _segment(self, stage: str, name: str) -> bytes:
        """A segment's bytes. ValueError where they are not those of its name."""
        data = self.bucket.get(segment_name(stage, name), LARGEST)
        if data is None or digest_bytes(data) != name:
            raise ValueError("its bytes are not those of its name")
        return data

    def look_at_segments(self) -> None:
        """Read every segment, for `listed.damaged`."""
        for stage, names in self.listed.segments.items():
            for name in names:
                try:
                    unpacked(self._segment(stage, name))
                except ValueError as error:
                    self._is_damaged(segment_name(stage, name), error)

    def _agreed_number(self, name: str, value: int) -> int:
        """The number that the bucket holds under `name`: the first that any machine put."""
        there = self.bucket.create(fixed_name(name), packed_number(name, value))
        return value if there is None else self._number(name, there)

    def _number(self, name: str, data: bytes) -> int:
        try:
            return unpacked_number(name, data)
        except ValueError:
            raise UnreadableError(
                f"{self.bucket}/{fixed_name(name)}: damaged; remove it: the number is fixed anew by the next run"
            ) from None

    def share_run(self, run: str) -> None:
        """Put the record of a run that has ended."""
        self.bucket.create(run_name(run), self._run_path(run).read_bytes())


class _NotThereError(Exception):
    """The bucket has no such object."""


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return content_digest(path) == digest
    except OSError:
        return False
