"""Outcomes, effects and claims, on frames made by hand and on simulated run folders with planted effects."""

import itertools
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from planted import OFF, ON, verdicts
from simulate import CONFIG, SFT_GOLD, SFT_SD, Arm, override, write_study

import ablate
from ablate.config import CollapseConfig, Config
from ablate.ppo.collapse import CollapseDetector
from ablate.sweeps.expand import expand
from ablate.sweeps.study import load_study
from analysis.claims.judge import MAX_VALUE, MIN_VALUE, Claim, Part, find_arms, judge, would_do
from analysis.claims.modern import MODERN_CLAIMS
from analysis.claims.paper import PAPER_CLAIMS
from analysis.estimate.collapse import collapse_times, disagreements, sustained_deficits, threshold_curve
from analysis.estimate.effects import base_arm, change, factorial_effects, factors, trick_effects
from analysis.estimate.outcomes import ABILITY, at_matched, interpolate_at, matched_value, outcomes, proxy_tails
from analysis.estimate.stats import clustered_rate, paired_effect, rate_effect
from analysis.estimate.units import Basis
from analysis.load.designs import arm_settings
from analysis.load.frames import load
from analysis.load.runfolder import flatten
from analysis.verdicts import __main__ as verdicts_module


def table_of(arms: dict[str, dict[str, list]], sd: float = 2.0, horizon: float = 80.0) -> pd.DataFrame:
    """An outcome table by hand: arm → outcome → values by seed."""
    rows = []
    for arm, columns in arms.items():
        for seed, values in enumerate(zip(*columns.values(), strict=True)):
            rows.append(
                dict(run=f"{arm}/{seed}", arm=arm, seed=seed, sft_gold_sd=sd, horizon=horizon, **dict(zip(columns, values, strict=True)))
            )
    return pd.DataFrame(rows)


