"""Clips that several rows show, by hand."""

from storage.readers.shared_clips import part_shared_clips
from storage.utterance import Utterance


def row(split: str, turn: int, clip: str | None) -> Utterance:
    return Utterance("own", split, "d", turn, "A", "Hi.", None, None, clip, None, media_digest=clip and "m")


def test_test_keeps_a_clip_before_dev_and_dev_before_train():
    """Rows stay in their order; twins of one split are flagged and keep it; what shows nothing is left alone."""
    rows = [
        row("train", 0, "a"), row("dev", 0, "a"), row("test", 0, "a"),
        row("train", 1, "b"), row("train", 2, "b"), row("train", 3, None), row("train", 4, None),
    ]  # fmt: skip
    parted, told = part_shared_clips(
        rows, lambda u: [u.video_path] if u.video_path else [], lambda owner: f"as {owner.split} {owner.turn}"
    )
    assert [(u.split, u.turn) for u in parted] == [(u.split, u.turn) for u in rows]
    assert [u.video_path for u in parted] == [None, None, "a", "b", "b", None, None]
    assert parted[0].media_digest is None and parted[2].media_digest == "m"
    assert [(r.split, r.turn, r.reason, r.detail) for r in told] == [
        ("dev", 0, "clip_in_two_splits", "withdrawn: as test 0"),
        ("train", 0, "clip_in_two_splits", "withdrawn: as test 0"),
        ("train", 2, "repeated_clip", "flagged: as train 1"),
    ]


def test_one_of_two_files_in_another_split_is_enough_to_lose_both():
    """Whatever the order of the files: the first names the owner, any of them may leak."""
    rows = [row("train", 0, "a"), row("train", 1, "b"), row("test", 0, "b")]
    shown = {("train", 0): ["a"], ("train", 1): ["a", "b"], ("test", 0): ["b"]}
    parted, told = part_shared_clips(rows, lambda u: shown[u.split, u.turn], lambda owner: owner.split)
    assert [u.video_path for u in parted] == ["a", None, "b"]
    assert [(r.turn, r.reason, r.detail) for r in told] == [(1, "clip_in_two_splits", "withdrawn: train")]
