"""How many small faults in the core its tests see. `make bench NAME=mutations [ARGS="--sample 200 --only model/training.py"]`.

Every mutant is one change to one place of a module: a comparison's edge or direction, an operator, a number, a truth
value, a condition turned round, a result dropped, a call left out, an entry of a table. It is caught where one of the
module's own test files (MODULES) fails, or hangs. Nothing is written to the tree: each mutant lives in a forked child
that compiles it in place of the module, so the heavy libraries are loaded once; a mutant that no test can see (it
only changes speed, or cannot happen) is named in SAME, with why, and not counted.

mutmut 3 leaves out decorated functions (`torch.no_grad`, properties) and everything that stands in no function, such as
the label tables; cosmic-ray starts an interpreter, here with torch, for each mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import importlib.abc
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "hypothesis",
    "numpy",
    "peft",
    "pyarrow.parquet",
    "pydantic",
    "pytest",
    "torch",
    "transformers",
    "trl",
)
"""Imported once, before the children; of transformers, what the tests use of it."""

METRICS = ("tests/model/metrics/test_metrics.py",)
MODULES: dict[str, tuple[str, ...]] = {
    "model/epo/loss.py": (
        "tests/model/epo/test_total_loss.py",
        "tests/model/epo/test_epo_loss.py",
    ),
    "model/token_log_probs.py": ("tests/model/test_token_log_probs.py",),
    "model/training.py": (
        "tests/model/test_training_by_hand.py",
        "tests/model/test_training.py",
        "tests/model/test_training_run.py",
        "tests/model/test_event_log.py",
        "tests/model/test_training_memory.py::test_what_cannot_fit_is_refused_and_what_fits_is_one_line",
    ),
    "model/pairs/selection.py": (
        "tests/model/pairs/test_selection_edges.py",
        "tests/tasks/test_selection.py",
    ),
    "model/metrics/bertscore.py": METRICS,
    "model/metrics/bootstrap.py": ("tests/model/metrics/test_bootstrap.py", *METRICS),
    "model/metrics/verdict.py": ("tests/model/metrics/test_verdict.py",),
    "model/metrics/dist.py": METRICS,
    "model/metrics/emotion_score.py": METRICS,
    "storage/exchanges.py": ("tests/storage/test_exchanges.py",),
    "storage/labels.py": ("tests/storage/test_label_tables.py", "tests/storage/test_labels.py"),
    "storage/shards.py": ("tests/storage/test_shards.py", "tests/storage/test_shard_edges.py"),
    "tasks/engine/planner.py": ("tests/tasks/engine/test_planner.py", "tests/tasks/engine/test_planning.py"),
    "tasks/engine/retrain.py": ("tests/tasks/engine/test_planning.py",),
    "tasks/engine/declaration.py": (
        "tests/tasks/engine/test_planning.py",
        "tests/tasks/engine/test_graph.py",
    ),
    "tasks/engine/item.py": ("tests/tasks/engine/test_planning.py",),
}
"""Module -> the test files, or single tests of one, that must see a fault in it; quickest first."""

LOGITS_2D = "the logits have two dimensions: the last one is dimension 1"
SAME: dict[str, str] = {
    "model/token_log_probs.py: 128 → 129  in  BLOCK = 128": "only memory and speed",
    **{
        f"model/token_log_probs.py: -1 → 1  in  {line}": LOGITS_2D
        for line in (
            "log_probs = logits.float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)",
            "return (log_probs, logits.argmax(-1) == targets)",
            "hits[part] = logits.argmax(-1) == targets[part]",
            "total = logits.logsumexp(-1)",
            "share = (hidden[part] @ weight.t()).float().softmax(-1).neg_()",
        )
    },
    "model/token_log_probs.py: ctx.mark_non_differentiable(hits) → pass": "torch takes no truth value for differentiable",
    "model/token_log_probs.py: 1 → 2  in  share.scatter_add_(1, targets[part, None], torch.ones_like(share[:, :1]))": (
        "no more of the ones is read than there are targets"
    ),
    "model/epo/loss.py: 0 → 1  in  weights = torch.tensor(tokens, dtype=torch.float32, device=parts[0].chosen.device)": (
        "all parts are on one device"
    ),
    "model/training.py: 8 → 9  in  digest = hashlib.blake2b(f'{seed}/{epoch}'.encode(), digest_size=8).digest()": (
        "another permutation, as random"
    ),
    **{
        f"model/training.py: {change}  in  for batch in (cut[i] for i in seeded_order(len(cut), settings.seed, epoch * "
        "100003 + star…": "another permutation, as random"
        for change in (
            "epoch * 100003 + start → epoch * 100003 - start",
            "epoch * 100003 → epoch / 100003",
            "100003 → 100004",
        )
    },
    "model/training.py: 1 → 2  in  share = (step - warmup) / max(1, steps - warmup)": "with one step left the share is 0",
    "model/training.py: 0 → 1  in  longest = max((rows.tokens(part) for step in parts for part in step), default=0)": (
        "without a batch nothing is measured"
    ),
    "model/training.py: 0.0 → 1.0  in  optimizer = torch.optim.AdamW(list(masters.values()), lr=0.0, "
    "weight_decay=settings.weigh…": "every step sets its own rate",
    "storage/shards.py: False → True  in  return file.read(columns=wanted, use_threads=False).to_pylist()": (
        "a thread that may abort a process at its end, now and then"
    ),
    "storage/shards.py: 3 → 4  in  options = {'compression': 'zstd', 'compression_level': 3, 'version': '2.6'}": (
        "only size and speed"
    ),
    "storage/shards.py: rows <= per_bucket → rows < per_bucket  in  if rows <= per_bucket:": "2 to the 0 is 1",
    **{
        f"model/metrics/bootstrap.py: {change}  in  CHUNK = 1 << 18": "only memory and speed"
        for change in ("1 → 2", "18 → 19")
    },
    "model/metrics/bertscore.py: 64 → 65  in  def bert_score(candidates: Sequence[str], references: Sequence[str], folder: "
    "Path, num_la…": "only speed",
    "model/metrics/bertscore.py: return 'cuda' if torch.cuda.is_available() else 'cpu' → return None": (
        "the package then chooses the same"
    ),
    "tasks/engine/retrain.py: return False → return None": "asked for its truth alone",
}
"""Mutant, as it is printed without its line -> why no test can tell it from the module."""

LEAST_S = 20.0
"""A mutant hangs after five times what the unchanged module's tests take, and at least this."""

