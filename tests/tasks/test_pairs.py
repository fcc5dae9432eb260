"""The pairs stage and what stands beside it, on scores by hand in a real store."""

import json

import pytest

from model.candidates.settings import GENERATION_EMOTIONS
from model.pairs.settings import PairSettings, QualitySettings
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import ScorerSettings
from storage.errors import InputError
from storage.shards import read_table
from storage.store import Store
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.pairs.choose import check_pairs, choose_pairs, control_pairs, other_replies, shuffled_pairs
from tasks.stages.shards import write_shard
from tasks.stages.verdicts import quality_line

EXCHANGES = 60


@pytest.fixture
def work(tmp_path) -> Workspace:
    return Workspace(Store(tmp_path / "store"), None, "basis", lambda *_: None)


def _place(turn: int) -> dict:
    return {"dataset": "meld", "split": "train" if turn % 4 else "dev", "dialogue_id": f"d{turn}", "turn": 0}


def _shards(work: Workspace):
    """True replies of five words; candidate n has n + 3 words, and the longer the less similar."""
    exchanges, scores = {"train": [], "dev": []}, {"train": [], "dev": []}
    for turn in range(EXCHANGES):
        place = _place(turn)
        exchanges[place["split"]].append(
            {
                **place,
                "sentence": f"sentence {turn}",
                "reply": "one two three four five",
                "sentence_speaker": "A",
                "reply_speaker": "B",
                "selected": True,
            }
        )
        for n, emotion in enumerate(GENERATION_EMOTIONS):
            scores[place["split"]].append(
                {
                    **place,
                    "source": "prompted",
                    "emotion": emotion,
                    "sample": 0,
                    "prompt": "p",
                    "text": " ".join(["word"] * (n + 3)),
                    "usable": n != 7,
                    "reason": None,
                    "seed": n,
                    "engine": "transformers",
                    "weights": "wheel:x",
                    "settings": "{}",
                    "cosine": 0.5 - n / 10 if turn else 0.9,
                }
            )
    return [
        [write_shard(work.store, table, f"{table}/meld/{s}/0", r) for s, r in rows.items()]
        for table, rows in (("scores", scores), ("exchanges", exchanges))
    ]


def _rows(work, refs, table="pairs"):
    return [
        r for ref in refs if ref.name.startswith(f"{table}/") for r in read_table(work.store.read(ref), table)
    ]


def _words(text: str) -> int:
    return len(text.split())


def test_the_paper_takes_the_least_similar(work):
    scores, exchanges = _shards(work)
    refs = choose_pairs(scores, exchanges, None, PairSettings(), work)
    pairs = _rows(work, refs)
    assert len(pairs) == EXCHANGES - 1 and {pair["rejected_emotion"] for pair in pairs} == {"Angry"}
    assert [r["reason"] for r in _rows(work, refs, "rejects")] == ["not_below_threshold"]


def test_a_set_threshold_is_not_called_the_papers(work):
    """Shares are of all exchanges of train, also those without a usable candidate."""
    scores, exchanges = _shards(work)
    refs = choose_pairs(scores, exchanges, None, PairSettings(threshold=0.45), work)
    facts = json.loads(work.store.read(refs[-1]))
    assert (facts["paper_threshold"], facts["set_threshold"], facts["threshold"]) == (0.1, 0.45, 0.45)
    train = [r for r in _rows(work, scores, "scores") if r["split"] == "train"]
    kept = {r["dialogue_id"] for r in train if r["usable"] and r["cosine"] < 0.45}
    whole = {r["dialogue_id"] for r in train}
    assert facts["train_share_at_set_threshold"] == pytest.approx(len(kept) / len(whole), abs=1e-6)


def test_length_matched_pairs_are_balanced_and_what_leaves_is_counted(work):
    scores, exchanges = _shards(work)
    refs = choose_pairs(
        scores, exchanges, None, PairSettings(selection="length_matched", threshold=0.45), work
    )
    pairs, rejects = _rows(work, refs), _rows(work, refs, "rejects")
    assert {_words(pair["rejected"]) for pair in pairs} == {5}  # three, four and five words, nearest to five
    refs = choose_pairs(
        scores, exchanges, None, PairSettings(selection="length_matched", threshold=0.15), work
    )
    pairs, rejects = _rows(work, refs), _rows(work, refs, "rejects")
    assert pairs == []  # all that is below is longer: nothing balances them
    assert [r["reason"] for r in rejects].count("length_unmatched") == EXCHANGES - 1
    assert len(rejects) == EXCHANGES and json.loads(work.store.read(refs[-1]))["rejects"] == {
        "length_unmatched": EXCHANGES - 1,
        "not_below_threshold": 1,
    }


