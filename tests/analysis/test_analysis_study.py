"""A whole study at once, for the studies that users really have: factorial, half done, without gold, foreign."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import Arm, write_study

from analysis.claims.answer import arm_answers, two_digits
from analysis.claims.study import runs_to_score, study_verdicts
from analysis.estimate.effects import arm_effect
from analysis.load.foreign import combine, load_wandb_export
from analysis.load.frames import load, load_rows
from analysis.verdicts.text import as_text


def verdicts_of(root, study="study"):
    return study_verdicts(load(root), study)


def test_a_factorial_finds_the_factor_that_carries_the_stability(tmp_path):
    levels = {"ppo.kl_penalty": (False, True), "ppo.reward_scaling": (False, True), "ppo.gae_lambda": (0.95, 1.0)}
    arms = {
        "_".join(map(str, cell)): Arm(dict(zip(levels, cell, strict=True)), collapse_probability=0.02 if cell[0] else 0.98)
        for cell in itertools.product(*levels.values())
    }
    verdicts = verdicts_of(write_study(tmp_path, arms, 5, np.random.default_rng(0), every_update=False))
    rates = verdicts.factorial[verdicts.factorial["outcome"] == "stable_updates"].set_index("term")
    assert set(rates.index) == {"kl_penalty", "reward_scaling", "gae_lambda"} | {
        "kl_penalty × reward_scaling", "kl_penalty × gae_lambda", "reward_scaling × gae_lambda",
    }  # fmt: skip
    assert rates.loc["kl_penalty", "p_holm"] < 0.01 and rates.loc["kl_penalty", "estimate"] > 20
    assert (rates.drop("kl_penalty")["p_holm"] > 0.05).all()
    (kl,) = [verdict for claim, verdict in verdicts.claims if "KL penalty prevents collapse" in claim.text]
    assert kl.verdict == "supported" and len(kl.parts[0].arms) == 8  # four pairs, one in each context of the other factors
    assert "kl_penalty × gae_lambda" in as_text(verdicts, everything=True)


def test_the_arm_table_counts_and_orders_what_was_planted(tmp_path):
    arms = {"vanilla": Arm(collapse_probability=1.0, onset=25), "kl": Arm({"ppo.kl_penalty": True}, lift=1.5)}
    verdicts = verdicts_of(write_study(tmp_path, arms, 6, np.random.default_rng(1)))
    table = verdicts.arms.set_index("arm")
    assert table.loc["vanilla", ["collapses", "n"]].tolist() == [6, 6] and table.loc["kl", ["collapses", "n"]].tolist() == [0, 6]
    assert 20 <= table.loc["vanilla", "median_time"] <= 50 and table.loc["kl", "median_time"] == np.inf
    assert table.loc["kl", "stable_updates"] == 80.0
    assert table.loc["vanilla", "gold_high"] < 0 < table.loc["kl", "gold_low"]
    frontier = verdicts.frontier.set_index("arm")  # every five updates KL moves too fast to be measured where it is compared
    assert frontier.index.tolist() == ["kl"] and frontier.loc["kl", ["n", "unmeasured", "every"]].tolist() == [0, 6, 1]
    assert verdicts.warnings["monitor"].iloc[0] == "monitor/entropy"


def quality_study(tmp_path, gold_per_accuracy: float):
    """Reward models of two sizes of data and two noises, their accuracies planted, and gold that follows them or does not."""
    generator = np.random.default_rng(9)
    accuracy = {(6000, 0.0): 0.85, (1500, 0.0): 0.75, (6000, 1.0): 0.7, (1500, 1.0): 0.6}
    arms = {f"{pairs}_{noise}": Arm({"preferences.pairs": pairs, "preferences.noise": noise, "preferences.margin": 0.0},
                                    lift=gold_per_accuracy * (mean - 0.5), lift_sd=0.2)
            for (pairs, noise), mean in accuracy.items()}  # fmt: skip
    root = write_study(tmp_path, arms, 8, generator, every_update=False)
    for (pairs, noise), mean in accuracy.items():
        for folder in (root / f"{pairs}_{noise}").iterdir():
            (folder / "reward_model").mkdir()
            found = {"held_out_pairs": 1000, "held_out_accuracy": mean + 0.01 * generator.standard_normal(), "longer_wins_accuracy": 0.6}
            (folder / "reward_model" / "report.json").write_text(json.dumps(found))
    return {claim.text: verdict for claim, verdict in verdicts_of(root).claims}


def test_gold_that_follows_the_reward_models_accuracy_is_bounded_by_it(tmp_path):
    found = quality_study(tmp_path, 8.0)
    bounded = found["the reward model's quality bounds the policy's"]
    assert bounded.verdict == "supported" and [part.effect.n for part in bounded.parts] == [8] * 4
    assert bounded.parts[0].effect.estimate == pytest.approx(0.1, abs=0.01)
    assert found["clearer preference pairs give a more accurate reward model"].verdict == "supported"


def test_gold_that_ignores_the_reward_model_is_not_bounded_by_it(tmp_path):
    bounded = quality_study(tmp_path, 0.0)["the reward model's quality bounds the policy's"]
    assert bounded.verdict == "cannot tell" and [part.verdict for part in bounded.parts] == ["supported"] * 2 + ["cannot tell"] * 2


def early_study(tmp_path, accuracies: tuple[float, float], lifts: tuple[float, float]):
    generator = np.random.default_rng(10)
    arms = {f"steps_{n}": Arm({"reward_model.steps": n}, lift=lift, lift_sd=0.2) for n, lift in zip((80, 400), lifts, strict=True)}
    root = write_study(tmp_path, arms, 16, generator, every_update=False)
    for steps, mean in zip((80, 400), accuracies, strict=True):
        for folder in (root / f"steps_{steps}").iterdir():
            (folder / "reward_model").mkdir()
            report = json.dumps({"held_out_accuracy": mean + 0.01 * generator.standard_normal()})
            (folder / "reward_model" / "report.json").write_text(report)
    found = {claim.text: verdict.verdict for claim, verdict in verdicts_of(root).claims}
    texts = ("the reward model's accuracy saturates early", "an early reward model makes a worse policy although its accuracy is close")
    return [found[text] for text in texts]


@pytest.mark.parametrize(
    ("accuracies", "lifts", "expected"),
    [
        ((0.74, 0.75), (1.0, 3.0), ["supported", "supported"]),
        ((0.60, 0.75), (1.0, 3.0), ["contradicted", "contradicted"]),
        ((0.74, 0.75), (3.0, 1.0), ["supported", "contradicted"]),
    ],
)  # fmt: skip
def test_an_early_reward_model_is_judged_by_its_accuracy_and_by_the_policy_it_makes(tmp_path, accuracies, lifts, expected):
    assert early_study(tmp_path, accuracies, lifts) == expected


MAX = {"kl_penalty": True, "reward_norm": True, "critic_pretrain": True, "critic_init": "reward", "policy_init": "sft", "grad_clip": True,
       "value_clip": True}  # fmt: skip


@pytest.mark.parametrize(("harmful", "expected"), [(0.3, "supported"), (-0.3, "contradicted"), (0.0, "cannot tell")])
def test_beating_sft_takes_more_wins_than_losses_on_both_kinds_of_prompt(tmp_path, harmful, expected):
    generator = np.random.default_rng(11)
    arm = Arm({**{f"ppo.{name}": value for name, value in MAX.items()}, "data.language": "zh"})
    root = write_study(tmp_path, {"ppo_max": arm}, 6, generator, every_update=False)
    for path in root.glob("*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for kind, margin in (("helpful", 0.4), ("harmful", harmful)):
            drawn = margin + 0.05 * generator.standard_normal()
            rows[-1] |= {f"eval/{kind}/win": 0.5 + drawn / 2, f"eval/{kind}/lose": 0.5 - drawn / 2, f"eval/{kind}/tie": 0.0}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {claim.text: verdict for claim, verdict in verdicts_of(root).claims}
    assert found["PPO-max beats SFT in Chinese, on helpful and on harmful prompts"].verdict == expected
    assert "PPO-max beats SFT in English, on helpful and on harmful prompts" not in found


def test_long_tails_after_the_collapse_are_found_where_scores_are_given(tmp_path):
    generator = np.random.default_rng(12)
    vanilla = Arm({"ppo.reward_clip": None}, collapse_probability=1.0)
    loaded = load(write_study(tmp_path, {"vanilla": vanilla, "kl": Arm({"ppo.kl_penalty": True})}, 6, generator, every_update=False))
    wanted = runs_to_score(loaded, "study")
    assert set(wanted["arm"]) == {"vanilla"}
    for run in wanted.itertuples():
        draw = {update: generator.standard_t(2, 60) if update >= run.collapse_update else generator.standard_normal(60)
                for update in range(0, 81, 5)}  # fmt: skip
        rows = [json.dumps({"update": u, "prompt": i, "proxy": x}) for u, values in draw.items() for i, x in enumerate(values)]
        (Path(run.folder) / "scores.jsonl").write_text("\n".join(rows) + "\n")
    text = "the collapse of vanilla PPO gives its proxy scores a long tail"
    told = study_verdicts(loaded, "study", scores=load_rows(wanted, "scores"))
    assert {claim.text: verdict.verdict for claim, verdict in told.claims}[text] == "supported"
    assert text not in {claim.text for claim, _ in study_verdicts(loaded, "study").claims}


def test_every_arm_with_a_penalty_meets_the_same_arm_without_it(tmp_path):
    arms = {f"{norm}_{kl}": Arm({"ppo.kl_penalty": kl, "ppo.reward_norm": norm}) for norm in (False, True) for kl in (False, True)}
    arms["True_strong"] = Arm({"ppo.kl_penalty": True, "ppo.reward_norm": True, "ppo.kl_coef": 0.4})
    frontier = verdicts_of(write_study(tmp_path, arms, 3, np.random.default_rng(13), every_update=False)).frontier
    pairs = {(row.arm, row.control) for row in frontier.itertuples()}
    assert pairs == {("False_True", "False_False"), ("True_True", "True_False"), ("True_strong", "True_False")}
    assert (frontier["verdict"] == "cannot tell").all() and (frontier["needed"] >= 5).all() and (frontier["margin"] == 1.0).all()


def test_a_study_still_going_is_read_without_a_verdict_on_its_end(tmp_path):
    root = write_study(
        tmp_path, {"vanilla": Arm(collapse_probability=1.0), "kl": Arm({"ppo.kl_penalty": True})}, 2, np.random.default_rng(2)
    )
    for path in root.glob("*/*/summary.json"):
        path.unlink()
    verdicts = verdicts_of(root)
    assert (verdicts.arms["unfinished"] == 2).all() and (verdicts.arms["n"] == 0).all() and verdicts.arms["gold"].isna().all()
    assert "No run has ended or collapsed yet." in as_text(verdicts)


def test_without_a_gold_reward_there_are_monitors_and_no_verdict(tmp_path):
    root = write_study(
        tmp_path, {"vanilla": Arm(collapse_probability=1.0), "kl": Arm({"ppo.kl_penalty": True})}, 5, np.random.default_rng(3)
    )
    for path in root.glob("*/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: None if k == "eval/gold" else v for k, v in row.items()}) + "\n" for row in rows))
    for path in root.glob("*/*/summary.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"collapsed": None, "collapse_update": None, "sft": {}}))
    verdicts = verdicts_of(root)
    assert (verdicts.arms["n"] == 0).all() and verdicts.arms["kl"].notna().all()
    assert {verdict.verdict for _, verdict in verdicts.claims} <= {"cannot tell"}
    assert "No run has a gold reward: nothing is said about collapse" in as_text(verdicts)


def test_one_arm_with_one_seed_is_enough_for_a_table(tmp_path):
    verdicts = verdicts_of(write_study(tmp_path, {"vanilla": Arm()}, 1, np.random.default_rng(4)))
    assert verdicts.arms["runs"].tolist() == [1] and verdicts.effects.empty and verdicts.factorial.empty
    assert "vanilla" in as_text(verdicts)


@pytest.mark.parametrize("study", ["study", "foreign"])
def test_a_foreign_run_beside_ours_breaks_neither_study(tmp_path, study):
    ours = load(write_study(tmp_path, {"vanilla": Arm()}, 2, np.random.default_rng(5)))
    (tmp_path / "e.csv").write_text('"Step","x - objective/scores"\n0,1.5\n5,2.5\n')
    verdicts = study_verdicts(combine(ours, load_wandb_export(tmp_path / "e.csv")), study)
    assert verdicts.arms["runs"].tolist() == [2 if study == "study" else 1]
    assert as_text(verdicts).startswith(f"== {study} ==")


def test_intervals_end_where_what_they_are_of_ends_and_names_lose_what_all_share(tmp_path):
    """Two seeds: a t interval of a win rate near 0.6 would reach beyond 0 and 1."""
    arms = {"a=1,updates=80": Arm(lift_sd=4), "a=2,updates=80": Arm({"ppo.gae_lambda": 0.5}, lift_sd=4)}
    found = verdicts_of(write_study(tmp_path, arms, 2, np.random.default_rng(3)))
    assert (found.arms["win_low"] >= 0).all() and (found.arms["win_high"] <= 1).all()
    assert ((found.arms["win_low"] == 0) | (found.arms["win_high"] == 1)).any()
    assert sorted(arm_answers(found)["name"]) == ["a=1", "a=2"]


def test_gold_by_a_reward_model_is_called_a_second_opinion(tmp_path):
    for folder, settings, said in (("a", {"gold.path": "judge"}, True), ("b", {"ppo.gamma": 0.9}, False)):
        found = verdicts_of(write_study(tmp_path / folder, {"one": Arm(settings), "two": Arm()}, 2, np.random.default_rng(0)))
        assert any("a second opinion and not the truth" in remark for remark in found.remarks) == said


def test_arms_with_reward_models_of_their_own_settings_are_not_said_to_share_one(tmp_path):
    arms = {"few": Arm({"preferences.pairs": 100}), "many": Arm({"preferences.pairs": 900})}
    said = " ".join(verdicts_of(write_study(tmp_path / "a", arms, 2, np.random.default_rng(0))).remarks)
    assert "in each arm that of its settings" in said and "which every run has" not in said
    shared = " ".join(verdicts_of(write_study(tmp_path / "b", {"one": Arm()}, 2, np.random.default_rng(0))).remarks)
    assert "which every run has" in shared


def test_the_interval_of_a_difference_of_rates_stays_within_one():
    """7 of 10 reward models against none: the t interval alone would reach −1.05."""
    rows = [
        {"arm": arm, "reward_model": f"pipeline_seed={model}", "seed": model, "collapsed": float(arm == "vanilla" and model < 7)}
        for arm in ("vanilla", "kl")
        for model in range(10)
    ]
    effect = arm_effect(pd.DataFrame(rows), ["kl"], ["vanilla"], "collapsed")
    assert (effect.estimate, effect.low, effect.p) == (pytest.approx(-0.7), -1.0, pytest.approx(2 / 2**7)) and -0.7 < effect.high < 0


@pytest.mark.parametrize(("value", "text"), [(0.973, "0.97"), (4.44, "4.4"), (27.9, "28"), (106.2, "110"), (0.0, "0")])
def test_nats_have_two_digits_and_no_exponent(value, text):
    assert two_digits(value) == text
