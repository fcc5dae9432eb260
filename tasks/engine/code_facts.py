"""Facts of a source file: a digest of each definition, the names it reads, and what it imports.

Read from the text alone and cached by its content, so a file is parsed only once. Comments, docstrings, formatting
and annotations of arguments do not count. Knows nothing of other files.
"""

from __future__ import annotations

import ast
import atexit
import hashlib
import json
import os
import platform
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from storage.user_cache import user_cache

KEPT = 2000
"""Most files in the cache; beyond, only those of this process are kept."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Use = tuple[str, tuple[str, ...]]
"""A name read in code, and the attributes that follow it."""
Imports = dict[str, tuple[str, str | None]]
"""Local name -> (module, name in it), or (module, None) for the module itself."""


_READING = threading.Lock()
"""Flows plan in threads, and before 3.11.10 Python fails where two threads make syntax trees at once."""


@dataclass(frozen=True)
class Facts:
    """The facts of one definition."""

    digest: str
    uses: tuple[Use, ...]
    imports: Imports


@dataclass(frozen=True)
class ModuleFacts:
    """A file's definitions and constants by name, its imports, and its loose statements, which run on import."""

    definitions: dict[str, Facts]
    imports: Imports
    statements: tuple[Facts, ...]


def module_facts(text: str, module: str) -> ModuleFacts:
    """The facts of the file that is imported as `module` ("package.name"), from the cache where it knows them."""
    key = hashlib.blake2b(f"{module}\0{text}".encode(), digest_size=16).hexdigest()
    with _READING:
        known = _remembered()
        if key not in known:
            known[key] = _as_json(_read_module(text, module))
            _New.keys.add(key)
        _New.used.add(key)
        return _from_json(known[key])


# Reading ----------------------------------------------------------------------------------------------


def _read_module(text: str, module: str) -> ModuleFacts:
    definitions: dict[str, Facts] = {}
    loose = []
    tree = ast.parse(text)
    for statement in tree.body:
        names = _defined(statement)
        if names:
            definitions |= dict.fromkeys(names, _read(statement, module))
        elif not isinstance(statement, (ast.Import, ast.ImportFrom)) and not _is_docstring(statement):
            loose.append(_read(statement, module))
    return ModuleFacts(definitions, _imports(tree.body, module), tuple(loose))


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, Definition):
        return [statement.name]
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


def _read(node: ast.stmt, module: str) -> Facts:
    imports = _imports([node], module)
    normal = _normal(node)
    return Facts(_digest(normal), tuple(sorted(_uses(normal))), imports)


def _imports(nodes: list[ast.stmt], module: str) -> Imports:
    """Names that imports bind, wherever in `nodes` they stand (functions import lazily)."""
    bound: Imports = {}
    for top in nodes:
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    local = alias.asname or alias.name.split(".")[0]
                    bound[local] = (alias.name if alias.asname else local, None)
            elif isinstance(node, ast.ImportFrom):
                source = _absolute(node, module)
                bound |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
    return bound


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    base = module.split(".")[: -node.level]
    return ".".join([*base, node.module] if node.module else base)


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


# Remembering ------------------------------------------------------------------------------------------


class _New:
    """This process's part of the cache; written when it ends."""

    keys: set[str] = set()
    used: set[str] = set()


def _cache_file() -> Path:
    """One file for each Python (syntax trees differ) and each version of this module."""
    own = hashlib.blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()
    return user_cache() / f"code-{platform.python_version()}-{own}.json"


@cache
def _remembered() -> dict[str, list]:
    """Content key -> facts as JSON. Empty where nothing can be read: it can all be made again."""
    atexit.register(_save)
    try:
        check, facts = _cache_file().read_bytes().split(b"\n", 1)
        return json.loads(facts) if check == _check(facts) else {}
    except (OSError, ValueError, RuntimeError):
        return {}


def _check(facts: bytes) -> bytes:
    """The cache's first line: digests read from a damaged one would make every stage stale, or fresh."""
    return hashlib.blake2b(facts, digest_size=16).hexdigest().encode()


def _save() -> None:
    if not _New.keys:
        return
    known = _remembered()
    kept = known if len(known) <= KEPT else {key: known[key] for key in _New.used}
    try:
        path = _cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        facts = json.dumps(kept).encode()
        with os.fdopen(handle, "wb") as file:
            file.write(_check(facts) + b"\n" + facts)
        os.replace(draft, path)
    except (OSError, RuntimeError):
        pass  # a read-only home: the next process reads the sources again


def _as_json(module: ModuleFacts) -> list:
    return [
        {name: _facts_as_json(facts) for name, facts in module.definitions.items()},
        module.imports,
        [_facts_as_json(facts) for facts in module.statements],
    ]


def _facts_as_json(facts: Facts) -> list:
    return [facts.digest, facts.uses, facts.imports]


def _from_json(stored: list) -> ModuleFacts:
    definitions, imports, statements = stored
    return ModuleFacts(
        {name: _facts_from_json(facts) for name, facts in definitions.items()},
        _imports_from_json(imports),
        tuple(map(_facts_from_json, statements)),
    )


def _facts_from_json(stored: list) -> Facts:
    digest, uses, imports = stored
    return Facts(digest, tuple((name, tuple(path)) for name, path in uses), _imports_from_json(imports))


def _imports_from_json(stored: dict) -> Imports:
    return {name: (module, attribute) for name, (module, attribute) in stored.items()}
