"""Which runs are one arm: equal settings but for `pipeline_seed`, under which name, and what is left out."""

import numpy as np
import pandas as pd
import pytest
from simulate import Arm, write_run, write_study

from analysis.load.designs import arm_settings, design_of, merge_arms, merged_names, reward_models
from analysis.load.foreign import load_wandb_export
from analysis.load.frames import load


def runs_of(arms: dict[str, list[dict]]) -> pd.DataFrame:
    """arm → its runs: seed, pipeline_seed (0 if not named) and dotted settings."""
    rows = [
        dict(study="s", arm=arm, run=f"s/{arm}/{i}", **{"pipeline_seed": 0, "ppo.updates": 80, **run})
        for arm, runs in arms.items()
        for i, run in enumerate(runs)
    ]
    return pd.DataFrame(rows)


def seeds(*values: int, **settings) -> list[dict]:
    return [{"seed": seed, "ppo.kl_coef": 0.1, **settings} for seed in values]


def test_arms_that_differ_in_pipeline_seed_alone_are_one_arm_over_reward_models(tmp_path):
    generator = np.random.default_rng(0)
    arms = {f"{name},pipeline_seed={k}": Arm({**settings, "pipeline_seed": k})
            for name, settings in (("x", {}), ("kl", {"ppo.kl_penalty": True})) for k in range(4)}  # fmt: skip
    loaded = load(write_study(tmp_path, arms, 2, generator, every_update=False))
    assert set(loaded.runs["arm"]) == {"x", "kl"} and len(loaded.runs) == 16 and loaded.left_out.empty
    for arm in ("x", "kl"):
        part = loaded.runs[loaded.runs["arm"] == arm]
        assert sorted(set(part["reward_model"])) == [f"pipeline_seed={k}" for k in range(4)]
        assert set(part["folder_arm"]) == {f"{arm},pipeline_seed={k}" for k in range(4)}
    assert design_of(loaded.runs) == (4, 2, 2)
    assert loaded.runs["run"].is_unique and set(loaded.curves["run"]) == set(loaded.runs["run"])
    by_run = loaded.curves.groupby("run", observed=True)[["arm", "reward_model", "seed"]].first()
    assert (by_run.loc[loaded.runs["run"]].to_numpy() == loaded.runs[["arm", "reward_model", "seed"]].to_numpy()).all()


def test_a_reward_model_per_seed_is_an_arm_over_as_many_reward_models(tmp_path):
    for seed in range(3):
        arm = Arm({"pipeline_seed": seed})
        write_run(tmp_path / "s" / "own" / f"seed={seed}", arm, np.zeros(3), np.random.default_rng(seed), seed=seed, every_update=False)
    runs = load(tmp_path / "s").runs
    assert runs["arm"].tolist() == ["own"] * 3 and design_of(runs) == (3, 1, 1) and merged_names(runs) == {}


def test_a_default_written_out_is_the_same_arm_and_its_runs_are_told_of_and_left_out(tmp_path):
    arms = {"vanilla": Arm(), "ppo.kl_coef=0.1": Arm({"ppo.kl_coef": 0.1}), "kl": Arm({"ppo.kl_penalty": True})}
    loaded = load(write_study(tmp_path, arms, 2, np.random.default_rng(0), every_update=False))
    assert loaded.runs["arm"].value_counts().to_dict() == {"vanilla": 2, "kl": 2}
    assert sorted(loaded.left_out["reason"]) == [
        f"same settings, reward model and seed as study/{loaded.runs['folder_arm'].iloc[-1]}/seed={seed}" for seed in (0, 1)
    ]
    assert len(set(loaded.curves["run"])) == 4


def test_twins_are_named_with_the_run_that_stands_for_them():
    merged, twins = merge_arms(runs_of({"short": seeds(0, 1), "longer": seeds(1, 2)}))
    assert twins == {"s/longer/0": "s/short/1"}
    assert merged[["arm", "folder_arm", "seed"]].values.tolist() == [["short", "short", 0], ["short", "short", 1], ["short", "longer", 2]]
    assert merged_names(merged) == {"short": ["longer", "short"]}


def test_equal_seeds_of_two_reward_models_are_no_twins():
    merged, twins = merge_arms(runs_of({"a": seeds(0, 1), "a,pipeline_seed=1": seeds(0, 1, pipeline_seed=1)}))
    assert twins == {} and len(merged) == 4 and set(merged["arm"]) == {"a"}


def test_settings_that_vary_within_arms_must_agree_seed_by_seed():
    def paths(*values):
        return [{"seed": seed, "ppo.kl_coef": 0.1, "data.path": value} for seed, value in enumerate(values)]

    merged, _ = merge_arms(runs_of({"a": paths("p", "q"), "b": paths("p", "r"), "c": paths("p", "q")}))
    assert dict(zip(merged["folder_arm"], merged["arm"], strict=True)) == {"a": "a", "b": "b"}  # c repeats a


def test_arms_of_different_settings_are_not_merged_because_a_third_arm_varies_them():
    arms = {
        "low": seeds(0),
        "high": [{"seed": 1, "ppo.kl_coef": 0.4}],
        "mixed": [{"seed": s, "ppo.kl_coef": c} for s, c in ((0, 1.0), (1, 2.0))],
    }
    merged, twins = merge_arms(runs_of(arms))
    assert merged["arm"].tolist() == ["low", "high", "mixed", "mixed"] and twins == {}


