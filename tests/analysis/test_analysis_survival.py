"""Time to collapse against lifelines 0.30.3, Clopper and Pearson's interval, and formulas by hand."""

import numpy as np
import pytest
from scipy.stats import beta

from analysis.estimate.stats import clopper_pearson
from analysis.estimate.survival import kaplan_meier, median_time

TIMES = np.array([10, 15, 20, 20, 25, 40, 40, 60, 80, 80, 80, 80])
EVENTS = np.array([1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0])


def test_the_survival_curve_agrees_with_lifelines():
    table = kaplan_meier(TIMES, EVENTS)
    assert table["time"].tolist() == [0, 10, 15, 20, 25, 40, 60, 80]
    assert table["at_risk"].tolist() == [12, 12, 11, 10, 8, 7, 5, 4]
    assert table["survival"].tolist() == pytest.approx([1, 11 / 12, 10 / 12, 0.75, 0.65625, 0.46875, 0.46875, 0.3515625])


def test_the_survival_curve_is_the_product_limit():
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 12, 40):
        for share in (0.0, 0.3, 1.0):
            times, events = generator.choice([0.0, 5, 10, 20, 40, 80], n), generator.random(n) < share
            table = kaplan_meier(times, events)
            at_risk = np.array([(times >= time).sum() for time in np.unique(times)])
            deaths = np.array([(events & (times == time)).sum() for time in np.unique(times)])
            measured = table.tail(len(at_risk))
            assert measured["at_risk"].tolist() == at_risk.tolist() and measured["events"].tolist() == deaths.tolist()
            assert measured["survival"].to_numpy() == pytest.approx(np.cumprod(1 - deaths / at_risk), abs=1e-12)
            inside = measured[measured["time"] > 0]
            assert ((inside["low"] <= inside["survival"] + 1e-12) & (inside["survival"] <= inside["high"] + 1e-12)).all()


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_without_censoring_the_band_is_clopper_and_pearsons(n):
    """At every event k of n runs are left: the exact interval of k / n, from n − 1 of n down to 0 of n."""
    table = kaplan_meier(np.arange(1.0, n + 1), np.ones(n))
    for row in table[table["time"] > 0].itertuples():
        left = n - int(row.time)
        assert (row.survival, row.low, row.high) == pytest.approx(clopper_pearson(left, n), abs=1e-9)


def test_runs_of_which_none_collapsed_are_bounded_by_how_many_they_are():
    """S = 1 of five: the low end is Clopper and Pearson's of 5 of 5, and of the two still followed at 80 that of 2 of 2."""
    table = kaplan_meier(np.array([40.0, 40, 40, 80, 80]), np.zeros(5)).set_index("time")
    assert table.loc[40, ["low", "high"]].tolist() == pytest.approx([clopper_pearson(5, 5).low, 1.0])
    assert table.loc[80, ["low", "high"]].tolist() == pytest.approx([clopper_pearson(2, 2).low, 1.0])


def test_where_all_collapsed_the_high_end_is_that_of_none_left():
    table = kaplan_meier(np.array([10.0] * 5), np.ones(5)).set_index("time")
    assert table.loc[10, ["survival", "low", "high"]].tolist() == pytest.approx([0.0, 0.0, clopper_pearson(0, 5).high])


def test_censoring_widens_the_band_to_that_of_fewer_runs():
    """Two of six collapse at 10 and one of the two left at 20: S = 2/3 × 1/2, Var = S² (2 / (6 × 4) + 1 / (2 × 1)) = 7/108."""
    table = kaplan_meier(np.array([10.0, 10, 15, 15, 20, 30]), np.array([1, 1, 0, 0, 1, 0])).set_index("time")
    n = (1 / 3) * (2 / 3) / (7 / 108)  # 3.43 runs
    assert table.loc[20, "survival"] == pytest.approx(1 / 3)
    assert table.loc[20, ["low", "high"]].tolist() == pytest.approx(
        [beta.ppf(0.025, n / 3, 2 * n / 3 + 1), beta.ppf(0.975, n / 3 + 1, 2 * n / 3)]
    )
    known = kaplan_meier(np.array([10.0, 10, 20, 20, 30, 30]), np.array([1, 1, 1, 1, 0, 0])).set_index("time")
    assert known.loc[20, "survival"] == pytest.approx(1 / 3)
    assert table.loc[20, "low"] < known.loc[20, "low"] and table.loc[20, "high"] > known.loc[20, "high"]


