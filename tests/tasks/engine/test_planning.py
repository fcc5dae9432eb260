"""Keys, reasons, waiting and warm starts of items made by hand in a real store; no stage runs."""

from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version

import pytest
from pydantic import BaseModel, ValidationError

from model.pairs.settings import PairSettings
from storage.filestat import StatCache
from storage.shards import utterance_to_row, write_table
from storage.store import Record, Ref, Store, canonical, digest_bytes
from storage.utterance import Utterance
from tasks.engine.declaration import Made, NotRun, RawFiles, Reads, Stage, Weights
from tasks.engine.item import Item, Workspace, artefact, fresh_record, reasons, shards
from tasks.engine.planner import Board, Node, StagePlan, plan_all, plan_stage, run_graph
from tasks.engine.retrain import START, RetrainSettings, deferred, warm_started
from tasks.settings import load_settings

FUNCTION = "tasks.stages.shard_names:place"
STAGE = Stage(
    "s",
    FUNCTION,
    settings={"settings": Reads("pairs", only=("threshold", "quality"))},
    libraries=("numpy", "absent-one|pyarrow", "absent-one"),
)


@pytest.fixture
def store(tmp_path) -> Store:
    """As a plan opens it: what is there is told by digest."""
    return Store(tmp_path / "store", StatCache(tmp_path / "stats.sqlite"))


def trained(store: Store, word: str) -> Ref:
    """A folder of weights."""
    folder = store.root.parent / word
    folder.mkdir()
    (folder / "adapter.safetensors").write_text(word)
    return store.put_tree("adapter", folder)


def digest(word: str) -> str:
    return digest_bytes(word.encode())


def ref(name: str, word: str = "", **rest) -> Ref:
    return Ref(name=name, digest=digest(word or name), size=1, **rest)


def item(stage: Stage = STAGE, label: str = "all", **arguments) -> Item:
    return Item(stage, label, arguments)


def narrowed(*changes: str) -> PairSettings:
    return STAGE.declared_arguments(load_settings("paper", list(changes)))["settings"]


def test_a_setting_that_cannot_change_the_output_is_no_part_of_the_key():
    made = [
        Item(STAGE, "all", {"settings": narrowed(f"pairs.threshold={value}")}, unread=("pairs.threshold",))
        for value in (0.3, 0.4)
    ]
    assert made[0].key() == made[1].key() and "pairs.threshold" not in made[0].parts()["setting"]
    assert item(settings=narrowed("pairs.threshold=0.3")).key() != made[0].key()


def test_a_plans_items_are_found_by_their_labels():
    items = [item(label=label) for label in ("meld/train/0", "meld/dev/0")]
    plan = StagePlan(STAGE, "stale", items)
    assert [plan.item(one.label) for one in items] == items
    with pytest.raises(LookupError, match="s has no item 'meld/test/0'"):
        plan.item("meld/test/0")


def test_a_workspace_lays_trees_out_and_keeps_checkpoints_where_it_has_a_place(store, tmp_path):
    tree = trained(store, "weights")
    bare = Workspace(store, None, "basis", lambda *_: None)
    assert bare.checkpoints() is None and bare.folder(None) is None
    assert (bare.folder(tree) / "adapter.safetensors").read_text() == "weights"
    placed = replace(bare, scratch=tmp_path / "scratch", checkpoint_s=7.0, events=tmp_path / "events")
    found = placed.checkpoints()
    assert (found.folder, found.every_s, found.events) == (tmp_path / "scratch", 7.0, tmp_path / "events")


# Keys -----------------------------------------------------------------------------------------------------


