"""What is refused before torch is loaded: no package gguf, a folder in use, and a file that is no whole GGUF model. No torch here."""

from __future__ import annotations

from importlib.util import find_spec
from math import prod
from pathlib import Path

from ablate.errors import UserError
from ablate.import_gguf.header import Header, read_header


def require_gguf() -> None:
    """Raises UserError where the optional package gguf is missing."""
    if find_spec("gguf") is None:
        raise UserError("a GGUF file is read with the package gguf, which is not installed: pip install 'ppo-ablation[gguf]'")


def check_target(to: Path) -> None:
    """Raises UserError for a folder to write that is neither new nor empty, or has no name, as `.` has none."""
    if not to.name:
        raise UserError(f"--to={to} names no folder of its own: name one that does not exist yet")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists and is not empty: name another folder with --to")


def check_file(file: Path) -> Header:
    """The header of a GGUF file that holds all of its weights and a tokenizer. Raises UserError for any other file."""
    try:
        header = read_header(file)
        missing = end_of_weights(header) - file.stat().st_size
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist: correct the path") from error
    except ValueError as error:
        raise UserError(f"{file} is not a GGUF file that can be read ({error}): download it again or name another") from error
    if missing > 0:
        raise UserError(f"{file} is cut off, {missing} bytes of its weights are missing: download it again")
    if "tokenizer.ggml.tokens" not in header.metadata or "general.architecture" not in header.metadata or not header.tensors:
        raise UserError(f"{file} lacks its architecture, its tokenizer or its weights: name the GGUF file of a whole language model")
    return header


def end_of_weights(header: Header) -> int:
    """The least size in bytes of a file with this header. Raises ValueError for a way of storing numbers that gguf does not know."""
    from gguf import GGML_QUANT_SIZES  # an optional package

    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    unknown = next((name for name, tensor in header.tensors.items() if tensor.kind not in sizes), None)
    if unknown is not None:
        raise ValueError(f"{unknown!a} is stored in the way {header.tensors[unknown].kind}, which the installed gguf does not know")
    ends = [0]
    for tensor in header.tensors.values():
        numbers, size = sizes[tensor.kind]
        ends.append(tensor.offset + prod(tensor.shape) // numbers * size)
    return header.weights + max(ends)
