"""The wandb report: the sentences of the verdicts, a run set per arm, panels in the page's order; it survives as JSON without a login."""

import json

import numpy as np
import pytest
from nested import found
from simulate import Arm, write_study

from analysis.claims.answer import answer, arm_answers
from analysis.claims.study import study_verdicts
from analysis.load.frames import load
from analysis.report.curves import FIXED, FREE
from analysis.wandb_report import main, report, specification


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    kl = {"ppo.kl_penalty": True, "ppo.kl_coef": 0.05}
    arms = {"vanilla": Arm(collapse_probability=1.0), "kl": Arm(kl)}
    return write_study(tmp_path_factory.mktemp("report"), arms, 3, np.random.default_rng(0), every_update=False)


def written(study, tmp_path, monkeypatch) -> dict:
    """What the command writes without a login."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NETRC", "HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    main([str(study), "--entity", "team", "--project", "p", "--out", str(tmp_path / "report.json")])
    return json.loads((tmp_path / "report.json").read_text())


def test_the_specification_has_the_sentences_run_sets_and_panels_of_the_page(study, tmp_path, monkeypatch, capsys):
    made = written(study, tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{tmp_path / 'report.json'}: the specification of the report. Not saved")
    assert made["project"]["entityName"] == "team"
    verdicts = study_verdicts(load([study]), "study")
    texts = found(made, "text")
    for sentence in (*answer(verdicts), *(verdict.sentence for _, verdict in verdicts.claims)):
        assert sentence in texts
    grids = found(made, "runSets")
    arms = list(arm_answers(verdicts)["arm"])
    assert len(grids) == 4 and all([run_set["name"] for run_set in grid] == arms for grid in grids)
    for run_set in grids[0]:
        assert run_set["grouping"] == [{"section": "config", "name": "arm.value"}] or run_set["grouping"][0]["name"].startswith("arm")
        assert {"study", run_set["name"]} <= set(found(run_set["filters"], "value"))
        assert "project" not in run_set
    curves = found(made, "panelBankSectionConfig")[0]["panels"]
    assert [panel["config"]["metrics"] for panel in curves] == [[name] for name in (*FIXED, *FREE)]
    assert {panel["config"]["groupArea"] for panel in curves} == {"minmax"}
    alarms = [metric for metrics in found(made, "metrics") for metric in metrics if metric.startswith("alarm/")]
    assert alarms == [f"alarm/{name}" for name in ("kl", "nll_under_sft", "entropy", "distinct", "distinct_across", "sounded")]


def test_the_specification_is_read_back_as_the_same_report(study):
    verdicts = study_verdicts(load([study]), "study")
    made = report(verdicts, ["vanilla", "kl"], "team", "p")
    from wandb_workspaces.reports.v2 import Report  # after `report`, which knows the warnings of its import
    from wandb_workspaces.reports.v2.internal import ReportViewspec

    again = Report._from_model(ReportViewspec.model_validate_json(specification(made)))
    assert (again.entity, again.project, again.title) == ("team", "p", "PPO stability: study")
    assert [type(block) for block in again.blocks] == [type(block) for block in made.blocks]


def test_a_folder_of_several_studies_is_refused(tmp_path):
    for name in ("one", "two"):
        write_study(tmp_path, {"vanilla": Arm()}, 1, np.random.default_rng(0), study=name, every_update=False)
    with pytest.raises(SystemExit, match="a report shows one study; here are one, two: name results/STUDY"):
        main([str(tmp_path), "--entity", "team"])
