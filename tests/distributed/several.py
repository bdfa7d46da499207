"""A run in several processes, as a launcher starts them: torch's environment variables, gloo, one log for all."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ablate.session", "ablate.distributed", "transformers.models.llama.modeling_llama"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def work(config, rank: int, environment: dict[str, str], log: Path) -> None:
    """One of the processes. What a command line does with its errors, `ablate.run` does here."""
    import torch

    from ablate.distributed import joined
    from ablate.errors import UserError
    from ablate.session import execute

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    with joined():
        try:
            execute(config)
        except UserError as error:
            sys.exit(f"error: {error}")


def start(config, processes: int = 2, sharded: bool = False) -> list:
    """Started processes that share the run of `config`; what they say is in output.log in its results."""
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_FSDP": str(sharded).lower(),
    }  # fmt: skip
    started = [CONTEXT.Process(target=work, args=(config, rank, environment, folder / "output.log")) for rank in range(processes)]
    for process in started:
        process.start()
    return started


def end(started: list, seconds: float = 120) -> list[int | None]:
    """Exit codes, by rank; null where a process is still there after so many seconds."""
    for process in started:
        process.join(seconds)
    return [process.exitcode for process in started]


def run(config, processes: int = 2, sharded: bool = False) -> list[int | None]:
    return end(start(config, processes, sharded))


def said(config) -> str:
    return (Path(config.results) / "output.log").read_text()
