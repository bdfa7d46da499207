"""trackio, TensorBoard and MLflow, read back by their own readers: the numbers of metrics.jsonl, once each, and rebuilt by the mirror.

The libraries are extras. `make test` has TensorBoard and MLflow; trackio needs an environment of its own (CONTRIBUTING.md).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import mirror
from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import config_of, read_rows, run_folder
from ablate.runs.summary import read_summary
from ablate.runs.trackers.interface import failures, labels, numbers, run_id, verdict
from ablate.runs.trackers.mlflow import quiet
from ablate.runs.tracking import Trackers, open_tracker
from ablate.session import execute
from ablate.settings.arms import DEFAULT_OPTIONS, nearest_preset, preset_values
from ablate.settings.fields import spelled
from ablate.settings.identity import config_hash
from ablate.settings.validation import validate

LIBRARIES = ("tensorboard", "mlflow", "trackio")  # each of the name of its tracker and its extra
SUMMARY = {
    "status": "completed", "reason": "", "collapsed": True, "collapse_update": 4, "collapse_by": "gold",
    "final": {"eval/gold": 1.5, "eval/proxy": 3.0}, "sft": {"eval/gold": 2.0, "eval/proxy": 1.0},
}  # fmt: skip
VERDICT = {"collapsed": 1.0, "collapse_update": 4.0, "gold_gain": -0.5, "proxy_gain": 2.0}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries' own readers


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory) -> Path:
    """The folder of a finished run of four updates without a tracker."""
    config = make_config(tmp_path_factory.mktemp("finished"), "ppo.updates=4")
    execute(config)
    return run_folder(config)


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of that run folder, in a results folder of its own."""
    return Path(shutil.copytree(finished, tmp_path / "results" / "s" / "a" / "seed=0"))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """A store of MLflow without a run, which takes seconds to make."""
    with quiet():
        from mlflow.tracking import MlflowClient

        path = tmp_path_factory.mktemp("store") / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(params=LIBRARIES)
def name(request, folder, monkeypatch, tmp_path_factory) -> str:
    """A tracker whose library is installed; MLflow's store is there already."""
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    if request.param == "trackio":  # a process keeps to the store that is named when it imports trackio
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))
    pytest.importorskip(request.param, reason=f"the extra `{request.param}` is not installed")
    if request.param == "mlflow":
        (folder.parents[1] / "mlflow").mkdir()
        shutil.copy(request.getfixturevalue("empty_store"), folder.parents[1] / "mlflow")
    return request.param


def events(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def children(folder: Path) -> list:
    """(client, run) for the runs of the store of a study that have a parent, which must be the study's."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parents[1] / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ppo-ablation")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_name == parent.data.tags["ablate.study"] == "s"
    found = [run for run in runs if run is not parent]
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in found)
    return [(client, run) for run in found]


def shown(name: str, folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Metric → its (update, value), in the order in which the tracker's own reader has them."""
    found: dict[str, list[tuple[int, float]]] = {}
    if name == "tensorboard":
        read = events(folder)
        return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    if name == "mlflow":
        ((client, run),) = children(folder)
        for metric in run.data.metrics:
            found[metric] = [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, metric)]
        return found
    from trackio.sqlite_storage import SQLiteStorage

    for row in SQLiteStorage.get_logs("s", "a/seed=0", run_id=run_id(config_of(folder))):
        for metric, value in row.items():
            if isinstance(value, (int, float)) and metric not in ("step",):
                found.setdefault(metric, []).append((row["step"], value))
    return found


