"""Sample sizes: against statsmodels 0.15 (TTestPower, NormalIndPower), exact sums of binomials, and simulated studies."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.estimate import power, stats


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


@pytest.mark.parametrize(("rate", "bound"), [(0.0, 0.25), (0.02, 0.25), (0.1, 0.25), (0.1, 0.5), (0.3, 0.5)])
def test_seeds_for_a_bound_have_the_power_that_they_promise_and_fewer_have_not(rate, bound):
    """The power by sums of binomials over the numbers of events whose Clopper-Pearson end lies below the bound."""

    def power_of(n: int) -> float:
        decisive = [events for events in range(n + 1) if stats.clopper_pearson(events, n).high < bound]
        return sum(scipy_stats.binom.pmf(events, n, rate) for events in decisive)

    n = power.seeds_for_bound(rate, bound)
    assert power_of(n) >= 0.8
    assert max((power_of(fewer) for fewer in range(max(1, n - 40), n)), default=0.0) < 0.8


def test_a_rate_at_its_bound_is_never_shown_below_it():
    assert power.seeds_for_bound(0.25, 0.25) is None and power.seeds_for_bound(0.3, 0.25) is None
    assert power.seeds_for_bound(0.249, 0.25) is None  # beyond a thousand


def test_reward_models_for_a_mean_by_hand():
    """Means 2, 3 and 6 of two seeds each, ±1 around them: σ_w² = 6 / 3, Var of means 13/3, so σ_b² = 13/3 − 2/2 = 10/3."""
    differences, models = np.array([1.0, 3, 2, 4, 5, 7]), np.array(list("aabbcc"))
    unit = np.array([-1.0, 1.0]) / np.sqrt(2)  # mean 0, SD 1
    for seeds in (1, 2, 8):
        expected = power.seeds_for_mean(11 / 3 + np.sqrt(10 / 3 + 2 / seeds) * unit)
        assert power.reward_models_for_mean(differences, models, seeds) == expected
    ones = [power.reward_models_for_mean(differences, models, seeds) for seeds in (1, 2, 8, 100)]
    assert ones == sorted(ones, reverse=True)


def test_with_one_seed_each_reward_models_are_pairs():
    differences = np.random.default_rng(0).normal(0.7, 1, 9)
    expected = power.seeds_for_mean(differences)
    assert (
        power.reward_models_for_mean(differences, np.arange(9), 1) == power.reward_models_for_mean(differences, np.arange(9), 5) == expected
    )


def test_one_reward_model_or_no_mean_gives_no_number():
    assert power.reward_models_for_mean(np.array([1.0, 2.0]), np.array(["a", "a"]), 1) is None
    assert power.reward_models_for_mean(np.array([1.0, -1.0]), np.array(["a", "b"]), 1) is None


@pytest.mark.parametrize("seeds", [1, 4])
def test_simulated_studies_of_as_many_reward_models_find_the_effect_as_often_as_promised(seeds):
    """Effects of reward models are normal around 1 with SD 1, seeds around these with SD 1.5; the design is told by a pilot of both."""
    generator = np.random.default_rng(1)
    pilot = 1 + np.repeat(_scaled(generator, 40), 50) + 1.5 * np.concatenate([_scaled(generator, 50) for _ in range(40)])
    n = power.reward_models_for_mean(pilot, np.repeat(np.arange(40), 50), seeds)
    draws = 1 + generator.normal(0, 1, (4000, n)) + 1.5 * generator.normal(0, 1, (4000, n, seeds)).mean(axis=2)
    found = scipy_stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.82, abs=0.04)  # the power of the next whole number above 0.8


def _scaled(generator: np.random.Generator, n: int) -> np.ndarray:
    """n normal numbers of mean 0 and SD 1 exactly."""
    drawn = generator.standard_normal(n)
    return (drawn - drawn.mean()) / drawn.std(ddof=1)


def test_reward_models_for_rates_have_the_power_of_the_sign_flip_test_and_are_the_first_to():
    """Certain rates: every reward model tells the arms apart, and six signs are the first to decide. Else by simulation."""
    assert power.reward_models_for_rates(1.0, 0.0) == 6 and power.reward_models_for_rates(0.4, 0.4) is None
    n, generator = power.reward_models_for_rates(0.9, 0.3), np.random.default_rng(0)

    def share(n):
        draws = generator.random((1500, 2, n))
        return np.mean([stats.sign_flip_p((a < 0.9).astype(float) - (b < 0.3)) < 0.05 for a, b in draws])

    assert n == power.reward_models_for_rates(0.3, 0.9) == 13
    assert 0.77 < share(n) and share(n - 2) < 0.78


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.02), (0.1, 0.2), (0.5, 0.5)])
def test_seeds_for_same_rates_are_the_first_with_the_power_of_newcombes_interval(a, b):
    def share(n):
        rate = [scipy_stats.binom.pmf(np.arange(n + 1), n, p) for p in (a, b)]
        inside = [(i, j) for i in range(n + 1) for j in range(n + 1) if max(map(abs, stats.newcombe(i / n, n, j / n, n))) < 0.25]
        return sum(rate[0][i] * rate[1][j] for i, j in inside)

    n = power.seeds_for_same_rates(a, b, 0.25)
    assert share(n) >= 0.8 > share(n - 1)
