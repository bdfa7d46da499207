"""Gold against distance from SFT (Gao et al. 2210.10760): fits, peaks, and whether a KL penalty moves the frontier.

d = √KL(π‖π_SFT), KL in nats per response; R(d) is gold minus SFT's gold. The paper's form for RL is R(d) = d (α − β log d),
which peaks at d* = exp(α/β − 1) with R(d*) = β d*, if β > 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.estimate.outcomes import interpolate_at
from analysis.estimate.power import seeds_for_equivalence, seeds_for_mean
from analysis.estimate.stats import MIN_SEEDS, Effect, Interval, paired_effect

KL, GOLD = "eval/kl_to_sft", "eval/gold"
MOVES, STOPS_EARLIER, HARMS, CANNOT_TELL = "moves the frontier", "acts like early stopping", "lowers the frontier", "cannot tell"


class Frontier(NamedTuple):
    """`effect`: gold at equal KL, treatment − control, averaged over the shared range, paired by seed. `seeds`: how many would
    decide what these cannot, None if no sensible number."""

    verdict: str
    effect: Effect
    margin: float
    seeds: int | None = None


def gao(d: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """R(d) = d (α − β log d), 0 at d = 0."""
    d = np.asarray(d, dtype=float)
    return alpha * d - beta * _d_log_d(d)


def peak(alpha: float, beta: float) -> tuple[float, float]:
    """(d*, R(d*)) = (exp(α/β − 1), β d*); (∞, ∞) if β ≤ 0: no peak in sight."""
    if beta <= 0:
        return np.inf, np.inf
    d = float(np.exp(min(alpha / beta - 1, 700.0)))
    return d, beta * d


def _d_log_d(d: np.ndarray) -> np.ndarray:
    return np.where(d > 0, d * np.log(np.where(d > 0, d, 1.0)), 0.0)


def _normal_equations(d: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """XᵀX (2, 2) and Xᵀy (2,) of the linear model gain = α d − β d log d."""
    design = np.stack([d, -_d_log_d(d)], axis=1)
    return design.T @ design, design.T @ gain


def fit_gao(d: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """Least squares (α, β): the form is linear in both, so there is nothing to iterate or to start badly.

    Raises:
        ValueError: fewer than two distinct distances above 0.
    """
    d, gain = np.asarray(d, dtype=float), np.asarray(gain, dtype=float)
    if len(np.unique(d[d > 0])) < 2:
        raise ValueError("a fit of R(d) needs two distances above 0")
    return tuple(float(value) for value in np.linalg.solve(*_normal_equations(d, gain)))


def points(curves: pd.DataFrame, max_kl: float = np.inf) -> pd.DataFrame:
    """Evaluations as run, arm, seed, update, d, gain; gain is over the run's own evaluation of update 0."""
    whole = curves[curves[KL].notna() & curves[GOLD].notna()]
    start = whole[whole["update"] == 0].set_index("run")[GOLD]
    gain = whole[GOLD].to_numpy() - start.reindex(whole["run"].astype(str)).to_numpy()
    table = whole[["run", "arm", "seed", "update"]].assign(d=np.sqrt(whole[KL].clip(lower=0)), gain=gain)
    return table[(whole[KL] <= max_kl) & np.isfinite(gain)].reset_index(drop=True)


