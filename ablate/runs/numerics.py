"""What made a run's numbers: a fingerprint of the code, versions of packages, the processor. No torch here.

Two runs of equal settings can be compared number by number only if the same code computed both. A commit's name does not tell:
most commits change no number, and a checkout may hold changes that are not committed. So each run keeps a hash of the modules
that decide numbers (`modules`), as their syntax trees without docstrings and comments: prose and layout change no fingerprint,
any other change does, one that leaves the numbers alone among them.

The alternative is to hash the metrics of a tiny fixed run. It would pass over such harmless changes, but it costs seconds in every
run, covers only the settings it was run with, and differs between processors, which add in different orders.
"""

from __future__ import annotations

import ast
import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ablate.runs.versions import installed_version
from ablate.system.closure import EXCLUDED, ROOT, closure, module_path

ENTRY = "ablate.session"  # threads, precision, the stages and the trainer: everything that computes is imported from here
# Modules reached from there that decide no number. Whatever is not named here counts, new modules too.
NO_NUMBERS = (
    *EXCLUDED,  # settings are in the config hash by value; names of exceptions; a progress bar
    "ablate.pipeline.cache",  # where a stage's folder is kept; what is in it, the stage's own module decides
    "ablate.runs.content",  # digests that are compared; what is read, the readers of data and models decide
    "ablate.runs.console",  # lines on the screen
    "ablate.runs.folder",  # reads back what was written, exactly
    "ablate.runs.numerics",  # this record
    "ablate.runs.summary",  # its keys, which hold what was computed
    "ablate.runs.store",  # writes what was computed; JSON keeps floats exactly
    "ablate.runs.tracking",  # mirrors of the run folder
    "ablate.runs.versions",  # names of versions
    "ablate.settings.identity",  # the name of a run's settings
    "ablate.settings.validation",  # refuses settings, and changes none
    "ablate.system.closure",  # reads sources
    "ablate.system.digests",  # digests of files
    "ablate.system.files",  # locks, atomic writes
    "ablate.system.malloc",  # where memory lies, not what is in it
    "ablate.system.reading",  # what was written, exactly, or nothing
    "ablate.system.processes",  # joining and leaving of processes; what they compute together is in `distributed`
    "ablate.system.signals",  # when a run is stopped; it goes on with the same numbers
    "ablate.system.timer",  # wall-clock time
)
UNKNOWN = {"code": None, "packages": {}}  # the record of a run of an older version, which kept none
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = ("torch", "transformers", "numpy", "tokenizers")


def numerics(threads: int) -> dict:
    """The record of what computes numbers here: `code`, `packages`, `processor` and `threads`.

    Only `code` is a hash. The processor stands beside it, since sums differ in order, and so in their last bits, between kinds of
    processor even where code and packages are the same. threads: of a matrix product on the CPU, as the settings have it.
    """
    packages = {package: installed_version(package) for package in PACKAGES}
    return {"code": code_fingerprint(), "packages": packages, "processor": processor(), "threads": threads}


def continued(earlier: Sequence[dict], now: dict) -> list[dict]:
    """The records of a run that goes on from a checkpoint, `now` last: those of earlier code or packages, then this one."""
    return [*(record for record in earlier if any(record[name] != now[name] for name in ("code", "packages"))), now]


def modules(root: Path = ROOT) -> tuple[str, ...]:
    """The modules whose code decides numbers: what ENTRY imports in the end, without NO_NUMBERS and what only those import."""
    return closure(ENTRY, root, NO_NUMBERS)


@cache
def code_fingerprint(root: Path = ROOT) -> str:
    """Twelve hexadecimal digits over the code of `modules`, by name; root: the folder that holds the package.

    A process computes it once: what is changed on disk afterwards is not what it runs.
    """
    digest = hashlib.sha256()
    for module in modules(root):
        digest.update(f"{module} {syntax(module_path(module, root).read_bytes())}\n".encode())
    return digest.hexdigest()[:12]


def syntax(source: bytes) -> str:
    """A module's syntax tree as text, without docstrings, comments and layout.

    Fields that are empty are left out, as they are in source: Python versions differ in which of them a node has.
    """
    return repr(_plain(ast.parse(source)))


def _plain(node: object) -> object:
    """A node as (its type, (field, value), …) with the values plain likewise."""
    if isinstance(node, list):
        return [_plain(entry) for entry in node]
    if not isinstance(node, ast.AST):
        return node
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        del node.body[0]
    found = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if value is not None and value != [] and name != "ctx":
            found.append((name, _plain(value)))
    return found


def processor() -> str:
    """The kind of the CPU, as the system names it."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
