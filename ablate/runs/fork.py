"""Forks: a run that starts from another run's checkpoint, with that run's settings except those on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from ablate.config import Config, ModelConfig, PPOConfig
from ablate.errors import UserError
from ablate.runs.content import changed, content, named
from ablate.runs.folder import config_of, read_config, read_content, typed
from ablate.settings.fields import cut, spelled
from ablate.settings.identity import LORA, OUTSIDE_IDENTITY
from ablate.system.files import is_path

GROUPS = ("ppo", "model", "data", "preferences", "sweep")
STARTS = ("policy_init", "critic_init", "critic_pretrain", "critic_pretrain_updates")  # act before the first update, which a fork is past


def forked(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config`, composed from `overrides`; with `fork=<checkpoint>`, take every setting not named there from the forked run.

    Settings that decide where a run is kept and how it is tracked (study, arm, results, …) stay as composed. Raises UserError.
    """
    if config.fork is None:
        return config
    run = forked_run(config.fork)
    known = None if run is None else read_config(run)
    if run is None or known is None:
        raise UserError(f"fork={cut(config.fork)} is not a checkpoint of a run: name a folder results/…/checkpoints/<update>")
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    preset = next((key for key in keys if key in GROUPS), None)
    if preset:
        raise UserError(f"{preset}=… would replace the settings of the run that fork={config.fork} branches: name single settings instead")
    merged = typed(known, run)
    composed = OmegaConf.structured(config)
    for key in [*keys, *OUTSIDE_IDENTITY, "fork"]:
        if key.split(".")[0] != "hydra":
            OmegaConf.update(merged, key, OmegaConf.select(composed, key), merge=False)
    branch: Config = OmegaConf.to_object(merged)
    before = {name: known["model"].get(name, getattr(ModelConfig, name)) for name in LORA}
    for name in LORA:
        if getattr(branch.model, name) != before[name]:
            raise UserError(f"model.{name}={getattr(branch.model, name)} does not fit the weights of fork={config.fork}: leave it out")
    for name in STARTS:
        if getattr(branch.ppo, name) != known["ppo"].get(name, getattr(PPOConfig, name)):
            raise UserError(
                f"ppo.{name}={spelled(getattr(branch.ppo, name))} would do nothing: fork={config.fork} continues the weights of a "
                "checkpoint: leave it out, or start a new run"
            )
    if branch.ppo.has_critic != (known["ppo"].get("advantage_estimator", "gae") == "gae"):
        raise UserError(
            f"ppo.advantage_estimator needs {'a' if branch.ppo.has_critic else 'no'} critic, and fork={config.fork} continues a checkpoint "
            f"{'without one' if branch.ppo.has_critic else 'with one'}: leave it out, or start a new run"
        )
    update = Path(config.fork).resolve().name
    if update.isdigit() and branch.ppo.updates <= int(update):
        raise UserError(f"ppo.updates={branch.ppo.updates} leaves nothing to do after update {update} of the fork: raise ppo.updates")
    return branch


def forked_run(fork: str) -> Path | None:
    """The folder of the run whose checkpoint `fork` names; None where it is no folder <run>/checkpoints/<update> with a state.json."""
    try:
        if not is_path(fork) or not (Path(fork) / "state.json").is_file():
            return None
    except OSError:  # a folder that may not be read
        return None
    parents = Path(fork).resolve().parents
    return parents[1] if len(parents) > 1 else None


def check_forked_content(config: Config) -> None:
    """Raises UserError where `fork` branches a run that was computed with other content behind a path which both name."""
    run = None if config.fork is None else forked_run(config.fork)
    if run is None:
        return
    theirs, ours = named(config_of(run)), named(config)
    known = {setting: digest for setting, digest in read_content(run).items() if theirs.get(setting) == ours.get(setting)}
    difference = changed(config, known, content(config)) if known else ""
    if difference:
        raise UserError(
            f"fork={cut(str(config.fork))} is of a run with other content behind {difference}: restore that, or start a new run"
        )
