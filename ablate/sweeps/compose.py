"""From a job's overrides to its configuration, in the process that plans and launches a sweep."""

import re
from dataclasses import dataclass
from typing import Dict, Sequence, Tuple

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ablate.config import Config
from ablate.runs.fork import forked


@dataclass(frozen=True)
class Composed:
    """One job of a sweep: its overrides, and what Hydra composes from them."""

    overrides: Tuple[str, ...]  # each `setting=value`
    config: Config  # after the settings of a fork


class Composer:
    """Composes the jobs of one sweep as Hydra's own launchers do. One composition takes 0.1 s, so the seeds of an arm share one."""

    def __init__(self, context: HydraContext, master: DictConfig) -> None:
        self.context = context
        self.master = master
        self.arms: Dict[Tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> Composed:
        """Compose one job. Errors of Hydra pass. Raises UserError for a `fork` that cannot be continued."""
        arm = tuple(override for override in overrides if not re.fullmatch(r"seed=\d+", override))
        seeds = [int(override.partition("=")[2]) for override in overrides if override not in arm]
        if arm not in self.arms:
            self.arms[arm] = self.load(arm)
        cfg, own = self.arms[arm], self.arms[arm].seed
        cfg.seed = seeds[-1] if seeds else own
        config = forked(OmegaConf.to_object(cfg), overrides)
        cfg.seed = own  # of the arm, whose other seeds are composed from the same tree
        return Composed(overrides=tuple(overrides), config=config)

    def load(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra composes from the overrides, without the settings of Hydra itself."""
        cfg = self.context.config_loader.load_sweep_config(self.master, list(overrides))
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return cfg
