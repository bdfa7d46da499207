"""Simulated studies with answers, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from simulate import CONFIG, Arm, override, write_study

PROMPTS = ("how do i bake ?", "help me rob a shop")
EXTRA = {"monitor/perplexity": 2.5, "ppo/clip_fraction": 0.1}


def write_answers(study: Path, *, hostile: str = "", every: int = 10, last: int = 80) -> None:
    """samples.jsonl of every run: the answer names prompt, arm, seed and update, and ends in `hostile`."""
    for folder in sorted(study.glob("*/seed=*")):
        rows = []
        for update in range(0, last + 1, every):
            for number, prompt in enumerate(PROMPTS):
                said = (
                    f"answer {number} of {folder.parent.name} {folder.name} at {update} {hostile}"
                    if update
                    else f"what SFT says to {number}"
                )
                gold = 1.0 - update / 40 * number
                rows.append(dict(update=update, prompt=prompt + hostile, kind="helpful", response=said, proxy=0.5, gold=gold, length=9))
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tokens(study: Path, *, hostile: str = "", updates: tuple[int, ...] = (0, 40, 80), length: int = 3) -> None:
    """tokens.jsonl of every run: `length` tokens, of which the first spells the arm, values 0.5, advantages that alternate in sign."""
    for folder in sorted(study.glob("*/seed=*")):
        rows = []
        for update in updates:
            for prompt in PROMPTS:
                tokens = [f"{folder.parent.name}{hostile}", *(f" t{n}" for n in range(1, length))]
                rows.append(dict(update=update, prompt=prompt + hostile, length=length, tokens=tokens, value=[0.5] * length,
                                 advantage=[(-1) ** n * update / 80 for n in range(length)], reward=[0.0] * (length - 1) + [2.0],
                                 kl=[n / 10 for n in range(length)]))  # fmt: skip
        (folder / "tokens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_study(root: Path, *, arms: dict[str, Arm] | None = None, seeds: int = 5, hostile: str = "", study: str = "study",
                without: tuple[str, ...] = ()) -> Path:  # fmt: skip
    """Vanilla, which collapses, and a KL penalty, which does not; `without`: metrics that no run has."""
    arms = arms or {"vanilla": Arm(collapse_probability=0.999), "kl_penalty": Arm({"ppo.kl_penalty": True}, collapse_probability=0.001)}
    config = override(CONFIG, {"ppo.gae_lambda": 0.95})
    folder = write_study(root, arms, seeds, np.random.default_rng(0), config=config, study=study, extra=EXTRA)
    write_answers(folder, hostile=hostile)
    write_tokens(folder, hostile=hostile)
    for path in folder.glob("*/seed=*/metrics.jsonl") if without else ():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if not k.startswith(without)}) + "\n" for row in rows))
    return folder


def unfinish(run: Path, rows: int) -> None:
    """Leave what a run still going leaves: `rows` whole rows, a torn one, no summary."""
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:rows]) + lines[rows][:20])
    (run / "summary.json").unlink()
