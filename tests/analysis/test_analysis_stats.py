"""Estimates and intervals against published and independent numbers.

Golden values: statsmodels 0.15 (proportion_confint 'beta', confint_proportions_2indep 'newcomb',
multipletests); scipy as a direct oracle.
"""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.estimate import stats


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


def test_the_levels_of_a_sign_flip_test_are_the_tails_of_a_binomial_of_the_pairs_that_differ():
    for m in range(1, 7):
        tails = 2 * scipy_stats.binom.cdf(np.arange(m // 2 + 1), m, 0.5)
        differences = np.concatenate([np.ones(m), np.zeros(3)])
        assert stats.sign_flip_levels(differences) == pytest.approx(np.unique(np.minimum(tails, 1)))
        assert stats.sign_flip_levels(differences)[0] == stats.sign_flip_p(differences) == 2.0 ** (1 - m)
    assert stats.sign_flip_levels(np.zeros(5)) == pytest.approx([1.0]) and stats.sign_flip_levels(np.ones(15)) is None
    differences = np.array([1.0, -0.5, 0.25])
    reached = {stats.sign_flip_p(differences * signs) for signs in itertools.product((1, -1), repeat=3)}
    assert set(stats.sign_flip_levels(differences)) == reached


def test_a_test_that_cannot_have_so_small_a_p_costs_the_others_nothing():
    """Three arms of p 2/256 beside 31 that differ from the base in two pairs at most: 3 · 2/256, and 34 · 2/256 without that."""
    differences = [np.ones(8)] * 3 + [np.eye(8)[0] + np.eye(8)[1]] * 31
    p = np.array([stats.sign_flip_p(one) for one in differences])
    adjusted = stats.holm(p, [stats.sign_flip_levels(one) for one in differences])
    assert adjusted[:3] == pytest.approx([6 / 256] * 3) and (adjusted[3:] == 1).all() and stats.holm(p)[0] == pytest.approx(68 / 256)
    assert stats.holm(p, [None] * 34) == pytest.approx(stats.holm(p))
    with_nan = stats.holm(np.array([np.nan, *p]), [None, *(stats.sign_flip_levels(one) for one in differences)])
    assert np.isnan(with_nan[0]) and with_nan[1:] == pytest.approx(adjusted)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (6, 6, 1), (7, 6, 5), (6, 3, 2), (7, 7, 7)])
@pytest.mark.parametrize("together", [True, False])
def test_the_correction_errs_in_at_most_its_level_of_all_signs_and_is_never_above_holms(sizes, together):
    """Arms that differ from the base in so many of 7 pairs, nothing being different: over all signs of the pairs, shared between arms or
    drawn for each, the least of the adjusted p is below a level no oftener than that level."""
    n, arms = 7, [np.r_[np.ones(m), np.zeros(7 - m)] for m in sizes]
    levels = [stats.sign_flip_levels(arm) for arm in arms]
    flips = np.array(list(itertools.product((1, -1), repeat=n)))
    rng = np.random.default_rng(0)
    drawn = [[signs] * 3 for signs in flips] if together else [flips[rng.integers(len(flips), size=3)] for _ in range(4000)]
    least = []
    for signs in drawn:
        p = np.array([stats.sign_flip_p(arm * sign) for arm, sign in zip(arms, signs, strict=True)])
        adjusted = stats.holm(p, levels)
        assert (adjusted <= stats.holm(p) + 1e-12).all() and (adjusted >= p - 1e-12).all()
        least.append(adjusted.min())
    for level in np.unique(least):
        share = (np.array(least) <= level + 1e-12).mean()
        slack = 0 if together else 3 * np.sqrt(level * (1 - min(level, 1)) / len(least))
        assert share <= level + 1e-12 + slack


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 3), (3, 3), (5, 2)])
def test_separated_samples_have_the_p_of_all_ways_to_deal_them(a, b):
    values, deals = np.arange(a + b, dtype=float), list(itertools.combinations(range(a + b), a))
    apart = [d for d in deals if max(d) < a or min(d) >= b]  # the smallest a or the largest a
    assert stats.separation_p(values[:a], values[a:]) == pytest.approx(len(apart) / len(deals))
    assert stats.separation_p(values[b:], values[:b]) == pytest.approx(len(apart) / len(deals))


def test_samples_that_touch_or_are_empty_are_not_separated():
    assert stats.separation_p(np.array([1.0, 2]), np.array([2.0, 3])) == 1.0 and stats.separation_p(np.array([]), np.array([1.0])) == 1.0
    assert stats.separation_p(np.array([0.0, 9]), np.array([4.0, 5])) == 1.0
    assert stats.separation_p(np.full(5, 150.0), np.full(5, 30.0)) == pytest.approx(2 / 252)


