"""What each stage hands the model and writes, by value, on two dialogues by hand (tests/support/two_dialogues.py).

A spy stands at the model's boundary only where the model would hide what it was handed.
"""

import inspect
import io
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from model.candidates.settings import GENERATION_EMOTIONS, CandidateSettings
from model.compressor.settings import CompressorSettings
from model.dialogue.likelihood import Answered, ReplyNats
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.extractor.settings import ExtractorSettings
from model.features.stored import in_memory
from model.generation.protocol import Generation
from model.llm import token_ids
from model.metrics.settings import BertScoreSettings
from model.pairs.settings import PairSettings
from model.prompt_tree import Read, read_prompts
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import ScorerSettings
from model.settings import TrainingSettings
from model.zoo.resolve import resolve
from storage.shards import read_table
from tasks.engine.declaration import Weights
from tasks.report.collect import collect
from tasks.settings import MetricSettings, ReplySettings, load_settings
from tasks.stages.candidates.write import write_candidates
from tasks.stages.compressor.fit import finetune_compressor, pretrain_compressor
from tasks.stages.dialogue.fit import fit_dialogue
from tasks.stages.epo.fit import fit_epo
from tasks.stages.evaluation import evaluation_split
from tasks.stages.examples import dialogue_examples, emotion_examples
from tasks.stages.extractor.fit import fit_extractor
from tasks.stages.metrics.measure import measure_replies
from tasks.stages.pairs.choose import choose_pairs
from tasks.stages.replies.write import write_replies
from tasks.stages.scores.score import calibrate_scores, score_candidates
from tasks.stages.shards import write_shard
from tasks.stages.utterances.exchanges import selected_counts, write_exchanges
from tests.support.two_dialogues import (
    CLIPS,
    EXCHANGES,
    FALLEN_OUT,
    LINES,
    after,
    before,
    emotion,
    exchange,
    mark,
    place,
    said,
    text,
    two_dialogues,
)

LLM = Weights(name="tiny-llm", identity="random:tiny-llm")
SCORER, SECOND = "goemotions-minilm", "goemotions-minilm-b"


def weights(name: str) -> Weights:
    return Weights(name=name, identity=f"wheel:{name}")


def spied(monkeypatch, target: str, answer=None) -> list[dict]:
    """Stand in for a function of the model; the calls' arguments by its own names for them."""
    module, _, name = target.rpartition(".")
    signature, calls = inspect.signature(getattr(import_module(module), name)), []

    def spy(*given, **named):
        calls.append(signature.bind(*given, **named).arguments)
        if "out" in calls[-1]:
            (Path(calls[-1]["out"]) / "report.json").write_text("{}")
        return answer

    monkeypatch.setattr(target, spy)
    return calls


def key(dataset: str, split: str, turn: int) -> str:
    return "/".join(str(part) for part in place(dataset, split, turn).values())


def keys(dataset: str, split: str) -> list[str]:
    return [key(dataset, split, turn) for turn in EXCHANGES[dataset]]


def assert_exchanges(examples, dataset: str, split: str, media: bool) -> None:
    """Every exchange of one dialogue, in order: what came before, the sentence with its own clip, the true reply."""
    assert [e.key for e in examples] == keys(dataset, split)
    for example, turn in zip(examples, EXCHANGES[dataset], strict=True):
        assert said(example.history) == before(dataset, turn)
        assert (example.sentence, example.reply) == (
            text(dataset, turn),
            text(dataset, EXCHANGES[dataset][turn]),
        )
        assert_clip(example, dataset, turn if media else -1)


def assert_clip(example, dataset: str, turn: int) -> None:
    here, number = CLIPS[dataset].get(turn, ""), mark(dataset, turn)
    for found, letter, width, value in (
        (example.audio, "a", 3, number),
        (example.video, "v", 4, number + 0.5),
    ):
        if letter in here:
            assert found.shape == (number, width) and len(found) == number
            assert torch.equal(in_memory(found), torch.full((number, width), value, dtype=torch.float16))
        else:
            assert found is None


# Data -----------------------------------------------------------------------------------------------------


