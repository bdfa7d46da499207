"""The command line of `python -m ablate.tune` as a `Search`: fixed settings, distributions to search, and options.

A file `sweeps/tune_*.yaml` holds a search: a question, and overrides, of which the user's own replace those of the same setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings.fields import setting_names
from ablate.settings.groups import groups, sweep_folder, sweep_names
from ablate.settings.identity import OUTSIDE_IDENTITY
from ablate.settings.overrides import check_override, nearest, values
from ablate.settings.validation import check_values
from ablate.sweeps.study import SEARCH

OPTIONS = ("n_trials", "workers", "seeds", "objective", "storage", "sweep")
OBJECTIVES = {"gold": ("maximize",), "gold_kl": ("maximize", "minimize")}
YAML_WORDS = {"True": "true", "False": "false", "None": "null"}  # Hydra's iterator writes them as Python does


@dataclass(frozen=True)
class Search:
    """What a command line asks to search."""

    fixed: tuple[str, ...]  # overrides that every trial has, without the seed
    space: Mapping[str, BaseDistribution]  # setting → the values to search
    seeds: tuple[int, ...] = (0,)  # one run per seed and trial
    n_trials: int = 50  # finished trials of the study in total
    workers: int | None = None  # runs at a time; None: as the config and the cores allow
    objective: str = "gold"  # a key of OBJECTIVES
    storage: str | None = None  # URL of a database; None: a journal in the study's folder


def search_names() -> list[str]:
    """The searches in `sweeps/`, by the names of their files."""
    return [name for name in sweep_names() if name.startswith(SEARCH)]


def load_search(name: str) -> tuple[str, list[str]]:
    """(question, overrides) of a search in `sweeps/`. Raises UserError for an unknown name and for a file of another form."""
    if name not in search_names():
        study = f"is a study: run python -m ablate.run -m sweep={name}"
        what = study if name in sweep_names() else f"is not a search{nearest(name, search_names())}"
        raise UserError(f"sweep={name} {what}; the searches are {', '.join(search_names())}")
    content = yaml.safe_load((sweep_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != {"question", "overrides"}:
        raise UserError(f"sweeps/{name}.yaml must hold question and overrides, and no other key")
    return str(content["question"]), [str(override) for override in content["overrides"]]


def read_search(arguments: Sequence[str]) -> Search:
    """The search that a command line asks for; of a setting that is given twice the last value counts.

    Raises UserError for options out of their range, and where nothing is left to search.
    """
    overrides = parse(arguments)
    study = "study=tune"
    if "sweep" in overrides:
        name = overrides.pop("sweep").partition("=")[2]
        overrides = parse(load_search(name)[1]) | overrides
        study = f"study={name}"
    options = {name: overrides.pop(name).partition("=")[2] for name in OPTIONS if name in overrides}
    parsed = {key: parse_override(key, text) for key, text in overrides.items()}
    space = {key: distribution(key, override) for key, override in parsed.items() if override.is_sweep_override()}
    if not space:
        raise UserError("nothing is left to search: give a setting an interval or choices, as in ppo.kl_coef=interval(0.01,1); see --help")
    fixed = {"collapse.stop": "collapse.stop=true", "study": study} | {key: text for key, text in overrides.items() if key not in space}
    seed = fixed.pop("seed", "seed=0").partition("=")[2]
    if "seeds" in options and "seed" in overrides:
        raise UserError("seed and seeds both say which seeds a trial runs: leave one out")
    seeds = numbers("seeds", options.get("seeds", seed), minimum=0)
    n_trials = number("n_trials", options.get("n_trials", "50"))
    workers = number("workers", options["workers"]) if "workers" in options else None
    objective, storage = options.get("objective", "gold"), options.get("storage")
    if objective not in OBJECTIVES:
        raise UserError(f"objective={objective} is not one of {', '.join(OBJECTIVES)}")
    if storage is not None and storage.startswith("sqlite"):
        raise UserError("storage=sqlite: SQLite does not bear several workers; leave storage out, or name a PostgreSQL URL")
    return Search(tuple(fixed.values()), space, seeds, n_trials, workers, objective, storage)


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Setting → its override as written. Raises UserError for anything that is not `setting=value` with a known setting."""
    found = {}
    for argument in arguments:
        if argument.startswith("-"):
            raise UserError(f"{quotable(argument)} is not an option of ablate.tune, which takes setting=value only; see --help")
        key, equals, _ = argument.partition("=")
        if not equals or not key or key[0] in "+~":
            raise UserError(f"{quotable(argument)!r} is not an override: write setting=value")
        known = [*OPTIONS, *setting_names(), *groups()]
        if key not in known:
            raise UserError(f"{quotable(key)} is not a setting{nearest(key, known)}; `python -m ablate.run --cfg job` lists all")
        if key == "arm":
            raise UserError(f"{argument}: a trial's arm is trial=<number>, so leave arm out, and name the study with study=<name>")
        found[key] = argument
    return found


