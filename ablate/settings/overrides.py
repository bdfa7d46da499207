"""Check the command line before Hydra composes it: names that do not exist and values of the wrong type are refused in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings.fields import nearest, setting_names, spelled
from ablate.settings.groups import CONF, LAUNCHER, groups


def quoted(argument: str) -> str:
    """`fork=` or `….path=` with its value in quotes where it holds `=`, as run folders (seed=0) do: Hydra's grammar asks for them."""
    key, _, value = argument.partition("=")
    is_path = key == "fork" or key.endswith(".path")
    return f"{key}='{value}'" if is_path and "=" in value and not value.startswith(("'", '"')) else argument


def spelled_values(override: Override) -> list[str]:
    """The values of a sweep over a list, each as an override has it. Hydra spells booleans as Python does; here they are true and false."""
    return list(override.sweep_iterator(lambda value: spelled(value) if isinstance(value, bool) else Transformer.str(value)))


def check_overrides(arguments: Sequence[str]) -> None:
    """Raises UserError for an override that names no setting, group or preset, or whose value has the wrong type.

    arguments: those of the command line. Hydra's own flags and their values are told apart by Hydra's parser.
    """
    for argument in get_args_parser().parse_args(arguments).overrides:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            raise UserError(f"{argument!r} is not an override ({str(error).splitlines()[0]}): write setting=value") from error
        check_override(override, argument)


def check_override(override: Override, argument: str) -> None:
    """`check_overrides` for one of them. Raises UserError. argument: the override as written."""
    key, options = override.key_or_group, groups()
    if key == "hydra/launcher" and str(override.value()).startswith("submitit") and find_spec("submitit") is None:
        raise UserError(f"{argument} needs submitit, which the extra `cluster` installs: pip install -e '.[cluster]'")
    if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
        return
    if key in options:
        for value in values(override):
            if str(value) not in options[key] and not (value is None and key == "sweep"):
                raise UserError(f"{key}={value} is not a preset{nearest(str(value), options[key])}; there are {', '.join(options[key])}")
        return
    names = setting_names()
    if key == LAUNCHER:
        raise UserError(f"{argument}: write accelerate launch --config_file {CONF / LAUNCHER}/<name>.yaml -m ablate.run …")
    if key not in names:
        raise UserError(f"{key} is not a setting{nearest(key, [*names, *options])}; `python -m ablate.run --cfg job` lists all")
    for value in values(override):
        check_type(key, value, argument)


def values(override: Override) -> list:
    """The value of an override, or all values of a sweep over it."""
    if override.is_sweep_override():
        return list(override.sweep_iterator()) if override.is_discrete_sweep() else []
    return [override.value()]


def check_type(key: str, value: object, argument: str) -> None:
    """Raises UserError for a value of the wrong type, which OmegaConf decides when it is set on an empty config."""
    config = OmegaConf.structured(Config)
    text = OverridesParser.create().parse_override(quoted(f"{key}={value}")).value() if isinstance(value, str) else value
    try:
        OmegaConf.update(config, key, text if not isinstance(text, str) else str(text))
    except OmegaConfBaseException as error:
        raise UserError(f"{argument}: {str(error).splitlines()[0]}; correct the value of {key}") from error
