"""Where a trick lies in the code, read from the source: the function of its name, its docstring, and who reads its setting."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from typing import NamedTuple

from ablate.settings.groups import PACKAGE

ROOT = PACKAGE.parent
TRICKS = "ablate/ppo/tricks/"
# The rooms that act on a setting; others check, store or print it.
ACTING = ("ablate/ppo/", "ablate/models/", "ablate/pipeline/", "ablate/trainer.py", "ablate/session.py")
NAMED_OTHERWISE = {"gae_lambda": "gae", "critic_init": "new_critic", "policy_init": "load_models", "lr_schedule": "rate_factor"}


class Function(NamedTuple):
    """A function of the source, its file as a path from the root with slashes."""

    name: str
    file: str
    docstring: str


@cache
def trees() -> dict[str, ast.Module]:
    """File → its syntax tree, for every file of ACTING."""
    files = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "ablate").rglob("*.py"))]
    return {file: ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in files if file.startswith(ACTING)}


def function_of(trick: str) -> Function:
    """The function that says what a trick is: that of its name in `ablate/ppo/tricks/`, or as NAMED_OTHERWISE has it."""
    name = NAMED_OTHERWISE.get(trick, trick)
    found = [
        Function(name, file, ast.get_docstring(node) or "")
        for file, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == name and (file.startswith(TRICKS) or trick in NAMED_OTHERWISE)
    ]
    (only,) = found
    return only


def readers_of(trick: str) -> list[tuple[str, str]]:
    """(file, function) of every place that reads the setting `ppo.<trick>`, itself or through a property of PPOConfig."""
    reads, names = _reads(), [trick, *_properties().get(trick, ())]
    return list(dict.fromkeys(place for name in names for place in reads.get(name, ())))


@cache
def _reads() -> dict[str, list[tuple[str, str]]]:
    """Attribute of `ppo`, as in `ppo.x` and `config.ppo.x` → the functions that read it."""
    found = defaultdict(list)
    for file, tree in trees().items():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and _name(node.value) == "ppo":
                    found[node.attr].append((file, function.name))
    return found


@cache
def _properties() -> dict[str, list[str]]:
    """Setting → the properties of PPOConfig that read it."""
    tree = ast.parse((ROOT / "ablate" / "config.py").read_text(encoding="utf-8"))
    (config,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PPOConfig")
    found = defaultdict(list)
    for function in (node for node in config.body if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and _name(node.value) == "self":
                found[node.attr].append(function.name)
    return found


def _name(node: ast.expr) -> str:
    """The last name of `ppo` or `config.ppo`, "" for any other expression."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