def test_exchanges_are_cut_where_one_speaker_answers_another(tmp_path):
    two = two_dialogues(tmp_path, ["train"], ["dev"])
    *shards, summary, common = write_exchanges(two.utterances, CandidateSettings(), two.work)
    for ref, dataset, split in zip(shards, ("iemocap", "meld"), ("dev", "train"), strict=True):
        assert ref.name == f"exchanges/{dataset}/{split}/0"
        wanted = [exchange(dataset, split, turn) for turn in EXCHANGES[dataset]]
        assert read_table(two.store.read(ref), "exchanges") == wanted
    assert json.loads(two.store.read(summary)) == {
        "selected": {"exchanges/meld/train/0": 3, "exchanges/iemocap/dev/0": 3},
        "fallen_out": {"meld/train": FALLEN_OUT["meld"], "iemocap/dev": FALLEN_OUT["iemocap"]},
    }
    # Each reply of train is said once: the first by its letters.
    said = [exchange("meld", "train", turn)["reply"] for turn in EXCHANGES["meld"]]
    assert json.loads(two.store.read(common)) == {"reply": min(said), "sample": sorted(said)}


def test_as_many_are_selected_of_each_split_as_asked_and_none_of_test(tmp_path):
    two = two_dialogues(tmp_path, ["train", "dev", "test"], ["test"])
    *shards, summary, _ = write_exchanges(two.utterances, CandidateSettings(budget=24), two.work)
    told = json.loads(two.store.read(summary))["selected"]
    chosen = {
        ref.name: [r["selected"] for r in read_table(two.store.read(ref), "exchanges")] for ref in shards
    }
    assert told == {name: sum(rows) for name, rows in chosen.items()}
    assert {name.split("/", 1)[1]: count for name, count in told.items()} == {
        "meld/train/0": 2,
        "meld/dev/0": 1,
        "meld/test/0": 0,
        "iemocap/test/0": 0,
    }


@pytest.mark.parametrize("budget, train, dev", [(None, None, None), (1000, 110, 15), (64, 7, 1), (1, 1, 1)])
def test_a_budget_of_candidates_is_exchanges_of_train_and_an_eighth_of_dev(budget, train, dev):
    """Eight candidates each: 1000 are of 125 exchanges. At least one of either split: EPO needs both."""
    assert selected_counts(CandidateSettings(budget=budget)) == {"train": train, "dev": dev}


def test_an_example_is_history_sentence_reply_and_the_sentences_clip(tmp_path):
    two = two_dialogues(tmp_path, ["train"], ["train", "dev"])
    found = dialogue_examples(two.store, two.utterances, two.exchanges, two.features, "train")
    assert_exchanges(found[:3], "iemocap", "train", media=True)
    assert_exchanges(found[3:], "meld", "train", media=True)
    assert_exchanges(
        dialogue_examples(two.store, two.utterances, two.exchanges, [], "dev"), "iemocap", "dev", media=False
    )


def test_one_speaker_has_one_role_throughout_a_dialogue(tmp_path):
    """Whatever tells a role: Ross speaks turns 0, 2 and 3 of turn 5's history, Monica turn 1."""
    two = two_dialogues(tmp_path, ["train"], [])
    history = dialogue_examples(two.store, two.utterances, two.exchanges, [], "train")[-1].history
    bare = before("meld", 5)
    roles = [repr(line).replace(repr(words)[1:-1], "") for line, words in zip(history, bare, strict=True)]
    assert roles[0] == roles[2] == roles[3] != roles[1]


def test_emotions_are_the_utterances_own(tmp_path):
    two = two_dialogues(tmp_path, ["train"], ["dev"])
    found = emotion_examples(two.store, two.utterances, two.features, "train", "dev")
    # IEMOCAP's turn 2 has a clip and no label, MELD's turns 2 and 6 a label and no clip.
    wanted = [("iemocap", "dev", 0), ("meld", "train", 0), ("meld", "train", 1), ("meld", "train", 5)]
    assert [e.key for e in found] == [key(*where) for where in wanted]
    for example, (dataset, _, turn) in zip(found, wanted, strict=True):
        assert (example.emotion, example.sentence, example.dataset) == (
            emotion(dataset, turn),
            text(dataset, turn),
            dataset,
        )
        assert_clip(example, dataset, turn)


# Candidates, scores, pairs --------------------------------------------------------------------------------