def expected(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of metrics.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_rows(folder / "metrics.jsonl"):
        for metric, value in numbers(row).items():
            found.setdefault(metric, []).append((row["update"], value))
    return found


def assert_shown(name: str, folder: Path, extra: dict[str, list[tuple[int, float]]]) -> None:
    """The tracker shows the numbers of metrics.jsonl and `extra`, and nothing else; TensorBoard keeps 32 bits of them."""
    wanted, found = expected(folder) | extra, shown(name, folder)
    assert found.keys() == wanted.keys()
    for metric, entries in wanted.items():
        assert [update for update, _ in found[metric]] == [update for update, _ in entries], metric
        assert [value for _, value in found[metric]] == pytest.approx([value for _, value in entries], rel=1e-6), metric


def test_the_mirror_writes_the_numbers_of_the_run_folder_under_the_same_names(name, folder, capsys):
    mirror.main([str(folder), "--tracker", name])
    assert capsys.readouterr().out == f"{folder}: mirrored\n"
    said = numbers(verdict(read_summary(folder)))
    assert {"gold_gain", "proxy_gain"} <= said.keys()
    assert_shown(name, folder, {metric: [(4, value)] for metric, value in said.items()})


def test_a_run_that_goes_on_after_rows_were_cut_off_has_each_update_once(name, folder):
    config, rows = config_of(folder), read_rows(folder / "metrics.jsonl")
    open_tracker(name, config, folder)  # a process that was killed after the last update
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]))
    again = open_tracker(name, config, folder)  # the next one goes on after update 2
    for row in rows[3:]:
        again.log({**row, "time/update_s": 100.0})
    later = [json.dumps({**row, "time/update_s": 100.0}) + "\n" for row in rows[3:]]
    (folder / "metrics.jsonl").write_text("".join([*lines[:3], *later]))
    again.finish(SUMMARY)
    assert_shown(name, folder, {metric: [(4, value)] for metric, value in VERDICT.items()})


