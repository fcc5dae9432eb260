"""Declarations make a graph, or an error that names both sides; a stage that is added touches no other file."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from storage.errors import InputError
from storage.store import Store
from tasks.engine.declaration import EVERY_OTHER, Reads, Stage
from tasks.engine.graph import GraphError, Sources, build_graph, check, declared_elsewhere
from tasks.engine.item import Item
from tasks.pipeline import STAGES
from tasks.settings import Settings, load_settings, setting_names
from tests.support.rerun import run, session

FLOWS = Path(__file__).resolve().parents[3] / "flows"


def stage(name, *needs, **rest):
    return Stage(name, f"lab.{name}:go", needs=needs, **rest)


def test_a_need_that_nobody_makes():
    with pytest.raises(GraphError, match="b needs c, but there is no such stage"):
        check([stage("a"), stage("b", "a", "c")], Settings)


def test_two_stages_of_one_name(tmp_path):
    other = replace(stage("a"), function="lab.other:go")
    with pytest.raises(GraphError, match=r"two stages are called a: lab\.a:go and lab\.other:go"):
        build_graph([stage("a"), other], Sources(Settings(), "paper", Store(tmp_path), (), tmp_path))
    one = replace(other, enabled=lambda settings: False)  # of two that exclude each other the graph has one
    (node,) = build_graph([stage("a"), one], Sources(Settings(), "paper", Store(tmp_path), (), tmp_path))
    assert node.stage.function == "lab.a:go"


def test_a_cycle_is_named():
    with pytest.raises(GraphError, match="need one another: b, c, b|need one another: c, b, c"):
        check([stage("a"), stage("b", "a", "c"), stage("c", "b")], Settings)


@pytest.mark.parametrize(
    "read, told",
    [("epo.bta", "epo.bta"), (Reads("pairs", only=("treshold",)), "pairs.treshold"), ("nothing", "nothing")],
)
def test_a_setting_that_does_not_exist(read, told):
    with pytest.raises(GraphError, match=f"a reads a setting: there is no setting {told}"):
        check([stage("a", settings={"settings": read})], Settings)


@pytest.mark.parametrize("name", ["dialogue.text_av", "Dialogue", "", "a b", ".a"])
def test_a_name_that_prefect_takes_for_no_key_is_refused(name):
    with pytest.raises(GraphError, match="a stage is called .*lower-case letters, digits, dots and hyphens"):
        check([stage(name)], Settings)


def test_stages_stand_after_what_they_need_and_the_last_sees_all(tmp_path):
    stages = [
        stage("z", *EVERY_OTHER),
        stage("b", "a"),
        stage("a"),
        stage("c", enabled=lambda settings: False),
    ]
    graph = build_graph(stages, Sources(Settings(), "paper", Store(tmp_path), (), tmp_path))
    assert [(node.stage.name, node.needs) for node in graph] == [("a", ()), ("b", ("a",)), ("z", ("b", "a"))]


def test_the_pipelines_own_stages_make_a_graph_and_each_has_its_flow():
    check(STAGES, Settings)
    flows = {path.stem for path in FLOWS.glob("*.py")}
    assert all(stage.flow in flows and stage.title for stage in STAGES)


def test_every_argument_of_a_stages_function_can_be_read_from_a_job():
    """A worker is handed JSON: a type that pydantic has no schema of fails only when the item runs."""
    for stage in STAGES:
        module, name = stage.function.split(":")
        for argument, hint in get_type_hints(getattr(importlib.import_module(module), name)).items():
            if argument not in ("work", "return"):
                TypeAdapter(hint)


def test_what_is_not_declared_to_be_read_cannot_be_read():
    settings = load_settings("tiny", ["pairs.threshold=0.3"])
    read = Reads("pairs", only=("threshold",)).of(settings)
    assert read.threshold == 0.3
    with pytest.raises(AttributeError):
        read.seed  # noqa: B018
    assert Reads("pairs", without=("quality",)).of(settings).model_dump().keys() >= {"threshold", "seed"}


JUDGE = '''
"""A stage of somebody's own: how long the replies are."""
import json
from storage.shards import read_table
from storage.store import Ref
from tasks.engine.declaration import Stage
from tasks.settings import ReplySettings
from tasks.stages.shard_names import of_table

LIMIT = 5


def items(made):
    return {"all": {"replies": of_table(made.refs("replies.1-llm"), "replies")}}


def judge(replies: list[Ref], settings: ReplySettings, work):
    texts = [row["reply"] for ref in replies for row in read_table(work.store.read(ref), "replies")]
    facts = {"n": len(texts), "long": sum(len(text) > LIMIT for text in texts), "cut": settings.max_new_tokens}
    return [work.store.put_bytes("judge.json", json.dumps(facts, sort_keys=True).encode())]


STAGE = Stage(name="replies.judge", title="How long the replies are", flow="write_report",
              needs=("replies.1-llm",), items=items, function="lab_judge:judge", settings={"settings": "replies"})
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "lab_judge.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).resolve().parents[3]}")
    yield folder / "lab_judge.py"
    sys.modules.pop("lab_judge", None)


def test_a_stage_that_is_no_stage(package):
    for path in ("lab_judge:LIMIT", "lab_judge:NOTHING", "no_such_package:STAGE", "lab_judge"):
        with pytest.raises(InputError, match="run.stages"):
            declared_elsewhere([path])


@pytest.mark.slow
def test_a_stage_of_ones_own_is_planned_run_and_explained(package, tmp_path, raw):
    """One declaration and one function in a package outside the project; nothing of the project is touched."""
    own = 'run.stages=["lab_judge:STAGE"]'
    few = [own, "candidates.budget=8", "replies.exchanges=2"]
    with session("tiny", tmp_path / "store", raw, few) as opened:
        assert "replies.judge all" in run(opened, "replies.judge")
        plan = {plan.stage.name: plan for plan in opened.plan("replies.judge")}["replies.judge"]
        assert plan.state == "fresh"
        (facts,) = plan.outputs["all"]
        assert json.loads(opened.store.read(facts))["n"] == 2
    with session("tiny", tmp_path / "store", raw, [*few, "replies.max_new_tokens=3"]) as opened:
        plans = {plan.stage.name: plan for plan in opened.plan("replies.judge")}
        assert plans["replies.judge"].reason == "unknown until replies.1-llm has run"


def test_its_code_and_settings_are_what_makes_it_stale(package, tmp_path):
    """Its own package counts as first-party: a changed constant that its function reaches is named."""
    (stage,) = declared_elsewhere(["lab_judge:STAGE"])
    item = Item(stage, "all", {"replies": [], **stage.declared_arguments(load_settings("tiny"))})
    parts = item.parts()
    assert {"lab_judge.py:judge", "lab_judge.py:LIMIT"} <= parts["code"].keys()
    assert set(parts["setting"]) == {name for name in setting_names() if name.startswith("replies.")}
    assert {"replies.exchanges", "replies.max_new_tokens", "replies.seed"} <= set(parts["setting"])