class Engine:
    """Stands where the LLM is asked; answers with the emotion it was asked for and the sentence's first word."""

    asked: list = []

    def __init__(self, settings):
        self.settings = settings

    def generate(self, requests):
        for request in reversed(list(requests)):
            Engine.asked.append(request)
            yield Generation(request.key, answer(request.messages[-1]["content"]), "stop", "made up", 1, 1)

    def close(self):
        pass


def answer(prompt: str) -> str:
    felt, sentence = prompt.splitlines()[-1][1:].split(") ", 1)
    return f"{felt} is what I feel about {sentence.split()[0]}."


@pytest.mark.parametrize("turns", [0, 2])
def test_candidates_are_asked_for_by_what_came_before_and_never_see_the_reply(tmp_path, monkeypatch, turns):
    two = two_dialogues(tmp_path, ["train"], [], selected={1, 5})
    monkeypatch.setattr("tasks.stages.asked.process_engine", Engine)
    monkeypatch.setattr(Engine, "asked", [])
    # No other test has these settings: the engine of a process is kept by its settings.
    settings = CandidateSettings(history=turns, max_new_tokens=7 + turns, examples=1)
    (ref,) = write_candidates(
        two.exchanges[0], two.utterances[0] if turns else None, settings, "transformers", LLM, two.work
    )
    rows = read_table(two.store.read(ref), "candidates")
    assert ref.name == "candidates/meld/train/0"
    assert {(r["turn"], r["emotion"]) for r in rows} == {(t, e) for t in (1, 5) for e in GENERATION_EMOTIONS}
    by_prompt = {request.messages[-1]["content"]: request for request in Engine.asked}
    assert len(by_prompt) == len(Engine.asked) == 16
    for row in rows:
        turn, request = row["turn"], by_prompt[row["prompt"]]
        *shown, asked = row["prompt"].splitlines()
        assert asked == f"({row['emotion']}) {text('meld', turn)}"
        assert said([line for line in shown[:-1] if line]) == (before("meld", turn)[-turns:] if turns else [])
        whole = json.dumps(request.messages)
        assert not any(later in whole for later in after("meld", turn))
        assert row["text"] == answer(row["prompt"]) and row["seed"] == request.seed


def by_hand(two, texts: dict[str, str | None], turn: int = 0, cosines: dict | None = None) -> dict:
    """Rows of candidates of one exchange; with cosines, of scores. None: an empty, unusable text."""
    table = "scores" if cosines else "candidates"
    rows = [
        {
            **place("meld", "train", turn),
            "source": "prompted",
            "emotion": felt,
            "sample": 0,
            "prompt": "p",
            "text": words or "",
            "usable": words is not None,
            "reason": None if words else "empty",
            "seed": 1,
            "engine": "made up",
            "weights": "w",
            "settings": "{}",
            **({"cosine": cosines[felt]} if cosines else {}),
        }
        for felt, words in texts.items()
    ]
    return write_shard(two.store, table, f"{table}/meld/train/0", rows)


def cosine(name: str, one: str, other: str) -> float:
    first, second = EmotionScorer.load(name, ScorerSettings()).features([one, other]).astype(np.float64)
    return float(first @ second)


def test_a_candidate_is_scored_against_the_reply_and_not_the_sentence(tmp_path):
    two = two_dialogues(tmp_path, ["train"], [])
    sentence, reply = text("meld", 0), text("meld", 1)
    candidates = by_hand(two, {"Happy": reply, "Sad": sentence, "Calm": "What a lovely day!", "Angry": None})
    (ref,) = score_candidates(candidates, two.exchanges[0], ScorerSettings(), weights(SCORER), two.work)
    assert ref.name == "scores/meld/train/0"
    found = {row["emotion"]: row["cosine"] for row in read_table(two.store.read(ref), "scores")}
    assert found == {
        "Happy": pytest.approx(1.0, abs=1e-5),
        "Sad": pytest.approx(cosine(SCORER, sentence, reply), abs=1e-5),
        "Calm": pytest.approx(cosine(SCORER, "What a lovely day!", reply), abs=1e-5),
        "Angry": None,
    }
    assert found["Sad"] < 0.9  # or this test could not tell reply from sentence