def test_what_an_item_is_made_from_is_told_by_kind():
    seen = ref("utterances/meld/train/0", views={"words": digest("w")}).seen_as("words")
    raw = RawFiles(dataset="meld", folder="MELD.Raw", files={"MELD.Raw/a.csv": "d1"}, synthetic=True)
    parts = item(
        settings=narrowed("pairs.threshold=0.3"),
        utterances=[seen, ref("utterances/meld/dev/0")],
        compressor=ref("compressor"),
        extractor=ref("tree"),
        parts={"adapter": ref("tree", "other"), "rank": 4},
        source=raw,
        llm=Weights(name="tiny-llm", identity="random:1"),
        history="memory",
        splits=("train", "dev"),
        nothing=None,
        empty={},
    ).parts()
    assert parts["setting"] == {
        "pairs.threshold": 0.3,
        "pairs.quality.bound": 0.75,
        "pairs.quality.error": False,
        "pairs.quality.folds": 5,
    }
    assert parts["argument"] == {
        "source.folder": "MELD.Raw",
        "source.synthetic": True,
        "history": "memory",
        "splits": ["train", "dev"],
        "nothing": None,
        "parts.rank": 4,
    }
    assert parts["input"] == {
        "utterances utterances/meld/train/0": digest("w"),
        "utterances utterances/meld/dev/0": digest("utterances/meld/dev/0"),
        "compressor": digest("compressor"),
        "extractor tree": digest("tree"),
        "parts.adapter tree": digest("other"),
        "MELD.Raw/a.csv": "d1",
    }
    assert parts["seen"] == {"utterances utterances/meld/train/0": ["words", seen.digest]}
    assert parts["weights"] == {"tiny-llm": "random:1"}
    assert parts["library"] == {
        "numpy": f"numpy {version('numpy')}",
        "absent-one|pyarrow": f"pyarrow {version('pyarrow')}",
        "absent-one": "absent",
    }
    assert "tasks/stages/shard_names.py:place" in parts["code"]


def test_only_what_is_declared_of_a_group_is_read_of_it():
    one = item(settings=narrowed())
    assert one.settings_read() == {"settings": ("threshold", "quality")}
    whole = replace(STAGE, settings={"settings": "pairs"})
    assert item(whole, settings=PairSettings()).settings_read() == {}
    without = replace(STAGE, settings={"settings": Reads("pairs", without=("quality", "control"))})
    names = item(without, **without.declared_arguments(load_settings("paper"))).settings_read()["settings"]
    assert {"threshold", "seed"} <= set(names) and not {"quality", "control"} & set(names)


def test_a_key_is_of_all_that_is_read_and_of_nothing_else():
    shard = ref("utterances/meld/train/0", views={"words": digest("w"), "labels": digest("l")})
    base = {
        "settings": narrowed(),
        "utterances": [shard.seen_as("words")],
        "llm": Weights(name="a", identity="1"),
    }
    key = item(**base).key()
    again = shard.model_copy(update={"digest": digest("other bytes"), "size": 9, "rows": 7})
    assert item(**{**base, "utterances": [again.seen_as("words")]}).key() == key
    others = [
        item(replace(STAGE, name="t"), **base),
        item(label="one", **base),
        item(replace(STAGE, libraries=()), **base),
        item(replace(STAGE, function="tasks.stages.shard_names:shard_name"), **base),
        item(**{**base, "settings": narrowed("pairs.threshold=0.2")}),
        item(**{**base, "utterances": [shard.seen_as("labels")]}),
        item(**{**base, "llm": Weights(name="a", identity="2")}),
        item(**base, history="text"),
    ]
    keys = {other.key() for other in others}
    assert len(keys) == len(others) and key not in keys
    assert item(**base).key(item(**base).parts()) == key
    assert len({item(**base), item(**base)}) == 1  # an item may stand in a set


def test_rows_share_code_libraries_and_weights_and_differ_by_their_inputs(store):
    base = {"settings": narrowed(), "llm": Weights(name="a", identity="1")}
    basis = item(**base).basis()
    assert item(label="two", settings=narrowed("pairs.threshold=0.2"), llm=base["llm"]).basis() == basis
    assert item(settings=narrowed(), llm=Weights(name="a", identity="2")).basis() != basis
    assert item(replace(STAGE, libraries=()), **base).basis() != basis
    work = Workspace(store, None, basis, lambda *_: None)
    assert work.row_key("a", 1) == digest_bytes(canonical([basis, "a", 1]))
    assert work.row_key("a", 1) != replace(work, basis="other").row_key("a", 1)
    assert work.checkpoints() is None and work.folder(None) is None


def test_an_artefacts_own_name_and_which_are_tables():
    assert [artefact(n) for n in ("compressor", "start compressor", "scores scores/meld/train/0")] == [
        "compressor",
        "compressor",
        "scores/meld/train/0",
    ]
    seen = ref("utterances/meld/train/0", views={"words": digest("w")}).seen_as("words")
    parts = item(
        utterances=[seen],
        pairs=[ref("pairs/meld/train/0")],
        away=ref("rejects/pairs"),
        adapter=ref("adapter"),
    ).parts()
    found = shards(parts, parts["input"].keys())
    assert [(r.name, r.digest, r.view) for r in found] == [
        ("pairs/meld/train/0", digest("pairs/meld/train/0"), ""),
        ("utterances/meld/train/0", seen.digest, "words"),
    ]
    assert shards(parts, {"adapter", "pairs pairs/meld/train/0", "what is gone"}) == found[:1]


