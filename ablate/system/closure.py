"""The code that numbers depend on: a module and all modules that it imports, directly or through others.

It is read from the import statements, so no list has to be kept and no module is imported.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Modules that a stage imports and that cannot change its numbers.
EXCLUDED = (
    "ablate.config",  # the settings that a stage reads are in its key by value
    "ablate.errors",  # names of exceptions
    "ablate.system.progress",  # a progress bar
)


@cache
def imported(module: str, root: Path = ROOT) -> frozenset[str]:
    """Modules of the package that a module's import statements name, those inside functions too."""
    found = set()
    for node in _statements(ast.parse(module_path(module, root).read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in found if name.startswith("ablate.") and module_path(name, root).is_file())


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all nodes within it except expressions, which contain no imports."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from _statements(child)


def module_path(module: str, root: Path = ROOT) -> Path:
    """The file of a module or package under `root`; it may not exist."""
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def closure(module: str, root: Path = ROOT, excluded: tuple[str, ...] = EXCLUDED) -> tuple[str, ...]:
    """The names of a module and of all that it imports, directly or through others, sorted.

    The modules `excluded` are left out, and those that they alone import.
    """
    seen, pending = {module}, [module]
    while pending:
        new = imported(pending.pop(), root) - seen - {*excluded}
        seen |= new
        pending += new
    return tuple(sorted(seen))


def source_digests(module: str, root: Path = ROOT) -> dict[str, str]:
    """Module → SHA-256 of its file, for each module of the closure."""
    return {name: hashlib.sha256(module_path(name, root).read_bytes()).hexdigest() for name in closure(module, root)}