def test_scoring_tells_how_far_it_is_after_each_batch(tmp_path):
    """Of three pairs of three distinct texts, from before the scorer is loaded; what is scored already is no work."""
    two = two_dialogues(tmp_path, ["train"], [])
    candidates = by_hand(
        two, {"Happy": text("meld", 1), "Sad": text("meld", 0), "Calm": "What a lovely day!"}
    )
    told = []
    work = replace(two.work, progress=lambda *steps: told.append(steps))
    for _ in range(2):
        score_candidates(candidates, two.exchanges[0], ScorerSettings(batch_size=2), weights(SCORER), work)
    assert told == [(0, 3, {}), (2, 3, {}), (3, 3, {})]


def test_calibration_asks_human_pairs_of_melds_train(tmp_path):
    """MELD's only two utterances of one emotion are its turns 2 and 6, both angry."""
    two = two_dialogues(tmp_path, ["train", "dev"], ["train"])
    pairs = PairSettings(calibration_pairs=10)
    (ref,) = calibrate_scores(two.utterances, pairs, ScorerSettings(), weights(SCORER), two.work)
    facts = json.loads(two.store.read(ref))
    assert (facts["pairs"], facts["datasets"]) == (10, ["meld"])
    same = cosine(SCORER, text("meld", 2), text("meld", 6))
    assert facts["same"] == pytest.approx([same] * 10, abs=1e-5)
    labelled = [turn for turn in LINES["meld"] if emotion("meld", turn)]
    allowed = [
        cosine(SCORER, text("meld", a), text("meld", b))
        for a in labelled
        for b in labelled
        if emotion("meld", a) < emotion("meld", b)
    ]
    assert all(min(abs(c - other) for other in allowed) < 1e-5 for c in facts["different"])
    assert facts["different"] == sorted(facts["different"]) and len(set(facts["different"])) > 3


def test_a_pair_is_the_true_reply_and_the_least_similar_candidate(tmp_path):
    two = two_dialogues(tmp_path, ["train"], [])
    texts = {"Happy": "a b", "Sad": "c d", "Calm": None}
    scores = by_hand(two, texts, turn=1, cosines={"Happy": 0.05, "Sad": -0.2, "Calm": -0.9})
    pairs, _, summary = choose_pairs([scores], two.exchanges, None, PairSettings(), two.work)
    assert read_table(two.store.read(pairs), "pairs") == [
        {
            **place("meld", "train", 1),
            "sentence": text("meld", 1),
            "reply": text("meld", 2),
            "chosen": text("meld", 2),
            "rejected": "c d",
            "rejected_emotion": "Sad",
            "cosine": -0.2,
            "chosen_cosine": None,
        }
    ]
    facts = json.loads(two.store.read(summary))
    assert facts["by_reply_emotion"] == {"angry": {"exchanges": 1, "pairs": 1}}  # turn 2's, not turn 1's


# Training -------------------------------------------------------------------------------------------------


def test_the_extractor_learns_from_train_and_is_checked_on_dev(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, ["train", "test"], ["dev"])
    (call,) = run_spied(
        monkeypatch,
        "tasks.stages.extractor.fit.train_extractor",
        lambda: fit_extractor(
            two.utterances, two.features, ExtractorSettings(), LLM, two.work, start=two.tree("last")
        ),
    )
    assert [e.key for e in call["train"]] == [key("meld", "train", turn) for turn in (0, 1, 5)]
    assert [e.key for e in call["heldout"]] == [key("iemocap", "dev", 0)]
    assert (call["start"] / "name").read_text() == "last"


def run_spied(monkeypatch, target: str, stage: Callable) -> list[dict]:
    calls = spied(monkeypatch, target)
    stage()
    return calls


def test_the_compressor_reads_utterances_then_dialogues(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, ["train", "test"], ["dev"])
    settings = CompressorSettings(weights="", pretrained="")
    (call,) = run_spied(
        monkeypatch,
        "tasks.stages.compressor.fit.pretrain",
        lambda: pretrain_compressor(two.utterances, settings, None, LLM, two.work, start=two.tree("last")),
    )
    assert said(call["train"]) == [words for _, words, _ in LINES["meld"].values()]
    assert said(call["heldout"]) == [words for _, words, _ in LINES["iemocap"].values()]
    assert (call["start"] / "name").read_text() == "last"
    (call,) = run_spied(
        monkeypatch,
        "tasks.stages.compressor.fit.finetune",
        lambda: finetune_compressor(two.utterances, two.tree("pretrained"), settings, LLM, two.work),
    )
    assert [said(d) for d in call["train"]] == [[words for _, words, _ in LINES["meld"].values()]]
    assert [said(d) for d in call["heldout"]] == [[words for _, words, _ in LINES["iemocap"].values()]]
    assert (call["compressor_folder"] / "name").read_text() == "pretrained"


