"""A sweep under fire: the command a user types, its processes, and what can be done to them from outside."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ablate

HERE = Path(__file__).resolve().parent
ROOT = Path(ablate.__file__).resolve().parents[1]
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 900.0  # without an end or the progress waited for; a machine shared with others can be slow

# Three arms × four seeds. What has state of its own is in play: the KL controller, history moments, Adam over two epochs, warm-up.
SWEEP = [
    "ppo.kl_estimator=k1,k3,full", "seed=range(4)", "study=faults", "jobs=2", "tracker=none", "device=cpu",
    "model.hidden_size=16", "model.layers=1", "model.heads=2", "model.intermediate_size=32",
    "pretrain.examples=200", "pretrain.steps=60", "pretrain.batch_size=8", "sft.examples=200", "sft.steps=60", "sft.batch_size=8",
    "preferences.pairs=48", "preferences.held_out_pairs=16", "reward_model.steps=40", "reward_model.batch_size=8",
    "ppo.kl_adaptive=true", "ppo.kl_horizon=50", "ppo.warmup_ratio=0.5", "ppo.epochs=2", "ppo.critic_pretrain_updates=1",
    "ppo.updates=6", "ppo.batch_size=16", "ppo.minibatch_size=8", "ppo.micro_batch_size=8", "sampling.max_new_tokens=10",
    "evaluation.every=3", "evaluation.prompts=8", "evaluation.samples=3", "checkpoint.every=2",
]  # fmt: skip
JOBS = 12


@dataclass(frozen=True)
class Place:
    """Where a sweep keeps its results and cache, and, if it is under fire, the folder through which its processes are told."""

    data: Path
    faults: Path | None = None

    @property
    def results(self) -> Path:
        return self.data / "results"

    @property
    def cache(self) -> Path:
        return self.data / "cache"

    def run_folders(self) -> list[Path]:
        return sorted(self.results.glob("*/*/seed=*"))

    def rows(self) -> int:
        """Rows of metrics.jsonl over all runs: how far the sweep is."""
        return sum(path.read_bytes().count(b"\n") for path in self.results.glob("*/*/seed=*/metrics.jsonl"))


class Invocation:
    """The command, started once."""

    def __init__(self, place: Place, log: Path, file_limit: int | None = None):
        """file_limit: bytes that no file may exceed, in place of a disk that is full."""
        self.place, self.log = place, log
        paths = [str(ROOT)] + ([str(HERE / "hook")] if place.faults else [])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        if place.faults:
            environment["FAULTS"] = str(place.faults)
        command = [sys.executable, "-m", "ablate.run", "-m", *SWEEP, f"results={place.results}", f"cache={place.cache}"]
        limit = None if file_limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=out, stderr=out, preexec_fn=limit)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> int:
        """Exit code, once nothing the command started is alive."""
        code = self.process.wait(PATIENCE_SECONDS)
        self.wait_for_children()
        return code

    def wait_for_children(self) -> float:
        """Wait until every process of this sweep is gone; seconds until the jobs were, for the forkserver takes its leave politely."""
        began, jobs = time.monotonic(), 0.0
        while left := self.alive():
            assert time.monotonic() - began < PATIENCE_SECONDS, f"processes outlive their launcher: {left}"
            if self.workers():
                jobs = time.monotonic() - began
            time.sleep(POLL_SECONDS)
        return jobs

    def alive(self) -> list[int]:
        """Every living process that carries this sweep's FAULTS variable: launcher, forkserver, jobs and what these started."""
        if self.place.faults is None:
            return []
        mark = f"FAULTS={self.place.faults}\0".encode()
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if mark in read_or_nothing(path)]

    def workers(self) -> dict[int, str]:
        """pid → phase of the living stage builders and jobs."""
        if self.place.faults is None:
            return {}
        alive = set(self.alive())
        return {int(path.name): phase_of(path) for path in (self.place.faults / "phases").iterdir() if int(path.name) in alive}

    def until(self, condition: Callable[[], object]) -> bool:
        """Wait for a condition; false if the command ended first."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.running:
            if condition():
                return True
            assert time.monotonic() < until, "the sweep made no progress"
            time.sleep(POLL_SECONDS)
        return False

    def kill_launcher(self) -> float:
        """SIGKILL for the launcher alone; seconds until the jobs and builders had died with it."""
        self.process.kill()
        self.process.wait()
        return self.wait_for_children()

    def kill_worker(self, draw: random.Random, phase: str | None = None) -> str | None:
        """SIGKILL for one of the workers, in the given phase if any; the phase in which it died, null where there was none."""
        workers = [pid for pid, now in sorted(self.workers().items()) if phase in (None, now)]
        if not workers:
            return None
        pid = draw.choice(workers)
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: pid not in self.alive())
        assert self.place.faults is not None
        return phase_of(self.place.faults / "phases" / str(pid))

    def kill_forkserver(self) -> list[str] | None:
        """SIGKILL for the process that the jobs are forked from; the phases they were in, null where there was none."""
        workers = self.workers()
        parents = {parent_of(pid) for pid in workers} - {None, 1, self.process.pid}
        for pid in parents:
            os.kill(pid, signal.SIGKILL)
        return sorted(set(workers.values())) if parents else None


def parent_of(pid: int) -> int | None:
    stat = read_or_nothing(Path(f"/proc/{pid}/stat")).decode()
    return int(stat.rpartition(")")[2].split()[1]) if stat else None


def read_or_nothing(path: Path) -> bytes:
    """A file of /proc, empty where its process has gone or is a zombie."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def phase_of(path: Path) -> str:
    return path.read_text().strip()


class Orders:
    """Kills from inside, asked for by phase and call; each stays open until it has landed."""

    def __init__(self, folder: Path):
        self.folder = folder / "orders"
        self.folder.mkdir(parents=True)
        (folder / "phases").mkdir()
        self.given: list[tuple[Path, dict]] = []

    def give(self, phase: str, call: str, count: int, side: str) -> None:
        order = {"phase": phase, "call": call, "count": count, "side": side}
        path = self.folder / f"{len(self.given)}.json"
        path.write_text(json.dumps(order))
        self.given.append((path, order))

    def landed(self) -> list[dict]:
        return [order for path, order in self.given if path.with_suffix(".landed").exists()]

    def open(self) -> list[dict]:
        return [order for path, order in self.given if not path.with_suffix(".landed").exists()]
