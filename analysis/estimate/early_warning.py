"""Which monitor sees a collapse coming: ROC area, lead time, false alarms for "gold collapses within k updates".

Rows are updates before collapse, labelled 1 if the collapse comes within k updates, 0 if the run is known to hold that
long, and left out otherwise. A monitor is read as its trailing mean minus its level at the start of the same run, so that
arms with other levels can share a threshold. Direction and threshold are learned on some units (reward models where they
vary, else seeds) and tested on others: every number reported comes from units that took no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

PREFIXES = ("monitor/", "reward/", "ppo/")


def monitors(curves: pd.DataFrame) -> list[str]:
    """Metrics that are there at every update without a gold reward, and so can warn."""
    return [name for name in curves.columns if name.startswith(PREFIXES) and curves[name].notna().any()]


def at_risk(outcomes: pd.DataFrame, curves: pd.DataFrame, within: int, names: Sequence[str], *, smooth: int = 3,
            baseline: int = 5) -> pd.DataFrame:  # fmt: skip
    """The labelled rows: run, unit, update, collapse (update or ∞), label (0/1), and one column per monitor.

    `smooth`: updates in the trailing mean. `baseline`: first updates whose mean is subtracted; they give no rows.
    """
    curves = curves[curves["update"] > 0]
    code, runs = pd.factorize(curves["run"])
    order = np.argsort(code, kind="stable")  # the rows of a run together
    code, update = code[order], curves["update"].to_numpy()[order]
    values = curves[list(names)].to_numpy(dtype=float)[order]
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1])) if len(code) else np.empty(0, dtype=int)
    position = np.arange(len(code)) - starts[code]
    known = outcomes.set_index("run").loc[runs, ["event", "end_update"]].assign(unit=_units(outcomes).loc[runs])
    event, time = known["event"].to_numpy(dtype=bool)[code], known["end_update"].to_numpy(dtype=float)[code]
    collapse = np.where(event, time, np.inf)
    kept = (event | (update + within <= time)) & (update < collapse) & (position >= baseline)
    last = starts + np.minimum(np.bincount(code, minlength=len(runs)), baseline) - 1  # of the rows of each run's baseline
    level = trailing_mean(values[position < baseline], baseline, position[position < baseline])
    level = level[np.flatnonzero(np.isin(np.flatnonzero(position < baseline), last))]
    monitored = trailing_mean(values, smooth, position)[kept] - level[code[kept]]
    rest = pd.DataFrame(dict(run=np.asarray(runs)[code[kept]], unit=known["unit"].to_numpy()[code[kept]], update=update[kept],
                             collapse=collapse[kept], label=(collapse[kept] <= update[kept] + within).astype(float)))  # fmt: skip
    return pd.concat([rest, pd.DataFrame(monitored, columns=list(names))], axis=1)


def _units(outcomes: pd.DataFrame) -> pd.Series:
    """Number of each run's unit, by run: of its reward model where they vary, else of its seed."""
    several = outcomes["reward_model"].nunique() > 1
    return pd.Series(pd.factorize(outcomes["reward_model" if several else "seed"], sort=True)[0], index=outcomes["run"])


def trailing_mean(values: np.ndarray, width: int, position: np.ndarray) -> np.ndarray:
    """(rows, columns) → mean of the last `width` rows of the same run up to each, of what was measured; NaN where nothing was.

    `position` (rows,) counts each run's rows from 0; the rows of a run are together and in order.
    """
    totals, counts = np.zeros(values.shape), np.zeros(values.shape)
    for lag in range(min(width, len(values)) - 1, -1, -1):
        before, into = values[: len(values) - lag], slice(lag, None)
        measured = np.isfinite(before) & (position[into] >= lag)[:, None]
        totals[into] += np.where(measured, before, 0.0)
        counts[into] += measured
    return np.divide(totals, counts, out=np.full(values.shape, np.nan), where=counts > 0)


def roc_area(score: np.ndarray, label: np.ndarray) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal): Mann and Whitney's U over the number of pairs."""
    positive = np.asarray(label) == 1
    m, n = positive.sum(), (~positive).sum()
    if m == 0 or n == 0:
        return np.nan
    return float((stats.rankdata(score)[positive].sum() - m * (m + 1) / 2) / (m * n))


