"""Sweeps on a real Slurm, through the command that users type: cancelled, preempted, warned, failed and interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from one_node import missing

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
UPDATES = 200  # seconds, so that a look and a command of Slurm's find a run underway on a machine with other work too
OUTSIDE = ("time/", "responses_per_second", "wall_seconds", "git_commit")  # of the moment, not of the settings
PATIENCE = 600  # seconds until something has surely gone wrong


@dataclass
class Sweep:
    """A command of a user, in a folder of its own; on Slurm, or by the local launcher."""

    folder: Path
    overrides: list[str]
    environment: dict[str, str]
    started: list[subprocess.Popen]

    def start(self, *more: str, on_slurm: bool = True) -> subprocess.Popen:
        launcher = ["hydra/launcher=submitit_slurm"] if on_slurm else ["jobs=2"]
        command = [sys.executable, "-m", "ablate.run", "-m", *launcher, *self.overrides, f"results={self.folder}/results", *more]
        environment = {**self.environment, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
        self.folder.mkdir(exist_ok=True)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen(command, cwd=self.folder, env=environment, **streams))
        return self.started[-1]

    def run(self, *more: str, on_slurm: bool = True) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        return ended(self.start(*more, on_slurm=on_slurm))

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    def running(self) -> dict[str, Path]:
        """Slurm's number of each running job of this sweep → its run folder."""
        import submitit

        found = {}
        for number in self.slurm("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split():
            job = submitit.SlurmJob(self.folder / ".submitit" / "%j", number)
            if job.paths.submitted_pickle.exists():
                config = job.submission().args[0]
                found[number] = Path(config.results) / config.study / config.arm / f"seed={config.seed}"
        return found

    def underway(self, command: subprocess.Popen, without: list[str] = ()) -> tuple[str, Path]:
        """A running job that is between its first and its last checkpoint."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert command.poll() is None, command.communicate()
            for number, folder in self.running().items():
                metrics = folder / "metrics.jsonl"
                if number not in without and metrics.exists() and 6 < metrics.read_text().count("\n") < UPDATES // 2:
                    return number, folder
            time.sleep(0.2)
        raise AssertionError("no job got going")

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def told(self, number: str) -> str:
        """What Slurm has to say of a job; printed, for whoever runs this with -s."""
        said = self.slurm("scontrol", "show", "job", number)
        print(said)
        return said


def ended(command: subprocess.Popen) -> tuple[int, str, str]:
    out, err = command.communicate(timeout=PATIENCE)
    print(out, err)
    return command.returncode, out, err


def failures(err: str) -> list[str]:
    """The lines of standard error after the first, which names the study, its runs and its folder."""
    announced, *lines = err.splitlines()
    assert " at a time, results in " in announced
    return lines


def numbers(folder: Path) -> dict:
    """Everything in a run folder that must be equal bits for equal settings; weights as bytes."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("checkpoints/*/**/*.safetensors"))}
    for name in ("scores.jsonl", "samples.jsonl", "tokens.jsonl"):
        found[name] = (folder / name).read_bytes()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for name, row in [*enumerate(rows), ("summary", json.loads((folder / "summary.json").read_text()))]:
        found[name] = {key: value for key, value in row.items() if not key.startswith(OUTSIDE)}
    return found


@pytest.fixture(scope="module")
def sweep(slurm, stage_folders, tmp_path_factory) -> Iterator[Callable[[str], Sweep]]:
    """sweep(name) → runs of 200 updates of tiny models, some seconds each.

    One checkpoint is kept: of two, the older one is where a run was stopped, if that was in its last five updates.
    """
    root = tmp_path_factory.mktemp("sweeps")
    names = {"model": "pretrained", "sft": "sft", "preferences": "preferences", "reward_model": "reward_model"}
    overrides = [
        *(f"{setting}.path={stage_folders[stage]}" for setting, stage in names.items()), f"cache={root / 'cache'}", "tracker=none",
        "device=cpu", f"ppo.updates={UPDATES}", "ppo.batch_size=8", "ppo.minibatch_size=4", "ppo.micro_batch_size=4",
        "ppo.critic_pretrain_updates=1", "sampling.max_new_tokens=8", "evaluation.every=10", "evaluation.prompts=8", "checkpoint.every=5",
        "checkpoint.keep=1",
    ]  # fmt: skip
    started: list[subprocess.Popen] = []
    yield lambda name: Sweep(root / name, overrides, slurm, started)
    for command in started:
        with command:
            command.kill()


def test_a_sweep_cancelled_preempted_and_warned_on_slurm_ends_with_the_bits_of_an_undisturbed_one(sweep):
    study = ("sweep=policy_constraints", "seed=range(2)", "ppo.importance_sampling=behaviour", "ppo.entropy_bonus=false")  # vanilla and kl
    undisturbed, disturbed = sweep("undisturbed"), sweep("disturbed")
    assert undisturbed.run(*study, on_slurm=False)[0] == 0

    command = disturbed.start(*study)
    cancelled, folder = disturbed.underway(command)
    print(disturbed.slurm("squeue"))
    disturbed.slurm("scancel", cancelled)
    warned, first = disturbed.underway(command, without=[cancelled])
    # What Slurm sends a while before the time limit. scancel tries again while the job is between two states: it is not waited for.
    warning = subprocess.Popen(["scancel", "--signal=USR2", warned], env=disturbed.environment)
    disturbed.until(lambda: "Restarts=1" in disturbed.slurm("scontrol", "show", "job", warned))
    disturbed.told(warned)
    warning.kill()
    warning.wait()
    _, second = disturbed.underway(command, without=[cancelled, warned])
    disturbed.slurm("srun", "--partition=urgent", "--ntasks=2", "true")
    array = cancelled.partition("_")[0]
    print(disturbed.slurm("squeue"))
    requeued = {text.split()[2] for text in disturbed.told(array).split("\n\n") if re.search(r"Restarts=[1-9]", text)}
    assert f"ArrayTaskId={warned.partition('_')[2]}" in requeued and len(requeued) >= 2
    log = Path(disturbed.environment["SLURM_CONF"]).with_name("slurmctld.log").read_text()
    print(*(line for line in log.splitlines() if "preempted" in line or "requeue" in line), sep="\n")
    assert "preempted JobId=" in log

    code, out, err = ended(command)
    assert (first / "run.log").read_text().count("update 0:") == 1  # went on, did not begin again
    evaluated = re.findall(r"^update (\d+): .*proxy", (second / "run.log").read_text(), re.MULTILINE)  # an alarm has a line of its own
    assert evaluated == [str(update) for update in range(0, UPDATES + 1, 10)]  # preempted, it lost no update that it had done
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("interrupted", f"stopped by a signal after update {summary['updates']}")
    assert 6 <= summary["updates"] < UPDATES
    reason = f"cancelled in Slurm, {summary['reason']} (log: {folder}/run.log)"
    assert (code, failures(err)) == (1, ["1 of 4 runs failed:", f"  {summary['arm']} seed={summary['seed']}: {reason}"])
    assert "3 done" in out and "1 failed" in out
    assert "CANCELLED" in disturbed.told(cancelled)

    code, out, err = disturbed.run(*study)
    assert code == 0 and "3 of 4 runs are done already" in out and "1 runs are in Slurm's queue" in out
    folders = sorted(path.parent.relative_to(undisturbed.folder) for path in undisturbed.folder.glob("results/*/*/*/summary.json"))
    assert len(folders) == 4
    for name in folders:
        one, other = numbers(disturbed.folder / name), numbers(undisturbed.folder / name)
        assert [key for key in other if one.get(key) != other[key]] == [], name
        assert one.keys() == other.keys(), name


def test_failures_are_told_in_the_words_of_the_local_launcher_and_end_no_other_run(sweep):
    runs = sweep("failures")
    assert runs.run("arm=a", "seed=0", "ppo.updates=1", on_slurm=False)[0] == 0
    command = runs.start("arm=a", "seed=range(3)")
    array = ""

    def second_has_begun() -> bool:
        nonlocal array
        folders = {folder.name: number for number, folder in runs.running().items()}
        array = folders.get("seed=1", "")
        return bool(array) and (runs.folder / "results/default/a/seed=1/metrics.jsonl").exists()

    runs.until(second_has_begun)
    runs.slurm("scancel", "--signal=ABRT", array)
    code, out, err = ended(command)
    first, refused, crashed = failures(err)
    log = runs.folder / "results/default/a/seed={}/run.log"
    assert (code, first) == (1, "2 of 3 runs failed:")
    assert crashed == f"  a seed=1: ended by SIGABRT (log: {str(log).format(1)})"
    assert "1 done" in out
    code, out, err = runs.run("arm=a", "seed=range(3)", on_slurm=False)
    assert code == 1 and failures(err) == ["1 of 2 runs failed:", refused]
    assert f"belongs to other settings (ppo.updates is 1 there and {UPDATES} here)" in refused


def test_settings_reach_slurm_and_after_ctrl_c_the_same_command_continues_from_the_checkpoints(sweep):
    runs = sweep("interrupted")
    settings = {"partition": "standard", "timeout_min": "30", "mem_gb": "1", "array_parallelism": "2"}
    command = runs.start("seed=range(3)", *(f"hydra.launcher.{name}={value}" for name, value in settings.items()))
    number, folder = runs.underway(command)
    said = runs.told(number)
    assert all(
        text in said for text in ("Partition=standard", "TimeLimit=00:30:00", "MinMemoryNode=1G", "ArrayTaskThrottle=2", "CPUs/Task=1")
    )
    command.send_signal(signal.SIGINT)
    code, _, err = ended(command)
    assert (code, err.splitlines()[-1]) == (130, "3 runs were interrupted: the same command continues them")
    assert runs.slurm("squeue", "--noheader") == ""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted" and (folder / "checkpoints" / str(summary["updates"])).exists()
    assert runs.run("seed=range(3)")[0] == 0
    assert json.loads((folder / "summary.json").read_text())["status"] == "completed"


def test_a_run_out_of_time_keeps_its_last_update_and_says_what_to_raise(sweep):
    runs = sweep("out_of_time")
    command = runs.start("arm=a", "hydra.launcher.timeout_min=5")  # submitit takes every warning within so short a limit for the last one
    number, folder = runs.underway(command)
    runs.slurm("scancel", "--signal=USR2", number)
    code, _, err = ended(command)
    updates = json.loads((folder / "summary.json").read_text())["updates"]
    assert (folder / "checkpoints" / str(updates)).exists()
    remedy = "the same command continues it; or raise hydra.launcher.timeout_min or max_num_timeout"
    reason = f"error: out of time after update {updates}: {remedy} (log: {folder}/run.log)"
    assert (code, failures(err)) == (1, ["1 of 1 runs failed:", f"  a seed=0: {reason}"])


def test_a_partition_that_is_none_is_told_in_one_sentence(sweep):
    code, _, err = sweep("refused").run("seed=range(2)", "hydra.launcher.partition=nowhere")
    last = "error: Slurm did not take the sweep (Batch job submission failed: Invalid partition name specified): correct hydra.launcher.*"
    assert code == 1 and err.splitlines()[-1] == last


def test_without_the_packages_the_reason_to_skip_names_them(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert "apt-get install slurm-wlm munge" in missing()