def test_the_control_keeps_the_exchanges_and_draws_another_usable_reply(work):
    scores, exchanges = _shards(work)
    refs = [
        r for r in choose_pairs(scores, exchanges, None, PairSettings(), work) if r.name.startswith("pairs/")
    ]
    *drawn, rejects = control_pairs("random", refs, scores, PairSettings(), work)
    assert [r.name for r in drawn] == [r.name for r in refs]
    assert rejects.name == "rejects/pairs.random" and rejects.rejects == 0
    pairs, control = _rows(work, refs), _rows(work, drawn)
    same = ("dataset", "split", "dialogue_id", "turn", "sentence", "chosen")
    assert [[p[c] for c in same] for p in pairs] == [[p[c] for c in same] for p in control]
    emotions = {pair["rejected_emotion"] for pair in control}
    assert len(emotions) >= 5 and GENERATION_EMOTIONS[7] not in emotions  # never an unusable one
    assert not any(p["rejected"] == c["rejected"] for p, c in zip(pairs, control, strict=True))
    assert control_pairs("random", refs, scores, PairSettings(), work)[:-1] == drawn
    assert control_pairs("random", refs, scores, PairSettings(seed=1), work)[:-1] != drawn


def test_an_exchange_with_one_usable_candidate_has_no_control_and_is_named(work):
    """Candidates 1 and 2 of d1 say the same as the chosen one: they are no others."""
    scores, exchanges = _shards(work)
    changed = []
    for ref in scores:
        rows = read_table(work.store.read(ref), "scores")
        for row in rows:
            if row["dialogue_id"] in ("d1", "d2"):
                number = GENERATION_EMOTIONS.index(row["emotion"])
                row["usable"] = number == 6 or row["dialogue_id"] == "d1" and number in (1, 2)
                row["text"] = "the same words" if row["usable"] else row["text"]
        changed.append(write_shard(work.store, "scores", ref.name, rows))
    refs = choose_pairs(changed, exchanges, None, PairSettings(), work)
    refs = [r for r in refs if r.name.startswith("pairs/")]
    drawn = control_pairs("random", refs, changed, PairSettings(), work)
    chosen, control = ({p["dialogue_id"] for p in _rows(work, found)} for found in (refs, drawn))
    assert chosen - control == {"d1", "d2"} and control < chosen
    told = [(r["dialogue_id"], r["stage"], r["reason"]) for r in _rows(work, drawn, "rejects")]
    assert sorted(told) == [(d, "pairs.random", "no_other_candidate") for d in ("d1", "d2")]


def test_quality_warns_loudly_or_stops_the_run(work):
    scores, exchanges = _shards(work)
    refs = [
        r for r in choose_pairs(scores, exchanges, None, PairSettings(), work) if r.name.startswith("pairs/")
    ]
    (ref,) = check_pairs(refs, QualitySettings(), work)
    facts = json.loads(work.store.read(ref))
    assert facts["accuracy"]["length"] == 1.0 and "length" in facts["above"]
    assert quality_line(work.store, (ref,)).startswith("NOT ABOUT EMOTION ALONE: length alone 100%")
    with pytest.raises(InputError, match="length alone 100.0% .* above pairs.quality.bound 0.75") as failure:
        check_pairs(refs, QualitySettings(error=True), work)
    assert "\n" not in str(failure.value)
    (few,) = check_pairs([], QualitySettings(error=True), work)
    assert quality_line(work.store, (few,)).startswith("too few pairs")


REPLY, OTHER = "I am so happy for you, this is wonderful!", "I hate you, leave me alone."
SAID = ("How lovely, congratulations!", "You make me so angry.", "It is raining.", "I am scared of the dark.")


def _sampled(work: Workspace):
    """Four exchanges of four dialogues, each with four samples of the dialogue LLM; the fourth has one usable sample."""
    exchanges, scores = [], []
    for number in range(4):
        place = {"dataset": "meld", "split": "train", "dialogue_id": f"d{number}", "turn": 0}
        texts = {"sentence": f"sentence {number}", "reply": OTHER if number % 2 else REPLY}
        speakers = {"sentence_speaker": "A", "reply_speaker": "B", "selected": True}
        exchanges.append({**place, **texts, **speakers})
        scores += [
            {
                **place, "source": "dialogue", "emotion": None, "sample": n, "prompt": None, "text": said,
                "usable": number < 3 or n == 0, "reason": None, "seed": n, "engine": "e", "weights": "w",
                "settings": "{}", "cosine": (0.6, -0.4, 0.05, 0.2)[n],
            }
            for n, said in enumerate(SAID)
        ]  # fmt: skip
    tables = {"scores": scores, "exchanges": exchanges}
    return [[write_shard(work.store, table, f"{table}/meld/train/0", rows)] for table, rows in tables.items()]