def areas_without(score: np.ndarray, label: np.ndarray, group: np.ndarray) -> np.ndarray:
    """`roc_area` with each group of rows left out in turn, in the order of `np.unique(group)`.

    U counts pairs, so the U without group g is U − (pairs of its positives) − (pairs of its negatives) + (pairs within it):
    one sort serves all groups. Counts are whole or half numbers and exact.
    """
    groups, index = np.unique(group, return_inverse=True)
    positive, k = np.asarray(label) == 1, len(groups)
    pairs = _pairs(score, positive)
    members = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index, minlength=k))[:-1])
    within = np.array([_pairs(score[rows], positive[rows])[positive[rows]].sum() for rows in members])
    touching = np.bincount(index, pairs, minlength=k)
    m, n = np.bincount(index[positive], minlength=k), np.bincount(index[~positive], minlength=k)
    left = (m.sum() - m) * (n.sum() - n)
    return np.divide(pairs[positive].sum() - touching + within, left, out=np.full(k, np.nan), where=left > 0)


def _pairs(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """For a positive row the negatives below it, for a negative one the positives above it; equal ones count one half."""
    order = np.argsort(score, kind="stable")
    ordered, ones = score[order], positive[order].astype(float)
    first = np.append(True, ordered[1:] != ordered[:-1]) if len(score) else np.empty(0, dtype=bool)
    start, tie = np.flatnonzero(first), np.cumsum(first) - 1
    stop = np.append(start[1:], len(score))
    positives = np.append(0.0, np.cumsum(ones))
    negatives = np.arange(len(score) + 1) - positives
    below = (negatives[start] + negatives[stop])[tie] / 2
    above = positives[-1] - (positives[start] + positives[stop])[tie] / 2
    found = np.empty(len(score))
    found[order] = np.where(ones == 1, below, above)
    return found


def first_alarms(run: np.ndarray, score: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, alarm): the first row of each run, and (runs, thresholds) the first row above each threshold, −1 if none.

    Rows of a run must be together and in order. The running maximum of a run crosses every threshold where the score
    first does, so one sorted search answers all thresholds.
    """
    starts = np.flatnonzero(np.append(True, run[1:] != run[:-1])) if len(run) else np.empty(0, dtype=int)
    alarm = np.full((len(starts), len(thresholds)), -1)
    for index, (start, stop) in enumerate(zip(starts, np.append(starts[1:], len(run)), strict=True)):
        first = np.searchsorted(np.maximum.accumulate(score[start:stop]), thresholds, side="right")
        alarm[index] = np.where(first < stop - start, start + first, -1)
    return starts, alarm


def alarms(rows: pd.DataFrame, score: np.ndarray, threshold: float) -> pd.DataFrame:
    """One row per run: collapse, collapses, alarm (first update with a score above `threshold`, or NaN), hit (the collapse
    follows in time)."""
    starts, (index,) = _transposed(first_alarms(rows["run"].to_numpy(), score, np.array([threshold])))
    collapse, sounded = rows["collapse"].to_numpy()[starts], index >= 0
    return pd.DataFrame(dict(
        collapse=collapse, collapses=np.isfinite(collapse), alarm=np.where(sounded, rows["update"].to_numpy(dtype=float)[index], np.nan),
        hit=sounded & (rows["label"].to_numpy()[index] == 1),
    ))  # fmt: skip


def _transposed(found: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return found[0], found[1].T


def choose_threshold(rows: pd.DataFrame, score: np.ndarray, candidates: int = 100) -> float:
    """The threshold with the largest share of collapses seen in time minus share of runs with a false first alarm; ∞ if none pays."""
    thresholds = np.unique(np.quantile(score, np.linspace(0, 1, candidates)))
    starts, alarm = first_alarms(rows["run"].to_numpy(), score, thresholds)
    hit = (alarm >= 0) & (rows["label"].to_numpy()[alarm] == 1)
    collapses = np.isfinite(rows["collapse"].to_numpy()[starts])
    value = hit.sum(axis=0) / max(collapses.sum(), 1) - ((alarm >= 0) & ~hit).mean(axis=0)
    return float(thresholds[value.argmax()]) if value.max() > 0 else np.inf


def early_warning(outcomes: pd.DataFrame, curves: pd.DataFrame, *, within: int = 15, names: Sequence[str] | None = None,
                  folds: int = 4) -> pd.DataFrame:  # fmt: skip
    """Every monitor, best first; all numbers from held-out units.

    Columns: monitor, direction (+1 rises, −1 falls before collapse, 0 undecided between folds), auc, low, high (95 %,
    jackknife over units), detected (share of collapses whose first alarm comes within `within` updates before them),
    lead (median updates from alarm to collapse), false_alarms (share of all runs whose first alarm no collapse follows
    within `within` updates), collapses, runs, units. Empty if no run collapsed, there is but one unit, or nothing is measured.
    """
    names = monitors(curves) if names is None else list(names)
    rows = at_risk(outcomes, curves, within, names)
    rows["run"] = pd.factorize(rows["run"])[0]
    units = np.unique(rows["unit"].to_numpy())
    if len(units) < 2 or not (rows["label"] == 1).any() or not (rows["label"] == 0).any():
        return pd.DataFrame(columns=["monitor", "auc"])
    fold = np.searchsorted(units, rows["unit"].to_numpy()) % min(folds, len(units))
    enough = [name for name in names if len(np.unique(fold[rows[name].notna()])) > 1]
    found = [_monitor(name, rows[["run", "unit", "update", "collapse", "label", name]], fold) for name in enough]
    return pd.DataFrame(found, columns=None if found else ["monitor", "auc"]).sort_values("auc", ascending=False, ignore_index=True)


def _monitor(name: str, rows: pd.DataFrame, fold: np.ndarray) -> dict:
    """One monitor: learn sign and threshold without each fold, apply them to it, pool the folds."""
    measured = rows[name].notna().to_numpy()
    rows, fold = rows[measured], fold[measured]
    scores, tested, signs = np.full(len(rows), np.nan), [], []
    learned = areas_without(rows[name].to_numpy(), rows["label"].to_numpy(), fold)
    for held_out, area in zip(np.unique(fold), learned, strict=True):
        train, test = rows[fold != held_out], rows[fold == held_out]
        sign = 1.0 if np.isnan(area) or area >= 0.5 else -1.0
        threshold = choose_threshold(train, sign * train[name].to_numpy()) if len(train) else np.inf
        scores[fold == held_out] = sign * test[name].to_numpy()
        tested.append(alarms(test, sign * test[name].to_numpy(), threshold))
        signs.append(sign)
    table = pd.concat(tested, ignore_index=True)
    seen, collapses = table[table["hit"]], int(table["collapses"].sum())
    auc, low, high = _jackknife(scores, rows["label"].to_numpy(), rows["unit"].to_numpy())
    return dict(
        monitor=name, direction=int(signs[0]) if len(set(signs)) == 1 else 0, auc=auc, low=low, high=high,
        detected=len(seen) / collapses if collapses else np.nan,
        lead=float((seen["collapse"] - seen["alarm"]).median()) if len(seen) else np.nan,
        false_alarms=float((table["alarm"].notna() & ~table["hit"]).mean()),
        collapses=collapses, runs=len(table), units=len(np.unique(rows["unit"])),
    )  # fmt: skip


def _jackknife(score: np.ndarray, label: np.ndarray, unit: np.ndarray) -> tuple[float, float, float]:
    """ROC area with a t interval from leaving out one unit at a time, made on the logit scale.

    Areas are kept half a pair of rows away from 0 and 1. On the scale of the area itself the interval of an area near 1 is too
    short. Areas without any spread carry no estimate of their error: the interval is [0, 1].
    """
    area, n = roc_area(score, label), len(np.unique(unit))
    if n < 3 or np.isnan(area):
        return area, np.nan, np.nan
    pairs = (label == 1).sum() * (label != 1).sum()
    whole, *rest = special.logit(np.clip([area, *areas_without(score, label, unit)], 0.5 / pairs, 1 - 0.5 / pairs))
    spread = np.sqrt((n - 1) ** 2 / n * np.var(rest, ddof=1))
    if spread <= 1e-12:
        return area, 0.0, 1.0
    half = stats.t.ppf(0.975, n - 1) * spread
    return area, float(special.expit(whole - half)), float(special.expit(whole + half))
