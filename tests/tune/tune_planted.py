"""A tuner whose runs are a known function of their settings, in real processes: what it finds can be checked.

gold = 2 − 4·(log10 kl_coef + 1)² − 0.2·(clip_range − 0.2)², which is highest at kl_coef 0.1 and hardly minds clip_range; KL is
1 / kl_coef. value_coef tells a run how to end.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import run_folder
from ablate.settings.identity import config_hash
from ablate.tune.__main__ import main

COLLAPSES, DIVERGES, DIES, REFUSES, UNJUDGED = 2.0, 3.0, 4.0, 5.0, 6.0


def gold(kl_coef: float, clip_range: float, seed: int = 0) -> float:
    return 2 - 4 * (math.log10(kl_coef) + 1) ** 2 - 0.2 * (clip_range - 0.2) ** 2 + 0.5 * seed


def task(config: Config) -> None:
    """Three evaluations on the way to the final gold, then a summary, or the end that `ppo.value_coef` asks for."""
    folder, fate = run_folder(config), config.ppo.value_coef
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    final = gold(config.ppo.kl_coef, config.ppo.clip_range, config.seed)
    rows = [{"update": update, "eval/gold": final * update / 15} for update in (5, 10, 15)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if fate == DIES and "HEALED" not in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == REFUSES:
        raise UserError("these settings go against the grain: change one")
    for name in ("HOLD", "HOLD_SECOND"):
        while name in os.environ and Path(os.environ[name]).exists() and (name == "HOLD" or config.arm == "trial=1"):
            time.sleep(0.02)
    judged = {} if fate == UNJUDGED else {"eval/gold": final}
    summary = {
        "status": "diverged" if fate == DIVERGES else "completed", "reason": "a loss is not finite" if fate == DIVERGES else "",
        "collapsed": fate == COLLAPSES, "collapse_update": 10 if fate == COLLAPSES else None, "config_hash": config_hash(config),
        "final": {**judged, "eval/kl_to_sft": 1 / config.ppo.kl_coef},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main(sys.argv[1:], task="tune_planted.task", prepare=None, preload=("ablate.tune",))
