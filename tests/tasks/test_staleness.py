"""What is stale and why, on the real first stages over the sample corpus' text; no orchestrator.

Each run executes stale items in real worker processes through the same Session that flows use.
"""

import shutil
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.sample.layout import write_sample
from storage.shards import read_table
from tasks.engine import fingerprint
from tasks.engine.session import Session
from tasks.settings import PROFILES, load_settings
from tasks.stages.shard_names import of_table
from tests.support import rerun
from tests.support.rerun import session

UNTIL = "utterances"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False)
    return root


@pytest.fixture
def raw(corpus, tmp_path) -> Path:
    return Path(shutil.copytree(corpus, tmp_path / "raw"))


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def run(store: Path, raw: Path, *changes: str, force: tuple[str, ...] = ()) -> list[str]:
    """Run what is stale up to the exchanges; returns the items that ran."""
    with session("tiny", store, raw, changes, force=force) as opened:
        return rerun.run(opened, UNTIL)


def reasons(store: Path, raw: Path, *changes: str) -> dict[str, list[str]]:
    with Session(load_settings("tiny", changes), "tiny", store, raw) as session:
        return {p.stage.name: p.as_dict()["reasons"] for p in session.plan(UNTIL) if p.state == "stale"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    "changes, offline", [([], False), (["run.offline=true"], True)], ids=["by default", "by setting"]
)
def test_the_hub_is_asked_unless_a_setting_says_not_to_whatever_the_profile_is_called(
    corpus, store, tmp_path, changes, offline
):
    copy = tmp_path / "mine.toml"
    shutil.copy(PROFILES / "paper.toml", copy)
    for profile in ("paper", str(copy)):
        with Session(load_settings(profile, changes), profile, store, corpus) as opened:
            assert ("HF_HUB_OFFLINE" in opened.workers.environment) is offline
    for profile in ("cpu", "tiny"):
        assert load_settings(profile).run.offline


@pytest.fixture
def meld_csv(raw) -> Path:
    return next(raw.rglob("train_sent_emo.csv"))


def test_a_second_run_has_nothing_to_do(store, raw):
    assert run(store, raw) == [
        "utterances iemocap", "utterances meld", "utterances multidialog", "utterances.exchanges all",
    ]  # fmt: skip
    assert run(store, raw) == []
    assert reasons(store, raw) == {}


def test_one_changed_sentence_rewrites_its_own_shard_only(store, raw, meld_csv):
    run(store, raw, "data.bucket_rows=20")
    with Session(load_settings("tiny", ["data.bucket_rows=20"]), "tiny", store, raw) as session:
        before = {r.name: r.digest for p in session.plan(UNTIL) for refs in p.outputs.values() for r in refs}
        ref = of_table(
            [r for p in session.plan(UNTIL) for refs in p.outputs.values() for r in refs], "utterances"
        )
        victim = next(r for r in ref if r.name.startswith("utterances/meld/train/"))
        row = read_table(session.store.read(victim), "utterances")[0]
    text = row["text"]
    edit(meld_csv, text, f"{text} Really")
    told = reasons(store, raw, "data.bucket_rows=20")["utterances"]
    assert told[0] == f"changed input: {meld_csv.relative_to(raw).as_posix()}"
    dialogue, turn = row["dialogue_id"], row["turn"]
    assert told[1:] == [f"changed input: meld/train dialogue {dialogue}: turn {turn} (text)"]
    assert run(store, raw, "data.bucket_rows=20") == ["utterances meld", "utterances.exchanges all"]
    with Session(load_settings("tiny", ["data.bucket_rows=20"]), "tiny", store, raw) as session:
        after = {r.name: r.digest for p in session.plan(UNTIL) for refs in p.outputs.values() for r in refs}
    changed = {name for name in before if before[name] != after[name]}
    assert victim.name in changed
    assert len([name for name in changed if name.startswith("utterances/")]) == 1
    assert len([name for name in before if name.startswith("utterances/meld/train/")]) >= 4


def test_a_forced_stage_runs_and_what_follows_stays_fresh(store, raw):
    run(store, raw)
    (record,) = (store / "records" / "utterances.exchanges").glob("*.json")
    record.write_bytes(record.read_bytes().replace(b"utterances.exchanges", b"utterances.exchangeS"))
    assert run(store, raw, force=("utterances.exchanges",)) == ["utterances.exchanges all"]
    assert b"exchangeS" not in record.read_bytes()  # really done again, not believed
    assert run(store, raw, force=("utterances",)) == [
        "utterances iemocap", "utterances meld", "utterances multidialog", "utterances.exchanges all",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no stage 'uterances': give one of utterances, features"):
        run(store, raw, force=("uterances",))


def test_changed_code_is_named(store, raw, monkeypatch):
    run(store, raw)
    real = fingerprint.module_facts

    def altered(text, module):
        return real(text.replace("def cut_exchanges(", "def cut_exchanges(_=0, *"), module)

    monkeypatch.setattr(fingerprint, "module_facts", altered)
    from tasks.engine import item

    item.code_of.cache_clear()
    fingerprint._module.cache_clear()
    try:
        assert reasons(store, raw) == {
            "utterances.exchanges": ["changed code: storage/exchanges.py:cut_exchanges"]
        }
    finally:
        item.code_of.cache_clear()
        fingerprint._module.cache_clear()


def test_behind_a_stale_stage_all_is_unknown(store, raw):
    with Session(load_settings("tiny"), "tiny", store, raw) as session:
        plans = {plan.stage.name: plan for plan in session.plan()}
    assert plans["utterances"].state == "stale"
    assert plans["pairs"].state == "unknown"
    assert plans["utterances.exchanges"].reason == "unknown until utterances has run"