def test_several_runs_of_one_reward_model_never_narrow_the_band():
    """The band is at least as wide as that of as many independent runs, whatever the runs of a reward model have in common."""
    generator = np.random.default_rng(2)
    for _ in range(60):
        clusters, runs = int(generator.integers(2, 7)), int(generator.integers(2, 5))
        models = np.repeat(np.arange(clusters), runs)
        times = np.exp(
            generator.normal(3, 1, clusters)[models] + generator.normal(0, generator.choice([0.1, 1.0]), clusters * runs)
        ).round()
        events = generator.random(len(times)) < 0.7
        alone, clustered = kaplan_meier(times, events), kaplan_meier(times, events, models)
        later = alone["time"] > 0
        assert clustered["survival"].equals(alone["survival"])
        assert (clustered["low"][later] <= alone["low"][later] + 1e-12).all()
        assert (clustered["high"][later] >= alone["high"][later] - 1e-12).all()


def test_runs_that_share_the_fate_of_their_reward_model_count_as_one():
    """Four reward models of three runs each, of which two collapse with all their runs: the jackknife over reward models.

    Without one of them S is 2/3 or 1/3, so Var = 3/4 × 4 × (1/6)² = 1/12, and S (1 − S) / Var = 3 runs.
    """
    times, models = np.repeat([10.0, 10, 80, 80], 3), np.repeat([0, 1, 2, 3], 3)
    row = kaplan_meier(times, times == 10, models).set_index("time").loc[10]
    assert row[["survival", "low", "high"]].tolist() == pytest.approx([0.5, beta.ppf(0.025, 1.5, 2.5), beta.ppf(0.975, 2.5, 1.5)])


def test_where_none_of_several_runs_per_reward_model_collapsed_reward_models_count():
    row = kaplan_meier(np.full(12, 80.0), np.zeros(12), np.repeat([0, 1, 2, 3], 3)).set_index("time").loc[80]
    assert row["low"] == pytest.approx(clopper_pearson(4, 4).low) and row["high"] == 1.0


def test_one_run_per_reward_model_is_the_same_as_none_named():
    assert kaplan_meier(TIMES, EVENTS, np.arange(12)).equals(kaplan_meier(TIMES, EVENTS))
    assert kaplan_meier(TIMES, EVENTS, np.zeros(12)).equals(kaplan_meier(TIMES, EVENTS))  # and one reward model: over its seeds


def test_the_median_agrees_with_lifelines():
    assert median_time(TIMES, EVENTS).estimate == 40.0


def test_the_interval_of_the_median_is_where_the_ends_of_the_band_fall_to_one_half():
    """Eleven runs collapse at 1, …, 11. The low end is below one half from 9 of 11 left, the high end only from 1 of 11 left."""
    assert (
        clopper_pearson(9, 11).low < 0.5 < clopper_pearson(10, 11).low and clopper_pearson(1, 11).high < 0.5 < clopper_pearson(2, 11).high
    )
    assert median_time(np.arange(1.0, 12), np.ones(11)) == (6.0, 2.0, 10.0)


def test_a_median_that_was_never_reached_is_infinite():
    assert median_time(np.array([80, 80, 30]), np.array([0, 0, 1])).estimate == np.inf


def test_a_median_at_one_half_exactly_is_reached():
    assert median_time(np.array([10.0, 80.0]), np.array([1, 0])).estimate == 10.0


def test_below_four_runs_the_interval_of_the_median_begins_at_zero():
    """Three runs: the first event comes after the median in one study of eight."""
    three, four = np.array([10.0, 20, 30]), np.array([10.0, 20, 30, 40])
    assert median_time(three, np.ones(3))[:2] == (20.0, 0.0) and median_time(four, np.ones(4)).low == 10.0