def test_what_a_declaration_may_look_at(store):
    facts = store.put_bytes("facts.json", b'{"n": 3}')
    outputs = {
        "a": {"one": (ref("x"), facts), "two": (ref("y"),)},
        "b": None,
        "c": {"all": (ref("z"),)},
        "d": {},
    }
    made = Made(load_settings("tiny"), "tiny", store, (), outputs)
    assert [made.ran(name) for name in ("a", "b", "c", "d", "e")] == [True, False, True, True, False]
    assert made.refs("a") == [ref("x"), facts, ref("y")] and made.refs("b") == made.refs("d") == []
    assert made.only("c") == ref("z") and made.read_json("a", "facts.json") == {"n": 3}
    with pytest.raises(ValueError):
        made.only("a")
    assert (STAGE.workers, STAGE.own_process, STAGE.trains, STAGE.anew) == (1, False, False, False)
    raw = RawFiles(dataset="meld", folder="f", files={})
    assert raw.synthetic is False and raw == RawFiles(dataset="meld", folder="f", files={}, synthetic=False)
    for thing in (raw, Weights(name="a", identity="1")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, next(iter(thing.model_dump())), "b")
        with pytest.raises(ValidationError, match="extra"):
            type(thing).model_validate({**thing.model_dump(), "more": 1})


# Reasons --------------------------------------------------------------------------------------------------


def commit(store: Store, made: Item, *outputs: Ref, served: bool = True) -> Record:
    parts = made.parts()
    record = Record(stage=made.stage.name, label=made.label, key=made.key(parts), outputs=outputs)
    store.commit(record, parts)
    return record


def why(store: Store, made: Item, explain=None) -> list[str]:
    parts = made.parts()
    record, stale_reason = fresh_record(store, made.stage.name, made.key(parts))
    assert record is None
    return reasons(store, made, parts, stale_reason, explain)


def test_a_record_is_fresh_while_all_its_artefacts_are_there(store):
    made = item(history="text")
    assert fresh_record(store, "s", made.key()) == (None, "no record")
    kept, lost = store.put_bytes("kept", b"1"), store.put_bytes("lost", b"2")
    record = commit(store, made, kept, lost)
    assert fresh_record(store, "s", made.key()) == (record, "fresh")
    store.drop(lost)
    assert fresh_record(store, "s", made.key()) == (None, "artefact missing or damaged: lost")
    assert why(store, made) == ["artefact missing or damaged: lost"]


def test_every_kind_of_change_is_named(store):
    assert why(store, item(history="text")) == ["first run"]
    before = item(
        settings=narrowed(),
        adapter=ref("adapter"),
        gone=ref("gone"),
        llm=Weights(name="llm", identity="1"),
        old=Weights(name="old", identity="1"),
        history="text",
        only_then=1,
    )
    commit(store, before)
    now = item(
        replace(STAGE, libraries=("numpy", "pyarrow"), function="tasks.stages.shard_names:of_table"),
        settings=narrowed("pairs.threshold=0.3"),
        adapter=ref("adapter", "other"),
        new=ref("new"),
        llm=Weights(name="llm", identity="2"),
        history="memory",
        only_now=1,
    )
    told = why(store, now)
    assert [line for line in told if "code" not in line] == [
        "library gone: absent-one",
        "library gone: absent-one|pyarrow",
        "new library: pyarrow",
        "changed setting: pairs.threshold 0.1 → 0.3",
        "changed argument: history text → memory",
        "new argument: only_now",
        "argument gone: only_then",
        "changed input: adapter",
        "input gone: gone",
        "new input: new",
        "changed weights: llm",
        "weights gone: old",
    ]
    assert "new code: tasks/stages/shard_names.py:of_table" in told


def test_a_record_that_was_removed_is_a_reason(store):
    made = item(history="text")
    record = commit(store, made)
    store.record_path("s", record.key).unlink()
    assert why(store, made) == ["its record is gone"]


def test_raw_files_are_explained_where_they_changed_and_were_read_before(store):
    def raw(word):
        return RawFiles(dataset="meld", folder="f", files={"f/a.csv": digest(word)})

    asked = []

    def explain(made, outputs):
        asked.append((made.label, outputs))
        return ["meld/train dialogue 3: new"]

    record = commit(store, item(source=raw("1")), ref("utterances/meld/train/0"))
    changed = item(source=raw("2"))
    assert why(store, changed, explain) == [
        "changed input: f/a.csv",
        "changed input: meld/train dialogue 3: new",
    ]
    assert asked == [("all", record.outputs)]
    assert why(store, item(source=raw("1"), history="text"), explain) == ["new argument: history"]
    store.record_path("s", record.key).unlink()
    assert why(store, changed, explain) == ["changed input: f/a.csv"]
    assert len(asked) == 1


