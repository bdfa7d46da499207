"""Real processes for tests of runs: they start from one forkserver that has imported torch already, and can die on cue."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ablate.run", "ablate.pipeline.build", "wandb", "transformers.models.llama.modeling_llama"])
ROOT = Path(__file__).parents[2]


def on_call(function: str, count: int, number: int, times: int) -> None:
    """Send this process the signal `number` at the `count`-th call of a Python function of that name, and so on, `times` in all."""
    left = count

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event == "call" and frame.f_code.co_name == function:
            left -= 1
            if -times < left <= 0:
                os.kill(os.getpid(), number)

    sys.setprofile(look)


def work(config, function: str | None, count: int, number: int, times: int, log: Path) -> None:
    """A run, its output in `log`; it gets a signal on the way where a function is named."""
    from ablate.errors import UserError
    from ablate.session import execute

    os.environ.pop("WANDB_SERVICE", None)  # of a test that had started one before the forkserver copied this environment
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if function is not None:
        on_call(function, count, number, times)
    try:
        execute(config)
    except UserError as error:
        sys.exit(f"error: {error}")


def limited(config, size: int, log: Path) -> None:
    """A run that may write no file of more than `size` bytes: to its eyes the disk is full then."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    work(config, None, 0, 0, 0, log)


def start(config, function: str | None = None, count: int = 1, number: int = signal.SIGKILL, times: int = 1):
    """A started process that runs `config`."""
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    process = CONTEXT.Process(target=work, args=(config, function, count, number, times, folder / "output.log"))
    process.start()
    return process


def run(config, function: str | None = None, count: int = 1, number: int = signal.SIGKILL, times: int = 1) -> int:
    """Exit code of a run in a process of its own; negative where a signal ended it."""
    process = start(config, function, count, number, times)
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def command_line(*arguments: str, cwd: Path, meanwhile: Callable[[subprocess.Popen], None] | None = None, **environment: str):
    """`python -m ablate.run …` as a user types it, to its end; `meanwhile` is called on the running process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "ablate.run", *arguments]
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if meanwhile is not None:
            meanwhile(process)
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def wait_for(path: Path) -> None:
    """Until another process has made the file."""
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


def ask(cache: Path, key: str, seconds: float, out: Path) -> None:
    """Ask the cache for an entry whose building takes so long, and append to `out` who built it and where it is."""
    from ablate.pipeline.cache import cached

    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        time.sleep(seconds)
        (folder / "whole").write_text(str(os.getpid()))

    with out.with_name(f"{out.name}.said").open("ab") as said:
        os.dup2(said.fileno(), 2)
    entry = cached(cache, "sft", key, {"pipeline_seed": 7}, build)
    with out.open("a") as file:
        file.write(json.dumps({"entry": str(entry), "builder": (entry / "whole").read_text()}) + "\n")


def spawn(target, *arguments):
    """A started process."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process
