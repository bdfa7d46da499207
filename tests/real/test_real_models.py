"""Any causal LM from settings alone: the whole short run for four families, and the models and tokenizers that are refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from ablate.models import load_policy, load_scorer
from ablate.session import execute
from ablate.store import read_rows, run_folder

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama", "qwen"])
def test_a_whole_short_run_of_each_family_from_settings_alone(family, family_folders, dialogues, short_config):
    """… and resuming from a checkpoint (tied weights come back) gives the same bits as going through."""
    config = short_config("data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={family_folders[family]}")
    summary = execute(config)
    assert (summary["status"], summary["updates"], summary["collapsed"]) == ("completed", 2, None)
    rows = read_rows(run_folder(config) / "metrics.jsonl")
    assert [row["update"] for row in rows] == [0, 1, 2]
    assert all("eval/gold" not in row and "eval/harmful/proxy" in row for row in rows)
    folder = run_folder(config) / "checkpoints"
    policy, critic = load_policy(folder / "2/policy", CPU), load_scorer(folder / "2/critic", CPU)
    assert (policy.get_output_embeddings().weight is policy.get_input_embeddings().weight) == policy.config.tie_word_embeddings
    for name, model in (("policy", policy), ("critic", critic)):
        before = dict((load_policy if name == "policy" else load_scorer)(folder / "1" / name, CPU).named_parameters())
        assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters()), name
    report = json.loads((run_folder(config) / "preferences/report.json").read_text())
    assert report["rows"] == 120 and report["malformed"] == 0 and report["too_long"] == 0
    import shutil

    through = load_file(folder / "2/policy/model.safetensors")
    shutil.rmtree(folder / "2")
    (run_folder(config) / "summary.json").unlink()
    execute(config)
    again = load_file(folder / "2/policy/model.safetensors")
    assert through.keys() == again.keys() and all(torch.equal(through[key], again[key]) for key in through)
