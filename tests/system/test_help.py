"""`--help` of every command comes without loading any library for them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.commands import commands
from analysis.figures.__main__ import NAMES
from analysis.figures.catalogue import FIGURES

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
print(*sorted({"torch", "transformers", "pandas", "matplotlib"} & sys.modules.keys()), file=sys.stderr)
"""


COMMANDS = commands()
EXAMPLE = r"^ *(?:[A-Z_]+=\w+ |eval \"\$\()?(?:python -m {module}|ablate {name})(?= |$)"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_no_heavy_library_and_has_two_examples(name):
    module = COMMANDS[name].module
    done = subprocess.run([sys.executable, "-c", HELP, module], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    after_usage = re.sub(r"\Ausage: .*?\n\n", "", done.stdout, flags=re.DOTALL)
    assert len(re.findall(EXAMPLE.format(module=re.escape(module), name=name), after_usage, re.MULTILINE)) >= 2


FIRST = """
import builtins, runpy, sys
command, *sys.argv = sys.argv[1], *sys.argv[1:]
started = builtins.__import__
def refused(name, *rest, **more):
    if name.partition(".")[0] in {"torch", "transformers", "pandas", "matplotlib", "nbformat"}:
        print("heavy", name)
        raise SystemExit(3)
    return started(name, *rest, **more)
builtins.__import__ = refused
runpy.run_module(command, run_name="__main__")
"""
SAID = {
    "analysis.verdicts": (["."], "reading the runs below ."),
    "analysis.alarms": (["."], "reading the runs below ."),
    "analysis.report": (["."], "reading the runs below ."),
    "analysis.serve": (["."], "reading the runs below ."),
    "analysis.wandb_report": (["."], "reading the runs below ."),
    "analysis.figures": (["fig07", "."], "reading the runs below ."),
    "analysis.notebooks": (["01_collapse"], "executing 01_collapse.ipynb, 1 of 1"),
    "ablate.memory": ([], "estimating the memory of the model from its configuration"),
    "ablate.judge": (["a", "sft"], "judging a against sft by gold"),
    "ablate.stages": (["build", "sft", "to"], "building the sft, or finding it in "),
    "analysis.world_check": (["."], "reading the runs below ."),
    "ablate.run": (["ppo=vanilla"], "default: vanilla seed=0, 100 updates, results in results/default/vanilla/seed=0"),
}


@pytest.mark.parametrize("command", SAID)
def test_a_command_says_what_it_does_before_it_imports_what_takes_seconds(command, tmp_path):
    arguments, line = SAID[command]
    done = subprocess.run([sys.executable, "-c", FIRST, command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert done.stderr.startswith(line), done.stderr
    assert (done.returncode, done.stdout.startswith("heavy ")) == (3, True)


@pytest.mark.parametrize("command", ["analysis.verdicts", "analysis.report", "analysis.serve", "analysis.figures"])
def test_a_folder_that_is_not_there_is_refused_before_any_import(command, tmp_path):
    arguments = ["fig07", "nowhere"] if command == "analysis.figures" else ["nowhere"]
    done = subprocess.run([sys.executable, "-c", FIRST, command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    assert (done.stdout, done.stderr) == ("", "error: nowhere is not a folder: name a study or results folder\n")


def test_the_figures_known_without_their_library_are_those_of_the_catalogue():
    assert tuple(FIGURES) == NAMES
