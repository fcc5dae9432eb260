"""Tests side by side (pytest-xdist, `make test`): one process takes whole files, the longest first.

A pytest plugin; tests/conftest.py loads it. A file's tests stay together, so what a module's fixture makes is made once;
files that share a fixture of a session, or that load vLLM's engine, whose memory is to be there once, stay together too.
Without pytest-xdist, or without `-n`, nothing is different.
"""

from __future__ import annotations

import pytest

GROUPS = {
    "vLLM": (
        "tests/tasks/test_rerun_matrix.py",
        "tests/model/generation/test_vllm_server.py",
        "tests/model/generation/test_generation_client.py",
        "tests/tasks/test_candidates.py",
        "tests/tasks/test_through_vllm.py",
    ),
    "a finished run": (
        "tests/flows/test_reproduce.py",
        "tests/flows/test_cli_runs.py",
        "tests/flows/test_cli_terminal.py",
        "tests/flows/test_cli_store.py",
        "tests/flows/test_cli_chat.py",
        "tests/flows/test_cli_study.py",
    ),
    "deployed": ("tests/flows/test_deployment.py",),
    "operations": ("tests/flows/test_ops.py",),
    "the paper profile": ("tests/flows/test_paper_profile.py",),
    "stopping": ("tests/flows/test_stopping.py",),
    "faults": ("tests/tasks/test_faults.py",),
    "rot": ("tests/tasks/test_store_rot.py",),
}
"""Group -> its files; groups in the order in which they are begun, before all other files."""

GROUP_OF = {file: group for group, files in GROUPS.items() for file in files}
FIRST = {file: place for place, file in enumerate(GROUP_OF)}


def group(nodeid: str) -> str:
    """What a test is run together with: its group, or its file."""
    file = nodeid.split("::")[0]
    return GROUP_OF.get(file, file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        items.sort(key=lambda item: FIRST.get(item.nodeid.split("::")[0], len(FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False  # not by the number of tests: as they were sorted
    return ByGroup(config, log)
