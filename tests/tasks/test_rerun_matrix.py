"""What re-runs after which change: the exact items, on the whole real pipeline, at the stage layer.

Every case starts from one finished run over MELD and IEMOCAP trees of the sample corpus. On `tiny` all cases are
tried, on `cpu`, whose candidates go through vLLM where it is installed, a seeded third. Code is changed in a copy
of the source tree and run there.
"""

import csv
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from json import loads
from pathlib import Path

import psutil
import pytest

from storage.sample.layout import write_sample
from tasks.engine import item as item_module
from tasks.engine.pool import WorkerPool
from tasks.settings import load_settings
from tests.support.rerun import SMALL, digests, run, session

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SHARD = "meld/train/0"
"""Where the changed dialogue lies."""

READ_AGAIN = {
    "utterances meld",
    "utterances.exchanges all",
    f"features {SHARD}",
    f"candidates {SHARD}",
    "pairs all",
}
WORDS = READ_AGAIN | {
    f"scores {SHARD}", "extractor all", "compressor.pretrain all", "compressor.finetune all", "dialogue.text all",
    "dialogue.memory all", "dialogue.audiovisual all", "epo all",
}  # fmt: skip
"""What reads the words of a train utterance itself."""

REPLIES = tuple(f"replies.{rung}" for rung in ("1-llm", "2-ft", "3-mc", "4-av", "5-epo"))
MODELS = {
    "scores": ("candidates",),
    "pairs": ("scores",),
    "pairs.quality": ("pairs/",),
    "extractor": ("features",),
    "extractor.test": ("extractor",),
    "compressor.finetune": ("compressor.pretrain",),
    "compressor.test": ("compressor.finetune",),
    "dialogue.memory": ("compressor.finetune",),
    "dialogue.audiovisual": ("features", "extractor", "compressor.finetune"),
    "epo": ("pairs/", "features", "dialogue.audiovisual", "extractor", "compressor.finetune"),
    "epo.test": ("epo", "dialogue.audiovisual", "extractor", "compressor.finetune"),
    "replies.2-ft": ("dialogue.text",),
    "replies.3-mc": ("dialogue.memory", "compressor.finetune"),
    "replies.4-av": ("dialogue.audiovisual", "extractor", "compressor.finetune"),
    "replies.5-epo": ("epo", "extractor", "compressor.finetune"),
    "ladder": ("dialogue.text", "dialogue.memory", "compressor.finetune"),
    "long-history": ("dialogue.text", "dialogue.memory", "compressor.finetune"),
    "metrics": (*REPLIES, "train_replies.json/"),
}
"""Stage -> the stages (with a slash: the table) whose artefacts it reads: it runs where their bytes changed."""


class Corpus:
    """One raw root and store that a case changes; laid anew for each from the finished run."""

    def __init__(self, profile: str, folder: Path, finished: Path):
        self.profile, self.folder, self.finished = profile, folder, finished
        self.store, self.raw = folder / "store", folder / "raw"
        self.meld = self.raw / "MELD.Raw"
        settings = load_settings(profile, SMALL)
        self.workers = WorkerPool(settings.run, self.store, self.raw, {"HF_HUB_OFFLINE": "1"})

    def reset(self) -> None:
        for name in ("store", "raw"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.finished / name, self.folder / name)

    def run(self, *changes: str) -> set[str]:
        with session(self.profile, self.store, self.raw, (*SMALL, *changes), self.workers) as opened:
            return set(run(opened))

    def run_with(self, tree: Path) -> set[str]:
        """Run the code of another source tree."""
        command = [
            sys.executable,
            "-m",
            "tests.support.rerun",
            self.profile,
            str(self.store),
            str(self.raw),
            *SMALL,
        ]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return set(loads(done.stdout.splitlines()[-1]))

    def digests(self, *changes: str) -> dict[str, str]:
        with session(self.profile, self.store, self.raw, (*SMALL, *changes)) as opened:
            return digests(opened)

    def object(self, artefact: str) -> Path:
        """The file of an artefact, by "stage label name"."""
        digest = self.digests()[artefact]
        return self.store / "objects" / digest[:2] / digest

    def edit(self, change: Callable[[list[dict]], list[dict]]) -> None:
        """Rewrite MELD's train file."""
        path = self.meld / "train_sent_emo.csv"
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = list(rows[0])
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(change(rows))


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """MELD with clips but for one utterance of train, and IEMOCAP as text."""
    root = tmp_path_factory.mktemp("raw") / "raw"
    write_sample(root, dialogues=2, turns=4)
    shutil.rmtree(root / "MultiDialog")
    for folder in root.glob("IEMOCAP_full_release/Session*/sentences"):
        shutil.rmtree(folder)
    for folder in root.glob("IEMOCAP_full_release/Session*/dialog/avi"):
        shutil.rmtree(folder)
    (root / "MELD.Raw/train_splits/dia1_utt3.mp4").rename(root.parent / "spare.mp4")
    return root


