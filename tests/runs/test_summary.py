"""summary.json against its declared keys: what runs write, the table of the documentation, and numbers that JSON lacks."""

import json
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints

import pytest

import ablate
from ablate import trainer
from ablate.errors import Diverged
from ablate.runs.folder import run_folder
from ablate.runs.store import RunStore
from ablate.runs.summary import RunSummary, read_summary, summary_table, write_summary
from ablate.session import execute
from ablate.settings.identity import config_hash
from ablate.sweeps.reuse import copy_run

HINTS = get_type_hints(RunSummary)
OPTIONAL = {name for name, hint in get_type_hints(RunSummary, include_extras=True).items() if get_origin(hint) is NotRequired}
RARE = {"taken_from", "trackers_stopped"}  # of a run that another study computed, and of one that lost a tracker
TRAINED = {"updates", "wall_seconds", "responses_per_second", "collapse_by", "alarms", "final", "sft"}


def fits(value: object, kind: object) -> bool:
    """Whether a value that JSON gave is of a declared type; a whole number is a number."""
    parts = get_args(kind)
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return value in parts
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(entry, parts[1]) for entry in value.values())
    if parts:
        return any(fits(value, part) for part in parts)
    return type(value) is kind or (kind is float and type(value) is int)


def written(config) -> dict:
    return json.loads((run_folder(config) / "summary.json").read_text())


def stop(*arguments, **named):
    raise Diverged("the policy loss is not finite")


def fail(*arguments, **named):
    raise OSError("no such thing")


@pytest.mark.parametrize(("function", "status", "missing"), [
    (None, "completed", set()), (stop, "diverged", set()), (fail, "failed", TRAINED),
])  # fmt: skip
def test_a_run_writes_every_declared_key_and_no_other_each_of_its_type(function, status, missing, tiny_config, monkeypatch):
    config = tiny_config("ppo.updates=2")
    if function is not None:
        monkeypatch.setattr(trainer, "update", function)
    try:
        returned = execute(config)
    except OSError:
        returned = None
    summary = written(config)
    assert summary["status"] == status and OPTIONAL == TRAINED | RARE
    assert summary.keys() == HINTS.keys() - RARE - missing
    assert {name for name, value in summary.items() if not fits(value, HINTS[name])} == set()
    assert returned == (None if status == "failed" else summary)


def test_a_run_that_another_study_takes_over_says_where_it_is_from(tiny_config):
    config, other = tiny_config("ppo.updates=1"), tiny_config("ppo.updates=1", "study=second")
    execute(config)
    copy_run(run_folder(config), other)
    assert written(other) == written(config) | {"study": "second", "taken_from": "default/tiny/seed=0"}


def test_the_check_of_types_refuses_what_is_not_of_the_declared_one():
    wrong = {"status": "ended", "collapsed": 1, "updates": 2.5, "reason": None, "versions": {"torch": 2}, "final": {"eval/gold": "high"}}
    assert not any(fits(value, HINTS[name]) for name, value in wrong.items())
    assert fits({"eval/gold": None, "eval/proxy": 1}, HINTS["final"]) and fits(None, HINTS["collapse_update"])


def test_what_is_written_is_read_and_a_number_that_is_not_finite_is_null(tiny_config, tmp_path):
    config = tiny_config()
    ended = {"status": "failed", "reason": "ö", "collapsed": None, "collapse_update": None, "study": "s", "arm": "a", "seed": 0}
    summary = RunStore(config).finish({**ended, "final": {"eval/gold": float("inf"), "eval/proxy": 0.1}})
    assert summary["config_hash"] == config_hash(config)
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == read_summary(run_folder(config)) == {**summary, "final": {"eval/gold": None, "eval/proxy": 0.1}}
    assert read_summary(tmp_path / "elsewhere") is None


def test_the_table_of_the_documentation_is_made_from_the_types():
    document = Path(ablate.__file__).parents[1] / "docs" / "reference" / "run_folder.md"
    assert f"\n\n{summary_table()}\n" in document.read_text()
    assert "| `updates`? | whole number | " in summary_table() and "| `arm` | string or null | " in summary_table()
