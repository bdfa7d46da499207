"""The two commands of the gradient measurement: a real run's checkpoints measured, the table and the figure, and what is refused."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from ablate.errors import UserError
from ablate.gradients.__main__ import main, numbers, write
from ablate.gradients.estimators import NAMES
from ablate.gradients.table import lines, nearest, rows
from ablate.runs.folder import run_folder
from ablate.session import execute
from analysis import kl_gradients


@pytest.fixture
def run(tiny_config):
    config = tiny_config("ppo.kl_penalty=false", "ppo.learning_rate=1e-2", "checkpoint.every=1", "checkpoint.keep=0")
    execute(config)
    return run_folder(config)


def test_a_runs_checkpoints_are_measured_tabled_and_drawn(run, tmp_path):
    found = rows([run], [0.1, 100.0], batches=4, responses=4)
    updates = {row["update"] for row in found}
    assert len(updates) == 2 and len(found) == 2 * 2 * len(NAMES) * 3
    own = [row for row in found if row["estimator"] == row["target"]]
    assert all(row["value"] == pytest.approx(1) for row in own)
    text = "\n".join(lines(found))
    assert all(name in text for name in NAMES) and text.count("KL to SFT") == 2
    table = tmp_path / "gradients.csv"
    write(table, found)
    with table.open() as handle:
        assert len(list(csv.DictReader(handle))) == len(found)
    kl_gradients.main([str(table), "--figure", str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_the_nearest_checkpoint_is_that_of_the_nearest_logged_kl(run):
    assert nearest(run, 0.0) in (0, 1) and nearest(run, 1e9) == 4


@pytest.mark.parametrize(("arguments", "said"), [
    (["x", "--kl", "near"], "is not numbers between commas"), (["x", "--kl", "-1"], "a KL that no policy has"),
    (["x", "--batches", "2"], "at least 3 batches"), (["x"], "x has no config.yaml: name a run folder"),
])  # fmt: skip
def test_slips_are_one_sentence(arguments, said):
    with pytest.raises(SystemExit, match=said):
        main(arguments)


def test_a_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"does not exist: make it by python -m ablate\.gradients"):
        kl_gradients.main([str(tmp_path / "none.csv")])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match=r"lacks .*estimator"):
        kl_gradients.main([str(tmp_path / "other.csv")])
    with pytest.raises(UserError, match="not numbers"):
        numbers("1,x")


@pytest.mark.parametrize("module", ["ablate.gradients", "analysis.kl_gradients"])
def test_help_loads_no_library(module):
    code = (
        f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('{module}', run_name='__main__')\nexcept SystemExit: pass\n"
    )
    code += "print([name for name in ('torch', 'transformers', 'pandas', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip() == "[]"
