"""The folder that a `….path` setting means: a path, or the name of a model on the Hugging Face hub. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from ablate.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# What a model needs and nothing that could run: safetensors weights, configs, tokenizers.
FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]

# Models brought in under their names on the hub, below the working directory: results/models/OWNER/NAME.
IMPORTED = Path("results") / "models"


def resolve(path: str, setting: str) -> Path:
    """The folder that `setting=path` names: itself, or a hub model's below IMPORTED or in the local cache, else downloaded.

    Raises UserError where it does not exist and cannot be downloaded.
    """
    found = local_folder(path)
    if found is not None:
        return found
    if not NAME.fullmatch(path):
        raise UserError(f"{setting}={path} does not exist: correct the path, or leave it out to build the stage")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=FILES))
    except Exception as error:  # the hub's client and the network each raise their own kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{setting}={path} does not exist as a folder, is not in the local Hugging Face cache, and cannot be downloaded ({reason}): "
            "correct the name, or download it where there is a network and name the folder"
        ) from error


def local_folder(path: str) -> Path | None:
    """The folder that a path or a hub model's name means, without a download, or None.

    It is the path itself, else the folder of that name below IMPORTED, else the snapshot in the local cache.
    """
    try:
        if Path(path).exists():
            return Path(path)
    except (OSError, ValueError):  # too long, behind a folder that may not be entered, or with a null byte
        return None
    if not NAME.fullmatch(path):
        return None
    if (IMPORTED / path / "config.json").is_file():
        return IMPORTED / path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=FILES, local_files_only=True))
    except OSError:  # not in the cache
        return None
