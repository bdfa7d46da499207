"""The check of the world: what each point asks is passed by a world that shows it, and by no other."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from simulate import CONFIG, SFT_GOLD, SFT_SD, block, override

from analysis.estimate.stats import clopper_pearson
from analysis.load.frames import load
from analysis.world_check.__main__ import main
from analysis.world_check.measures import accuracy_by_gold, course_of, gold_over_sft, run_table
from analysis.world_check.points import COLLAPSING, FAIL, HOLDING, PASS, UNKNOWN, findings, verdict_of

COLLAPSES = {"collapsed": 1.0, "event": True, "end_update": 60.0, "gold": -3.0, "gold_gain": -3.9, "gain_low": -4.5, "gain_high": -3.3}
HOLDS = {"collapsed": 0.0, "event": False, "end_update": 150.0, "gold": 2.3, "gold_gain": 1.4, "gain_low": 1.1, "gain_high": 1.7}
COURSES = {
    "proxy": (0.0, 1.0, 3.0, 3.5),
    "kl": (0.0, 4.0, 20.0, 40.0),
    "length": (17.0, 24.0, 30.0, 31.0),
    "perplexity": (2.5, 2.2, 1.8, 1.2),
}
ARMS = {
    "vanilla": COLLAPSES, "kl": HOLDS, "ppo_max": HOLDS, "ppo_max_without_kl": COLLAPSES, "rm_fewer_pairs": HOLDS | {"gold": 1.5},
    "rm_noisier_pairs": HOLDS | {"gold": 1.4},
}  # fmt: skip
ACCURACY = {"rm_fewer_pairs": 0.62, "rm_noisier_pairs": 0.65}


def world(reward_models: int = 8) -> pd.DataFrame:
    """The rows of `run_table` of a world that shows everything, with one seed per reward model and some luck of its own."""
    rows = []
    for model in range(reward_models):
        luck = 0.02 * (model % 4)
        for arm, fate in ARMS.items():
            row = dict(run=f"s/{arm}/seed={model}", arm=arm, base=arm, world="", reward_model=f"pipeline_seed={model}", seed=model,
                       ended=True, updates=150, rose=1.0, rise=1.0 + luck, sft_gold_sd=2.0, horizon=150.0, cpu_seconds=40.0 + luck,
                       rm_accuracy=ACCURACY.get(arm, 0.74) + luck, proxy=3.0 + luck, **fate)  # fmt: skip
            row |= {f"{name}_{stage}": value + luck * (stage != "sft") for name, values in COURSES.items()
                    for stage, value in zip(("sft", "peak", "collapse", "end"), values, strict=True)}  # fmt: skip
            row |= {"gold": row["gold"] + (3 if arm.startswith("rm_") else 1) * luck, "kl": row["kl_end"]}
            rows.append(row)
    return pd.DataFrame(rows)


def planted(arm: str, models: int, changes: dict, of: int = 8) -> pd.DataFrame:
    """`world` with other values in the runs of an arm with the first of its reward models."""
    table = world(of)
    table.loc[(table["arm"] == arm) & (table["seed"] < models), list(changes)] = list(changes.values())
    return table


def verdicts(table: pd.DataFrame, **options) -> dict[int, str]:
    found = findings(table, **options)
    return {point: verdict_of([part for part in found if part.point == point]) for point in range(1, 7)}


def test_a_world_that_shows_everything_passes_and_says_with_what_interval():
    assert set(verdicts(world()).values()) == {PASS}
    assert {part.point: part.found for part in reversed(findings(world()))}[1] == "8 of 8 [63 %, 100 %]"


def test_a_cost_in_gold_is_decided_by_runs_of_one_fate_and_shows_its_p():
    """One run with fewer pairs collapses far down: the interval of all eight holds 0, and the seven that held lost gold all the same."""
    table = planted("rm_fewer_pairs", 1, {"gold": -40.0, "collapsed": 1.0})
    part = next(part for part in findings(table) if part.asks == "… and gold at the end")
    low, high, p = map(float, re.search(r"\[(\S+), (\S+)\], p = (\S+)$", part.found).groups())
    assert part.point == 5 and low < 0 < high and p < 0.001 and part.verdict == PASS
    alone = planted("rm_fewer_pairs", 1, {}, of=1)
    assert next(part for part in findings(alone) if part.point == 5).found.endswith("(no interval), p = 1")


CHANGED = {
    "vanilla collapses too rarely": (planted("vanilla", 5, HOLDS), 1, FAIL),
    "one run of vanilla holds": (planted("vanilla", 1, HOLDS), 1, UNKNOWN),
    "vanilla collapses late": (planted("vanilla", 8, {"end_update": 140.0}), 1, FAIL),
    "vanilla collapses at once": (planted("vanilla", 8, {"end_update": 10.0}), 1, FAIL),
    "vanilla's gold never rises": (planted("vanilla", 8, {"rose": 0.0, "rise": 0.0}), 1, FAIL),
    "vanilla with KL collapses": (planted("kl", 5, {"collapsed": 1.0, "event": True}), 2, FAIL),
    "one run with KL collapses": (planted("kl", 1, {"collapsed": 1.0, "event": True}), 2, UNKNOWN),
    "one run with KL is shown to be worse than SFT": (planted("kl", 1, {"gold_gain": -0.5, "gain_low": -0.8, "gain_high": -0.2}), 2, FAIL),
    "one run with KL may be worse than SFT": (planted("kl", 1, {"gold_gain": -0.1, "gain_low": -0.4, "gain_high": 0.2}), 2, UNKNOWN),
    "length shrinks": (planted("vanilla", 8, {"length_sft": 40.0}), 3, FAIL),
    "length rises in half of the runs": (planted("vanilla", 4, {"length_sft": 31.0}), 3, UNKNOWN),
    "perplexity rises": (planted("vanilla", 8, {"perplexity_sft": 1.0}), 3, FAIL),
    "PPO-max holds without its penalty": (planted("ppo_max_without_kl", 8, HOLDS), 4, FAIL),
    "fewer pairs cost no accuracy": (planted("rm_fewer_pairs", 8, {"rm_accuracy": 0.77}), 5, FAIL),
    "noisier labels may cost gold or not": (planted("rm_noisier_pairs", 4, {"gold": 3.5}), 5, UNKNOWN),
    "runs take long": (world().assign(cpu_seconds=lambda rows: 80.0 + rows["seed"]), 6, FAIL),
    "runs are older than the metric": (world().assign(cpu_seconds=np.nan), 6, UNKNOWN),
    "an arm was not run": (world().query("arm != 'ppo_max_without_kl'"), 4, UNKNOWN),
    "an arm has not ended": (planted("ppo_max_without_kl", 8, {"ended": False}), 4, UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGED)
def test_what_a_world_does_not_show_is_the_verdict_on_that_point_alone(change):
    table, point, verdict = CHANGED[change]
    others = {1, 2, 3, 4, 5, 6} - {point}
    found = verdicts(table)
    assert found[point] == verdict
    assert {found[other] for other in others} == {PASS}, found


def test_with_few_reward_models_nothing_passes_that_is_a_rate_and_a_failure_still_shows():
    assert {point: verdict for point, verdict in verdicts(world(5)).items() if verdict != PASS} == dict.fromkeys((1, 2, 4), UNKNOWN)
    assert verdicts(planted("vanilla", 5, HOLDS, of=5))[1] == FAIL
    assert verdicts(world(1)) == dict.fromkeys(range(1, 7), UNKNOWN)
    assert verdicts(world().assign(reward_model="one"))[3] == UNKNOWN


def test_a_rate_itself_is_shown_by_36_reward_models_at_90_percent_and_72_at_95():
    """docs/explanation/world.md names both numbers."""
    for least, models in ((COLLAPSING, 36), (HOLDING, 72)):
        assert clopper_pearson(models - 1, models - 1).low < least <= clopper_pearson(models, models).low


def evaluated(gold: list[float], **others: list[float]) -> pd.DataFrame:
    metrics = {"eval/gold": gold, **{f"eval/{name}": values for name, values in others.items()}}
    return pd.DataFrame({"update": 5 * np.arange(len(gold)), **metrics})


def test_a_course_is_read_at_sft_at_golds_peak_before_the_collapse_at_the_collapse_and_at_the_end():
    rows = evaluated([0.9, 1.4, 1.9, -2.0, 2.5], length=[17, 20, 24, 40, 33], kl_to_sft=[0, 1, 3, 9, 8])
    found = course_of(rows, collapse=15)
    assert [found[f"length_{stage}"] for stage in ("sft", "peak", "collapse", "end")] == [17, 24, 40, 33] and found["longest"] == 40
    assert (found["rose"], found["rise"], found["peak_update"], found["kl_peak"]) == (1.0, pytest.approx(1.0), 10, 3)
    assert np.isnan(found["proxy_sft"])
    fallen = course_of(rows.assign(**{"eval/gold": [0.9, 0.8, 0.5, -2, -2]}), collapse=15)
    assert (fallen["rose"], fallen["rise"], fallen["peak_update"], fallen["length_peak"]) == (0.0, 0.0, 0, 17)
    at_once = course_of(rows, collapse=5)
    assert (at_once["rose"], at_once["peak_update"], at_once["length_collapse"]) == (0.0, 0, 20)
    assert np.isnan(course_of(rows, collapse=np.inf)["length_collapse"]) and course_of(rows, collapse=np.inf)["peak_update"] == 20


@pytest.fixture
def study(tmp_path):
    """Two worlds with vanilla and kl of three reward models, as run folders: collapse at update 15 of 40, after a peak at 10."""
    golds = {"vanilla": [0.9, 1.5, 2.0, -2, -3, -3, -3, -3, -3], "kl": [0.9, 1.5, 2.0, 2.1, 2.2, 2.2, 2.2, 2.2, 2.2]}
    for bias, arm, seed in [(bias, arm, seed) for bias in (0.1, 0.2) for arm in golds for seed in (100, 101, 102)]:
        folder = tmp_path / "world_calibration" / f"{arm},b={bias}" / f"seed={seed}"
        (folder / "reward_model").mkdir(parents=True)
        settings = {
            "preferences.length_bias": bias,
            "sampling.max_new_tokens": 96,
            "ppo.kl_penalty": arm == "kl",
            "ppo.updates": 40,
            "pipeline_seed": seed,
            "seed": seed,
        }
        config = override(CONFIG, settings | {"study": "world_calibration", "arm": folder.parent.name})
        (folder / "config.yaml").write_text("".join(block(name, json.dumps(value)) for name, value in config.items()))
        rows = [{"update": 5 * index, "eval/gold": gold, "eval/proxy": index / 2, "eval/kl_to_sft": 3.0 * index,
                 "eval/length": 17.0 + index, "eval/perplexity": 2.5 - index / 10, "eval/win": 0.5, "eval/tie": 0.25, "time/cpu_s": 2.5}
                for index, gold in enumerate(golds[arm])]  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        scores = [dict(update=update, prompt=prompt, kind="helpful", proxy=0.0, gold=gold, length=9) for update in (0, 20, 40)
                  for prompt, gold in enumerate((0.0, 1.0) if update == 0 else (1.0, 3.0))]  # fmt: skip
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
        (folder / "reward_model" / "report.json").write_text('{"held_out_accuracy": 0.7, "longer_wins_accuracy": 0.6}')
        (folder / "reward_model" / "pairs.csv").write_text(
            "score_difference,gold_difference,chosen_length,rejected_length\n1,1,5,4\n-1,-2,5,4\n2,-1,5,4\n0,1,5,4\n3,0,5,4\n"
        )
        summary = {"status": "completed", "collapsed": arm == "vanilla", "collapse_update": 15 if arm == "vanilla" else None, "updates": 40,
                   "sft": {"eval/gold": SFT_GOLD, "eval/gold_sd": SFT_SD}, "config_hash": str(folder), "seed": seed}  # fmt: skip
        (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "world_calibration"


def test_a_run_is_read_from_its_files(study):
    """Of four pairs with different gold two are right; a score difference of 0 is not. The prompts gain 1 and 2."""
    loaded = load(study)
    table = run_table(loaded)
    assert set(table["world"]) == {f"length bias {bias}, answers of up to 96 tokens" for bias in (0.1, 0.2)}
    assert set(table["base"]) == {"vanilla", "kl"} and table["ended"].all()
    assert accuracy_by_gold(loaded.runs).tolist() == [0.5] * 12 and set(table["label_accuracy"]) == {0.7}
    assert gold_over_sft(study / "kl,b=0.1" / "seed=100")["estimate"] == 1.5
    assert table["gain_low"].max() < 1.5 < table["gain_high"].min()
    vanilla = table[table["base"] == "vanilla"]
    assert set(vanilla["end_update"]) == {15} and set(vanilla["peak_update"]) == {10} and set(vanilla["length_peak"]) == {19}
    assert set(table["cpu_seconds"]) == {22.5} and set(table["updates"]) == {40} and set(table["reward_model"]) == {
        "pipeline_seed=100", "pipeline_seed=101", "pipeline_seed=102"
    }  # fmt: skip


def test_worlds_of_one_study_are_judged_one_by_one_with_a_row_per_run_as_csv(study, tmp_path, capsys):
    assert main([str(study), "--csv", str(tmp_path / "runs.csv"), "--figure", str(tmp_path / "picture.png")]) == 0
    printed = capsys.readouterr().out
    for bias in (0.1, 0.2):
        assert printed.count(f"## length bias {bias}, answers of up to 96 tokens\n") == 1
    assert printed.count("| 1 | vanilla collapses in at least 90 % of runs | 3 of 3 [29 %, 100 %] | cannot tell |") == 2
    lacking = "There is no finished run of ppo_max, ppo_max_without_kl, rm_fewer_pairs, rm_noisier_pairs."
    assert printed.count(lacking) == 2 and "| 4 |" not in printed and printed.count("Points: 1 cannot tell, 2 cannot tell") == 2
    assert "| vanilla,b=0.1 | 3 | 0.50 | 0.60 | 3 of 3 [29 %, 100 %] | 15.0 | -3.00 (-3.00 … -3.00) |" in printed
    rows = pd.read_csv(tmp_path / "runs.csv")
    assert len(rows) == 12 and rows["length_sft"].tolist() == [17.0] * 12 and rows["longest"].tolist() == [25.0] * 12
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_two_arms_of_one_base_in_one_world_are_refused(study, capsys):
    for seed in (101, 102):
        path = study / "vanilla,b=0.1" / f"seed={seed}" / "config.yaml"
        path.write_text(path.read_text().replace("length_bias: 0.1", "length_bias: 0.2").replace("gae_lambda: 0.95", "gae_lambda: 1.0"))
    assert main([str(study)]) == 1
    assert "2 arms are vanilla with length bias 0.2, answers of up to 96 tokens" in capsys.readouterr().err


def test_the_command_names_a_mistake_in_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main([str(tmp_path)]) == 1
    assert "has no completed run of vanilla" in capsys.readouterr().err
