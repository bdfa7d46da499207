"""Whole runs on a GPU: complete, finite, near those on the CPU, and after a kill the same bits."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path

import pytest

from ablate.config import Config
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from processes import ROOT, command_line, run

# What has state of its own: history moments, Adam over two epochs, the KL controller, text for ptx.
STATEFUL = ("ppo.kl_adaptive=true", "ppo.epochs=2", "ppo.ptx=true", "ppo.learning_rate=1e-3")
STAGES = ("pretrain.steps=3", "sft.steps=3", "preferences.pairs=16", "preferences.held_out_pairs=16", "reward_model.steps=3")
SHAPE = ("model.layers=1", "model.hidden_size=32", "model.intermediate_size=64", "model.heads=2")
UNSET = ("model.path=null", "sft.path=null", "preferences.path=null", "reward_model.path=null")
OPTIONS = {
    "bf16": ("precision=bf16",),
    "frozen bf16": ("model.frozen_dtype=bf16",),
    "both in bf16": ("precision=bf16", "model.frozen_dtype=bf16"),
    "LoRA": ("model.lora_rank=4",),
    "checkpointing": ("model.gradient_checkpointing=true",),
    "no critic": ("ppo.advantage_estimator=grpo", "ppo.samples_per_prompt=4"),
    "own sampler": ("sampling.sampler_precision=int8",),
}
DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]


def rows_of(config: Config) -> list[dict]:
    """The rows of metrics.jsonl without what a clock says."""
    rows = read_rows(run_folder(config) / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "responses_per"))} for row in rows]


def check_whole(config: Config, rows: list[dict]) -> None:
    """A row before the first update and one per update, all numbers finite."""
    assert [row["update"] for row in rows] == list(range(config.ppo.updates + 1))
    unlike = {(row["update"], name) for row in rows for name, value in row.items() if value is None or not math.isfinite(value)}
    assert not unlike


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_whole_and_starts_as_the_one_on_the_cpu(tiny_config):
    """To a hundredth in the first update; later ones may draw another token where noise falls within rounding of a border."""
    found = {}
    for device in ("cpu", "cuda"):
        config = tiny_config(f"device={device}", f"arm={device}")
        assert execute(config)["status"] == "completed"
        found[device] = rows_of(config)
        check_whole(config, found[device])
    for ours, plain in zip(found["cuda"][:2], found["cpu"][:2], strict=True):
        assert ours == pytest.approx(plain, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_from_its_first_stage_on_is_whole(device, tiny_config):
    config = tiny_config(*UNSET, *STAGES, *SHAPE, f"device={device}")
    assert execute(config)["status"] == "completed"
    check_whole(config, rows_of(config))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_other_settings_run_and_start_at_sft(settings, device, tiny_config):
    """The KL of the first update's answers, sampled before any step of the policy: rounding to bfloat16 alone."""
    if "model.lora_rank=4" in settings:
        pytest.importorskip("peft")
    config = tiny_config(*settings, f"device={device}")
    assert execute(config)["status"] == "completed"
    rows = rows_of(config)
    check_whole(config, rows)
    assert abs(rows[1]["monitor/kl_to_sft"]) < 0.05
    assert abs(rows[1]["ppo/ratio_mean"] - 1) < 0.2


@pytest.mark.gpu
def test_on_a_gpu_resting_models_change_no_number(tiny_config):
    found = []
    for offload in ("false", "true"):
        config = tiny_config("device=cuda", f"offload={offload}", f"arm=offload_{offload}")
        assert execute(config)["status"] == "completed"
        found.append(rows_of(config))
    assert found[0] == found[1]


@pytest.mark.parametrize("device", DEVICES)
def test_a_killed_run_ends_with_the_bits_of_one_never_stopped(device, tiny_config):
    whole, killed = (tiny_config(f"device={device}", f"arm={arm}", "checkpoint.every=1", *STATEFUL) for arm in ("whole", "killed"))
    assert run(whole) == 0
    assert run(killed, "apply_gradients", 4 + 4 * 2 + 2) == -signal.SIGKILL  # of the critic alone, of two updates, within the third
    assert len(rows_of(killed)) == 3
    assert run(killed) == 0
    check_whole(whole, rows_of(whole))
    assert rows_of(killed) == rows_of(whole)
    weights = [(run_folder(config) / "checkpoints/4/policy/model.safetensors").read_bytes() for config in (whole, killed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("device", DEVICES)
def test_runs_of_a_sweep_share_the_device(device, tiny_overrides, tmp_path):
    """Processes forked from one that has imported torch: a GPU that it had touched would be of no use to them."""
    others = [text for text in tiny_overrides if not text.startswith(("device=", "arm="))]
    packages = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = command_line("-m", "seed=0,1", f"device={device}", "jobs=2", *others, cwd=tmp_path, PYTHONPATH=packages)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "results").rglob("summary.json"))) == 2
