"""An unexpected skip fails the run where CI is set: a test's requirement was lost, and nothing else would show it.

A pytest plugin; tests/conftest.py loads it. Without CI, on a machine that lacks some of it, skips are only skips.
"""

from __future__ import annotations

import os
import re

import pytest

EXPECTED = {
    "the scan's kernels need a GPU": "CI has no GPU",
    "a GPU's kernels scan": "CI may have a GPU",
    "a GPU adds up in any order; bytes are a CPU's promise": "CI may have a GPU",
    "the viewer's script needs a browser": "CI may have none",
    "mounting a file system is not allowed here": "a container may lack the right",
    "root cannot be held to file permissions here": "a container may lack the right",
    "no Chromium here to open the pages with": "a browser is no requirement of the project",
    "no client of OpenAI's here to ask the endpoint with": "it comes with vLLM, and is no requirement of the project",
    "no torchvision here, which vLLM wants for LLaVA-NeXT": "the GPU lock has it, and the CPU's has not",
    "no C compiler here to put a clock wrong with": "a compiler is no requirement of the project",
    "goemotions-minilm-b has no part adapter.": "it was trained without one",
    "goemotions-smollm2 has no part adapter.": "it was trained without one",
}
"""Reason of a skip, word for word -> why it may be so in CI."""


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI"):
        config.pluginmanager.register(UnexpectedSkips())


class UnexpectedSkips:
    """Collects skipped tests, and skipped files, whose reason is not EXPECTED."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.found:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.found:
            terminalreporter.section("skips that are not expected (tests/support/skips.py)", red=True)
            for line in self.found:
                terminalreporter.line(line)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        *_, told = report.longrepr  # (file, line, "Skipped: reason")
        reason = re.sub(r"^Skipped: ", "", told)
        if reason not in EXPECTED:
            self.found.append(f"{report.nodeid}: {reason}")
