"""The measurement over runs and distances: which checkpoints, the rows of the CSV file, and the printed table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablate.errors import UserError
from ablate.export.origin import stage_folder
from ablate.gradients.compare import compare, grams
from ablate.gradients.estimators import EXACT, IN_LOSS, IN_REWARD, NAMES
from ablate.gradients.measure import gradients
from ablate.runs.folder import checkpoint_folder, checkpoints, config_of, read_rows
from ablate.system.progress import track

LARGEST = 4 * 2**30  # bytes of the gradients that are held at once


def rows(runs: Sequence[Path], distances: Sequence[float], batches: int, responses: int) -> list[dict]:
    """One row per run, distance, target, estimator and measure. Raises UserError."""
    found = []
    for run in runs:
        config, sft = config_of(run), stage_folder(run, "sft")
        if config.model.lora_rank:
            raise UserError(f"{run} trains adapters, whose gradient is another: name a run without model.lora_rank")
        for update in dict.fromkeys(nearest(run, distance) for distance in distances):
            drawn = gradients(config, checkpoint_folder(run, update), sft, batches, responses)
            held, kls = [], []
            for gradient, kl in track(drawn, batches, f"{run}, update {update}"):
                held.append(gradient)
                kls.append(kl)
                if gradient.nbytes * batches > LARGEST:
                    raise UserError(
                        f"the gradients of {batches} batches would take {gradient.nbytes * batches / 2**30:.0f} GiB: lower --batches"
                    )
            products, common = grams(np.stack(held)), {"run": str(run), "update": update, "kl": float(np.mean(kls))}
            for target in EXACT:
                for estimator in (*EXACT, *IN_LOSS, *IN_REWARD):
                    for measure, number in compare(products, NAMES.index(estimator), NAMES.index(target)).items():
                        found.append(common | {"target": target, "estimator": estimator, "measure": measure} | vars(number))
    return found


def nearest(run: Path, distance: float) -> int:
    """The checkpoint of a run whose logged KL to SFT is nearest to `distance`. Raises UserError where it has none."""
    kept = set(checkpoints(run))
    metrics = read_rows(run / "metrics.jsonl")
    logged = {
        row["update"] - 1: row["monitor/kl_to_sft"] for row in metrics if "monitor/kl_to_sft" in row
    }  # of the policy before the update
    logged |= {row["update"]: row["eval/kl_to_sft"] for row in metrics if "eval/kl_to_sft" in row}
    known = kept & logged.keys()
    if not known:
        raise UserError(f"{run} holds no checkpoint with a logged KL: run it with checkpoint.every=1 checkpoint.keep=0")
    return min(known, key=lambda update: (abs(logged[update] - distance), update))


def lines(found: list[dict]) -> list[str]:
    """The rows as a table: a line per run, distance, target and estimator."""
    header = f"{'target':<9} {'estimator':<12} {'cosine':>22} {'length':>22} {'along':>22}"
    shown, place = [], None
    cells: dict[tuple, dict[str, dict]] = {}
    for row in found:
        cells.setdefault((row["run"], row["update"], row["kl"], row["target"], row["estimator"]), {})[row["measure"]] = row
    for (run, update, kl, target, estimator), measures in cells.items():
        if (run, update) != place:
            place = run, update
            shown += ["", f"{run}, update {update}: KL to SFT {kl:.2f} nats per response", header]
        shown.append(f"{target:<9} {estimator:<12} " + " ".join(f"{cell(measures[name]):>22}" for name in ("cosine", "length", "along")))
    return shown[1:]


def cell(row: dict) -> str:
    """A number with its interval, or a dash."""
    return "–" if row["value"] is None else f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
