"""Run folders → frames: what a killed, running, repeated or foreign run leaves behind."""

import json
import math

import numpy as np
import pytest
import yaml
from simulate import SFT_GOLD, SFT_SD, Arm, write_run, write_study

from ablate.errors import UserError
from analysis.load.frames import IDENTITY, load, load_reward_models, load_rows
from analysis.load.runfolder import NotARun, find_run_folders, flatten, iter_jsonl, read_config, read_metrics

GENERATOR_SEED = 3


@pytest.fixture
def study(tmp_path):
    arms = {"vanilla": Arm(collapse_probability=1.0), "kl": Arm({"ppo.kl_penalty": True})}
    return write_study(tmp_path, arms, 2, np.random.default_rng(GENERATOR_SEED))


def reasons(loaded):
    return dict(zip(loaded.left_out["folder"].str.split("/").str[-2:].str.join("/"), loaded.left_out["reason"], strict=True))


def test_every_number_of_metrics_jsonl_is_in_the_curves(study):
    curves = load(study).curves
    for path in study.glob("*/*/metrics.jsonl"):
        part = curves[curves["run"] == f"study/{path.parent.parent.name}/{path.parent.name}"].set_index("update")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert list(part.index) == [row["update"] for row in rows]
        for row in rows:
            for name in set(part.columns) - set(IDENTITY):
                found = part.loc[row["update"], name]
                assert found == row[name] if name in row else math.isnan(found)


def test_settings_are_columns_under_their_dotted_names(study):
    runs = load(study).runs.set_index(["arm", "seed"])
    assert runs["ppo.kl_penalty"].to_dict() == {(arm, seed): arm == "kl" for arm in ("vanilla", "kl") for seed in (0, 1)}
    assert runs.loc[("kl", 0), "ppo.adam_betas"] == "[0.9, 0.95]"
    assert (runs["sft/eval/gold"] == SFT_GOLD).all() and (runs["sft/eval/gold_sd"] == SFT_SD).all()
    assert flatten({"a": {"b": {"c": 1}, "d": None}, "e": [1, 2]}) == {"a.b.c": 1, "a.d": None, "e": "[1, 2]"}


def test_a_torn_last_line_costs_that_line_and_is_reported(study):
    path = study / "kl" / "seed=0" / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b'"eval/gold"')])
    loaded = load(study)
    assert loaded.curves[loaded.curves["run"] == "study/kl/seed=0"]["update"].max() == 79
    assert reasons(loaded) == {"kl/seed=0": "metrics.jsonl: torn last line left out"}


@pytest.mark.parametrize("name", ["../../x", "/abs", "..", "a/b", ["a"]])
@pytest.mark.parametrize("which", ["study", "arm"])
def test_a_run_whose_study_or_arm_is_no_folders_name_is_left_out(which, name, study):
    path = study / "kl" / "seed=0" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, which: name}))
    loaded = load(study)
    assert reasons(loaded) == {"kl/seed=0": f"its {which} {str(name)!r} is not the name of one folder"} and len(loaded.runs) == 3


def test_a_whole_last_line_without_its_newline_counts(study):
    path = study / "kl" / "seed=0" / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    loaded = load(study)
    assert loaded.curves[loaded.curves["run"] == "study/kl/seed=0"]["update"].max() == 80 and loaded.left_out.empty


def test_a_run_without_summary_is_running_and_takes_sft_from_update_0(study):
    folder = study / "vanilla" / "seed=1"
    (folder / "summary.json").unlink()
    gold = [1.0, 2.0, 4.0]
    scores = [{"update": 0, "prompt": i, "gold": g} for i, g in enumerate(gold)] + [{"update": 5, "prompt": 0, "gold": 99.0}]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    run = load(study).runs.set_index(["arm", "seed"]).loc[("vanilla", 1)]
    assert run["status"] == "running"
    assert run["sft/eval/gold"] == SFT_GOLD  # the row of update 0
    assert run["sft/eval/gold_sd"] == pytest.approx(math.sqrt(7 / 3), rel=1e-12)  # of 1, 2, 4, unbiased


def test_folders_that_are_no_runs_are_left_out_each_with_its_reason(study):
    (study / "kl" / "seed=0" / "metrics.jsonl").write_text("")
    (study / "kl" / "seed=1" / "config.yaml").unlink()
    (study / "vanilla" / "seed=0" / "config.yaml").write_text("ppo: {kl: [1,\n")
    (study / "vanilla" / "seed=1" / "config.yaml").write_text("learning_rate: 1\n")
    (study / "vanilla" / "seed=1" / "summary.json").write_text("{}")
    loaded = load(study)
    assert loaded.runs.empty and loaded.curves.empty
    found = reasons(loaded)
    assert found["kl/seed=0"] == "metrics.jsonl holds no whole row yet"
    assert found["kl/seed=1"] == "no config.yaml"
    assert found["vanilla/seed=0"].startswith("config.yaml is not a readable mapping")
    assert found["vanilla/seed=1"] == "config.yaml names no integer seed: written by another tool or version"


