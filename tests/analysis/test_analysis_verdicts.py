"""Outcomes, effects and claims, on frames made by hand and on simulated run folders with planted effects."""

import itertools
import json
import shutil
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
from ablate.config import Config
from ablate.sweeps import expand, load_study
from analysis import verdicts as verdicts_module
from analysis.claims import Claim, Part, find_arms, judge
from analysis.collapse import collapse_times, disagreements, sustained_deficits, threshold_curve
from analysis.effects import arm_settings, base_arm, change, factorial_effects, factors, trick_effects
from analysis.load import load
from analysis.outcomes import interpolate_at, matched_value, outcomes
from analysis.paper_claims import PAPER_CLAIMS
from analysis.runfolder import flatten
from analysis.stats import paired_effect, rate_effect


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


def test_a_disagreement_between_summary_and_curves_is_told(loaded):
    runs = loaded.runs.copy()
    runs["collapse_update"] = runs["collapse_update"].where(runs["arm"] != "vanilla", 20.0)
    assert any("summary says 20" in line for line in disagreements(runs, collapse_times(runs, loaded.curves)))


def test_values_at_a_crossing_are_linear_between_evaluations_and_missing_below():
    x, y = np.array([0.0, 1.0, 3.0, 2.0, 5.0]), np.array([10.0, 20.0, 40.0, 0.0, 0.0])
    assert interpolate_at(x, y, 2.0) == 30.0 and interpolate_at(x, y, 0.0) == 10.0 and np.isnan(interpolate_at(x, y, 5.1))


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
    assert table.loc[("vanilla", 0), "collapsed"] == 1.0 and np.isnan(table.loc[("vanilla", 0), "gold"])
    assert np.isnan(table.loc[("kl", 2), "collapsed"]) and table.loc[("kl", 2), "status"] == "running"
    assert table.loc[("kl", 3), "collapsed"] == 0.0 and table.loc[("kl", 3), "stable_updates"] == 80


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


COLLAPSES = {"base": {"collapsed": [1.0] * 5}, "kl": {"collapsed": [0.0] * 5}}


def test_five_of_five_against_none_of_five_supports_and_its_opposite_contradicts():
    assert verdict_of(Part("collapsed", "lower", ON, OFF), COLLAPSES).verdict == "supported"
    assert verdict_of(Part("collapsed", "higher", ON, OFF), COLLAPSES).verdict == "contradicted"


def test_the_same_collapses_in_every_context_of_a_factorial_count_once_a_seed():
    grid = {f"{trick}_{kl}": {"ppo.kl_penalty": kl, "ppo.ptx": trick} for trick in (False, True) for kl in (False, True)}
    arms = {arm: {"collapsed": [0.0 if cell["ppo.kl_penalty"] else 1.0] * 5} for arm, cell in grid.items()}
    found = verdict_of(Part("collapsed", "lower", ON, OFF), arms, settings_of(grid))
    assert found.verdict == "supported" and found.effect == rate_effect(0, 5, 5, 5)
    arms["False_True"]["collapsed"] = [1.0, 0, 0, 0, 0]  # seeds no longer agree: shares 0.5, 0, 0, 0, 0 against 1
    shares = np.array([-0.5, -1, -1, -1, -1])
    assert verdict_of(Part("collapsed", "lower", ON, OFF), arms, settings_of(grid)).effect == paired_effect(shares)


def test_four_seeds_never_decide_however_clear():
    four = {arm: {"collapsed": columns["collapsed"][:4]} for arm, columns in COLLAPSES.items()}
    found = verdict_of(Part("collapsed", "lower", ON, OFF), four)
    assert found.verdict == "cannot tell" and found.seeds >= 5 and f"about {found.seeds} seeds would do" in found.sentence


def test_no_collapse_in_five_does_not_show_stability_and_thirteen_do():
    def at(n):
        return verdict_of(Part("collapsed", "below", ON, bound=0.25), {"kl": {"collapsed": [0.0] * n}}, settings_of({"kl": ON}))

    assert at(5).verdict == "cannot tell" and at(13).verdict == "supported"
    assert 13 <= at(5).seeds


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
        for name in SWEEP_OF.values():
            jobs = expand(load_study(name), {}, "ppo_max")
            configs = [asdict(OmegaConf.to_object(compose("config", overrides=list(job)))) for job in jobs]
            found[name] = arm_settings(pd.DataFrame([{"arm": config["arm"], **flatten(config)} for config in configs]))
    return found


@pytest.mark.parametrize("claim", PAPER_CLAIMS, ids=lambda claim: claim.text)
def test_every_claim_of_the_paper_finds_its_arms_in_the_sweep_of_its_figure(claim, composed, loaded):
    known = set(outcomes(loaded.runs, loaded.curves).columns)
    for part in claim.parts:
        treated, controls = find_arms(composed[SWEEP_OF[claim.figure]], part)
        assert treated and len(controls) == (0 if part.control is None else len(treated))
        assert part.expects in ("higher", "lower", "same", "different", "below", "above") and part.outcome in known


def test_the_command_prints_planted_truths_and_what_it_left_out(study, tmp_path, capsys):
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "study" / "kl" / "seed=9").mkdir()
    (tmp_path / "study" / "kl" / "seed=9" / "config.yaml").write_text("seed: 9\n")
    assert verdicts_module.main([str(tmp_path / "study")]) == 0
    out = capsys.readouterr().out
    assert "No claim of the paper can be judged with these arms." not in out
    assert "cannot tell: reward scaling alone changes nothing [Fig. 6]" in out
    assert "0/6 [0.00, 0.46]" in out
    assert "no metrics.jsonl" in out and "Given this world and reward model" in out


def test_the_command_names_a_mistake_in_one_sentence(study, tmp_path, capsys):
    assert verdicts_module.main([str(tmp_path / "nowhere")]) == 1
    assert "is not a folder" in capsys.readouterr().err
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


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 8, 16])
@pytest.mark.parametrize("probability", [0.5, 0.9])
def test_without_an_effect_at_most_five_percent_of_verdicts_claim_one(tmp_path, seeds, probability):
    studies = 400
    arm = Arm(collapse_probability=probability)
    counts = verdicts(tmp_path / "null", arm, arm, seeds, studies, np.random.default_rng(seeds))
    allowed = 0.05 * studies + 2 * np.sqrt(studies * 0.05 * 0.95)  # two standard errors of the simulation itself
    for name in ("collapsed", "stable_updates", "gold", "win", "gold_at_kl"):
        assert counts[name]["supported"] + counts[name]["opposite"] <= allowed, (name, counts[name])
    assert counts["same"]["contradicted"] <= allowed and counts["below"]["supported"] <= allowed


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "least"), [(5, 0.6), (8, 0.95), (16, 0.99)])
def test_a_constraint_that_prevents_nine_collapses_in_ten_is_found(tmp_path, seeds, least):
    studies = 200
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
