"""Early warning: planted warnings are found on seeds that took no part in learning them, and noise is not."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulate import Arm, write_study

from analysis.estimate.early_warning import alarm_counts, areas_without, at_risk, choose_threshold, early_warning, first_alarms, roc_area
from analysis.estimate.outcomes import outcomes
from analysis.load.frames import load


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    arms = {"vanilla": Arm(collapse_probability=1.0), "kl": Arm({"ppo.kl_penalty": True})}
    loaded = load(write_study(tmp_path_factory.mktemp("warning"), arms, 8, np.random.default_rng(11)))
    return outcomes(loaded.runs, loaded.curves), loaded.curves


def test_the_roc_area_is_mann_whitneys_with_ties_as_halves():
    generator = np.random.default_rng(0)
    score, label = generator.integers(0, 5, 60), generator.integers(0, 2, 60)
    expected = stats.mannwhitneyu(score[label == 1], score[label == 0]).statistic / ((label == 1).sum() * (label == 0).sum())
    assert roc_area(score, label) == pytest.approx(expected, abs=1e-14)
    assert roc_area(np.array([1, 2, 3, 4]), np.array([0, 0, 1, 1])) == 1.0
    assert np.isnan(roc_area(np.array([1, 2]), np.array([1, 1])))


def test_areas_without_a_group_are_those_of_the_other_rows():
    generator = np.random.default_rng(3)
    score, label, group = generator.integers(0, 9, 300).astype(float), generator.integers(0, 2, 300), generator.integers(0, 7, 300)
    label[group == 5] = 1  # a group without negatives
    expected = [roc_area(score[group != g], label[group != g]) for g in range(7)]
    assert areas_without(score, label, group).tolist() == pytest.approx(expected, abs=1e-15)
    one_sided = areas_without(score, np.where(group == 2, 1, 0), group)
    assert np.isnan(one_sided[2]) and np.isfinite(np.delete(one_sided, 2)).all()  # without group 2 there is no positive


def test_monitors_are_smoothed_within_each_run_as_a_loop_does():
    generator = np.random.default_rng(4)
    rows = [(run, update) for run, last in (("b", 9), ("a", 3), ("c", 12)) for update in range(1, last + 1)]
    curves = pd.DataFrame(rows, columns=["run", "update"]).assign(m=generator.normal(size=24), n=generator.normal(size=24))
    curves.loc[[2, 11, 15], "m"] = np.nan
    curves = curves.iloc[np.argsort(curves["update"].to_numpy(), kind="stable")].reset_index(drop=True)  # runs interleaved
    known = pd.DataFrame(
        dict(run=["a", "b", "c"], reward_model="", seed=[0, 1, 2], event=[False, True, False], end_update=[3.0, 8.0, 99.0])
    )
    found = at_risk(known, curves, within=2, names=["m", "n"], smooth=3, baseline=2).set_index(["run", "update"])
    assert set(found.index) == {("b", u) for u in range(3, 8)} | {("c", u) for u in range(3, 13)}
    for (run, update), row in found.iterrows():
        part = curves[curves["run"] == run].set_index("update")
        for name in ("m", "n"):
            window, first = part.loc[max(1, update - 2) : update, name], part.loc[1:2, name]
            assert row[name] == pytest.approx(window.mean() - first.mean(), abs=1e-14, nan_ok=True)


def test_rows_are_updates_at_risk_whose_future_is_known():
    curves = pd.DataFrame(dict(run=["a"] * 12 + ["b"] * 12, update=[*range(1, 13)] * 2, m=np.arange(24.0)))
    known = pd.DataFrame(dict(run=["a", "b"], reward_model="", seed=[0, 1], event=[True, False], end_update=[10.0, 12.0]))
    rows = at_risk(known, curves, within=3, names=["m"], smooth=1, baseline=1)
    a, b = rows[rows["run"] == "a"], rows[rows["run"] == "b"]
    assert a["update"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]  # none from the baseline, none from the collapse on
    assert a["label"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]  # 7 + 3 reaches 10
    assert b["update"].tolist() == [2, 3, 4, 5, 6, 7, 8, 9] and b["label"].sum() == 0  # 10 + 3 is past what is known
    assert a["m"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]  # over the level at the start


def test_the_first_alarms_of_runs_and_their_counts_are_what_a_loop_finds():
    generator = np.random.default_rng(1)
    run, score, label = np.repeat([0, 1, 2, 5, 6, 9], 7), generator.normal(size=42).round(1), generator.integers(0, 2, 42)
    thresholds = np.unique(np.append(score[::5], [-9.0, 9.0]))
    passed = (score[:, None] > thresholds).sum(axis=1)
    hits, alarms = alarm_counts(run, label, passed, len(thresholds))
    for j, threshold in enumerate(thresholds):
        above = [[k for k in range(start, start + 7) if score[k] > threshold] for start in range(0, 42, 7)]
        first = [rows[0] for rows in above if rows]
        assert first_alarms(run, score, threshold).tolist() == first
        assert (hits[j], alarms[j]) == (label[first].sum(), len(first))


def test_alarms_too_early_and_in_runs_that_hold_are_false():
    run, collapse = np.repeat([0, 1, 2], 3), np.repeat([4.0, 9.0, np.inf], 3)  # updates 1 to 3 of runs warned late, early and for nothing
    label = np.array([0, 1, 1, 0, 0, 0, 0, 0, 0])
    score = np.array([0, 0, 5.0, 0, 5, 0, 0, 0, 5])
    assert first_alarms(run, score, 1.0).tolist() == [2, 4, 8] and label[[2, 4, 8]].tolist() == [1, 0, 0]
    assert len(first_alarms(run, score, 5.0)) == 0  # above, not at
    assert choose_threshold(run, np.array([0, 0, 5.0, 0, 0, 0, 0, 0, 0]), label, collapse) < 5.0
    assert choose_threshold(run, score, np.zeros(9), collapse) == np.inf  # nothing to gain


def area_by_pairs(score: np.ndarray, label: np.ndarray) -> float:
    pairs = [(a > b) + (a == b) / 2 for a in score[label == 1] for b in score[label == 0]]
    return float(np.mean(pairs)) if pairs else np.nan


def first_of(rows: pd.DataFrame, score: np.ndarray, threshold: float) -> list[tuple[float, float, bool]]:
    """(update, collapse, hit) of the first alarm of each run that has one."""
    found = []
    for run in rows["run"].unique():
        above = rows[(rows["run"] == run).to_numpy() & (score > threshold)]
        if len(above):
            found.append((float(above["update"].iloc[0]), float(above["collapse"].iloc[0]), bool(above["label"].iloc[0] == 1)))
    return found


def monitored_by_loops(rows: pd.DataFrame, name: str, folds: int) -> dict | None:
    """What `early_warning` says of a monitor, by going through folds, thresholds and runs one by one."""
    fold = np.searchsorted(np.unique(rows["unit"]), rows["unit"]) % folds
    rows, fold = rows[rows[name].notna()], fold[rows[name].notna()]
    if len(set(fold)) < 2:
        return None
    scores, signs, sounded = np.full(len(rows), np.nan), [], []
    collapses = {run: np.isfinite(part["collapse"].iloc[0]) for run, part in rows.groupby("run", observed=True)}
    for held_out in sorted(set(fold)):
        train, test = rows[fold != held_out], rows[fold == held_out]
        area = area_by_pairs(train[name].to_numpy(), train["label"].to_numpy())
        sign = -1.0 if area < 0.5 else 1.0
        best, chosen = 0.0, np.inf
        for threshold in np.unique(np.quantile(sign * train[name], np.linspace(0, 1, 100))):
            hits = [hit for *_, hit in first_of(train, sign * train[name].to_numpy(), threshold)]
            runs = train["run"].unique()
            value = sum(hits) / max(sum(collapses[run] for run in runs), 1) - (len(hits) - sum(hits)) / len(runs)
            best, chosen = (value, threshold) if value > best else (best, chosen)
        scores[fold == held_out] = sign * test[name]
        signs.append(sign)
        sounded += first_of(test, sign * test[name].to_numpy(), chosen)
    leads = [collapse - update for update, collapse, hit in sounded if hit]
    return dict(
        monitor=name, direction=int(signs[0]) if len(set(signs)) == 1 else 0, auc=area_by_pairs(scores, rows["label"].to_numpy()),
        detected=len(leads) / sum(collapses.values()), lead=np.median(leads) if leads else np.nan,
        false_alarms=(len(sounded) - len(leads)) / len(collapses), collapses=sum(collapses.values()), runs=len(collapses),
        units=rows["unit"].nunique(),
    )  # fmt: skip


@pytest.mark.parametrize("models", [1, 3])
def test_every_monitor_is_judged_as_by_loops_over_folds_thresholds_and_runs(models):
    generator, known, parts = np.random.default_rng(models), [], []
    for index in range(9):
        length, event = int(generator.integers(12, 26)), index % 2 == 0
        end = float(generator.integers(10, length + 1)) if event else float(length)
        dip = event * (np.arange(length) >= end - 5)
        rising, turned = generator.normal(size=length) + 2 * dip, generator.normal(size=length) + (1 if index % 4 else -2) * dip
        turned[generator.random(length) < 0.2] = np.nan
        known.append(dict(run=f"r{index}", reward_model=f"m{index % models}", seed=7 * (index // 2), event=event, end_update=end))
        parts.append(pd.DataFrame(dict(run=f"r{index}", update=range(length), rising=rising, turned=turned,
                                       ties=generator.integers(0, 3, length), rare=np.nan if index > 1 else 1.0)))  # fmt: skip
    known, curves, names = pd.DataFrame(known), pd.concat(parts, ignore_index=True), ["rising", "turned", "ties", "rare"]
    found = early_warning(known, curves, within=5, names=names, folds=3).set_index("monitor")
    rows = at_risk(known, curves, 5, names)
    expected = [row for name in names if (row := monitored_by_loops(rows, name, 3))]
    assert len(found) == len(expected) >= 3
    for row in expected:
        assert found.loc[row.pop("monitor"), list(row)].to_dict() == pytest.approx(row, abs=1e-12, nan_ok=True)


def test_the_planted_warning_is_found_and_noise_is_not(simulated):
    found = early_warning(*simulated, within=15).set_index("monitor")
    assert found.index[0] == "monitor/entropy"  # falls from ten updates before gold does
    entropy, noise = found.loc["monitor/entropy"], found.loc["monitor/distinct"]
    assert entropy["direction"] == -1 and entropy["auc"] > 0.95 and entropy["detected"] >= 0.8 and entropy["false_alarms"] <= 0.2
    assert 3 <= entropy["lead"] <= 15
    assert noise["low"] < 0.5 < noise["high"] and noise["auc"] < 0.65
    assert entropy["collapses"] == 8 and entropy["runs"] == 16 and entropy["units"] == 8


def test_without_a_collapse_a_second_seed_or_a_monitor_there_is_nothing_to_learn(simulated):
    table, curves = simulated
    held = table["arm"] == "kl"
    assert early_warning(table[held], curves[curves["arm"] == "kl"]).empty
    assert early_warning(table[table["seed"] == 0], curves[curves["seed"] == 0]).empty
    assert early_warning(table, curves[["run", "study", "arm", "seed", "update", "eval/gold"]]).empty


def dips_before_collapse(seeds: int, generator: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(outcomes, curves) of runs that collapse at an update of 20 to 100, with a monitor lower in the 15 updates before and only there."""
    times, updates = generator.integers(20, 101, seeds).astype(float), np.arange(1, 101)
    table = pd.DataFrame(dict(run=range(seeds), reward_model="", seed=range(seeds), event=True, end_update=times))
    dips = [0.2 * generator.standard_normal(100) - ((updates >= time - 15) & (updates < time)) for time in times]
    curves = pd.concat([pd.DataFrame(dict(run=run, update=updates, dip=dip)) for run, dip in enumerate(dips)], ignore_index=True)
    return table, curves


def test_labels_swapped_between_seeds_leave_no_skill():
    """With its own collapse every run is warned; with that of another seed the area is that of chance, and not above it, as
    it would be (0.59) if the seeds that test a monitor had helped to choose its direction."""
    own, swapped = [], []
    for repetition in range(60):
        generator = np.random.default_rng(repetition)
        table, curves = dips_before_collapse(6, generator)
        deranged = table.assign(end_update=np.roll(table["end_update"], 1 + repetition % 5))
        own.append(early_warning(table, curves, names=["dip"])["auc"].iloc[0])
        swapped.append(early_warning(deranged, curves, names=["dip"])["auc"].iloc[0])
    assert min(own) > 0.95
    assert np.mean(swapped) == pytest.approx(0.5, abs=0.04)
