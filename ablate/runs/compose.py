"""Overrides → Config, for commands other than `ablate.run`, which Hydra starts. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from ablate.config import Config
from ablate.runs.fork import forked
from ablate.settings.groups import CONF
from ablate.settings.overrides import composition_errors


def composing() -> AbstractContextManager:
    """The context in which `composed` works: Hydra has the schema and the folder of presets."""
    ConfigStore.instance().store(name="schema", node=Config, provider="ablate")
    return initialize_config_dir(version_base="1.3", config_dir=str(CONF))


def composed(overrides: Sequence[str]) -> Config:
    """The Config of one run, from overrides as `ablate.run` takes them. Raises UserError, also for what Hydra refuses."""
    with composition_errors():
        return forked(OmegaConf.to_object(compose("config", overrides=list(overrides))), overrides)