def test_other_versions_metrics_become_columns_and_text_is_left_out(study):
    path = study / "kl" / "seed=0" / "metrics.jsonl"
    path.write_text('{"update": 0, "new/metric": 1.5, "note": "hello"}\n{"update": 1, "new/metric": null}\n')
    loaded = load(study)
    part = loaded.curves[loaded.curves["run"] == "study/kl/seed=0"]
    assert part["new/metric"].tolist()[0] == 1.5 and math.isnan(part["new/metric"].tolist()[1])
    assert "note" not in loaded.curves
    assert reasons(loaded)["kl/seed=0"] == "metrics.jsonl: not numbers, ignored: note"


def test_repeated_updates_keep_the_last(study):
    path = study / "kl" / "seed=0" / "metrics.jsonl"
    path.write_text('{"update": 1, "a": 1}\n{"update": 2, "a": 2}\n{"update": 2, "a": 3}\n{"update": 3, "a": 4}\n')
    notes = []
    names, values = read_metrics(path, notes)
    assert names == ["update", "a"] and values.tolist() == [[1, 1], [2, 3], [3, 4]]
    assert notes == ["metrics.jsonl: 1 repeated updates, the last of each kept"]


def test_infinity_counts_as_missing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1, "a": Infinity, "b": NaN, "c": 1e400}\n')
    assert np.isnan(read_metrics(path, [])[1][0, 1:]).all()


def test_of_two_folders_with_one_identity_the_first_counts(study, tmp_path):
    write_run(tmp_path / "other" / "kl" / "seed=0", Arm(), np.zeros(3), np.random.default_rng(0), seed=0)
    loaded = load([study, tmp_path / "other"])
    assert len(loaded.runs) == 4
    assert reasons(loaded)["kl/seed=0"].startswith("same study, arm and seed as ")


def test_nothing_inside_a_run_or_a_hidden_folder_is_taken_for_a_run(study):
    inside = study / "kl" / "seed=0" / "checkpoints" / "40"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("seed: 0\n")
    (study / ".hidden").mkdir()
    (study / ".hidden" / "config.yaml").write_text("seed: 0\n")
    assert len(find_run_folders(study)) == 4


def test_config_blocks_parse_as_the_whole_file_does(tmp_path):
    import yaml

    text = "# made by hydra\nppo:\n  kl_coef: 0.1\n  betas:\n  - 0.9\n  - 0.95\njobs:\n- 1\n- 2\nstudy: a b\nnull_one: null\n\nseed: 3\n"
    (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path / "config.yaml")[0] == yaml.safe_load(text)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")


def test_a_missing_metrics_file_is_not_a_run(tmp_path):
    with pytest.raises(NotARun, match=r"no metrics\.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl", [])


def test_scores_samples_and_reward_models_carry_their_run(study):
    folder = study / "kl" / "seed=1"
    (folder / "scores.jsonl").write_text('{"update": 0, "prompt": 3, "gold": 1.5}\n{"update": 5, "pro')
    (folder / "reward_model").mkdir()
    (folder / "reward_model" / "training.jsonl").write_text('{"step": 1, "loss": 0.7, "accuracy": 0.5, "held_out_accuracy": null}\n')
    (folder / "reward_model" / "pairs.csv").write_text("score_difference,gold_difference,chosen_length,rejected_length\n0.5,1.0,20,18\n")
    runs = load(study).runs
    assert load_rows(runs, "scores")[["run", "prompt", "gold"]].values.tolist() == [["study/kl/seed=1", 3, 1.5]]
    assert load_rows(runs, "samples").empty
    training, pairs = load_reward_models(runs)
    assert training[["seed", "loss"]].values.tolist() == [[1, 0.7]] and pairs[["arm", "score_difference"]].values.tolist() == [["kl", 0.5]]


def test_the_cache_returns_what_reading_returns_and_notices_changes(study):
    pytest.importorskip("pyarrow")
    plain = load(study)
    for _ in ("written", "read"):
        cached = load(study, cache=True)
        assert cached.runs.astype(object).where(cached.runs.notna(), None).equals(plain.runs.astype(object).where(plain.runs.notna(), None))
        assert cached.curves[plain.curves.columns].equals(plain.curves)
    with open(study / "kl" / "seed=0" / "metrics.jsonl", "a") as file:
        file.write('{"update": 81, "eval/gold": 7.0}\n')
    assert load(study, cache=True).curves["update"].max() == 81
    assert load(study, cache=True).curves["eval/gold"].max() == 7.0


def test_the_cache_without_pyarrow_says_what_to_install(study):
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(UserError, match="pip install pyarrow"):
            load(study, cache=True)
    else:
        assert load(study, cache=True).left_out.empty


@pytest.mark.parametrize(("change", "whole"), [
    ({}, True), ({"gold": None}, True), ({"gold": 10**400}, False), ({"length": 10**400}, False), ({"prompt": None}, False),
    ({"prompt": ...}, False), ({"response": ...}, False), ({"length": ...}, True), ({"gold": ...}, True), ({"update": 1.5}, False),
])  # fmt: skip
def test_a_sample_without_what_is_shown_of_it_or_with_a_number_that_no_float_holds_is_none(tmp_path, change, whole):
    row = {"update": 5, "prompt": "p", "kind": "helpful", "response": "r", "proxy": 0.5, "gold": 1.0, "length": 3} | change
    row = {name: value for name, value in row.items() if value is not ...}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert list(iter_jsonl(tmp_path / "samples.jsonl")) == ([row] if whole else [])
