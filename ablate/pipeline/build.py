"""config → the folders that PPO starts from, each taken from the cache or built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ablate.config import Config
from ablate.errors import UserError
from ablate.pipeline import preferences, pretrain, reward_model, sft
from ablate.pipeline.cache import cached, folder_key, stage_key
from ablate.pipeline.checks import Provided, resolve_provided
from ablate.settings.identity import PPO_ONLY, identity

ENSEMBLE = ("ensemble", "ensemble_varies", "average")  # settings of reward_model that say how many are trained, and not how one is


@dataclass(frozen=True)
class Stages:
    """Folders of the finished stages. None stands for one that nothing needs: see `build`."""

    pretrained: Path | None
    sft: Path
    preferences: Path | None
    reward_model: Path
    ensemble: tuple[Path, ...] = ()  # the reward models of an ensemble after the first
    critic: Path | None = None  # where the critic starts from, unless as ppo.critic_init says
    gold: Path | None = None  # a second reward model, the judge of human data


def choose_device(config: Config) -> torch.device:
    """The device of a run. Raises UserError for a device that this machine lacks, and for `offload` on the CPU."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name]:
        raise UserError(f"device={name}, and torch finds no such device here: set device=auto or cpu")
    if config.offload and name == "cpu":
        raise UserError("offload keeps frozen models off the GPU, and this run is on the CPU: set offload=false")
    return torch.device(name)


def data_settings(config: Config, found: Provided) -> dict:
    """The settings of `data` that decide the stages. Human data counts by its content, not by its path."""
    settings = identity(config)["data"]
    if found.data is not None:
        settings["path"] = found.data
    return settings


def shape_settings(config: Config) -> dict:
    """The settings of `model` that decide the stages: all except those that only PPO reads."""
    return {name: value for name, value in asdict(config.model).items() if name not in PPO_ONLY}


def build(config: Config) -> Stages:
    """The folders of all stages, built in turn where the cache lacks them. Raises UserError.

    A stage whose `path` is set is that path, and the stages after it are keyed by its content. With sft.path nothing needs pretraining,
    unless ppo.policy_init asks for it, and with reward_model.path nothing needs pairs; human data is still read for its report.
    """
    cache, device = Path(config.cache).expanduser(), choose_device(config)
    found = resolve_provided(config)
    common = {"pipeline_seed": config.pipeline_seed, "data": data_settings(config, found), "threads": config.threads, "device": str(device)}

    def stage(name: str, path: Path | None, settings: dict, upstream: list[str], make) -> tuple[Path, str]:
        if path is not None:
            return path, folder_key(path)
        settings = common | settings
        key = stage_key(name, settings, upstream)
        return cached(cache, name, key, settings, make), key

    pretrained, pretrained_key = found.pretrained, ""
    if found.sft is None or config.ppo.policy_init == "pretrained":
        pretrained, pretrained_key = stage(
            "pretrain", found.pretrained, {"model": shape_settings(config), "pretrain": asdict(config.pretrain)}, [],
            lambda folder: pretrain.pretrain(config, folder, device),
        )  # fmt: skip
    sft_folder, sft_key = stage(
        "sft", found.sft, {"sft": asdict(config.sft)}, [pretrained_key],
        lambda folder: sft.sft(config, pretrained, folder, device),
    )  # fmt: skip
    pairs, pairs_key = found.preferences, ""
    if found.reward_model is None or (found.preferences is None and config.data.source != "world"):
        optional = {} if found.reward_model is None else {"optional": True}
        sampled = {"sampling": {"max_new_tokens": config.sampling.max_new_tokens}} if config.data.source == "world" else {}
        pairs, pairs_key = stage(
            "preferences", found.preferences,
            {"preferences": identity(config)["preferences"], **sampled, **optional},
            [sft_key], lambda folder: preferences.preferences(config, sft_folder, folder, device),
        )  # fmt: skip
    members = [
        stage(
            "reward_model", found.reward_model, member_settings(config, member), [sft_key, pairs_key],
            lambda folder, member=member: reward_model.reward_model(config, sft_folder, pairs, folder, device, member),
        ) for member in range(config.reward_model.ensemble)
    ]  # fmt: skip
    if config.reward_model.average:
        members = [stage(
            "reward_model", None, {"average": len(members)}, [key for _, key in members] + [pairs_key],
            lambda folder: reward_model.average([member for member, _ in members], pairs, folder, device),
        )]  # fmt: skip
    (reward, _), *others = members
    ensemble = tuple(folder for folder, _ in others)
    return Stages(
        pretrained=pretrained,
        sft=sft_folder,
        preferences=pairs,
        reward_model=reward,
        critic=found.critic,
        gold=found.gold,
        ensemble=ensemble,
    )


def member_settings(config: Config, member: int) -> dict:
    """The settings that decide one member of an ensemble. The first is the reward model that a run without an ensemble has."""
    training = {name: value for name, value in asdict(config.reward_model).items() if name not in ENSEMBLE}
    return {"reward_model": training} | ({"member": member, "varies": config.reward_model.ensemble_varies} if member else {})
