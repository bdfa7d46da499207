"""The page of tricks in Markdown: docs/explanation/tricks.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from functools import cache

import pandas as pd

from ablate.config import PPOConfig
from ablate.settings.fields import spelled
from ablate.settings.groups import CONF, sweep_folder, sweep_names
from ablate.system.reading import read_yaml
from analysis.markdown import plain
from analysis.tricks.code import Function, function_of, readers_of
from analysis.tricks.equations import BESIDE, SIZES, TRICKS, Trick, sections
from analysis.tricks.measured import effects
from analysis.tricks.prose import as_markdown

OPENING = """\
# Tricks

Made by `python -m analysis.tricks > docs/explanation/tricks.md` from the settings, the docstrings and the committed runs, with an
equation for each. Every trick is a switch of its own. Off, the numbers are what they were without it, and each can be turned on alone:
`python -m ablate.run ppo=vanilla ppo.reward_clip=3`.

R is the reward model's score of a response, r_t the reward and A_t the advantage of its token t, V_t the critic's value and R̂_t the
return that it learns, π the policy, π_old the policy that sampled, π_ref the reference (SFT unless it moves), ρ_t = π / π_old.

"Measured" is from the runs of [results/reference](../../results/reference/README.md), {basis}; intervals are
95 %. What they can and cannot say is in [findings](../findings.md). "Not measured yet" names the study that asks, where there is one.
"""
CLOSING = """\
## Amounts that belong to no trick

{sizes}: their meanings and defaults are in [settings](../reference/settings.md).
"""
# What the runs behind a section do not show by themselves.
NOTES = {
    "kl_loss": "How far the gradient of each estimator lies from the exact one: "
    "[findings](../findings.md#the-gradient-of-a-kl-penalty-by-estimator-and-place).",
}


def page(arms: dict[str, pd.DataFrame]) -> str:
    """The whole page. arms: as `measured_arms` returns them."""
    lines = [OPENING.format(basis=basis(arms))]
    for part, tricks in TRICKS.items():
        lines += [f"## {part}", "", *(section(name, trick, arms) for name, trick in tricks.items())]
    return "\n".join([*lines, CLOSING.format(sizes=", ".join(f"`ppo.{name}`" for name in SIZES))])


def basis(arms: dict[str, pd.DataFrame]) -> str:
    """What the arms of each study rest on: '5 seeds, one reward model per arm of `add_one_in`'."""
    studies: dict[str, list[str]] = {}
    for study, table in arms.items():
        studies.setdefault(" or ".join(sorted(set(table["basis"]))), []).append(f"`{study}`")
    return ", ".join(f"{each} per arm of {' and '.join(names)}" for each, names in studies.items()) or "which has none of single tricks"


def section(name: str, trick: Trick, arms: dict[str, pd.DataFrame]) -> str:
    """One trick: title, equation, and a table of settings, code, source and effect, then its docstring."""
    function = function_of(name)
    rows = {
        "setting": f"`ppo.{name}`, {defaults(name)}",
        "meaning": plain(field(name).metadata["meaning"]),
        "with it": ", ".join(f"`ppo.{other}`" for other in belonging(name)),
        "code": code(function, readers_of(name)),
        "source": plain(field(name).metadata["source"]),
        "measured": measured(name, arms),
    }
    table = [f"| {title} | {text} |" for title, text in rows.items() if text]
    table.insert(1, "|---|---|")  # so that the setting is the head
    return "\n".join([f"### {trick.title}", "", "```math", trick.equation, "```", "", *table, "", as_markdown(function.docstring), ""])


def field(name: str) -> Field:
    return _fields()[name]


@cache
def _fields() -> dict[str, Field]:
    return {entry.name: entry for entry in fields(PPOConfig)}


def defaults(name: str) -> str:
    """The value in the two presets that most studies start from."""
    vanilla, best = (spelled(preset(which).get(name, getattr(PPOConfig(), name))) for which in ("vanilla", "ppo_max"))
    return f"{vanilla} in vanilla and PPO-max" if vanilla == best else f"{vanilla} in vanilla, {best} in PPO-max"


@cache
def preset(name: str) -> dict:
    return read_yaml(CONF / "ppo" / f"{name}.yaml")["ppo"]


def belonging(name: str) -> list[str]:
    """The amounts and forms that act only with a trick, or beside it, and have no section of their own."""
    known = sections()
    return [other for other, entry in _fields().items() if other not in known and owner(other, entry) == name]


def owner(name: str, entry: Field) -> str | None:
    """The trick in whose section an amount is named: the last of those that it needs, else what BESIDE says."""
    return entry.metadata["needs"][-1] if entry.metadata["needs"] else BESIDE.get(name)


def code(function: Function, readers: Sequence[tuple[str, str]]) -> str:
    """`kl_penalty` in its file, and where the setting is read."""
    places: dict[str, list[str]] = {}
    for file, reader in readers:
        places.setdefault(file, []).append(reader)
    read = "; ".join(f"{link(file)}, {', '.join(f'`{reader}`' for reader in names)}" for file, names in places.items())
    return f"`{function.name}` in {link(function.file)}; the setting is read in {read}"


def link(file: str) -> str:
    return f"[{file}](../../{file})"


def measured(name: str, arms: dict[str, pd.DataFrame]) -> str:
    """What the runs say, or that there are none and which study would make them."""
    told = effects(name, arms)
    asking = [study for study in sweep_names() if f"ppo.{name}=" in study_text(study) or f"ppo.{name}:" in study_text(study)]
    commands = ", ".join(f"`sweep={study}`" for study in asking if not study.startswith("tune_"))
    if not told:
        told = [f"Not measured yet{f'; asked by {commands}' if commands else ''}."]
    return " ".join([*told, *filter(None, [NOTES.get(name)])])


@cache
def study_text(study: str) -> str:
    return (sweep_folder() / f"{study}.yaml").read_text(encoding="utf-8")
