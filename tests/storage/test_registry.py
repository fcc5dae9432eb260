"""The registry: what one entry brings, that all else is derived from it, and that planning stays light."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.fetch.catalogue import SOURCES
from storage.filestat import content_digest
from storage.labels import EKMAN, LabelTable
from storage.readers import find, registry
from storage.readers.common import Dialogues, RawDataError, lines_of, read_text
from storage.readers.dataset import Dataset, share_of_actors
from storage.readers.find import find_datasets, read_dataset
from storage.readers.published import Published
from storage.readers.registry import DATASETS, SINGLE_CLIPS, dataset_named
from storage.settings import DataSettings
from storage.utterance import Utterance
from tasks.engine.fingerprint import fingerprint
from tasks.stages.utterances import cards

ROOT = Path(__file__).resolve().parents[2]


def test_names_titles_and_files_are_each_datasets_own():
    assert len({d.name for d in DATASETS}) == len({d.title for d in DATASETS}) == len(DATASETS)
    for dataset in DATASETS:
        assert dataset.name.isidentifier() and dataset.title and dataset.example
        assert dataset_named(dataset.name) is dataset
    assert SINGLE_CLIPS == {"crema_d", "ravdess"}
    with pytest.raises(RawDataError, match=r"no reader for dataset 'melt'; known: .*meld"):
        dataset_named("melt")


def test_what_is_fetched_is_what_the_entries_say():
    assert SOURCES == {d.name.replace("_", "-"): d.source for d in DATASETS if d.source}


def test_one_entry_is_a_whole_dataset(tmp_path, monkeypatch):
    """A dataset made here, of one entry: found, read, split, carded and named like the others."""

    def claim(paths):
        return [p for p in paths if p.endswith(".chat")]

    def read(raw, root, settings):
        lines = [line for path in raw.files for line in lines_of(read_text(root, path)) if line]
        said = [
            Utterance(
                "toy", "", str(n // 2), n % 2, "AB"[n % 2], line, ENTRY.labels.target("joy", "here"), "joy"
            )
            for n, line in enumerate(lines)
        ]
        return Dialogues(said, rows=len(said))

    ENTRY = Dataset(
        "toy", "The Toy", "x.chat", claim, read, LabelTable("toy", EKMAN), share_of_actors,
        published=(Published("all", ("train", "dev", "test"), 41, 20),),
    )  # fmt: skip
    for module in (registry, find):
        monkeypatch.setattr(module, "DATASETS", (ENTRY, *DATASETS))
    (tmp_path / "a.chat").write_text("\n".join(f"Line {n}." for n in range(40)))
    (raw,) = find_datasets(tmp_path)
    found = read_dataset(raw, tmp_path, DataSettings(), content_digest)
    assert {u.split for u in found.utterances} == {"train", "dev", "test"} and len(found.utterances) == 40
    card = cards.make_card("toy", found, DataSettings(), synthetic=False)
    assert card["title"] == "The Toy" and cards.verdict(card).startswith("1 of 2 published counts differ")
    (tmp_path / "a.chat").unlink()
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(RawDataError, match=r"The Toy \(x\.chat, …\)"):
        find_datasets(tmp_path)


def test_every_reader_is_part_of_the_key():
    """The registry is followed by name: a reader whose code is not in the key would never be stale."""
    reached = fingerprint("tasks.stages.utterances.write:write_utterances")
    for dataset in DATASETS:
        path = Path(sys.modules[dataset.read.__module__].__file__).relative_to(ROOT).as_posix()
        assert {f"{path}:read", f"{path}:ENTRY", f"{path}:LABELS"} <= reached.keys(), dataset.name


def test_looking_at_the_registry_is_light():
    code = (
        "import sys; import storage.readers.registry, storage.fetch.catalogue; "
        "print([m for m in ('pyarrow', 'numpy', 'torch', 'prefect', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
