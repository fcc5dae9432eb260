"""The report's template and style sheet: files beside this module, digested as code is. Knows nothing of what fills them."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = (
    "page.html.j2",
    "memory_ladder.html.j2",
    "table_3.html.j2",
    "figure_6.html.j2",
    "table_8.html.j2",
    "paper_index.html.j2",
    "epo_test.html.j2",
    "other_systems.html.j2",
    "judge.html.j2",
    "study.html.j2",
    "viewer.html.j2",
    "viewer.js",
    "style.css",
)
"""What the artefact is rendered from; nothing else can be included."""
CODE = tuple(f"tasks.report:{name}" for name in TEMPLATES)
"""As a stage's `code`: the report is stale when one of them changes."""


def template(name: str) -> str:
    """The text of a file beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
