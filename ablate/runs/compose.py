"""Overrides → Config outside Hydra's own command line, for commands that are not `ablate.run`. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.fork import forked
from ablate.settings.groups import CONF


def composing() -> AbstractContextManager:
    """`composed` works inside this: Hydra knows the schema and the folder of presets."""
    ConfigStore.instance().store(name="schema", node=Config, provider="ablate")
    return initialize_config_dir(version_base="1.3", config_dir=str(CONF))


def composed(overrides: Sequence[str]) -> Config:
    """The Config of one run. UserError, one sentence, also for what Hydra refuses."""
    try:
        return forked(OmegaConf.to_object(compose("config", overrides=list(overrides))), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error).splitlines()[0]) from error
