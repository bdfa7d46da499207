"""The memory that is predicted for a run against what its updates take on a GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ablate.memory.estimate import Run, estimate
from ablate.memory.shapes import Shape

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from memory_peaks import measured

MIDDLE = Shape("llama", 8192, 512, 8, 8, 8, 1536)  # 34 M parameters
PLAIN = Run(MIDDLE, MIDDLE, prompt=64, response=128, batch=32, minibatch=16, micro=8)
CASES = {
    "plain": PLAIN,
    "checkpointing": replace(PLAIN, micro=16, checkpointing=True),
    "LoRA": replace(PLAIN, micro=16, lora_rank=8),
    "frozen bf16": replace(PLAIN, frozen="bf16"),
    "bf16": replace(PLAIN, precision="bf16"),
}


@pytest.mark.gpu
@pytest.mark.parametrize("run", CASES.values(), ids=CASES)
def test_the_peaks_on_a_gpu_are_predicted_within_15_percent(run):
    if run.lora_rank:
        pytest.importorskip("peft")
    predicted = estimate(run)
    ratios = {phase: predicted.peak(phase) / peak for phase, peak in measured(run, torch.device("cuda")).items()}
    assert ratios == pytest.approx({"rollout": 1, "measure": 1, "update": 1}, abs=0.15)
