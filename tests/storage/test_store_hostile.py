"""A store is data, not trust: stores written by hand to make whoever opens them delete or write elsewhere."""

import json
import os

import pytest

from storage.names import checked_name, checked_stage, is_digest
from storage.store import (
    NewerError,
    Record,
    Ref,
    Store,
    StoreError,
    UnreadableError,
    canonical,
    digest_bytes,
    sealed,
)
from tasks.upkeep import check, collect, damaged

KEY = "0123456789abcdef" * 2
OUTSIDE = "../../precious.txt"


@pytest.fixture
def store(tmp_path) -> Store:
    """A store with one tree, and beside it what must stay as it is."""
    (tmp_path / "precious.txt").write_text("precious")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    store = Store(tmp_path / "store")
    tree = store.put_tree("model", tmp_path / "model")
    store.commit(Record(stage="train", label="all", key=KEY, outputs=(tree,)), {"input": {}})
    return store


@pytest.fixture(autouse=True)
def nothing_outside(store):
    """Whatever a test does: what lies beside the store is as it was, and nothing is new there."""
    yield
    beside = store.root.parent
    assert (beside / "precious.txt").read_text() == "precious"
    assert (beside / "precious" / "file").read_text() == "precious"
    found = {p.relative_to(beside).as_posix() for p in beside.rglob("*") if store.root not in (p, *p.parents)}
    assert found == {"precious.txt", "precious", "precious/file", "model", "model/weights"}


def edit(store: Store, *, old: bool = False, **changes) -> None:
    """Change fields of the one record as somebody who means harm would: the check is right, or it has none."""
    path = store.record_path("train", KEY)
    value = json.loads(path.read_bytes())
    del value["check"]
    if old:
        del value["format"], value["inputs"]
    value["outputs"][0] |= changes.pop("output", {})
    value |= changes
    path.write_bytes(json.dumps(value).encode() if old else sealed(value))


def tree_with(store: Store, *names: str) -> Ref:
    """A tree whose listing names files of this project's making, wherever they are said to lie."""
    body = store.put_bytes("body", b"pwned\n")
    listing = [{"name": name, "digest": body.digest, "size": body.size} for name in names]
    ref = store.put_bytes("model", canonical(listing))
    return ref.model_copy(update={"tree": True})


# The rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "..", "../x", "a/../b", "a/./b", ".", "a//b", "a/", "a\\b", "a\nb", "a\0b", "a\x1b[31m",
     "a\u202eb", "a\ud800", "x" * 300],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError):
        checked_name(name)
    with pytest.raises(ValueError):
        checked_stage(name)


def test_names_that_stages_and_models_use_pass():
    for name in (
        "all",
        "meld/train/0",
        "report.html",
        "sub/w.bin",
        "adapter_model.safetensors",
        "…/é",
        ".gitattributes",
    ):
        assert checked_name(name) == name
    for name in ("epo", "replies.2-ft", "utterances.exchanges", "compressor.finetune"):
        assert checked_stage(name) == name
    for name in (".", "a..b", ".a", "a.", "a/b", "a b"):
        with pytest.raises(ValueError):
            checked_stage(name)


def test_a_digest_is_32_hexadecimal_digits():
    assert is_digest(digest_bytes(b"x"))
    for text in ("", "0" * 31, "0" * 33, "0" * 31 + "g", "0" * 32 + "\n", "A" * 32, "../" * 8, "０" * 32):
        assert not is_digest(text)
        with pytest.raises(ValueError):
            Ref(name="a", digest=text, size=1)


# Records -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True], ids=["sealed", "from before seals"])
@pytest.mark.parametrize(
    "changes",
    [
        {"output": {"digest": OUTSIDE}},
        {"output": {"digest": OUTSIDE, "tree": False}},
        {"output": {"name": OUTSIDE}},
        {"output": {"name": "/etc/passwd"}},
        {"output": {"view": "words"}},
        {"output": {"size": -1}},
        {"stage": "../../precious"},
        {"label": "../../precious"},
        {"label": "\x1b[2J"},
        {"key": "../../precious"},
        {"key": "f" * 32},
        {"surprise": 1},
    ],
)  # fmt: skip
def test_a_record_that_leads_outside_is_dropped_and_nothing_else(store, changes, old):
    edit(store, old=old, **changes)
    path = store.record_path("train", KEY)
    objects = sorted((store.root / "objects").rglob("*"))
    assert store.record("train", KEY) is None
    for superseded in (False, True):
        for dry in (True, False):
            with pytest.raises(UnreadableError, match=f"{path}: cannot be read"):
                collect(store.root, superseded, dry)
    assert len(damaged(store.root, repair=False)) == 1 and path.exists()
    (line,) = damaged(store.root, repair=True)
    assert line.startswith(str(path)) and line.isprintable()
    assert not path.exists() and sorted((store.root / "objects").rglob("*")) == objects
    assert damaged(store.root, repair=False) == []


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"rows":' + b"9" * 5000 + b"}"]
)
def test_a_record_of_any_bytes_is_named(store, text):
    store.record_path("train", KEY).write_bytes(text)
    with pytest.raises(UnreadableError, match=KEY):
        collect(store.root, dry=True)
    assert KEY in damaged(store.root, repair=True)[0]
    assert damaged(store.root, repair=False) == []


