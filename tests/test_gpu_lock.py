"""The lock of a GPU machine, which cannot be installed here: it is whole, and it is what its requirements resolve to."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements-gpu.lock"


def pins(lock: Path = LOCK) -> dict[str, str]:
    """Name -> version of a lock."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE))


def test_every_requirement_is_pinned_in_its_range_but_torch_which_is_pinned_apart():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["gpu"])
    ]
    (torch,) = (ROOT / "requirements-torch.txt").read_text().split()
    found = pins() | {"torch": torch.removeprefix("torch==")}
    wrong = [str(one) for one in wanted if found.get(one.name.lower()) not in one.specifier]
    assert len(wanted) > 20 and not wrong
    assert "torch" not in pins() and "mamba-ssm" not in pins()
    blocks = re.split(r"^(?=[a-z0-9-]+==)", LOCK.read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins()) and all("--hash=sha256:" in block for block in blocks)


def test_the_lock_is_what_its_requirements_resolve_to(tmp_path):
    assert compiled(tmp_path, "3.11") == pins()  # a mirror may lack a file, and its hash, of some release


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_requirements_resolve_for_later_pythons_too_which_are_not_tested(tmp_path, version):
    """From the same pins; no more is known of these than docs/running.md says."""
    found = compiled(tmp_path, version)
    assert found["vllm"] == pins()["vllm"] and len(found) > 100


def compiled(tmp_path: Path, version: str) -> dict[str, str]:
    """The pins by the Makefile's own command, for a Python, on a copy that starts from the lock's; the index is asked, nothing
    is installed."""
    for name in ("Makefile", "pyproject.toml", LOCK.name, "deployments/lock/build.in"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    told = subprocess.run(
        ["make", "-n", "lock-gpu"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    (command,) = (line for line in told if "pip compile" in line)
    uv = Path(sys.executable).parent / "uv"
    arguments = command.replace("--python-version 3.11", f"--python-version {version}").split()[1:]
    assert version in arguments
    done = subprocess.run([str(uv), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return pins(tmp_path / LOCK.name)
