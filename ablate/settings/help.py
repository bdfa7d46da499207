"""The help of `python -m ablate.run`: examples, presets, and the settings that people change, each with its meaning. No Hydra here."""

from __future__ import annotations

from textwrap import TextWrapper

from ablate.config import Config
from ablate.settings.fields import Setting, spelled, walk
from ablate.settings.groups import LAUNCHER, groups

OPENING = """\
Train with PPO from a reward model, any trick on or off, and see whether it collapses.

python -m ablate.run                                            one run: PPO-max on the embedded world
python -m ablate.run ppo=vanilla ppo.kl_penalty=true seed=1     a preset, changed
python -m ablate.run -m ppo.kl_penalty=true,false               a sweep over one toggle, in parallel
python -m ablate.run -m sweep=policy_constraints 'seed=range(5)'  a study; `python -m ablate.sweeps` lists them
python -m ablate.run fork=results/<study>/<arm>/seed=0/checkpoints/40 ppo.kl_penalty=true   branch a run
"""
CLOSING = """\
Runs are kept in results/<study>/<arm>/seed=<n>/; the same command again does only what is missing.
`python -m ablate.stages` lists and prunes the built stages. --cfg job shows the settings of one run, resolved.
"""
PRESETS = {
    "ppo": "every trick and amount of PPO at once, as a paper or a repository has them",
    "model": "the language model that a run starts from",
    "data": "where prompts, demonstrations and preference pairs come from",
    "preferences": "how the world's preference pairs are labelled",
    "sweep": "the arms of a study (with -m)",
}
# What a run is, in the order in which people meet it. The tricks follow by themselves.
RUN = (
    "seed", "pipeline_seed", "study", "results", "ppo.updates", "ppo.batch_size", "ppo.learning_rate", "evaluation.every",
    "collapse.stop", "checkpoint.keep", "fork", "model.path", "model.lora_rank", "data.path", "sft.path", "reward_model.path", "gold.path",
    "device", "jobs", "tracker",
)  # fmt: skip


def run_help(width: int) -> str:
    """The help text, at most `width` characters wide where the texts above allow it."""
    settings = {setting.name: setting for setting in walk(Config())}
    tricks = [name for name, setting in settings.items() if name.startswith("ppo.") and is_trick(setting)]
    others = [name for name in settings if name not in {*RUN, *tricks, "sweep"}]
    lines = [OPENING, f"Presets, group=name (python -m ablate.run ppo=vanilla --cfg job shows one; {LAUNCHER} launch takes files):"]
    for group, names in sorted(groups().items(), key=lambda item: list(PRESETS).index(item[0])):
        lines += [f"  {group}: {PRESETS[group]}", *wrapped(", ".join(names), width, "      ")]
    lines += ["", "A run, setting=value (after = the default):", *(line for name in RUN for line in taught(settings[name], width))]
    lines += ["", "Tricks, true or false, or an amount that null switches off:"]
    lines += [line for name in tricks for line in taught(settings[name], width)]
    lines += ["", "Their amounts and all others (python -m ablate.settings WORD says what each is, its unit, range and source):"]
    lines += [*wrapped(", ".join(others), width, "  "), "", CLOSING.rstrip()]
    return "\n".join(lines)


def is_trick(setting: Setting) -> bool:
    """Whether a setting is a switch, an amount that null switches off, or a choice."""
    switched_off_by_null = str(setting.field.type).startswith("Optional")
    return isinstance(setting.value, bool) or switched_off_by_null or bool(setting.field.metadata["choices"])


def taught(setting: Setting, width: int) -> list[str]:
    """`  ppo.kl_penalty=true    meaning`, wrapped; the values of a choice follow the meaning."""
    name = f"  {setting.name}={spelled(setting.value)}"
    choices = setting.field.metadata["choices"]
    meaning = setting.field.metadata["meaning"] + (f" ({' | '.join(choices)})" if choices else "")
    return TextWrapper(width, initial_indent=f"{name:<36} ", subsequent_indent=" " * 37, break_on_hyphens=False).wrap(meaning)


def wrapped(text: str, width: int, indent: str) -> list[str]:
    return TextWrapper(width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False).wrap(text)