EDGES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
TURNED = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """place: number of the node in the module's tree, in the order of ast.walk; form: which change to it."""

    module: str
    place: int
    form: str
    line: int
    before: str
    after: str
    within: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before} → {self.after}" + self._where

    @property
    def name(self) -> str:
        """Without the line, which moves."""
        return f"{self.module}: {self.before} → {self.after}" + self._where

    @property
    def _where(self) -> str:
        return f"  in  {self.within}" if self.within != self.before else ""


def forms(node: ast.AST, table: bool) -> Iterator[tuple[str, ast.AST]]:
    """(form, changed copy) of every change to one node. table: whether it is an entry of a dict."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[op]):
            for form, swap in (("edge", EDGES), ("turned", TURNED)):
                if type(op) in swap:
                    yield form, ast.Compare(new.left, [swap[type(op)]()], new.comparators)
        case ast.BinOp() | ast.AugAssign() if type(new.op) in OPERATORS:
            new.op = OPERATORS[type(new.op)]()
            yield "operator", new
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
            yield "and/or", new
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "unary", new.operand
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield "constant", ast.Constant(value * 2 + (value == 0))
        case ast.Constant(value=str(value)) if table:
            yield "constant", ast.Constant(value + "x")
        case ast.IfExp():
            yield "branches", ast.IfExp(new.test, new.orelse, new.body)
        case ast.If() | ast.While():
            new.test = ast.UnaryOp(ast.Not(), new.test)
            yield "condition", new
        case ast.Return(value=ast.expr() as value) if not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            yield "result", ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield "call", ast.Pass()


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines. Annotations, decorators, docstrings and what a setting
    says of itself are left alone."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    passed = set()
    for node in ast.walk(tree):
        aside = []
        for name in ("annotation", "returns", "decorator_list", "slice" if is_type(node) else ""):
            part = getattr(node, name, None) or []
            aside += part if isinstance(part, list) else [part]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            aside.append(node)
        for part in aside:
            passed |= {id(inner) for inner in ast.walk(part)}
    entries = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for part in (*node.keys, *node.values)
    }
    within = {}
    for statement in ast.walk(tree):  # outer ones first, so that the innermost stays
        if isinstance(statement, ast.stmt):
            within |= {id(inner): statement for inner in ast.walk(statement)}
    found = []
    for place, node in enumerate(ast.walk(tree)):
        if id(node) in passed:
            continue
        for form, new in forms(node, id(node) in entries):
            before, after = (short(n) for n in (node, new))
            around = short(within[id(node)])
            found.append(Mutant(module, place, form, node.lineno, before, after, around))
    return sorted(found, key=lambda m: (m.line, m.place, m.form))


def is_type(node: ast.AST) -> bool:
    """Whether a subscript at a module's top names a type (`Callable[[int], None]`)."""
    return isinstance(node, ast.Subscript) and ast.unparse(node.value) in (
        "Callable",
        "dict",
        "list",
        "tuple",
    )


