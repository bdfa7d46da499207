"""`--help` of the commands that load models comes without loading any library for them."""

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


@pytest.mark.parametrize("command", ["ablate.judge"])
def test_help_loads_neither_torch_nor_transformers_and_shows_two_commands(command):
    done = subprocess.run([sys.executable, "-c", HELP, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert done.stdout.startswith(f"usage: python -m {command}") and done.stdout.count(f"\n  python -m {command} ") >= 2
