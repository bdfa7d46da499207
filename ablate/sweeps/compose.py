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
    """One job of a sweep, before and after Hydra composes it."""

    overrides: Tuple[str, ...]  # each `setting=value`
    cfg: DictConfig  # the composed settings of the run
    hydra_cfg: DictConfig  # the composed settings of Hydra itself, one object for all seeds of an arm
    config: Config  # `cfg` as the typed configuration, after the settings of a fork


class Composer:
    """Composes the jobs of one sweep as Hydra's own launchers do. One composition takes 0.1 s, so the seeds of an arm share one."""

    def __init__(self, context: HydraContext, master: DictConfig) -> None:
        self.context = context
        self.master = master
        self.arms: Dict[Tuple[str, ...], Tuple[DictConfig, DictConfig]] = {}

    def __call__(self, overrides: Sequence[str]) -> Composed:
        """Compose one job. Errors of Hydra pass. Raises UserError for a `fork` that cannot be continued."""
        arm = tuple(override for override in overrides if not re.fullmatch(r"seed=\d+", override))
        seeds = [int(override.partition("=")[2]) for override in overrides if override not in arm]
        if arm not in self.arms:
            self.arms[arm] = self.load(arm)
        hydra_cfg, cfg = self.arms[arm][0], self.arms[arm][1].copy()
        if seeds:
            cfg.seed = seeds[-1]
        config = forked(OmegaConf.to_object(cfg), overrides)
        return Composed(overrides=tuple(overrides), cfg=cfg, hydra_cfg=hydra_cfg, config=config)

    def load(self, overrides: Sequence[str]) -> Tuple[DictConfig, DictConfig]:
        """What Hydra composes from the overrides, as (the settings of Hydra itself, the settings of the run)."""
        cfg = self.context.config_loader.load_sweep_config(self.master, list(overrides))
        hydra_cfg = OmegaConf.create({"hydra": cfg.hydra})
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return hydra_cfg, cfg
