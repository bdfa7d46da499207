"""FSDP: weights, gradients and Adam's moments of policy and critic in shards, one per process.

torch's `fully_shard` is used directly, because accelerate's `prepare` takes one model with its optimiser while PPO trains two models
with one optimiser and one gradient norm. Every decoder layer is gathered for its own forward and backward pass; the rest (embedding,
last norm, head) is one more group, so that tied weights stay one parameter. The models are called as without FSDP, trunk and head
separately: the trunk's `forward` is registered as a forward method of the whole model, so that it gathers that last group too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ablate.system.distributed import is_main, is_sharded, raise_on_all_ranks, world_size


def shard(model: PreTrainedModel) -> None:
    """Shard a model in place. Gradients are summed over the processes, not averaged."""
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # no hidden state is changed in place
    mesh = init_device_mesh(next(model.parameters()).device.type, (world_size(),))
    layers = set(model._no_split_modules)
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for module in groups(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    trunk = model.base_model
    forward = trunk.forward
    model.trunk_forward = MethodType(lambda self, *inputs, **settings: forward(*inputs, **settings), model)
    register_fsdp_forward_method(model, "trunk_forward")
    trunk.forward = model.trunk_forward


def groups(model: PreTrainedModel) -> list[FSDPModule]:
    """The modules whose parameters are gathered together; an empty list where the model is not sharded."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def unsharded(*models: PreTrainedModel) -> Iterator[None]:
    """Keep the full weights of sharded models during the block, so that each process can run them alone, without gradients."""
    sharded = [model for model in models if isinstance(model, FSDPModule)]
    for model in sharded:
        model.set_reshard_after_forward(False)
        for group in groups(model):
            group.unshard()
    yield
    for model in sharded:
        model.set_reshard_after_forward(True)
        model.set_reshard_after_forward(False, recurse=False)
        for group in groups(model):
            group.reshard()


@contextmanager
def inference(*models: PreTrainedModel) -> Iterator[None]:
    """A block for passes without gradients, in which each process has its own rows and the full weights of sharded models.

    A UserError or Diverged of one process is raised in all of them.
    """
    with unsharded(*models), raise_on_all_ranks():
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor of any shape from all processes; any other tensor is returned unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather tensors of any shape, one by one, on the CPU of the main process. With FSDP the other processes get an empty dict."""
    if not is_sharded():
        return tensors
    gathered = {}
    for name, tensor in tensors.items():
        tensor = full_tensor(tensor)
        if is_main():
            gathered[name] = tensor.cpu()
    return gathered


@torch.no_grad()
def full_state_dict(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """The state dict of a sharded model, gathered by `full_tensors`; None for a model that is not sharded."""
    return full_tensors(model.state_dict()) if isinstance(model, FSDPModule) else None


def sharded_as(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a full tensor as `parameter` is. It is returned unchanged where `parameter` is not sharded or has another shape."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)  # every process has the full tensor
