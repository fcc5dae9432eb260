"""Exchanges and roles against dialogues cut by hand."""

from storage.exchanges import cut_exchanges, roles
from storage.utterance import Utterance


def say(turn, speaker, dialogue="d", split="train"):
    return Utterance("meld", split, dialogue, turn, speaker, f"{speaker}{turn}", "happy", "joy")


def test_pairs_gaps_and_same_speaker():
    turns = [say(0, "A"), say(1, "B"), say(2, "B"), say(3, "A"), say(5, "B"), say(7, "B"), say(8, "C")]
    exchanges, fallen = cut_exchanges(reversed(turns))
    assert [(e.turn, e.sentence, e.reply) for e in exchanges] == [
        (0, "A0", "B1"), (2, "B2", "A3"), (7, "B7", "C8"),
    ]  # fmt: skip
    assert fallen == {"same_speaker": 2, "gap": 1}
    assert (exchanges[0].sentence_speaker, exchanges[0].reply_speaker) == ("A", "B")
    assert [e.key for e in exchanges] == [("meld", "train", "d", turn) for turn in (0, 2, 7)]


def test_dialogues_and_splits_do_not_mix():
    exchanges, fallen = cut_exchanges([say(0, "A"), say(1, "B", dialogue="e"), say(1, "B", split="dev")])
    assert exchanges == [] and not fallen


def test_roles_by_order_of_appearance():
    assert roles([say(3, "C"), say(1, "B"), say(0, "A"), say(2, "A"), say(4, "D")]) == {
        "A": 0, "B": 1, "C": 2, "D": 3,
    }  # fmt: skip
