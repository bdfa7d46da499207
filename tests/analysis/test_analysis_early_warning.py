"""Early warning: planted warnings are found on seeds that took no part in learning them, and noise is not."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulate import Arm, write_study

from analysis.estimate.early_warning import alarms, areas_without, at_risk, choose_threshold, early_warning, first_alarms, roc_area
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


def test_the_first_alarm_of_each_run_is_what_a_loop_finds():
    generator = np.random.default_rng(1)
    run, score = np.repeat(np.arange(6), 7), generator.normal(size=42)
    thresholds = np.linspace(-2, 2, 9)
    starts, found = first_alarms(run, score, thresholds)
    assert starts.tolist() == [0, 7, 14, 21, 28, 35]
    for i, start in enumerate(starts):
        for j, threshold in enumerate(thresholds):
            above = [k for k in range(start, start + 7) if score[k] > threshold]
            assert found[i, j] == (above[0] if above else -1)


def test_alarms_too_early_and_in_runs_that_hold_are_false():
    rows = pd.DataFrame(dict(
        run=["late"] * 3 + ["early"] * 3 + ["holds"] * 3, seed=0, update=[1, 2, 3] * 3, collapse=[4.0] * 3 + [9.0] * 3 + [np.inf] * 3,
        label=[0, 1, 1, 0, 0, 0, 0, 0, 0],
    ))  # fmt: skip
    score = np.array([0, 0, 5.0, 0, 5, 0, 0, 0, 5])
    table = alarms(rows, score, 1.0)
    assert table["alarm"].tolist() == [3, 2, 3] and table["hit"].tolist() == [True, False, False]
    assert np.isnan(alarms(rows, score, 5.0)["alarm"]).all()  # above, not at
    assert choose_threshold(rows, np.array([0, 0, 5.0, 0, 0, 0, 0, 0, 0])) < 5.0
    assert choose_threshold(rows.assign(label=0), score) == np.inf  # nothing to gain


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
