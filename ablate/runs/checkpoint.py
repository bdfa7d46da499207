"""Checkpoints: what a run needs to go on as if it had never stopped.

That is weights, optimiser, moments of the reward, KL controller, collapse detector and position. Random generators have no state to
keep, since `ablate.system.seeding` makes each from the update's number. Only safetensors and JSON are written; JSON keeps Python
floats exactly.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ablate.config import Config
from ablate.errors import UserError
from ablate.models.load import load_policy, load_scorer
from ablate.models.lora import add_adapter, restore_adapter
from ablate.ppo.collapse import CollapseDetector
from ablate.ppo.models import Models
from ablate.ppo.types import RunningMoments, ShapingState
from ablate.system.distributed import is_main, raise_on_all_ranks
from ablate.system.files import atomic_folder
from ablate.system.seeding import torch_generator
from ablate.system.sharding import full_state_dict, full_tensors, sharded_as

REFERENCE, HISTORY = "reference", "earlier_policies.safetensors"


@dataclass
class TrainState:
    """The state of a run after `update` updates, beside its weights and its optimiser."""

    update: int
    shaping: ShapingState
    watch: CollapseDetector
    wall_seconds: float = 0.0
    responses: int = 0
    update_seconds: float = 0.0
    judged: dict[str, float] = field(default_factory=dict)  # every monitor of the last evaluation

    def advance(self, update: int, shaping: ShapingState, responses: int, seconds: float) -> None:
        """Take an update as done: `responses` were sampled, in `seconds` without evaluation."""
        self.update, self.shaping = update, shaping
        self.responses += responses
        self.update_seconds += seconds


def save(
    folder: Path,
    models: Models,
    optimizer: torch.optim.Optimizer,
    history: list[list[torch.Tensor]],
    progress: TrainState,
    offsets: dict[str, int],
    config_hash: str,
) -> None:
    """Write the checkpoint `folder` atomically. Policy and critic are ordinary Hugging Face folders in it.

    With LoRA they are adapter folders in peft's form, since the base weights are those of SFT and of the critic's start. Of several
    processes the main one writes, after sharded tensors have been gathered, so that any number of processes can go on from it.
    A reference that moves is a folder beside them, and the policies of earlier updates, for a stale sampler, are one file.
    offsets: the size in bytes of each JSONL file of the run folder. Raises UserError.
    """
    weights = [full_state_dict(model) for model in models.trained]
    tensors = full_tensors(optimizer_tensors(optimizer))
    with raise_on_all_ranks():
        if is_main():
            write(folder, models, weights, tensors, history, {"progress": asdict(progress), "offsets": offsets, "config_hash": config_hash})


def write(
    folder: Path,
    models: Models,
    weights: list[dict | None],
    tensors: dict[str, torch.Tensor],
    history: list[list[torch.Tensor]],
    state: dict,
) -> None:
    """Write the files of a checkpoint.

    What a run that was killed while it wrote a checkpoint has left is removed first, whichever update it was of.
    weights: state dicts of policy and critic; null where a model is not sharded. tensors: of the optimiser, by flat name.
    Raises UserError.
    """
    for abandoned in folder.parent.glob(".*.partial"):
        shutil.rmtree(abandoned, ignore_errors=True)
    try:
        with atomic_folder(folder, replace=True) as partial:
            models.policy.save_pretrained(partial / "policy", state_dict=weights[0])
            models.tokenizer.save_pretrained(partial / "policy")
            if models.critic is not None:
                models.critic.save_pretrained(partial / "critic", state_dict=weights[1])
            save_file(tensors, partial / "optimizer.safetensors")
            if models.moved_from is not None:
                models.reference.save_pretrained(partial / REFERENCE)
            if history:
                flat = {f"{age}.{index}": tensor for age, weights in enumerate(history) for index, tensor in enumerate(weights)}
                save_file(flat, partial / HISTORY)
            (partial / "state.json").write_text(json.dumps(state))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write the checkpoint {folder} ({error}): free space or set results=<folder>") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Adam's state by flat name, `<parameter>.<entry>`, with parameters counted over all groups. Each has its parameter's shape, or []."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor.contiguous() for index, entries in state.items() for name, tensor in entries.items()}


def read_state(folder: Path) -> dict:
    """Read state.json of a checkpoint. Raises UserError if `folder` does not exist or is not a checkpoint."""
    try:
        state = json.loads((folder / "state.json").read_text())
        return state if {"progress", "offsets"} <= state.keys() else damaged(folder, "state.json is incomplete")
    except OSError as error:
        raise UserError(f"{folder} is not a checkpoint (no state.json): name a folder results/…/checkpoints/<update>") from error
    except (ValueError, AttributeError):
        return damaged(folder, "state.json is not readable")


def damaged(folder: Path, reason: str) -> NoReturn:
    """Refuse a checkpoint that cannot be used. Raises UserError."""
    raise UserError(f"the checkpoint {folder} is corrupt ({reason}): remove it to go on from the one before")


def progress_from(folder: Path, state: dict) -> TrainState:
    """The TrainState in `state`, which `read_state` has read from the checkpoint `folder`. Raises UserError."""
    try:
        entry = state["progress"]
        known = entry["shaping"]
        extremes = tuple(known.get("extremes", ()))
        coefs = {"kl_coef": known["kl_coef"], "entropy_coef": known.get("entropy_coef", 0.0)}
        shaping = ShapingState(moments=RunningMoments(**known["moments"]), **coefs, extremes=extremes)
        return TrainState(**{**entry, "shaping": shaping, "watch": CollapseDetector(**entry["watch"])})
    except (KeyError, TypeError):
        return damaged(folder, "state.json is incomplete")


def load_weights(folder: Path, device: torch.device, has_critic: bool = True) -> tuple:
    """(policy, critic) of a checkpoint; the critic is null where the run has none. Raises UserError."""
    models: list[PreTrainedModel | None] = []
    for name, load in (("policy", load_policy), ("critic", load_scorer))[: 1 + has_critic]:
        try:
            models.append(load(folder / name, device))
        except UserError:
            damaged(folder, f"its {name} does not load")
    return (*models, None)[:2]


def load_adapted(folder: Path | None, reference: PreTrainedModel, trunk: PreTrainedModel | None, config: Config) -> tuple:
    """(policy, critic) as LoRA adapters over `reference` and over the scorer `trunk`, or without a critic where that is null.

    folder: the checkpoint that holds the adapters' weights; null for new adapters. Raises UserError.
    """
    policy = add_adapter(reference, config.model, torch_generator(config.seed, "policy adapter"))
    critic = None
    if trunk is not None:
        critic = add_adapter(trunk, config.model, torch_generator(config.seed, "critic adapter"), head="score")
    if folder is not None:
        restore_adapter(policy, folder / "policy")
        if critic is not None:
            restore_adapter(critic, folder / "critic")
    return policy, critic


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Restore Adam's moments and step counts; learning rates and ε stay those of the settings. Raises UserError."""
    path = folder / "optimizer.safetensors"
    try:
        tensors = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        damaged(folder, f"optimizer.safetensors: {error}")
    full = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = sharded_as(tensor, parameters[int(index)])
    optimizer.load_state_dict({"state": state, "param_groups": full["param_groups"]})


def moved_reference(folder: Path) -> Path | None:
    """The folder of a checkpoint's moving reference, or None where the run that wrote it had none."""
    return folder / REFERENCE if (folder / REFERENCE).is_dir() else None


def load_history(folder: Path, policy: PreTrainedModel, staleness: int) -> list[list[torch.Tensor]]:
    """The weights of the last `staleness` policies before the checkpoint, the oldest first, as far as it holds them. Raises UserError."""
    path, shapes = folder / HISTORY, [parameter.shape for parameter in policy.parameters()]
    if not staleness or not path.is_file():
        return []
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        damaged(folder, f"{HISTORY}: {error}")
    history = [[tensors.get(f"{age}.{index}") for index in range(len(shapes))] for age in range(len(tensors) // len(shapes))]
    weights = [[tensor for tensor in entry if tensor is not None] for entry in history]
    if any([tensor.shape for tensor in entry] != shapes for entry in weights):
        damaged(folder, f"{HISTORY} has other weights than the policy")
    return weights[-staleness:]
