"""A study made of a run: which conversations are asked about, and what becomes of their clips."""

import shutil

import pytest

from storage.errors import InputError
from storage.sample.layout import write_sample
from tasks.engine.run import RunRequest
from tasks.study.make import StudySettings, make_study
from tasks.study.study import FILMED, WRITTEN, read_study
from tests.support.clips import write_clip
from tests.support.rerun import run

BROKEN = 1
"""The turn of the filmed conversation whose clip is none."""


@pytest.fixture(scope="module")
def request_of(tmp_path_factory) -> RunRequest:
    """A run that one rung answered: of MELD dialogue 0, filmed throughout, and dialogue 1, whose first turn was not; and of
    IEMOCAP, without films. Each has six turns, and so five sentences that are replied to."""
    folder = tmp_path_factory.mktemp("filmed")
    write_sample(folder / "raw", media=False, dialogues=2, turns=6)
    shutil.rmtree(folder / "raw/MultiDialog")
    films = folder / "raw/MELD.Raw/output_repeated_splits_test"
    films.mkdir()
    for dialogue, turn in [(0, n) for n in range(6)] + [(1, n) for n in range(1, 6)]:
        write_clip(films / f"dia{dialogue}_utt{turn}.mp4")
    (films / f"dia0_utt{BROKEN}.mp4").write_bytes(b"no film at all" * 100)
    asked = RunRequest(
        profile="tiny",
        raw=str(folder / "raw"),
        store=str(folder / "store"),
        changes=("replies.exchanges=null",),
    )
    with asked.session() as opened:
        run(opened, "replies.1-llm")
    return asked


def test_conversations_that_are_filmed_and_what_becomes_of_their_clips(request_of, tmp_path):
    told = []
    asked = StudySettings(participants=2, each=10)
    study = make_study(request_of, tmp_path / "study", asked, progress=lambda *done: told.append(done))
    meld, iemocap = ([i for i in study.items if i.dataset == name] for name in ("meld", "iemocap"))
    # Of MELD what was filmed from its beginning alone; IEMOCAP has no film, and is read.
    assert [(item.dialogue_id, item.turn) for item in meld] == [("0", turn) for turn in range(5)]
    assert len(iemocap) == 5 and not any(turn.clip for item in iemocap for turn in item.turns)
    filmed = {(item.id, place) for item in meld for place in range(len(item.turns)) if place != BROKEN}
    assert {(i.id, place) for i in study.items for place, t in enumerate(i.turns) if t.clip} == filmed
    for item in meld:
        for place, turn in enumerate(item.turns):
            assert turn.clip == (None if place == BROKEN else f"{item.id}/{place:02}.mp4")
    lost = [(item.id, BROKEN) for item in meld if len(item.turns) > BROKEN]
    assert [(one.item, one.turn) for one in study.clips_left_out] == lost and len(lost) == 4
    assert all("Invalid data found" in one.reason for one in study.clips_left_out)
    assert study.without_clip == len(lost) + sum(len(item.turns) for item in iemocap)
    written = {p.relative_to(tmp_path / "study/clips").as_posix() for p in tmp_path.rglob("*.mp4")}
    assert written == {f"{item}/{place:02}.mp4" for item, place in filmed}
    assert told == [(n, 15) for n in range(1, 16)]  # 1 + 2 + 3 + 4 + 5 turns of MELD
    assert study.instructions[: len(FILMED)] == FILMED and read_study(tmp_path / "study") == study


def test_without_clips_all_that_was_answered_may_be_asked_about(request_of, tmp_path):
    with pytest.raises(InputError, match="11 conversations are asked for, and all systems answered 10"):
        make_study(request_of, tmp_path / "filmed", StudySettings(participants=1, each=11))
    asked = StudySettings(participants=1, each=15, media=False)
    study = make_study(request_of, tmp_path / "written", asked)
    assert len(study.items) == 15 and not (tmp_path / "written/clips").exists()
    assert study.instructions[: len(WRITTEN)] == WRITTEN
