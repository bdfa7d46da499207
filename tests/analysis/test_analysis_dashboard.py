"""The wandb workspace: its panels show what runs log, its groups are the toggles that differ, and it survives as JSON."""

import json
import sys

import numpy as np
import pytest
from nested import found
from simulate import Arm, write_study

from ablate.session import execute
from analysis.dashboard import LINES, NAME, grouping, main, separating, specification, workspace
from analysis.load.designs import arm_settings
from analysis.load.frames import load

KL = {"ppo.kl_penalty": True, "ppo.kl_coef": 0.05}


@pytest.fixture
def no_login(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture
def study(tmp_path):
    arms = {"vanilla": Arm(collapse_probability=1.0), "kl": Arm(KL), "kl_and_scaling": Arm({**KL, "ppo.reward_scaling": True})}
    return write_study(tmp_path, arms, 2, np.random.default_rng(0), every_update=False)


def board_of(folder):
    return json.loads(specification(workspace(load(folder).runs, "team", "project")))


def test_every_panel_shows_a_metric_that_a_real_run_logs(tiny_config, tmp_path):
    for arm, overrides in {"with": (), "without": ("ppo.kl_penalty=false",)}.items():
        execute(tiny_config(f"arm={arm}", "study=tiny", *overrides))
    (folder,) = (tmp_path / "results").iterdir()
    board = board_of(folder)
    summary = json.loads((folder / "with" / "seed=0" / "summary.json").read_text())
    logged = {name for line in (folder / "with" / "seed=0" / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    shown = [metric for metrics in found(board, "metrics") for metric in metrics]
    scattered = [axis.removeprefix("summary:") for key in ("xAxis", "yAxis") for axis in found(board, key) if axis.startswith("summary:")]
    assert len(shown) == sum(map(len, LINES.values())) + 2 and len(scattered) == 4
    assert set(shown) | set(scattered) <= logged | set(summary)
    for wanted in ("eval/gold", "eval/proxy", "monitor/kl_to_sft", "monitor/perplexity", "monitor/response_length", "monitor/entropy",
                   "collapse_update"):  # fmt: skip
        assert wanted in shown


def test_runs_are_grouped_by_the_toggles_that_differ(study):
    settings = arm_settings(load(study).runs)
    assert separating(settings) == ["ppo.kl_penalty", "ppo.reward_scaling"]  # kl_coef only follows kl_penalty
    (run_set,) = found(board_of(study), "runSets")[0]
    assert run_set["grouping"] == [{"section": "config", "name": f"ppo.value.{name}"} for name in ("kl_penalty", "reward_scaling")]
    assert [item["value"] for item in run_set["filters"]["filters"]] == ["study"]
    assert {"config:ppo.value.kl_penalty", "summary:collapsed", "summary:collapse_update"} <= set(run_set["runFeed"]["columnPinned"])


def test_many_toggles_are_grouped_by_the_arm_that_names_them(tmp_path):
    tricks = {"kl_penalty": True, "reward_scaling": True, "advantage_norm": True, "gae_lambda": 0.9}
    arms = {"vanilla": Arm()} | {name: Arm({f"ppo.{name}": value}) for name, value in tricks.items()}
    settings = arm_settings(load(write_study(tmp_path, arms, 1, np.random.default_rng(0), every_update=False)).runs)
    assert separating(settings) == [f"ppo.{name}" for name in settings.columns.str.removeprefix("ppo.") if name in tricks]
    assert grouping(settings) == ["arm"]


def test_a_study_of_one_arm_is_grouped_by_arm(tmp_path):
    settings = arm_settings(load(write_study(tmp_path, {"vanilla": Arm()}, 2, np.random.default_rng(0), every_update=False)).runs)
    assert separating(settings) == [] and grouping(settings) == ["arm"]


def test_the_specification_is_read_back_as_the_same_workspace(study):
    board = workspace(load(study).runs, "team", "project")
    from wandb_workspaces.workspaces import Workspace  # after `workspace`, which knows the warnings of its import
    from wandb_workspaces.workspaces.internal import View

    again = Workspace._from_model(View.model_validate_json(specification(board)))
    assert (again.entity, again.project, again.name) == ("team", "project", NAME)
    assert again.runset_settings.groupby == board.runset_settings.groupby
    assert [section.name for section in again.sections] == [*LINES, "Collapse"]
    for ours, theirs in zip(board.sections, again.sections, strict=True):
        assert [panel.title for panel in theirs.panels] == [panel.title for panel in ours.panels]
        assert [panel._to_model().config for panel in theirs.panels] == [panel._to_model().config for panel in ours.panels]


def test_without_a_login_the_specification_is_written_and_the_next_step_said(study, no_login, capsys):
    main([str(study), "--entity", "team"])
    board = json.loads((study / "dashboard.json").read_text())
    assert (board["entity"], board["project"], board["displayName"]) == ("team", "ppo-ablation", NAME)
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence.startswith(str(study / "dashboard.json")) and "`wandb login`" in sentence
    assert len(load(study).runs) == 6  # the file among the arms is no run


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, str)  # Python prints it and exits with status 1
    return ended.value.code


def test_what_cannot_be_shown_is_said_in_a_sentence(study, tmp_path, monkeypatch):
    write_study(tmp_path, {"vanilla": Arm()}, 1, np.random.default_rng(0), study="other", every_update=False)
    assert "one study; here are other, study" in refusal(str(tmp_path), "--entity", "team")
    assert "is not a folder" in refusal(str(tmp_path / "absent"), "--entity", "team")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert "pip install 'ppo-ablation[dashboard]'" in refusal(str(study), "--entity", "team")


def test_without_an_entity_and_a_login_the_command_says_what_to_write(study, no_login, monkeypatch):
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    said = refusal(str(study))
    assert said == (
        f"error: there is no wandb login that says whose dashboard it is: write python -m analysis.dashboard {study} --entity NAME "
        "with a wandb user or team, or set WANDB_ENTITY"
    )


def test_entity_and_project_come_from_the_environment_as_those_of_runs_do(study, no_login, monkeypatch):
    monkeypatch.setenv("WANDB_ENTITY", "our-team")
    monkeypatch.setenv("WANDB_PROJECT", "our-project")
    main([str(study)])
    board = json.loads((study / "dashboard.json").read_text())
    assert (board["entity"], board["project"]) == ("our-team", "our-project")


def test_a_key_that_wandb_refuses_is_not_shown(study, no_login, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a key\nof two lines\r\n")
    said = refusal(str(study), "--entity", "team")
    assert said.startswith("error: the wandb login cannot be used (") and "a key" not in said and "two lines" not in said
