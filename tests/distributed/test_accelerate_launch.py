"""`accelerate launch` as a user types it, with the files of ablate/conf/accelerate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from several import free_port
from test_several_processes import difference

from ablate.runs.folder import read_rows, run_folder
from ablate.runs.summary import read_summary
from ablate.session import execute

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def launch(name: str, *arguments: str, meanwhile: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Exit code and output of two processes; `meanwhile` is called with the launcher's process id."""
    where = ["--config_file", str(ROOT / "ablate" / "conf" / "accelerate" / f"{name}.yaml"), "--main_process_port", str(free_port())]
    command = [sys.executable, "-m", "accelerate.commands.launch", *where, "-m", "ablate.run", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        if meanwhile is not None:
            meanwhile(process.pid)
        out, _ = process.communicate(timeout=120)
    return process.returncode, out


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def after_rows(folder: Path, count: int, act: Callable[[int], None]) -> Callable[[int], None]:
    """Act once the run has logged so many rows."""

    def wait(pid: int) -> None:
        deadline = time.monotonic() + 90
        while len(read_rows(folder / "metrics.jsonl")) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        act(pid)

    return wait


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_launched_run_has_the_numbers_of_one_process(name, tiny_config, tiny_overrides, tmp_path):
    code, out = launch(name, *tiny_overrides)
    assert code == 0, out
    alone = tiny_config(f"results={tmp_path / 'alone'}", "preferences.length_bias=0.1")  # as the command has it from conf/data/world.yaml
    execute(alone)
    assert difference(run_folder(alone), run_folder(tiny_config())) < 1e-5


def test_sigterm_to_the_launcher_stops_all_after_one_update_with_a_summary(tiny_config, tiny_overrides):
    folder = run_folder(tiny_config())
    stop = after_rows(folder, 5, lambda pid: os.kill(pid, signal.SIGTERM))
    code, out = launch("ddp", *tiny_overrides, "ppo.updates=400", meanwhile=stop)
    assert code != 0 and "error: " not in out
    summary = read_summary(folder)
    assert summary["status"] == "interrupted"
    assert (folder / "checkpoints" / str(summary["updates"]) / "state.json").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_launch_with_one_sentence_and_no_process_is_left(rank, tiny_config, tiny_overrides):
    folder, started = run_folder(tiny_config()), []

    def kill(pid: int) -> None:
        started.extend(children(pid))
        os.kill(started[rank], signal.SIGKILL)

    code, out = launch("fsdp", *tiny_overrides, "ppo.updates=400", meanwhile=after_rows(folder, 5, kill))
    assert code != 0
    assert out.count("error: another process of this run has ended") == 1, out
    assert len(started) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.parametrize(
    ("arguments", "sentence"), [(["-m", "seed=1,2"], "a sweep (-m)"), (["ppo.kl_coef=-1"], "ppo.kl_coef=-1.0 is too small")]
)
def test_what_cannot_be_is_refused_once(arguments, sentence, tiny_overrides):
    code, out = launch("ddp", *tiny_overrides, *arguments)
    assert code == 1
    assert out.count("error: ") == 1 and f"error: {sentence}" in out, out
