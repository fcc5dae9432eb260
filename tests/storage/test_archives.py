"""Members of archives: the bytes of tarfile, wherever they lie, and of damaged archives what is whole."""

import gzip
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from storage import archives, inflate
from storage.archives import ArchiveError, list_members, local_file, read_member
from storage.filestat import content_digest
from storage.media.clip import Request, decode_clip
from storage.media.container import MediaError
from storage.sample.media import write_wav
from storage.settings import ReadLimits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache") / "archives.sqlite"
    monkeypatch.setattr(archives, "_cache_file", lambda: cache)
    monkeypatch.setattr(inflate, "SPACING", 1 << 17)
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
        monkeypatch.setattr(inflate, "_load_zlib", lambda: None)
    (tmp_path / "x.tar.gz").write_bytes(data)
    listing = list_members(tmp_path, "x.tar.gz")
    assert listing.problem == "" and set(listing.digests) == set(members)
    for name in random.Random(1).sample(sorted(members), len(members)):
        assert read_member(tmp_path, f"x.tar.gz::{name}") == members[name]


def test_a_member_costs_a_part_of_the_archive(tmp_path, packed, monkeypatch):
    (tmp_path / "x.tar.gz").write_bytes(packed)
    list_members(tmp_path, "x.tar.gz")
    inflated = []
    real = inflate._step

    def counted(*arguments):
        block, code = real(*arguments)
        inflated.append(len(block))
        return block, code

    monkeypatch.setattr(inflate, "_step", counted)
    monkeypatch.setattr(inflate, "CHUNK", 1 << 14)
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
    monkeypatch.setattr(archives, "_build", lambda *given: passes.append(given) or real(*given))
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
    rotten = bytearray(packed)
    for place in range(0, len(rotten), 97):
        rotten[place] ^= 0x55
    path.write_bytes(rotten)
    monkeypatch.setattr(archives, "_indexed", lambda *_: str(path))  # as if its time stamp had stayed
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


# What an archive may cost --------------------------------------------------------------------------------


def header(name, size=0, kind=tarfile.REGTYPE, link="") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry.tobuf(format=tarfile.GNU_FORMAT)


def member(name, content=b"x", **more) -> bytes:
    return header(name, len(content), **more) + content + bytes(-len(content) % 512)


END = bytes(1024)


def pack(path, *parts, zeros=0):
    """A tar.gz of the parts, then so many megabytes of zeros."""
    with gzip.open(path, "wb", compresslevel=6) as file:
        for part in parts:
            file.write(part)
        for _ in range(zeros):
            file.write(bytes(1 << 20))
    return path.name


def listed(folder, name, **limits):
    """In a process of its own that may take 600 MB: (members, problem, skipped)."""
    code = (
        "import sys, json; from pathlib import Path; from storage import archives; "
        "from storage.settings import ReadLimits; "
        "archives._cache_file = lambda: Path(sys.argv[1]) / 'cache.sqlite'; "
        "l = archives.list_members(Path(sys.argv[1]), sys.argv[2], ReadLimits(**json.loads(sys.argv[3]))); "
        "print(json.dumps([sorted(l.digests), l.problem, l.skipped]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), name, json.dumps(limits)],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_small_archive_with_a_member_of_4_gib(tmp_path):
    name = pack(tmp_path / "bomb.tar.gz", member("a.wav"), header("bomb.wav", 4 << 30), zeros=300)
    found, problem, _ = listed(tmp_path, name)
    assert (
        found == ["a.wav"]
        and "'bomb.wav' inflates to 4096 MB, more than data.limits.archive_ratio=100" in problem
    )
    assert "\n" not in problem


def test_many_members_that_inflate_to_too_much_together(tmp_path):
    """Each within the limit of one; read as far as the ratio allows, and no further."""
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=6) as file:
        for number in range(40):
            file.write(header(f"{number}.wav", 10 << 20) + bytes(10 << 20))
        file.write(END)
    found, problem, _ = listed(tmp_path, "x.tar.gz", archive_ratio=10)
    most = 10 * (tmp_path / "x.tar.gz").stat().st_size + (64 << 20)
    assert len(found) == most // ((10 << 20) + 512) < 40 and "data.limits.archive_ratio=10" in problem


def test_one_large_member_is_left_out_and_the_rest_read(tmp_path):
    noise = random.Random(0).randbytes(3 << 20)
    name = pack(tmp_path / "x.tar.gz", member("a.wav"), member("large.wav", noise), member("b.wav"), END)
    assert listed(tmp_path, name, member_mb=2) == [
        ["a.wav", "b.wav"], "", ["1 members of more than data.limits.member_mb=2: large.wav"],
    ]  # fmt: skip
    assert listed(tmp_path, name) == [
        ["a.wav", "b.wav", "large.wav"],
        "",
        [],
    ]  # other limits: passed over anew


