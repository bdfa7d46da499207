"""Execute the notebooks from the top and keep their output.

    python -m analysis.notebooks
    python -m analysis.notebooks 01_collapse 03_early_warning

Without a name all notebooks are executed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate.errors import UserError
from ablate.system.commands import announce, show_cause
from analysis.load.packed import REFERENCE, SUMS

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
PROGRESS = re.compile(r"(?:[\w ]+: \d+/\d+\s*)+")
SET = "reference_set"  # in a notebook's metadata: the digest of the runs that it was executed on


def notebooks() -> list[Path]:
    """The notebooks, in reading order."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path) -> NotebookNode:
    """The notebook, executed from the top in a fresh kernel. It holds no times, progress or metadata, which differ between executions.

    Raises:
        UserError: nbclient or ipykernel is not installed.
        UserError: a cell failed.
    """
    try:
        import ipykernel  # noqa: F401
        import nbclient
        import nbformat
        from jupyter_client.manager import KernelManager
    except ModuleNotFoundError as error:
        raise UserError("notebooks need nbclient and ipykernel: pip install 'ppo-ablation[notebooks]'") from error
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(ROOT)}}
    with tempfile.TemporaryDirectory() as sockets:  # sockets in the file system: nothing listens on a port
        kernel = KernelManager(transport="ipc", ip=f"{sockets}/kernel")
        client = nbclient.NotebookClient(notebook, km=kernel, timeout=600, startup_timeout=300, record_timing=False, resources=place)
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            raise UserError(str(error)) from error
        finally:  # a client that owns its kernel would end it too, but then a failing cell leaves an error at exit
            if client.kc is not None:
                client.kc.stop_channels()
            kernel.shutdown_kernel(now=True)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    notebook.metadata = nbformat.from_dict(METADATA | {SET: set_digest()})
    return notebook


def is_progress(output: Mapping[str, Any]) -> bool:
    """Whether an output of a cell is nothing but counts such as 'runs read: 606/606', which appear where reading is slow."""
    return output.get("name") == "stderr" and PROGRESS.fullmatch(output["text"]) is not None


def set_digest() -> str | None:
    """The digest of the reference set's checksums, which changes whenever a run does; None in an installed package, which has no set."""
    sums = REFERENCE / SUMS
    return hashlib.sha256(sums.read_bytes()).hexdigest()[:16] if sums.is_file() else None


def executed_on(path: Path) -> str | None:
    """The digest of the set that a notebook was executed on, from its metadata; None where it states none. Raises OSError."""
    return json.loads(path.read_text(encoding="utf-8"))["metadata"].get(SET)


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute and write the notebooks that are named, or all. If one fails, say why and return 1."""
    parser = argparse.ArgumentParser(prog="python -m analysis.notebooks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", help=f"for instance 01_collapse (default: all in {FOLDER.name}/)")
    options = parser.parse_args(arguments)
    chosen = [path for path in notebooks() if not options.names or path.stem in options.names]
    if unknown := sorted(set(options.names) - {path.stem for path in chosen}):
        print(f"error: no notebook {', '.join(unknown)}: there are {', '.join(path.stem for path in notebooks())}", file=sys.stderr)
        return 1
    for number, path in enumerate(chosen, 1):
        announce(f"executing {path.name}, {number} of {len(chosen)}")
        try:
            notebook = executed(path)
        except UserError as error:
            show_cause(error)
            print(f"error: {path.name}: {error}", file=sys.stderr)
            return 1
        import nbformat

        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
