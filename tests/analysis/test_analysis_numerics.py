"""What analysis says first: whether one code with one set of packages made the runs of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from simulate import Arm, write_study

from ablate.runs.numerics import code_fingerprint, numerics
from analysis.claims.study import study_verdicts
from analysis.load.frames import load
from analysis.load.runfolder import made_by
from analysis.reference.packing import pack
from analysis.report.data import report_data
from analysis.report.sentences import cautions
from analysis.verdicts.text import as_text

ARMS = {"vanilla": Arm(), "kl": Arm({"ppo.kl_penalty": True})}


@pytest.fixture
def study(tmp_path) -> Path:
    """Two arms of three runs, all by one code."""
    return write_study(tmp_path / "results", ARMS, 3, np.random.default_rng(0))


def change(study: Path, count: int, **changes) -> None:
    """Change the records of the first `count` runs; code=None leaves them without a record, as older versions did."""
    for folder in sorted(study.glob("*/seed=*"))[:count]:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        records = config.pop("numerics")
        if changes.get("code", "") is not None:
            config["numerics"] = [*changes.get("before", []), {**records[-1], **{k: v for k, v in changes.items() if k != "before"}}]
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def remarks(folder: Path, study: str = "study") -> list[str]:
    return study_verdicts(load(folder), study).remarks


def test_nothing_is_said_of_runs_that_one_code_with_one_set_of_packages_made(study):
    assert not any("code" in remark for remark in remarks(study))
    change(study, 2, processor="another", threads=2)
    assert not any("code" in remark for remark in remarks(study))


def test_the_first_remark_names_codes_that_differ_in_how_many_runs_and_what_to_do(study):
    change(study, 2, code="f" * 12)
    (first, *others) = remarks(study)
    assert first.startswith(
        "The 6 runs were not all made by one code with one set of packages (4 by code 0123456789ab, 2 by code ffffffffffff): "
    )
    assert "remove the folders of the smaller part and start the study again" in first
    assert not any("one code" in remark for remark in others)


def test_packages_that_differ_are_named_with_their_versions_and_equal_ones_are_not(study):
    change(study, 1, packages={"torch": "2.12.0", "numpy": "2.4.6"})
    assert "(6 by code 0123456789ab, 5 with torch 2.13.0, 1 with torch 2.12.0)" in remarks(study)[0]


def test_runs_that_lack_a_record_are_counted(study):
    change(study, 2, code=None)
    assert "(4 by code 0123456789ab, 2 before fingerprints of the code were kept)" in remarks(study)[0]


def test_a_study_of_an_older_version_says_that_its_code_is_not_known(study):
    change(study, 6, code=None)
    assert remarks(study)[0].startswith(
        "All 6 runs were made before fingerprints of the code were kept, so which code made them is not known: "
    )


def test_a_run_that_was_resumed_by_other_code_is_named(study):
    change(study, 1, before=[{"code": None, "packages": {}}])
    assert "(6 by code 0123456789ab, 1 resumed after other code or packages had begun them)" in remarks(study)[0]


def test_a_summary_counts_before_config_yaml_and_a_run_still_going_has_only_that():
    one, two = ({"code": code * 12, "packages": {"torch": "2"}} for code in "ab")
    assert made_by({"numerics": [one, two]}, {}) == {"numerics/code": "b" * 12, "numerics/earlier": 1, "numerics/torch": "2"}
    assert made_by({}, {"numerics": one}) == {"numerics/code": "a" * 12, "numerics/earlier": 0, "numerics/torch": "2"}
    assert made_by({}, {}) == {"numerics/code": None, "numerics/earlier": 0}


def test_verdicts_and_the_report_page_say_it_first(study):
    change(study, 2, code="f" * 12)
    loaded = load(study)
    verdicts = study_verdicts(loaded, "study")
    text = " ".join(as_text(verdicts).split())
    assert text.index("not all made by one code") < min(text.index(remark[:40]) for remark in verdicts.remarks[1:])
    first, *_ = cautions(report_data(loaded, "study"))
    assert first.startswith("The 6 runs were not all made by one code")


@pytest.mark.parametrize(("code", "said"), [(None, "6 before fingerprints of the code were kept"), ("f" * 12, "6 by code ffffffffffff")])
def test_a_packed_set_of_other_code_than_that_at_hand_says_so(study, tmp_path, monkeypatch, code, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    change(study, 6, code=code)
    pack([study], tmp_path / "packed")
    first = remarks(tmp_path / "packed")[0]
    assert first.startswith(
        f"6 of 6 runs come from a packed set that other or unknown code made, not the code at hand, {code_fingerprint()} ({said}): "
    )
    assert "README.md" in first


def test_a_packed_set_of_the_code_at_hand_says_nothing(study, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    change(study, 6, **numerics(1))
    pack([study], tmp_path / "packed")
    assert not any("code" in remark for remark in remarks(tmp_path / "packed"))