def test_more_members_than_allowed(tmp_path):
    name = pack(tmp_path / "many.tar.gz", *(header(f"d/{n}.wav") for n in range(3000)), END)
    found, problem, _ = listed(tmp_path, name, members=1000)
    assert (
        len(found) == 1000
        and problem == "read as far as 1000 members: more than data.limits.members=1000 members"
    )
    found, problem, _ = listed(tmp_path, name)
    assert len(found) == 3000 and problem == ""


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_header_of_gigabytes_is_not_held(tmp_path, kind):
    name = pack(tmp_path / "x.tar.gz", member("a.wav"), header("././@LongLink", 2 << 30, kind), zeros=200)
    found, problem, _ = listed(tmp_path, name)
    assert found == ["a.wav"] and "headers of one member take more than 1 MB" in problem


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_members_are_refused(tmp_path, form):
    with open(tmp_path / "sp.wav", "wb") as file:
        file.truncate(3 << 30)
    subprocess.run(["tar", "-S", f"--format={form}", "-cf", "sparse.tar", "sp.wav"], cwd=tmp_path, check=True)
    assert (tmp_path / "sparse.tar").stat().st_size < 1 << 20
    found, problem, _ = listed(tmp_path, "sparse.tar")
    assert found == [] and "is a sparse file, which is not read" in problem


def test_sizes_that_no_file_has(tmp_path):
    (tmp_path / "lie.tar").write_bytes(member("a.wav") + header("lie.wav", 1 << 40) + b"x" * 1000)
    found, problem, _ = listed(tmp_path, "lie.tar")
    assert found == ["a.wav"] and "damaged" in problem and "'lie.wav' is cut off" in problem
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("p.wav")
        entry.size, entry.pax_headers = 3, {"size": "9" * 20}
        archive.addfile(entry, io.BytesIO(b"abc"))
    found, problem, _ = listed(tmp_path, "pax.tar")
    assert found == [] and problem and "\n" not in problem


def test_names_and_links_that_lead_elsewhere_are_counted(tmp_path):
    name = pack(
        tmp_path / "evil.tar.gz",
        member("../../x.wav"), member("/etc/abs.wav"), member("a\nb\x1b[31m.wav"), member("x::y.wav"), member("\udcff.wav"),
        header("link", kind=tarfile.SYMTYPE, link="/etc/passwd"), header("hard", kind=tarfile.LNKTYPE, link="/etc/passwd"),
        header("dev", kind=tarfile.CHRTYPE), header("folder/", kind=tarfile.DIRTYPE), member("ok.wav"), END,
    )  # fmt: skip
    found, problem, skipped = listed(tmp_path, name)
    assert (found, problem) == (["ok.wav"], "")
    assert skipped == [
        "2 members that lead out of the archive's folder: ../../x.wav, /etc/abs.wav",
        "3 members without a plain name: a?b?[31m.wav, x::y.wav, ?.wav",
        "3 links and devices: link, hard, dev",
    ]


def test_a_damaged_header_between_members_is_told(tmp_path):
    """tarfile by itself takes it for the end, and what follows would be lost in silence."""
    whole = member("a.wav") + member("b.wav") + member("c.wav") + END
    broken = bytearray(whole)
    broken[1024 + 5] ^= 0xFF
    (tmp_path / "x.tar").write_bytes(broken)
    found, problem, _ = listed(tmp_path, "x.tar")
    assert found == ["a.wav"] and "damaged, noticed after 1 members" in problem
    (tmp_path / "y.tar").write_bytes(whole)
    assert listed(tmp_path, "y.tar")[:2] == [["a.wav", "b.wav", "c.wav"], ""]


def test_nested_long_names_end_nothing(tmp_path):
    name = pack(
        tmp_path / "x.tar.gz",
        *[member("n", b"x\0", kind=tarfile.GNUTYPE_LONGNAME)] * 900,
        member("a.wav"),
        END,
    )
    found, problem, _ = listed(tmp_path, name)
    assert found in (["x"], []) and (found or problem)


def test_a_reader_finds_an_archive_indexed_by_other_limits(tmp_path, members, packed):
    """Decoders know no limits: they take whichever the archive was passed over with."""
    (tmp_path / "x.tar.gz").write_bytes(packed)
    few = list_members(tmp_path, "x.tar.gz", ReadLimits(members=5))
    assert len(few.digests) == 5 and list_members(tmp_path, "x.tar.gz") == few
    assert read_member(tmp_path, "x.tar.gz::c/3.wav") == members["c/3.wav"]
    assert len(list_members(tmp_path, "x.tar.gz", ReadLimits()).digests) == len(members)


def test_what_is_read_of_an_archive_is_counted_while_it_is_indexed(tmp_path, packed):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(packed)
    read: list[int] = []
    list_members(tmp_path, "x.tar.gz", progress=read.append)
    assert len(read) == 61 and read == sorted(read) and 0 < read[0] and read[-1] <= len(packed)
    list_members(tmp_path, "x.tar.gz", progress=read.append)
    assert len(read) == 61  # indexed once
