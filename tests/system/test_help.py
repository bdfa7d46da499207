"""`--help` of the commands that load models comes without loading any library for them."""

import re
import subprocess
import sys

import pytest

HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
print(*sorted({"torch", "transformers"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["ablate.export", "ablate.judge", "ablate.memory", "ablate.tune"])
def test_help_loads_neither_torch_nor_transformers_and_shows_two_commands(command):
    done = subprocess.run([sys.executable, "-c", HELP, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert len(re.findall(rf"^ *python -m {command} ", done.stdout, re.M)) >= 2