def turns(*texts: str) -> list[Utterance]:
    return [Utterance("meld", "train", "7", i, "Ross", text, "happy", "joy") for i, text in enumerate(texts)]


def shard(store: Store, *texts: str, split: str = "train") -> Ref:
    rows = [utterance_to_row(replace(u, split=split)) for u in turns(*texts)]
    return store.put_bytes(f"utterances/meld/{split}/0", write_table(rows, "utterances"), rows=len(rows))


def test_a_changed_shard_is_told_by_its_dialogues(store):
    commit(store, item(utterances=[shard(store, "a", "b")], adapter=ref("adapter")))
    told = why(store, item(utterances=[shard(store, "a", "c")], adapter=ref("adapter", "other")))
    assert told == ["changed input: meld/train dialogue 7: turn 1 (text)", "changed input: adapter"]


def test_a_shard_that_came_or_went_is_told_by_its_dialogues(store):
    one, two = shard(store, "a"), shard(store, "b", split="dev")
    commit(store, item(utterances=[one]))
    assert why(store, item(utterances=[one, two])) == ["changed input: meld/dev dialogue 7: new"]
    commit(store, item(utterances=[one, two]))
    assert why(store, item(utterances=[two])) == ["changed input: meld/train dialogue 7: gone"]


# Waiting and warm starts ----------------------------------------------------------------------------------

TRAINED = replace(STAGE, name="trained", trains=True, anew=True)
TEN = tuple("abcdefghij")


def training(store: Store, *texts: str, **rest) -> Item:
    return item(TRAINED, utterances=[shard(store, *texts)], **rest)


def waiting(store: Store, made: Item, **policy):
    return deferred(store, made, made.parts(), RetrainSettings(**policy))


@pytest.fixture
def weights(store) -> Ref:
    """What the last training, on ten rows, put out."""
    weights = trained(store, "first")
    commit(store, training(store, *TEN), weights)
    return weights


def test_changed_rows_wait_as_the_policy_says(store, weights):
    changed = training(store, *"abcdefghXY")
    assert waiting(store, changed, when="always") is None
    record, told = waiting(store, changed, when="never")
    assert record.outputs == (weights,)
    assert told == "behind the data by 2 rows (20.0% of 10; retrains never)"
    _, told = waiting(store, changed, when="share", share=0.21)
    assert told == "behind the data by 2 rows (20.0% of 10; retrains from 21.0% on)"
    for share in (0.2, 0.19):
        assert waiting(store, changed, when="share", share=share) is None


def test_added_and_removed_rows_count(store, weights):
    _, told = waiting(store, training(store, *TEN, "k", "l"), when="never")
    assert told.startswith("behind the data by 2 rows (16.7% of 12;")
    _, told = waiting(store, training(store, *TEN[:8]), when="never")
    assert told.startswith("behind the data by 2 rows (25.0% of 8;")


def test_of_several_tables_the_one_that_changed_most_counts(store):
    dev = shard(store, "x", split="dev")
    pairs_before, pairs_now = (
        [
            {
                "dataset": "meld",
                "split": "train",
                "dialogue_id": "7",
                "turn": t,
                "sentence": "s",
                "reply": "c",
                "chosen": "c",
            }
            | {"rejected": word, "rejected_emotion": "Sad", "cosine": 0.0}
            for t in range(2)
        ]
        for word in ("r", "q")
    )
    tables = [
        store.put_bytes("pairs/meld/train/0", write_table(rows, "pairs"), rows=2)
        for rows in (pairs_before, pairs_now)
    ]
    commit(store, training(store, *TEN, pairs=[tables[0]], dev=[dev]), store.put_bytes("adapter", b"1"))
    changed = training(store, *"abcdefghiX", pairs=[tables[1]], dev=[dev])
    _, told = waiting(store, changed, when="never")
    assert told.startswith("behind the data by 2 rows (100.0% of 2;")


