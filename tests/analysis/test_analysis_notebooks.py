"""The notebooks run from the top on the reference set, and what is committed is what comes out."""

import re

import nbformat
import numpy as np
import pytest
from simulate import Arm, write_study

from analysis.figures.opening import opening
from analysis.load.frames import load
from analysis.load.packed import REFERENCE, is_set
from analysis.notebooks.__main__ import executed, is_progress, main, notebooks

CHEAP = "04_your_own_sweep"
PATHS = {path.stem: path for path in notebooks()}
needs_reference = pytest.mark.skipif(not is_set(REFERENCE), reason="results/reference is not in this checkout")
each = pytest.mark.parametrize("name", PATHS)


def kinds(notebook):
    """What each code cell puts out, without its content."""
    return [[(output.output_type, *sorted(output.get("data", ()))) for output in cell.outputs]
            for cell in notebook.cells if cell.cell_type == "code"]  # fmt: skip


def test_there_are_four_notebooks_in_reading_order():
    assert list(PATHS) == ["01_collapse", "02_policy_constraints", "03_early_warning", CHEAP]


@each
def test_no_result_is_written_into_the_prose(name):
    """Numbers are computed: a run of the cells can then never contradict the text between them."""
    prose = "\n".join(cell.source for cell in nbformat.read(PATHS[name], as_version=4).cells if cell.cell_type == "markdown")
    assert re.findall(r"\d+ of \d+|\d+[.,]\d+|\d+/\d+", re.sub(r"(?s)```.*?```", "", prose)) == []


@needs_reference
@each
def test_what_is_committed_was_run_from_the_top_without_an_error(name):
    notebook = nbformat.read(PATHS[name], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    text = PATHS[name].read_text()
    assert len(text) < 250_000 and not re.search(r"/(?:home|root|tmp|Users)/", text)


@needs_reference
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == CHEAP else pytest.mark.slow) for name in PATHS])
def test_a_notebook_runs_and_gives_the_kinds_of_output_that_are_committed(name):
    assert kinds(executed(PATHS[name])) == kinds(nbformat.read(PATHS[name], as_version=4))


def test_a_cell_that_fails_is_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "05_broken.ipynb"
    cells = [nbformat.v4.new_code_cell("x = 0"), nbformat.v4.new_code_cell("1 / x")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    monkeypatch.setattr("analysis.notebooks.__main__.FOLDER", tmp_path)
    assert main([]) == 1
    assert "05_broken.ipynb" in (said := capsys.readouterr().err) and "ZeroDivisionError" in said
    assert path.read_bytes() == before
    assert main(["06_absent"]) == 1
    assert "no notebook 06_absent: there are 05_broken" in capsys.readouterr().err


def test_the_opening_figure_counts_collapses_and_puts_the_base_and_the_survivors_first(tmp_path):
    dies, holds = {"collapse_probability": 1.0}, {"collapse_probability": 0.0}
    arms = {"vanilla": Arm({}, **dies), "kl_penalty": Arm({"ppo.kl_penalty": True}, **holds),
            "reward_scaling": Arm({"ppo.reward_scaling": True}, **dies, onset=10)}  # fmt: skip
    loaded = load(write_study(tmp_path, arms, 3, np.random.default_rng(0), study="add_one_in"))
    lives, gold = opening(loaded.runs, loaded.curves).axes
    assert [label.get_text() for label in lives.get_yticklabels()] == ["vanilla", "+ KL penalty", "+ reward scaling"]
    assert [text.get_text() for text in lives.texts] == ["3 of 3 collapsed", "3 of 3 held", "3 of 3 collapsed"]
    ends = sorted(line.get_xdata()[1] for line in lives.lines if len(line.get_xdata()) == 2)
    assert ends == sorted(loaded.runs["collapse_update"].fillna(80))
    low, high = gold.get_xlim()
    assert low < loaded.runs["final/eval/gold"].min() and loaded.runs["final/eval/gold"].max() < high


@pytest.mark.parametrize(("output", "progress"), [
    ({"name": "stderr", "text": "runs read: 300/606\nruns read: 606/606\n"}, True),
    ({"name": "stderr", "text": "runs read: 606/606\nUserWarning: no such column\n"}, False),
    ({"name": "stdout", "text": "runs read: 606/606\n"}, False),
    ({"output_type": "display_data"}, False),
])  # fmt: skip
def test_progress_is_no_part_of_an_executed_notebook_and_a_warning_is(output, progress):
    assert is_progress(output) == progress
