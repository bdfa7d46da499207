"""LoRA: policy and critic as small adapters over weights that stay (Hu et al. 2106.09685).

    y = W x + (α / r) B A x      W [out, in] frozen; A [r, in] Kaiming-uniform and B [out, r] zero at first, both trained; no dropout

The reference is the policy without its adapter. Each is a module tree over the *same* tensors, so the weights exist once; only the
policy's tree has the adapter. The critic is an adapter over the trunk that it starts from, under a score head of its own that is trained
whole. Where that is the reward model's trunk, the two share its weights in the same way.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ablate.config import ModelConfig
from ablate.errors import UserError

FILE = "adapter_model.safetensors"


def require_peft() -> None:
    """Raises UserError where the optional package peft is missing."""
    if find_spec("peft") is None:
        raise UserError("model.lora_rank needs the package peft, which is not installed: pip install 'ppo-ablation[lora]'")


def shared(model: PreTrainedModel) -> PreTrainedModel:
    """Another module tree over the same parameters and buffers. What is added to one is not in the other, and no weight is copied."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def add_adapter(model: PreTrainedModel, settings: ModelConfig, generator: torch.Generator, head: str | None = None) -> PreTrainedModel:
    """A module tree over the frozen weights of `model` with a new adapter, which alone is trained and at first changes nothing.

    head: the name of a module that is copied and trained whole. New weights are drawn on the CPU from `generator`. Raises UserError.
    """
    from peft import LoraConfig

    model = shared(model.requires_grad_(False))
    linear = linear_layers(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model.add_adapter(
            LoraConfig(
                r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0, target_modules=targets(linear, settings),
                modules_to_save=None if head is None else [head],
                fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in linear.values()),
            )
        )  # fmt: skip
    return model.eval()


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The linear layers of the decoder by name, without the vocabulary head and a score head."""
    return {name: module for name, module in model.base_model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}


def targets(linear: dict[str, nn.Module], settings: ModelConfig) -> list[str]:
    """Last names of the layers that get an adapter. Raises UserError for a name that no layer has."""
    known = sorted({name.rpartition(".")[2] for name in linear})
    unknown = [name for name in settings.lora_targets or [] if name not in known]
    if unknown:
        raise UserError(f"model.lora_targets: no linear layer is named {unknown[0]}: choose among {', '.join(known)}, or leave it null")
    return list(settings.lora_targets or known)


def restore_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Put the stored adapter, and a head trained whole, back into `model`. Raises UserError where they are not readable or do not fit."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        stored = load_file(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} holds no readable adapter ({error}): restore it") from error
    stored = {name.removeprefix("base_model.model."): tensor for name, tensor in stored.items()}
    own = get_peft_model_state_dict(model)
    if {name: tensor.shape for name, tensor in stored.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise UserError(f"the adapter in {folder} belongs to other layers or another rank: set the model.lora_… settings it was made with")
    set_peft_model_state_dict(model, stored)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A plain copy with the weights W + (α / r) B A in place of each adapted layer, as an ordinary Hugging Face folder holds it.

    A model without an adapter is copied as it is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            plain.set_submodule(name, layer.get_base_layer())
        elif isinstance(layer, ModulesToSaveWrapper):
            plain.set_submodule(name, layer.modules_to_save[layer.active_adapters[0]])
    plain._hf_peft_config_loaded = False  # else transformers would save the adapter that is no longer there
    return plain.requires_grad_(True)
