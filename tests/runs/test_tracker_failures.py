"""Whatever happens to a tracker, a run goes on to its summary with one sentence of warning. wandb is the real one, without a network."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from processes import command_line

from ablate import mirror
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.summary import read_summary
from ablate.session import execute
from ablate.trainer import Trainer

WARNING = "the run goes on without wandb, and python -m ablate.mirror --tracker wandb {} rebuilds it"


def kill_service() -> None:
    """SIGKILL to the wandb service that this process has started."""
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"], capture_output=True, text=True, check=True)
    for number in found.stdout.split():
        os.kill(int(number), signal.SIGKILL)
        os.waitpid(int(number), 0)


def completed(config, capsys) -> str:
    """The one line that a run which has completed with all its rows has said on standard error."""
    summary = read_summary(run_folder(config))
    assert summary is not None and summary["status"] == "completed"
    assert [row["update"] for row in read_rows(run_folder(config) / "metrics.jsonl")] == list(range(config.ppo.updates + 1))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith(WARNING.format(run_folder(config)))
    assert line == f"warning: {summary['trackers_stopped']['wandb']}; {WARNING.format(run_folder(config))}"
    return line


@pytest.fixture
def no_login(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "online")


def test_a_run_outlives_the_kill_of_its_wandb_service(make_config, tmp_path, capsys, monkeypatch):
    config = make_config(tmp_path, "tracker=wandb", "ppo.updates=3")
    original = Trainer.checkpoint_is_due

    def after_update(trainer: Trainer) -> bool:
        if trainer.progress.update == 1:
            kill_service()
        return original(trainer)

    monkeypatch.setattr(Trainer, "checkpoint_is_due", after_update)
    execute(config)
    assert "wandb failed (Connection lost)" in completed(config, capsys)
    mirror.main([str(run_folder(config))])
    assert capsys.readouterr().out == f"{run_folder(config)}: mirrored\n"


def test_online_without_a_login_a_run_goes_on(make_config, tmp_path, capsys, no_login):
    config = make_config(tmp_path, "tracker=wandb", "ppo.updates=1")
    execute(config)
    assert "there is no wandb login: run `wandb login` or set WANDB_API_KEY" in completed(config, capsys)


def test_a_key_that_wandb_refuses_is_not_shown_and_the_run_goes_on(make_config, tmp_path, capsys, no_login, monkeypatch):
    config = make_config(tmp_path, "tracker=wandb", "ppo.updates=1")
    monkeypatch.setenv("WANDB_API_KEY", "a key\nof two lines\r\n")
    execute(config)
    said = completed(config, capsys)
    assert "API key" in said and "a key" not in said and "two lines" not in said


def test_a_run_goes_on_where_the_wandb_folder_cannot_be_written(make_config, tmp_path, capsys):
    config = make_config(tmp_path, "tracker=wandb", "ppo.updates=1")
    run_folder(config).mkdir(parents=True)
    (run_folder(config) / "wandb").write_text("in the way")
    execute(config)
    assert "Not a directory" in completed(config, capsys)


def test_a_run_goes_on_where_the_disk_of_wandb_is_full(make_config, tmp_path, capsys, monkeypatch):
    config = make_config(tmp_path, "tracker=wandb", "ppo.updates=1")
    monkeypatch.setattr("ablate.runs.trackers.wandb.FULL_BYTES", 2**70)  # no disk has so much space
    execute(config)
    assert f"the disk of {run_folder(config) / 'wandb'} is full" in completed(config, capsys)


def test_the_mirror_command_says_in_a_sentence_that_wandb_fails(make_config, tmp_path, no_login):
    config = make_config(tmp_path, "ppo.updates=1")
    execute(config)
    with pytest.raises(SystemExit, match=r"^error: there is no wandb login: run `wandb login` or set WANDB_API_KEY$"):
        mirror.main([str(run_folder(config))])


@pytest.mark.slow
def test_the_command_ends_well_after_the_kill_of_its_wandb_service(tiny_overrides, tmp_path):
    def kill(process: subprocess.Popen) -> None:
        for line in process.stdout:
            if line.startswith("update 0:"):
                break
        found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "wandb-core"], capture_output=True, text=True, check=True)
        for number in found.stdout.split():
            os.kill(int(number), signal.SIGKILL)

    overrides = [override for override in tiny_overrides if not override.startswith("tracker=")]
    done = command_line(*overrides, "ppo.updates=40", cwd=tmp_path, meanwhile=kill)
    first, warning = done.stderr.splitlines()
    assert first.endswith(", 40 updates, results in " + str(tmp_path / "results/default/tiny/seed=0"))
    assert done.returncode == 0 and warning.startswith("warning: wandb failed (")
    assert warning.endswith(WARNING.format(tmp_path / "results/default/tiny/seed=0"))
