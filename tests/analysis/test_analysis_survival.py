"""Time to collapse against lifelines 0.30.3 and statsmodels 0.15, and against formulas and areas by hand."""

import numpy as np
import pytest

from analysis.estimate.survival import kaplan_meier, logrank, median_time, restricted_mean

TIMES = np.array([10, 15, 20, 20, 25, 40, 40, 60, 80, 80, 80, 80])
EVENTS = np.array([1, 1, 1, 0, 1, 1, 1, 0, 1, 0, 0, 0])
TWO, THREE = np.array(["a", "b"] * 6), np.array(["a", "b", "c"] * 4)


def test_the_survival_curve_and_its_band_agree_with_lifelines():
    table = kaplan_meier(TIMES, EVENTS)
    assert table["time"].tolist() == [0, 10, 15, 20, 25, 40, 60, 80]
    assert table["at_risk"].tolist() == [12, 12, 11, 10, 8, 7, 5, 4]
    assert table["survival"].tolist() == pytest.approx([1, 11 / 12, 10 / 12, 0.75, 0.65625, 0.46875, 0.46875, 0.3515625])
    low = [0.538977180571, 0.481714942195, 0.408415913152, 0.320411637600, 0.176155388099, 0.176155388099, 0.095638744482]
    high = [0.987825565400, 0.955509365728, 0.911720406126, 0.855657234652, 0.718476996033, 0.718476996033, 0.627772231718]
    assert table["low"].tolist()[1:] == pytest.approx(low, abs=1e-10) and table["high"].tolist()[1:] == pytest.approx(high, abs=1e-10)


def test_the_survival_curve_and_its_band_are_the_product_limit_and_greenwoods_formula():
    generator = np.random.default_rng(0)
    for n in (1, 2, 5, 12, 40):
        for share in (0.0, 0.3, 1.0):
            times, events = generator.choice([0.0, 5, 10, 20, 40, 80], n), generator.random(n) < share
            table = kaplan_meier(times, events)
            at_risk = np.array([(times >= time).sum() for time in np.unique(times)])
            deaths = np.array([(events & (times == time)).sum() for time in np.unique(times)])
            survival = np.cumprod(1 - deaths / at_risk)
            with np.errstate(divide="ignore", invalid="ignore"):
                width = 1.959963984540054 * np.sqrt(np.cumsum(deaths / (at_risk * (at_risk - deaths)))) / np.log(survival)
                expected = survival, survival ** np.exp(-width), survival ** np.exp(width)
            measured = table.tail(len(at_risk))
            assert measured["at_risk"].tolist() == at_risk.tolist() and measured["events"].tolist() == deaths.tolist()
            for name, values in zip(("survival", "low", "high"), expected, strict=True):
                assert measured[name].to_numpy() == pytest.approx(values, abs=1e-12, nan_ok=True)


def test_the_median_and_its_interval_agree_with_lifelines():
    assert median_time(TIMES, EVENTS) == (40.0, 15.0, np.inf)


def test_a_median_that_was_never_reached_is_infinite():
    assert median_time(np.array([80, 80, 30]), np.array([0, 0, 1])).estimate == np.inf


def test_the_restricted_mean_agrees_with_lifelines_and_with_the_area_by_hand():
    assert restricted_mean(TIMES, EVENTS, 70).estimate == pytest.approx(46.40625, abs=1e-12)
    interval = restricted_mean(np.array([20, 40, 60, 60]), np.array([1, 1, 0, 0]), 60)
    assert interval.estimate == pytest.approx(20 + 20 * 0.75 + 20 * 0.5)
    variance = 25**2 * 1 / (4 * 3) + 10**2 * 1 / (3 * 2)  # areas to the right of the events: 15 + 10, 10
    assert interval.estimate - interval.low == pytest.approx(1.959963984540054 * np.sqrt(variance))
    assert interval.high == 60  # cut at the horizon


def test_without_censoring_the_restricted_mean_is_the_mean_of_times_cut_at_the_horizon():
    times = np.array([5.0, 12, 30, 44, 90])
    assert restricted_mean(times, np.ones(5), 40).estimate == pytest.approx(np.minimum(times, 40).mean())


def test_log_rank_agrees_with_lifelines_and_statsmodels():
    assert logrank(TIMES, EVENTS, TWO) == pytest.approx((1.7211528668907217, 0.18954471330656528), rel=1e-10)
    assert logrank(TIMES, EVENTS, THREE) == pytest.approx((0.02928294525955233, 0.98546519251778), rel=1e-10)


def test_arms_without_any_event_do_not_differ():
    assert logrank(TIMES, np.zeros(12), TWO) == (0.0, 1.0)


def test_log_rank_ignores_names_and_order():
    order = np.random.default_rng(0).permutation(12)
    renamed = np.where(TWO == "a", "z", "y")
    assert logrank(TIMES[order], EVENTS[order], renamed[order]).statistic == pytest.approx(logrank(TIMES, EVENTS, TWO).statistic)
