"""A run with LoRA: what its checkpoints hold, that it resumes to the same bits, and what a fork of it may change."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from processes import run
from safetensors.torch import load_file

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.fork import forked
from ablate.session import execute

pytest.importorskip("peft")
LORA = ("model.lora_rank=4", "ppo.learning_rate=1e-2", "checkpoint.keep=0")


@pytest.fixture(scope="module", params=["reward", "sft"])
def unbroken(request, make_config, tmp_path_factory) -> Config:
    config = make_config(tmp_path_factory.mktemp("lora"), *LORA, f"ppo.critic_init={request.param}")
    execute(config)
    return config


def test_a_run_killed_in_an_update_ends_with_the_bits_of_one_never_stopped(unbroken, make_config, tmp_path, same_numbers):
    config = make_config(tmp_path, *LORA, f"ppo.critic_init={unbroken.ppo.critic_init}")
    assert run(config, "apply_gradients", 2 + 4 * 2 + 2) == -signal.SIGKILL
    assert run(config) == 0
    same_numbers(run_folder(config), run_folder(unbroken))


def test_a_checkpoint_holds_adapters_the_critics_head_and_nothing_of_the_weights_beneath(unbroken):
    folder = run_folder(unbroken) / "checkpoints/6"
    assert {path.name for path in folder.rglob("*.safetensors")} == {"adapter_model.safetensors", "optimizer.safetensors"}
    files = (folder / role / "adapter_model.safetensors" for role in ("policy", "critic"))
    others = {name for file in files for name in load_file(file) if "lora_" not in name}
    assert others == {"base_model.model.score.weight"}


def test_the_policy_starts_as_sft_and_moves(unbroken):
    kl = [row["monitor/kl_to_sft"] for row in read_rows(run_folder(unbroken) / "metrics.jsonl") if "monitor/kl_to_sft" in row]
    assert abs(kl[0]) < 1e-6 and kl[-1] > 1e-3


def branch(folder: Path, unbroken: Config, *overrides: str) -> Config:
    given = [f"fork={run_folder(unbroken) / 'checkpoints/4'}", f"results={folder}", "tracker=none", "arm=branch", *overrides]
    return forked(OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(given))), given)


def test_a_fork_goes_on_from_the_adapters_and_may_not_change_them(unbroken, tmp_path):
    config = branch(tmp_path, unbroken, "ppo.learning_rate=0.0", "ppo.critic_learning_rate=0.0")
    execute(config)
    for role in ("policy", "critic"):
        start, end = (
            load_file(run_folder(c) / "checkpoints" / n / role / "adapter_model.safetensors") for c, n in ((unbroken, "4"), (config, "6"))
        )
        assert all((start[name] == end[name]).all() for name in start)
    with pytest.raises(UserError, match=r"model.lora_rank=8 does not fit the weights of fork=.*: leave it out"):
        branch(tmp_path, unbroken, "model.lora_rank=8")
