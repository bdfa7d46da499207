"""Curves of the page: which metrics it shows, a mean with its interval for every arm, and every seed.

Numbers keep four significant digits, and large studies fewer updates (`MAX_NUMBERS`), so that the page stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

MAX_NUMBERS = 500_000  # of single runs, over all metrics


class Metric(NamedTuple):
    label: str
    unit: str


METRICS = {
    "eval/gold": Metric("gold reward", "held-out prompts"),
    "eval/proxy": Metric("proxy reward", "score, held-out prompts"),
    "monitor/kl_to_sft": Metric("KL to SFT", "nats per response"),
    "monitor/perplexity": Metric("true perplexity", "of responses under the policy"),
    "monitor/response_length": Metric("response length", "tokens"),
    "monitor/entropy": Metric("entropy", "nats per token"),
    "eval/win": Metric("wins against SFT", "share of held-out prompts, by gold"),
    "monitor/perplexity_moss": Metric("MOSS's perplexity", "as MOSS-RLHF logs it"),
    "monitor/distinct": Metric("distinct bigrams", "share within a response"),
    "eval/tie": Metric("ties with SFT", "share of held-out prompts, by gold"),
    "eval/lose": Metric("losses against SFT", "share of held-out prompts, by gold"),
    "eval/helpful/gold": Metric("gold, helpful prompts", "held-out prompts"),
    "eval/harmful/gold": Metric("gold, harmful prompts", "held-out prompts"),
    "eval/kl_to_sft": Metric("KL to SFT, held-out", "nats per response"),
    "monitor/perplexity_ref": Metric("perplexity under SFT", "of the policy's responses"),
    "monitor/kl_per_token": Metric("KL per token", "nats per token, sampled"),
    "monitor/truncated": Metric("truncated", "share of responses that never ended"),
    "reward/proxy_mean": Metric("proxy reward, training", "score"),
    "reward/proxy_std": Metric("proxy reward, SD", "score"),
    "reward/proxy_p95": Metric("proxy reward, 95th percentile", "score"),
    "reward/shaped_mean": Metric("shaped reward", "after every reward trick"),
    "ppo/policy_loss": Metric("policy loss", "mean over gradient steps"),
    "ppo/value_loss": Metric("value loss", "mean over gradient steps"),
    "ppo/approx_kl": Metric("approximate KL of the update", "nats per token"),
    "ppo/clip_fraction": Metric("clip fraction", "share of tokens"),
    "ppo/ratio_max": Metric("largest ratio", "maximum over gradient steps"),
    "ppo/grad_norm": Metric("gradient norm", "before clipping"),
    "ppo/explained_variance": Metric("explained variance", "of returns by the critic"),
    "ppo/advantage_std": Metric("SD of advantages", "before normalisation"),
    "ppo/return_mean": Metric("mean return", "before the first gradient step"),
    "ppo/kl_coef": Metric("KL coefficient η", "score per nat"),
}
FIXED = ("eval/gold", "eval/proxy", "monitor/kl_to_sft", "monitor/perplexity", "monitor/response_length", "monitor/entropy")
FREE = ("eval/win", "monitor/perplexity_moss", "monitor/distinct")


def short(values: np.ndarray | Sequence[float], digits: int = 4) -> list:
    """`digits` significant digits; None where not finite. Nested as the array is."""
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
    """(seeds, updates) → mean over the seeds measured at each update, and half the width of its t interval.

    NaN means where nobody was measured, NaN widths where fewer than two were.
    """
    n = np.isfinite(values).sum(axis=0)
    mean = np.divide(np.nansum(values, axis=0), n, out=np.full(values.shape[1], np.nan), where=n > 0)
    squares = np.nansum((values - mean) ** 2, axis=0)
    several = n > 1
    half = np.full(values.shape[1], np.nan)
    n = n[several]
    half[several] = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(squares[several] / (n - 1) / n)
    return mean, half


def curve_data(runs: pd.DataFrame, curves: pd.DataFrame, arms: Sequence[str]) -> dict[str, Any]:
    """{'metrics': {name: {label, unit, x, seeds (a list a run, in the order of `runs`), mean, half, n (lists an arm)}}, …}.

    'every' is the spacing of updates kept, 'fixed' and 'free' are the panels' metrics.
    """
    shown = [name for name in METRICS if name in curves and curves[name].notna().any()]
    every = max(1, -(-len(curves) * len(shown) // MAX_NUMBERS))
    row_of = {run: index for index, run in enumerate(runs["run"])}
    rows, updates = curves["run"].astype(str).map(row_of).to_numpy(), curves["update"].to_numpy()
    arm_of = runs["arm"].to_numpy()
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
        bands = [mean_and_half_width(table[arm_of == arm]) for arm in arms]
        metrics[name] = {
            "label": METRICS[name].label, "unit": METRICS[name].unit, "x": x.tolist(), "seeds": [_trimmed(row) for row in table],
            "mean": [_trimmed(mean) for mean, _ in bands], "half": [_trimmed(half, 3) for _, half in bands],
            "n": [np.isfinite(table[arm_of == arm]).sum(axis=0).tolist() for arm in arms],
        }  # fmt: skip
    fixed = [name for name in FIXED if name in metrics]
    free = [name for name in FREE if name in metrics] or [name for name in metrics if name not in fixed][:3]
    return {"metrics": metrics, "every": every, "fixed": fixed, "free": free}


def _trimmed(values: np.ndarray, digits: int = 4) -> list:
    """`short`, without what was not measured at the end: unfinished runs and single seeds cost nothing."""
    measured = np.flatnonzero(np.isfinite(values))
    return short(values[: measured[-1] + 1], digits) if len(measured) else []
