"""Members of archives: the bytes of tarfile, wherever they lie, and of damaged archives what is whole."""

import gzip
import io
import random
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from storage import archives
from storage.archives import ArchiveError, list_members, local_file, read_member
from storage.filestat import content_digest
from storage.media.clip import Request, decode_clip
from storage.media.container import MediaError
from storage.sample.media import write_wav


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache") / "archives.sqlite"
    monkeypatch.setattr(archives, "_cache_file", lambda: cache)
    monkeypatch.setattr(archives, "SPACING", 1 << 17)
    return cache


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """Sounds that neither vanish nor stay whole when packed, one of them empty."""
    draw = random.Random(0)
    sizes = [0, *(draw.randrange(1, 40_000) for _ in range(60))]
    return {
        f"c/{n}.wav": np.cumsum(np.random.default_rng(n).integers(-9, 10, size)).astype("<i2").tobytes()
        for n, size in enumerate(sizes)
    }


@pytest.fixture(scope="module")
def packed(members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def two_gzips(packed: bytes) -> bytes:
    plain = gzip.decompress(packed)
    return gzip.compress(plain[: len(plain) // 3]) + gzip.compress(plain[len(plain) // 3 :]) + bytes(64)


@pytest.mark.parametrize("form", ["tar.gz", "two gzips in one", "tar", "without zlib's library"])
def test_members_are_those_of_tarfile(tmp_path, members, packed, form, monkeypatch):
    data = {"two gzips in one": two_gzips(packed), "tar": gzip.decompress(packed)}.get(form, packed)
    if form == "without zlib's library":
        monkeypatch.setattr(archives, "_zlib", lambda: None)
    (tmp_path / "x.tar.gz").write_bytes(data)
    listing = list_members(tmp_path, "x.tar.gz")
    assert listing.problem == "" and set(listing.digests) == set(members)
    for name in random.Random(1).sample(sorted(members), len(members)):
        assert read_member(tmp_path, f"x.tar.gz::{name}") == members[name]


def test_a_member_costs_a_part_of_the_archive(tmp_path, packed, monkeypatch):
    (tmp_path / "x.tar.gz").write_bytes(packed)
    list_members(tmp_path, "x.tar.gz")
    inflated = []
    real = archives._step

    def counted(*arguments):
        block, code = real(*arguments)
        inflated.append(len(block))
        return block, code

    monkeypatch.setattr(archives, "_step", counted)
    monkeypatch.setattr(archives, "CHUNK", 1 << 14)
    last = read_member(tmp_path, "x.tar.gz::c/60.wav")
    assert sum(inflated) < len(last) + (1 << 17) + (1 << 16) < len(zlib.decompress(packed, 31)) / 2


def test_a_digest_is_that_of_the_file_unpacked(tmp_path, members, packed):
    (tmp_path / "x.tar.gz").write_bytes(packed)
    with local_file(tmp_path, "x.tar.gz::c/7.wav") as path:
        assert path.suffix == ".wav" and path.read_bytes() == members["c/7.wav"]
        assert content_digest(path) == list_members(tmp_path, "x.tar.gz").digests["c/7.wav"]
    assert not path.exists()
    with local_file(tmp_path, "x.tar.gz") as plain:
        assert plain == tmp_path / "x.tar.gz"


def test_a_sound_in_an_archive_is_decoded_as_the_file_is(tmp_path):
    write_wav(tmp_path / "0.wav", 0.3 * np.sin(np.arange(20_000) / 20), 16_000)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "0.wav", "c/0.wav")
    packed, plain = (
        decode_clip(Request(str(tmp_path), None, path)).audio for path in ("x.tar.gz::c/0.wav", "0.wav")
    )
    assert len(plain) == 20_000 and np.array_equal(packed, plain)
    with pytest.raises(MediaError, match="x.tar.gz::c/1.wav.*no such member") as caught:
        decode_clip(Request(str(tmp_path), None, "x.tar.gz::c/1.wav"))
    assert caught.value.reason == "missing"


def test_an_archive_is_passed_over_once_and_again_when_it_changed(tmp_path, packed, monkeypatch):
    passes = []
    real = archives._build
    monkeypatch.setattr(archives, "_build", lambda file: passes.append(file) or real(file))
    (tmp_path / "x.tar.gz").write_bytes(packed)
    for _ in range(3):
        list_members(tmp_path, "x.tar.gz")
        read_member(tmp_path, "x.tar.gz::c/1.wav")
    assert len(passes) == 1
    (tmp_path / "x.tar.gz").write_bytes(two_gzips(packed))
    list_members(tmp_path, "x.tar.gz")
    assert len(passes) == 2


def test_cut_off_archives_give_their_whole_members(tmp_path, members, packed):
    draw = random.Random(2)
    for number in range(12):
        name = f"{number}.tar.gz"
        (tmp_path / name).write_bytes(packed[: draw.randrange(len(packed))])
        listing = list_members(tmp_path, name)
        assert "damaged, noticed after" in listing.problem
        for member in listing.digests:
            assert read_member(tmp_path, f"{name}::{member}") == members[member]


def test_damage_after_the_index_was_made_is_seen(tmp_path, packed, monkeypatch):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(packed)
    list_members(tmp_path, "x.tar.gz")
    known = archives._known(str(path))
    rotten = bytearray(packed)
    for place in range(0, len(rotten), 97):
        rotten[place] ^= 0x55
    path.write_bytes(rotten)
    monkeypatch.setattr(archives, "_indexed", lambda file: str(path))  # as if its time stamp had stayed
    assert known is not None
    with pytest.raises(ArchiveError, match="c/30.wav") as caught:
        read_member(tmp_path, "x.tar.gz::c/30.wav")
    assert caught.value.reason == "corrupt"


def test_what_is_not_there(tmp_path, packed):
    (tmp_path / "x.tar.gz").write_bytes(packed)
    with pytest.raises(ArchiveError, match="no such member") as caught:
        read_member(tmp_path, "x.tar.gz::c/999.wav")
    assert caught.value.reason == "missing"
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_member(tmp_path, "y.tar.gz::c/1.wav")


def test_a_home_that_cannot_be_written_costs_nothing_but_time(tmp_path, members, packed, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setattr(archives, "_cache_file", lambda: Path(blocked) / "archives.sqlite")
    (tmp_path / "x.tar.gz").write_bytes(packed)
    assert read_member(tmp_path, "x.tar.gz::c/3.wav") == members["c/3.wav"]
