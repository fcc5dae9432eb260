"""One finished run of the tiny profile on a hostile tree, which several files of tests look at."""

from pathlib import Path

import pytest

from tests.support.command_line import empamba
from tests.support.hostile import write_hostile_sample


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with the tree `raw files`, the store `a store` of a whole run on it, and what the run showed in shown.*"""
    folder = tmp_path_factory.mktemp("hostile\x1b]0;taken\x07")
    write_hostile_sample(folder / "raw files")
    done = empamba(
        folder, "run", "--profile", "tiny", "--raw", "raw files", "--store", "a store", "--set", "epo.gamma=0.4"
    )  # fmt: skip
    (folder / "shown.out").write_bytes(done.stdout)
    (folder / "shown.err").write_bytes(done.stderr)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    return folder
