"""How a command ends on a UserError, and where nobody reads its output."""

import importlib
import os
import signal
import subprocess
import sys

import pytest

from ablate.errors import UserError
from ablate.system.commands import command_errors


def fail() -> None:
    try:
        {}["absent"]
    except KeyError as error:
        raise UserError("study=x is absent: name another") from error


def test_a_user_error_ends_the_command_with_its_sentence_alone(monkeypatch, capsys):
    monkeypatch.delenv("ABLATE_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended, command_errors():
        fail()
    assert ended.value.code == "error: study=x is absent: name another"  # Python prints a text to stderr and exits with status 1
    assert capsys.readouterr() == ("", "")


def test_control_characters_that_a_message_quotes_are_escaped(capsys):
    with pytest.raises(SystemExit) as ended, command_errors():
        raise UserError("ünï \x1b[31m\r\udcff\u2028 is absent:\n  name another")
    assert ended.value.code == "error: ünï \\x1b[31m\\r\\udcff\\u2028 is absent:\n  name another"


@pytest.mark.parametrize("value", ["0", ""])
def test_only_the_value_1_asks_for_a_traceback(monkeypatch, capsys, value):
    monkeypatch.setenv("ABLATE_TRACEBACK", value)
    with pytest.raises(SystemExit), command_errors():
        fail()
    assert capsys.readouterr().err == ""


def test_the_traceback_of_the_error_and_of_its_cause_is_printed_on_request(monkeypatch, capsys):
    monkeypatch.setenv("ABLATE_TRACEBACK", "1")
    with pytest.raises(SystemExit, match="error: study=x"), command_errors():
        fail()
    shown = capsys.readouterr().err
    assert "KeyError: 'absent'" in shown and "UserError: study=x is absent" in shown and "test_commands.py" in shown


def test_other_exceptions_and_results_pass():
    with pytest.raises(ValueError, match="not the user's"), command_errors():
        raise ValueError("not the user's")
    with command_errors():
        result = 1
    assert result == 1


def without_reader(*command: str) -> subprocess.CompletedProcess:
    """Run a module as a command whose standard output is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-m", *command], stdout=writer, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writer)
    return done


@pytest.mark.parametrize("command", ["ablate.settings", "ablate.settings --help", "ablate.sweeps", "ablate.run --help"])
def test_a_command_whose_reader_has_ended_stops_without_a_word(command):
    done = without_reader(*command.split())
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_an_error_is_told_even_where_nobody_reads_the_output():
    done = without_reader("ablate.settings", "qqqq")
    assert done.returncode == 1 and done.stderr.startswith("error: no setting has 'qqqq'") and len(done.stderr.splitlines()) == 1


def test_a_broken_pipe_other_than_standard_output_passes():
    with pytest.raises(BrokenPipeError, match="a socket"), command_errors():
        raise BrokenPipeError("a socket")


@pytest.mark.parametrize("command", [["ppo.kl_coef=-1"], ["-m", "ppo.kl_coef=-1,-2"], ["ppo.kl_coeff=1"]])
def test_a_run_and_a_sweep_print_the_traceback_on_request(command, tmp_path):
    environment = {**os.environ, "ABLATE_TRACEBACK": "1"}
    done = subprocess.run([sys.executable, "-m", "ablate.run", *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "\nerror: " in done.stderr and "kl_coef" in done.stderr


@pytest.mark.parametrize("module", ["analysis.report.__main__", "analysis.reference.__main__", "analysis.world_check.__main__"])
def test_the_commands_of_the_analysis_print_the_traceback_on_request(module, tmp_path, monkeypatch, capsys):
    absent = str(tmp_path / "absent")
    command = ["figure", absent, "--out", str(tmp_path / "figure.png")] if "reference" in module else [absent]
    monkeypatch.setenv("ABLATE_TRACEBACK", "1")
    assert importlib.import_module(module).main(command) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and "UserError" in shown and "\nerror: " in shown


def test_the_figures_print_the_traceback_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ABLATE_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["figures", "fig04", str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match=r"^error: "):
        importlib.import_module("analysis.figures.__main__").main()
    assert capsys.readouterr().err.startswith("Traceback")
