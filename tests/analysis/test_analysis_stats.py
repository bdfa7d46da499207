"""Estimates and intervals against published and independent numbers.

Golden values: statsmodels 0.15 (proportion_confint 'beta', confint_proportions_2indep 'newcomb',
multipletests, TTestPower, NormalIndPower); scipy as a direct oracle.
"""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.estimate import power, stats


def test_the_paired_effect_is_scipys_paired_t_test():
    generator = np.random.default_rng(4)
    a, b = generator.normal(1, 1, 8), generator.normal(0, 1, 8)
    test = scipy_stats.ttest_rel(a, b)
    effect, interval = stats.paired_effect(a - b), test.confidence_interval(0.95)
    assert effect[:5] == pytest.approx((np.mean(a - b), interval.low, interval.high, test.pvalue, 8), rel=1e-10)


@pytest.mark.parametrize(("n", "p"), [(5, 2 / 32), (6, 2 / 64)])
def test_differences_without_spread_speak_only_by_their_sign(n, p):
    effect = stats.paired_effect(np.full(n, 3.0))
    assert effect.p == p and (effect.low, effect.high) == (-np.inf, np.inf)
    assert stats.paired_effect(np.zeros(n)).p == 1.0


def test_too_few_or_missing_differences_tell_nothing():
    assert stats.paired_effect(np.array([2.0, np.nan]))[:5] == (2.0, -np.inf, np.inf, 1.0, 1)
    assert stats.paired_effect(np.array([])).n == 0


@pytest.mark.parametrize(
    ("events", "n", "low", "high"),
    [(0, 5, 0.0, 0.5218237501049815), (5, 5, 0.4781762498950185, 1.0), (4, 5, 0.2835820638819105, 0.9949492366205319),
     (3, 16, 0.040473733905945886, 0.45645654623161175)],
)  # fmt: skip
def test_clopper_pearson_agrees_with_statsmodels(events, n, low, high):
    assert stats.clopper_pearson(events, n) == pytest.approx((events / n, low, high), abs=1e-12)


def test_clopper_pearson_is_the_pair_of_beta_quantiles():
    for n in (1, 2, 5, 8, 16, 40):
        for events in range(n + 1):
            low = scipy_stats.beta.ppf(0.025, events, n - events + 1) if events else 0.0
            high = scipy_stats.beta.ppf(0.975, events + 1, n - events) if events < n else 1.0
            assert stats.clopper_pearson(events, n)[1:] == pytest.approx((low, high), abs=1e-11)


def test_no_runs_allow_any_rate():
    assert stats.clopper_pearson(0, 0)[1:] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("a", "n", "b", "low", "high"),
    [(0, 5, 5, -1.0, -0.38554900569034356), (1, 8, 6, -0.830895222236957, -0.1394777379101626),
     (3, 16, 9, -0.6146465878348937, -0.040218755697091824)],
)  # fmt: skip
def test_the_difference_of_rates_agrees_with_statsmodels_newcombe(a, n, b, low, high):
    effect = stats.rate_effect(a, n, b, n)
    assert (effect.low, effect.high) == pytest.approx((low, high), abs=1e-10)


def test_boschloos_p_never_exceeds_fishers_and_finds_four_of_five():
    assert stats.rate_effect(0, 5, 4, 5).p == pytest.approx(0.021484375, abs=1e-6)  # at the worst common rate, ½: (5 + 1 + 5)·2 / 2¹⁰
    for a, b in [(0, 3), (1, 5), (2, 4)]:
        fisher = scipy_stats.fisher_exact([[a, b], [6 - a, 6 - b]]).pvalue
        assert stats.rate_effect(a, 6, b, 6).p <= fisher + 1e-9


def test_boschloos_test_errs_in_at_most_five_percent_at_every_common_rate():
    n = 5
    rejected = np.array([[stats.rate_effect(a, n, b, n).p < 0.05 for b in range(n + 1)] for a in range(n + 1)])
    for rate in np.linspace(0, 1, 101):
        mass = scipy_stats.binom.pmf(np.arange(n + 1), n, rate)
        assert (np.outer(mass, mass) * rejected).sum() <= 0.05 + 1e-9


def test_adjusted_p_values_agree_with_statsmodels_and_skip_nan():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005, 0.5])
    assert stats.holm(p)[np.isfinite(p)] == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert np.isnan(stats.holm(p)[2])


@pytest.mark.parametrize(("effect_size", "pairs"), [(0.5, 33.36713118431779), (1.0, 9.93785094105438), (2.0, 4.22071858501904)])
def test_seeds_for_a_mean_agree_with_statsmodels(effect_size, pairs):
    unit = np.array([-1.0, 1.0]) / np.sqrt(2)  # mean 0, SD 1
    assert power.seeds_for_mean(unit + effect_size) == np.ceil(pairs)


@pytest.mark.parametrize(("a", "b", "n"), [(0.9, 0.1, 4.563947132989687), (0.6, 0.3, 41.79199702273643)])
def test_seeds_for_rates_agree_with_statsmodels(a, b, n):
    assert power.seeds_for_rates(a, b) == np.ceil(n)


def test_no_effect_needs_no_sensible_number_of_seeds():
    assert power.seeds_for_mean(np.array([1.0, -1.0])) is None and power.seeds_for_rates(0.5, 0.5) is None
    assert power.seeds_for_mean(np.array([1.001, -1.0])) is None
    assert power.seeds_for_same_rates(0.75, 0.5, 0.25) is None  # on the margin itself


def test_thirteen_runs_without_collapse_bound_the_rate_by_a_quarter():
    assert stats.clopper_pearson(0, 13).high < 0.25 < stats.clopper_pearson(0, 12).high
    assert power.seeds_for_bound(0.0, 0.25) == 13


def test_twelve_runs_without_collapse_in_either_arm_show_the_rates_the_same():
    assert power.seeds_for_same_rates(0.0, 0.0, 0.25) == 12
    assert power.seeds_for_same_rates(0.9, 0.1, 0.25) == 5  # outside: ((1.96 + 0.84) / 0.55)² × 0.18 = 4.7
    assert stats.rate_effect(0, 12, 0, 12).high < 0.25 < stats.rate_effect(0, 11, 0, 11).high


def test_seeds_for_equivalence_have_the_power_they_promise():
    generator = np.random.default_rng(5)
    n = power.seeds_for_equivalence(np.array([-1.0, 1.0]) / np.sqrt(2), margin=1.0)
    draws = generator.normal(0, 1, (4000, n))
    half = scipy_stats.t.ppf(0.95, n - 1) * draws.std(axis=1, ddof=1) / np.sqrt(n)
    within = np.abs(draws.mean(axis=1)) + half < 1.0
    assert 0.7 < within.mean() < 0.9