@pytest.fixture(scope="module")
def corpora(raw, tmp_path_factory):
    """Profile -> its corpus, made when first asked for."""
    made: dict[str, Corpus] = {}

    def of(profile: str) -> Corpus:
        if profile not in made:
            finished, work = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("work")
            shutil.copytree(raw, finished / "raw")
            with session(profile, finished / "store", finished / "raw", SMALL) as opened:
                run(opened)
            made[profile] = Corpus(profile, work, finished)
        made[profile].reset()
        return made[profile]

    yield of
    for corpus in made.values():
        corpus.workers.close()


def all_that_runs(direct: set[str], before: dict[str, str], after: dict[str, str]) -> set[str]:
    """`direct`, and what reads an artefact that came out otherwise, as seen in the artefacts themselves."""
    moved = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    stages = {name.split(" ")[0] for name in moved} | {
        name.split(" ")[2].split("/")[0] + "/" for name in moved
    }
    reached = {
        f"{stage} {label}"
        for stage, read in MODELS.items()
        for label in labels(stage, read, moved)
        if stages & {*read}
    }
    return direct | reached | ({"report all"} if moved else set())


def labels(stage: str, read: tuple[str, ...], moved: set[str]) -> set[str]:
    """One item for all of its inputs; of scores, one for each shard of candidates."""
    return {name.split(" ")[1] for name in moved if name.startswith(read)} if stage == "scores" else {"all"}


# The cases: each changes the corpus and returns what must run ---------------------------------------------


def touched(corpus: Corpus) -> set[str]:
    for path in corpus.raw.rglob("*"):
        os.utime(path)
    return set()


def sentence_changed(corpus: Corpus) -> set[str]:
    corpus.edit(lambda rows: [{**rows[0], "Utterance": "Is the kettle on fire?"}, *rows[1:]])
    return WORDS


def dialogue_added(corpus: Corpus) -> set[str]:
    corpus.edit(
        lambda rows: rows + [{**row, "Dialogue_ID": "77"} for row in rows if row["Dialogue_ID"] == "0"]
    )
    return WORDS


def dialogue_deleted(corpus: Corpus) -> set[str]:
    corpus.edit(lambda rows: [row for row in rows if row["Dialogue_ID"] != "1"])
    return WORDS


def field_nobody_reads(corpus: Corpus) -> set[str]:
    corpus.edit(lambda rows: [{**row, "Season": "9", "Sentiment": "new", "Sr No.": "7"} for row in rows])
    return {"utterances meld"}


def label_changed(corpus: Corpus) -> set[str]:
    corpus.edit(lambda rows: [{**rows[0], "Emotion": "disgust"}, *rows[1:]])
    return READ_AGAIN | {"extractor all"}


def clip_replaced(corpus: Corpus) -> set[str]:
    clips = corpus.meld / "train_splits"
    shutil.copyfile(clips / "dia0_utt1.mp4", clips / "dia0_utt0.mp4")
    return {"utterances meld", f"features {SHARD}"}


