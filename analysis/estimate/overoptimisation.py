"""Gold against distance from SFT (Gao et al. 2210.10760): fits, peaks, and whether a KL penalty moves the frontier.

d = √KL(π‖π_SFT), KL in nats per response; R(d) is gold minus SFT's gold. The paper's form for RL is R(d) = d (α − β log d),
which peaks at d* = exp(α/β − 1) with R(d*) = β d*, if β > 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimate.power import seeds_for_equivalence, seeds_for_mean
from analysis.estimate.stats import Effect, Interval, paired_effect
from analysis.estimate.units import MIN_SEEDS, Basis, per_unit

KL, GOLD = "eval/kl_to_sft", "eval/gold"
MOVES, STOPS_EARLIER, HARMS, CANNOT_TELL = "moves the frontier", "acts like early stopping", "lowers the frontier", "cannot tell"


class Frontier(NamedTuple):
    """`effect`: gold at equal KL, treatment − control, averaged over the shared range, paired, over units. `needed`: how many units would
    decide what these cannot, None if no sensible number. `unmeasured`: pairs that give no number, as an arm has fewer than two
    evaluations in the range or a gap of more than half of it between them; `every`: the largest `evaluation.every` that would
    have measured all of them, NaN if there are none."""

    verdict: str
    effect: Effect
    margin: float
    needed: int | None = None
    unmeasured: int = 0
    every: float = np.nan


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
    """Evaluations as run, arm, reward_model, seed, update, d, gain; gain is over the run's own evaluation of update 0."""
    whole = curves[curves[KL].notna() & curves[GOLD].notna()]
    start = whole[whole["update"] == 0].set_index("run")[GOLD]
    gain = whole[GOLD].to_numpy() - start.reindex(whole["run"].astype(str)).to_numpy()
    table = whole[["run", "arm", "reward_model", "seed", "update"]].assign(d=np.sqrt(whole[KL].clip(lower=0)), gain=gain)
    return table[(whole[KL] <= max_kl) & np.isfinite(gain)].reset_index(drop=True)


def fit_arms(curves: pd.DataFrame, *, max_kl: float = np.inf, level: float = 0.95) -> pd.DataFrame:
    """Gao's form for every arm, one row per arm that has two distances.

    Columns: arm, basis, units, r2, peak_seen, and alpha, beta, peak_d, peak_gain, each with _low and _high: jackknife intervals over units
    (the reward model where it varies, else the run), since the evaluations of a run are not independent. An interval of the peak
    is made on the log scale, and is unbounded where a fit without one unit has no peak. A peak beyond the largest distance seen is an
    extrapolation: `peak_seen` says whether it is not.
    """
    rows = []
    for arm, part in points(curves, max_kl).groupby("arm", sort=True, observed=True):
        if len(np.unique(part["d"][part["d"] > 0])) < 2:
            continue
        alpha, beta = fit_gao(part["d"], part["gain"])
        several = part["reward_model"].nunique() > 1
        unit = part["reward_model"].astype(str) if several else part["seed"]
        sums = [_normal_equations(one["d"].to_numpy(), one["gain"].to_numpy()) for _, one in part.groupby(unit.to_numpy())]
        counts = part.groupby("reward_model", observed=True)["seed"].nunique()
        basis = Basis(len(counts), int(counts.min()), int(counts.max()), int(counts.sum()))
        without = _fits_without(sums)
        best = np.array([peak(*fit) for fit in without]).reshape(-1, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.vstack([peak(alpha, beta), best]))
        intervals = {"alpha": _jackknife(alpha, without[:, 0], level), "beta": _jackknife(beta, without[:, 1], level)}
        for index, name in enumerate(("peak_d", "peak_gain")):
            found = _jackknife(logs[0, index], logs[1:, index], level) if np.isfinite(logs[:, index]).all() else Interval(np.nan, 0, np.inf)
            value = peak(alpha, beta)[index]
            ends = np.exp(np.clip([found.low, found.high], -700, 700)) if np.isfinite(found.estimate) else (0.0, np.inf)
            intervals[name] = Interval(value, float(ends[0]), float(ends[1]))
        residual = part["gain"] - gao(part["d"], alpha, beta)
        row = dict(arm=arm, basis=str(basis), units=basis.units, r2=float(1 - residual.var() / part["gain"].var()),
                   peak_seen=bool(intervals["peak_d"].estimate <= part["d"].max()))  # fmt: skip
        for name, interval in intervals.items():
            row |= {name: interval.estimate, f"{name}_low": float(interval.low), f"{name}_high": float(interval.high)}
        rows.append(row)
    return pd.DataFrame(rows)


