"""The rules of the house: who may import whom, how files are named, what no file may hold."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {"storage": {"storage"}, "model": {"model"}, "tasks": {"tasks", "model", "storage"}}
FOREIGN = {
    "storage": {"torch", "transformers", "prefect", "peft", "vllm"},
    "model": {"prefect", "pyarrow", "polars", "av"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of every module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ["storage", "model", "tasks"])
def test_packages_import_only_what_they_may(package):
    ours = {"flows", "tasks", "model", "storage"}
    for path in (ROOT / package).rglob("*.py"):
        names = imported(path)
        assert names & ours <= ALLOWED[package], path
        assert not names & FOREIGN.get(package, set()), path


def test_flows_import_tasks_and_flows_only():
    for path in (ROOT / "flows").glob("*.py"):  # flows/cli is no flow
        assert imported(path) & {"model", "storage"} == set(), path


def test_prefect_is_known_to_one_package_of_tasks():
    knowing = {p.parent.name for p in (ROOT / "tasks").rglob("*.py") if "prefect" in imported(p)}
    assert knowing == {"orchestration"}


def test_no_flow_file_shadows_a_library():
    for path in (ROOT / "flows").glob("*.py"):
        if path.stem != "__init__":
            spec = importlib.util.find_spec(path.stem)
            assert spec is None or str(ROOT) in str(spec.origin), path


def test_flows_hold_flows_only():
    for path in (ROOT / "flows").glob("*.py"):
        body = ast.parse(path.read_text()).body
        assert not [node.name for node in body if isinstance(node, ast.ClassDef)], path
        for function in (node for node in body if isinstance(node, ast.FunctionDef)):
            decorators = [ast.unparse(d) for d in function.decorator_list]
            assert any(d.startswith("flow") for d in decorators), f"{path}: {function.name}"


def test_every_module_opens_with_a_docstring():
    for package in ("flows", "tasks", "model", "storage"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "__init__.py":
                assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


ASK_THE_CLOCK = {
    "tasks/engine/runs.py",  # a run's name and dates, by which nothing is ordered
    "tasks/report/this_run.py",  # how long it took
    "tasks/study/app.py",  # one server's own, as is the next
    "tasks/study/status.py",
    "tasks/chat/openai_answers.py",  # `created`, for its reader
    "storage/filestat.py",  # whether a file is young, beside the clock of its file system
    "model/generation/server_errors.py",  # a server's date, at most `longest_pause_s` away
}


def test_few_ask_what_time_it_is():
    """A machine's clock may be wrong: a module that asks it is listed in docs/operations.md with what follows."""
    asks = re.compile(r"\btime\.time(_ns)?\(|datetime\.(now|utcnow|today)\(|\bst_mtime\b")
    files = [
        path for folder in ("flows", "model", "storage", "tasks") for path in (ROOT / folder).rglob("*.py")
    ]
    found = {
        path.relative_to(ROOT).as_posix() for path in files if asks.search(path.read_text(encoding="utf-8"))
    }
    assert found == ASK_THE_CLOCK


ASK_FOR_A_GPU = {"model/device.py", "model/accelerator.py"}
BY_THE_RULE = {
    "model/embeddings_only.py",
    "model/features/encoders.py",
    "model/generation/chatbot_engine.py",
    "model/generation/transformers_engine.py",
    "model/llm.py",
    "model/metrics/bertscore.py",
    "model/multimodal/model.py",
    "model/processes.py",
    "model/scorer/scorer.py",
    "tasks/stages/compressor/fit.py",  # whose scan it asks about
}
"""What loads a model, or trains one. All else computes where its tensors are."""


def test_one_module_says_where_models_compute_and_all_that_load_one_ask_it():
    """On a machine without a GPU nothing else would show that one has gone back to the CPU."""
    asks = re.compile(
        r"cuda\.(is_available|device_count|init|current_device)\b|\.cuda\(|device\(\s*f?[\"']cuda|\bto\([\"']cuda"
    )
    modules = [p for folder in ("flows", "model", "tasks") for p in (ROOT / folder).rglob("*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in modules}
    assert {name for name, text in texts.items() if asks.search(text)} == ASK_FOR_A_GPU
    assert {name for name, text in texts.items() if "best_device()" in text} - ASK_FOR_A_GPU == BY_THE_RULE


def test_no_pickle():
    for package in ("flows", "tasks", "model", "storage"):
        for path in (ROOT / package).rglob("*.py"):
            assert not imported(path) & {"pickle", "cloudpickle", "dill", "joblib"}, path


def test_planning_imports_neither_prefect_nor_torch(tmp_path):
    code = (
        "import sys; from tasks.engine.run import RunRequest, stale_plan; "
        f"stale_plan(RunRequest(profile='paper', store={str(tmp_path)!r})); "
        "print([m for m in ('prefect', 'torch', 'transformers', 'vllm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_starts_without_prefect_and_torch():
    code = (
        "import sys; from flows.cli.commands import command_line; command_line(); "
        "print([m for m in ('prefect', 'torch', 'transformers', 'pyarrow', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_tests_that_mutations_are_held_against_are_there():
    from benchmarks.mutations import MODULES

    for module, tests in MODULES.items():
        assert (ROOT / module).is_file(), module
        for file, _, name in (test.partition("::") for test in tests):
            assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), (file, name)


def test_packages_that_break_a_cpu_torch_are_absent():
    for name in ("torchvision", "torchaudio", "torchcodec"):
        assert importlib.util.find_spec(name) is None, f"{name} breaks transformers beside a CPU torch"
