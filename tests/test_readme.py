"""What the documents say is so: every test that the table of defects names, and every file that they link, is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_of_the_conformance_table_exists():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs/datasets.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        path = ROOT / file if "/" in file else ROOT / "tests" / "storage" / file
        functions = {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}
        assert test in functions, f"{file}::{test}"


def test_every_link_between_documents_leads_somewhere():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    links = [
        (path, link)
        for path in documents
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    ]
    assert len(links) > 10
    for path, link in links:
        assert (path.parent / link).exists(), f"{path.name}: {link}"
