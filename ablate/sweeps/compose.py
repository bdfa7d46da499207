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
    """One job: its overrides, what Hydra composed from them (its own part is shared by an arm's seeds), and the typed configuration."""

    overrides: Tuple[str, ...]
    cfg: DictConfig
    hydra_cfg: DictConfig
    config: Config


class Composer:
    """Composes the jobs of one sweep as Hydra's own launchers do, an arm once for all its seeds: Hydra takes 0.1 s for each."""

    def __init__(self, context: HydraContext, master: DictConfig) -> None:
        self.context = context
        self.master = master
        self.arms: Dict[Tuple[str, ...], Tuple[DictConfig, DictConfig]] = {}

    def __call__(self, overrides: Sequence[str]) -> Composed:
        """Hydra's errors pass through, and UserError for a fork that is none."""
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
        """(Hydra's part, the task's part) of a composed configuration."""
        cfg = self.context.config_loader.load_sweep_config(self.master, list(overrides))
        hydra_cfg = OmegaConf.create({"hydra": cfg.hydra})
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        return hydra_cfg, cfg
