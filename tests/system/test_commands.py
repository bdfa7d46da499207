"""The one way in which a command ends on a UserError."""

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
