"""wandb mirrors the run folder: offline, complete, without secrets, and made anew rather than doubled."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import wandb
from processes import command_line, run

from ablate import mirror
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.store import RunStore
from ablate.runs.summary import read_summary
from ablate.session import execute

KEY = "0123456789abcdef0123456789abcdef01234567"
COLUMNS = ["prompt", "kind", "response", "proxy", "gold", "length"]


def records(folder: Path) -> list[dict]:
    """What the one offline file of a run folder holds, as wandb's own reader prints it."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_type(rows: list[dict], kind: str) -> list[dict]:
    return [row[kind] for row in rows if row["type"] == kind]


def history(rows: list[dict]) -> list[dict]:
    return [row["item"] for row in of_type(rows, "history")]


def metrics(rows: list[dict]) -> list[dict]:
    """wandb's history without its own entries and media: rows as metrics.jsonl has them."""
    return [{k: v for k, v in row.items() if not k.startswith(("_", "samples.", "eval/proxy_scores."))} for row in history(rows)]


@pytest.fixture(scope="module")
def listener():
    """A proxy that every connection would go through, and that answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        yield server


@pytest.fixture(scope="module")
def mirrored(stage_folders, tmp_path_factory, listener) -> tuple[Path, Path, list[dict]]:
    """(run folder, its home, its wandb records) of a real command with a key in its environment and the default tracker."""
    root = tmp_path_factory.mktemp("mirrored")
    paths = [f"{name}.path={path}" for name, path in stage_folders.items() if name != "pretrained"]
    proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "WANDB_BASE_URL")
    proxies = dict.fromkeys(names, proxy)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE")
        patch.delenv("WANDB_SERVICE", raising=False)  # of a run that another test mirrored in this process
        done = command_line(
            f"model.path={stage_folders['pretrained']}", *paths, "study=my_study", "arm=an_arm", "device=cpu", "cache=cache", "seed=4",
            "ppo.updates=3", "ppo.batch_size=8", "ppo.minibatch_size=4", "ppo.critic_pretrain=false", "sampling.max_new_tokens=6",
            "evaluation.every=2", "evaluation.prompts=8", "evaluation.samples=3",
            cwd=root, WANDB_API_KEY=KEY, HOME=str(root / "home"), NO_PROXY="", **proxies,
        )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["my_study: an_arm seed=4, 3 updates, results in results/my_study/an_arm/seed=4"]
    folder = root / "results/my_study/an_arm/seed=4"
    return folder, root, records(folder)


def test_by_default_a_run_is_mirrored_offline_and_no_connection_is_tried(mirrored, listener):
    with pytest.raises(TimeoutError):
        listener.accept()
    (run,) = of_type(mirrored[2], "run")
    assert of_type(mirrored[2], "telemetry")[-1]["feature"]["offline"] is True
    assert run["project"] == "ppo-ablation"


def test_the_group_is_the_study_the_name_arm_and_seed_and_the_config_every_setting(mirrored):
    (run,) = of_type(mirrored[2], "run")
    assert (run["run_group"], run["display_name"]) == ("my_study", "an_arm/seed=4")
    known = mirror.config_of(mirrored[0])
    assert {key: run["config"]["update"][key] for key in asdict(known)} == asdict(known)


def test_a_run_has_a_job_type_and_tags_and_the_update_is_the_step_of_every_metric(mirrored):
    (run,) = of_type(mirrored[2], "run")
    commit = read_summary(mirrored[0])["git_commit"]
    assert run["job_type"] == "an_arm"
    assert run["tags"] == ["study=my_study", "arm=an_arm", "preset=ppo_max", "data=world", *([f"commit={commit[:12]}"] if commit else [])]
    assert {metric.get("name", metric.get("glob_name")): metric.get("step_metric") for metric in of_type(mirrored[2], "metric")} == {
        "update": None, "*": "update",
    }  # fmt: skip


def test_names_in_the_environment_go_before_ours(make_config, tmp_path, monkeypatch):
    wanted = {"WANDB_PROJECT": "p", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n", "WANDB_ENTITY": "e", "WANDB_TAGS": "one,two"}
    config = make_config(tmp_path, "ppo.updates=1")
    execute(config)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    wandb.teardown()  # it reads the environment once a process
    mirror.main([str(run_folder(config))])
    (run,) = of_type(records(run_folder(config)), "run")
    assert [run[key] for key in ("project", "run_group", "display_name", "entity")] == ["p", "g", "n", "e"]
    assert run["tags"] == ["one", "two"]


def test_the_history_is_metrics_jsonl(mirrored):
    assert metrics(mirrored[2]) == read_rows(mirrored[0] / "metrics.jsonl")
    assert [row["_step"] for row in history(mirrored[2])] == [0, 1, 2, 3]


def test_each_evaluation_has_a_table_of_samples_and_a_histogram_of_scores(mirrored):
    folder, _, rows = mirrored
    scores, samples = read_rows(folder / "scores.jsonl"), read_rows(folder / "samples.jsonl")
    judged = [row for row in history(rows) if "samples.path" in row]
    assert [row["_step"] for row in judged] == [0, 2, 3]
    for row in judged:
        table = json.loads(next(folder.glob(f"wandb/offline-run-*/files/{row['samples.path']}")).read_text())
        assert table["columns"] == COLUMNS
        assert table["data"] == [[s[name] for name in COLUMNS] for s in samples if s["update"] == row["_step"]]
        proxies = [s["proxy"] for s in scores if s["update"] == row["_step"]]
        assert sum(row["eval/proxy_scores.values"]) == len(proxies) == 8
        edges = row["eval/proxy_scores.bins"]
        assert (edges[0], edges[-1]) == (pytest.approx(min(proxies), rel=1e-5), pytest.approx(max(proxies), rel=1e-5))


def test_a_completed_run_exits_0_and_its_summary_says_so(mirrored):
    assert of_type(mirrored[2], "exit")[0].get("exit_code", 0) == 0
    said = {key: value for row in of_type(mirrored[2], "summary") for key, value in row["update"].items()}
    assert {key: said[key] for key in ("status", "reason", "collapsed")} == {
        "status": "completed",
        "reason": "",
        "collapsed": None,
    }  # too short
    final, sft = (read_summary(mirrored[0])[key]["eval/gold"] for key in ("final", "sft"))
    assert said["gold_gain"] == pytest.approx(final - sft)


def test_no_file_of_a_run_holds_the_key(mirrored):
    files = [path for path in mirrored[1].rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and any(path.name == "debug-internal.log" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_without_a_tracker_there_is_no_wandb_folder(make_config, tmp_path):
    config = make_config(tmp_path, "ppo.updates=1")
    execute(config)
    assert not (run_folder(config) / "wandb").exists()


def test_a_diverged_run_has_an_exit_state_that_is_not_0(make_config, tmp_path):
    config = make_config(tmp_path, "tracker=wandb", "ppo.learning_rate=1e30", "ppo.updates=3")
    assert run(config) == 0
    rows = records(run_folder(config))
    assert of_type(rows, "exit")[0]["exit_code"] == 1
    assert metrics(rows) == read_rows(run_folder(config) / "metrics.jsonl")


def test_a_resumed_run_has_each_step_once_and_all_of_them(make_config, tmp_path):
    config = make_config(tmp_path, "tracker=wandb")
    assert run(config, "apply_gradients", 2 + 2 * 4 + 1) == -signal.SIGKILL  # a checkpoint of 4 and a mirror that lost its end
    assert run(config) == 0
    rows = records(run_folder(config))
    assert [row["_step"] for row in history(rows)] == list(range(7))
    assert metrics(rows) == read_rows(run_folder(config) / "metrics.jsonl")
    assert [row["_step"] for row in history(rows) if "samples.path" in row] == [0, 2, 4, 6]


def test_the_same_run_in_two_studies_is_two_wandb_runs(mirrored, make_config, tmp_path):
    ids = set()
    for study in ("one", "two"):
        config = make_config(tmp_path, f"study={study}", "ppo.updates=1")
        execute(config)
        mirror.main([str(run_folder(config))])
        ids |= {row["run_id"] for row in of_type(records(run_folder(config)), "run")}
    assert len(ids) == 2


def test_the_mirror_command_rebuilds_every_wandb_run_of_a_study_as_the_runs_made_them(mirrored, capsys):
    folder, root, before = mirrored
    mirror.main([str(root / "results")])
    assert capsys.readouterr().out == f"{folder}: mirrored\n"
    after = records(folder)
    assert metrics(after) == metrics(before)
    keys = ("run_id", "run_group", "display_name", "project")
    (ours,), (theirs,) = of_type(after, "run"), of_type(before, "run")
    assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}
    for one, other in zip(history(after), history(before), strict=True):
        for name in ("eval/proxy_scores.values", "eval/proxy_scores.bins", "samples.sha256"):
            assert one.get(name) == other.get(name)
    assert [row.get("exit_code", 0) for row in of_type(after, "exit")] == [0]


def test_the_mirror_of_a_killed_run_holds_its_rows_and_says_that_it_did_not_end(make_config, tmp_path):
    config = make_config(tmp_path)
    assert run(config, "apply_gradients", 2 + 2 * 4 + 1) == -signal.SIGKILL
    mirror.main([config.results])
    rows = records(run_folder(config))
    assert metrics(rows) == read_rows(run_folder(config) / "metrics.jsonl") and len(metrics(rows)) == 5
    assert of_type(rows, "exit")[0]["exit_code"] == 1
    assert read_summary(run_folder(config)) is None


def test_the_mirror_passes_over_a_run_that_is_going_on(make_config, tmp_path, capsys):
    store = RunStore(make_config(tmp_path))
    mirror.main([str(tmp_path)])
    assert capsys.readouterr().out == f"{store.folder}: passed over, the run is going on\n"
    assert not (store.folder / "wandb").exists()
    store.close()


def test_the_mirror_names_a_folder_without_runs(tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {tmp_path} holds no run folder: name results/<study> or a folder in it$"):
        mirror.main([str(tmp_path)])
