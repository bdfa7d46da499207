"""Check the command line before Hydra composes it: what Hydra would refuse, or take for something else, is refused in one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType, QuotedString, Transformer
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings.fields import cut, is_path_setting, nearest, setting_names, spelled
from ablate.settings.groups import CONF, LAUNCHER, groups

MOST_VALUES = 100_000  # of one setting in a sweep
NO_SETTINGS = ("config_name", "config_path", "config_dir", "experimental_rerun")  # flags of Hydra that replace the configuration
ONE_OF = ("run", "multirun", "cfg", "info", "shell_completion")


def quoted(argument: str) -> str:
    """`setting=path` with its value in quotes where Hydra's grammar asks for them: for `=`, as in seed=0, for blanks and for umlauts."""
    key, _, value = argument.partition("=")
    if not is_path_setting(key) or "'" in value or value.startswith('"'):
        return argument
    return f"{key}='{value}'" if "=" in value or ("," not in value and not is_override(argument)) else argument


def is_override(argument: str) -> bool:
    """Whether Hydra's grammar has this argument."""
    try:
        parsed(argument)
    except UserError:
        return False
    return True


def parsed(argument: str) -> Override:
    """An override as Hydra reads it. Raises UserError for what its grammar lacks."""
    try:
        return OverridesParser.create().parse_override(argument)
    except (HydraException, RecursionError, ValueError) as error:  # of more than 4,300 digits Python makes no number
        remedy = "write setting=value, and quotes around a value with blanks or signs, as in \"study='my study'\""
        raise UserError(f"{cut(argument)} is not an override ({reason(error)}): {remedy}") from error


def spelled_values(override: Override) -> list[str]:
    """The values of a sweep over a list, each as an override has it. Hydra spells booleans as Python does; here they are true and false."""
    return list(override.sweep_iterator(lambda value: spelled(value) if isinstance(value, bool) else Transformer.str(value)))


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for a sweep. Raises UserError for a flag that there is not."""
    return flags(arguments).multirun or "hydra.mode=MULTIRUN" in arguments


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line as Hydra reads it. Raises UserError for a flag that there is not, or that names another configuration."""
    parser = get_args_parser()
    parser.error = refuse_usage
    found, rest = parser.parse_known_args(arguments)
    if rest:
        raise UserError(unknown_argument(rest[0], arguments))
    if len(chosen := [f"--{name.replace('_', '-')}" for name in ONE_OF if getattr(found, name)]) > 1:
        raise UserError(f"{' and '.join(chosen)} exclude each other: leave all but one out")
    if found.resolve and not (found.cfg or found.help):
        raise UserError("--resolve shows settings: write it with --cfg job")
    for name in NO_SETTINGS:
        if getattr(found, name, None):
            raise UserError(f"--{name.replace('_', '-')} names another configuration than ablate's: leave it out")
    return found


def refuse_usage(message: str) -> NoReturn:
    raise UserError(f"{cut(message, 200)}: python -m ablate.run --help lists the settings")


def unknown_argument(unknown: str, arguments: Sequence[str]) -> str:
    """The sentence for an argument that Hydra's parser does not know: a setting written as a flag, or one after a flag."""
    if not unknown.startswith("-"):
        return f"{cut(unknown)} stands apart from the other settings: write flags such as --cfg job after all of them"
    name, equals, value = unknown.lstrip("-").partition("=")
    if not equals:
        following = [*arguments, ""][list(arguments).index(unknown) + 1]
        value = "<value>" if not following or "=" in following or following.startswith("-") else following
    known = [*setting_names(), *groups()]
    meant = [option for option in known if name.replace("-", "_") in (option, option.rpartition(".")[2])]
    if meant:
        return f"{cut(unknown)} is not a flag: write {cut(f'{meant[0]}={value}')}"
    return f"{cut(unknown)} is not a flag: write setting=value; `python -m ablate.run --help` lists the settings{nearest(name, known)}"


def check_overrides(arguments: Sequence[str], multirun: bool = False) -> None:
    """Raises UserError for an override that names no setting, group or preset, or whose value has the wrong type.

    arguments: those of the command line. Hydra's own flags and their values are told apart by Hydra's parser.
    multirun: whether a setting may have several values.
    """
    for argument in flags(arguments).overrides:
        override = parsed(argument)
        check_form(override, argument, multirun)
        check_override(override, argument)