def _fits_without(sums: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(units, 2) fits, each without one unit: only normal equations are summed, so a fit costs a 2 × 2 solve; NaN where it has none."""
    squares, products = np.stack([a for a, _ in sums]), np.stack([b for _, b in sums])
    left, right = squares.sum(axis=0) - squares, products.sum(axis=0) - products
    solvable = np.abs(np.linalg.det(left)) > 1e-12
    fits = np.full((len(sums), 2), np.nan)
    fits[solvable] = np.linalg.solve(left[solvable], right[solvable][..., None])[..., 0]
    return fits


def _jackknife(estimate: float, without: np.ndarray, level: float) -> Interval:
    """Estimate ± t √((n − 1)/n Σ (θ₋ᵢ − mean θ₋)²) with n − 1 degrees of freedom; unbounded for one unit or where a fit lacks."""
    n = len(without)
    if n < 2 or not np.isfinite(without).all():
        return Interval(float(estimate), -np.inf, np.inf)
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return Interval(float(estimate), float(estimate - half), float(estimate + half))


def frontier_test(curves: pd.DataFrame, treatment: str, control: str, margin: float, *, grid: int = 16) -> Frontier:
    """Does `treatment` (a KL penalty) reach other gold than `control` (none) at equal KL?

    For every pair, gold at first crossing, linear in √KL between evaluations, is compared on an even grid of √KL over the
    upper three quarters of the range that both runs reach (below it both are still SFT), and averaged: one number per pair. A pair
    counts only if both runs were measured in that range: two evaluations at least within it, and no two neighbours further
    apart than half of it. 'acts like early stopping': the 90 % t interval over units lies within ± margin (two one-sided tests);
    else 'moves' or 'lowers the frontier' if the 95 % interval excludes 0.
    """
    paths = _paths(curves, treatment, control)
    models, found, wanted = [], [], []
    for model, seed in _pairs(paths, treatment, control):
        pair = paths[treatment, model, seed], paths[control, model, seed]
        top = min(distance.max() for distance, _, _ in pair)
        every = min(_every_needed(distance, updates, top) for distance, _, updates in pair)
        measured = all(_measured(distance, top) for distance, _, _ in pair)
        gold = [[_at_crossing(distance, values, d) for d in np.linspace(top / 4, top, grid)] for distance, values, _ in pair]
        models.append(model)
        found.append(np.mean(gold[0]) - np.mean(gold[1]) if measured else np.nan)
        wanted += [] if measured else [every]
    gaps = per_unit(np.array(models, dtype=str), np.array(found, dtype=float))
    effect, inner = paired_effect(gaps.values)._replace(basis=gaps.basis), paired_effect(gaps.values, 0.90)
    every = min(wanted, default=np.nan)
    if not gaps.basis.enough():
        verdict = CANNOT_TELL
    elif -margin < inner.low and inner.high < margin:
        verdict = STOPS_EARLIER
    else:
        verdict = CANNOT_TELL if effect.p >= 0.05 else MOVES if effect.estimate > 0 else HARMS
    needed = _units_needed(gaps.values, margin) if verdict == CANNOT_TELL and len(gaps.values) else None
    return Frontier(verdict, effect, margin, needed, len(wanted), every)


def end_at_equal_kl(curves: pd.DataFrame, treatment: str, control: str) -> Effect:
    """Gold of `treatment` at its end minus that of `control` where it first had the KL of that end, paired, over units.

    `frontier_test` compares arms on the way to a KL, where a penalty has hardly acted yet. A penalised run then stays at a KL that the
    other passes in a few updates, and may go on to gain: if the penalty only stopped earlier, its end would have what the control had
    there. A pair counts if the control came as far and was measured on the way, as in `frontier_test`.
    """
    paths = _paths(curves, treatment, control)
    models, found = [], []
    for model, seed in _pairs(paths, treatment, control):
        (reached, gold, _), (distance, values, _) = paths[treatment, model, seed], paths[control, model, seed]
        there = distance.max() >= reached[-1] and _measured(distance, reached[-1])
        models.append(model)
        found.append(gold[-1] - _at_crossing(distance, values, reached[-1]) if there else np.nan)
    gaps = per_unit(np.array(models, dtype=str), np.array(found, dtype=float))
    return paired_effect(gaps.values)._replace(basis=gaps.basis)


def frontier_words(verdict: str, at_end: float, p: float) -> str:
    """The verdict of `frontier_test` with what `end_at_equal_kl` adds to it: 'acts like early stopping' is half of the truth where the
    end has other gold than the control had at that KL (p < 0.05)."""
    if verdict != STOPS_EARLIER or not p < 0.05:
        return verdict
    return f"the same on the way, {'more' if at_end > 0 else 'less'} at its end"


def _paths(curves: pd.DataFrame, treatment: str, control: str) -> dict[tuple, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(arm, reward model, seed) → √KL, gold and update of its evaluations, in order."""
    wide = curves[curves["arm"].isin([treatment, control]) & curves[GOLD].notna() & curves[KL].notna()]
    return {tuple(key): (np.sqrt(part[KL].to_numpy().clip(min=0)), part[GOLD].to_numpy(), part["update"].to_numpy())
            for key, part in wide.sort_values("update").groupby(["arm", "reward_model", "seed"], observed=True)}  # fmt: skip


def _pairs(paths: dict[tuple, tuple], treatment: str, control: str) -> list[tuple]:
    """The (reward model, seed) of which both arms have a path, in order."""
    return sorted({key[1:] for key in paths if key[0] == treatment} & {key[1:] for key in paths if key[0] == control})


def _measured(distance: np.ndarray, top: float) -> bool:
    """Whether a path of √KL was measured between top / 4 and top: two evaluations within, and no gap wider than half of that range."""
    until = distance[: np.flatnonzero(distance >= top)[0] + 1]
    within = np.unique(until[(until >= top / 4) & (until <= top)])
    before = until[until < top / 4]
    marks = np.concatenate([[before.max()] if len(before) else [], within, [distance[len(until) - 1]]])
    return top > 0 and len(within) >= 2 and bool(np.diff(marks).max() <= (top - top / 4) / 2)


def _every_needed(distance: np.ndarray, updates: np.ndarray, top: float) -> float:
    """The largest `evaluation.every` that would measure the range, whether √KL or KL runs in lines between evaluations; at least 1."""
    for every in range(int(np.diff(updates).max(initial=1)), 1, -1):
        at = np.unique([*np.arange(updates[0], updates[-1], every), updates[-1]])
        paths = np.interp(at, updates, distance), np.sqrt(np.interp(at, updates, distance**2))
        if all(_measured(path, min(top, path.max())) for path in paths):
            return float(every)
    return 1.0


def _at_crossing(x: np.ndarray, y: np.ndarray, target: float) -> float:
    """y at the first crossing of `target` by the path x, linear between neighbours; the first y where x starts beyond it."""
    after = np.flatnonzero(x >= target)[0]
    if after == 0:
        return float(y[0])
    share = (target - x[after - 1]) / (x[after] - x[after - 1])
    return float(y[after - 1] + share * (y[after] - y[after - 1]))


def _units_needed(differences: np.ndarray, margin: float) -> int | None:
    """Units with which differences like these would show a shift or the lack of one; `MIN_SEEDS` where there is no spread yet."""
    if len(differences) < 2:
        return MIN_SEEDS
    found = [seeds for seeds in (seeds_for_mean(differences), seeds_for_equivalence(differences, margin)) if seeds is not None]
    return max(min(found), len(differences) + 1, MIN_SEEDS) if found else None


def against_early_stopping(curves: pd.DataFrame, treatment: str, control: str) -> Effect:
    """Gold of `treatment` at its end minus gold of `control` stopped early, paired, over units.

    Each control run is stopped at the update that is best for the mean of the *other* runs: picking its own best evaluation
    would count luck as skill.
    """
    wide = curves[curves[GOLD].notna()].astype({"reward_model": str})
    keys = ["reward_model", "seed"]
    stopped = wide[wide["arm"] == control].pivot(index=keys, columns="update", values=GOLD).dropna(axis=1)
    ends = wide[wide["arm"] == treatment].sort_values("update").groupby(keys)[GOLD].last()
    models, found = [], []
    for key in stopped.index.intersection(ends.index):
        others = stopped.drop(index=key)
        if len(others):
            models.append(key[0])
            found.append(ends[key] - stopped.loc[key, others.mean().idxmax()])
    gaps = per_unit(np.array(models, dtype=str), np.array(found, dtype=float))
    return paired_effect(gaps.values)._replace(basis=gaps.basis)
