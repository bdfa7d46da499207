"""The record of what made a run's numbers: what changes the fingerprint of the code, and where the record is kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ablate.runs import store
from ablate.runs.folder import config_of, read_config, read_numerics
from ablate.runs.numerics import NO_NUMBERS, code_fingerprint, continued, modules, numerics, syntax
from ablate.runs.store import RunStore
from ablate.runs.summary import read_summary
from ablate.system.closure import ROOT, closure, module_path

MAKE_NUMBERS = {
    "ablate.data.source", "ablate.models.forward", "ablate.pipeline.preferences", "ablate.pipeline.pretrain",
    "ablate.pipeline.reward_model", "ablate.pipeline.sft", "ablate.ppo.shaping", "ablate.ppo.tricks.value", "ablate.ppo.update",
    "ablate.session", "ablate.system.distributed", "ablate.system.seeding", "ablate.system.sharding", "ablate.trainer",
    "ablate.world.gold",
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package's source, to be changed."""
    root = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "ablate", root / "ablate", ignore=shutil.ignore_patterns("__pycache__", "conf"))
    return root


def fingerprint(root: Path) -> str:
    code_fingerprint.cache_clear()
    return code_fingerprint(root)


def test_equal_sources_have_equal_fingerprints(package):
    assert fingerprint(package) == fingerprint(package) == fingerprint(ROOT)
    assert len(fingerprint(ROOT)) == 12


def test_one_line_of_code_in_any_module_that_decides_numbers_changes_it_and_in_no_other(package):
    before = fingerprint(package)
    assert set(modules()) >= MAKE_NUMBERS
    for module in modules():
        path = module_path(module, package)
        source = path.read_bytes()
        path.write_bytes(source + b"\n_LINE = 1\n")
        assert fingerprint(package) != before, module
        path.write_bytes(source)
    for module in (*NO_NUMBERS, "ablate.sweeps.study", "ablate.memory.estimate"):
        path = module_path(module, package)
        path.write_bytes(path.read_bytes() + b"\n_LINE = 1\n")
    assert fingerprint(package) == before


def test_every_module_that_is_left_out_exists_and_is_reached():
    """A module that was renamed or is no longer imported must not stay in the list, where its new name would not be."""
    reached = set(closure("ablate.session", ROOT, ()))
    assert {*NO_NUMBERS} <= reached
    assert set(modules()) <= reached - {*NO_NUMBERS}


CODE = '''
"""About the module."""

def scale(x, factor=2.0):
    """Times the factor."""
    return x * factor  # a comment


class Scaler:
    """It scales."""

    unit = "one"
'''


def test_docstrings_comments_and_layout_change_no_fingerprint():
    other = CODE.replace("About the module.", "On it.").replace("  # a comment", "").replace("x, factor", "x,\n    factor")
    other = other.replace('    """Times the factor."""\n', "").replace("It scales.", "It scales,\n\n    and more.")
    assert other != CODE and syntax(other.encode()) == syntax(CODE.encode())


@pytest.mark.parametrize(
    ("old", "new"), [("2.0", "2.5"), ("x * factor", "factor * x"), ('"one"', '"two"'), ("factor=2.0", "*, factor=2.0")]
)
def test_a_number_an_operand_a_string_and_a_signature_change_it(old, new):
    assert syntax(CODE.replace(old, new).encode()) != syntax(CODE.encode())


def test_a_prose_change_in_a_module_leaves_the_fingerprint_alone(package):
    before, path = fingerprint(package), module_path("ablate.ppo.update", package)
    path.write_bytes(path.read_bytes().replace(b'"""', b'"""In other words: ', 1) + b"\n# a remark\n")
    assert fingerprint(package) == before


def test_the_record_names_code_packages_processor_and_threads_and_needs_no_torch():
    record = numerics(threads=3)
    assert record.keys() == {"code", "packages", "processor", "threads"}
    assert record["packages"].keys() == {"torch", "transformers", "numpy", "tokenizers"}
    assert record["threads"] == 3 and record["processor"]
    code = "import sys; from ablate.runs.numerics import numerics; numerics(1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_summary_and_config_yaml_have_the_record_and_readers_of_settings_do_not_see_it(make_config, tmp_path):
    config = make_config(tmp_path)
    run = RunStore(config)
    run.finish({"status": "completed"})
    assert read_summary(run.folder)["numerics"] == numerics(config.threads)
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["numerics"] == [numerics(config.threads)]
    assert "numerics" not in read_config(run.folder) and read_numerics(run.folder) == [numerics(config.threads)]
    assert config_of(run.folder) == config


def began(config, monkeypatch, record: dict, *, checkpoint: bool) -> Path:
    """A run that code of this record began, and left with or without a checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "numerics", lambda threads: record)
        run = RunStore(config)
        run.close()
    if checkpoint:
        run.checkpoint_folder(2).mkdir(parents=True)
    return run.folder


def test_a_run_that_other_code_began_names_that_code_too(make_config, tmp_path, monkeypatch):
    other = {**numerics(1), "code": "0" * 12}
    config = make_config(tmp_path)
    folder = began(config, monkeypatch, other, checkpoint=True)
    summary = RunStore(config).finish({"status": "completed"})
    assert summary["numerics"] == {**numerics(1), "earlier": [other]}
    assert read_numerics(folder) == [other, numerics(1)]


def test_a_run_that_starts_again_has_no_earlier_code(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path)
    began(config, monkeypatch, {**numerics(1), "code": "0" * 12}, checkpoint=False)
    assert RunStore(config).finish({"status": "completed"})["numerics"] == numerics(1)


def test_a_run_that_an_older_version_began_says_that_its_code_is_not_known(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path)
    folder = began(config, monkeypatch, numerics(1), checkpoint=True)
    known = yaml.safe_load((folder / "config.yaml").read_text())
    del known["numerics"]
    (folder / "config.yaml").write_text(yaml.safe_dump(known))
    assert RunStore(config).finish({"status": "completed"})["numerics"]["earlier"] == [{"code": None, "packages": {}}]


def test_a_run_that_goes_on_under_the_same_code_and_packages_keeps_one_record():
    one = numerics(1)
    moved = {**one, "processor": "another"}
    assert continued([one], moved) == [moved]
    assert continued([{**one, "packages": {}}, one], one) == [{**one, "packages": {}}, one]