def test_a_pretrained_compressor_is_measured_on_dev(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, ["train"], ["dev", "test"])
    settings = CompressorSettings(weights="", pretrained="tiny-mamba")
    (call,) = run_spied(
        monkeypatch,
        "tasks.stages.compressor.fit.adopt",
        lambda: pretrain_compressor(two.utterances, settings, weights("tiny-mamba"), LLM, two.work),
    )
    assert said(call["heldout"]) == [words for _, words, _ in LINES["iemocap"].values()]
    assert call["start"].name.startswith("tiny-mamba-")


@pytest.mark.parametrize("media", [True, False])
def test_dialogue_learns_from_train_and_is_checked_on_dev(tmp_path, monkeypatch, media):
    two = two_dialogues(tmp_path, ["train", "test"], ["dev", "test"])
    features = two.features if media else []
    (call,) = run_spied(
        monkeypatch,
        "tasks.stages.dialogue.fit.train_dialogue",
        lambda: fit_dialogue(
            two.utterances,
            two.exchanges,
            features,
            two.tree("compressor"),
            two.tree("extractor") if media else None,
            "memory",
            DialogueSettings(),
            LLM,
            two.work,
            start=two.tree("last"),
        ),
    )
    assert_exchanges(call["train"], "meld", "train", media)
    assert_exchanges(call["heldout"], "iemocap", "dev", media)
    assert call["history"] == "memory"
    names = {
        part: call[part] and (call[part] / "name").read_text()
        for part in ("compressor", "extractor", "start")
    }
    assert names == {"compressor": "compressor", "extractor": "extractor" if media else None, "start": "last"}


def test_epo_prefers_the_true_reply_of_the_pairs_own_exchange(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, ["train"], ["dev"])
    pairs = [
        write_shard(
            two.store,
            "pairs",
            f"pairs/{dataset}/{split}/0",
            [
                {
                    **place(dataset, split, turn),
                    "sentence": text(dataset, turn),
                    "reply": text(dataset, EXCHANGES[dataset][turn]),
                    "chosen": text(dataset, EXCHANGES[dataset][turn]),
                    "rejected": f"not this one, {dataset} {turn}",
                    "rejected_emotion": "Sad",
                    "cosine": 0.0,
                }
                for turn in turns
            ],
        )
        for dataset, split, turns in (("meld", "train", (0, 5)), ("iemocap", "dev", (2,)))
    ]
    adapter, compressor, extractor = (two.tree(n) for n in ("adapter", "compressor", "extractor"))
    loaded = spied(monkeypatch, "tasks.stages.epo.fit.load_dialogue", answer="the model")
    (call,) = run_spied(
        monkeypatch,
        "tasks.stages.epo.fit.train_epo",
        lambda: fit_epo(
            pairs,
            two.utterances,
            two.exchanges,
            two.features,
            adapter,
            compressor,
            extractor,
            DialogueSettings(),
            EpoSettings(),
            LLM,
            two.work,
        ),
    )
    # It goes on from the dialogue stage's adapter, with the parts that one was trained with.
    (parts,) = loaded
    assert {name: (parts[name] / "name").read_text() for name in ("adapter", "compressor", "extractor")} == {
        name: name for name in ("adapter", "compressor", "extractor")
    }
    assert parts["trainable"] and parts["history"] == "memory" and call["model"] == "the model"
    for found, dataset, split, turns in (
        (call["pairs"], "meld", "train", (0, 5)),
        (call["heldout"], "iemocap", "dev", (2,)),
    ):
        assert [p.example.key for p in found] == [key(dataset, split, turn) for turn in turns]
        for pair, turn in zip(found, turns, strict=True):
            assert said(pair.example.history) == before(dataset, turn)
            assert pair.example.reply == text(dataset, EXCHANGES[dataset][turn])
            assert pair.counter_emotional == f"not this one, {dataset} {turn}"
            assert_clip(pair.example, dataset, turn)


# Replies and metrics --------------------------------------------------------------------------------------


