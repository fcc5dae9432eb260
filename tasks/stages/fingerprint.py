"""The code part of a stage's key, read from source without importing it.

From a function named "package.module:name", every first-party function, class and module constant reached
by name is collected and digested. Comments, docstrings, formatting and annotations of arguments do not
count. Not followed: getattr, registries, and methods of objects that are passed in; stages therefore name
such entry points themselves. Knows nothing of stages, stores or Prefect.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = ("flows", "tasks", "model", "storage")
ROOT = Path(__file__).resolve().parents[2]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Use = tuple[str, tuple[str, ...]]
"""A name read in code, and the attributes that follow it."""


@dataclass(frozen=True)
class Module:
    """A parsed first-party module: its definitions, constants, imports and loose statements."""

    name: str
    definitions: dict[str, ast.stmt]
    imports: dict[str, tuple[str, str | None]]
    """Local name -> (module, name in it), or (module, None) for the module itself."""
    statements: tuple[ast.stmt, ...]
    """Top-level statements that are neither definition, assignment nor import: they run on import."""


def fingerprint(*entries: str) -> dict[str, str]:
    """{"model/epo/loss.py:epo_loss": digest, …} of everything first-party that the entries reach."""
    seen: dict[str, str] = {}
    for entry in entries:
        module, name = entry.split(":")
        _visit(module, name, seen)
    return dict(sorted(seen.items()))


@cache
def _parse(name: str) -> Module | None:
    path = _source(name)
    if path is None:
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    definitions: dict[str, ast.stmt] = {}
    loose = []
    for statement in tree.body:
        if isinstance(statement, Definition):
            definitions[statement.name] = statement
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                for node in ast.walk(target):
                    if isinstance(node, ast.Name):
                        definitions[node.id] = statement
        elif not isinstance(statement, (ast.Import, ast.ImportFrom)) and not _is_docstring(statement):
            loose.append(statement)
    return Module(name, definitions, _imports(tree.body, name), tuple(loose))


@cache
def _source(name: str) -> Path | None:
    if name.split(".")[0] not in PACKAGES:
        return None
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(nodes: list[ast.stmt], module: str) -> dict[str, tuple[str, str | None]]:
    """Names that first-party imports bind, wherever in `nodes` they stand (functions import lazily)."""
    bound: dict[str, tuple[str, str | None]] = {}
    for top in nodes:
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    local = alias.asname or alias.name.split(".")[0]
                    bound[local] = (alias.name if alias.asname else alias.name.split(".")[0], None)
            elif isinstance(node, ast.ImportFrom):
                source = _absolute(node, module)
                for alias in node.names:
                    submodule = f"{source}.{alias.name}"
                    target = (submodule, None) if _source(submodule) else (source, alias.name)
                    bound[alias.asname or alias.name] = target
    return {name: target for name, target in bound.items() if target[0].split(".")[0] in PACKAGES}


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    base = module.split(".")[: -node.level]
    return ".".join([*base, node.module] if node.module else base)


def _visit(module_name: str, name: str, seen: dict[str, str]) -> None:
    module = _parse(module_name)
    if module is None:
        return
    label = f"{_source(module_name).relative_to(ROOT).as_posix()}:{name}"
    if label in seen:
        return
    if name in module.definitions:
        facts = _facts(module_name, name)
        seen[label] = facts.digest
        _follow(module, facts, seen)
        _visit_statements(module, seen)
    elif name in module.imports:  # re-exported
        target, attribute = module.imports[name]
        if attribute is not None:
            _visit(target, attribute, seen)


def _visit_statements(module: Module, seen: dict[str, str]) -> None:
    label = f"{_source(module.name).relative_to(ROOT).as_posix()}:<on import>"
    if module.statements and label not in seen:
        facts = [_read(statement, module.name) for statement in module.statements]
        seen[label] = hashlib.blake2b("".join(f.digest for f in facts).encode(), digest_size=16).hexdigest()
        for each in facts:
            _follow(module, each, seen)


@dataclass(frozen=True)
class Facts:
    """What one definition comes to: its digest, what it reads, and what it imports itself."""

    digest: str
    uses: tuple[Use, ...]
    imports: dict[str, tuple[str, str | None]]


@cache
def _facts(module_name: str, name: str) -> Facts:
    """A definition's facts: read once, however many stages reach it."""
    return _read(_parse(module_name).definitions[name], module_name)


def _read(node: ast.stmt, module_name: str) -> Facts:
    normal = _normal(node)
    return Facts(_digest(normal), tuple(sorted(_uses(normal))), _imports([node], module_name))


def _follow(module: Module, facts: Facts, seen: dict[str, str]) -> None:
    imports = {**module.imports, **facts.imports}
    for name, path in facts.uses:
        if name in imports:
            target, attribute = imports[name]
            if attribute is not None:
                _visit(target, attribute, seen)
            else:
                _follow_path(target, path, seen)
        elif name in module.definitions:
            _visit(module.name, name, seen)


def _follow_path(module_name: str, path: tuple[str, ...], seen: dict[str, str]) -> None:
    """`package.module.name` as used in code -> the definition it means."""
    for depth, part in enumerate(path):
        if _source(f"{module_name}.{part}"):
            module_name = f"{module_name}.{part}"
        else:
            _visit(module_name, path[depth], seen)
            return


def _uses(node: ast.AST) -> set[Use]:
    """Every name read in `node`, with the attributes that follow it: a.b.c -> ("a", ("b", "c"))."""
    found = set()

    def walk(current: ast.AST, path: tuple[str, ...]) -> None:
        if isinstance(current, ast.Attribute):
            walk(current.value, (current.attr, *path))
        elif isinstance(current, ast.Name):
            found.add((current.id, path))
        else:
            for child in ast.iter_child_nodes(current):
                walk(child, ())

    walk(node, ())
    return found


class _Normaliser(ast.NodeTransformer):
    def visit_FunctionDef(self, node):
        return self._definition(node)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_FunctionDef

    def _definition(self, node):
        self.generic_visit(node)
        node.body = [s for s in node.body if not _is_docstring(s)] or [ast.Pass()]
        if not isinstance(node, ast.ClassDef):
            node.returns = None
            arguments = node.args
            extra = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]:
                argument.annotation = None
        return node


def _normal(node: ast.stmt) -> ast.stmt:
    return _Normaliser().visit(ast.parse(ast.unparse(node)).body[0])


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _digest(normal: ast.stmt) -> str:
    return hashlib.blake2b(ast.dump(normal).encode(), digest_size=16).hexdigest()
