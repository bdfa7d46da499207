"""Over-optimisation: Gao's form is recovered, its peak is where calculus puts it, and the frontier test finds planted shifts."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from analysis.estimate.overoptimisation import against_early_stopping, fit_arms, fit_gao, frontier_test, gao, peak, points


def curves_of(arms: dict, seeds: int, noise: float = 0.0, seed: int = 0, sft: float = 0.9) -> pd.DataFrame:
    """arm → (gold gain as a function of d, largest KL); 17 evaluations, KL even in the update."""
    generator = np.random.default_rng(seed)
    rows = []
    for arm, (gain, largest) in arms.items():
        for s in range(seeds):
            for update in range(0, 81, 5):
                kl = largest * update / 80
                gold = sft + gain(np.sqrt(kl)) + (noise * generator.standard_normal() if update else 0.0)
                rows.append({"run": f"{arm}/{s}", "arm": arm, "seed": s, "update": update, "eval/kl_to_sft": kl, "eval/gold": float(gold)})
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
        row = fit_arms(curves, np.random.default_rng(0), repetitions=400).iloc[0]
        truth = {"alpha": alpha, "beta": beta, "peak_d": np.exp(alpha / beta - 1)}
        covered += [row[f"{name}_low"] <= value <= row[f"{name}_high"] for name, value in truth.items()]
    assert (covered >= 32).all()  # 80 %: ten seeds make a percentile interval shorter than its 95 %
    assert row["peak_seen"] and row["seeds"] == 10 and row["r2"] > 0.5


def test_arms_without_two_distances_are_not_fitted():
    assert fit_arms(curves_of({"a": (lambda d: d, 0.0)}, 3), np.random.default_rng(0)).empty


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
        {"arm": "none", "run": f"n{s}", "seed": s, "update": u, "eval/gold": g} for s, values in gold.items() for u, g in enumerate(values)
    ]
    rows += [{"arm": "kl", "run": f"k{s}", "seed": s, "update": 2, "eval/gold": 2.0} for s in gold]
    # seed 0 stops at update 1 (others' best), where it has 1; seeds 1 and 2 at update 2 (mean of 5 and 1 beats 1 and 3), where they have 1
    assert against_early_stopping(pd.DataFrame(rows), "kl", "none").estimate == pytest.approx(np.mean([2 - 1, 2 - 1, 2 - 1]))
