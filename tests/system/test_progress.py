"""Progress where there is no terminal."""

from __future__ import annotations

import time

from ablate.system.progress import track


def test_the_half_and_the_end_are_one_line_each_on_standard_error(capsys):
    assert list(track("abcde", 5, "letters [read]")) == list("abcde")
    assert capsys.readouterr() == ("", "letters [read]: 2/5\nletters [read]: 5/5\n")


def test_nothing_is_said_of_what_ends_before_progress_is_due(capsys):
    assert list(track(range(4), 4, "runs read", after=60)) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""


def test_what_takes_longer_is_told_from_then_on(capsys):
    for item in track(range(4), 4, "runs read", after=0.05):
        time.sleep(0.1 if item == 2 else 0)
    assert capsys.readouterr().err == "runs read: 4/4\n"


def test_what_goes_on_for_long_is_told_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr("ablate.system.progress.LINE_EVERY", 0.05)
    for item in track(range(8), 8, "steps"):
        time.sleep(0.1 if item == 1 else 0)
    assert capsys.readouterr().err == "steps: 2/8\nsteps: 4/8\nsteps: 8/8\n"
