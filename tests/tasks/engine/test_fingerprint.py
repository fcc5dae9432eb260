"""The code fingerprint on a small package of its own: what counts, what does not, what is named."""

import pytest

from tasks.engine import fingerprint as module
from tasks.stages.features.stage import FEATURES

FILES = {
    "model/__init__.py": "",
    "model/maths.py": '''
"""Docstring."""
SCALE = 2
OTHER = 3

def helper(x):
    """Says what it does."""
    return x * SCALE

def unrelated(x):
    return x + OTHER
''',
    "model/shapes.py": """
from dataclasses import dataclass

@dataclass
class Shape:
    side: int = 1

    def area(self):
        from model.maths import helper
        return helper(self.side)
""",
    "tasks/__init__.py": "",
    "tasks/stage.py": """
from __future__ import annotations
import json
import model.maths as maths
from model.shapes import Shape
from storage.only_hint import Hint

def run(settings: Hint) -> Hint:
    # a comment
    return Shape(3).area() + maths.helper(json.loads("1"))
""",
    "storage/__init__.py": "",
    "storage/only_hint.py": "class Hint:\n    value = 1\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "_FOLDERS", dict.fromkeys(("tasks", "model", "storage"), tmp_path))
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """As in a new process, which is where changed code is seen."""
    module._module.cache_clear()
    module._source.cache_clear()


def code_of_run() -> dict[str, str]:
    forget()
    return module.fingerprint("tasks.stage:run")


def edit(tree, name: str, old: str, new: str) -> None:
    path = tree / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_everything_reached_by_name_is_in_it_and_nothing_else(tree):
    assert set(code_of_run()) == {
        "tasks/stage.py:run",
        "model/shapes.py:Shape",
        "model/maths.py:helper",
        "model/maths.py:SCALE",
    }


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("tasks/stage.py", "# a comment", "# another comment"),
        ("model/maths.py", "Says what it does.", "Says it better."),
        ("model/maths.py", "return x * SCALE", "return (x\n            * SCALE)"),
        ("model/maths.py", "return x + OTHER", "return x - OTHER"),
        ("model/maths.py", "OTHER = 3", "OTHER = 4"),
        ("tasks/stage.py", "settings: Hint", "settings: object"),
        ("storage/only_hint.py", "value = 1", "value = 2"),
    ],
)
def test_what_does_not_count(tree, name, old, new):
    before = code_of_run()
    edit(tree, name, old, new)
    assert code_of_run() == before


@pytest.mark.parametrize(
    "name, old, new, named",
    [
        ("model/maths.py", "x * SCALE", "x + SCALE", "model/maths.py:helper"),
        ("model/maths.py", "SCALE = 2", "SCALE = 5", "model/maths.py:SCALE"),
        ("model/shapes.py", "side: int = 1", "side: int = 2", "model/shapes.py:Shape"),
        ("tasks/stage.py", "Shape(3)", "Shape(4)", "tasks/stage.py:run"),
    ],
)
def test_what_counts_is_named(tree, name, old, new, named):
    before = code_of_run()
    edit(tree, name, old, new)
    assert changed(before, code_of_run()) == {named}


def test_statements_that_run_on_import_count(tree):
    before = code_of_run()
    edit(tree, "model/maths.py", "SCALE = 2", "SCALE = 2\nprint(SCALE)")
    assert changed(before, code_of_run()) == {"model/maths.py:<on import>"}


def test_a_file_that_code_reads_is_digested_whole_under_its_own_name(tree):
    def code() -> dict[str, str]:
        return module.fingerprint("tasks.stage:run", "tasks:page.html.j2")

    (tree / "tasks/page.html.j2").write_text("<p>{# one #}</p>")
    before = code()
    assert set(before) == {*code_of_run(), "tasks/page.html.j2"}
    edit(tree, "tasks/page.html.j2", "one", "two")
    assert changed(before, code()) == {"tasks/page.html.j2"}
    (tree / "tasks/page.html.j2").unlink()
    with pytest.raises(FileNotFoundError):
        code()


def test_every_file_that_a_report_is_rendered_from_makes_it_stale():
    from tasks.report import templates
    from tasks.stages.report.stage import REPORT

    folder = module.ROOT / "tasks/report"
    rendered = {
        f"tasks/report/{path.name}" for path in folder.iterdir() if path.suffix in (".j2", ".css", ".js")
    }
    for copy in ("this_run", "against"):  # of copies of the page alone, which are no artefacts
        rendered.remove(f"tasks/report/{copy}.html.j2")
    assert {f"tasks/report/{name}" for name in templates.TEMPLATES} == rendered
    assert rendered <= module.fingerprint(REPORT.function, *REPORT.code).keys()


def test_the_real_stages_reach_the_method():
    forget()
    assert "model/epo/loss.py:epo_loss" in module.fingerprint("tasks.stages.epo.fit:fit_epo")
    decoding = module.fingerprint(FEATURES.function, *FEATURES.code)
    assert {
        "storage/media/sound.py:decode_audio",
        "storage/media/decoder_process.py:serve",
    } <= decoding.keys()
