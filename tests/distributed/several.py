"""A run in several processes, as a launcher starts them: torch's environment variables, gloo, one log for all."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ablate.session", "ablate.system.processes", "transformers.models.llama.modeling_llama"])


@dataclass(frozen=True)
class Cue:
    """What happens to one of the processes: a signal at the `count`-th call of a function, or no file may be longer than `limit` bytes."""

    rank: int = 0
    function: str | None = None
    count: int = 1
    number: int = signal.SIGTERM
    limit: int | None = None

    def give(self) -> None:
        if self.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))
        if self.function is None:
            return
        left = self.count

        def look(frame: FrameType, event: str, argument: object) -> None:
            nonlocal left
            if event == "call" and frame.f_code.co_name == self.function:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), self.number)

        sys.setprofile(look)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def work(config, rank: int, environment: dict[str, str], cue: Cue | None, log: Path) -> None:
    """One of the processes. What a command line does with its errors, `ablate.run` does here."""
    import torch

    from ablate.errors import UserError
    from ablate.session import execute
    from ablate.system.processes import joined

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    if cue is not None and cue.rank == rank:
        cue.give()
    with joined() if environment["WORLD_SIZE"] != "1" else nullcontext():
        try:
            execute(config)
        except UserError as error:
            sys.exit(f"error: {error}")


def environment(processes: int, sharded: bool) -> dict[str, str]:
    """What a launcher sets for all of them."""
    return {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_FSDP": str(sharded).lower(),
    }  # fmt: skip


def run(config, processes: int = 2, sharded: bool = False, cue: Cue | None = None, **settings: str) -> list[int | None]:
    """Exit codes of processes that share the run of `config`; what they say is in output.log in its results.

    settings: more of the environment, as accelerate sets it from its config.
    """
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    shared = environment(processes, sharded) | settings
    return end([CONTEXT.Process(target=work, args=(config, rank, shared, cue, folder / "output.log")) for rank in range(processes)])


def member(task: Callable[[int, Path], None], rank: int, environment: dict[str, str], log: Path) -> None:
    from ablate.system.processes import joined

    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    with joined():
        task(rank, log)


def together_do(task: Callable[[int, Path], None], processes: int, log: Path) -> list[int | None]:
    """Exit codes of processes that have joined and do task(rank, log)."""
    shared = environment(processes, False)
    return end([CONTEXT.Process(target=member, args=(task, rank, shared, log)) for rank in range(processes)])


def end(processes: list) -> list[int | None]:
    """Start processes; their exit codes, by rank, and null where one is still there after a minute."""
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def said(config) -> str:
    return (Path(config.results) / "output.log").read_text()
