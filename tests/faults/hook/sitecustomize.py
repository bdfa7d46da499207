"""Ends the processes of a sweep at named moments, from inside. Python imports this file at start, from PYTHONPATH.

The variable FAULTS names a folder, through which the fault script and the processes talk:

    phases/<pid>       the phase that a stage builder or a job is in; it stays behind when the process is killed
    orders/<n>.json    {"phase": "checkpoint", "call": "fsync", "count": 3, "side": "before"}: the first process that is about
                       to make (or has just made) its third fsync while it writes checkpoints is killed there
    orders/<n>.landed  that it happened: the pid

Only children of the launcher's forkserver are touched, just after their fork; the product knows nothing of this.
"""

import functools
import json
import os
import signal
import sys
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path

PHASES = [  # phase, and a function that is in it from its call to its return
    ("stage build", "ablate.pipeline.cache", "build_entry"),
    ("critic pre-training", "ablate.trainer", "Trainer.pretrain_critic"),
    ("rollout", "ablate.trainer", "generate_responses"),
    ("rollout", "ablate.trainer", "score_responses"),
    ("update", "ablate.trainer", "update"),
    ("evaluation", "ablate.trainer", "evaluate"),
    ("checkpoint", "ablate.trainer", "Trainer.checkpoint"),
    ("summary", "ablate.runs.store", "RunStore.finish"),
]
CALLS = {
    "gradient step": ("torch.optim", "Adam.step"),
    "sample": ("ablate.ppo.rollout", "sample"),
    "join": ("ablate.ppo.rollout", "concat_prompt_response"),  # what score_responses() begins with
    "save_file": ("ablate.runs.checkpoint", "save_file"),
    "rmtree": ("shutil", "rmtree"),
    "fsync": ("os", "fsync"),
    "replace": ("os", "replace"),
}
NOT_ARMED = 70  # exit status where one of these names is no longer in the product
WIDTH = 32  # bytes of a phase's name, padded, so that one write replaces another


class Victim:
    """What a process under fire knows of itself."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.phase = "loading"
        self.counts: Counter = Counter()
        self.file = os.open(folder / "phases" / str(os.getpid()), os.O_WRONLY | os.O_CREAT)
        self.enter("loading")
        self.orders = {path: json.loads(path.read_text()) for path in sorted((folder / "orders").glob("*.json"))}

    def enter(self, phase: str) -> None:
        self.phase = phase
        os.pwrite(self.file, phase.encode().ljust(WIDTH), 0)

    def during(self, phase: str, function):
        @functools.wraps(function)
        def wrapped(*arguments, **named):
            before = self.phase
            self.enter(phase)
            try:
                return function(*arguments, **named)
            finally:
                self.enter("between" if before == "loading" else before)

        return wrapped

    def watched(self, call: str, function):
        @functools.wraps(function)
        def wrapped(*arguments, **named):
            self.counts[self.phase, call] += 1
            self.obey(call, "before")
            result = function(*arguments, **named)
            self.obey(call, "after")
            return result

        return wrapped

    def obey(self, call: str, side: str) -> None:
        """Die if an order says so that no other process has carried out."""
        now = {"phase": self.phase, "call": call, "count": self.counts[self.phase, call], "side": side}
        for path, order in self.orders.items():
            if order == now:
                try:
                    landed = os.open(path.with_suffix(".landed"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                except FileExistsError:
                    continue
                os.write(landed, str(os.getpid()).encode())
                os.kill(os.getpid(), signal.SIGKILL)


def replace(module: str, path: str, wrap) -> None:
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, import_module(module))
    setattr(owner, name, wrap(getattr(owner, name)))


def arm() -> None:
    """In a child of the forkserver, which has imported everything already: put a watch on each phase and call."""
    if "ablate.session" not in sys.modules:
        return
    try:
        victim = Victim(Path(os.environ["FAULTS"]))
        for phase, module, path in PHASES:
            replace(module, path, functools.partial(victim.during, phase))
        for call, (module, path) in CALLS.items():
            replace(module, path, functools.partial(victim.watched, call))
    except BaseException:  # Python passes over any exception of a function that it calls after a fork
        traceback.print_exc()
        os._exit(NOT_ARMED)


if "FAULTS" in os.environ:
    os.register_at_fork(after_in_child=arm)