def check_form(override: Override, argument: str, multirun: bool) -> None:
    """Raises UserError for an override that adds or removes a setting, moves a group, or has several values where one is asked for."""
    key = override.key_or_group
    if key == "hydra":
        raise UserError(f"{cut(argument)}: hydra is a group of settings: write hydra.<setting>=value")
    if is_hydras(key):
        return
    if override.type is OverrideType.DEL:
        raise UserError(f"{cut(argument)} removes a setting, and a run needs all of them: write {key}=null where that is allowed")
    if override.type is OverrideType.ADD or override.package is not None:
        raise UserError(f"{cut(argument)}: all settings are there already: write {key}=value")
    if override.is_sweep_override() and not multirun:
        if key == "sweep":
            raise UserError(f"{cut(argument)} is a study of several arms: add -m to run them all")
        raise UserError(
            f"{cut(argument)} has several values: add -m to run them all, or put quotes or brackets around one value with commas"
        )


def is_hydras(key: str) -> bool:
    """Whether a setting or group is one of Hydra itself."""
    return key.split(".")[0] == "hydra" or key.startswith("hydra/")


def check_override(override: Override, argument: str) -> None:
    """`check_overrides` for one of them. Raises UserError. argument: the override as written."""
    key, options = override.key_or_group, groups()
    if key == "hydra/launcher" and str(override.value()).startswith("submitit") and find_spec("submitit") is None:
        raise UserError(f"{argument} needs submitit, which the extra `cluster` installs: pip install -e '.[cluster]'")
    if "/" in key and not all(isinstance(value, str) for value in values(override)):
        raise UserError(f"{cut(argument)} is not the name of one of {key}'s options: write {key}=<name>")
    if is_hydras(key):
        return
    if key in options:
        for value in values(override):
            name = "null" if value is None else cut(str(value))
            if name not in options[key]:
                raise UserError(f"{key}={name} is not a preset{nearest(name, options[key])}; there are {', '.join(options[key])}")
        return
    names = setting_names()
    if key == LAUNCHER:
        raise UserError(f"{argument}: write accelerate launch --config_file {CONF / LAUNCHER}/<name>.yaml -m ablate.run …")
    if key not in names:
        raise UserError(f"{cut(key)} is not a setting{nearest(key, [*names, *options])}; `python -m ablate.run --cfg job` lists all")
    for value in values(override):
        check_type(key, value, argument)


def values(override: Override) -> list:
    """The value of an override, or all values of a sweep over it. Raises UserError for a sweep of none, or of more than MOST_VALUES."""
    argument = override.input_line or ""
    if not override.is_sweep_override():
        return [override.value()]
    if isinstance(value := override.value(), Glob):
        found = value.filter(groups().get(override.key_or_group, []))
    elif override.is_discrete_sweep():
        try:
            found = list(islice(override.sweep_iterator(), MOST_VALUES + 1))
        except (HydraException, ValueError, ArithmeticError) as error:  # a range whose step is 0 or not a number
            raise UserError(f"{cut(argument)} is not a range ({reason(error)}): correct its step") from error
    else:
        return []
    if not found:
        raise UserError(f"{cut(argument)} holds no value: correct the range of {override.key_or_group}")
    if len(found) > MOST_VALUES:
        raise UserError(f"{cut(argument)} has more than {MOST_VALUES} values: name fewer")
    return [value.text if isinstance(value, QuotedString) else value for value in found]


def check_type(key: str, value: object, argument: str) -> None:
    """Raises UserError for a value of the wrong type, which OmegaConf decides when it is set on an empty config."""
    if value == "???":
        raise UserError(f"{argument} says that a value is missing: give {key} one")
    try:
        OmegaConf.update(OmegaConf.structured(Config), key, value)
    except (OmegaConfBaseException, OverflowError, RecursionError) as error:
        raise UserError(f"{cut(argument)}: {reason(error)}; correct the value of {key}") from error


@contextmanager
def composition_errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise while they compose a configuration into a UserError."""
    try:
        yield
    except MissingConfigException as error:
        there = f"; there are {', '.join(error.options)}" if error.options else ""
        raise UserError(f"{cut(error.missing_cfg_file or reason(error))} is not installed{there}") from error
    except (HydraException, OmegaConfBaseException) as error:
        key = getattr(error, "full_key", None)
        remedy = "correct the setting that has ${…}" if "nterpolation" in str(error) else "correct its value"
        raise UserError(f"{f'{key}: ' if key else ''}{reason(error)}: {remedy}") from error


def reason(error: BaseException) -> str:
    """The first line of an exception's message that is not empty, or the name of its type."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return cut(line.strip().rstrip(".:"), 200)