def test_the_sign_flip_test_is_the_share_of_signs_as_far_from_zero():
    generator = np.random.default_rng(6)
    for n in range(1, 9):
        for differences in (generator.normal(0.5, 1, n), generator.integers(-2, 4, n) / 4):
            sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in itertools.product((1, -1), repeat=n)]
            expected = np.mean([total >= abs(differences.sum()) - 1e-9 for total in sums])
            assert stats.sign_flip_p(differences) == pytest.approx(expected if differences.any() else 1.0)


def test_the_sign_flip_test_agrees_with_scipys_permutation_test():
    differences = np.random.default_rng(7).normal(0.6, 1, 9)
    test = scipy_stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip_p(differences) == pytest.approx(test.pvalue, abs=1e-12)


def test_six_differences_of_one_sign_are_the_first_to_decide_and_zeros_say_nothing():
    assert stats.sign_flip_p(np.ones(5)) == 2 / 32 and stats.sign_flip_p(np.ones(6)) == 2 / 64
    assert stats.sign_flip_p(np.zeros(8)) == stats.sign_flip_p(np.array([])) == 1.0
    assert stats.sign_flip_p(np.append(np.ones(6), [0.0, 0.0])) == 2 / 64


def test_the_sign_flip_test_of_many_differences_is_the_t_test():
    differences = np.random.default_rng(8).normal(0.4, 1, 15)
    assert stats.sign_flip_p(differences) == pytest.approx(scipy_stats.ttest_1samp(differences, 0).pvalue)


def test_a_rate_with_one_run_per_reward_model_is_clopper_and_pearsons():
    for n in (1, 2, 5, 8, 20):
        for events in range(n + 1):
            shares = np.repeat([1.0, 0.0], [events, n - events])
            assert stats.clustered_rate(shares, n) == pytest.approx(stats.clopper_pearson(events, n), abs=1e-10)
    assert stats.clustered_rate(np.array([]), 0)[1:] == (0.0, 1.0)


def beta_interval(p: float, n: float) -> tuple[float, float, float]:
    return p, scipy_stats.beta.ppf(0.025, p * n, n - p * n + 1), scipy_stats.beta.ppf(0.975, p * n + 1, n - p * n)


@pytest.mark.parametrize(
    ("shares", "runs", "effective"),
    [([0.25, 0.75, 0.5, 0.5, 0.25, 0.75], 24, 30 * (2.0686576 / 2.5705818) ** 2),  # Var = 0.05 / 6; t of 23 and of 5 degrees of freedom
     ([0.5, 0.5, 0.5, 0.5, 0.25, 0.75], 24, 24),  # more alike than independent runs would be: at most the runs
     ([1.0, 1.0, 0.0, 0.0], 12, 4),  # all or nothing: the reward models
     ([0.5, 0.5, 0.5], 12, 3)],  # no spread at all: the reward models
)  # fmt: skip
def test_the_effective_number_of_runs_of_a_clustered_rate_by_hand(shares, runs, effective):
    assert stats.clustered_rate(np.array(shares), runs) == pytest.approx(beta_interval(np.mean(shares), effective), abs=1e-6)


def test_a_rate_of_none_or_all_over_reward_models_counts_reward_models():
    assert stats.clustered_rate(np.zeros(5), 20) == pytest.approx(stats.clopper_pearson(0, 5))
    assert stats.clustered_rate(np.ones(5), 20) == pytest.approx(stats.clopper_pearson(5, 5))


def test_newcombe_of_shares_lies_between_those_of_counts():
    low, high = stats.newcombe(0.25, 8, 0.75, 8)
    effect = stats.rate_effect(2, 8, 6, 8)
    assert (low, high) == (effect.low, effect.high) and low < -0.5 < high
    assert stats.newcombe(0.75, 8, 0.25, 8) == pytest.approx((-high, -low))


def test_a_mean_of_units_has_its_t_interval_and_one_unit_has_none():
    values = np.array([1.0, 2.0, 4.0, np.nan])
    interval = scipy_stats.ttest_1samp(values[:3], 0).confidence_interval(0.95)
    assert stats.mean_interval(values) == pytest.approx((7 / 3, interval.low, interval.high))
    assert stats.mean_interval(np.array([3.0])) == (3.0, -np.inf, np.inf) and np.isnan(stats.mean_interval(np.array([np.nan]))).all()
