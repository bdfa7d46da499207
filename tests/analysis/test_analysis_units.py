"""Units of inference, effects over them and sameness, on outcome tables by hand and by slow loops."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis.claims.judge import Part, judge_part
from analysis.estimate.effects import arm_effect, factorial_effects, fate_p, like_fate, trick_effects
from analysis.estimate.equivalence import identical, margin_of, shown_same
from analysis.estimate.stats import newcombe, paired_effect, rate_effect
from analysis.estimate.units import Basis, common_levels, differences, levels, paired_levels, per_unit


def table_of(arms: dict[str, dict[str, list]], models: list | None = None, horizon: float = 150.0) -> pd.DataFrame:
    """arm → outcome → values by run; `models` the reward model of each run (one for all by default), seeds counted within each."""
    rows = []
    for arm, columns in arms.items():
        seen: dict = {}
        for index, values in enumerate(zip(*columns.values(), strict=True)):
            model = models[index] if models is not None else "m"
            seed = seen[model] = seen.get(model, -1) + 1
            rows.append(dict(run=f"{arm}/{index}", arm=arm, reward_model=model, seed=seed, sft_gold_sd=2.0, horizon=horizon,
                             **dict(zip(columns, values, strict=True))))  # fmt: skip
    return pd.DataFrame(rows)


def random_table(generator: np.random.Generator) -> pd.DataFrame:
    """Two arms in a random design of reward models and seeds, with missing runs and values."""
    models, seeds, rows = int(generator.integers(1, 9)), int(generator.integers(1, 9)), []
    for arm, model, seed in itertools.product(("base", "kl"), range(models), range(seeds)):
        if generator.random() < 0.9:
            rows.append((arm, f"m{model}", seed, *generator.normal(size=2), float(generator.random() < 0.4)))
    return pd.DataFrame(rows, columns=["arm", "reward_model", "seed", "gold", "gold_at_kl", "collapsed"])


def pairs_by_loop(table: pd.DataFrame, outcome: str) -> dict[str, list[tuple[float, float]]]:
    """reward model → (treated, control) of the pairs that both arms have."""
    values = {(row.arm, row.reward_model, row.seed): getattr(row, outcome) for row in table.itertuples()}
    found: dict[str, list] = {}
    for (arm, model, seed), value in sorted(values.items()):
        if arm == "kl" and not np.isnan(value) and not np.isnan(values.get(("base", model, seed), np.nan)):
            found.setdefault(model, []).append((value, values["base", model, seed]))
    return found


def test_differences_and_levels_are_what_a_loop_over_reward_models_gives():
    generator = np.random.default_rng(0)
    for _ in range(40):
        table = random_table(generator)
        table.loc[generator.random(len(table)) < 0.1, "gold"] = np.nan
        found = pairs_by_loop(table, "gold")
        gaps = differences(table, "gold", ["kl"], ["base"])
        first, second = paired_levels(table, "gold", ["kl"], ["base"])
        if len(found) > 1:
            expected = [np.mean([a - b for a, b in pairs]) for pairs in found.values()]
            sides = [[np.mean([pair[i] for pair in pairs]) for pairs in found.values()] for i in (0, 1)]
        else:
            expected = [a - b for pairs in found.values() for a, b in pairs]
            sides = [[pair[i] for pairs in found.values() for pair in pairs] for i in (0, 1)]
        assert (
            gaps.values == pytest.approx(expected) and first.values == pytest.approx(sides[0]) and second.values == pytest.approx(sides[1])
        )
        sizes = [len(pairs) for pairs in found.values()]
        assert gaps.basis == (Basis(len(sizes), min(sizes), max(sizes), sum(sizes)) if sizes else Basis())
        own = table[(table["arm"] == "kl") & table["gold"].notna()].groupby("reward_model")["gold"]
        if own.ngroups > 1:
            assert levels(table, "gold", ["kl"]).values == pytest.approx(own.mean().to_numpy())


@pytest.mark.parametrize(
    ("basis", "text", "unit", "units"),
    [(Basis(), "no run", "seed", 0), (Basis(1, 1, 1, 1), "1 seed, one reward model", "seed", 1),
     (Basis(1, 5, 5, 5), "5 seeds, one reward model", "seed", 5), (Basis(8, 1, 1, 8), "8 reward models, one seed each", "reward model", 8),
     (Basis(8, 2, 2, 16), "8 reward models × 2 seeds", "reward model", 8),
     (Basis(3, 1, 4, 7), "3 reward models × 1–4 seeds", "reward model", 3)],
)  # fmt: skip
def test_what_an_estimate_rests_on_is_said_in_words(basis, text, unit, units):
    assert (str(basis), basis.unit, basis.units) == (text, unit, units)


def test_the_words_follow_from_the_runs():
    def said(models):
        return str(per_unit(np.array(models), np.arange(float(len(models)))).basis)

    assert said(["a"] * 5) == "5 seeds, one reward model" and said(list("abcd")) == "4 reward models, one seed each"
    assert said(list("aabbcc")) == "3 reward models × 2 seeds" and said(list("aabccc")) == "3 reward models × 1–3 seeds"
    assert said([]) == "no run"


def test_values_that_are_not_known_take_part_neither_in_the_means_nor_in_their_basis():
    sample = per_unit(np.array(list("aabbc")), np.array([1.0, np.nan, 2.0, 4.0, np.nan]))
    assert sample.values.tolist() == [1.0, 3.0] and sample.basis == Basis(2, 1, 2, 3)
    single = per_unit(np.array(list("aab")), np.array([1.0, 5.0, np.nan]))  # one reward model is left: its seeds are the units
    assert single.values.tolist() == [1.0, 5.0] and single.basis == Basis(1, 2, 2, 2)


def test_arms_with_one_common_reward_model_are_compared_over_its_seeds():
    rows = [dict(arm="kl", reward_model=f"m{m}", seed=s, gold=10.0 * m + s) for m in range(5) for s in range(5)]
    rows += [dict(arm="base", reward_model="m0", seed=s, gold=0.0) for s in range(6)]
    table = pd.DataFrame(rows)
    gaps = differences(table, "gold", ["kl"], ["base"])
    assert gaps.values.tolist() == [0, 1, 2, 3, 4] and str(gaps.basis) == "5 seeds, one reward model"
    assert str(levels(table, "gold", ["kl"]).basis) == "5 reward models × 5 seeds"
    first, second = common_levels(table, "gold", ["kl"], ["base"])  # without pairs: all known runs of common reward models
    assert first.values.tolist() == [0, 1, 2, 3, 4] and len(second.values) == 6


@pytest.mark.parametrize(
    ("basis", "mean", "rate"),
    [(Basis(1, 4, 4, 4), False, False), (Basis(1, 5, 5, 5), True, True), (Basis(4, 1, 1, 4), False, False),
     (Basis(4, 1, 2, 5), True, False),
     (Basis(5, 1, 1, 5), True, False), (Basis(3, 9, 9, 27), False, False), (Basis(6, 1, 1, 6), True, True)],
)  # fmt: skip
def test_too_few_runs_or_reward_models_decide_nothing(basis, mean, rate):
    assert (basis.enough(), basis.enough(rate=True)) == (mean, rate)


def test_a_trick_that_helps_with_half_of_the_reward_models_is_not_shown_by_more_seeds():
    """+1 with two reward models and −1 with the other two, in ten seeds each: forty pairs, and four units without a mean."""
    noise = np.random.default_rng(0).normal(0, 0.1, 40)
    models = np.repeat(list("abcd"), 10).tolist()
    table = table_of({"base": {"x": [0.0] * 40}, "kl": {"x": np.repeat([1.0, -1, 1, -0.6], 10) + noise}}, models)
    effect = arm_effect(table, ["kl"], ["base"], "x")
    assert effect.n == 4 and effect.low < 0 < effect.high and effect.p > 0.5
    means = (np.repeat([1.0, -1, 1, -0.6], 10) + noise).reshape(4, 10).mean(axis=1)
    assert effect.p == pytest.approx(scipy_stats.ttest_1samp(means, 0).pvalue)


def test_perfect_separation_without_spread_decides():
    """Held to 150 in 5 of 5 against collapse at 30 in 5 of 5: two of C(10, 5) = 252 ways to deal the ten runs, p = 0.008."""
    table = table_of(
        {"base": {"stable_updates": [30.0] * 5, "collapsed": [1.0] * 5}, "kl": {"stable_updates": [150.0] * 5, "collapsed": [0.0] * 5}}
    )
    effect = arm_effect(table, ["kl"], ["base"], "stable_updates")
    assert effect.p == pytest.approx(2 / 252) and effect.estimate == 120
    part = judge_part(Part("stable_updates", "higher", {}, {}), table, ["kl"], ["base"])
    assert part.verdict == "supported" and "p = 0.0079" in part.sentence and "(equal for all seeds)" in part.sentence
    assert judge_part(Part("stable_updates", "lower", {}, {}), table, ["kl"], ["base"]).verdict == "contradicted"
    four = table[table["seed"] < 4]
    assert judge_part(Part("stable_updates", "higher", {}, {}), four, ["kl"], ["base"]).verdict == "cannot tell"


def test_equal_differences_that_overlap_speak_by_their_signs_alone():
    table = table_of({"base": {"x": [0.0, 1, 2, 3, 4, 5]}, "kl": {"x": [2.0, 3, 4, 5, 6, 7]}})
    assert arm_effect(table, ["kl"], ["base"], "x").p == 2 * 0.5**6


def test_collapse_rates_over_reward_models_are_tested_by_the_signs_of_their_differences():
    """One seed each: of eight reward models six differ, all to one side; two of 2⁶ signs are as far from 0."""
    base, kl = [1.0] * 7 + [0.0], [0.0] * 6 + [1.0, 0.0]
    effect = arm_effect(table_of({"base": {"collapsed": base}, "kl": {"collapsed": kl}}, list("abcdefgh")), ["kl"], ["base"], "collapsed")
    assert effect.p == pytest.approx(2 / 2**6) and effect.estimate == -0.75 and effect.n == 8
    t, score = paired_effect(np.array(kl) - np.array(base)), newcombe(1 / 8, 8, 7 / 8, 8)
    assert t.low < -1 and (effect.low, effect.high) == (-1.0, max(t.high, score[1]))


def test_one_rare_collapse_does_not_show_rates_the_same_that_none_does_not():
    """Eight reward models of two runs: none of 16 against none is not yet the same, and one of 16 against none is not either."""
    models = np.repeat(list("abcdefgh"), 2).tolist()
    for last in (0.0, 1.0):
        table = table_of({"base": {"collapsed": [0.0] * 16}, "kl": {"collapsed": [0.0] * 15 + [last]}}, models)
        assert judge_part(Part("collapsed", "same", {}, {}), table, ["kl"], ["base"]).verdict == "cannot tell"


def test_arms_changed_over_change_the_sign_and_nothing_else():
    generator = np.random.default_rng(5)
    for _ in range(30):
        table = random_table(generator)
        for outcome in ("gold", "gold_at_kl", "collapsed"):
            one, other = arm_effect(table, ["kl"], ["base"], outcome), arm_effect(table, ["base"], ["kl"], outcome)
            mirrored = (-other.estimate, -other.high, -other.low, other.p)
            assert one[:4] == pytest.approx(mirrored, abs=1e-9, nan_ok=True) and one.basis == other.basis


def test_nothing_is_decided_from_fewer_than_five_runs_of_any_design():
    generator = np.random.default_rng(6)
    for _ in range(60):
        table = random_table(generator).assign(sft_gold_sd=2.0, horizon=80.0)
        table["gold_at_kl"] += 9.0 * (table["arm"] == "kl")
        for outcome in ("gold_at_kl", "collapsed"):
            basis = arm_effect(table, ["kl"], ["base"], outcome).basis
            found = judge_part(Part(outcome, "higher", {}, {}), table, ["kl"], ["base"])
            if basis.runs < 5 or 1 < basis.units < (6 if outcome == "collapsed" else 4):
                assert found.verdict == "cannot tell"


def test_collapse_rates_that_differ_in_every_reward_model_have_newcombes_interval():
    effect = arm_effect(
        table_of({"base": {"collapsed": [1.0] * 6}, "kl": {"collapsed": [0.0] * 6}}, list("abcdef")), ["kl"], ["base"], "collapsed"
    )
    assert (effect.low, effect.high) == newcombe(0, 6, 1, 6) and effect.p == pytest.approx(2 / 2**6)


def fates(pairs: list[tuple[int, int, float, float]]) -> pd.DataFrame:
    """(treated collapsed, control collapsed, treated gold, control gold) by seed."""
    treated, control, gold, other = map(list, zip(*pairs, strict=True))
    return table_of(
        {"kl": {"collapsed": [float(x) for x in treated], "gold": gold}, "base": {"collapsed": [float(x) for x in control], "gold": other}}
    )


def p_of(table: pd.DataFrame) -> float:
    overall = paired_effect(differences(table, "gold", ["kl"], ["base"]).values)
    return fate_p(table, ["kl"], ["base"], "gold", overall)


GAPS = [0.5, 1.1, 0.9, 1.4, 0.7]


def test_pairs_of_one_fate_are_a_paired_t_test():
    table = fates([(0, 0, 1 + gap, 1.0) for gap in GAPS])
    assert p_of(table) == pytest.approx(scipy_stats.ttest_1samp(GAPS, 0).pvalue)
    assert arm_effect(table, ["kl"], ["base"], "gold").p == p_of(table)


def test_pairs_that_all_differ_in_fate_are_a_test_of_collapse_rates():
    table = fates([(0, 1, 1 + gap, -5.0) for gap in GAPS])
    assert len(like_fate(table, "gold", ["kl"], ["base"]).values) == 0
    assert p_of(table) == rate_effect(0, 5, 5, 5).p < 0.01


def test_two_tests_that_agree_count_as_twice_the_smaller_p():
    table = fates([(0, 0, 1 + gap, 1.0) for gap in GAPS] + [(0, 1, 1 + gap, -5.0) for gap in GAPS])
    alike, rates = scipy_stats.ttest_1samp(GAPS, 0).pvalue, rate_effect(0, 10, 5, 10).p
    assert p_of(table) == pytest.approx(2 * min(alike, rates))


def test_two_tests_that_contradict_each_other_decide_nothing():
    """Like for like the trick costs gold, and it prevents collapses: neither direction is told."""
    table = fates([(0, 0, 1 - gap, 1.0) for gap in GAPS] + [(0, 1, 1.0, -5.0)] * 5)
    assert paired_effect(-np.array(GAPS)).p * 2 < 0.05 and rate_effect(0, 10, 5, 10).p * 2 < 0.08
    assert p_of(table) == 1.0


def test_fewer_than_five_pairs_of_one_fate_are_no_test():
    table = fates([(0, 0, 1 + gap, 1.0) for gap in GAPS[:4]] + [(1, 0, 0.0, 1.0), (0, 1, 1.0, 0.0)])
    assert p_of(table) == 1.0  # rates are equal and four pairs are too few


def equal_arms(n: int = 5, **columns) -> pd.DataFrame:
    values = np.random.default_rng(1).normal(size=(3, n))
    same = {
        "gold": values[0],
        "proxy": values[1],
        "kl": values[2],
        "collapsed": [1.0] + [0.0] * (n - 1),
        "gold_at_kl": values[0],
        **columns,
    }
    return table_of({"base": same, "kl": same})


@pytest.mark.parametrize("outcome", ["gold", "collapsed", "gold_at_kl"])
@pytest.mark.parametrize(("expects", "verdict"), [("same", "supported"), ("higher", "contradicted"), ("lower", "contradicted"),
                                                  ("different", "contradicted")])  # fmt: skip
def test_arms_equal_to_the_bit_are_the_same_and_the_reason_is_told(outcome, expects, verdict):
    found = judge_part(Part(outcome, expects, {}, {}), equal_arms(), ["kl"], ["base"])
    assert found.verdict == verdict and found.sentence.endswith("; the runs of both are equal to the bit")


def test_one_pair_equal_to_the_bit_decides_nothing():
    one = equal_arms()
    one = one[one["seed"] == one["seed"].min()]
    found = judge_part(Part("gold", "higher", {}, {}), one, ["kl"], ["base"])
    assert found.verdict == "cannot tell" and found.sentence.endswith("; the runs of both are equal to the bit")


def test_arms_that_differ_in_one_bit_of_one_run_are_not_identical():
    table = equal_arms()
    table.loc[(table["arm"] == "kl") & (table["seed"] == 3), "kl"] += 1e-9
    assert not identical(table, ["kl"], ["base"]) and identical(equal_arms(), ["kl"], ["base"])
    assert not identical(table.assign(gold=np.nan, proxy=np.nan, kl=np.nan), ["kl"], ["base"])


def test_a_real_but_small_difference_is_the_same_and_no_direction():
    """+0.1 in 16 of 16 seeds, p far below 0.05, of a margin of half an SD of 2."""
    gaps = 0.1 + 0.02 * np.random.default_rng(2).normal(size=16)
    held = {"gold": np.zeros(16), "gold_at_kl": np.zeros(16), "collapsed": np.zeros(16)}
    table = table_of({"base": held, "kl": {**held, "gold": gaps, "gold_at_kl": gaps}})
    assert margin_of("gold", table) == 1.0 and arm_effect(table, ["kl"], ["base"], "gold").p < 1e-6
    for outcome, direction in (("gold", "cannot tell"), ("gold_at_kl", "contradicted")):
        verdicts = [
            judge_part(Part(outcome, expects, {}, {}), table, ["kl"], ["base"]) for expects in ("same", "higher", "lower", "different")
        ]
        assert [found.verdict for found in verdicts] == ["supported", direction, direction, "contradicted"]
        assert "any difference is smaller than 1" in verdicts[0].sentence


def test_outcomes_without_a_margin_are_never_the_same():
    table = table_of({arm: {"length": 10.0 + 1e-6 * np.arange(8.0) * k} for k, arm in enumerate(("base", "kl"))})
    assert margin_of("length", table) == 0.0 and not shown_same("length", table, ["kl"], ["base"], 0.0)


def test_no_data_support_sameness_and_a_direction_at_once():
    """Of one outcome at most one of 'same', 'higher', 'lower' is supported; 'different' never beside 'same'; and some are."""
    generator, supported = np.random.default_rng(3), {"same": 0, "higher": 0, "lower": 0}
    for _ in range(100):
        table = random_table(generator).assign(sft_gold_sd=2.0, horizon=80.0)
        shift, spread = generator.choice([0.0, 0.2, 3.0]), generator.choice([0.01, 0.3, 1.0])
        own = generator.normal(size=(2, len(table)))
        table["gold"] = spread * own[0] + shift * (table["arm"] == "kl")
        table["gold_at_kl"] = spread * own[1] - shift * (table["arm"] == "kl")
        if generator.random() < 0.5:
            table["collapsed"] = float(generator.random() < 0.5)
        table["stable_updates"] = np.where(table["collapsed"] == 1, generator.integers(5, 80, len(table)), 80.0)
        if table["arm"].nunique() < 2:
            continue
        for outcome in ("gold", "gold_at_kl", "collapsed", "stable_updates"):
            found = {
                e: judge_part(Part(outcome, e, {}, {}), table, ["kl"], ["base"]).verdict for e in ("same", "higher", "lower", "different")
            }
            told = [e for e in supported if found[e] == "supported"]
            assert len(told) <= 1, (outcome, found)
            assert not (found["same"] == found["different"] == "supported")
            for expects in told:
                supported[expects] += 1
    assert min(supported.values()) > 10


def test_effects_and_contrasts_name_what_they_rest_on():
    models = list("aabbccdd")
    arms = {f"{a}{b}": {"gold": np.arange(8.0) + 2 * a + 3 * b, "collapsed": np.zeros(8)} for a in (0, 1) for b in (0, 1)}
    table = table_of(arms, models)
    settings = pd.DataFrame({arm: {"ppo.a": arm[0], "ppo.b": arm[1]} for arm in arms}).T
    effects = trick_effects(table, settings, "00", measures=("gold",))
    assert set(effects["basis"]) == {"4 reward models × 2 seeds"} and effects["estimate"].tolist() == [3.0, 2.0, 5.0]
    design = {name: {arm: 1 if arm[i] == "1" else -1 for arm in arms} for i, name in enumerate("ab")}
    contrasts = factorial_effects(table, design, "gold").set_index("term")
    assert contrasts["estimate"].to_dict() == {"a": 2.0, "b": 3.0, "a × b": 0.0} and (contrasts["n"] == 4).all()
