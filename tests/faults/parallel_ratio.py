"""How much a sweep gains from running jobs at the same time, and what starting a run costs, stages cached, one thread each.

    python tests/faults/parallel_ratio.py                            6 equal jobs, 2 at a time, against the sum of the 6 alone
    python tests/faults/parallel_ratio.py --repetitions 3 --starts 5

Ratio: wall time of `python -m ablate.run -m seed=range(6) jobs=2` over the sum of the wall times of `python -m ablate.run seed=n`,
n = 0 … 5, each a command of its own; the two sides take turns, and the median over the repetitions is given.
Start: seconds from the start of the command to the first row of metrics.jsonl, which is the evaluation before the first update,
by the clock and as CPU time of the process, which says more on a machine shared with others; and to the row after it, the end of
the first update. The load average stands beside each figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import ablate

ROOT = Path(ablate.__file__).resolve().parents[1]
JOBS = 6
POLL_SECONDS = 0.01
SMALL_STAGES = [
    "pretrain.examples=500", "pretrain.steps=60", "sft.examples=500", "sft.steps=60",
    "preferences.pairs=64", "preferences.held_out_pairs=32", "reward_model.steps=40", "ppo.critic_pretrain_updates=1",
]  # fmt: skip


def command(folder: Path, *overrides: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    arguments = [*overrides, *SMALL_STAGES, "device=cpu", "study=ratio", "arm=a", f"results={folder}", f"cache={folder.parent / 'cache'}"]
    with (folder.parent / "output.log").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "ablate.run", *arguments], cwd=folder.parent, env=environment, stdout=out, stderr=out
        )


def finish(process: subprocess.Popen) -> None:
    if process.wait():
        sys.exit(f"error: {' '.join(process.args[2:])} exited with {process.returncode}")


def seconds_of(folder: Path, *overrides: str) -> float:
    """Wall seconds of a command that starts from no results."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    finish(command(folder, *overrides))
    return time.perf_counter() - began


def ratio(work: Path, updates: int) -> tuple[float, float]:
    """(seconds in parallel, sum of seconds alone) of the same jobs."""
    settings = [f"ppo.updates={updates}", "tracker=none"]
    together = seconds_of(work / "together", "-m", f"seed=range({JOBS})", "jobs=2", *settings)
    alone = sum(seconds_of(work / "alone", f"seed={seed}", *settings) for seed in range(JOBS))
    return together, alone


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of the children it has waited for (Linux; see proc(5))."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def start(work: Path, tracker: str) -> tuple[float, float, float]:
    """Seconds to the first row of metrics.jsonl, CPU seconds till then, seconds to the second row."""
    folder = work / "start"
    shutil.rmtree(folder, ignore_errors=True)
    rows = folder / "ratio/a/seed=0/metrics.jsonl"
    began = time.perf_counter()
    process = command(folder, f"tracker={tracker}", "ppo.updates=1")
    times: list[tuple[float, float]] = []
    while len(times) < 2 and process.poll() is None:
        if rows.exists() and rows.read_bytes().count(b"\n") > len(times):
            times.append((time.perf_counter() - began, cpu_seconds(process.pid)))
        time.sleep(POLL_SECONDS)
    finish(process)
    (first, cpu), (second, _) = times
    return first, cpu, second


def told(times: Sequence[float]) -> str:
    first, cpu, second = times
    return f"first row after {first:.1f} s ({cpu:.1f} s of CPU), end of the first update after {second:.1f} s"


def load() -> str:
    return f"load average {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="of the ratio")
    parser.add_argument("--starts", type=int, default=5, help="of the start, for each tracker")
    parser.add_argument("--updates", type=int, default=20, help="of each job")
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="ratio-"))
    seconds_of(work / "warm", "ppo.updates=1", "tracker=none")
    starts: dict[str, list[tuple[float, float, float]]] = {"none": [], "wandb": []}
    for _ in range(arguments.starts):
        for tracker, found in starts.items():
            found.append(start(work, tracker))
            print(f"start, tracker={tracker}: {told(found[-1])}; {load()}", flush=True)
    ratios = []
    for _ in range(arguments.repetitions):
        together, alone = ratio(work, arguments.updates)
        ratios.append(together / alone)
        print(f"{JOBS} jobs: {together:.1f} s two at a time, {alone:.1f} s alone, ratio {ratios[-1]:.2f}; {load()}", flush=True)
    for tracker, found in starts.items():
        if found:
            print(f"median start, tracker={tracker}: {told([median(column) for column in zip(*found, strict=True)])}")
    if ratios:
        print(f"median ratio {median(ratios):.2f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