def test_numbers_come_from_test_and_from_dev_only_where_there_is_none(tmp_path):
    two = two_dialogues(tmp_path, ["train", "dev", "test"], ["train", "dev"])
    assert evaluation_split(two.exchanges) == {"meld": "test", "iemocap": "dev"}
    empty = write_shard(two.store, "exchanges", "exchanges/iemocap/test/0", [])
    assert evaluation_split([*two.exchanges, empty]) == {"meld": "test", "iemocap": "dev"}


ANSWERED = [("iemocap", "dev", turn) for turn in EXCHANGES["iemocap"]]
ANSWERED += [("meld", "test", turn) for turn in EXCHANGES["meld"]]


LIKELY = ("reference_nats", "reference_tokens", "opposed_nats", "same_nats")
"""Columns that tests/tasks/test_likelihoods.py holds to passes of their own."""


def written(two, **changes) -> list[dict]:
    """The rows of one rung's replies, two at a time."""
    training = TrainingSettings(dtype="float32")
    arguments = {
        "rung": "1-llm",
        "utterances": two.utterances,
        "exchanges": two.exchanges,
        "features": two.features,
        "adapter": None,
        "compressor": None,
        "extractor": None,
        "history": "text",
        "dialogue": DialogueSettings(training=training),
        "settings": ReplySettings(max_new_tokens=5, batch_size=2),
        "llm": LLM,
        "work": two.work,
    }
    (ref,) = write_replies(**{**arguments, **changes})
    assert ref.name == f"replies/all/test/{ {**arguments, **changes}['rung'] }"
    return read_table(two.store.read(ref), "replies")


def test_a_prompt_holds_all_that_came_before_and_nothing_after(tmp_path, monkeypatch):
    """The prompts that reach the real tiny LLM, turned back into words by its own table of embeddings."""
    two = two_dialogues(tmp_path, ["dev", "test"], ["train", "dev"])
    prompts: list[str] = []

    def read(llm, kept, embedded, replies, stop_id, limit):
        assert limit == 5
        table = llm.get_input_embeddings().weight
        for prompt in embedded:
            ids = torch.cdist(prompt, table).argmin(1)
            assert torch.equal(table[ids], prompt)
            prompts.append(tokenizer.decode(ids))
            lengths[prompts[-1]] = len(ids)
        said = [token_ids(tokenizer, sentence(prompt)).tolist() for prompt in prompts[-len(embedded) :]]
        read = read_prompts(llm, kept, embedded, replies, stop_id, 0)
        return [Read(tokens, scores.log_probs) for tokens, scores in zip(said, read, strict=True)]

    lengths: dict[str, int] = {}
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny-llm"))
    monkeypatch.setattr("model.dialogue.likelihood.read_prompts", read)
    rows = written(two)
    assert [(r["dataset"], r["split"], r["turn"]) for r in rows] == ANSWERED
    by_sentence = {sentence(prompt): prompt for prompt in prompts}
    assert len(prompts) == len(by_sentence) == 6
    for row, (dataset, split, turn) in zip(rows, ANSWERED, strict=True):
        prompt = by_sentence[text(dataset, turn)]
        own = prompt[prompt.index("history:") :] if "history:" in prompt else ""
        places = [own.index(earlier) for earlier in before(dataset, turn)]
        assert places == sorted(places) and bool(own) == bool(places)
        assert not any(later in prompt for later in after(dataset, turn))
        likely = {name: row.pop(name) for name in LIKELY}
        assert likely["reference_nats"] > 0 and likely["reference_tokens"] > 0
        assert row == {
            **place(dataset, split, turn),
            "rung": "1-llm",
            "sentence": text(dataset, turn),
            "reference": text(dataset, EXCHANGES[dataset][turn]),
            "reply": text(dataset, turn),  # what the spy answered this very prompt with
            "sentence_emotion": emotion(dataset, turn),
            "reference_emotion": emotion(dataset, EXCHANGES[dataset][turn]),
            "finish_reason": None,
            "prompt_tokens": lengths[prompt],
            "reply_tokens": None,
        }


def sentence(prompt: str) -> str:
    """The last line of what the user says."""
    return prompt.split("<|im_end|>\n<|im_start|>assistant")[0].split("sentence: ")[-1]


