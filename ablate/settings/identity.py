"""The identity of a run: the settings that decide its numbers. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields

from ablate.config import Config, PPOConfig
from ablate.settings.fields import flat

# Toggle → amounts that do nothing while it is off: two configs that differ only there are one run.
AMOUNTS = {
    toggle: tuple(f.name for f in fields(PPOConfig) if toggle in f.metadata["needs"])
    for toggle in dict.fromkeys(name for f in fields(PPOConfig) for name in f.metadata["needs"])
}
_NEEDS = {f"ppo.{f.name}": f.metadata["needs"] for f in fields(PPOConfig)}
# Settings of data that one kind of source reads and the other ignores.
WORLD_ONLY = ("language",)
HUMAN_ONLY = ("path", "split", "max_malformed", "max_prompt_tokens", "max_response_tokens", "held_out_share", "vocabulary")
# Settings of ppo that a critic reads: they do nothing with an advantage_estimator that has none.
CRITIC_ONLY = (
    "value_clip", "value_clip_range", "value_norm", "value_coef", "gae_lambda", "gae_lambda_critic", "gae_length_adaptive", "critic_init",
    "critic_pretrain", "critic_pretrain_updates", "critic_learning_rate", "critic_adam_eps", "bootstrap_truncated",
)  # fmt: skip
# Settings of model that PPO reads and no stage before it.
LORA = ("lora_rank", "lora_alpha", "lora_targets")
PPO_ONLY = (*LORA, "gradient_checkpointing", "frozen_dtype")
# Settings of model that describe one trained from scratch.
SHAPE = ("hidden_size", "layers", "heads", "intermediate_size")
STAGES = ("pretrain", "sft", "preferences", "reward_model")
# Settings that change where a run is kept, how it is watched or how fast it goes, but none of its numbers.
OUTSIDE_IDENTITY = ("study", "arm", "results", "cache", "jobs", "tracker", "checkpoint", "sweep", "offload")


def identity(config: Config) -> dict:
    """The settings that decide a run's numbers, as a nested dict. Amounts of tricks that are off are left out."""
    tree = asdict(config)
    for name in OUTSIDE_IDENTITY:
        del tree[name]
    del tree["model"]["gradient_checkpointing"]
    for name in HUMAN_ONLY if config.data.source == "world" else WORLD_ONLY:
        del tree["data"][name]
    for name in ("gold", "critic"):
        if tree[name]["path"] is None:
            del tree[name]
    if not config.model.lora_rank:
        for name in LORA:
            del tree["model"][name]
    for name in ("ppo", "model", "sampling", "evaluation", "preferences", "reward_model", "collapse", "bugs"):
        for f in fields(getattr(config, name)):
            if f.metadata["later"] and tree[name][f.name] == f.default:
                del tree[name][f.name]
    ppo = tree["ppo"]
    for name in () if config.ppo.has_critic else CRITIC_ONLY:
        ppo.pop(name, None)
    if config.critic.path is not None:
        ppo.pop("critic_init", None)
    if not config.ppo.reads_gae_lambda:
        ppo.pop("gae_lambda", None)
    for toggle, amounts in AMOUNTS.items():
        if _is_off(config, toggle):
            for amount in amounts:
                ppo.pop(amount, None)
    return tree


def inert(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Setting → `ppo.kl_coef acts only with ppo.kl_penalty=true`, for those of `names` that nothing reads under these settings."""
    found, unread = {}, _unread(config)
    for name in names:
        if name in unread:
            found[name] = f"{name} acts only with {unread[name]}"
        if not config.ppo.has_critic and name.removeprefix("ppo.") in CRITIC_ONLY:
            found[name] = f"{name} acts only with ppo.advantage_estimator=gae"
            continue
        if name == "ppo.critic_init" and config.critic.path is not None:
            found[name] = "ppo.critic_init acts only without critic.path"
            continue
        if name == "ppo.gae_lambda" and not config.ppo.reads_gae_lambda:
            found[name] = "ppo.gae_lambda acts only with ppo.gae_length_adaptive=null or ppo.gae_lambda_critic=null"
            continue
        needs = _NEEDS.get(name, ())
        off = [
            f"ppo.{toggle}={'true' if getattr(config.ppo, toggle) is False else '<value>'}" for toggle in needs if _is_off(config, toggle)
        ]
        if off:
            found[name] = f"{name} acts only with {' and '.join(off)}"
    return found


def _unread(config: Config) -> dict[str, str]:
    """Setting outside ppo → what would let it act, for the settings of stages that a path replaces and of the other source of data.

    The path of a stage stays one's to give: a command may name all stages, and which of them are read follows from the others.
    """
    found: dict[str, str] = {}
    world = config.data.source == "world"
    if world:
        found |= {f"data.{name}": "data=hh_rlhf, moss, jsonl or hub" for name in HUMAN_ONLY if name != "path"}
    else:
        found |= {f"data.{name}": "data=world" for name in WORLD_ONLY}
        found |= {f"preferences.{name}": "data=world" for name in ("noise", "margin", "length_bias")}
    if config.data.source != "hub":
        found["data.split"] = "data=hub"
    replaced = {stage: f"{stage}.path=null" for stage in STAGES if getattr(config, stage).path is not None}
    if "reward_model" in replaced and world:  # human pairs are read for their report all the same
        replaced.setdefault("preferences", "reward_model.path=null")
    if config.model.path is not None:
        replaced["pretrain"] = "model.path=null"
    elif "sft" in replaced and config.ppo.policy_init != "pretrained":
        replaced.setdefault("pretrain", "sft.path=null")
    for stage, remedy in replaced.items():
        found |= {f"{stage}.{f.name}": remedy for f in fields(getattr(config, stage)) if f.name != "path"}
    if "pretrain" in replaced:
        found |= {f"model.{name}": replaced["pretrain"] for name in SHAPE}
        found.setdefault("data.vocabulary", replaced["pretrain"])
    return found


def _is_off(config: Config, toggle: str) -> bool:
    return getattr(config.ppo, toggle) in (False, None, "none")


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits over `identity`. Configs with equal hashes are the same run."""
    text = json.dumps(identity(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def first_difference(old: dict, new: dict) -> str:
    """One setting in which two identities differ, for a message, or "" where they are equal."""
    there, here = dict(flat(old)), dict(flat(new))
    for name in [*there, *here]:
        before, after = there.get(name), here.get(name)
        if before != after:
            return f"{name} is {before} there and {after} here"
    return ""