@pytest.mark.parametrize(
    "rest",
    [
        {"history": "text"},
        {"llm": Weights(name="llm", identity="2")},
        {"compressor": ref("compressor", "other")},
        {"settings": narrowed("pairs.threshold=0.2")},
    ],
    ids=lambda rest: next(iter(rest)),
)
def test_what_is_no_row_never_waits_and_starts_anew(store, rest):
    before = {
        "settings": narrowed(),
        "llm": Weights(name="llm", identity="1"),
        "compressor": ref("compressor"),
        "history": "memory",
    }
    weights = store.put_bytes("adapter", b"weights")
    commit(store, training(store, *TEN, **before), weights)
    rows_alone = training(store, *"abcdefghiX", **before)
    assert waiting(store, rows_alone, when="never") is not None
    assert warm_started(store, rows_alone).arguments[START] == weights
    other = training(store, *"abcdefghiX", **{**before, **rest})
    assert waiting(store, other, when="never") is None
    assert warm_started(store, other) == other


def test_nothing_serves_that_is_not_there(store, weights):
    fresh = Store(store.root.parent / "empty")
    assert waiting(fresh, training(fresh, *TEN), when="never") is None
    changed = training(store, *"abcdefghiX")
    store.drop(weights)
    assert waiting(store, changed, when="never") is None
    assert warm_started(store, changed) == changed
    record = store.last("trained", "all")
    store.record_path("trained", record["key"]).unlink()
    assert waiting(store, changed, when="never") is None
    assert warm_started(store, changed) == changed


def test_rows_that_cannot_be_compared_do_not_wait(store, weights):
    old = shard(store, *TEN)
    changed = training(store, *"abcdefghiX")
    store.drop(old)
    assert waiting(store, changed, when="never") is None


def test_a_warm_start_is_part_of_the_key_and_of_the_next_plan(store, weights):
    """What started from the first weights is fresh while nothing changes, and then goes on from its own."""
    second = warm_started(store, training(store, *"abcdefghiX"))
    assert second.arguments[START] == weights and second.key() != training(store, *"abcdefghiX").key()
    own = trained(store, "second")
    commit(store, second, own)
    assert warm_started(store, training(store, *"abcdefghiX")).key() == second.key()
    third = warm_started(store, training(store, *"abcdefghYX"))
    assert third.arguments[START] == own
    # Rows alone differ from a training that started somewhere: it may wait as any other.
    assert waiting(store, third, when="never") is not None
    store.drop(weights)  # what the second one started from
    assert START not in warm_started(store, training(store, *"abcdefghiX")).arguments


def test_without_a_change_nothing_starts_from_itself(store, weights):
    same = training(store, *TEN)
    assert warm_started(store, same) == same


# The plan -------------------------------------------------------------------------------------------------


def node(made: Item | NotRun | list[Item], *needs: str, stage: Stage = STAGE, **rest) -> Node:
    found = made if isinstance(made, NotRun | list) else [made]
    return Node(stage, needs, lambda needed: found, **rest)


def test_fresh_stale_and_forced_items(store):
    items = [item(label=label, n=n) for n, label in enumerate(("one", "two", "three"))]
    done = store.put_bytes("done", b"1")
    commit(store, items[0], done)
    plan = plan_stage(store, node(items), {})
    assert (plan.state, plan.outputs, plan.behind) == ("stale", {"one": (done,)}, {})
    assert plan.stale == {"two": ["first run"], "three": ["first run"]}
    assert plan.as_dict() == {
        "stage": "s",
        "state": "stale",
        "items": 3,
        "stale_items": 2,
        "reasons": ["first run"],
    }
    forced = plan_stage(store, node(items, forced=True), {})
    assert forced.stale == {label: ["forced"] for label in ("one", "two", "three")} and forced.outputs == {}
    assert plan_stage(store, node(items[0]), {}).state == "fresh"
    assert plan_stage(store, node([]), {}).state == "fresh"


def test_a_stage_that_is_not_run_says_why_and_is_none_to_those_behind(store):
    seen = []
    settled = {
        "a": StagePlan(STAGE, "not run", reason="no media"),
        "b": StagePlan(STAGE, "fresh", outputs={"all": (ref("x"),)}),
    }
    asking = Node(STAGE, ("a", "b"), lambda needed: seen.append(needed) or NotRun("nothing to do"))
    plan = plan_stage(store, asking, settled)
    assert (plan.state, plan.reason) == ("not run", "nothing to do")
    assert seen == [{"a": None, "b": {"all": (ref("x"),)}}]
    assert plan.as_dict()["reasons"] == ["nothing to do"]


