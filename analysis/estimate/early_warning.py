"""Which monitor sees a collapse coming: ROC area, lead time, false alarms for "gold collapses within k updates".

Rows are updates before collapse, labelled 1 if the collapse comes within k updates, 0 if the run is known to hold that
long, and left out otherwise. A monitor is read as its trailing mean minus its level at the start of the same run, so that
arms with other levels can share a threshold. Direction and threshold are learned on some units (reward models where they
vary, else seeds) and tested on others: every number reported comes from units that took no part in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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

    `smooth`: updates in the trailing mean. `baseline`: first updates whose mean is subtracted; they give no rows. The rows of a run
    are together and in order.
    """
    after = np.flatnonzero(curves["update"].to_numpy() > 0)
    code, runs = pd.factorize(curves["run"].iloc[after])
    order = np.argsort(code, kind="stable")  # the rows of a run together
    code, after = code[order], after[order]
    update = curves["update"].to_numpy()[after]
    starts = _starts(code)
    position = np.arange(len(code)) - starts[code]
    known = outcomes.set_index("run").loc[runs, ["event", "end_update"]].assign(unit=_units(outcomes).loc[runs])
    event, time = known["event"].to_numpy(dtype=bool)[code], known["end_update"].to_numpy(dtype=float)[code]
    collapse = np.where(event, time, np.inf)
    kept = np.flatnonzero((event | (update + within <= time)) & (update < collapse) & (position >= baseline))
    first = np.flatnonzero(position < baseline)  # the rows of each run's baseline
    last = np.append(position[first][1:] == 0, True)[: len(first)]  # of them
    monitored = np.empty((len(names), len(kept)))  # by monitor, as each is read on its own
    for index, name in enumerate(names):
        values = curves[name].to_numpy(dtype=float)[after]
        level = trailing_mean(values[first], baseline, position[first])[last]
        monitored[index] = trailing_mean(values, smooth, position)[kept] - level[code[kept]]
    rest = pd.DataFrame(dict(run=pd.Categorical.from_codes(code[kept], categories=np.asarray(runs)),
                             unit=known["unit"].to_numpy()[code[kept]], update=update[kept], collapse=collapse[kept],
                             label=(collapse[kept] <= update[kept] + within).astype(float)))  # fmt: skip
    return pd.concat([rest, pd.DataFrame(monitored.T, columns=list(names), copy=False)], axis=1)


def _starts(run: np.ndarray) -> np.ndarray:
    """The first row of each run, of rows that are together by run."""
    return np.flatnonzero(np.append(True, run[1:] != run[:-1])) if len(run) else np.empty(0, dtype=int)


def _units(outcomes: pd.DataFrame) -> pd.Series:
    """Number of each run's unit, by run: of its reward model where they vary, else of its seed."""
    several = outcomes["reward_model"].nunique() > 1
    return pd.Series(pd.factorize(outcomes["reward_model" if several else "seed"], sort=True)[0], index=outcomes["run"])


def trailing_mean(values: np.ndarray, width: int, position: np.ndarray) -> np.ndarray:
    """(rows,) → mean of the last `width` rows of the same run up to each, of what was measured; NaN where nothing was.

    `position` (rows,) counts each run's rows from 0; the rows of a run are together and in order.
    """
    totals, counts = np.zeros(len(values)), np.zeros(len(values))
    for lag in range(min(width, len(values)) - 1, -1, -1):
        before, into = values[: len(values) - lag], slice(lag, None)
        measured = np.isfinite(before) & (position[into] >= lag)
        totals[into] += np.where(measured, before, 0.0)
        counts[into] += measured
    return np.divide(totals, counts, out=np.full(len(values), np.nan), where=counts > 0)


def roc_area(score: np.ndarray, label: np.ndarray) -> float:
    """P(score of a positive > score of a negative) + ½ P(equal): Mann and Whitney's U over the number of pairs; NaN without a pair."""
    return _areas(score, label, np.zeros(len(score), dtype=np.uint8))[0]


def areas_without(score: np.ndarray, label: np.ndarray, group: np.ndarray) -> np.ndarray:
    """`roc_area` with each group of rows left out in turn. `group` (rows,): the number of each row's group, from 0."""
    return _areas(score, label, group)[1]


