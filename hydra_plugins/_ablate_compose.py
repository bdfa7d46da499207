"""From a job's overrides to its configuration, in the process that plans and launches a sweep."""

from dataclasses import dataclass
from typing import Optional, Sequence

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from ablate.config import Config


@dataclass(frozen=True)
class Composed:
    """One job: its overrides, what Hydra composed from them, and the typed configuration."""

    overrides: tuple
    cfg: DictConfig
    hydra_cfg: DictConfig
    config: Config


def compose(context: Optional[HydraContext], master: Optional[DictConfig], overrides: Sequence[str]) -> Composed:
    """Compose one job as Hydra's own launchers do. Hydra's errors pass through."""
    assert context is not None and master is not None
    cfg = context.config_loader.load_sweep_config(master, list(overrides))
    hydra_cfg = OmegaConf.create({"hydra": cfg.hydra})
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    return Composed(overrides=tuple(overrides), cfg=cfg, hydra_cfg=hydra_cfg, config=config)