def test_a_rung_is_loaded_with_its_own_parts_and_replies_find_their_rows(tmp_path, monkeypatch):
    two = two_dialogues(tmp_path, ["test"], ["dev"])
    adapter, compressor, extractor = (two.tree(n) for n in ("adapter", "compressor", "extractor"))

    class Model:
        """Asked about examples, it tells them."""

        given: list = []

        def memories(self, histories):
            return {"of": histories}

    def answered(model, examples, replies, max_new_tokens, memories, write):
        assert len(examples) == 2 and max_new_tokens == 5 and write and len(memories["of"]) == 6
        assert [row[0] for row in replies] == [e.reply for e in examples]
        model.given += examples
        nats = [ReplyNats(2.5, 4), ReplyNats(1.0, 2), None]
        return [Answered(f"to {e.key}", 100 - 10 * model.given.index(e), nats) for e in examples]

    model = Model()
    monkeypatch.setattr("tasks.stages.replies.answers.answered", answered)
    loaded = spied(monkeypatch, "tasks.stages.replies.write.load_dialogue", answer=model)
    rows = written(
        two, rung="5-epo", history="memory", adapter=adapter, compressor=compressor, extractor=extractor
    )
    (parts,) = loaded
    assert {name: (parts[name] / "name").read_text() for name in ("adapter", "compressor", "extractor")} == {
        name: name for name in ("adapter", "compressor", "extractor")
    }
    assert parts["history"] == "memory" and not parts.get("trainable")
    assert_exchanges(model.given[:3], "iemocap", "dev", media=True)
    assert_exchanges(model.given[3:], "meld", "test", media=True)
    assert [r["reply"] for r in rows] == [f"to {key(*where)}" for where in ANSWERED]
    assert [r["prompt_tokens"] for r in rows] == [100, 90, 80, 70, 60, 50]
    assert [tuple(r[name] for name in LIKELY) for r in rows] == [(2.5, 4, 0.5, None)] * 6


def replies(two, rung: str, said: list[str], tokens: list[int] | None = None):
    """One rung's replies to the first two exchanges of IEMOCAP's dev and of MELD's test."""
    where = [ANSWERED[i] for i in (0, 1, 3, 4)]
    rows = [
        {
            **place(*asked),
            "rung": rung,
            "sentence": text(asked[0], asked[2]),
            "reference": reference(*asked),
            "reply": reply,
            "prompt_tokens": tokens[i] if tokens else None,
        }
        for i, (asked, reply) in enumerate(zip(where, said, strict=True))
    ]
    return write_shard(two.store, "replies", f"replies/all/test/{rung}", rows)


def reference(dataset: str, split: str, turn: int) -> str:
    return text(dataset, EXCHANGES[dataset][turn])


