"""A changed, an added and a deleted dialogue each rewrite one bucket; every other shard keeps its bytes."""

import csv
import io
from itertools import accumulate
from pathlib import Path

import pytest

from storage.filestat import content_digest
from storage.readers.find import find_datasets
from storage.settings import DataSettings
from storage.store import Store
from tasks.engine.declaration import RawFiles
from tasks.engine.item import Workspace
from tasks.stages.utterances.write import write_utterances

MELD = Path(__file__).resolve().parents[2] / "../shared/data/meld"

pytestmark = pytest.mark.skipif(not MELD.is_dir(), reason="the shared MELD label files are not here")


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    with open(MELD / "train_sent_emo.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def ingest(store: Store, root: Path, rows: list[list[str]]) -> dict[str, str]:
    """Shard -> digest of its bytes, after reading `rows` as MELD's train beside the real dev."""
    root.mkdir(exist_ok=True)
    table = io.StringIO()
    csv.writer(table).writerows(rows)
    (root / "train_sent_emo.csv").write_text(table.getvalue(), newline="")
    (root / "dev_sent_emo.csv").write_bytes((MELD / "dev_sent_emo.csv").read_bytes())
    (raw,) = find_datasets(root)
    source = RawFiles(dataset="meld", folder=".", files={p: content_digest(root / p) for p in raw.files})
    told: list[tuple[int, int]] = []
    work = Workspace(store, root, "basis", lambda step, steps, figures: told.append((step, steps)))
    refs = write_utterances(source, DataSettings(), work)
    rows_of = [ref.rows for ref in refs if ref.name.startswith("utterances/")]
    assert told == [(done, sum(rows_of)) for done in accumulate(rows_of, initial=0)]  # it tells how far it is
    return {ref.name: ref.digest for ref in refs if ref.name.startswith("utterances/")}


def test_one_dialogue_one_bucket(tmp_path, rows):
    store = Store(tmp_path / "store")
    before = ingest(store, tmp_path / "raw", rows)
    assert sum(name.startswith("utterances/meld/train/") for name in before) == 16
    place = {name: rows[0].index(name) for name in ("Utterance", "Dialogue_ID", "Sr No.")}
    header, *body = rows

    def of(row):
        return row[place["Dialogue_ID"]]

    changed = [[*r] for r in body]
    changed[700][place["Utterance"]] += " Really."
    added = [
        *body,
        *(
            [*r[: place["Dialogue_ID"]], "99999", *r[place["Dialogue_ID"] + 1 :]]
            for r in body
            if of(r) == "7"
        ),
    ]
    deleted = [r for r in body if of(r) != "321"]
    for what in (changed, added, deleted, body):
        after = ingest(store, tmp_path / "raw", [header, *what])
        differ = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        assert len(differ) == (0 if what is body else 1)
