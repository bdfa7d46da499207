"""Another tool's runs: what wandb wrote is what the frames say."""

import numpy as np
import pytest
from simulate import Arm, write_study

from ablate.errors import UserError
from analysis.load.foreign import combine, load_wandb_export, load_wandb_run
from analysis.load.frames import load


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory):
    wandb = pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb")
    run = wandb.init(mode="offline", project="p", name="trl", config={"seed": 3, "kl": {"coef": 0.05}}, dir=folder)
    for step in range(3):
        run.log({"train/objective/kl": 0.5 * step, "val/ratio": 1.0, "note": "text", "h": wandb.Histogram([1, 2])}, step=10 * step)
    run.finish()
    (written,) = folder.glob("wandb/offline-run-*")
    return written


def test_an_offline_run_is_read_under_our_names(offline_run):
    loaded = load_wandb_run(offline_run)
    assert loaded.curves["update"].tolist() == [0, 10, 20]
    assert loaded.curves["monitor/kl_k1"].tolist() == [0.0, 0.5, 1.0]
    assert loaded.curves["val/ratio"].tolist() == [1.0] * 3
    assert not {"note", "h", "_step"} & set(loaded.curves.columns)
    run = loaded.runs.iloc[0]
    assert (run["run"], run["kl.coef"], run["status"]) == ("foreign/trl/seed=3", 0.05, "completed")


def test_what_is_no_wandb_run_is_named(tmp_path):
    pytest.importorskip("wandb")
    (tmp_path / "x.wandb").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"x\.wandb"):
        load_wandb_run(tmp_path / "x.wandb")


def test_an_exported_chart_is_split_into_its_runs(tmp_path):
    path = tmp_path / "export.csv"
    path.write_text('"Step","a - b - objective/scores","a - b - objective/scores__MIN","other - objective/scores"\n0,1.5,1,2\n5,2.5,2,\n')
    loaded = load_wandb_export(path)
    assert loaded.runs["arm"].tolist() == ["a - b", "other"]
    assert loaded.curves[["arm", "update", "reward/proxy_mean"]].values.tolist() == [
        ["a - b", 0, 1.5],
        ["a - b", 5, 2.5],
        ["other", 0, 2.0],
    ]
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a chart exported from wandb"):
        load_wandb_export(tmp_path / "no.csv")


def test_foreign_runs_stand_beside_ours(tmp_path):
    ours = load(write_study(tmp_path, {"vanilla": Arm()}, 1, np.random.default_rng(0)))
    (tmp_path / "e.csv").write_text('"Step","x - objective/scores"\n0,1.5\n')
    both = combine(ours, load_wandb_export(tmp_path / "e.csv"))
    assert both.runs["arm"].tolist() == ["vanilla", "x"]
    assert both.curves.loc[both.curves["arm"] == "x", "reward/proxy_mean"].tolist() == [1.5]
