"""What lies outside stores: one place for all of it, listed and removed by whose it is."""

import tarfile
from pathlib import Path

import pytest

from model.zoo.resolve import RECORD, default_cache
from storage.archives import list_members
from storage.user_cache import user_cache
from tasks.caches import clear, known_caches


@pytest.mark.parametrize("chosen", ["", "a cache"])
def test_weights_and_all_else_lie_in_one_place(tmp_path, monkeypatch, chosen):
    """Weights of old caches stay where they are: in the folder that is named, or in one of their own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / chosen) if chosen else "")
    expected = tmp_path / chosen if chosen else tmp_path / ".cache" / "empamba"
    assert user_cache() == expected
    assert default_cache() == (expected if chosen else expected / "weights")


def test_each_kind_is_removed_alone_and_nothing_else_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "no prefect"))
    (tmp_path / "note.txt").write_text("hello")
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        archive.add(tmp_path / "note.txt", "note.txt")
    assert list_members(tmp_path, "one.tar").digests.keys() == {"note.txt"}
    weights = tmp_path / "cache" / "some-weights"
    weights.mkdir()
    (weights / RECORD).write_text("{}")
    for name in ("code-3.11.0-ab.json", "letters.txt"):
        (tmp_path / "cache" / name).write_text("mine")

    def there() -> set[str]:
        return {path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()}

    assert there() == {"some", "code", "archives", "letters.txt"}
    found = {cache.what: cache for cache in known_caches()}
    for what, left in (
        ("places in archives", {"some", "code", "letters.txt"}),
        ("facts about source files", {"some", "letters.txt"}),
        ("weights", {"letters.txt"}),
    ):
        assert found[what].folder == Path(tmp_path / "cache") and found[what].size() > 0
        clear(found[what])
        assert there() == left
    assert found["Prefect's home"].size() == 0