def quotable(argument: str) -> str:
    """An argument as a message may show it: a URL, which may hold a password, ends behind its scheme."""
    scheme, separator, _ = argument.partition("://")
    return f"{scheme}://…" if separator else argument


def parse_override(key: str, text: str) -> Override:
    """Parse an override and check its values against the setting's type.

    Raises UserError, also for a sweep over a setting that no number of a run depends on.
    """
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"{text!r} is not an override ({str(error).splitlines()[0]}): write setting=value") from error
    assert override.type is OverrideType.CHANGE
    check_override(override, text)
    if override.is_sweep_override() and key == "seed":
        raise UserError(f"{text} would search the luckiest seed: write seeds={text.partition('=')[2]} to run each trial on several")
    if override.is_sweep_override() and key in OUTSIDE_IDENTITY:
        raise UserError(f"{text}: {key} changes none of a run's numbers, so there is nothing to search: give it one value")
    return override


def distribution(key: str, override: Override) -> BaseDistribution:
    """interval → floats (whole numbers for a whole-number setting), range → its steps, anything else → choices.

    Choices are kept as text, as the override grammar writes them, so that null, true and presets are values like any other. Raises
    UserError for an unknown tag, a range without values, and a scale that the values cannot have.
    """
    sweep, text = override.value(), override.input_line
    assert not isinstance(sweep, (str, int, float, dict, list)) and sweep is not None
    if sweep.tags - {"log"}:
        raise UserError(f"{text}: {', '.join(sorted(sweep.tags - {'log'}))} is not a tag; the only one is log")
    log = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        return interval(key, float(sweep.start), float(sweep.end), log, text)
    found = values(override)
    if not found:
        raise UserError(f"{text} holds no value: correct the range of {key}")
    if key not in groups():
        check_limits(key, found)
    if isinstance(sweep, RangeSweep):
        low, high, step = min(found), max(found), abs(sweep.step)
        if log and step != 1:
            raise UserError(f"{text}: a range on a logarithmic scale has steps of 1: write tag(log, interval(…)) or leave the step out")
        if all(isinstance(value, int) for value in found):
            return IntDistribution(low, high, log=log, step=step)
        return FloatDistribution(low, high, step=step)
    if log:
        raise UserError(f"{text}: choices have no scale; write tag(log, interval(low, high))")
    texts = [YAML_WORDS.get(value, value) for value in override.sweep_string_iterator()]
    return CategoricalDistribution(list(dict.fromkeys(texts)))


def interval(key: str, low: float, high: float, log: bool, text: str) -> BaseDistribution:
    """The distribution of an interval. Raises UserError where its ends do not suit the setting. text: the override as written."""
    kind = setting_type(key)
    if kind not in (int, float):
        raise UserError(f"{text}: {key} is not a number; write its choices, {key}=a,b")
    if not low < high:
        raise UserError(f"{text}: the lower end of an interval comes first, and is below the upper")
    if log and low <= 0:
        raise UserError(f"{text}: a logarithmic scale starts above 0; raise the lower end")
    if kind is float:
        check_limits(key, [low, high])
        return FloatDistribution(low, high, log=log)
    if low != int(low) or high != int(high):
        raise UserError(f"{text}: {key} takes whole numbers; so must the ends of its interval")
    check_limits(key, [int(low), int(high)])
    return IntDistribution(int(low), int(high), log=log)


def setting_type(key: str) -> Any:
    """The type of a setting by its dotted name, without Optional; None for a config group."""
    kind: Any = Config
    for part in key.split("."):
        kind = get_type_hints(kind)[part] if part in getattr(kind, "__annotations__", {}) else None
    alternatives = [other for other in get_args(kind) if other is not type(None)]
    return alternatives[0] if get_origin(kind) is Union and len(alternatives) == 1 else kind


def check_limits(key: str, found: Sequence[Any]) -> None:
    """Raises UserError for values outside the limits of the setting."""
    for value in found:
        config = OmegaConf.structured(Config)
        OmegaConf.update(config, key, value)
        check_values(OmegaConf.to_object(config))


def number(name: str, text: str) -> int:
    """The value of an option that is one whole number of at least 1. Raises UserError for anything else."""
    found = numbers(name, text, 1)
    if len(found) > 1:
        raise UserError(f"{name}={text} must be one whole number")
    return found[0]


def numbers(name: str, text: str, minimum: int) -> tuple[int, ...]:
    """Whole numbers of at least `minimum`, written as `3`, `0,1` or `range(2)`, each once. Raises UserError for anything else."""
    try:
        found = values(OverridesParser.create().parse_override(f"{name}={text}"))
    except HydraException:
        found = []
    if not found or not all(type(value) is int and value >= minimum for value in found):
        raise UserError(f"{name}={text} is not a whole number of at least {minimum}" + (" or range(n)" if name == "seeds" else ""))
    return tuple(dict.fromkeys(found))
