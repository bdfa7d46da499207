"""Run folders with planted effects, in the format of the run folder's contract.

An `Arm` says how often its runs collapse, when, and how much gold they win first. Runs of one reward model share part of
their luck (`of_model`), and runs of one reward model and seed a further part across arms (`shared`), as common random numbers
make real runs do, so pairing has something to gain. What an arm does may differ between reward models (`effect_sd`, `kinds`, `swing`).

Collapse is a latent normal below Φ⁻¹(collapse_probability): the marginal rate is exactly `collapse_probability` at any
correlation between runs.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
    pace: float = 1.0  # how much further an update takes this arm than one of the default batch size
    effect_sd: float = 0.0  # SD over reward models of the gold that this arm wins with them beyond `lift`
    kinds: tuple[float, ...] = ()  # gold of which every reward model adds one to `lift`
    swing: tuple[float, ...] = ()  # collapse probabilities of which every reward model draws one, instead of `collapse_probability`
    frontier: tuple[float, float] = ()  # Gao's (α, β): gold over SFT is d (α − β log d) of d = √KL, and no run falls off it
    reach: float = 2.0  # √KL that a run on a frontier tends to

    def with_model(self, generator: np.random.Generator) -> Arm:
        """This arm with one reward model: its effect and its collapse probability are drawn."""
        lift = self.lift + self.effect_sd * generator.standard_normal() if self.effect_sd else self.lift
        lift += float(generator.choice(self.kinds)) if self.kinds else 0.0
        probability = float(generator.choice(self.swing)) if self.swing else self.collapse_probability
        return replace(self, lift=lift, collapse_probability=probability)


class Planned(NamedTuple):
    """A run to be made: its arm with its reward model, and its luck (3,)."""

    name: str
    arm: Arm
    pipeline_seed: int
    seed: int
    luck: np.ndarray


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
    updates = updates * arm.pace
    collapses = norm.cdf(luck[0]) < arm.collapse_probability
    onset = arm.onset * np.exp(0.25 * luck[1]) if collapses else np.inf
    after = np.clip(updates - onset, 0, None)
    near = np.clip(updates - onset + 10, 0, 10)  # the ten updates before the onset, in which entropy already falls
    noise = generator.standard_normal((5, len(updates)))
    lift = arm.lift + arm.lift_sd * luck[2]
    kl = arm.kl_speed * updates + 3.0 * after
    gold = SFT_GOLD + lift * (1 - np.exp(-updates / 12)) - np.minimum(0.35 * after, 12) + 0.15 * noise[0]
    if arm.frontier:
        distance = arm.reach * np.exp(0.05 * luck[1]) * (1 - np.exp(-updates / 12))
        kl, (alpha, beta) = distance**2, arm.frontier
        slope = alpha + 0.1 * luck[2] - beta * np.log(np.where(distance > 0, distance, 1.0))
        gold = SFT_GOLD + distance * slope + 0.15 * noise[0]
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


def evaluated_updates(config: dict) -> np.ndarray:
    """Updates of a run at which held-out prompts are evaluated."""
    last, evaluation = config["ppo"]["updates"], config["evaluation"]
    return np.array(sorted({*range(0, last + 1, evaluation["every"]), *range(min(evaluation.get("dense_until", 0), last) + 1), last}))


def write_run(folder: Path, arm: Arm, luck: np.ndarray, generator: np.random.Generator, *, seed: int, config: dict = CONFIG,
              study: str = "study", every_update: bool = True, extra: dict[str, float] | None = None) -> int | None:  # fmt: skip
    """Write one finished run folder and return its collapse update. `extra` metrics are added to every row."""
    config = override(config, {**arm.settings, "seed": seed, "study": study, "arm": folder.parent.name})
    last, evaluated = config["ppo"]["updates"], set(evaluated_updates(config).tolist())
    updates = np.arange(last + 1) if every_update else evaluated_updates(config)
    metrics = trajectories(arm, updates.astype(float), luck, generator)
    rows = []
    for index, update in enumerate(updates.tolist()):
        kept = {name: float(values[index]) for name, values in metrics.items()
                if (name.startswith("eval/") and update in evaluated) or (not name.startswith("eval/") and update > 0)}  # fmt: skip
        rows.append({"update": update, **kept, **(extra or {})})
    at_evaluations = np.isin(updates, list(evaluated))
    collapse = online_collapse(metrics["eval/gold"][at_evaluations], updates[at_evaluations])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("".join(block(name, json.dumps(value)) for name, value in config.items()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {
        "status": "completed", "reason": "", "collapsed": collapse is not None, "collapse_update": collapse, "updates": last,
        "wall_seconds": 60.0, "responses_per_second": 300.0, "final": {"eval/gold": rows[-1]["eval/gold"]},
        "sft": {"eval/gold": SFT_GOLD, "eval/gold_sd": SFT_SD}, "versions": {"ppo-ablation": "0.1.0"}, "git_commit": "abc",
        "config_hash": f"{folder.parent.name}-{seed}", "study": study, "arm": folder.parent.name, "seed": seed,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return collapse


def plan(arms: dict[str, Arm], seeds: int, generator: np.random.Generator, *, reward_models: int = 1, shared: float = 0.5,
         of_model: float = 0.0) -> Iterator[Planned]:  # fmt: skip
    """The runs of a study: `reward_models` × `seeds` of every arm. With one seed each the seed is the reward model's own.

    `of_model` and `shared` are shares of the variance of a run's luck: what all runs of a reward model share, and what those of
    one reward model and seed share beyond it. A run draws its own noise when it is made, so draw after each.
    """
    for model in range(reward_models):
        with_model = {name: arm.with_model(generator) for name, arm in arms.items()}
        common_model = generator.standard_normal(3) if of_model else np.zeros(3)
        for number in range(seeds):
            common = generator.standard_normal(3)
            for name, arm in with_model.items():
                own = generator.standard_normal(3)
                luck = np.sqrt(of_model) * common_model + np.sqrt(shared) * common + np.sqrt(1 - shared - of_model) * own
                yield Planned(name, arm, model, model if reward_models > 1 and seeds == 1 else number, luck)


def write_study(root: Path, arms: dict[str, Arm], seeds: int, generator: np.random.Generator, *, reward_models: int = 1,
                shared: float = 0.5, of_model: float = 0.0, study: str = "study", **options) -> Path:  # fmt: skip
    """Write the runs of `plan` under `root`/`study`.

    Several seeds of several reward models each are in folders by reward model, `NAME,pipeline_seed=K`, as a sweep over both makes them.
    """
    for run in plan(arms, seeds, generator, reward_models=reward_models, shared=shared, of_model=of_model):
        folder = f"{run.name},pipeline_seed={run.pipeline_seed}" if reward_models > 1 and seeds > 1 else run.name
        arm = run.arm if reward_models == 1 else replace(run.arm, settings={**run.arm.settings, "pipeline_seed": run.pipeline_seed})
        write_run(root / study / folder / f"seed={run.seed}", arm, run.luck, generator, seed=run.seed, study=study, **options)
    return root / study
