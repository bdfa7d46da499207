"""The safetensors files of a model folder, and what their headers say. No weight is read here."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ablate.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 2**28  # most bytes of a JSON file in a model folder; the largest tokenizers have a tenth


def one_line(error: Exception) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_object(path: Path) -> dict:
    """The object that a JSON file holds. Raises UserError where it is too large, unreadable, or something else."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise UserError(f"{path} has more than {MAX_JSON} bytes: restore the folder or name another")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}): restore the folder or name another") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: restore the folder or name another")
    return found


def weight_files(folder: str | Path) -> list[Path]:
    """The files of a folder's weights: model.safetensors, else the shards that its index names.

    Raises UserError where there is neither, and for an index that names anything but safetensors files within the folder.
    """
    folder = Path(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} holds no safetensors weights ({SINGLE}, or {INDEX}): restore the folder or name another")
    shards = read_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(f"{folder / INDEX} maps no tensors to files (weight_map): restore the folder or name another")
    for name in sorted(set(shards.values())):
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise UserError(f"{folder / INDEX} names {name!a}, which lies outside of the folder: restore the folder or name another")
        if not name.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX} names {name!a}: only safetensors files are read; restore the folder or name another")
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name!a}, which its index names: restore the folder or name another")
    return [folder / name for name in sorted(set(shards.values()))]


def stored_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in a folder's weights, from the headers alone. Raises UserError for missing and damaged files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    return shapes
