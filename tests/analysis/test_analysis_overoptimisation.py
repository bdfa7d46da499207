"""Over-optimisation: Gao's form is recovered, its peak is where calculus puts it, and the frontier test finds planted shifts."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy import stats as scipy_stats

from analysis.estimate.overoptimisation import (
    GOLD,
    KL,
    against_early_stopping,
    end_at_equal_kl,
    fit_arms,
    fit_gao,
    frontier_test,
    frontier_words,
    gao,
    peak,
    points,
)


def curves_of(arms: dict, seeds: int, noise: float = 0.0, seed: int = 0, sft: float = 0.9) -> pd.DataFrame:
    """arm → (gold gain as a function of d, largest KL); an evaluation per update from 0 to 80, KL even in the update."""
    generator = np.random.default_rng(seed)
    rows = []
    for arm, (gain, largest) in arms.items():
        for s in range(seeds):
            for update in range(81):
                kl = largest * update / 80
                gold = sft + gain(np.sqrt(kl)) + (noise * generator.standard_normal() if update else 0.0)
                rows.append(dict(run=f"{arm}/{s}", arm=arm, reward_model="", seed=s, update=update, **{KL: kl, GOLD: float(gold)}))
    return pd.DataFrame(rows)


def test_the_form_is_zero_at_sft_and_its_peak_has_no_slope():
    assert gao(np.array([0.0, 1.0, np.e]), 2.0, 0.5).tolist() == pytest.approx([0.0, 2.0, np.e * 1.5])
    d, gain = peak(2.0, 0.5)
    best = optimize.minimize_scalar(lambda x: -gao(x, 2.0, 0.5), bounds=(1, 100), method="bounded")
    assert d == pytest.approx(best.x, rel=1e-4) and gain == pytest.approx(-best.fun, rel=1e-9)
    assert peak(1.0, 0.0) == (np.inf, np.inf)


def test_least_squares_recovers_the_form_and_agrees_with_curve_fit():
    d = np.linspace(0, 6, 25)
    assert fit_gao(d, gao(d, 1.3, 0.7)) == pytest.approx((1.3, 0.7), rel=1e-12)
    noisy = gao(d, 1.3, 0.7) + np.random.default_rng(0).normal(0, 0.3, 25)
    assert fit_gao(d, noisy) == pytest.approx(tuple(optimize.curve_fit(gao, d, noisy)[0]), rel=1e-6)
    with pytest.raises(ValueError, match="two distances above 0"):
        fit_gao(np.array([0.0, 2.0, 2.0]), np.array([0.0, 1.0, 1.0]))


def test_gain_is_over_the_runs_own_start():
    table = points(curves_of({"a": (lambda d: 2 * d, 16.0)}, 1))
    assert table["gain"].tolist() == pytest.approx((2 * table["d"]).tolist()) and table["d"].max() == 4.0
    assert points(curves_of({"a": (lambda d: 2 * d, 16.0)}, 1), max_kl=4.0)["d"].max() == 2.0


def test_intervals_over_seeds_cover_the_planted_coefficients_and_peak():
    alpha, beta = 1.2, 0.6
    covered = np.zeros(3)
    for repetition in range(40):
        curves = curves_of({"a": (lambda d: gao(d, alpha, beta), 40.0)}, 10, noise=0.3, seed=repetition)
        row = fit_arms(curves).iloc[0]
        truth = {"alpha": alpha, "beta": beta, "peak_d": np.exp(alpha / beta - 1)}
        covered += [row[f"{name}_low"] <= value <= row[f"{name}_high"] for name, value in truth.items()]
    assert (covered >= 35).all()  # 95 % is 38 of 40
    assert row["peak_seen"] and row["units"] == 10 and row["basis"] == "10 seeds, one reward model" and row["r2"] > 0.5


def test_fits_leave_out_one_reward_model_at_a_time_where_they_vary():
    """The jackknife by a slow loop: fits without each of four reward models of two runs each, and t with three degrees of freedom."""
    curves = curves_of({"a": (lambda d: gao(d, 1.2, 0.6), 40.0)}, 8, noise=0.3)
    curves = curves.assign(reward_model=(curves["seed"] // 2).map("m{}".format), seed=curves["seed"] % 2)
    row, table = fit_arms(curves).iloc[0], points(curves)
    without = np.array([fit_gao(part["d"], part["gain"])[0] for m in range(4) if len(part := table[table["reward_model"] != f"m{m}"])])
    half = scipy_stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    assert row["basis"] == "4 reward models × 2 seeds" and row["units"] == 4
    assert row["alpha_high"] - row["alpha"] == pytest.approx(half) and row["alpha"] - row["alpha_low"] == pytest.approx(half)


def test_a_single_run_is_fitted_without_an_interval():
    row = fit_arms(curves_of({"a": (lambda d: gao(d, 1.2, 0.6), 40.0)}, 1)).iloc[0]
    assert row["alpha"] == pytest.approx(1.2) and (row["alpha_low"], row["alpha_high"]) == (-np.inf, np.inf)


def test_arms_without_two_distances_are_not_fitted():
    assert fit_arms(curves_of({"a": (lambda d: d, 0.0)}, 3)).empty


def plateau(d):
    return gao(d, 1.2, 0.6)


def test_equal_gold_at_equal_kl_is_early_stopping_and_a_shift_moves_the_frontier():
    def judged(shift, seeds=8):
        arms = {"none": (plateau, 40.0), "kl": (lambda d: plateau(d) + shift * (d > 0), 6.0)}
        return frontier_test(curves_of(arms, seeds, noise=0.15, seed=3), "kl", "none", margin=0.5)

    assert judged(0.0).verdict == "acts like early stopping"
    assert judged(1.5).verdict == "moves the frontier" and judged(1.5).effect.estimate == pytest.approx(1.5, abs=0.2)
    assert judged(-1.5).verdict == "lowers the frontier"
    assert judged(1.5, seeds=4).verdict == "cannot tell"


def test_the_frontier_is_compared_only_where_both_arms_have_been():
    arms = {"none": (lambda d: d, 40.0), "kl": (lambda d: np.where(d <= np.sqrt(6.0) + 1e-9, d, np.nan), 6.0)}
    frontier = frontier_test(curves_of(arms, 5), "kl", "none", margin=0.5)
    assert np.isfinite(frontier.effect.estimate) and abs(frontier.effect.estimate) < 0.1


def test_early_stopping_is_chosen_on_the_other_seeds():
    gold = {0: [0.0, 1.0, 5.0], 1: [0.0, 3.0, 1.0], 2: [0.0, 3.0, 1.0]}
    rows = [
        {"arm": "none", "run": f"n{s}", "reward_model": "", "seed": s, "update": u, GOLD: g}
        for s, values in gold.items()
        for u, g in enumerate(values)
    ]
    rows += [{"arm": "kl", "run": f"k{s}", "reward_model": "", "seed": s, "update": 2, GOLD: 2.0} for s in gold]
    # seed 0 stops at update 1 (others' best), where it has 1; seeds 1 and 2 at update 2 (mean of 5 and 1 beats 1 and 3), where they have 1
    assert against_early_stopping(pd.DataFrame(rows), "kl", "none").estimate == pytest.approx(np.mean([2 - 1, 2 - 1, 2 - 1]))


def staying(gain: float, seeds: int = 8) -> pd.DataFrame:
    """Both arms come to √KL = 2 along one frontier, gold = √KL; the penalised one stays there and goes on to gain `gain`."""
    generator = np.random.default_rng(7)
    rows = []
    for seed in range(seeds):
        for update in range(0, 21):
            held = min(0.4 * update, 2.0)
            for arm, distance, gold in (("none", 0.4 * update, 0.4 * update), ("kl", held, held + gain * (update > 10))):
                value = gold + 0.05 * generator.standard_normal()
                rows.append(dict(run=f"{arm}/{seed}", arm=arm, reward_model="", seed=seed, update=update, **{KL: distance**2, GOLD: value}))
    return pd.DataFrame(rows)


def test_gold_at_the_end_is_compared_with_the_others_when_it_had_that_kl():
    for gain, words in ((0.0, "acts like early stopping"), (0.4, "the same on the way, more at its end"),
                        (-0.4, "the same on the way, less at its end")):  # fmt: skip
        curves = staying(gain)
        end, way = end_at_equal_kl(curves, "kl", "none"), frontier_test(curves, "kl", "none", margin=0.3)
        assert end.estimate == pytest.approx(gain, abs=0.06) and end.n == 8 and way.verdict == "acts like early stopping"
        assert frontier_words(way.verdict, end.estimate, end.p) == words
    assert frontier_words("moves the frontier", 1.0, 0.001) == "moves the frontier"


def test_an_end_that_the_control_never_came_to_or_passed_unmeasured_is_not_compared():
    curves = staying(0.0)
    short = curves[(curves["arm"] == "kl") | (curves[KL] < 3)]
    sparse = curves[(curves["arm"] == "kl") | (curves["update"] % 10 == 0)]
    assert end_at_equal_kl(short, "kl", "none").n == end_at_equal_kl(sparse, "kl", "none").n == 0


def test_ends_on_one_frontier_are_called_different_in_at_most_one_study_of_twenty():
    """Both arms lie on gold = 3 √(√KL) with noise in gold; the control runs past the end of the other."""
    called = [end_at_equal_kl(on_one_frontier(PATHS["KL in a line"], 1, seed=seed), "kl", "none").p < 0.05 for seed in range(200)]
    assert np.mean(called) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


PATHS = {  # √KL of the control by update; the penalised arm's reaches 2.5 in a line
    "KL in a line": lambda u: np.sqrt(u / 2),
    "√KL in a line": lambda u: 0.5 * u,
    "√KL fast at first": lambda u: 4 * (1 - np.exp(-u / 5)),
}


def on_one_frontier(path, every: int, seeds: int = 6, seed: int = 4) -> pd.DataFrame:
    """Runs of two arms whose gold is the same function of √KL, which has a knee below the first sparse evaluation, and noise."""
    generator = np.random.default_rng(seed)
    rows = []
    for arm, distance in (("none", path), ("kl", lambda u: 2.5 * u / 80)):
        for run in range(seeds):
            for update in range(0, 81, every):
                d = float(distance(update))
                gold = 3 * np.sqrt(d) + 0.05 * generator.standard_normal()
                rows.append(dict(run=f"{arm}/{run}", arm=arm, reward_model="", seed=run, update=update, **{KL: d * d, GOLD: gold}))
    return pd.DataFrame(rows)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_gold_between_evaluations_far_apart_is_not_compared_and_the_advice_on_how_often_is_enough(path):
    sparse = frontier_test(on_one_frontier(path, 10), "kl", "none", margin=0.5)
    assert (sparse.verdict, sparse.unmeasured, sparse.effect.n) == ("cannot tell", 6, 0) and np.isnan(sparse.effect.estimate)
    assert 1 <= sparse.every < 10
    advised = frontier_test(on_one_frontier(path, int(sparse.every)), "kl", "none", margin=0.5)
    assert advised.unmeasured == 0 and advised.effect.n == 6 and np.isnan(advised.every)
    dense = frontier_test(on_one_frontier(path, 1), "kl", "none", margin=0.5)
    assert dense.verdict == "acts like early stopping" and abs(dense.effect.estimate) < 0.25


def test_one_unmeasured_pair_is_counted_and_the_others_are_compared():
    curves = on_one_frontier(PATHS["KL in a line"], 1)
    sparse = curves[(curves["run"] != "none/2") | (curves["update"] % 10 == 0)]
    frontier = frontier_test(sparse, "kl", "none", margin=0.5)
    assert (frontier.unmeasured, frontier.effect.n, frontier.verdict) == (1, 5, "acts like early stopping")


def test_the_frontier_is_over_reward_models_where_they_vary():
    """Two seeds of each of four reward models: the gap is the reward model's mean, and the test has four units."""
    curves = on_one_frontier(PATHS["KL in a line"], 1, seeds=8)
    shifts = np.array([1.0, 2.0, 3.0, 4.0])
    model = curves["seed"] // 2
    curves[GOLD] += np.where((curves["arm"] == "kl") & (curves["update"] > 0), shifts[model], 0.0)
    one = [frontier_test(curves[curves["seed"] == s], "kl", "none", 0.5).effect.estimate for s in range(8)]
    frontier = frontier_test(curves.assign(reward_model=model.map(str), seed=curves["seed"] % 2), "kl", "none", 0.5)
    means = np.reshape(one, (4, 2)).mean(axis=1)
    assert str(frontier.effect.basis) == "4 reward models × 2 seeds" and frontier.effect.n == 4
    assert frontier.effect.p == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue)
