"""config → the folders PPO starts from, each from the cache or built now."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ablate import chat, loading, models, rollout, sampling, streams
from ablate.config import Config
from ablate.data import source
from ablate.errors import UserError
from ablate.pipeline import preferences, pretrain, reward_model, sft, supervised
from ablate.pipeline.cache import cached, folder_key, stage_key
from ablate.world import gold, grammar, grammar_en, grammar_zh, structure, tokenizer

WORLD = [grammar, grammar_en, grammar_zh, structure, tokenizer, source]
TRAINING = [supervised, models, loading, streams, chat]
SAMPLING = [sampling, rollout, gold]


@dataclass(frozen=True)
class Stages:
    """Folders of the finished stages."""

    pretrained: Path
    sft: Path
    preferences: Path
    reward_model: Path


def choose_device(config: Config) -> torch.device:
    if config.device != "auto":
        return torch.device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_paths(config: Config) -> None:
    """Refuse a path that is not there before minutes go into the stages before it."""
    for name in ("model", "pretrain", "sft", "preferences", "reward_model"):
        path = getattr(config, name).path
        if path is not None and not Path(path).exists():
            raise UserError(f"{name}.path={path} does not exist: correct the path, or leave it out to build the stage")


def build(config: Config) -> Stages:
    """Every stage in turn; a stage whose `path` is set is that path, and what follows is keyed by its content."""
    cache, device = Path(config.cache).expanduser(), choose_device(config)
    check_paths(config)
    common = {"pipeline_seed": config.pipeline_seed, "data": asdict(config.data), "threads": config.threads, "device": str(device)}

    def stage(name: str, path: str | None, settings: dict, upstream: list[str], code: list, make) -> tuple[Path, str]:
        if path is not None:
            return Path(path), folder_key(Path(path))
        settings = common | settings
        key = stage_key(name, settings, upstream, code)
        return cached(cache, name, key, settings, make), key

    start = config.model.path or config.pretrain.path
    pretrained, pretrained_key = stage(
        "pretrain", start, {"model": asdict(config.model), "pretrain": asdict(config.pretrain)}, [],
        [pretrain, *WORLD, *TRAINING], lambda folder: pretrain.pretrain(config, folder, device),
    )  # fmt: skip
    sft_folder, sft_key = stage(
        "sft", config.sft.path, {"sft": asdict(config.sft)}, [pretrained_key],
        [sft, *WORLD, *TRAINING], lambda folder: sft.sft(config, pretrained, folder, device),
    )  # fmt: skip
    pairs, pairs_key = stage(
        "preferences", config.preferences.path,
        {"preferences": asdict(config.preferences), "sampling": {"max_new_tokens": config.sampling.max_new_tokens}}, [sft_key],
        [preferences, *WORLD, *TRAINING, *SAMPLING], lambda folder: preferences.preferences(config, sft_folder, folder, device),
    )  # fmt: skip
    reward, _ = stage(
        "reward_model", config.reward_model.path, {"reward_model": asdict(config.reward_model)}, [sft_key, pairs_key],
        [reward_model, preferences, sft, *TRAINING], lambda folder: reward_model.reward_model(config, sft_folder, pairs, folder, device),
    )  # fmt: skip
    return Stages(pretrained=pretrained, sft=sft_folder, preferences=pairs, reward_model=reward)
