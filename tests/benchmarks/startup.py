"""From the command to its answer: help, a refused setting, and the end of the first update with cached stages.

    python tests/benchmarks/startup.py                              this checkout, medians of 5 runs each
    python tests/benchmarks/startup.py --runs 7 --against-commit HEAD~1   interleaved with another commit

`ppo=vanilla` has no critic pre-training; PPO-max does ten updates of it before its first. "the next run of a sweep" is counted from the
summary of the run before it, since a launcher with one slot starts it then; it shares the imports. CPU time is of the process, user
and system, until the moment. A run of each kind goes first and is not counted: it builds the stages, if the cache has none.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from bench import spread
from checkout import ROOT, checkout_of  # bench has put its folder on the path

RUN = ("ppo.updates=1000", "evaluation.every=1000", "checkpoint.every=0", "device=cpu", "results=results", "arm=a")
PATIENCE = 600  # seconds: the first run may have to build the stages
Measured = tuple[float, float | None]  # wall and CPU seconds


def begin(checkout: Path, folder: Path, arguments: Sequence[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    command = [sys.executable, "-m", "ablate.run", *arguments]
    said = (folder / "said.txt").open("wb")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


def until(holds: Callable[[], bool], process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"error: no first update:\n{(folder / 'said.txt').read_text()}")
        time.sleep(0.005)


def rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def to_the_end(checkout: Path, *arguments: str) -> Measured:
    """Of a command that answers and exits."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process = begin(checkout, Path(folder), arguments)
        _, _, used = os.wait4(process.pid, 0)
        return time.monotonic() - began, used.ru_utime + used.ru_stime


def to_first_update(checkout: Path, *arguments: str) -> Measured:
    """Of one run, until the row of update 1 is in its folder; then it is killed."""
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.monotonic()
        process = begin(checkout, folder, [*RUN, *arguments])
        until(lambda: rows(folder / "results/default/a/seed=0/metrics.jsonl") > 1, process, folder)
        wall = time.monotonic() - began
        os.killpg(process.pid, signal.SIGKILL)
        _, _, used = os.wait4(process.pid, 0)
        return wall, used.ru_utime + used.ru_stime


def next_of_a_sweep(checkout: Path, *arguments: str) -> Measured:
    """Of the second run of a sweep, from the end of the first; its CPU time is not known here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = begin(checkout, folder, ["-m", *RUN, *arguments, "ppo.updates=2", "jobs=1", "seed=0,1"])
        until((folder / "results/default/a/seed=0/summary.json").exists, process, folder)
        began = time.monotonic()
        until(lambda: rows(folder / "results/default/a/seed=1/metrics.jsonl") > 1, process, folder)
        wall = time.monotonic() - began
        process.wait(PATIENCE)
        return wall, None


KINDS: dict[str, tuple[Callable[..., Measured], tuple[str, ...]]] = {
    "--help": (to_the_end, ("--help",)),
    "a setting that is none": (to_the_end, ("ppo.update=3",)),
    "settings that contradict each other": (to_the_end, ("ppo.batch_size=100", "ppo.minibatch_size=32")),
    "first update, ppo=vanilla": (to_first_update, ("ppo=vanilla", "tracker=none")),
    "first update, ppo=vanilla, wandb": (to_first_update, ("ppo=vanilla", "tracker=wandb")),
    "first update, PPO-max": (to_first_update, ("tracker=none",)),
    "the next run of a sweep, ppo=vanilla": (next_of_a_sweep, ("ppo=vanilla", "tracker=none")),
    "the next run of a sweep, ppo=vanilla, wandb": (next_of_a_sweep, ("ppo=vanilla", "tracker=wandb")),
}


def figures(found: Sequence[Measured]) -> tuple[str, str]:
    """Wall and CPU seconds, median (least–greatest)."""
    cpu = [used for _, used in found if used is not None]
    return spread([wall for wall, _ in found], 2), spread(cpu, 2) if cpu else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against-commit", metavar="REV", help="measure this commit too")
    parser.add_argument("--only", default="", metavar="TEXT", help="the kinds whose name holds this")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a checkout is removed on this way out too
    with checkout_of(options.against_commit) if options.against_commit else nullcontext() as other:
        places = {"this tree": ROOT, **({options.against_commit: other} if other else {})}
        for kind, (measure, arguments) in KINDS.items():
            if options.only not in kind:
                continue
            found: dict[str, list[Measured]] = {name: [] for name in places}
            for number in range(options.runs + 1):
                for name, place in places.items():
                    taken = measure(place, *arguments)
                    if number:
                        found[name].append(taken)
            for name in places:
                wall, cpu = figures(found[name])
                print(f"{kind}, {name}: {wall} s" + (f", CPU {cpu} s" if cpu else ""), flush=True)
            if len(places) == 2:
                ratios = [one[0] / two[0] for one, two in zip(*found.values(), strict=True)]
                print(f"  wall time of this tree over the other: {median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
