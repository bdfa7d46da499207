"""A run that another study has finished is taken over: the same records under the new study's name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import is_finished, read_config, run_folder
from ablate.runs.numerics import UNKNOWN
from ablate.runs.store import RunStore
from ablate.settings.identity import config_hash
from ablate.sweeps.reuse import take_over

RECORDS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl", "stages.json", "reward_model/report.json")


OTHER_CODE = {**UNKNOWN, "code": "0" * 12}


def config(results: Path, study: str, arm: str, **settings) -> Config:
    return replace(Config(), results=str(results), study=study, arm=arm, **settings)


def finished(made: Config) -> Path:
    """A run folder with a row in each stream, a checkpoint and a summary."""
    store = RunStore(made)
    for stream in RECORDS[:3]:
        store.append(stream, [{"update": 0, "value": 1.5}])
    store.checkpoint_folder(10).mkdir(parents=True)
    (store.folder / "reward_model").mkdir()
    (store.folder / "reward_model/report.json").write_text("{}")
    (store.folder / "stages.json").write_text("{}")
    store.finish({"status": "completed", "reason": "", "collapsed": False, "study": made.study, "arm": made.arm, "seed": made.seed})
    return store.folder


def edit(folder: Path, **changes) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_equal_run_of_another_study_is_taken_over_whole(tmp_path):
    source = finished(config(tmp_path, "add_one_in", "vanilla"))
    wanted = config(tmp_path, "policy_constraints", "base")
    assert take_over([wanted]) == 1
    assert is_finished(wanted)
    target = run_folder(wanted)
    assert [(target / name).read_bytes() for name in RECORDS] == [(source / name).read_bytes() for name in RECORDS]
    summary, known = json.loads((target / "summary.json").read_text()), read_config(target)
    assert summary == json.loads((source / "summary.json").read_text()) | {
        "study": "policy_constraints", "arm": "base", "taken_from": "add_one_in/vanilla/seed=0",
    }  # fmt: skip
    assert (known["study"], known["arm"], known["hash"]) == ("policy_constraints", "base", config_hash(wanted))
    assert not (target / "checkpoints").exists()


def test_a_run_that_was_taken_over_names_where_it_was_computed_when_it_is_taken_on(tmp_path):
    origin = finished(config(tmp_path, "b", "first"))
    assert take_over([config(tmp_path, "a", "second")]) == 1
    assert take_over([config(tmp_path, "c", "third")]) == 1
    taken = json.loads((tmp_path / "c/third/seed=0/summary.json").read_text())["taken_from"]
    assert taken == origin.relative_to(tmp_path).as_posix()


@pytest.mark.parametrize("change", [{"status": "failed"}, {"status": "interrupted"}, {"versions": {"torch": "1.0"}},
                                    {"numerics": OTHER_CODE}, {"numerics": UNKNOWN}, {"numerics": {}}])  # fmt: skip
def test_only_a_finished_run_of_the_same_versions_and_code_is_taken_over(tmp_path, change):
    edit(finished(config(tmp_path, "a", "x")), **change)
    wanted = config(tmp_path, "b", "x")
    assert take_over([wanted]) == 0
    assert not run_folder(wanted).exists()


def test_another_seed_and_another_setting_are_other_runs(tmp_path):
    finished(config(tmp_path, "a", "x"))
    assert take_over([config(tmp_path, "b", "x", seed=1), config(tmp_path, "b", "y", threads=2)]) == 0


def test_a_run_that_has_begun_goes_on_from_its_own_rows(tmp_path):
    finished(config(tmp_path, "a", "x"))
    begun = config(tmp_path, "b", "x")
    RunStore(begun).close()
    assert take_over([begun]) == 0
    assert not is_finished(begun)


def test_a_damaged_summary_is_passed_over(tmp_path):
    (finished(config(tmp_path, "a", "x")) / "summary.json").write_text("{")
    assert take_over([config(tmp_path, "b", "x")]) == 0


def test_a_results_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    finished(config(tmp_path, "a", "x"))
    (tmp_path / "b").write_text("a file where the study's folder belongs")
    with pytest.raises(UserError, match="cannot write"):
        take_over([config(tmp_path, "b", "x")])