def clip_removed(corpus: Corpus) -> set[str]:
    (corpus.meld / "train_splits/dia0_utt0.mp4").unlink()
    return {"utterances meld", f"features {SHARD}"}


def clip_added(corpus: Corpus) -> set[str]:
    clips = corpus.meld / "train_splits"
    shutil.copyfile(clips / "dia1_utt2.mp4", clips / "dia1_utt3.mp4")
    return {"utterances meld", f"features {SHARD}"}


def artefact_deleted(corpus: Corpus) -> set[str]:
    corpus.object(f"features {SHARD} features/{SHARD}").unlink()
    return {f"features {SHARD}"}


def artefact_truncated(corpus: Corpus) -> set[str]:
    path = corpus.object(f"candidates {SHARD} candidates/{SHARD}")
    path.write_bytes(path.read_bytes()[:-7])
    return {f"candidates {SHARD}"}


def artefact_flipped(corpus: Corpus) -> set[str]:
    path = corpus.object("utterances meld utterances/meld/train/0")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return {"utterances meld"}


def record_deleted(corpus: Corpus) -> set[str]:
    next((corpus.store / "records/compressor.pretrain").glob("*.json")).unlink()
    return {"compressor.pretrain all"}


def record_damaged(corpus: Corpus) -> set[str]:
    path = next((corpus.store / "records/pairs").glob("*.json"))
    path.write_bytes(path.read_bytes()[:40])
    return {"pairs all"}


