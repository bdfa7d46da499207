"""Checkpoints: what a run needs to go on as if it had never stopped.

That is weights, optimiser, moments of the reward, KL controller, collapse detector, alarms and position. Random generators have no state to
keep, since `ablate.system.seeding` makes each from the update's number. Only safetensors and JSON are written; JSON keeps Python
floats exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel

from ablate.config import Config
from ablate.errors import UserError
from ablate.models.folder import read_shape
from ablate.models.load import load_policy, load_scorer
from ablate.models.lora import add_adapter, restore_adapter
from ablate.ppo.collapse import CollapseDetector
from ablate.ppo.models import Models
from ablate.ppo.types import ShapingState
from ablate.runs.alarms import AlarmWatch
from ablate.runs.folder import STREAMS, is_update
from ablate.settings.fields import cut
from ablate.system.distributed import is_main, raise_on_all_ranks
from ablate.system.files import atomic_folder, remove
from ablate.system.reading import check_plain, fits, read_object
from ablate.system.seeding import torch_generator
from ablate.system.sharding import full_state_dict, full_tensors, sharded_as

REFERENCE, HISTORY = "reference", "earlier_policies.safetensors"
SIGNED = ("mean", "limit", "kl_coef")  # numbers of a checkpoint's state that may be negative
STORED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}  # as safetensors names them


@dataclass
class TrainState:
    """The state of a run after `update` updates, beside its weights and its optimiser."""

    update: int
    shaping: ShapingState
    watch: CollapseDetector
    alarms: AlarmWatch = field(default_factory=AlarmWatch)
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
    try:
        for abandoned in folder.parent.glob(".*.partial"):
            remove(abandoned)
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


def read_state(folder: Path, last: int | None = None) -> dict:
    """Read state.json of a checkpoint, and check that it and every file beside it are plain files of the kinds that `write` makes.

    last: the run's last update. Raises UserError if `folder` does not exist or is not a checkpoint, or one of a later update than `last`.
    """
    try:
        state = read_object(folder / "state.json")
        for path in folder.rglob("*"):
            if not path.is_dir():
                check_plain(path.stat())
        if not fits(state.get("progress"), dict[str, Any]) or not fits(state.get("offsets"), dict[str, int]):
            raise ValueError("progress and offsets are not objects")
        expected = set(STREAMS) - {"tokens.jsonl"}  # which older versions did not write
        if not state["offsets"].keys() >= expected or min(state["offsets"].values()) < 0:
            raise ValueError("offsets are not the sizes of files")
        progress = built(TrainState, state["progress"])
        if is_update(folder.name) and progress.update != int(folder.name):
            raise ValueError(f"it is of update {progress.update}")
        if last is not None and progress.update > last:
            raise ValueError(f"it is of update {progress.update}, but the run ends at {last}")
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a checkpoint (no state.json): name a folder results/…/checkpoints/<update>") from error
    except OSError as error:
        return damaged(folder, str(error.strerror))
    except ValueError as error:
        return damaged(folder, f"state.json: {error}")
    return state


def built(kind: type, entry: object) -> Any:
    """A dataclass from its JSON. Raises ValueError for keys or types that are not its own, and for a number that cannot be.

    Every monitor in `judged` may be any number or null; other numbers are finite, and none but a mean, a limit and a coefficient negative.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{kind.__name__} is no object")
    values = {}
    for name, hint in get_type_hints(kind).items():
        if name not in entry:
            continue
        value = entry[name]
        if is_dataclass(hint):
            values[name] = built(cast(type, hint), value)
        elif get_origin(hint) is tuple:
            values[name] = items(get_args(hint)[0], name, value)
        elif not fits(value, dict[str, float | None] if name == "judged" else hint):
            raise ValueError(f"{name} is of another type")
        elif isinstance(value, int | float) and not (math.isfinite(value) and (value >= 0 or name in SIGNED)):
            raise ValueError(f"{name} is {value}")
        else:
            values[name] = value
    try:
        return kind(**{**dict.fromkeys(entry), **values})
    except TypeError as error:
        raise ValueError("it is incomplete, or of another version") from error


def items(kind: type, name: str, value: object) -> tuple:
    """A tuple of records or finite numbers from its JSON. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    if is_dataclass(kind):
        return tuple(built(kind, entry) for entry in value)
    if not all(fits(entry, kind) and math.isfinite(entry) for entry in value):
        raise ValueError(f"{name} is of another type")
    return tuple(value)


def damaged(folder: Path, reason: str) -> NoReturn:
    """Refuse a checkpoint that cannot be used. Raises UserError."""
    raise UserError(f"the checkpoint {folder} is corrupt ({reason}): remove it to go on from the one before")


def progress_from(folder: Path, state: dict) -> TrainState:
    """The TrainState in `state`, which `read_state` has read from the checkpoint `folder`. Raises UserError."""
    try:
        return built(TrainState, state["progress"])
    except ValueError as error:
        return damaged(folder, f"state.json: {error}")


def load_weights(folder: Path, device: torch.device, starts: Sequence[Path | None] = (None, None)) -> tuple:
    """(policy, critic) of a checkpoint; the critic is null where the run has none. Raises UserError.

    starts: the folders of the models that they were when the run began, of the policy alone where there is no critic. A model is not
    compared with a start that is null.
    """
    models: list[PreTrainedModel | None] = []
    for name, load, start in zip(("policy", "critic"), (load_policy, load_scorer), starts, strict=False):
        try:
            if start is not None:
                check_architecture(read_shape(folder / name), read_shape(start))
            models.append(load(folder / name, device))
        except (UserError, ValueError) as error:
            damaged(folder, f"its {name} does not load: {error}")
    return (*models, None)[:2]


def check_architecture(shape: PretrainedConfig, start: PretrainedConfig) -> None:
    """Raises ValueError where a model of a checkpoint is another kind of model than the one it was trained from, or of other sizes."""
    stored, expected = shape.to_dict(), start.to_dict()
    for name in ("model_type", *(name for name, value in expected.items() if type(value) is int and not name.endswith("_token_id"))):
        if stored.get(name) != expected[name]:
            raise ValueError(f"its {name} is {stored.get(name)}, not {expected[name]}")


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
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        check_optimizer(path, parameters)
        tensors = load_file(path, device=str(device))
        if any(name.endswith(".step") and not (tensor >= 0).logical_and(tensor.isfinite()) for name, tensor in tensors.items()):
            raise ValueError("a number of steps that cannot be")
    except (OSError, SafetensorError, ValueError) as error:
        damaged(folder, f"optimizer.safetensors: {error}")
    full = optimizer.state_dict()
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


def check_optimizer(path: Path, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Raises ValueError where the file's header names other tensors than Adam has for these parameters, or other shapes or types.

    Adam's fused step reads as many numbers as a parameter has, whatever its moments hold. A parameter without a gradient so far has none.
    """
    with safe_open(path, framework="pt") as file:
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in ((name, file.get_slice(name)) for name in file.keys())}
    expected = {}
    for index, parameter in enumerate(parameters):
        moment = (tuple(parameter.shape), STORED[parameter.dtype])
        own = {f"{index}.step": ((), "F32"), f"{index}.exp_avg": moment, f"{index}.exp_avg_sq": moment}
        if own.keys() & found.keys():
            expected |= own
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(f"the tensor {cut(name)} does not fit the weights")
