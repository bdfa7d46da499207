"""Curves of the page: for each metric shown, the mean per arm with its interval, and every run.

The page stays small: numbers have four significant digits, and large studies are thinned in updates (`MAX_NUMBERS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate.runs.metrics import BY_NAME, NO_UNIT

MAX_NUMBERS = 500_000  # values of single runs, over all metrics


SHOWN = (
    "eval/gold", "eval/proxy", "monitor/kl_to_sft", "monitor/perplexity", "monitor/response_length", "monitor/entropy", "eval/win",
    "monitor/perplexity_moss", "monitor/distinct", "eval/tie", "eval/lose", "eval/helpful/gold", "eval/harmful/gold", "eval/kl_to_sft",
    "monitor/perplexity_ref", "monitor/kl_per_token", "monitor/truncated", "reward/proxy_mean", "reward/proxy_std", "reward/proxy_p95",
    "reward/shaped_mean", "ppo/policy_loss", "ppo/value_loss", "ppo/approx_kl", "ppo/clip_fraction", "ppo/ratio_max", "ppo/grad_norm",
    "ppo/explained_variance", "ppo/advantage_std", "ppo/return_mean", "ppo/kl_coef", "monitor/response_length_p95",
    "monitor/distinct_across", "monitor/reward_length_corr", "monitor/kl_to_reference", "monitor/mismatch_kl", "monitor/mismatch_ess",
    "ppo/clip_fraction_low", "ppo/clip_fraction_high", "ppo/skipped", "ppo/actor_grad_norm", "ppo/critic_grad_norm",
)  # fmt: skip
METRICS = {name: BY_NAME[name] for name in SHOWN}
# Shown in place of a unit for metrics that have none.
WITHOUT_UNIT = {
    "monitor/perplexity_moss": "lower for longer responses at equal NLL",
    "ppo/policy_loss": "mean over gradient steps",
    "ppo/value_loss": "mean over gradient steps",
    "ppo/ratio_max": "maximum over gradient steps",
    "ppo/grad_norm": "mean over gradient steps",
    "ppo/actor_grad_norm": "mean over gradient steps",
    "ppo/critic_grad_norm": "mean over gradient steps",
    "monitor/reward_length_corr": "correlation over the batch",
}
FIXED = ("eval/gold", "eval/proxy", "monitor/kl_to_sft", "monitor/perplexity", "monitor/response_length", "monitor/entropy")
FREE = ("eval/win", "monitor/perplexity_moss", "monitor/distinct")


def unit_of(name: str) -> str:
    """The unit of a metric, as the page shows it beside the label."""
    unit = METRICS[name].unit
    return WITHOUT_UNIT.get(name, "") if unit == NO_UNIT else unit


def short(values: np.ndarray | Sequence[float], digits: int = 4) -> list:
    """The array as nested lists, rounded to `digits` significant digits. None where not finite."""
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values)
    size = np.floor(np.log10(np.abs(np.where(finite & (values != 0), values, 1.0))))
    scale = 10.0 ** (digits - 1 - size)
    rounded = np.round(np.where(finite, values, 0.0) * scale) / scale
    whole = finite & (rounded == np.trunc(rounded)) & (np.abs(rounded) < 1e15)
    mixed = np.where(finite, rounded, None)
    mixed[whole] = rounded[whole].astype(int)
    return mixed.tolist()


def mean_and_half_width(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(units, updates) → (updates,) twice: the mean over the units measured at each update, and half the width of its t interval.

    The mean is NaN where no unit was measured, and the width where fewer than two were.
    """
    n = np.isfinite(values).sum(axis=0)
    mean = np.divide(np.nansum(values, axis=0), n, out=np.full(values.shape[1], np.nan), where=n > 0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    several = n > 1
    half = np.full(values.shape[1], np.nan)
    n = n[several]
    half[several] = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(squares[several] / (n - 1) / n)
    return mean, half


def per_unit(values: np.ndarray, reward_models: np.ndarray) -> np.ndarray:
    """(runs, updates) of one arm → (units, updates): means per reward model where the arm has several, else the runs themselves."""
    models, of = np.unique(reward_models.astype(str), return_inverse=True)
    if len(models) < 2:
        return values
    known = np.isfinite(values)
    sums, counts = np.zeros((2, len(models), values.shape[1]))
    np.add.at(sums, of, np.where(known, values, 0.0))
    np.add.at(counts, of, known)
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def curve_data(runs: pd.DataFrame, curves: pd.DataFrame, arms: Sequence[str]) -> dict[str, Any]:
    """{metrics, every, fixed, free}, the curves of the page.

    metrics: name → {label, unit, x, seeds, mean, half, n}. x: updates. seeds: one list of values per run, in the order of `runs`.
        mean, half, n: one list per arm, with the mean, half the width of its 95 % interval, and the number of units: reward models
        where an arm has several, else runs.
    every: in a thinned metric only updates divisible by it, and the last, are kept. fixed, free: the metrics of the panels.
    """
    shown = [name for name in METRICS if name in curves and curves[name].notna().any()]
    every = max(1, -(-len(curves) * len(shown) // MAX_NUMBERS))
    row_of = {run: index for index, run in enumerate(runs["run"])}
    rows, updates = curves["run"].astype(str).map(row_of).to_numpy(), curves["update"].to_numpy()
    arm_of, model_of = runs["arm"].to_numpy(), runs["reward_model"].to_numpy()
    metrics = {}
    for name in shown:
        values = curves[name].to_numpy(dtype=float)
        measured = np.isfinite(values)
        x, column = np.unique(updates[measured], return_inverse=True)
        table = np.full((len(runs), len(x)), np.nan)
        table[rows[measured], column] = values[measured]
        if len(x) * len(shown) * len(runs) > MAX_NUMBERS:
            kept = (x % every == 0) | (x == x[-1])
            x, table = x[kept], table[:, kept]
        units = [per_unit(table[arm_of == arm], model_of[arm_of == arm]) for arm in arms]
        bands = [mean_and_half_width(values) for values in units]
        metrics[name] = {
            "label": METRICS[name].panel, "unit": unit_of(name), "x": x.tolist(), "seeds": [_trimmed(row) for row in table],
            "mean": [_trimmed(mean) for mean, _ in bands], "half": [_trimmed(half, 3) for _, half in bands],
            "n": [np.isfinite(values).sum(axis=0).tolist() for values in units],
        }  # fmt: skip
    fixed = [name for name in FIXED if name in metrics]
    free = [name for name in FREE if name in metrics] or [name for name in metrics if name not in fixed][:3]
    return {"metrics": metrics, "every": every, "fixed": fixed, "free": free}


def _trimmed(values: np.ndarray, digits: int = 4) -> list:
    """`short` of the values up to the last finite one, so that missing values at the end take no space."""
    measured = np.flatnonzero(np.isfinite(values))
    return short(values[: measured[-1] + 1], digits) if len(measured) else []
