"""Gradient checkpointing: activations are computed again in the backward pass."""

from __future__ import annotations

from types import MethodType

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ablate.errors import UserError


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """In a pass with gradients, keep only the input of each layer and compute the layer again in the backward pass.

    transformers' own switch acts in training mode alone, which models here never enter, since dropout would run.
    Raises UserError for an architecture without such layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"model.gradient_checkpointing: {type(model).__name__} has no layers that can be computed again: set it to false")
    for layer in layers:
        layer.forward = MethodType(recomputed, layer)  # bound, so that a copy of the model gets its own


def recomputed(layer: GradientCheckpointingLayer, *inputs, **named):
    """The layer's forward pass. Where gradients are on, its activations are dropped, and computed again in the backward pass."""
    forward = MethodType(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