def test_a_waiting_item_is_fresh_with_what_it_is_behind(store, weights):
    changed = training(store, *"abcdefghiX")
    policy = RetrainSettings(when="never")
    plan = plan_stage(store, node(changed, stage=TRAINED, retrain=policy), {})
    assert (plan.state, plan.outputs) == ("fresh", {"all": (weights,)})
    assert plan.as_dict()["reasons"] == [plan.behind["all"]]
    assert plan.behind["all"].startswith("behind the data by 1 rows")
    assert plan_stage(store, node(changed, stage=TRAINED), {}).state == "stale"  # one that nothing trains


@pytest.mark.parametrize(
    "anew, warm, starts", [(True, True, True), (False, True, False), (True, False, False)]
)
def test_who_starts_from_its_own_weights(store, weights, anew, warm, starts):
    changed = training(store, *"abcdefghiX")
    stage = replace(TRAINED, anew=anew)
    plan = plan_stage(store, node(changed, stage=stage, retrain=RetrainSettings(warm_start=warm)), {})
    assert plan.state == "stale" and (START in plan.items[0].arguments) == starts


def test_behind_a_stage_that_is_not_fresh_the_nearest_stale_one_is_named(store):
    done = item(label="done")
    commit(store, done)
    stages = {name: replace(STAGE, name=name) for name in "abcd"}

    def asked(name, *needs):
        return Node(stages[name], needs, lambda needed: [item(stages[name], n=name)])

    graph = [asked("a"), asked("b", "a"), asked("c", "b"), asked("d", "b", "a"), node(NotRun("no"), "a")]
    plans = plan_all(store, graph)
    assert [(p.stage.name, p.state, p.reason) for p in plans] == [
        ("a", "stale", ""),
        ("b", "unknown", "unknown until a has run"),
        ("c", "unknown", "unknown until b has run"),
        ("d", "unknown", "unknown until a has run"),
        ("s", "unknown", "unknown until a has run"),
    ]
    assert plan_all(store, [node(done)])[0].state == "fresh"


def test_of_one_row_the_change_of_it_is_all(store):
    commit(store, training(store, "a"), trained(store, "only"))
    _, told = waiting(store, training(store, "b"), when="never")
    assert told.startswith("behind the data by 1 rows (100.0% of 1;")
    assert waiting(store, training(store, "b"), when="share", share=0.6) is None


def test_weights_that_lost_a_file_are_not_started_from(store, weights):
    second = warm_started(store, training(store, *"abcdefghiX"))
    commit(store, second, trained(store, "second"))
    (member,) = store.members(weights)
    store.object_path(member.digest).unlink()
    assert START not in warm_started(store, training(store, *"abcdefghiX")).arguments


def test_the_policy_by_default_and_its_bounds():
    assert RetrainSettings() == RetrainSettings(when="always", share=0.05, warm_start=False)
    for wrong in ({"share": 1.01}, {"share": 0}, {"when": "sometimes"}, {"shares": 1}):
        with pytest.raises(ValidationError):
            RetrainSettings(**wrong)


def test_no_setting_can_be_changed_once_a_key_was_made_of_it():
    def groups(group):
        yield group
        for value in dict(group).values():
            if isinstance(value, BaseModel):
                yield from groups(value)

    for group in groups(load_settings("cpu")):
        name, value = next(iter(dict(group).items()))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(group, name, value)
        with pytest.raises(ValidationError, match="extra"):
            type(group).model_validate({**group.model_dump(), "no_such_setting": 1})


def test_every_stage_that_settles_is_told_once(store):
    """Also one without items, a fresh one, and one that is not run; a stage with stale items once its last is done."""
    stages = {name: replace(STAGE, name=name) for name in "abc"}
    done = item(stages["a"], label="done")
    commit(store, done, store.put_bytes("done", b"1"))
    two = [item(stages["b"], label=label) for label in ("one", "two")]
    graph = [
        Node(stages["a"], (), lambda needed: [done]),
        Node(stages["b"], ("a",), lambda needed: two),
        Node(stages["c"], ("b",), lambda needed: NotRun("no")),
    ]
    told, ran = [], []

    def submit(made, reasons):
        ran.append((made.label, reasons))
        finished = Future()
        finished.set_result([ref(made.label)])
        return finished

    board = Board()
    run_graph(store, graph, board, submit, lambda plan: told.append((plan.stage.name, list(plan.outputs))))
    assert told == [("a", ["done"]), ("b", ["one", "two"]), ("c", [])]
    assert ran == [("one", ["first run"]), ("two", ["first run"])]
    assert list(board.settled) == ["a", "b", "c"] and board.failure is None
