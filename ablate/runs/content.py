"""The content of the files, models and data sets that a run's settings name. A path alone says nothing of it. No torch here.

The record of a run keeps a digest per setting, `content` in config.yaml. It stands beside the identity and not in it, so that a run
that names nothing outside this package, and one made before there were digests, has the identity that it always had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ablate.config import Config
from ablate.data.files import content_key
from ablate.errors import UserError
from ablate.models.hub import local_folder
from ablate.settings.fields import cut
from ablate.system.digests import digest_of

MODELS = ("model", "pretrain", "sft", "reward_model", "gold", "critic")
MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken")  # weights, configs, tokenizers, chat templates
PAIRS = ("train.jsonl", "held_out.jsonl")
COMMIT = re.compile(r"[0-9a-f]{40}")


def named(config: Config) -> dict[str, str]:
    """Setting → what it names: every path of a model, of data, pairs, texts and questions, and a fork's checkpoint, where it is set."""
    data = None if config.data.source == "world" else config.data.path
    found = {
        **{f"{name}.path": getattr(config, name).path for name in MODELS},
        "data.path": data,
        "preferences.path": config.preferences.path,
        "evaluation.text_path": config.evaluation.text_path,
        "evaluation.choices_path": config.evaluation.choices_path,
        "fork": config.fork,
    }
    return {setting: path for setting, path in found.items() if path is not None}


def content(config: Config) -> dict[str, str]:
    """Setting → digest of what it names now. What is not there, or cannot be read, is left out."""
    digests = {setting: digest(config, setting, path) for setting, path in named(config).items()}
    return {setting: found for setting, found in digests.items() if found is not None}


def digest(config: Config, setting: str, path: str) -> str | None:
    """Sixteen hexadecimal digits over what `setting=path` names, or a hub model's commit. None where it cannot be read."""
    try:
        if setting == "data.path":
            return content_key(config.data)
        if setting.partition(".")[0] in MODELS:
            return model_digest(local_folder(path))
        place = Path(path)
        if place.is_file():
            return digest_of(place.parent, [place])
        files = [place / name for name in PAIRS] if setting == "preferences.path" else place.rglob("*")
        return digest_of(place, [file for file in files if file.is_file()]) if place.is_dir() else None
    except (OSError, UserError):  # a stage that needs it says so in a sentence of its own
        return None


def model_digest(folder: Path | None) -> str | None:
    """The digest of a model's folder, over weights, configs, tokenizer and chat template: of a hub's snapshot its commit."""
    if folder is None or not folder.is_dir():
        return None
    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):
        return f"commit {folder.name}"
    return digest_of(folder, [file for file in folder.iterdir() if file.suffix in MODEL_FILES and file.is_file()])


def changed(config: Config, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """`data.path=pairs.jsonl (digest … then, … now)`: a setting whose content differs between the two.

    "" where all that both know is equal.
    """
    paths = named(config)
    for setting in paths:
        if setting in then and setting in now and then[setting] != now[setting]:
            return f"{setting}={cut(paths[setting])} (digest {then[setting]} then, {now[setting]} now)"
    return ""