def settings_of(arms: dict[str, dict]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(arms, orient="index").map(str)


KL_SETTINGS = settings_of({"base": OFF, "kl": ON})


def verdict_of(part: Part, arms: dict[str, dict[str, list]], settings: pd.DataFrame = KL_SETTINGS):
    return judge(Claim("Fig. 0", "a claim", (part,)), table_of(arms), settings).parts[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    arms = {
        "vanilla": Arm(collapse_probability=0.95),
        "kl": Arm({"ppo.kl_penalty": True}),
        "scaling": Arm({"ppo.reward_scaling": True}, 0.95),
    }
    return write_study(tmp_path_factory.mktemp("verdicts"), arms, 6, np.random.default_rng(5))


@pytest.fixture(scope="module")
def loaded(study):
    return load(study)


def test_collapse_recomputed_from_curves_is_what_the_run_said_online(loaded):
    times = collapse_times(loaded.runs, loaded.curves).set_index("run")["collapse_update"]
    online = loaded.runs.set_index("run")["collapse_update"].astype(float)
    assert online.notna().sum() >= 6 and times[online.index].equals(online.rename("collapse_update"))
    assert disagreements(loaded.runs, times.reset_index().assign(judged=True)) == []


def test_collapse_is_the_first_of_three_evaluations_below_sft_minus_one_sd():
    gold = np.array([0.9, -1.2, -1.2, 0.0, -1.2, -1.1, -5.0, -1.0])  # SFT 0.9, SD 2: the limit is -1.1, and -1.1 is not below it
    assert (sustained_deficits(gold, 0.9, 2.0, 2) > 1.0).tolist() == [False, True, False, False, False, False, False]
    assert not (sustained_deficits(gold, 0.9, 2.0, 3) > 1.0).any()
    assert sustained_deficits(gold, 0.9, 2.0, 3).max() == pytest.approx(1.0)  # -1.2, -1.1, -5: collapses at any threshold below 1


def test_a_missing_gold_breaks_the_streak():
    assert sustained_deficits(np.array([-9.0, np.nan, -9.0, -9.0]), 0.9, 2.0, 2).tolist() == [-np.inf, -np.inf, pytest.approx(4.95)]


def test_the_threshold_curve_counts_the_runs_that_collapse_at_each_threshold(loaded):
    curve = threshold_curve(loaded.runs, loaded.curves, np.array([0.5, 1.0, 4.0]))
    for row in curve.itertuples():
        times = collapse_times(loaded.runs[loaded.runs["arm"] == row.arm].reset_index(drop=True), loaded.curves, threshold=row.threshold)
        assert (row.collapses, row.n) == (times["collapse_update"].notna().sum(), 6)
    assert curve.groupby("arm")["rate"].apply(lambda rates: rates.is_monotonic_decreasing).all()


def test_the_threshold_curve_is_what_a_loop_over_runs_finds_and_diverged_runs_are_in_it_at_every_threshold(loaded):
    runs = loaded.runs.copy()
    runs.loc[runs["seed"] == 0, "status"] = "diverged"
    severity = collapse_times(runs, loaded.curves).set_index("run")["severity"]
    for row in threshold_curve(runs, loaded.curves).itertuples():
        part = runs[runs["arm"] == row.arm]
        events = [status == "diverged" or severity[run] > row.threshold for run, status in zip(part["run"], part["status"], strict=True)]
        assert (row.collapses, row.n) == (sum(events), len(events))
        assert (row.rate, row.low, row.high) == tuple(clustered_rate(np.array(events, dtype=float), len(events)))


def test_a_disagreement_between_summary_and_curves_is_told(loaded):
    runs = loaded.runs.copy()
    runs["collapse_update"] = runs["collapse_update"].where(runs["arm"] != "vanilla", 20.0)
    assert any("summary says 20" in line for line in disagreements(runs, collapse_times(runs, loaded.curves)))


def test_values_at_a_crossing_are_linear_between_evaluations_and_missing_below():
    x, y = np.array([0.0, 1.0, 3.0, 2.0, 5.0]), np.array([10.0, 20.0, 40.0, 0.0, 0.0])
    assert interpolate_at(x, y, 2.0) == 30.0 and interpolate_at(x, y, 0.0) == 10.0 and np.isnan(interpolate_at(x, y, 5.1))


def value_near(rows: list[tuple[float, float]], target: float) -> float:
    """What `at_matched` says, evaluation by evaluation."""
    rows = [(x, y) for x, y in rows if np.isfinite(x) and np.isfinite(y)]
    for (x, y), (next_x, next_y) in itertools.pairwise(rows):
        if x >= target:
            return y if x == target else np.nan  # the first evaluation lies beyond
        if next_x >= target:
            half = (target - rows[0][0]) / 2
            near = next_x == target or (target - x <= half and next_x - target <= half)
            return y + (next_y - y) * (target - x) / (next_x - x) if near else np.nan
    return np.nan


def test_every_runs_value_at_a_crossing_is_what_one_by_one_gives():
    generator = np.random.default_rng(14)
    paths = {run: np.column_stack([np.cumsum(generator.exponential(0.25, 8)), generator.normal(size=8)]) for run in "abcdefghij"}
    paths |= {"low": np.array([[0.0, 1.0], [0.1, 1.0]]), "jumps": np.array([[0.0, 1.0], [0.1, 2.0], [5.0, 3.0]])}
    paths["a"][3, 1] = np.nan
    rows = pd.DataFrame(
        [(run, *row) for i in range(8) for run, path in paths.items() for row in path[i : i + 1]], columns=["run", "x", "y"]
    )
    found = at_matched(rows, "x", 1.2, "y")
    for run, path in paths.items():
        assert found[run] == pytest.approx(value_near(path.tolist(), 1.2), abs=1e-12, nan_ok=True)
    assert np.isnan(found[["low", "jumps"]]).all() and 3 <= found.notna().sum() < 10  # some were measured near, and not all


def test_the_matched_value_is_reached_by_half_the_runs_of_every_arm():
    largest = {"a": [1.0, 2.0, 9.0], "b": [3.0, 4.0, 5.0]}
    rows = [dict(arm=arm, run=f"{arm}{i}", kl=v) for arm, values in largest.items() for i, top in enumerate(values) for v in (0.0, top)]
    assert matched_value(pd.DataFrame(rows), "kl") == 2.0


def test_outcomes_know_only_what_each_status_lets_them_know(study, tmp_path):
    root = tmp_path / "study"
    shutil.copytree(study, root)
    for arm, seed, status in [("kl", 0, "interrupted"), ("kl", 1, "diverged"), ("vanilla", 0, "failed")]:
        path = root / arm / f"seed={seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    (root / "kl" / "seed=2" / "summary.json").unlink()  # still going, with no scores to take SFT's SD from
    loaded = load(root)
    table = outcomes(loaded.runs, loaded.curves).set_index(["arm", "seed"])
    assert np.isnan(table.loc[("kl", 0), "collapsed"]) and not table.loc[("kl", 0), "event"]
    assert np.isnan(table.loc[("kl", 0), "gold"])
    assert table.loc[("kl", 1), "collapsed"] == 1.0 and table.loc[("kl", 1), "time"] == 80
    assert table.loc[("vanilla", 0), "event"] and table.loc[("vanilla", 0), "time"] < 80  # known to survival, and
    assert table.loc[("vanilla", 0), ["collapsed", "gold", "gold_at_kl"]].isna().all()  # to no rate: it would be known too early
    assert np.isnan(table.loc[("kl", 2), "collapsed"]) and table.loc[("kl", 2), "status"] == "running"
    assert table.loc[("kl", 3), "collapsed"] == 0.0 and table.loc[("kl", 3), "stable_updates"] == 80


def test_unfinished_runs_do_not_raise_a_collapse_rate(loaded):
    """All seeds but two are still going: the collapsed ones among them are known, the others are not."""
    going = (loaded.runs["arm"] == "vanilla") & (loaded.runs["seed"] > 1)
    runs, early = loaded.runs.assign(status=np.where(going, "running", "completed")), loaded.curves["update"] <= 60
    runs["last_update"] = np.where(going, 60, 80)
    curves = loaded.curves[early | ~loaded.curves["run"].isin(runs["run"][going])]
    part = outcomes(runs, curves).query("arm == 'vanilla'")
    assert part["event"].sum() > 2 == part["collapsed"].notna().sum() == part["stable_updates"].notna().sum()
    assert threshold_curve(runs, curves, np.array([1.0])).set_index("arm").loc["vanilla", "n"] == 2


def test_an_arm_that_has_just_begun_does_not_move_the_matched_kl(study, tmp_path):
    root = tmp_path / "study"
    shutil.copytree(study, root)
    expected = load(study)
    shutil.copytree(root / "kl" / "seed=0", root / "new" / "seed=0")
    begun = root / "new" / "seed=0"
    (begun / "summary.json").unlink()
    (begun / "metrics.jsonl").write_text((begun / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    config = (begun / "config.yaml").read_text().replace("arm: kl\n", "arm: new\n").replace("gae_lambda: 0.95", "gae_lambda: 0.9")
    (begun / "config.yaml").write_text(config)
    loaded = load(root)
    table, before = outcomes(loaded.runs, loaded.curves), outcomes(expected.runs, expected.curves)
    assert "new" in set(table["arm"]) and table["matched_kl"].iloc[0] == before["matched_kl"].iloc[0] > 1
    assert table.query("arm == 'new'")["gold_at_kl"].isna().all()


def test_proxies_of_different_reward_models_are_not_matched(loaded):
    assert outcomes(loaded.runs, loaded.curves)["gold_at_proxy"].notna().any()
    other = loaded.runs.assign(**{"preferences.pairs": np.where(loaded.runs["arm"] == "kl", 250, 6000)})
    table = outcomes(other, loaded.curves)
    assert table["gold_at_proxy"].isna().all() and table["gold_at_kl"].notna().any()


def test_the_tails_of_scores_are_their_kurtosis_after_the_collapse_less_that_before():
    generator = np.random.default_rng(7)
    table = pd.DataFrame(dict(run=["a", "b", "c"], event=[True, False, True], end_update=[10.0, 20.0, 5.0]))
    drawn = {update: generator.standard_t(3, 200) if update >= 10 else generator.standard_normal(200) for update in (0, 5, 10, 15, 20)}
    scores = pd.concat([pd.DataFrame(dict(run=run, update=u, prompt=range(200), proxy=x)) for run in "ab" for u, x in drawn.items()])
    kurtosis = {u: np.mean((x - x.mean()) ** 4) / np.var(x) ** 2 - 3 for u, x in drawn.items()}
    expected = np.median([kurtosis[u] for u in (10, 15, 20)]) - np.mean([kurtosis[0], kurtosis[5]])
    found = proxy_tails(table, scores)
    assert found[0] == pytest.approx(expected, rel=1e-12) and expected > 1 and np.isnan(found[1:]).all()


def test_without_gold_nothing_is_called_collapsed(loaded):
    runs = loaded.runs.assign(**{"sft/eval/gold": np.nan, "sft/eval/gold_sd": np.nan})
    table = outcomes(runs, loaded.curves.drop(columns="eval/gold"))
    assert table["collapsed"].isna().all() and not table["event"].any() and table["gold"].isna().all()


def test_the_base_is_the_arm_that_one_change_separates_from_all_others(loaded):
    settings = arm_settings(loaded.runs)
    assert base_arm(settings) == "vanilla"
    assert change(settings, "kl", "vanilla") == "kl_penalty False → True"
    assert "seed" not in settings


def test_effects_are_paired_by_seed_and_holm_is_over_arms(loaded):
    table = outcomes(loaded.runs, loaded.curves)
    effects = trick_effects(table, arm_settings(loaded.runs)).set_index(["arm", "outcome"])
    wide = table.pivot(index="seed", columns="arm", values="gold")
    assert effects.loc[("kl", "gold"), "estimate"] == pytest.approx((wide["kl"] - wide["vanilla"]).mean())
    small, large = sorted([effects.loc[(arm, "gold"), "p"] for arm in ("kl", "scaling")])
    assert sorted(effects.loc[[("kl", "gold"), ("scaling", "gold")], "p_holm"]) == pytest.approx(sorted([2 * small, max(2 * small, large)]))


FACTORS = ("ppo.a", "ppo.b", "ppo.c")


def factorial_table(effect):
    cells = list(itertools.product((False, True), repeat=3))
    settings = settings_of({"".join("ft"[on] for on in cell): dict(zip(FACTORS, cell, strict=True)) for cell in cells})
    noise = np.random.default_rng(6).normal(0, 1e-6, (8, 5))
    arms = {
        arm: {"gold": (effect(*cell) + 3.0 * np.arange(5) + noise[i]).tolist()}
        for i, (arm, cell) in enumerate(zip(settings.index, cells, strict=True))
    }
    return table_of(arms), settings


def test_factorial_effects_are_the_planted_ones_whatever_the_seeds_share():
    table, settings = factorial_table(lambda a, b, c: 2.0 * a - 1.0 * b + 4.0 * a * b)
    effects = factorial_effects(table, factors(settings), "gold").set_index("term")["estimate"]
    # a: 2 + half of 4; b: -1 + half of 4; a × b: half of (6 - 2)
    expected = {"a": 4.0, "b": 1.0, "c": 0.0, "a × b": 2.0, "a × c": 0.0, "b × c": 0.0}
    assert effects.to_dict() == pytest.approx(expected, abs=1e-5)


def test_only_a_full_two_level_design_has_factors():
    _, settings = factorial_table(lambda *_: 0.0)
    assert set(factors(settings)) == {"a", "b", "c"}
    assert factors(settings.iloc[:-1]) == {}
    assert factors(settings.assign(**{"ppo.kl_coef": settings["ppo.a"].map({"True": "0.1", "False": "0.0"})})).keys() == {
        "a+kl_coef",
        "b",
        "c",
    }
    assert factors(settings_of({"x": {"ppo.a": 1}, "y": {"ppo.a": 2}, "z": {"ppo.a": 3}})) == {}


def test_arms_are_matched_by_settings_and_differ_in_nothing_else():
    off = {"ppo.kl_penalty": False, "ppo.kl_coef": 0.1, "ppo.ptx": False}
    on = {**off, "ppo.kl_penalty": True}
    settings = settings_of({"base": off, "kl": on, "kl_small": {**on, "ppo.kl_coef": 0.05}, "both": {**on, "ppo.ptx": True}})
    assert find_arms(settings, Part("gold", "higher", ON, OFF)) == (["kl"], ["base"])
    assert find_arms(settings, Part("gold", "higher", ON, OFF, linked=("ppo.kl_coef",))) == (["kl", "kl_small"], ["base", "base"])
    assert find_arms(settings, Part("gold", "above", {**ON, "ppo.kl_coef": 0.05})) == (["kl_small"], [])
    assert find_arms(settings, Part("gold", "above", {"ppo.absent": True})) == ([], [])
    assert judge(Claim("", "", (Part("gold", "higher", {"ppo.absent": True}, OFF),)), table_of({}), settings) is None


def test_most_and_least_are_the_amounts_of_the_study():
    settings = settings_of({"few": {"n": 250, "noise": 0}, "many": {"n": 2000, "noise": 0}, "noisy": {"n": 2000, "noise": 4}})
    assert find_arms(settings, Part("gold", "higher", {"n": MAX_VALUE}, {"n": MIN_VALUE})) == (["many"], ["few"])
    assert find_arms(settings, Part("gold", "higher", {"noise": MIN_VALUE}, {"noise": MAX_VALUE})) == (["many"], ["noisy"])
    assert find_arms(settings[["n"]].iloc[1:2], Part("gold", "higher", {"n": MAX_VALUE}, {"n": MIN_VALUE})) == ([], [])


def test_the_seeds_of_a_claim_are_those_of_its_hardest_part():
    arms = {arm: {"collapsed": columns["collapsed"][:3], "gold": [0.0, 1.0, 5.0]} for arm, columns in COLLAPSES.items()}
    arms["kl"]["gold"] = [1.0, 1.5, 6.5]
    claim = Claim("f", "t", (Part("collapsed", "lower", ON, OFF), Part("gold", "higher", ON, OFF)))
    verdict = judge(claim, table_of(arms), KL_SETTINGS)
    assert verdict.needed == max(part.needed for part in verdict.parts) and f"; about {verdict.needed} seeds would do" in verdict.sentence


def test_one_seed_asks_for_five_and_none_says_that_nothing_is_known():
    one = {"base": {"gold": [0.0], "collapsed": [0.0]}, "kl": {"gold": [1.0], "collapsed": [0.0]}}
    found = verdict_of(Part("gold", "higher", ON, OFF), one)
    assert found.needed == 5 and found.sentence.endswith("; at least 5 seeds are needed") and "inf" not in found.sentence
    none = {arm: {"gold": [np.nan], "collapsed": [np.nan]} for arm in one}
    found = verdict_of(Part("gold", "higher", ON, OFF), none)
    assert found.needed is None and found.sentence.endswith("; not known of any run yet")


def test_equal_rates_ask_for_as_many_seeds_as_show_them_equal():
    rates = {arm: {"collapsed": [1.0] * 3} for arm in COLLAPSES}
    assert (
        verdict_of(Part("collapsed", "lower", ON, OFF), rates).needed == verdict_of(Part("collapsed", "same", ON, OFF), rates).needed < 100
    )


def test_the_levels_told_are_those_of_the_seeds_compared():
    arms = {"base": {"gold": [0.0, 0.1, 0.2, 0.3, 0.4, 99.0]}, "kl": {"gold": [1.0, 1.2, 1.3, 1.1, 1.4, np.nan]}}
    arms = {arm: columns | {"collapsed": [0.0] * 6} for arm, columns in arms.items()}
    assert "1.20 of kl against 0.20 of base (difference +1.00 " in verdict_of(Part("gold", "higher", ON, OFF), arms).sentence


COLLAPSES = {"base": {"collapsed": [1.0] * 5}, "kl": {"collapsed": [0.0] * 5}}


def test_five_of_five_against_none_of_five_supports_and_its_opposite_contradicts():
    assert verdict_of(Part("collapsed", "lower", ON, OFF), COLLAPSES).verdict == "supported"
    assert verdict_of(Part("collapsed", "higher", ON, OFF), COLLAPSES).verdict == "contradicted"


def test_the_same_collapses_in_every_context_of_a_factorial_count_once_a_seed():
    grid = {f"{trick}_{kl}": {"ppo.kl_penalty": kl, "ppo.ptx": trick} for trick in (False, True) for kl in (False, True)}
    arms = {arm: {"collapsed": [0.0 if cell["ppo.kl_penalty"] else 1.0] * 5} for arm, cell in grid.items()}
    found = verdict_of(Part("collapsed", "lower", ON, OFF), arms, settings_of(grid))
    assert (
        found.verdict == "supported"
        and found.effect[:5] == rate_effect(0, 5, 5, 5)[:5]
        and str(found.effect.basis) == "5 seeds, one reward model"
    )
    arms["False_True"]["collapsed"] = [1.0, 0, 0, 0, 0]  # seeds no longer agree: shares 0.5, 0, 0, 0, 0 against 1
    shares = np.array([-0.5, -1, -1, -1, -1])
    assert verdict_of(Part("collapsed", "lower", ON, OFF), arms, settings_of(grid)).effect[:5] == paired_effect(shares)[:5]


def test_four_seeds_never_decide_however_clear():
    four = {arm: {"collapsed": columns["collapsed"][:4]} for arm, columns in COLLAPSES.items()}
    found = verdict_of(Part("collapsed", "lower", ON, OFF), four)
    assert found.verdict == "cannot tell" and found.needed >= 5 and f"about {found.needed} seeds would do" in found.sentence


def test_no_collapse_in_five_does_not_show_stability_and_thirteen_do():
    def at(n):
        return verdict_of(Part("collapsed", "below", ON, bound=0.25), {"kl": {"collapsed": [0.0] * n}}, settings_of({"kl": ON}))

    assert at(5).verdict == "cannot tell" and at(13).verdict == "supported"
    assert 13 <= at(5).needed


def test_same_needs_tight_differences_and_like_collapse_rates():
    noise = np.array([[0.3, -0.3] * 8, [0.3, 0.3, -0.3, -0.3] * 4])  # differences 0, 0.6, 0, -0.6: mean 0
    held = {arm: {"gold": values, "collapsed": np.zeros(16)} for arm, values in zip(("base", "kl"), noise, strict=True)}
    assert verdict_of(Part("gold", "same", ON, OFF), held).verdict == "supported"
    few = {arm: {name: values[:6] for name, values in columns.items()} for arm, columns in held.items()}
    assert verdict_of(Part("gold", "same", ON, OFF), few).verdict == "cannot tell"  # a rare collapse could hide in six seeds
    apart = {"base": held["base"], "kl": {"gold": noise[1] + 3.0, "collapsed": np.zeros(16)}}
    assert verdict_of(Part("gold", "same", ON, OFF), apart).verdict == "contradicted"
    assert verdict_of(Part("gold", "different", ON, OFF), apart).verdict == "supported"
    assert verdict_of(Part("gold", "different", ON, OFF), held).verdict == "contradicted"
    assert verdict_of(Part("gold", "higher", ON, OFF), held).verdict == "cannot tell"  # the mean is hostage to a rare collapse
    assert verdict_of(Part("collapsed", "lower", ON, OFF), held).verdict == "contradicted"  # 0 of 16 against 0 of 16


def test_a_claim_holds_if_all_its_parts_do_and_falls_with_one():
    arms = {arm: {**columns, "gold": [0.0, 0.1, 0.2, 0.3, 0.4]} for arm, columns in COLLAPSES.items()}
    arms["kl"]["gold"] = [2.0, 2.2, 1.9, 2.5, 2.1]
    holds, falls = Part("collapsed", "lower", ON, OFF), Part("gold", "lower", ON, OFF)
    unsure = Part("collapsed", "below", ON, bound=0.25)
    overall = [
        judge(Claim("f", "t", parts), table_of(arms), KL_SETTINGS).verdict for parts in ((holds, holds), (holds, unsure), (holds, falls))
    ]
    assert overall == ["supported", "cannot tell", "contradicted"]


SWEEP_OF = {
    "Fig. 2": "rm_training", "Fig. 3": "rm_training", "Fig. 10": "win_rate", "Fig. 11": "win_rate", "Fig. 12": "ptx", "Fig. 13": "vanilla",
    "main finding": "rm_quality",
    "Fig. 4": "vanilla", "Fig. 6": "score_reparameterisation", "Fig. 7": "policy_constraints", "Fig. 8": "initialisation",
    "Fig. 9": "ppo_max_long", "Fig. 14": "joint_clipping", "Fig. 15": "kl_coef", "Fig. 16": "entropy_clip",
    "Fig. 17": "surrogate_clip", "Fig. 18": "grad_clip", "Fig. 19": "gae_lambda",
}  # fmt: skip


@pytest.fixture(scope="module")
def composed():
    """sweep → arms × settings, composed as the runs of that sweep would be."""
    ConfigStore.instance().store(name="schema", node=Config, provider="ablate")
    found = {}
    with initialize_config_dir(version_base="1.3", config_dir=str(Path(ablate.__file__).parent / "conf")):
        for name in (*SWEEP_OF.values(), *MODERN_STUDIES):
            jobs = expand(load_study(name), {}, "ppo_max")
            configs = [asdict(OmegaConf.to_object(compose("config", overrides=list(job)))) for job in jobs]
            found[name] = arm_settings(pd.DataFrame([{"arm": config["arm"], **flatten(config)} for config in configs]))
    return found


@pytest.mark.parametrize("claim", PAPER_CLAIMS, ids=lambda claim: claim.text)
def test_every_claim_of_the_paper_finds_its_arms_in_the_sweep_of_its_figure(claim, composed, loaded):
    logged = loaded.curves.assign(**dict.fromkeys(ABILITY.values(), 1.0))
    known = {*outcomes(loaded.runs, logged).columns, "proxy_tail", "third_losses"}
    for part in claim.parts:
        treated, controls = find_arms(composed[SWEEP_OF[claim.figure]], part)
        assert treated and len(controls) == (0 if part.control is None else len(treated))
        assert part.expects in ("higher", "lower", "same", "different", "below", "above") and part.outcome in known


MODERN_STUDIES = (
    "kl_placement", "two_lambdas", "rm_ensembles", "reward_shapes", "length_cures", "clips", "loss_aggregation", "critic_free", "mismatch",
    "moving_reference", "guards", "value_norm",
)  # fmt: skip


@pytest.mark.parametrize("claim", MODERN_CLAIMS, ids=lambda claim: claim.text)
def test_every_claim_of_a_later_paper_finds_its_arms_in_a_study_of_the_modern_choices(claim, composed, loaded):
    known = {*outcomes(loaded.runs, loaded.curves).columns}
    studies = [name for name in MODERN_STUDIES if all(find_arms(composed[name], part)[0] for part in claim.parts)]
    assert studies, "no study holds its arms"
    for part in claim.parts:
        treated, controls = find_arms(composed[studies[0]], part)
        assert len(controls) == len(treated) >= 1
        assert part.expects in ("higher", "lower", "same", "different", "below", "above") and part.outcome in known


def ptx_study(root: Path, alone: float, with_ptx: float | None) -> str:
    """Eight seeds of PPO-max with and without ptx; what the loss on held-out text rises by from SFT's 2, with a seed's own noise."""
    shared = {"ppo.kl_penalty": True, "ppo.reward_norm": True, "ppo.critic_pretrain": True, "ppo.grad_clip": True, "ppo.value_clip": True,
              "ppo.critic_init": "reward", "ppo.policy_init": "sft", "ppo.ptx_coef": 0.1}  # fmt: skip
    arms = {"ppo_max": Arm(shared | {"ppo.ptx": False}), "ppo_ptx": Arm(shared | {"ppo.ptx": True})}
    study = write_study(root, arms, 8, np.random.default_rng(0), study="ptx")
    for path in study.glob("*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rise = {"ppo_max": alone, "ppo_ptx": with_ptx}[path.parts[-3]]
        for row in rows:
            if "eval/gold" in row and rise is not None:
                row["eval/lm_loss"] = 2 + (rise + 0.02 * int(path.parts[-2][-1])) * row["update"] / rows[-1]["update"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(study)


def judged_study(root: Path, policy: float, sft: float) -> Path:
    """Eight seeds of PPO-max; losses to a third model of 100 harmful prompts, with a seed's own noise."""
    settings = {"ppo.kl_penalty": True, "ppo.reward_norm": True, "ppo.critic_pretrain": True, "ppo.critic_init": "reward",
                "ppo.policy_init": "sft", "ppo.grad_clip": True, "ppo.value_clip": True, "data.language": "en"}  # fmt: skip
    study = write_study(root, {"ppo_max": Arm(settings)}, 8, np.random.default_rng(0), study="win_rate")
    for seed, folder in enumerate(sorted(study.glob("*/*"))):
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["update"]
        for part, lost in (("policy", policy), ("sft", sft)):
            harmful = int(100 * lost) + (seed % 3 if part == "policy" else 0)
            table = [dict(kind=kind, prompts=100, win=100 - lose - 10, tie=10, lose=lose, unreadable=0)
                     for kind, lose in (("all", 50), ("harmful", harmful))]  # fmt: skip
            write_judgement(folder, part, last if part == "policy" else None, table)
        write_judgement(folder, "policy", 0, [dict(kind="all", prompts=9, win=0, tie=0, lose=9, unreadable=0)], "early")
    return study


def write_judgement(folder: Path, part: str, update: int | None, table: list[dict], name: str = "last") -> None:
    (folder / "judgements").mkdir(exist_ok=True)
    record = {"judge": {"kind": "llm", "name": "judge-1"}, "first": {"name": part, "kind": "run", "part": part, "update": update},
              "second": {"name": "third", "kind": "model"}, "table": table}  # fmt: skip
    (folder / "judgements" / f"{part}-{name}.json").write_text(json.dumps(record))


@pytest.mark.parametrize("policy, sft, verdict", [(0.24, 0.45, "supported"), (0.45, 0.24, "contradicted")])
def test_figure_11_is_judged_by_losses_to_a_third_model_on_harmful_prompts(tmp_path, capsys, policy, sft, verdict):
    assert verdicts_module.main([str(judged_study(tmp_path, policy, sft))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{verdict}, given one reward model: PPO-max loses less often than SFT to a third model in English [Fig. 11]" in said
    expected = policy - sft + np.mean([seed % 3 for seed in range(8)]) / 100
    assert f"losses to a third model minus SFT's to it of ppo_max is {expected:.2f}" in said and "has been judged against one" not in said


def test_figure_11_is_not_judged_where_only_one_of_policy_and_sft_has_met_the_third_model(tmp_path, capsys):
    study = judged_study(tmp_path, 0.2, 0.4)
    for path in study.rglob("judgements/sft-last.json"):
        path.unlink()
    assert verdicts_module.main([str(study), "--all"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "loses less often than SFT to a third model in English" not in said and "not judged by any run: RLHF loses less often" in said


@pytest.mark.parametrize("alone, with_ptx, verdict", [(0.4, 0.1, "supported"), (-0.4, -0.6, "contradicted"), (0.4, 0.8, "contradicted")])
def test_figure_12_is_judged_by_the_loss_on_held_out_text(tmp_path, capsys, alone, with_ptx, verdict):
    assert verdicts_module.main([ptx_study(tmp_path, alone, with_ptx)]) == 0
    said = capsys.readouterr().out.replace("\n    ", " ")
    assert f"{verdict}, given one reward model: PPO costs ability on general text and ptx wins part of it back" in said
    assert "part of it back, by the loss on held-out text [Fig. 12]" in said
    assert "by multiple choice" not in said and "not judged by any run: PPO costs ability" not in said
    assert f"rise of the loss on held-out text over SFT of ppo_max is {alone + 0.07:.2f}" in said


def test_figure_12_is_not_judged_where_no_run_has_measured_ability(tmp_path, capsys):
    assert verdicts_module.main([ptx_study(tmp_path, None, None), "--all"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "not judged by any run: PPO costs ability on general text" in said and "lm_loss" in said and "by the loss on held-out" not in said
    )


def test_the_command_prints_planted_truths_and_what_it_left_out(study, tmp_path, capsys):
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / "kl" / "seed=9").mkdir()
    (tmp_path / "study" / "kl" / "seed=9" / "config.yaml").write_text("seed: 9\n")
    assert verdicts_module.main([str(tmp_path / "study"), "--all"]) == 0
    out = capsys.readouterr().out
    assert "No claim of the paper can be judged with these arms." not in out
    assert "cannot tell, given one reward model: reward scaling alone changes nothing [Fig. 6]" in out
    assert "0/6 [0.00, 0.46]" in out and "> 80" in out and "inf" not in out and "nan" not in out
    assert "not judged by any run: " in out and "third model" in out
    assert "no metrics.jsonl" in out and "Given one reward model (pipeline_seed=0)" in " ".join(out.split())


def test_markdown_and_csv_hold_what_the_text_says(study, tmp_path, capsys):
    assert verdicts_module.main([str(study), "--all", "--markdown", str(tmp_path / "v.md"), "--csv", str(tmp_path / "csv")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    claims = pd.read_csv(tmp_path / "csv" / "study" / "claims.csv")
    assert len(claims) > 3 and all(sentence in text for sentence in claims["sentence"])
    arms = pd.read_csv(tmp_path / "csv" / "study" / "arms.csv")
    assert arms["arm"].tolist() == ["kl", "scaling", "vanilla"] and (tmp_path / "csv" / "study" / "effects.csv").exists()
    lines = (tmp_path / "v.md").read_text().splitlines()
    tables = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert f"**{claims['verdict'].iloc[0]}**" in tables[1][1] and sum(row[0] == "| kl" for row in tables) == 1
    assert {len(row) for row in tables} == {3, 8}  # claim, verdict, numbers; and the arms' eight columns


def test_lines_are_no_wider_than_a_terminal_with_twenty_arms(tmp_path, capsys):
    arms = {f"arm_with_a_name_{i:02}": Arm({"ppo.gae_lambda": i / 20}, 0.5) for i in range(20)}
    assert verdicts_module.main([str(write_study(tmp_path, arms, 3, np.random.default_rng(0), every_update=False))]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 150


def test_the_command_names_a_mistake_in_one_sentence(study, tmp_path, capsys):
    assert verdicts_module.main([str(tmp_path / "nowhere")]) == 1
    assert re.fullmatch(r"error: .*nowhere is not a folder: .*\n", capsys.readouterr().err)
    assert verdicts_module.main([str(study), "--base", "vanila"]) == 1
    assert "no such arm in study; there are kl, scaling, vanilla" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert verdicts_module.main([str(tmp_path / "empty")]) == 1
    assert "no run folder could be used" in capsys.readouterr().err


def test_gold_and_its_sd_reach_the_outcomes_from_the_folders(loaded):
    table = outcomes(loaded.runs, loaded.curves)
    assert (table["sft_gold_sd"] == SFT_SD).all()
    ends = loaded.curves[loaded.curves["update"] == 80].set_index("run")["eval/gold"]
    assert table.set_index("run")["gold_gain"].to_dict() == pytest.approx((ends - SFT_GOLD).to_dict())


def test_a_fork_which_has_no_evaluation_at_update_0_gains_over_the_sft_of_its_summary():
    """Branched at update 40: gold 2.5 at the end less SFT's 1.0, proxy 3 − 0.5, and the loss 2.0 − 1.75. Without a summary: not known."""
    runs = pd.DataFrame(
        [dict(run=name, study="s", arm="a", reward_model="", seed=0, status="completed", last_update=60) for name in ("fork", "bare")]
    )
    sft = {"eval/gold": 1.0, "eval/gold_sd": 1.0, "eval/proxy": 0.5, "eval/lm_loss": 1.75}
    runs = runs.assign(**{f"sft/{name}": [value, np.nan] for name, value in sft.items()})
    rows = [
        {"run": run, "study": "s", "arm": "a", "update": update, "eval/gold": gold, "eval/proxy": 3.0, "eval/lm_loss": 2.0}
        for run in ("fork", "bare") for update, gold in ((40, 2.0), (60, 2.5))
    ]  # fmt: skip
    table = outcomes(runs, pd.DataFrame(rows)).set_index("run")
    gains = ["gold_gain", "proxy_gain", "lm_loss_gain"]
    assert table.loc["fork", gains].tolist() == [1.5, 2.5, 0.25]
    assert table.loc["bare", gains].isna().all()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 8, 16])
@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_without_an_effect_at_most_five_percent_of_verdicts_claim_one(tmp_path, seeds, probability):
    studies = 200
    arm = Arm(collapse_probability=probability)
    counts = verdicts(tmp_path / "null", arm, arm, seeds, studies, np.random.default_rng(seeds))
    allowed = 0.05 * studies + 2 * np.sqrt(studies * 0.05 * 0.95)  # two standard errors of the simulation itself
    for name in ("collapsed", "stable_updates", "gold", "win", "gold_at_kl"):
        assert counts[name]["supported"] + counts[name]["opposite"] <= allowed, (name, counts[name])
    assert counts["same"]["contradicted"] <= allowed and counts["below"]["supported"] <= allowed


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(5, 0.6), (8, 0.95), (16, 0.99)])
def test_a_constraint_that_prevents_nine_collapses_in_ten_is_found(tmp_path, seeds, least):
    studies = 100
    counts = verdicts(
        tmp_path / "power", Arm(collapse_probability=0.02), Arm(collapse_probability=0.9), seeds, studies, np.random.default_rng(1)
    )
    assert counts["collapsed"]["supported"] >= least * studies and counts["stable_updates"]["supported"] >= least * studies
    assert sum(counts[name]["contradicted"] + counts[name]["opposite"] for name in ("collapsed", "stable_updates", "gold", "win")) == 0


def test_planted_truths_are_found_through_the_whole_chain(tmp_path):
    counts = verdicts(tmp_path / "sims", Arm(), Arm(collapse_probability=1.0), 8, 3, np.random.default_rng(8))
    assert counts["collapsed"] == {"supported": 3} and counts["stable_updates"] == {"supported": 3}
    null = Arm(collapse_probability=0.5)
    counts = verdicts(tmp_path / "sims", null, null, 8, 3, np.random.default_rng(8))
    assert counts["collapsed"]["supported"] == counts["gold"]["supported"] == 0


def test_overrides_of_the_simulator_leave_its_defaults_alone():
    assert override(CONFIG, {"ppo.updates": 10})["ppo"]["updates"] == 10 and CONFIG["ppo"]["updates"] == 80


def curves_of(golds: dict[str, dict[int, float]], **columns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, curves): run → update → gold, of SFT's gold 0 with an SD of 1; `columns` are settings, one value or one per run."""
    last = [max(gold) for gold in golds.values()]
    runs = pd.DataFrame({"run": list(golds), "study": "s", "arm": "a", "reward_model": "", "seed": range(len(golds)), "status": "completed",
                         "last_update": last, "sft/eval/gold": 0.0, "sft/eval/gold_sd": 1.0, "ppo.updates": last} | columns)  # fmt: skip
    rows = [{"run": run, "update": update, "eval/gold": value} for run, gold in golds.items() for update, value in gold.items()]
    return runs, pd.DataFrame(rows).merge(runs[["run", "study", "arm", "reward_model", "seed"]], on="run")


def test_runs_with_as_many_evaluations_as_patience_are_unknown_and_one_more_has_held():
    golds = {"short": dict.fromkeys((0, 5, 10), 0.5), "long": dict.fromkeys((0, 5, 10, 15), 0.5), "fell": {5: -2.0, 10: -2.0, 15: -2.0}}
    times = collapse_times(*curves_of(golds)).set_index("run")
    assert times["too_short"].to_dict() == {"short": True, "long": False, "fell": False}
    assert times["judged"].to_dict() == {"short": False, "long": True, "fell": True} and times.loc["fell", "collapse_update"] == 5
    table = outcomes(*curves_of(golds)).set_index("run")
    assert np.isnan(table.loc["short", "collapsed"]) and table.loc[["long", "fell"], "collapsed"].tolist() == [0.0, 1.0]
    assert np.isnan(table.loc["short", "stable_updates"]) and table.loc["short", "too_short"]


def test_runs_too_short_to_collapse_are_told_with_the_reason():
    short = curves_of({f"r{i}": dict.fromkeys((0, 5, 10), 0.5 + i) for i in range(10)}, arm=["base"] * 5 + ["kl"] * 5, seed=[*range(5)] * 2)
    for outcome in ("collapsed", "stable_updates"):
        found = judge(Claim("", "t", (Part(outcome, "same", ON, OFF),)), outcomes(*short), KL_SETTINGS)
        assert found.verdict == "cannot tell" and "too short to collapse" in found.parts[0].sentence


def test_curves_tell_what_the_run_says_online_whatever_the_spread_of_sfts_gold():
    generator, seen = np.random.default_rng(15), Counter()
    for _ in range(200):
        spread, patience, every = generator.choice([0.0, 0.5]), int(generator.integers(1, 5)), int(generator.integers(2, 4))
        dense, last = int(generator.integers(0, 12)), int(generator.integers(2, 20))
        sft = (spread * np.array([-1.0, 0.0, 1.0])).tolist()
        config = CollapseConfig(threshold=float(generator.choice([0.5, 1.0])), patience=patience)
        online, gold = CollapseDetector.from_baseline(sft, config), {0: 0.0}
        gold |= {update: float(generator.choice([-2.0, -0.6, -0.3, 0.0, 0.4]))
                 for update in range(1, last + 1) if update % every == 0 or update in range(1, dense + 1) or update == last}  # fmt: skip
        for update, value in gold.items():
            if update % every == 0 or update == last:  # what counts online
                online.update(update, value)
        settings = {"collapse.threshold": config.threshold, "collapse.patience": patience, "evaluation.every": every,
                    "evaluation.dense_until": dense, "sft/eval/gold_sd": spread}  # fmt: skip
        (row,) = collapse_times(*curves_of({"r": gold}, **settings)).itertuples()
        found = True if np.isfinite(row.collapse_update) else False if row.judged else None
        assert found == online.collapsed and (not found or row.collapse_update == online.collapse_update)
        seen[online.collapsed, spread] += 1
    assert min(seen[verdict, spread] for verdict in (True, False, None) for spread in (0.0, 0.5)) > 5


def test_looking_more_densely_at_gold_changes_no_verdict():
    """Below the limit at 1 to 4, where the run looked densely, and at 5: one evaluation of the grid, and no collapse."""
    gold = {0: 0.0, **dict.fromkeys(range(1, 6), -3.0), 10: 0.0, 15: 0.0, 20: 0.0}
    grid = {"evaluation.every": 5, "evaluation.dense_until": 5}
    runs, curves = curves_of({"r": gold}, **grid)
    sparse = curves[curves["update"] % 5 == 0]
    assert collapse_times(runs, curves).equals(collapse_times(runs, sparse))
    assert np.isnan(collapse_times(runs, curves)["collapse_update"].iloc[0])
    assert collapse_times(runs.drop(columns=list(grid)), curves)["collapse_update"].iloc[0] == 1  # a run that evaluates every update


def test_times_are_in_responses_where_batch_sizes_differ():
    """Both collapse after 1280 responses: at update 20 of 64 and at update 10 of 128; the horizon is the shorter plan, 3840."""

    def falls(update):
        return {u: (-3.0 if u >= update else 0.5) for u in range(0, 61, 5)}

    golds = {"small": falls(20), "large": {u: g for u, g in falls(10).items() if u <= 30}, "holds": dict.fromkeys(range(0, 61, 5), 0.5)}
    table = outcomes(*curves_of(golds, arm=["small", "large", "small"], **{"ppo.batch_size": [64, 128, 64]})).set_index("run")
    assert set(table["time_unit"]) == {"responses"} and set(table["horizon"]) == {3840}
    assert table["time"].to_dict() == {"small": 1280, "large": 1280, "holds": 3840} == table["stable_updates"].to_dict()
    assert table["end_update"].to_dict() == {"small": 20, "large": 10, "holds": 60}
    alike = outcomes(*curves_of(golds, **{"ppo.batch_size": 64}))
    assert set(alike["time_unit"]) == {"updates"} and alike["time"].tolist() == [20, 10, 60]


@pytest.mark.parametrize(
    ("x", "expected"),
    [([0.0, 1.0, 3.0], 15.0), ([0.0, 0.9, 3.0], np.nan), ([0.0, 1.0, 3.1], np.nan), ([0.0, 0.1, 2.0], 20.0), ([2.5, 3.0, 4.0], np.nan),
     ([2.0, 3.0, 4.0], 0.0), ([1.0, 1.5, 2.5], 15.0), ([1.0, 1.4, 2.5], np.nan), ([0.0, 1.9, 1.99], np.nan)],
)  # fmt: skip
def test_a_value_at_two_is_read_only_where_evaluations_are_within_half_the_way_from_the_first(x, expected):
    assert interpolate_at(np.array(x), np.array([0.0, 10.0, 20.0]), 2.0) == pytest.approx(expected, nan_ok=True)


def test_each_reward_model_has_a_matched_proxy_of_its_own():
    """Proxy scores of b are ten times those of a: gold at the matched proxy is read at update 10 of both."""
    gold = {u: u / 10 for u in range(0, 21, 5)}
    runs, curves = curves_of(dict.fromkeys("wxyz", gold), reward_model=list("aabb"), arm=["base", "kl"] * 2, seed=0)
    reach = {"w": 2.0, "x": 1.0, "y": 20.0, "z": 10.0}
    curves["eval/proxy"] = curves["run"].map(reach) * curves["update"] / 20
    curves["eval/kl_to_sft"] = (curves["update"] / 10) ** 2
    table = outcomes(runs, curves).set_index("run")
    assert table["matched_proxy"].to_dict() == {"w": 1.0, "x": 1.0, "y": 10.0, "z": 10.0}
    assert table["gold_at_proxy"].to_dict() == pytest.approx({"w": 1.0, "x": 2.0, "y": 1.0, "z": 2.0})
    assert set(table["matched_kl"]) == {4.0}  # KL is on one scale for all


def over_models(models: int, seeds: int, effect: float = 2.0) -> pd.DataFrame:
    """Arms base and kl with gold, gold at equal KL and collapses over reward models and seeds; kl wins `effect` and never collapses."""
    generator = np.random.default_rng(16)
    rows = [dict(run=f"{arm}/{m}/{s}", arm=arm, reward_model=f"m{m}", seed=s, sft_gold_sd=2.0, horizon=80.0, collapsed=float(arm == "base"),
                 gold_at_kl=effect * (arm == "kl") + 0.3 * generator.standard_normal())
            for arm in ("base", "kl") for m in range(models) for s in range(seeds)]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(gold=table["gold_at_kl"], stable_updates=np.where(table["collapsed"] == 1, 30.0, 80.0))


DESIGNS = [(1, 6, "given one reward model", "6 seeds, one reward model"), (8, 1, "over 8 reward models", "8 reward models, one seed each"),
           (6, 2, "over 6 reward models", "6 reward models × 2 seeds")]  # fmt: skip


@pytest.mark.parametrize(("models", "seeds", "scope", "basis"), DESIGNS)
@pytest.mark.parametrize("outcome", ["gold", "gold_at_kl", "collapsed", "stable_updates"])
@pytest.mark.parametrize(("expects", "controls"), [("higher", OFF), ("same", OFF), ("above", None)])
def test_every_sentence_says_its_scope_and_what_it_rests_on(models, seeds, scope, basis, outcome, expects, controls):
    claim = Claim("Fig. 0", "a claim", (Part(outcome, expects, ON, controls),))
    verdict = judge(claim, over_models(models, seeds), KL_SETTINGS)
    assert verdict.sentence.startswith(f"{verdict.verdict}, {scope}: a claim [Fig. 0]")
    assert f"; {basis}" in verdict.parts[0].sentence and verdict.parts[0].sentence.startswith(verdict.parts[0].verdict)


def test_a_claim_speaks_of_the_narrowest_design_of_its_parts():
    table = over_models(8, 1)
    table.loc[table["reward_model"] != "m0", "collapsed"] = np.nan
    claim = Claim("f", "t", (Part("gold_at_kl", "higher", ON, OFF), Part("collapsed", "lower", ON, OFF)))
    assert judge(claim, table, KL_SETTINGS).sentence.startswith("cannot tell, given one reward model: t [f]")


@pytest.mark.parametrize(
    ("needed", "basis", "said"),
    [(None, Basis(), "; not known of any run yet"), (5, Basis(1, 1, 1, 1), "; at least 5 seeds are needed"),
     (12, Basis(1, 5, 5, 5), "; about 12 seeds would do"), (12, Basis(8, 1, 1, 8), "; about 12 reward models would do"),
     (12, Basis(4, 2, 3, 10), "; about 12 reward models of 3 seeds each would do (36 runs per arm)"),
     (None, Basis(1, 5, 5, 5), "; no number of seeds below 1000 would do at this size of effect"),
     (None, Basis(4, 2, 2, 8), "; no number of reward models below 1000 would do at this size of effect")],
)  # fmt: skip
def test_how_many_units_would_do_is_said_of_the_unit_that_was_tested(needed, basis, said):
    assert would_do(needed, basis) == said


def test_few_reward_models_of_several_seeds_are_told_how_many_of_one_seed_would_do():
    table = over_models(3, 4)
    found = judge(Claim("f", "t", (Part("gold_at_kl", "higher", ON, OFF),)), table, KL_SETTINGS).parts[0]
    assert found.verdict == "cannot tell" and found.needed >= 4
    assert f"about {found.needed} reward models of 4 seeds each would do ({4 * found.needed} runs per arm)" in found.sentence
    assert re.search(r"; or about \d+ reward models of one seed each \(\d+ runs per arm\)$", found.sentence)


def test_a_collapse_rate_over_fewer_than_six_reward_models_is_not_decided_however_many_seeds():
    def at(models):
        return judge(Claim("f", "t", (Part("collapsed", "lower", ON, OFF),)), over_models(models, 4), KL_SETTINGS)

    assert at(5).verdict == "cannot tell" and at(5).needed == 6 and at(6).verdict == "supported"


def test_a_value_that_was_not_measured_near_the_matched_one_says_so():
    table = over_models(1, 6).assign(gold_at_kl=np.nan)
    found = judge(Claim("f", "t", (Part("gold_at_kl", "higher", ON, OFF),)), table, KL_SETTINGS).parts[0]
    assert found.sentence.endswith("evaluate more often where it moves fast (evaluation.every, evaluation.dense_until)")


def test_a_largest_and_a_smallest_amount_judge_nothing_where_the_study_has_but_one():
    most, least = {"n": MAX_VALUE, "noise": MIN_VALUE}, {"n": MIN_VALUE, "noise": MAX_VALUE}
    one = settings_of({"a": {"n": 250, "noise": 1, "x": 0}, "b": {"n": 250, "noise": 1, "x": 1}})
    assert find_arms(one, Part("gold", "higher", most, least)) == find_arms(one, Part("gold", "above", most)) == ([], [])
    some = settings_of({"few": {"n": 250, "noise": 1}, "many": {"n": 2000, "noise": 1}})  # one of two amounts varies
    assert find_arms(some, Part("gold", "higher", most, least)) == (["many"], ["few"])
    words = settings_of({"a": {"n": "all"}, "b": {"n": "some"}})
    assert find_arms(words, Part("gold", "above", {"n": MAX_VALUE})) == ([], [])


def test_rates_that_differ_alike_with_every_reward_model_ask_for_the_fewest_and_not_for_hundreds():
    """6 of 10 against 4 of 10 with each of five reward models: a sixth decides, as p = 2 · 2⁻⁶."""

    def at(models):
        rows = [dict(arm=arm, reward_model=f"m{m}", seed=s, collapsed=float(s < among), sft_gold_sd=2.0, horizon=80.0)
                for arm, among in (("base", 6), ("kl", 4)) for m in range(models) for s in range(10)]  # fmt: skip
        return judge(Claim("f", "t", (Part("collapsed", "lower", ON, OFF),)), pd.DataFrame(rows), KL_SETTINGS)

    assert at(5).verdict == "cannot tell" and at(5).needed == 6 and at(6).verdict == "supported"


def test_a_claim_asks_for_the_unit_of_the_part_that_needs_most():
    table = over_models(8, 1, effect=0.1)
    table["gold_at_kl"] *= 8  # too noisy to tell
    table.loc[table["reward_model"] != "m0", "collapsed"] = np.nan  # the other part has one seed of one reward model
    claim = Claim("f", "t", (Part("gold_at_kl", "higher", ON, OFF), Part("collapsed", "lower", ON, OFF)))
    verdict = judge(claim, table, KL_SETTINGS)
    hardest = max(verdict.parts, key=lambda part: part.needed)
    assert hardest.effect.basis.unit == "reward model" and hardest.needed > 15 and verdict.needed == hardest.needed
    assert verdict.sentence.endswith(would_do(hardest.needed, hardest.effect.basis))
    assert len({part.effect.basis.unit for part in verdict.parts if part.verdict == "cannot tell"}) == 2
