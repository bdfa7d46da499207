"""The name of an arm: one readable folder name, made from the overrides that matter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from ablate.settings.identity import OUTSIDE_IDENTITY

MAX_LENGTH = 120  # wandb cuts run names at 128; a folder name may have 255 bytes
UNNAMED = {*OUTSIDE_IDENTITY, "seed", "hydra"}  # seed has a folder of its own below the arm's


def arm_name(overrides: Sequence[str], preset: str, sweep_arm: str | None = None) -> str:
    """The sweep's arm, the preset chosen, then the other overrides sorted, joined by commas; `preset` where all are empty.

    >>> arm_name(["ppo.updates=10", "seed=3"], "ppo_max", sweep_arm="kl")
    'kl,updates=10'
    >>> arm_name(["ppo.kl_coef=0.2", "ppo=vanilla"], "ppo_max")
    'vanilla,kl_coef=0.2'
    """
    named = [override.lstrip("+") for override in overrides if not _is_unnamed(override)]
    presets = [override.removeprefix("ppo=") for override in named if override.startswith("ppo=")]
    others = sorted(_part(override) for override in named if not override.startswith("ppo="))
    return _folder_name(",".join([sweep_arm] * bool(sweep_arm) + presets + others) or preset)


def _is_unnamed(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return re.split(r"[./@]", key)[0] in UNNAMED


def _part(override: str) -> str:
    key, _, value = override.partition("=")
    if key == "fork":
        value = _fork_point(value)
    return f"{key.removeprefix('ppo.')}={value}" if value else key


def _fork_point(path: str) -> str:
    """`results/x/y/seed=0/checkpoints/40` → `y@40`; any other path stays itself."""
    parts = PurePosixPath(path.strip("'\"")).parts
    return f"{parts[-4]}@{parts[-1]}" if len(parts) >= 4 and parts[-2] == "checkpoints" else path


def _folder_name(name: str) -> str:
    """The name as one safe path component. One that had to change ends in a hash of what it was, so that it stays unique."""
    safe = re.sub(r"[^A-Za-z0-9=,.@+_~\[\]-]+", "-", name.replace("'", "").replace('"', "")).lstrip(".")
    if safe == name and len(name) <= MAX_LENGTH:
        return name
    digits = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe[: MAX_LENGTH - 9]}-{digits}"