def short(node: ast.AST) -> str:
    """One line of source; of a statement with a body its first."""
    text = ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]
    return text if len(text) <= 90 else text[:89] + "…"


def changed(mutant: Mutant) -> ast.Module:
    """The module's tree with the mutant in it."""
    tree = ast.parse((ROOT / mutant.module).read_text(encoding="utf-8"))
    wanted = list(ast.walk(tree))[mutant.place]
    new = next(n for form, n in forms(wanted, True) if form == mutant.form)

    class Swap(ast.NodeTransformer):
        def visit(self, node):
            return ast.copy_location(new, node) if node is wanted else self.generic_visit(node)

    return ast.fix_missing_locations(Swap().visit(tree))


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Compiles a tree where a module of that name is imported."""

    def __init__(self, module: str, tree: ast.Module):
        self.name, self.path, self.tree = module[:-3].replace("/", "."), str(ROOT / module), tree

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path, loader=self)
        return None

    def exec_module(self, module):
        exec(compile(self.tree, self.path, "exec"), module.__dict__)


def outcome(module: str, mutant: Mutant | None, limit: float) -> tuple[str, float]:
    """("passed", "failed" or "hung", seconds) of the module's tests, in a child."""
    started, scratch = time.monotonic(), tempfile.mkdtemp(prefix="mutant-")
    child = os.fork()
    if child == 0:
        os.setsid()
        with contextlib.suppress(BaseException):
            os._exit(run_tests(module, mutant, scratch))
        os._exit(1)
    status = None
    while status is None and time.monotonic() - started < limit:
        done, code = os.waitpid(child, os.WNOHANG)
        status = code if done else None
        time.sleep(0.02)
    if status is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    shutil.rmtree(scratch, ignore_errors=True)
    told = "hung" if status is None else "passed" if status == 0 else "failed"
    return told, time.monotonic() - started


def run_tests(module: str, mutant: Mutant | None, scratch: str) -> int:
    import pytest

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.chdir(ROOT)
    if mutant is not None:
        sys.meta_path.insert(0, Instead(module, changed(mutant)))
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", f"--basetemp={scratch}/t"]
    return int(pytest.main([*options, *MODULES[module]]))


def preload() -> None:
    import torch

    torch.set_num_threads(1)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from transformers import (  # noqa: F401 - transformers loads each where it is first asked for
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaForCausalLM,
        MambaForCausalLM,
        PreTrainedTokenizerFast,
        RobertaForSequenceClassification,
        WhisperForConditionalGeneration,
    )

    # A child's collector would touch, and so copy, all that was loaded before it.
    gc.collect()
    gc.freeze()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", help="A module of MODULES; may be said again.")
    parser.add_argument("--sample", type=int, help="So many mutants of each module; none: all.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="A file that gets a line of JSON for each mutant.")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    preload()
    totals: Counter[str] = Counter()
    survivors: list[Mutant] = []
    print(f"{'module':<30}{'mutants':>9}{'run':>6}{'same':>6}{'caught':>8}{'share':>8}{'s':>7}")
    for module in asked.only or MODULES:
        told, seconds = outcome(module, None, 600)
        if told != "passed":
            raise SystemExit(f"{module}: the tests of the unchanged module {told}")
        every = mutants(module)
        counted = [m for m in every if m.name not in SAME]
        chosen = counted
        if asked.sample is not None and asked.sample < len(counted):
            chosen = random.Random(f"{asked.seed} {module}").sample(counted, asked.sample)
        limit, started, caught = max(LEAST_S, 5 * seconds), time.monotonic(), 0
        for mutant in chosen:
            result, took = outcome(module, mutant, limit)
            caught += result != "passed"
            if result == "passed":
                survivors.append(mutant)
                print(f"  survived {mutant}", flush=True)
            if asked.log:
                with open(asked.log, "a", encoding="utf-8") as file:
                    line = {"mutant": str(mutant), "result": result, "s": round(took, 2)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        totals.update(mutants=len(every), run=len(chosen), caught=caught, same=len(every) - len(counted))
        share = f"{caught / max(1, len(chosen)):.1%}"
        row = (
            f"{module:<30}{len(every):>9}{len(chosen):>6}{len(every) - len(counted):>6}{caught:>8}{share:>8}"
        )
        print(f"{row}{time.monotonic() - started:>7.0f}", flush=True)
    share = totals["caught"] / max(1, totals["run"])
    print(
        json.dumps({"name": "mutations", "ratio": round(share / 0.9, 3), "caught": round(share, 4), **totals})
    )


if __name__ == "__main__":
    main()