def fit_arms(curves: pd.DataFrame, generator: np.random.Generator, *, max_kl: float = np.inf, repetitions: int = 2000,
             level: float = 0.95) -> pd.DataFrame:  # fmt: skip
    """Gao's form for every arm: arm, seeds, alpha, beta, peak_d, peak_gain, each with _low and _high, and r2.

    Intervals redraw whole seeds, because the evaluations of a run are not independent. A peak beyond the largest distance
    seen is an extrapolation: `peak_seen` says whether it is not. Arms with fewer than two distances are left out.
    """
    rows = []
    for arm, part in points(curves, max_kl).groupby("arm", sort=True, observed=True):
        if len(np.unique(part["d"][part["d"] > 0])) < 2:
            continue
        alpha, beta = fit_gao(part["d"], part["gain"])
        draws = _bootstrap_fits(part, generator, repetitions)
        tails = [(1 - level) / 2, (1 + level) / 2]
        peaks = np.array([peak(*draw) for draw in draws])
        intervals = {"alpha": Interval(alpha, *np.quantile(draws[:, 0], tails)), "beta": Interval(beta, *np.quantile(draws[:, 1], tails))}
        for index, name in enumerate(("peak_d", "peak_gain")):
            intervals[name] = Interval(peak(alpha, beta)[index], *np.quantile(peaks[:, index], tails, method="nearest"))
        residual = part["gain"] - gao(part["d"], alpha, beta)
        row = dict(arm=arm, seeds=part["seed"].nunique(), r2=float(1 - residual.var() / part["gain"].var()),
                   peak_seen=bool(intervals["peak_d"].estimate <= part["d"].max()))  # fmt: skip
        for name, interval in intervals.items():
            row |= {name: interval.estimate, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
        rows.append(row)
    return pd.DataFrame(rows)


def _bootstrap_fits(part: pd.DataFrame, generator: np.random.Generator, repetitions: int) -> np.ndarray:
    """(repetitions, 2) fits, seeds redrawn; only their normal equations are summed, so a fit costs a 2 × 2 solve."""
    sums = [_normal_equations(one["d"].to_numpy(), one["gain"].to_numpy()) for _, one in part.groupby("seed")]
    squares, products = np.stack([a for a, _ in sums]), np.stack([b for _, b in sums])
    draws = generator.integers(len(sums), size=(repetitions, len(sums)))
    return np.linalg.solve(squares[draws].sum(axis=1), products[draws].sum(axis=1)[..., None])[..., 0]


def frontier_test(curves: pd.DataFrame, treatment: str, control: str, margin: float, *, grid: int = 16) -> Frontier:
    """Does `treatment` (a KL penalty) reach other gold than `control` (none) at equal KL?

    For every seed, gold at first crossing, linear in √KL between evaluations, is compared on an even grid of √KL over the
    upper three quarters of the range that both runs reach (below it both are still SFT), and averaged: one number a seed,
    tested by paired t. 'acts like early stopping': the 90 % interval lies within ± margin (two one-sided tests); else
    'moves' or 'lowers the frontier' if the 95 % interval excludes 0. An arm whose KL jumps far between evaluations is known
    only at its jumps: evaluate often.
    """
    wide = curves[curves["arm"].isin([treatment, control]) & curves[GOLD].notna()]
    paths = {(run.arm, run.seed): part for run, part in _runs(wide)}
    differences = []
    for seed in sorted({seed for arm, seed in paths if arm == treatment} & {seed for arm, seed in paths if arm == control}):
        a, b = paths[treatment, seed], paths[control, seed]
        distances = [np.sqrt(path[KL].to_numpy().clip(min=0)) for path in (a, b)]
        top = min(np.nanmax(distance) for distance in distances)
        gold = [[interpolate_at(distance, path[GOLD].to_numpy(), d) for d in np.linspace(top / 4, top, grid)]
                for distance, path in zip(distances, (a, b), strict=True)]  # fmt: skip
        differences.append(np.mean(gold[0]) - np.mean(gold[1]))
    effect, inner = paired_effect(np.array(differences)), paired_effect(np.array(differences), 0.90)
    if effect.n < MIN_SEEDS:
        verdict = CANNOT_TELL
    elif -margin < inner.low and inner.high < margin:
        verdict = STOPS_EARLIER
    else:
        verdict = CANNOT_TELL if effect.p >= 0.05 else MOVES if effect.estimate > 0 else HARMS
    return Frontier(verdict, effect, margin, _seeds_needed(np.array(differences), margin) if verdict == CANNOT_TELL else None)


def _seeds_needed(differences: np.ndarray, margin: float) -> int | None:
    """Seeds with which differences like these would show a shift or the lack of one; `MIN_SEEDS` where there is no spread yet."""
    if len(differences) < 2:
        return MIN_SEEDS
    found = [seeds for seeds in (seeds_for_mean(differences), seeds_for_equivalence(differences, margin)) if seeds is not None]
    return max(min(found), len(differences) + 1, MIN_SEEDS) if found else None


def _runs(curves: pd.DataFrame):
    for _, part in curves.groupby("run", observed=True, sort=False):
        yield part.iloc[0], part


def against_early_stopping(curves: pd.DataFrame, treatment: str, control: str) -> Effect:
    """Gold of `treatment` at its end minus gold of `control` stopped early, paired by seed.

    Each control run is stopped at the update that is best for the mean of the *other* seeds: picking its own best evaluation
    would count luck as skill.
    """
    wide = curves[curves[GOLD].notna()]
    stopped = wide[wide["arm"] == control].pivot(index="seed", columns="update", values=GOLD).dropna(axis=1)
    ends = wide[wide["arm"] == treatment].sort_values("update").groupby("seed")[GOLD].last()
    differences = []
    for seed in stopped.index.intersection(ends.index):
        others = stopped.drop(index=seed)
        if len(others):
            differences.append(ends[seed] - stopped.loc[seed, others.mean().idxmax()])
    return paired_effect(np.array(differences))
