"""A whole study at once, for the studies that users really have: factorial, half done, without gold, foreign."""

import itertools
import json

import numpy as np
import pytest
from simulate import Arm, write_study

from analysis.foreign import combine, load_wandb_export
from analysis.load import load
from analysis.study import study_verdicts
from analysis.verdicts import as_text


def verdicts_of(root, study="study"):
    return study_verdicts(load(root), study, np.random.default_rng(0))


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
    assert "kl_penalty × gae_lambda" in as_text(verdicts)


def test_the_arm_table_counts_and_orders_what_was_planted(tmp_path):
    arms = {"vanilla": Arm(collapse_probability=1.0, onset=25), "kl": Arm({"ppo.kl_penalty": True}, lift=1.5)}
    verdicts = verdicts_of(write_study(tmp_path, arms, 6, np.random.default_rng(1)))
    table = verdicts.arms.set_index("arm")
    assert table.loc["vanilla", ["collapses", "n"]].tolist() == [6, 6] and table.loc["kl", ["collapses", "n"]].tolist() == [0, 6]
    assert 20 <= table.loc["vanilla", "median_time"] <= 50 and table.loc["kl", "median_time"] == np.inf
    assert table.loc["kl", "stable_updates"] == 80.0
    assert table.loc["vanilla", "gold_high"] < 0 < table.loc["kl", "gold_low"]
    frontier = verdicts.frontier.set_index("arm")
    assert frontier.index.tolist() == ["kl"] and frontier.loc["kl", "n"] == 6
    assert verdicts.warnings["monitor"].iloc[0] == "monitor/entropy"


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
    verdicts = study_verdicts(combine(ours, load_wandb_export(tmp_path / "e.csv")), study, np.random.default_rng(0))
    assert verdicts.arms["runs"].tolist() == [2 if study == "study" else 1]
    assert as_text(verdicts).startswith(f"== {study} ==")
