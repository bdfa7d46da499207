"""Run folders with planted effects, in the format of the run folder's contract.

An `Arm` says how often its runs collapse, when, and how much gold they win first. Seeds share part of their luck across
arms (`shared`), as common random numbers make real runs do, so pairing by seed has something to gain.

Collapse is a latent normal below Φ⁻¹(collapse_probability): the marginal rate is exactly `collapse_probability` at any
correlation between arms.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import norm

SFT_GOLD, SFT_SD = 0.9, 2.0
CONFIG = {
    "ppo": {"kl_penalty": False, "kl_coef": 0.1, "reward_scaling": False, "entropy_bonus": False, "entropy_clip": None,
            "importance_sampling": "behaviour", "reward_norm": False, "reward_clip": None, "advantage_norm": False,
            "critic_pretrain": False,
            "gae_lambda": 0.95, "updates": 80, "adam_betas": [0.9, 0.95]},
    "sampling": {"temperature": 1.0}, "evaluation": {"every": 5, "prompts": 32},
    "collapse": {"threshold": 1.0, "patience": 3, "stop": False},
    "preferences": {"pairs": 6000}, "data": {"source": "world"}, "model": {"layers": 2}, "bugs": {"kl_wrong_sign": False},
    "pipeline_seed": 0, "threads": 1,
    "numerics": [{"code": "0123456789ab", "packages": {"torch": "2.13.0", "numpy": "2.4.6"}, "processor": "simulated", "threads": 1}],
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One arm's planted truth. `settings` are dotted overrides; gold units are those of the gold reward."""

    settings: dict = field(default_factory=dict)
    collapse_probability: float = 0.0
    onset: float = 30.0  # median update at which gold begins to fall, if it falls
    lift: float = 1.0  # gold won over SFT by a run that holds
    lift_sd: float = 0.4
    kl_speed: float = 0.06  # nats per update before the onset


def override(config: dict, settings: dict) -> dict:
    """A copy of the nested config with the dotted settings changed."""
    result = copy.deepcopy(config)
    for name, value in settings.items():
        *path, last = name.split(".")
        inner = result
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return result


def trajectories(arm: Arm, updates: np.ndarray, luck: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Metrics at `updates`. `luck` (3,) is this run's standard-normal luck in collapsing, in its onset and in its lift."""
    collapses = norm.cdf(luck[0]) < arm.collapse_probability
    onset = arm.onset * np.exp(0.25 * luck[1]) if collapses else np.inf
    after = np.clip(updates - onset, 0, None)
    near = np.clip(updates - onset + 10, 0, 10)  # the ten updates before the onset, in which entropy already falls
    noise = generator.standard_normal((5, len(updates)))
    lift = arm.lift + arm.lift_sd * luck[2]
    kl = arm.kl_speed * updates + 3.0 * after
    gold = SFT_GOLD + lift * (1 - np.exp(-updates / 12)) - np.minimum(0.35 * after, 12) + 0.15 * noise[0]
    win = norm.cdf((gold - SFT_GOLD) / SFT_SD)
    return {
        "monitor/kl_to_sft": kl * (updates > 0),
        "monitor/entropy": 1.5 - 0.08 * near - 0.01 * after + 0.05 * noise[1],
        "monitor/distinct": 0.6 + 0.05 * noise[2],
        "monitor/response_length": np.minimum(17 + 0.1 * updates + 0.6 * after + 0.5 * noise[3], 48),
        "reward/proxy_mean": -1 + 0.5 * np.sqrt(kl) + 0.02 * updates + 0.05 * noise[4],
        "eval/gold": np.where(updates == 0, SFT_GOLD, gold),
        "eval/proxy": -1 + 0.5 * np.sqrt(kl) + 0.02 * updates,
        "eval/win": np.where(updates == 0, 0.0, 0.9 * win),
        "eval/tie": np.where(updates == 0, 1.0, 0.1),
        "eval/lose": np.where(updates == 0, 0.0, 0.9 - 0.9 * win),
        "eval/kl_to_sft": kl * (updates > 0),
    }


def online_collapse(gold: np.ndarray, updates: np.ndarray, threshold: float = 1.0, patience: int = 3) -> int | None:
    """The contract's rule as a plain loop: the first of `patience` consecutive evaluations below SFT − threshold·SD."""
    streak = 0
    for index, value in enumerate(gold):
        streak = streak + 1 if value < SFT_GOLD - threshold * SFT_SD else 0
        if streak == patience:
            return int(updates[index - patience + 1])
    return None


@lru_cache(maxsize=1024)
def block(name: str, value: str) -> str:
    """One top-level block of config.yaml, `value` as JSON; kept because thousands of runs share theirs."""
    return yaml.dump({name: json.loads(value)}, sort_keys=False)


def write_run(folder: Path, arm: Arm, luck: np.ndarray, generator: np.random.Generator, *, seed: int, config: dict = CONFIG,
              study: str = "study", every_update: bool = True, extra: dict[str, float] | None = None) -> int | None:  # fmt: skip
    """Write one finished run folder and return its collapse update. `extra` metrics are added to every row."""
    config = override(config, {**arm.settings, "seed": seed, "study": study, "arm": folder.parent.name})
    last, every = config["ppo"]["updates"], config["evaluation"]["every"]
    evaluated = sorted({*range(0, last + 1, every), last})
    updates = np.arange(last + 1) if every_update else np.array(evaluated)
    metrics = trajectories(arm, updates.astype(float), luck, generator)
    rows = []
    for index, update in enumerate(updates.tolist()):
        kept = {name: float(values[index]) for name, values in metrics.items()
                if (name.startswith("eval/") and update in evaluated) or (not name.startswith("eval/") and update > 0)}  # fmt: skip
        rows.append({"update": update, **kept, **(extra or {})})
    at_evaluations = np.isin(updates, evaluated)
    collapse = online_collapse(metrics["eval/gold"][at_evaluations], updates[at_evaluations])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("".join(block(name, json.dumps(value)) for name, value in config.items()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        "status": "completed", "reason": None, "collapsed": collapse is not None, "collapse_update": collapse, "updates": last,
        "wall_seconds": 60.0, "responses_per_second": 300.0, "final": {"eval/gold": rows[-1]["eval/gold"]},
        "sft": {"eval/gold": SFT_GOLD, "eval/gold_sd": SFT_SD}, "versions": {"ppo-ablation": "0.1.0"}, "git_commit": "abc",
        "config_hash": f"{folder.parent.name}-{seed}", "study": study, "arm": folder.parent.name, "seed": seed,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return collapse


def write_study(root: Path, arms: dict[str, Arm], seeds: int, generator: np.random.Generator, *, shared: float = 0.5,
                study: str = "study", **options) -> Path:  # fmt: skip
    """Write `seeds` runs of every arm under `root`/`study`; `shared` is the correlation of a seed's luck across arms."""
    for seed in range(seeds):
        common = generator.standard_normal(3)
        for name, arm in arms.items():
            luck = np.sqrt(shared) * common + np.sqrt(1 - shared) * generator.standard_normal(3)
            write_run(root / study / name / f"seed={seed}", arm, luck, generator, seed=seed, study=study, **options)
    return root / study
