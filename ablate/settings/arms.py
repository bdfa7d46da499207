"""The name of an arm: one readable folder name, made from the overrides that matter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, lru_cache
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from ablate.config import Config
from ablate.settings.fields import flat
from ablate.settings.groups import CONF, groups
from ablate.settings.identity import OUTSIDE_IDENTITY
from ablate.settings.overrides import parsed

MAX_LENGTH = 120  # wandb cuts run names at 128; a folder name may have 255 bytes
UNNAMED = {*OUTSIDE_IDENTITY, "seed", "hydra"}  # seed has a folder of its own below the arm's

# Group → option, as conf/config.yaml has them and in its order.
DEFAULT_OPTIONS = {"data": "world", "preferences": "default", "ppo": "ppo_max", "model": "world"}


def changing(overrides: Sequence[str], before: Sequence[str] = ()) -> list[str]:
    """The overrides whose value is not the one that their setting or group has anyway, from `before` or else from preset and default.

    Names made of them are equal for equal settings. A fork takes its values from another run, so all of its overrides are kept.

    >>> changing(["ppo.updates=150", "ppo.gamma=0.9"])
    ['ppo.gamma=0.9']
    >>> changing(["ppo.updates=150"], before=["ppo.updates=20"])
    ['ppo.updates=150']
    """
    if any(override.startswith("fork=") for override in (*before, *overrides)):
        return list(overrides)
    earlier = dict(map(_value, before))
    options = {group: str(earlier.get(group, option)) for group, option in DEFAULT_OPTIONS.items()}
    chosen = options | {key: str(value) for key, value in map(_value, overrides) if key in options}
    there: dict[str, Any] = {**preset_values(**chosen), **earlier, **options}
    return [override for override in overrides if not _equal(there, *_value(override))]


@cache
def preset_values(**options: str) -> Mapping[str, Any]:
    """Every setting by its dotted name, as the options of the groups in `DEFAULT_OPTIONS` leave it."""
    values = dict(flat(asdict(Config())))
    for group in DEFAULT_OPTIONS:
        path = CONF / group / f"{options[group]}.yaml"
        is_global = path.read_text(encoding="utf-8").startswith("# @package _global_")
        tree = OmegaConf.to_container(OmegaConf.load(path))
        values |= dict(flat(tree if is_global else {group: tree}))
    return MappingProxyType(values)


def nearest_preset(config: Config) -> str:
    """The preset of `ppo` from whose settings the fewest differ; of several, the first by name.

    >>> nearest_preset(Config())
    'ppo_max'
    """
    mine = dict(flat(asdict(config)))
    presets = {name: preset_values(**{**DEFAULT_OPTIONS, "ppo": name}) for name in sorted(groups()["ppo"])}
    return min(presets, key=lambda name: sum(mine.get(key) != value for key, value in presets[name].items() if key.startswith("ppo.")))


@lru_cache(maxsize=4096)
def _value(override: str) -> tuple[str, Any]:
    """(setting, value) of an override; kept, because the arms of a sweep share most of theirs. The value is not to be changed."""
    read = parsed(override)
    return read.key_or_group, None if read.is_sweep_override() else read.value()


def _equal(there: Mapping[str, Any], key: str, value: Any) -> bool:
    text = value.text if hasattr(value, "text") else value  # of a quoted string
    return key in there and there[key] == text and isinstance(there[key], bool) == isinstance(text, bool)


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
