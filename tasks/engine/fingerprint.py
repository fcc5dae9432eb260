"""The code part of a stage's key, read from source without importing it.

From a function named "package.module:name", every first-party function, class and module constant reached
by name is collected with its digest (code_facts). Not followed: getattr, registries, and methods of objects
that are passed in; stages therefore name such entry points themselves, and the files their code reads, such as
templates, as "package:file.ext". Knows nothing of stages, stores or Prefect.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from tasks.engine.code_facts import Facts, ModuleFacts, module_facts

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = dict.fromkeys(("flows", "tasks", "model", "storage"), ROOT)
"""First-party package -> the folder it lies in."""


def fingerprint(*entries: str) -> dict[str, str]:
    """{"model/epo/loss.py:epo_loss": digest, …} of everything first-party that the entries reach."""
    seen: dict[str, str] = {}
    for entry in entries:
        module, name = entry.split(":")
        if name.isidentifier():
            _visit(module, name, seen)
        else:
            seen |= _file(module, name)
    return dict(sorted(seen.items()))


def _file(package: str, name: str) -> dict[str, str]:
    """A file beside a package's modules, byte for byte. Raises OSError where it is not there."""
    label = f"{package.replace('.', '/')}/{name}"
    data = (_FOLDERS[package.split(".")[0]] / label).read_bytes()
    return {label: hashlib.blake2b(data, digest_size=16).hexdigest()}


def follow(package: str, folder: Path) -> None:
    """Count a package in `folder` as first-party: what a stage of a user's own reaches in it is part of the key."""
    if _FOLDERS.setdefault(package, folder) == folder:
        _source.cache_clear()
        _module.cache_clear()


@cache
def _source(name: str) -> str | None:
    """The file of a first-party module, relative to its package's folder; None where there is none."""
    folder = _FOLDERS.get(name.split(".")[0])
    if folder is None:
        return None
    base = name.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if (folder / path).is_file()), None)


@cache
def _module(name: str) -> ModuleFacts | None:
    path = _source(name)
    if path is None:
        return None
    return module_facts((_FOLDERS[name.split(".")[0]] / path).read_text(encoding="utf-8"), name)


def _visit(module_name: str, name: str, seen: dict[str, str]) -> None:
    module = _module(module_name)
    if module is None:
        return
    label = f"{_source(module_name)}:{name}"
    if label in seen:
        return
    if name in module.definitions:
        facts = module.definitions[name]
        seen[label] = facts.digest
        _follow(module_name, module, facts, seen)
        _visit_statements(module_name, module, seen)
    elif name in module.imports:  # re-exported
        target, attribute = _resolved(module.imports[name])
        if attribute is not None:
            _visit(target, attribute, seen)


def _visit_statements(module_name: str, module: ModuleFacts, seen: dict[str, str]) -> None:
    statements = module.statements
    label = f"{_source(module_name)}:<on import>"
    if statements and label not in seen:
        joined = "".join(facts.digest for facts in statements)
        seen[label] = hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()
        for facts in statements:
            _follow(module_name, module, facts, seen)


def _follow(module_name: str, module: ModuleFacts, facts: Facts, seen: dict[str, str]) -> None:
    for name, path in facts.uses:
        imported = facts.imports.get(name) or module.imports.get(name)
        if imported is not None:
            target, attribute = _resolved(imported)
            if attribute is not None:
                _visit(target, attribute, seen)
            else:
                _follow_path(target, path, seen)
        elif name in module.definitions:
            _visit(module_name, name, seen)


def _resolved(imported: tuple[str, str | None]) -> tuple[str, str | None]:
    """What `from source import name` means: a module of that name, or a name in the source."""
    source, name = imported
    if name is not None and _source(f"{source}.{name}"):
        return f"{source}.{name}", None
    return imported


def _follow_path(module_name: str, path: tuple[str, ...], seen: dict[str, str]) -> None:
    """`package.module.name` as used in code -> the definition it means."""
    for depth, part in enumerate(path):
        if _source(f"{module_name}.{part}"):
            module_name = f"{module_name}.{part}"
        else:
            _visit(module_name, path[depth], seen)
            return
