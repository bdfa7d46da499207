"""What the command imports, and when: seconds of start-up are imports. Structure only; `tests/benchmarks/startup.py` has the seconds."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.system.gc_pause import gc_paused

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "optuna", "wandb", "accelerate"}
NEVER_IN_A_RUN = {"pandas", "matplotlib", "optuna", "wandb"}
# The command, and at its end a line of JSON: which of HEAVY were imported, and what the collector did until a run could begin.
COMMAND = f"""
import atexit, gc, json, sys
passes = []
def ready(): return hasattr(sys.modules.get("ablate.session"), "execute")
def seen(phase, found):
    if phase == "start" and "torch" in sys.modules and not ready(): passes.append(found["generation"])
gc.callbacks.append(seen)
def told():
    heavy = sorted(sys.modules.keys() & {HEAVY!r})
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    server = getattr(server, "_forkserver_pid", None)
    print(json.dumps(dict(heavy=heavy, server=server, passes=passes, frozen=gc.get_freeze_count(), collecting=gc.isenabled())))
atexit.register(told)
from ablate.run import main
main()
"""


def told(code: str, *arguments: str, cwd: Path) -> tuple[int, dict]:
    """Exit status of a Python of its own, and the last line that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--help"], 0), (["ppo.update=3"], 1), (["ppo.batch_size=100", "ppo.minibatch_size=32"], 1), (["--cfg=job"], 0)],
    ids=["help", "no such setting", "contradictory settings", "settings shown"],
)
def test_what_is_answered_without_a_run_is_answered_without_the_imports_of_one(arguments, status, tmp_path):
    code, found = told(COMMAND, *arguments, cwd=tmp_path)
    assert (code, found["heavy"]) == (status, [])


def test_a_run_without_wandb_imports_nothing_of_it_and_collects_no_garbage_while_it_imports(stage_folders, tmp_path):
    paths = [f"{name}.path={path}" for name, path in stage_folders.items() if name != "pretrained"]
    run = (
        f"model.path={stage_folders['pretrained']}", *paths, "tracker=none", "device=cpu", "ppo=vanilla", "ppo.updates=1", "arm=a",
        "ppo.batch_size=8", "ppo.minibatch_size=8", "ppo.micro_batch_size=8", "sampling.max_new_tokens=4", "evaluation.prompts=4",
    )  # fmt: skip
    code, found = told(COMMAND, *run, cwd=tmp_path)
    assert code == 0 and "torch" in found["heavy"]
    assert NEVER_IN_A_RUN.isdisjoint(found["heavy"])
    assert (found["passes"], found["collecting"]) == ([], True)
    assert found["frozen"] > 100_000
    for again in (run, ("-m", *run)):
        code, found = told(COMMAND, *again, cwd=tmp_path)
        assert (code, found["heavy"], found["server"]) == (0, [], None), "a finished run and a finished sweep need no imports of a run"


def test_what_the_runs_of_a_sweep_share_is_there_and_not_looked_through_again(tmp_path):
    code = """
import gc, json, sys
import ablate.sweeps.preload
names = ("transformers.models.llama.modeling_llama", "hydra", "ablate.session", "ablate.sweeps.pool", "wandb", "ablate.run")
print(json.dumps(dict(there=[name in sys.modules for name in names], frozen=gc.get_freeze_count(), collecting=gc.isenabled())))
"""
    _, found = told(code, cwd=tmp_path)
    assert (found["there"], found["collecting"]) == ([True, True, True, True, False, False], True)
    assert found["frozen"] > 100_000


class Knot:
    """An object that only the collector can free."""

    def __init__(self):
        self.self = self


@pytest.mark.parametrize("collecting", [True, False])
def test_nothing_is_collected_meanwhile_and_the_collector_is_afterwards_as_it_was(collecting):
    passes = []
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    gc.callbacks.append(lambda phase, found: passes.append(phase))
    try:
        with pytest.raises(ValueError, match="on the way"), gc_paused():
            kept = [Knot() for _ in range(10_000)]
            assert passes == []
            raise ValueError("on the way")
        assert gc.isenabled() == collecting
        assert gc.get_freeze_count() > len(kept)
    finally:
        gc.callbacks.pop()
        gc.unfreeze()
        (gc.enable if before else gc.disable)()