def test_on_policy_the_most_similar_is_chosen_and_the_true_reply_stays(work):
    scores, exchanges = _sampled(work)
    refs = choose_pairs(scores, exchanges, None, PairSettings(chosen="most_similar"), work)
    pairs, rejects = _rows(work, refs), _rows(work, refs, "rejects")
    assert [(p["reply"], p["chosen"], p["chosen_cosine"]) for p in pairs] == [
        (reply, SAID[0], 0.6) for reply in (REPLY, OTHER, REPLY)
    ]
    assert {(p["rejected"], p["cosine"], p["rejected_emotion"]) for p in pairs} == {(SAID[1], -0.4, None)}
    assert [(r["dialogue_id"], r["reason"]) for r in rejects] == [("d3", "no_other_candidate")]
    facts = json.loads(work.store.read(refs[-1]))
    assert (facts["chosen"], facts["sources"], facts["rejected_emotions"]) == (
        "most_similar",
        ["dialogue"],
        {},
    )
    human = _rows(work, choose_pairs(scores, exchanges, None, PairSettings(), work))
    assert [(p["reply"], p["chosen_cosine"]) for p in human] == [(p["chosen"], None) for p in human]


def test_the_length_that_is_matched_is_that_of_what_is_chosen(work):
    scores, exchanges = _sampled(work)
    asked = PairSettings(chosen="most_similar", selection="length_matched", threshold=0.5)
    kept = _rows(work, choose_pairs(scores, exchanges, None, asked, work))
    assert {p["rejected"] for p in kept} == {
        SAID[2]
    }  # three words, as what is chosen; the true replies have more
    plain = asked.model_copy(update={"selection": "least_similar"})
    assert {p["rejected"] for p in _rows(work, choose_pairs(scores, exchanges, None, plain, work))} == {
        SAID[1]
    }


def test_the_most_similar_of_the_others_is_rejected(work):
    scores, exchanges = _sampled(work)
    for chosen, wanted in (("human", SAID[0]), ("most_similar", SAID[3])):
        refs = choose_pairs(scores, exchanges, None, PairSettings(chosen=chosen), work)
        refs = [ref for ref in refs if ref.name.startswith("pairs/")]
        control = _rows(work, control_pairs("most_similar", refs, scores, PairSettings(), work))
        assert {p["rejected"] for p in control} == {wanted}
        assert [p["chosen"] for p in control] == [p["chosen"] for p in _rows(work, refs)]


@pytest.mark.parametrize("chosen", ["human", "most_similar"])
def test_another_exchanges_reply_chooses_the_shuffled_pair(work, chosen):
    """Where the own reply is happy the other one is angry: what is like the one is unlike the other."""
    scores, exchanges = _sampled(work)
    settings = PairSettings(chosen=chosen)
    refs = choose_pairs(scores, exchanges, None, settings, work)
    given = [ref for ref in refs if ref.name.startswith("pairs/") or ref.name == "pairs.json"]
    scorer = Weights(name="goemotions-minilm", identity="wheel:x")
    drawn = shuffled_pairs(given, scores, settings, ScorerSettings(), scorer, work)
    own, shuffled = _rows(work, refs), _rows(work, drawn)
    assert len(own) == len(shuffled) == 3 and drawn[-1].name == "rejects/pairs.shuffled"
    features = EmotionScorer.load(scorer.name, ScorerSettings()).features([*SAID, REPLY, OTHER])
    like = dict(zip((REPLY, OTHER), (features[:4] @ features[4:].T).T.tolist(), strict=True))
    for pair in shuffled:
        other = OTHER if pair["reply"] == REPLY else REPLY
        by_other = sorted(range(4), key=lambda n: like[other][n])
        assert pair["rejected"] == SAID[by_other[0]]
        assert pair["cosine"] == pytest.approx(like[other][by_other[0]], abs=1e-4)
        assert pair["chosen"] == (pair["reply"] if chosen == "human" else SAID[by_other[-1]])
    assert {p["reply"] for p in shuffled} == {REPLY, OTHER}  # the autoregressive loss is of the own reply


def test_the_other_exchange_is_of_another_dialogue_of_the_split_and_says_something_else():
    keys = [("meld", split, f"d{n // 2}", n) for split in ("train", "dev") for n in range(20)]
    replies = [(key, f"{key[1]} {key[3] % 5}") for key in keys]
    given, said = other_replies(replies, 0), dict(replies)
    assert given.keys() == set(keys)
    for key, reply in given.items():
        assert reply.startswith(key[1]) and reply != said[key]
    lonely = [(("meld", "train", "d", n), f"{n}") for n in range(5)]
    assert other_replies(lonely, 0) == {} and other_replies([], 0) == {}
    one_of_dev = [*lonely, (("meld", "dev", "e", 0), "of dev")]
    assert other_replies(one_of_dev, 0).keys() == {
        key for key, _ in one_of_dev
    }  # of any split where its own has none
    alike = [(("meld", "train", f"d{n}", 0), "Yeah.") for n in range(5)]
    assert other_replies(alike, 0) == {}
    more = other_replies([*replies, (("meld", "train", "new", 0), "new")], 0)
    assert sum(more[key] != reply for key, reply in given.items()) <= 2
