"""`make hh`, its commands one by one at a small size: from a file of people's dialogues to the page that shows the answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from families import hh_rows, write_lines

from ablate.runs.folder import read_rows

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.vocabulary=300", "data.held_out_share=0.3", "model.hidden_size=16", "model.layers=1", "model.heads=2",
    "model.intermediate_size=16", "pretrain.steps=4", "sft.steps=4", "reward_model.steps=4", "ppo.updates=4", "ppo.batch_size=8",
    "ppo.minibatch_size=8", "sampling.max_new_tokens=6", "evaluation.every=1", "evaluation.prompts=8", "tracker=none", "device=cpu",
)  # fmt: skip


def recipe(folder: Path, data: Path) -> list[list[str]]:
    """The commands of the Makefile's target `hh`, as make prints them, with small settings and the folder's own results and cache."""
    make = ["make", "--dry-run", "hh", f"HH={data}", "--assume-old=.venv/installed", f"BIN={Path(sys.executable).parent}"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # fmt: skip
    commands = []
    for line in printed.splitlines():
        words = line.replace("results/", f"{folder}/results/").replace("'", "").split()
        if words[1:3] in (["-m", "ablate.stages"], ["-m", "ablate.run"]):
            words += [*SMALL, f"results={folder}/results", f"cache={folder}/cache"]
        if words[1:2] == ["-m"]:
            commands.append(words)
    return commands


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True], ids=["made up", "HH-RLHF"])
def test_the_recipe_of_make_hh_ends_in_a_page_with_the_texts(tmp_path, real):
    data = os.environ.get("HH_RLHF") if real else write_lines(tmp_path / "data.jsonl", hh_rows(120))
    if data is None:
        pytest.skip("HH_RLHF names no file")
    commands = recipe(tmp_path, Path(data))
    assert [words[2] for words in commands] == ["ablate.stages", "ablate.run", "analysis.verdicts", "analysis.report"]
    output = ""
    for words in commands:
        done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "HH_RLHF": str(data)},
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        output += done.stdout
    summaries = sorted((tmp_path / "results/hh").glob("*/seed=*/summary.json"))
    assert len(summaries) == 9
    for path in summaries:
        summary = json.loads(path.read_text())
        assert summary["status"] == "completed" and summary["collapsed"] in (False, True) and "eval/win" in summary["final"]
    page = (tmp_path / "results/hh/report.html").read_text()
    (shown,) = (json.loads(text) for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S))
    rows = read_rows(summaries[0].parent / "samples.jsonl")
    assert {row["prompt"] for row in rows} <= set(shown["texts"]["prompts"])
    assert {row["response"] for row in rows} <= set(shown["texts"]["strings"])
    assert "reward_model" in output and "vanilla" in output