def test_a_newer_record_is_said_to_be_newer_and_stays(store):
    path = store.record_path("train", KEY)
    edit(store, format=2, surprise=1)
    content = path.read_bytes()
    with pytest.raises(NewerError, match="written by a newer Empamba .record format 2; this one knows 1"):
        store.record("train", KEY)
    for superseded in (False, True):
        with pytest.raises(NewerError):
            collect(store.root, superseded)
    (finding,) = check(store.root, repair=True)
    assert not finding.mended and "newer Empamba" in finding.line
    assert path.read_bytes() == content


# Trees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [["../../../../pwned.txt"], ["/tmp/pwned-by-a-tree.txt"], ["a", "a/b"], ["a", "a"], ["a\\..\\b"], ["a\nb"]]
)  # fmt: skip
def test_a_listing_that_names_what_no_tree_can_hold(store, names):
    ref = tree_with(store, *names)
    with pytest.raises(UnreadableError, match="no listing of a folder"):
        store.folder(ref)
    assert not store.holds(ref, rehash=True)
    edit(store, output={"digest": ref.digest, "size": ref.size})
    with pytest.raises(UnreadableError, match="no listing of a folder"):
        collect(store.root, dry=True)
    assert len(damaged(store.root, repair=True)) == 1
    assert not store.object_path(ref.digest).exists() and not store.layout_path(ref.digest).exists()
    assert not os.path.exists("/tmp/pwned-by-a-tree.txt")
    assert damaged(store.root, repair=False) != []  # its record stays, so that the reason is told
    collect(store.root)


def test_a_listing_that_names_itself_a_tree(store):
    listing = store.put_bytes("model", canonical([{"name": "a", "digest": KEY, "size": 1, "tree": True}]))
    with pytest.raises(UnreadableError):
        store.members(listing)


# Links and pipes -----------------------------------------------------------------------------------------

PLACES = [
    "objects",
    "objects/ab",
    "trees",
    "trees/" + KEY,
    "records",
    "last/train",
    "rows",
    "locks",
    "scratch",
    "logs",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_the_store_is_refused_and_repair_removes_the_link(store, place, tmp_path):
    link = store.root / place
    if link.is_dir():
        link.rename(store.root / "aside")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "precious")
    for act in (store.refuse_links, lambda: collect(store.root), lambda: collect(store.root, dry=True)):
        with pytest.raises(StoreError, match=f"{link}: a link"):
            act()
    assert any(str(link) in line for line in damaged(store.root, repair=False)) and link.is_symlink()
    assert any(str(link) in line for line in damaged(store.root, repair=True))
    assert not link.is_symlink()
    store.refuse_links()
    collect(store.root)


@pytest.mark.parametrize(
    "place", ["rows/features.sqlite", "files.sqlite", "fixed.json", "locks/gc", "report.json"]
)
def test_a_linked_file_is_removed_not_what_it_leads_to(store, place, tmp_path):
    (store.root / place).parent.mkdir(exist_ok=True)
    (store.root / place).unlink(missing_ok=True)
    (store.root / place).symlink_to(tmp_path / "precious.txt")
    assert any(place in line for line in damaged(store.root, repair=True))
    assert damaged(store.root, repair=False) == []


def test_a_layout_that_is_a_link_is_made_anew(store, tmp_path):
    tree = store.record("train", KEY).outputs[0]
    store.layout_path(tree.digest).parent.mkdir()
    store.layout_path(tree.digest).symlink_to(tmp_path / "model")
    laid = store.folder(tree)
    assert not laid.is_symlink() and (laid / "weights").read_bytes() == b"weights"


def test_a_linked_lock_is_not_opened(store, tmp_path):
    (store.root / "locks").mkdir()
    (store.root / "locks" / "gc").symlink_to(tmp_path / "new.txt")
    with pytest.raises(StoreError), store.lock("gc"):
        pass


def test_a_pipe_is_named_and_not_waited_for(store):
    os.mkfifo(store.root / "fixed.json")
    assert "fixed.json: a link, or no plain file" in damaged(store.root, repair=True)[0]
    assert store.fixed("buckets/meld/train", 4) == 4


# Notes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noted",
    [
        {"key": OUTSIDE, "label": "all", "parts": {}},
        {"key": KEY, "label": "../all", "parts": {}},
        {"key": KEY, "label": "other", "parts": {}},
        {"key": KEY, "label": "all", "parts": {"input": {"start model": OUTSIDE}}},
        {"key": KEY, "label": "all", "parts": {"seen": {"utterances/meld/train/0": ["words", OUTSIDE]}}},
        {"key": KEY, "label": "all", "parts": {"setting": 5}},
        {"key": KEY, "label": "all"},
        {},
    ],
)
def test_a_note_of_what_was_last_made_is_checked(store, noted):
    path = store.last_path("train", "all")
    path.write_bytes(sealed(noted))
    assert store.last("train", "all") is None
    with pytest.raises(UnreadableError, match="all.json: cannot be read"):
        collect(store.root, superseded=True, dry=True)
    collect(store.root)  # which does not read it
    assert store.record("train", KEY) is not None
    assert damaged(store.root, repair=True) != [] and damaged(store.root, repair=False) == []
    collect(store.root, superseded=True)  # which record is the latest is not known: all stay
    assert store.record("train", KEY) is not None


def test_letters_of_every_sort_in_file_names_stay_on_one_line(store):
    for code in range(1, 32):
        (store.root / "records" / "train" / f"a{chr(code)}.json").write_bytes(b"")
    lines = damaged(store.root, repair=False)
    assert len(lines) == 31 and all(line.isprintable() for line in lines)