def test_two_runs_of_a_study_are_beside_each_other(name, folder):
    other = Path(shutil.copytree(folder, folder.parents[1] / "b" / "seed=1"))
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("\narm: a\n", "\narm: b\n").replace("\nseed: 0\n", "\nseed: 1\n"))
    mirror.main([str(folder.parents[1]), "--tracker", name])
    mirror.main([str(other), "--tracker", name])  # once more: in place of the first
    if name == "mlflow":
        assert sorted(run.info.run_name for _, run in children(folder)) == ["a/seed=0", "b/seed=1"]
    elif name == "trackio":
        from trackio import Api

        assert {run.name for run in Api().runs("s")} == {"a/seed=0", "b/seed=1"}
    else:
        assert len(list((other / "tensorboard").iterdir())) == len(list((folder / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_runs_that_start_at_once_share_one_store(name, folder):
    """Three processes, before there is a store."""
    shutil.rmtree(folder.parents[1] / "mlflow", ignore_errors=True)
    text = (folder / "config.yaml").read_text()
    folders = [folder]
    for seed in (1, 2):
        folders.append(Path(shutil.copytree(folder, folder.parent / f"seed={seed}")))
        (folders[-1] / "config.yaml").write_text(text.replace("\nseed: 0\n", f"\nseed: {seed}\n"))
    environment = {**os.environ, "PYTHONPATH": str(Path(mirror.__file__).parents[1])}
    command = [sys.executable, "-m", "ablate.mirror", "--tracker", name]
    started = [subprocess.Popen([*command, str(each)], env=environment, stderr=subprocess.PIPE, text=True) for each in folders]
    assert [process.communicate()[1] for process in started] == [f"mirroring {each}\n" for each in folders]
    if name == "mlflow":
        assert sorted(run.info.run_name for _, run in children(folder)) == [f"a/seed={seed}" for seed in range(3)]


def test_a_tracker_keeps_settings_samples_and_the_verdict(name, folder):
    mirror.mirror(folder, [name])
    config, samples = config_of(folder), read_rows(folder / "samples.jsonl")
    if name == "tensorboard":
        read = events(folder)
        assert {"samples", "eval/proxy_scores", "verdict", "labels"} <= set(read.Tags()["tensors"])
        assert [event.step for event in read.Tensors("eval/proxy_scores")] == [0, 2, 4]
    elif name == "mlflow":
        ((_, run),) = children(folder)
        assert run.data.params["ppo.kl_coef"] == str(config.ppo.kl_coef) and run.data.params["seed"] == "0"
        assert (run.info.status, run.data.tags["ablate.status"], run.data.tags["ablate.preset"]) == ("FINISHED", "completed", "ppo_max")
        (artifact, *_) = sorted((folder.parents[1] / "mlflow" / "artifacts").rglob("update_*.json"))
        assert artifact.name == "update_000000.json"
        assert json.loads(artifact.read_text())["data"][0][2] == samples[0]["response"]
    else:
        from trackio.sqlite_storage import SQLiteStorage

        kept = SQLiteStorage.get_run_config("s", "a/seed=0", run_id=run_id(config))
        assert (kept["_Group"], kept["ppo.kl_coef"], kept["status"], kept["preset"]) == ("a", config.ppo.kl_coef, "completed", "ppo_max")
        rows = SQLiteStorage.get_logs("s", "a/seed=0", run_id=run_id(config))
        assert rows[0]["samples"]["_value"][0]["response"] == samples[0]["response"]
        assert sum(rows[0]["eval/proxy_scores"]["values"]) == 8


@pytest.mark.slow
def test_nothing_is_written_outside_the_results_folder(name, folder, tmp_path):
    (tmp_path / "home").mkdir()
    shutil.rmtree(folder.parents[1] / "mlflow", ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("TRACKIO_DIR", "HF_HOME")}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(mirror.__file__).parents[1])}
    command = [sys.executable, "-m", "ablate.mirror", str(folder), "--tracker", name]
    done = subprocess.run(command, cwd=tmp_path / "home", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{folder}: mirrored\n", f"mirroring {folder}\n")
    assert not list((tmp_path / "home").rglob("*"))
    place = {"tensorboard": "s/a/seed=0/tensorboard", "mlflow": "s/mlflow/mlflow.db", "trackio": "trackio/s.db"}[name]
    assert (tmp_path / "results" / place).exists()


def test_several_trackers_at_once_and_one_whose_place_is_taken(make_config, tmp_path, capsys):
    pytest.importorskip("tensorboard")
    config = make_config(tmp_path, "tracker=[tensorboard,mlflow]", "ppo.updates=1")
    run_folder(config).mkdir(parents=True)
    (run_folder(config).parents[1] / "mlflow").write_text("in the way")
    summary = execute(config)
    assert summary["status"] == "completed" and len(read_rows(run_folder(config) / "metrics.jsonl")) == 2
    assert [update for update, _ in shown("tensorboard", run_folder(config))["update"]] == [0, 1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith(
        f"; the run goes on without mlflow, and python -m ablate.mirror --tracker mlflow {run_folder(config)} rebuilds it"
    )
    assert list(read_summary(run_folder(config))["trackers_stopped"]) == ["mlflow"]


def test_a_disk_that_fills_up_during_a_run_stops_the_tracker_alone(folder, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    config = config_of(folder)
    trackers = Trackers([("tensorboard", open_tracker("tensorboard", config, folder))], folder)

    def full(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.EventFileWriter.flush", full)
    for update in (5, 6):
        trackers.log({"update": update, "eval/gold": 1.0})
    trackers.finish({"status": "completed"})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: tensorboard failed ([Errno 28] No space left on device); the run goes on without tensorboard")
    assert "No space left" in read_summary(folder)["trackers_stopped"]["tensorboard"]


@pytest.mark.parametrize(("name", "place"), [("tensorboard", "s/a/seed=0/tensorboard"), ("mlflow", "s/mlflow")])
def test_a_link_in_the_place_of_a_tracker_is_not_written_through(name, place, folder, tmp_path, capsys):
    pytest.importorskip(name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results" / place).symlink_to(tmp_path / "elsewhere")
    trackers = Trackers(folder=folder)
    trackers.start(name, lambda: open_tracker(name, config_of(folder), folder))
    assert list(trackers.stopped) == [name] and "link" in trackers.stopped[name] and not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("missing", LIBRARIES)
def test_a_library_that_is_not_installed_is_one_sentence_that_names_its_extra(missing, folder, monkeypatch):
    for module in [*sys.modules, missing]:
        if module.partition(".")[0] == missing:
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"^tracker={missing} needs the extra `{missing}`: pip install 'ppo-ablation\[{missing}\]'$"):
        open_tracker(missing, config_of(folder), folder)
    trackers = Trackers(folder=folder)
    trackers.start(missing, lambda: open_tracker(missing, config_of(folder), folder))
    assert list(trackers.stopped) == [missing] and not trackers.trackers


class Broken:
    """A tracker that raises what no library should."""

    def __init__(self, error: Exception):
        self.error = error

    def log(self, row: dict) -> None:
        raise self.error

    evaluation = finish = log


@pytest.mark.parametrize("error", [ValueError("first line\nsecond"), KeyError("a"), RuntimeError(""), OSError(5, "Input/output error")])
def test_no_exception_of_a_tracker_gets_through_and_it_is_told_once(error, folder, capsys):
    trackers = Trackers([("other", Broken(error))], folder)
    for update in range(3):
        trackers.log({"update": update})
    trackers.finish({"status": "completed"})
    assert len(capsys.readouterr().err.splitlines()) == 1 and list(trackers.stopped) == ["other"]


def test_a_message_of_a_library_loses_its_secrets(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@host/")
    monkeypatch.setenv("WANDB_API_KEY", "abcdef")
    with pytest.raises(UserError, match=r"^x failed \(no answer from https://me:…@host/ with …\)$"), failures("x"):
        raise ConnectionError("no answer from https://me:hunter2@host/ with abcdef.\nmore")


def test_the_names_of_trackers_decide_no_hash_and_are_checked():
    assert config_hash(Config(tracker=["wandb", "tensorboard"])) == config_hash(Config(tracker="none")) == config_hash(Config())
    assert Config(tracker=["wandb", "mlflow"]).trackers == ["wandb", "mlflow"] and Config(tracker="none").trackers == []
    for good in ("none", "trackio", [], ["none"], ["wandb", "tensorboard", "mlflow", "trackio"]):
        validate(Config(tracker=good))
    for bad, said in (
        ("comet", "tracker=comet is not one of wandb, trackio, tensorboard, mlflow, none"),
        (["wandb", 5], "tracker=5 is not one of"),
        ({"wandb": 1}, "tracker={'wandb': 1} is not one of"),
        (["none", "wandb"], r"tracker=\[none,wandb\] names none beside others: leave none out"),
        (["wandb", "wandb"], r"tracker=\[wandb,wandb\] names wandb twice: leave one out"),
        (None, "tracker=null names no tracker: set tracker=none to have none"),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            validate(Config(tracker=bad))


def test_labels_name_the_nearest_preset_and_the_commit_that_made_the_run(folder, make_config, tmp_path):
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"git_commit": "0123456789abcdef"}))
    assert labels(config_of(folder), folder) == {
        "study": "s", "arm": "a", "seed": "0", "preset": "ppo_max", "data": "world", "commit": "0123456789ab",
    }  # fmt: skip
    changed = {**preset_values(**{**DEFAULT_OPTIONS, "ppo": "vanilla"}), "ppo.kl_penalty": True, "ppo.kl_coef": 0.05}
    settings = [f"{key}={spelled(value)}" for key, value in changed.items() if key.startswith("ppo.")]
    assert nearest_preset(make_config(tmp_path, *settings)) == "vanilla"


def test_the_verdict_of_a_run_without_an_end_is_what_is_known():
    assert verdict({"status": "failed", "reason": "x", "collapsed": None}) == {"status": "failed", "reason": "x", "collapsed": None}
    assert numbers(verdict(SUMMARY)) == VERDICT
