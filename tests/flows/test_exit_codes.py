"""Exit codes as a shell sees them; those of signals are in test_stopping.py, those of mistakes in test_cli_mistakes.py."""

import pytest

from storage.sample.layout import write_sample
from storage.store import Record, Store
from tests.support.command_line import on_a_terminal
from tests.support.shell import STARTS_S, Shell, last_line


def ended(folder, *arguments: str) -> tuple[int, str]:
    with Shell(folder, *arguments) as shell:
        return shell.ends(STARTS_S), shell.text()


@pytest.fixture
def store(tmp_path) -> Store:
    """A store with one artefact, on record."""
    store = Store(tmp_path / "store")
    ref = store.put_bytes("shard/one", b"some bytes")
    store.commit(Record(stage="shard", label="one", key="0" * 32, outputs=(ref,)), {})
    return store


def test_verify_tells_damage_by_its_code(tmp_path, store):
    assert ended(tmp_path, "verify")[0] == 0
    (damaged,) = (path for path in (store.root / "objects").glob("*/*") if path.is_file())
    damaged.chmod(0o644)
    damaged.write_bytes(b"Some bytes")
    code, said = ended(tmp_path, "verify")
    assert code == 1 and last_line(said).startswith("1 damaged")
    assert ended(tmp_path, "verify", "--repair")[0] == 0


def test_what_is_done_is_zero_and_help_is_too(tmp_path):
    assert ended(tmp_path, "--help")[0] == 0
    assert ended(tmp_path, "status", "--profile", "tiny", "--json")[0] == 0


def test_a_question_that_nobody_answers_is_no_success(tmp_path, store):
    (store.root / "objects" / "ab").mkdir(exist_ok=True)
    (store.root / "objects" / "ab" / ("ab" * 32)).write_bytes(b"needed by no record")
    code, said = ended(tmp_path, "gc")
    assert code == 130 and "stopped" in said
    assert (store.root / "objects" / "ab" / ("ab" * 32)).is_file()


@pytest.mark.parametrize(
    "answer, code, stays", [(b"n\n", 0, True), (b"\n", 0, True), (b"\x04", 130, True), (b"y\n", 0, False)]
)
def test_gc_drops_what_it_told_of_after_a_yes_alone(tmp_path, store, answer, code, stays):
    stray = store.root / "objects" / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"needed by no record")
    (record,) = store.records()
    ended_with, shown = on_a_terminal(tmp_path, "gc", answer=answer)
    assert ended_with == code and b"of which 1 files" in shown and b"Drop them?" in shown
    assert stray.is_file() == stays and store.holds(record.outputs[0], rehash=True)


@pytest.mark.slow
def test_a_stage_that_fails_is_one_and_one_line(tmp_path):
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=4)
    code, said = ended(
        tmp_path, "run", "--profile", "tiny", "--raw", "raw", "--until", "candidates",
        "--set", "candidates.engine=openai", "--set", "candidates.server.model=none",
        "--set", "candidates.server.base_url=http://127.0.0.1:1/v1", "--set", "candidates.server.retries=0",
    )  # fmt: skip
    assert code == 1, said
    errors = [line for line in said.splitlines() if line.startswith("error: candidates [")]
    assert len(errors) == 1 and "Traceback" not in said