def _areas(score: np.ndarray, label: np.ndarray, group: np.ndarray, order: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """(`roc_area`, `areas_without`); order: what sorts `score`, if that is known.

    U counts pairs, so the U without group g is U − (pairs of its positives) − (pairs of its negatives) + (pairs within it):
    one sort serves all groups. Counts are whole numbers of half pairs and exact.
    """
    if len(score) == 0:
        return np.nan, np.empty(0)
    order = np.argsort(score) if order is None else order
    ordered, positive, group = score[order], (np.asarray(label) == 1)[order], group[order]
    k = int(group.max()) + 1
    tie = np.cumsum(np.append(False, ordered[1:] != ordered[:-1]))
    halves = _half_pairs(tie, positive)
    whole = int(halves[positive].sum())
    touching = np.bincount(group, halves, minlength=k)
    by_group = np.argsort(group, kind="stable")  # each group's rows, in order of score
    positives, groups = positive[by_group], group[by_group]
    apart = np.append(False, (groups[1:] != groups[:-1]) | (np.diff(tie[by_group]) != 0))
    before = np.append(0, np.cumsum(~positives))[_starts(groups)]  # negatives in earlier groups, which are below every positive
    within = np.bincount(groups[positives], _half_pairs(np.cumsum(apart), positives)[positives], minlength=k)
    m, n = np.bincount(groups[positives], minlength=k), np.bincount(groups[~positives], minlength=k)
    present = np.flatnonzero(m + n)
    within[present] -= 2 * before * m[present]
    pairs, left = m.sum() * n.sum(), (m.sum() - m) * (n.sum() - n)
    area = whole / 2 / pairs if pairs else np.nan
    return float(area), np.divide((whole - touching + within) / 2, left, out=np.full(k, np.nan), where=left > 0)


def _half_pairs(tie: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Twice the negatives below each positive row, and the positives above each negative one; equal ones count one half.

    tie (rows,): the number of each row's score among the distinct ones, from 0 and ascending.
    """
    start = _starts(tie)
    stop = np.append(start[1:], len(tie))
    positives = np.append(0, np.cumsum(positive))
    below = (start - positives[start]) + (stop - positives[stop])
    above = 2 * positives[-1] - positives[start] - positives[stop]
    return np.where(positive, below[tie], above[tie])


def first_alarms(run: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
    """The first row of each run whose score is above the threshold, of runs that have one. Rows of a run are together and in order."""
    above = np.flatnonzero(score > threshold)
    return above[_starts(run[above])]


def alarm_counts(run: np.ndarray, label: np.ndarray, passed: np.ndarray, thresholds: int) -> tuple[np.ndarray, np.ndarray]:
    """(runs with a first alarm whose row is labelled 1, runs with an alarm), (thresholds,) each.

    run (rows,): numbers that ascend. passed (rows,): how many of the ascending thresholds a row's score is above. As the largest
    number so far rises in a run, the thresholds that it passes have their first alarm: so no run is gone through for each threshold.
    """
    offset = run.astype(np.int64) * (thresholds + 1)
    most = np.maximum.accumulate(passed + offset) - offset  # a later run begins above whatever an earlier one reached
    earlier = np.append(0, most[:-1])
    earlier[_starts(run)] = 0
    rises = np.flatnonzero(most > earlier)

    def per_threshold(rows: np.ndarray) -> np.ndarray:
        started, ended = (np.bincount(ends[rows], minlength=thresholds + 1) for ends in (earlier, most))
        return np.cumsum(started - ended)[:thresholds]

    return per_threshold(rises[label[rises] == 1]), per_threshold(rises)


def choose_threshold(run: np.ndarray, score: np.ndarray, label: np.ndarray, collapse: np.ndarray, candidates: int = 100,
                     order: np.ndarray | None = None) -> float:  # fmt: skip
    """The threshold with the largest share of collapses seen in time minus share of runs with a false first alarm; ∞ if none pays.

    run, score, label, collapse (rows,): of `at_risk`, run as ascending numbers. order: what sorts `score`, if that is known.
    """
    if len(score) == 0:
        return np.inf
    order = np.argsort(score) if order is None else order
    ordered = score[order]
    thresholds = np.unique(np.quantile(ordered, np.linspace(0, 1, candidates)))
    passed = np.empty(len(score), dtype=np.int64)
    until = np.searchsorted(ordered, thresholds, side="right")  # from here on a score is above the threshold
    passed[order] = np.repeat(np.arange(len(thresholds) + 1), np.diff(until, prepend=0, append=len(score)))
    hits, alarms = alarm_counts(run, label, passed, len(thresholds))
    starts = _starts(run)
    value = hits / max(np.isfinite(collapse[starts]).sum(), 1) - (alarms - hits) / len(starts)
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
    units, unit = np.unique(rows["unit"].to_numpy(), return_inverse=True)
    label = rows["label"].to_numpy()
    if len(units) < 2 or not (label == 1).any() or not (label == 0).any():
        return pd.DataFrame(columns=["monitor", "auc"])
    small = np.uint16 if len(units) < 1 << 16 else np.int64  # numpy sorts 16 bits in one pass
    run = rows["run"].cat.codes.to_numpy()
    about = _Rows(run, unit.astype(small), (unit % min(folds, len(units))).astype(small), rows["update"].to_numpy(dtype=float),
                  rows["collapse"].to_numpy(), label)  # fmt: skip
    found = [row for name in names if (row := _monitor(name, rows[name].to_numpy(), about)) is not None]
    return pd.DataFrame(found, columns=None if found else ["monitor", "auc"]).sort_values("auc", ascending=False, ignore_index=True)


class _Rows(NamedTuple):
    """Columns of `at_risk`, (rows,) each: numbers of run, unit and fold, and update, collapse and label."""

    run: np.ndarray
    unit: np.ndarray
    fold: np.ndarray
    update: np.ndarray
    collapse: np.ndarray
    label: np.ndarray


def _monitor(name: str, values: np.ndarray, about: _Rows) -> dict | None:
    """One monitor: learn sign and threshold without each fold, apply them to it, pool the folds. None if one fold alone measured it."""
    measured = ~np.isnan(values)
    if not measured.all():
        values, about = values[measured], _Rows(*(column[measured] for column in about))
    run, unit, fold, update, collapse, label = about
    folds = np.flatnonzero(np.bincount(fold))
    if len(folds) < 2:
        return None
    order = np.argsort(values)
    learned = _areas(values, label, fold, order)[1]
    scores, signs, seen, false, leads = np.empty(len(values)), set(), 0, 0, []
    for held_out in folds:
        sign = -1.0 if learned[held_out] < 0.5 else 1.0
        train, test = fold != held_out, np.flatnonzero(fold == held_out)
        place = np.cumsum(train) - 1  # of a row among those of `train`
        trained = place[order[train[order]]]
        threshold = choose_threshold(run[train], sign * values[train], label[train], collapse[train],
                                     order=trained if sign > 0 else trained[::-1])  # fmt: skip
        scores[test] = sign * values[test]
        alarms = test[first_alarms(run[test], scores[test], threshold)]
        hits = alarms[label[alarms] == 1]
        leads.append(collapse[hits] - update[hits])
        seen, false = seen + len(hits), false + len(alarms) - len(hits)
        signs.add(sign)
    starts = _starts(run)
    runs, collapses = len(starts), int(np.isfinite(collapse[starts]).sum())
    resorted = np.argsort(scores) if len(signs) > 1 else order if 1.0 in signs else order[::-1]
    auc, low, high = _jackknife(scores, label, unit, resorted)
    return dict(
        monitor=name, direction=int(signs.pop()) if len(signs) == 1 else 0, auc=auc, low=low, high=high,
        detected=seen / collapses if collapses else np.nan, lead=float(np.median(np.concatenate(leads))) if seen else np.nan,
        false_alarms=false / runs, collapses=collapses, runs=runs, units=len(np.flatnonzero(np.bincount(unit))),
    )  # fmt: skip


def _jackknife(score: np.ndarray, label: np.ndarray, unit: np.ndarray, order: np.ndarray | None = None) -> tuple[float, float, float]:
    """ROC area with a t interval from leaving out one unit at a time, made on the logit scale.

    Areas are kept half a pair of rows away from 0 and 1. On the scale of the area itself the interval of an area near 1 is too
    short. Areas without any spread carry no estimate of their error: the interval is [0, 1]. unit (rows,): numbers from 0. order: what
    sorts `score`, if that is known.
    """
    area, without = _areas(score, label, unit, order)
    present = np.flatnonzero(np.bincount(unit))
    n = len(present)
    if n < 3 or np.isnan(area):
        return area, np.nan, np.nan
    pairs = (label == 1).sum() * (label != 1).sum()
    whole, *rest = special.logit(np.clip([area, *without[present]], 0.5 / pairs, 1 - 0.5 / pairs))
    spread = np.sqrt((n - 1) ** 2 / n * np.var(rest, ddof=1))
    if spread <= 1e-12:
        return area, 0.0, 1.0
    half = stats.t.ppf(0.975, n - 1) * spread
    return area, float(special.expit(whole - half)), float(special.expit(whole + half))