CASES = [
    touched, sentence_changed, dialogue_added, dialogue_deleted, field_nobody_reads, label_changed,
    clip_replaced, clip_removed, clip_added, artefact_deleted, artefact_truncated, artefact_flipped,
    record_deleted, record_damaged,
]  # fmt: skip
THIRD = random.Random(0).sample(CASES, len(CASES) // 3)


@pytest.mark.parametrize(
    "profile, case",
    [("tiny", c) for c in CASES] + [("cpu", c) for c in THIRD],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_exactly_the_stale_items_run(corpora, profile, case):
    corpus = corpora(profile)
    before = corpus.digests()
    expected = case(corpus)
    assert corpus.run() == all_that_runs(expected, before, corpus.digests())
    assert corpus.run() == set()
    if case.__name__.startswith(("artefact", "record", "touched")):
        assert corpus.digests() == before


@pytest.mark.parametrize("profile", ["tiny", "cpu"])
def test_a_clean_rebuild_in_another_folder_has_the_same_digests(corpora, profile, tmp_path):
    corpus = corpora(profile)
    shutil.copytree(corpus.raw, tmp_path / "elsewhere")
    with session(profile, tmp_path / "store", tmp_path / "elsewhere", SMALL) as opened:
        run(opened)
        assert digests(opened) == corpus.digests()


def written(corpus: Corpus) -> int:
    """Candidates in the row store."""
    with closing(sqlite3.connect(corpus.store / "rows/candidates.sqlite")) as rows:
        return rows.execute("select count(*) from rows").fetchone()[0]


def test_a_kill_in_generation_loses_no_finished_row(corpora):
    corpus = corpora("cpu")
    corpus.edit(lambda rows: [{**row, "Utterance": f"{row['Utterance']} Really?"} for row in rows])
    before = written(corpus)
    command = ["cpu", str(corpus.store), str(corpus.raw), "--until", "candidates", *SMALL]
    killed = subprocess.Popen(
        [sys.executable, "-m", "tests.support.rerun", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    while written(corpus) < before + 3:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    assert family and psutil.wait_procs(family, timeout=60)[1] == []  # its workers end with it
    found = written(corpus)
    with session("cpu", corpus.store, corpus.raw, SMALL, corpus.workers) as opened:
        assert f"candidates {SHARD}" in run(opened, "candidates")
        disturbed = digests(opened, "candidates")
    rows = written(corpus)
    assert before + 3 <= found < rows
    corpora("cpu").edit(lambda rows: [{**row, "Utterance": f"{row['Utterance']} Really?"} for row in rows])
    with session("cpu", corpus.store, corpus.raw, SMALL, corpus.workers) as opened:
        run(opened, "candidates")
        assert digests(opened, "candidates") == disturbed
    assert written(corpus) == rows  # none was lost, none written twice


# Settings, weights, libraries ----------------------------------------------------------------------------


def test_a_setting_changed_and_changed_back(corpora):
    corpus = corpora("tiny")
    before = corpus.digests()
    ran = corpus.run("epo.gamma=0.3")
    assert ran == all_that_runs({"epo all", "report all"}, before, corpus.digests("epo.gamma=0.3"))
    assert corpus.run() == set()
    assert corpus.digests() == before


def test_other_weights(corpora):
    corpus = corpora("tiny")
    before = corpus.digests()
    swapped = ("scorer.weights=goemotions-minilm-b", "metrics.second_scorer=goemotions-minilm")
    ran = corpus.run(*swapped)
    scores = {" ".join(name.split(" ")[:2]) for name in before if name.startswith("scores ")}
    assert ran == all_that_runs(
        scores | {"metrics all", "epo.test all", "report all"}, before, corpus.digests(*swapped)
    )


def test_another_library_version(corpora, monkeypatch):
    corpus = corpora("tiny")
    real = item_module.library_version
    monkeypatch.setattr(
        item_module, "library_version", lambda name: "peft 99.0" if name == "peft" else real(name)
    )
    compressors = {"compressor.pretrain", "compressor.finetune", "compressor.test"}
    readers = {
        "dialogue.text",
        "dialogue.memory",
        "dialogue.audiovisual",
        "epo",
        "epo.test",
        "ladder",
        "long-history",
        *compressors,
        *REPLIES,
    }
    assert corpus.run() == {f"{stage} all" for stage in readers}  # and all of it to the same bytes


# Code ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the source tree."""
    for name in ("flows", "tasks", "model", "storage", "deployments"):
        shutil.copytree(ROOT / name, tmp_path / "tree" / name)
    (tmp_path / "tree/tests/support").mkdir(parents=True)
    shutil.copy(ROOT / "tests/support/rerun.py", tmp_path / "tree/tests/support/rerun.py")
    return tmp_path / "tree"


def rewrite(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    assert count == 1, (path, pattern)
    path.write_text(text, encoding="utf-8")


def test_comments_docstrings_formatting_and_unrelated_functions(corpora, tree):
    path = tree / "model/pairs/selection.py"
    rewrite(path, r'\A"""', '"""Reworded. ')
    rewrite(path, r"^def choose\(", "# a remark\n\n\n\ndef choose(")
    path.write_text(path.read_text() + "\n\ndef unrelated(x):\n    return x + 1\n")
    assert corpora("tiny").run_with(tree) == set()


def test_a_helper_changed_to_the_same_result(corpora, tree):
    rewrite(
        tree / "storage/exchanges.py",
        r"^def cut_exchanges\((.*?)$",
        r"def cut_exchanges(\1\n    _same = None",
    )
    ran = corpora("tiny").run_with(tree)
    assert ran == {"utterances.exchanges all"}


def test_a_helper_changed_to_another_result(corpora, tree):
    corpus = corpora("tiny")
    before = corpus.digests()
    rewrite(tree / "model/metrics/dist.py", r"return np\.array", "return 1 + np.array")
    assert corpus.run_with(tree) == {"metrics all", "report all"}
    assert before.keys() == corpus.digests().keys()


def test_a_module_constant_changed(corpora, tree):
    rewrite(tree / "tasks/stages/pairs/choose.py", r"^COSINE_BINS = 40$", "COSINE_BINS = 20")
    assert corpora("tiny").run_with(tree) == {"pairs all", "report all"}