def test_figures_are_each_datasets_own(tmp_path):
    """The LLM says the true replies in MELD and nothing in IEMOCAP; the finetuned one repeats itself there."""
    two = two_dialogues(tmp_path, ["test"], ["dev"])
    true = [reference(*ANSWERED[i]) for i in (3, 4)]
    rungs = {
        "1-llm": ["", "", *true],
        "2-ft": ["no no yes", "", true[0], "no"],
        "3-mc": ["no no yes", "", true[0], "no no"],
    }
    refs = [replies(two, rung, said) for rung, said in rungs.items()]
    # Systems that are no rungs: one says what the LLM says, and one never answered.
    refs += [
        replies(two, "system-x", rungs["1-llm"]),
        write_shard(two.store, "replies", "replies/all/test/system-y", []),
    ]
    settings = MetricSettings(bertscore=BertScoreSettings(weights="minilm-l6", num_layers=6))
    ref, _, each = measure_replies(
        refs,
        None,
        {"system-x": "X", "system-y": "Y"},
        settings,
        ScorerSettings(),
        weights("minilm-l6"),
        weights(SCORER),
        weights(SECOND),
        two.work,
    )
    facts = json.loads(two.store.read(ref))
    logged = pq.read_table(io.BytesIO(two.store.read(each))).to_pylist()
    of_x = {row["dataset"]: row for row in facts["systems"] if row["rung"] == "system-x"}
    facts["systems"] = [row for row in facts["systems"] if row["rung"] != "system-x"]
    found = {(row["rung"], row["dataset"]): row for row in facts["systems"]}
    assert of_x == {
        d: {**found["1-llm", d], "rung": "system-x", "system": "X"} for d in ("all", "iemocap", "meld")
    }
    assert [(row["rung"], row["against"], row["left_out"]) for row in facts["over_systems"]] == [
        ("3-mc", "system-x", 0)
    ]
    assert list(facts["answered"]["by_rung"]) == list(rungs)
    # Without train the floors are "Okay." and, where there is one, another dialogue's reply and the next exchange's.
    floors = list(dict.fromkeys(row["rung"] for row in facts["systems"] if row["rung"] not in rungs))
    assert floors == ["floor-okay", "floor-people", "floor-next"]
    # The log of every reply has them all, and its figures have the means of the table.
    assert {row["system"] for row in logged} == {*rungs, "system-x", *floors} and len(logged) == each.rows
    for (name, dataset), row in found.items():
        its = [one for one in logged if one["system"] == name and dataset in ("all", one["dataset"])]
        assert len(its) == row["n"]
        for figure in ("bertscore", "dist1", "reply_words", "emotionscore_second"):
            assert np.mean([one[figure] for one in its]) == pytest.approx(row[figure], abs=2e-6)
    assert list(found) == [(name, d) for name in (*rungs, *floors) for d in ("all", "iemocap", "meld")]
    assert found["floor-next", "meld"]["n"] == 1  # the last exchange has no next one
    shape = {name: (row["n"], row["split"]) for (of, name), row in found.items() if of in rungs}
    assert shape == {"all": (4, "dev+test"), "iemocap": (2, "dev"), "meld": (2, "test")}
    first = {name: found["1-llm", name] for name in ("all", "iemocap", "meld")}
    assert [first[d]["bertscore"] for d in ("all", "iemocap", "meld")] == pytest.approx([0.5, 0, 1], abs=1e-5)
    assert [first[d]["empty_replies"] for d in ("all", "iemocap", "meld")] == [2, 2, 0]
    # Words: none and none in IEMOCAP; "it burned in the fireplace i am afraid", "you set fire to it on purpose".
    assert [first[d]["reply_words"] for d in ("all", "iemocap", "meld")] == [3.75, 0, 7.5]
    assert [first[d]["dist1"] for d in ("all", "iemocap", "meld")] == [0.5, 0, 1]
    # "it" is in both: 14 distinct words of 15.
    assert [first[d]["dist1_corpus"] for d in ("all", "meld")] == pytest.approx([14 / 15] * 2, abs=1e-6)
    for name, scorer in (("emotionscore", SCORER), ("emotionscore_second", SECOND)):
        other = [
            cosine(scorer, "no no yes", reference(*ANSWERED[0])),
            cosine(scorer, "", reference(*ANSWERED[1])),
        ]
        assert first["meld"][name] == pytest.approx(1.0, abs=1e-5)
        assert found["2-ft", "iemocap"][name] == pytest.approx(np.mean(other), abs=1e-5)
    assert found["2-ft", "iemocap"]["dist1"] == pytest.approx((2 / 3 + 0) / 2, abs=1e-6)
    for row in (row for row in facts["systems"] if row["rung"] in rungs):
        for name in ("bertscore", "emotionscore", "emotionscore_second", "dist1"):
            if row["dialogues"] == 1:  # nothing is known of other dialogues
                assert row[f"{name}_ci"] is None
            else:
                low, high = row[f"{name}_ci"]
                assert low <= row[name] <= high
    assert facts["identical_to_previous"]["2-ft"] == {"rung": "1-llm", "share": 0.5}
    assert facts["identical_to_previous"]["3-mc"] == {"rung": "2-ft", "share": 0.75}


def test_table_3_is_the_mean_of_the_prompts_tokens(tmp_path):
    two = two_dialogues(tmp_path, ["test"], ["dev"])
    shards = [
        replies(two, "2-ft", [""] * 4, [100, 200, 300, 401]),
        replies(two, "3-mc", [""] * 4, [10, 20, 30, 40]),
    ]
    facts = collect("tiny", load_settings("tiny"), {"replies": shards}, {}, [], {}, two.store)
    told = {row["system"]: (row["paper"], row["rung"], row["run"]) for row in facts["table_3"]}
    assert told == {
        "without MambaCompressor": (606.23, "2-ft", 250.25),
        "with MambaCompressor": (111.52, "3-mc", 25.0),
    }
    alone = collect("tiny", load_settings("tiny"), {"replies": shards[1:]}, {}, [], {}, two.store)
    assert alone["table_3"] == []