@pytest.mark.parametrize(("setting", "value"), [("ppo.kl_coef", 0.2), ("fork", "run@40"), ("precision", "bf16")])
def test_arms_of_other_settings_stay_apart(setting, value):
    runs = runs_of(
        {"a": seeds(0, 1), "b": seeds(0, 1, **{setting: value}), "b,pipeline_seed=1": seeds(0, 1, pipeline_seed=1, **{setting: value})}
    )
    merged, _ = merge_arms(runs)
    assert set(merged["arm"]) == {"a", "b"} and (merged["arm"] == "a").sum() == 2


def test_where_and_when_checkpoints_are_written_makes_no_arm():
    runs = runs_of({"a": seeds(0, **{"checkpoint.every": 10}), "b": seeds(1, **{"checkpoint.every": 20})})
    assert set(merge_arms(runs)[0]["arm"]) == {"a"}


def test_arms_of_two_studies_are_not_merged():
    runs = runs_of({"a": seeds(0), "b": seeds(0)}).assign(study=["s", "t"])
    assert merge_arms(runs)[0]["arm"].tolist() == ["a", "b"]


def test_runs_of_another_tool_are_not_merged(tmp_path):
    (tmp_path / "e.csv").write_text('"Step","x - objective/scores","y - objective/scores"\n0,1.5,1.5\n')
    runs = load_wandb_export(tmp_path / "e.csv").runs
    merged, twins = merge_arms(runs)
    assert merged["arm"].tolist() == ["x", "y"] and twins == {} and (merged["reward_model"] == "").all()


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["x,pipeline_seed=0", "x,pipeline_seed=1"], "x"), (["pipeline_seed=0,x", "pipeline_seed=1,x"], "x"),
     (["x", "x,pipeline_seed=1"], "x"), (["a,pipeline_seed=0,b", "a,pipeline_seed=12,b"], "a,b"),
     (["pipeline_seed=0", "pipeline_seed=1"], "pipeline_seed=0"), (["long name", "brief"], "brief")],
)  # fmt: skip
def test_an_arm_is_named_by_what_its_folders_share_else_by_the_shortest_name(names, expected):
    runs = runs_of({name: seeds(0, 1, pipeline_seed=k) for k, name in enumerate(names)})
    assert set(merge_arms(runs)[0]["arm"]) == {expected}


def test_where_nothing_is_shared_the_name_with_most_runs_stays():
    assert set(merge_arms(runs_of({"brief": seeds(0), "long name": seeds(1, 2)}))[0]["arm"]) == {"long name"}


def test_a_reward_model_is_its_path_where_one_was_given_else_its_pipeline_seed():
    runs = pd.DataFrame({"pipeline_seed": [0, 3, np.nan], "reward_model.path": ["rm/a", None, None]})
    assert reward_models(runs).tolist() == ["rm/a", "pipeline_seed=3", ""]
    assert reward_models(pd.DataFrame({"arm": ["a"]})).tolist() == [""]


def test_settings_are_those_that_are_one_value_within_every_arm():
    runs = runs_of(
        {"a": seeds(0, 1), "b": [{"seed": 0, "ppo.kl_coef": 0.1, "data.path": "p"}, {"seed": 1, "ppo.kl_coef": 0.1, "data.path": "q"}]}
    )
    settings = arm_settings(runs.assign(**{"final/eval.gold": 1.0, "checkpoint.every": 3, "precision": "fp32"}))
    assert settings.to_dict("index") == {arm: {"ppo.updates": "80", "ppo.kl_coef": "0.1", "precision": "fp32"} for arm in ("a", "b")}


def test_settings_of_arms_are_what_a_loop_over_arms_and_settings_finds():
    generator = np.random.default_rng(2)
    rows = [dict(arm=f"arm {generator.integers(5)}", precision="fp32") for _ in range(40)]
    for row in rows:
        own = int(row["arm"][-1])
        row |= {"ppo.own": own, "ppo.missing": None if own == 3 else 0.5, "ppo.seldom": 1 + (generator.random() < 0.05),
                "data.path": generator.choice(["a", "b"])}  # fmt: skip
    runs, expected = pd.DataFrame(rows), {}
    for arm in sorted(set(runs["arm"])):
        part = runs[runs["arm"] == arm]
        expected[arm] = {name: {"None" if pd.isna(value) else str(value) for value in part[name]} for name in runs.columns.drop("arm")}
    constant = [name for name in runs.columns.drop("arm") if all(len(values[name]) == 1 for values in expected.values())]
    assert "ppo.own" in constant and "data.path" not in constant
    settings = arm_settings(runs)
    assert settings.index.name == "arm" and settings.index.tolist() == sorted(expected)
    assert {name: settings[name].tolist() for name in settings} == {
        name: [one for values in expected.values() for one in values[name]] for name in constant
    }


def test_the_design_counts_seeds_of_an_arm_with_one_reward_model():
    merged, _ = merge_arms(
        runs_of({"a": seeds(0, 1, 2), "a,pipeline_seed=1": seeds(0, pipeline_seed=1), "b": seeds(0, 1, **{"ppo.kl_coef": 1.0})})
    )
    assert design_of(merged) == (2, 1, 3)
