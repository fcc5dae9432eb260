"""What the README says of the tests is so: every test its table of defects names is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_of_the_conformance_table_exists():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        path = ROOT / file if "/" in file else ROOT / "tests" / "storage" / file
        functions = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
        assert test in functions, f"{file}::{test}"
