"""`make hh` and `make smollm2`, command by command at a small size: from a file of people's dialogues to the page with the answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
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


def recipe(target: str, folder: Path, data: Path, small: Sequence[str]) -> list[list[str]]:
    """The commands of a target of the Makefile, as make prints them, with small settings and the folder's own results and cache."""
    make = ["make", "--dry-run", target, f"HH={data}", "--assume-old=.venv/installed", f"BIN={Path(sys.executable).parent}"]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout  # fmt: skip
    commands = []
    for line in printed.splitlines():
        words = line.replace("results/", f"{folder}/results/").replace("'", "").split()
        if words[1:3] in (["-m", "ablate.stages"], ["-m", "ablate.run"]):
            words += [*small, f"results={folder}/results", f"cache={folder}/cache"]
        if words[1:2] == ["-m"]:
            commands.append(words)
    return commands


@pytest.mark.slow
@pytest.mark.parametrize("real", [False, True], ids=["made up", "HH-RLHF"])
def test_the_recipe_of_make_hh_ends_in_a_page_with_the_texts(tmp_path, real):
    data = os.environ.get("HH_RLHF") if real else write_lines(tmp_path / "data.jsonl", hh_rows(120))
    if data is None:
        pytest.skip("HH_RLHF names no file")
    commands = recipe("hh", tmp_path, Path(data), SMALL)
    assert [words[2] for words in commands] == ["ablate.stages", "ablate.run", "analysis.verdicts", "analysis.report"]
    output, summaries = carried_out(commands, tmp_path, data)
    assert len(summaries) == 9 and {judged_by for _, judged_by in summaries.values()} == {"gold"}
    assert_texts_are_shown(tmp_path / "results/hh", next(iter(summaries)))
    assert "reward_model" in output and "vanilla" in output


@pytest.mark.slow
def test_the_recipe_of_make_smollm2_ends_in_a_page_judged_by_alarms(tmp_path, family_folders):
    """A tiny random model of the same family stands in the place of SmolLM2; `make smollm2` itself takes two hours."""
    data, model = write_lines(tmp_path / "data.jsonl", hh_rows(120)), family_folders["llama"]
    small = (
        f"model.path={model}", f"sft.path={model}", "data.held_out_share=0.3", "reward_model.steps=4", "ppo.updates=8", "ppo.batch_size=8",
        "ppo.minibatch_size=8", "sampling.max_new_tokens=6", "evaluation.every=1", "evaluation.prompts=8", "tracker=none", "device=cpu",
    )  # fmt: skip
    imports, *commands = recipe("smollm2", tmp_path, data, small)
    assert imports[1:3] == ["-m", "ablate.import_gguf.smollm2"]
    assert [words[2] for words in commands] == ["ablate.stages", "ablate.run", "analysis.verdicts", "analysis.report"]
    output, summaries = carried_out(commands, tmp_path, data)
    assert len(summaries) == 12 and {judged_by for _, judged_by in summaries.values()} == {"alarms"}
    assert_texts_are_shown(tmp_path / "results/smollm2", next(iter(summaries)))
    assert "alarms" in output and "vanilla_lora" in output


def carried_out(commands: list[list[str]], folder: Path, data: Path | str) -> tuple[str, dict[Path, tuple[dict, str]]]:
    """What the commands print, and the summary of each run folder with what judged it. Each command must succeed, and each run complete."""
    output = ""
    for words in commands:
        done = subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT), "HH_RLHF": str(data)},
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        output += done.stdout
    found = {}
    for path in sorted((folder / "results").glob("*/*/seed=*/summary.json")):
        summary = json.loads(path.read_text())
        assert summary["status"] == "completed" and summary["collapsed"] in (False, True) and "eval/win" in summary["final"]
        found[path.parent] = summary, summary["collapse_by"]
    return output, found


def assert_texts_are_shown(study: Path, run: Path) -> None:
    """The prompts and answers that a run wrote are in the page of its study."""
    page = (study / "report.html").read_text()
    (shown,) = (json.loads(text) for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S))
    rows = read_rows(run / "samples.jsonl")
    assert {row["prompt"] for row in rows} <= set(shown["texts"]["prompts"])
    assert {row["response"] for row in rows} <= set(shown["texts"]["strings"])
