"""A sweep of hundreds of runs, and the analysis of thousands: what they take beyond the runs' own work.

    python tests/benchmarks/scale.py sweep                        500 runs of the tiniest size, one at a time
    python tests/benchmarks/scale.py sweep --runs 500 --empty     500 runs that compute nothing: the launcher alone
    python tests/benchmarks/scale.py folders --to FOLDER          5,000 run folders, copied from results/reference
    python tests/benchmarks/scale.py analysis FOLDER              how long `load`, the verdicts and the report take on them

`sweep` prints what the launcher holds while the runs end (memory, open files, child processes; of the process that forks the runs too),
then wall and CPU seconds of the parts of a run. Its own work is critic pre-training, updates and evaluations, the `wall_seconds` of its
summary; beyond it are starting the process, settings, stages and models, the summary, and what the launcher does.
`folders` gives the copies seeds and arms of their own, and every copied arm a setting of its own; files that no record is read from are
linked. `analysis` runs each command in a process of its own, and prints wall and CPU seconds and the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from checkout import ROOT
from timed_run import TIMES

from ablate.runs.folder import config_of
from ablate.runs.numerics import numerics
from ablate.runs.store import config_text
from analysis.load.packed import REFERENCE, resolve

TINIEST = (
    "ppo=vanilla", "model.layers=1", "model.hidden_size=16", "model.heads=2", "model.intermediate_size=32", "pretrain.steps=5",
    "sft.steps=5", "preferences.pairs=200", "reward_model.steps=5", "ppo.updates=2", "ppo.batch_size=8", "ppo.minibatch_size=8",
    "ppo.micro_batch_size=8", "sampling.max_new_tokens=8", "evaluation.prompts=8", "evaluation.every=2", "tracker=none", "device=cpu",
    "results=results", "cache=cache",
)  # fmt: skip
EMPTY = ("hydra.launcher.task=stand_in.at_once", "hydra.launcher.prepare=null", "hydra.launcher.preload=[stand_in]", "tracker=none")
TIMED = ("hydra.launcher.task=timed_run.task",)
PARTS = ("from the fork to its first line", "to its first update: settings, stages, models", "its own work", "its summary")
EVENT = re.compile(r"\[(\d+)/\d+\] .* (running|completed)")
LINKED = ("scores.jsonl", "samples.jsonl", "reward_model/training.jsonl", "reward_model/pairs.csv")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Held:
    """What a process holds: resident memory in MB, open files, child processes; and its CPU seconds, own and of ended children."""

    memory: float
    files: int
    children: int
    cpu: float
    cpu_of_children: float


def held(pid: int) -> Held:
    """What the process holds now. Raises FileNotFoundError where there is none."""
    process = Path(f"/proc/{pid}")
    status = (process / "status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    times = (process / "stat").read_text().rpartition(")")[2].split()
    own, ended = (sum(map(int, times[start : start + 2])) / TICKS for start in (11, 13))
    return Held(int(resident[1]) / 1000 if resident else 0.0, len(list((process / "fd").iterdir())), len(children(pid)), own, ended)


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def forkserver(launcher: int) -> int | None:
    """The process that forks the runs: the child of the launcher whose command line names it."""
    return next((child for child in children(launcher) if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()), None)


def events(process: subprocess.Popen) -> Iterator[tuple[int, str, float]]:
    """(runs that have ended, `running` or how the run ended, seconds) of every line of the launcher that is about a run."""
    assert process.stdout is not None
    for line in process.stdout:
        found = EVENT.match(line)
        if found:
            yield int(found[1]), found[2], time.clock_gettime(time.CLOCK_BOOTTIME)


def sweep(runs: int, arms: int, jobs: int, empty: bool) -> None:
    """Run the sweep in a temporary folder and print what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        module = "stand_in" if empty else "ablate.run"
        coefficients = ",".join(f"{0.01 * (1 + index):.2f}" for index in range(arms))
        varied = [f"ppo.value_coef={coefficients}", f"seed=range({runs // arms})", f"jobs={jobs}"]
        command = [sys.executable, "-m", module, "-m", *(EMPTY if empty else TIMED), *TINIEST, *varied]
        places = os.pathsep.join(str(ROOT / place) for place in ("", "tests/sweeps", "tests/benchmarks"))
        environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        process = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)
        server, before, last, seen, since = None, [], 0.0, 0, 0.0
        print("| runs ended | launcher: MB | files | children | process that forks: MB | files | children | s per run |\n|" + "---|" * 8)
        for ended, event, last in events(process):
            if not before:
                server, first = forkserver(process.pid), last
                assert server is not None, "no process forks the runs"
                before = [held(process.pid), held(server)]
            if event == "running" and ended % max(1, runs // 10) == 0 and ended < runs:
                mine, its = held(process.pid), held(server)
                pace = (last - since) / (ended - seen) if ended > seen else float("nan")
                cells = (ended, *(value for one in (mine, its) for value in (f"{one.memory:.1f}", one.files, one.children)), f"{pace:.2f}")
                print("|", " | ".join(map(str, cells)), "|", flush=True)
                seen, since = ended, last
            if ended == runs:
                mine, its = held(process.pid), held(server)
        if process.wait():
            sys.exit("error: the sweep failed")
        end = time.clock_gettime(time.CLOCK_BOOTTIME)
        done = [path.parent for path in folder.glob("results/*/*/seed=*/summary.json")]
        assert len(done) == runs, f"{len(done)} of {runs} runs have a summary"
        print(f"before the first run {first - began:.1f} s (CPU of the launcher {before[0].cpu:.1f} s), after the last {end - last:.1f} s")
        launcher, forking, run_cpu = mine.cpu - before[0].cpu, its.cpu - before[1].cpu, its.cpu_of_children - before[1].cpu_of_children
        print(f"CPU per run: launcher {1000 * launcher / runs:.0f} ms, process that forks {1000 * forking / runs:.0f} ms, "
              f"the run {run_cpu / runs:.2f} s")  # fmt: skip
        wall = (last - first) * min(jobs, runs) / runs
        if empty:
            print(f"per run {wall:.2f} s")
        else:
            moments = np.array([json.loads((path / TIMES).read_text())["moments"] for path in done])
            print_parts(moments, wall, (launcher + forking + run_cpu) / runs)


def print_parts(moments: np.ndarray, wall: float, cpu: float) -> None:
    """Print the seconds that the parts of a run took: wall, the same without what the run waited for a core, CPU.

    moments (runs, parts + 1, 3): see `timed_run`. wall, cpu: seconds per run of the whole sweep. What is left of them beside the
    parts is between runs, and stands with its waits.
    """
    parts = np.diff(moments, axis=1)  # (runs, parts, 3)
    parts = np.stack([parts[..., 0], parts[..., 0] - parts[..., 1], parts[..., 2]], axis=-1)
    print("\n| of a run | wall s: median | most | without waiting for a core: median | most | CPU s: median | most |\n|" + "---|" * 7)
    for index, name in enumerate(PARTS):
        print("|", " | ".join([name, *(f"{value:.2f}" for kind in parts[:, index].T for value in (median(kind), max(kind)))]), "|")
    means, own = parts.mean(axis=0), PARTS.index("its own work")
    left = np.array([wall, wall, cpu]) - means.sum(axis=0)[[0, 0, 2]]
    for name, values in (
        ("its end, and the launcher (mean)", left),
        ("all beyond its own work (mean)", left + means.sum(axis=0) - means[own]),
    ):
        print(f"| {name} | " + " | | ".join(f"{value:.2f}" for value in values) + " | |")


def make_folders(runs: int, arms: int, to: Path) -> None:
    """Write a study of `runs` runs: arms × seeds, copied from the runs of the reference set, with records as today's code writes them."""
    originals: dict[str, list[Path]] = {}
    for path in sorted(resolve(REFERENCE).glob("add_one_in/*/seed=*")):
        originals.setdefault(path.parent.name, []).append(path)
    names, record = list(originals), numerics(threads=1)
    for number in range(arms):
        source, horizon = originals[names[number % len(names)]], 10_000.0 + number // len(names)
        arm = names[number % len(names)] + (f",kl_horizon={horizon:.0f}" if number >= len(names) else "")
        config = config_of(source[0])
        config.study, config.arm, config.ppo.kl_horizon = "many", arm, horizon  # which does nothing here, and tells arms apart
        config.seed = 987654321  # replaced in the text
        text = config_text(config, [record])
        for seed in range(runs // arms):
            settings = text.replace("seed: 987654321", f"seed: {seed}")
            copy_run(
                source[seed % len(source)], to / "many" / arm / f"seed={seed}", settings, {"arm": arm, "seed": seed, "numerics": record}
            )


def copy_run(source: Path, target: Path, settings: str, changes: dict) -> None:
    """A copy of a run folder with another config.yaml and changes in its summary; one that is there already stays."""
    if (target / "summary.json").exists():
        return
    (target / "reward_model").mkdir(parents=True, exist_ok=True)
    (target / "config.yaml").write_text(settings)
    for name in ("metrics.jsonl", "reward_model/report.json"):
        (target / name).write_bytes((source / name).read_bytes())
    for name in LINKED:
        (target / name).unlink(missing_ok=True)
        os.link(source / name, target / name)
    summary = json.loads((source / "summary.json").read_text()) | {"study": "many", **changes}
    (target / "summary.json").write_text(json.dumps(summary, indent=1))


COMMANDS = {
    "load": ["-c", "import sys; from analysis.load.frames import load; loaded = load(sys.argv[1]); print(loaded.curves.shape)"],
    "verdicts": ["-m", "analysis.verdicts"],
    "report": ["-m", "analysis.report", "--out", "report.html"],
}


def analyse(folder: Path, names: Sequence[str], times: int) -> None:
    """Print wall and CPU seconds and the peak of memory of each command on the runs in `folder`, medians over `times`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in names:
        taken = []
        for _ in range(times):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as place:
                command = [sys.executable, *COMMANDS[name], str(folder.resolve())]
                process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL)
                _, status, used = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"error: {name} failed")
            taken.append((time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000))
        wall, cpu, memory = (median(column) for column in zip(*taken, strict=True))
        print(f"{name}: {wall:.1f} s, CPU {cpu:.1f} s, peak {memory:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    sweeping, making, analysing = (commands.add_parser(name) for name in ("sweep", "folders", "analysis"))
    sweeping.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    sweeping.add_argument("--empty", action="store_true", help="runs that compute nothing")
    making.add_argument("--to", type=Path, required=True, help="where to write them, 1 GB per 5,000")
    analysing.add_argument("folder", type=Path)
    analysing.add_argument("--only", choices=COMMANDS, help="one of the commands")
    analysing.add_argument("--times", type=int, default=1)
    for command, runs, arms in ((sweeping, 500, 10), (making, 5000, 100)):
        command.add_argument("--runs", type=int, default=runs, help=f"default {runs}")
        command.add_argument("--arms", type=int, default=arms, help=f"arms that they are of (default {arms})")
    options = parser.parse_args()
    if options.what == "sweep":
        sweep(options.runs, options.arms, options.jobs, options.empty)
    elif options.what == "folders":
        make_folders(options.runs, options.arms, options.to)
    else:
        analyse(options.folder, [options.only] if options.only else list(COMMANDS), options.times)


if __name__ == "__main__":
    main()
