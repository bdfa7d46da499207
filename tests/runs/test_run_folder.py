"""The run folder: what is in it, under which names, and that a kill loses nothing that was written."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from processes import run

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.checkpoint import read_state
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.store import RunStore
from ablate.runs.summary import read_summary
from ablate.session import execute
from ablate.settings.fields import setting_names
from ablate.system.files import write_atomically

MONITOR = {
    "perplexity", "perplexity_ref", "perplexity_moss", "response_length", "response_length_p95", "response_length_std", "kl_to_sft",
    "kl_per_token", "kl_k1", "kl_k2", "kl_k3", "entropy", "truncated", "distinct", "distinct_across", "reward_length_corr",
}  # fmt: skip
REWARD = {"proxy_mean", "proxy_std", "proxy_p95", "shaped_mean"}
EVAL = {"gold", "proxy", "win", "tie", "lose"}
PPO = {"policy_loss", "value_loss", "approx_kl", "clip_fraction", "ratio_max", "explained_variance", "grad_norm", "value_mean",
       "advantage_mean", "advantage_std", "return_mean", "clip_fraction_low", "clip_fraction_high", "value_clip_fraction", "ratio_mean",
       "ratio_min", "skipped", "actor_grad_norm", "critic_grad_norm"}  # fmt: skip
EVERY_UPDATE = {
    "update", "responses_per_second", *(f"monitor/{name}" for name in MONITOR), *(f"reward/{name}" for name in REWARD),
    *(f"ppo/{name}" for name in PPO), "time/rollout_s", "time/score_s", "time/update_s", "time/cpu_s",
}  # fmt: skip
EVERY_EVALUATION = {f"eval/{kind}{name}" for name in EVAL for kind in ("", "helpful/", "harmful/")}


@pytest.fixture(scope="module")
def config(make_config, tmp_path_factory) -> Config:
    """A finished run; the critic starts from a reward model that the pipeline trained."""
    trained = ("reward_model.path=null", "reward_model.steps=2", "reward_model.batch_size=1")
    config = make_config(tmp_path_factory.mktemp("run"), *trained)
    execute(config)
    return config


@pytest.fixture
def folder(config) -> Path:
    return run_folder(config)


def test_the_folder_holds_these_files_and_no_others(folder):
    assert folder.parts[-3:] == ("s", "a", "seed=0")
    streams = {"metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl"}
    files = streams | {"config.yaml", "summary.json", "stages.json", "checkpoints", "reward_model"}
    assert {path.name for path in folder.iterdir()} == files
    assert {path.name for path in (folder / "reward_model").iterdir()} == {"training.jsonl", "pairs.csv", "report.json"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"4", "6"}


def test_metrics_are_one_flat_row_an_update_with_every_name_of_the_contract(folder):
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["update"] for row in rows] == list(range(7))
    assert rows[0].keys() >= EVERY_EVALUATION
    for row in rows[1:]:
        assert row.keys() >= EVERY_UPDATE
        judged = row["update"] % 2 == 0
        assert (row.keys() >= EVERY_EVALUATION | {"time/eval_s"}) == judged
        assert any(name.startswith("eval/") for name in row) == judged
        assert all(isinstance(value, int | float) for value in row.values())
        assert all(value > 0 for name, value in row.items() if name.startswith(("time/", "responses_per_second")))


def test_win_tie_and_lose_are_shares_of_the_held_out_prompts_and_follow_from_the_scores(folder):
    rows, scores = read_rows(folder / "metrics.jsonl"), read_rows(folder / "scores.jsonl")
    for row in rows[::2]:
        for kind in ("", "helpful/", "harmful/"):
            mine = [s for s in scores if s["update"] == row["update"] and (not kind or s["kind"] == kind[:-1])]
            assert row[f"eval/{kind}gold"] == pytest.approx(sum(s["gold"] for s in mine) / len(mine), abs=1e-12)
            assert row[f"eval/{kind}proxy"] == pytest.approx(sum(s["proxy"] for s in mine) / len(mine), abs=1e-6)
            assert sum(row[f"eval/{kind}{name}"] for name in ("win", "tie", "lose")) == pytest.approx(1, abs=1e-12)
    assert (rows[0]["eval/tie"], rows[0]["eval/kl_to_sft"]) == (1, pytest.approx(0, abs=1e-6))  # the policy starts as SFT


def test_scores_hold_every_held_out_prompt_at_each_evaluation_and_samples_some_answers(folder):
    scores, samples = read_rows(folder / "scores.jsonl"), read_rows(folder / "samples.jsonl")
    assert [(row["update"], row["prompt"]) for row in scores] == [(update, i) for update in (0, 2, 4, 6) for i in range(8)]
    assert all(row.keys() == {"update", "prompt", "kind", "proxy", "gold", "length", "ended"} for row in scores)
    assert [row["update"] for row in samples] == [0] * 3 + [2] * 3 + [4] * 3 + [6] * 3
    assert all(row.keys() == {"update", "prompt", "kind", "response", "proxy", "gold", "length"} for row in samples)
    for row in samples:
        same = [s for s in scores if (s["update"], s["proxy"], s["gold"]) == (row["update"], row["proxy"], row["gold"])]
        assert same and same[0]["length"] == row["length"]


def test_tokens_spell_the_answers_of_the_samples_and_their_kl_sums_to_what_was_evaluated(folder):
    samples, tokens = read_rows(folder / "samples.jsonl"), read_rows(folder / "tokens.jsonl")
    assert [(row["update"], row["prompt"]) for row in tokens] == [(row["update"], row["prompt"]) for row in samples]
    measures = ("value", "advantage", "reward", "kl")
    for row, sample in zip(tokens, samples, strict=True):
        assert row.keys() == {"update", "prompt", "length", "tokens", *measures}
        assert all(len(row[name]) == len(row["tokens"]) == row["length"] == sample["length"] for name in measures)
        assert " ".join(row["tokens"]).startswith(sample["response"])
        assert row["kl"] == pytest.approx([0.0] * row["length"], abs=1e-5) or row["update"] > 0  # the policy starts as SFT


def test_a_checkpoint_of_a_version_without_tokens_is_read_and_the_file_begins_there(folder, make_config, tmp_path):
    older = tmp_path / "checkpoints" / "6"
    shutil.copytree(folder / "checkpoints" / "6", older)
    state = json.loads((older / "state.json").read_text())
    assert state["offsets"].pop("tokens.jsonl") > 0
    (older / "state.json").write_text(json.dumps(state))
    assert "tokens.jsonl" not in read_state(older)["offsets"]
    store = RunStore(make_config(tmp_path))
    for name in store.offsets():
        store.append(name, [{"update": 0}, {"update": 1}])
    row = len(b'{"update": 0}\n')
    store.truncate_to({"metrics.jsonl": row, "scores.jsonl": 2 * row, "samples.jsonl": 0})
    assert store.offsets() == {"metrics.jsonl": row, "scores.jsonl": 2 * row, "samples.jsonl": 0, "tokens.jsonl": 0}
    store.close()


def test_the_summary_says_what_the_contract_asks_and_comes_last(folder, config):
    summary = read_summary(folder)
    last = read_rows(folder / "metrics.jsonl")[-1]
    assert (summary["status"], summary["reason"], summary["updates"]) == ("completed", "", 6)
    assert (summary["study"], summary["arm"], summary["seed"]) == ("s", "a", 0)
    assert summary["collapsed"] in (True, False) and "collapse_update" in summary
    assert summary["wall_seconds"] > 0 and summary["responses_per_second"] > 0
    assert {f"monitor/{name}" for name in MONITOR} | EVERY_EVALUATION <= summary["final"].keys() & summary["sft"].keys()
    assert all(summary["final"][name] == last[name] for name in EVERY_EVALUATION)
    assert {"python", "torch", "transformers", "ppo-ablation"} <= summary["versions"].keys()
    assert "git_commit" in summary
    assert summary["config_hash"] == yaml.safe_load((folder / "config.yaml").read_text())["hash"]
    newest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    assert newest == folder / "summary.json"


def test_config_yaml_holds_every_setting_resolved(folder):
    known = yaml.safe_load((folder / "config.yaml").read_text())
    for name in setting_names():
        node = known
        for part in name.split("."):
            assert part in node, name
            node = node[part]
    assert known["ppo"]["updates"] == 6 and known["arm"] == "a"


@pytest.mark.parametrize(("function", "count", "rows"), [("score_responses", 11, 6), ("finish", 1, 7), ("shape_rewards", 3, 1)])
def test_every_row_of_a_finished_update_survives_a_kill(function, count, rows, make_config, tmp_path):
    config = make_config(tmp_path, "checkpoint.every=0")
    assert run(config, function, count) == -signal.SIGKILL
    assert [row["update"] for row in read_rows(run_folder(config) / "metrics.jsonl")] == list(range(rows))


def test_a_torn_last_line_is_no_row_and_is_cut_on_resume(make_config, tmp_path, same_numbers, config):
    other = make_config(tmp_path, f"reward_model.path={next(Path(config.cache).glob('reward_model-*'))}")
    whole = make_config(tmp_path / "whole", f"reward_model.path={other.reward_model.path}")
    execute(whole)
    assert run(other, "apply_gradients", 2 + 4 * 2 + 1) == -signal.SIGKILL
    before = {name: read_rows(run_folder(other) / name) for name in ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl")}
    assert before["metrics.jsonl"][-1]["update"] == 4
    for name, rows in before.items():
        with open(run_folder(other) / name, "a") as handle:
            handle.write('{"update": 5, "eval/go')
        assert read_rows(run_folder(other) / name) == rows
    assert run(other) == 0
    same_numbers(run_folder(other), run_folder(whole))


def test_values_that_are_not_finite_are_null_in_every_file(make_config, tmp_path):
    store = RunStore(make_config(tmp_path))
    store.append("metrics.jsonl", [{"a": float("nan"), "b": float("inf"), "c": 1.5}])
    store.finish({"status": "diverged", "final": {"a": float("nan"), "b": -float("inf"), "c": 1.5}})
    assert read_rows(store.folder / "metrics.jsonl") == [{"a": None, "b": None, "c": 1.5}]
    assert read_summary(store.folder)["final"] == {"a": None, "b": None, "c": 1.5}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    write_atomically(tmp_path / "summary.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "summary.json", "new \ud800")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"summary.json": "old"}


def test_two_processes_never_write_to_one_run_folder(make_config, tmp_path):
    config = make_config(tmp_path)
    store = RunStore(config)
    with pytest.raises(UserError, match=r"is being written by another process: wait for it, or set study=<name>$"):
        execute(config)
    store.close()
    assert execute(config)["status"] == "completed"


def test_dense_evaluations_change_no_other_number_and_no_verdict(make_config, tmp_path):
    """Patience 4 takes five evaluations: with those of the first three updates there would be six, without them there are four."""
    sparse, dense = (
        make_config(tmp_path / name, "collapse.patience=4", f"evaluation.dense_until={until}") for name, until in (("a", 0), ("b", 3))
    )
    summaries = [execute(config) for config in (sparse, dense)]
    assert [summary["collapsed"] for summary in summaries] == [None, None]
    states = [read_state(run_folder(config) / "checkpoints" / "6")["progress"]["watch"] for config in (sparse, dense)]
    assert states[0] == states[1] and states[0]["evaluations"] == 4
    rows = [read_rows(run_folder(config) / "metrics.jsonl") for config in (sparse, dense)]
    evaluated = [[row["update"] for row in part if "eval/gold" in row] for part in rows]
    assert evaluated == [[0, 2, 4, 6], [0, 1, 2, 3, 4, 6]]
    for one, other in zip(*rows, strict=True):
        kept = [{key: value for key, value in row.items() if not key.startswith(("time/", "responses_per_second"))} for row in (one, other)]
        shared = kept[0].keys() & kept[1].keys() if one["update"] in (1, 3) else kept[0].keys() | kept[1].keys()
        assert {key: kept[0].get(key) for key in shared} == {key: kept[1].get(key) for key in shared}
