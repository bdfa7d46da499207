"""`offload`: frozen models rest in CPU memory and are on the device for their passes only.

The reference and the reward model are needed while a rollout is measured. Memory peaks elsewhere: while it is sampled (KV cache) and in
the update (gradients, activations). Weights that never change are copied to the device and dropped there, never copied back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class OffloadedModel:
    """A frozen model at rest: its parameters on the CPU (page-locked for a GPU), its few buffers on the device."""

    def __init__(self, model: nn.Module, device: torch.device):
        """`model` has its weights on the CPU."""
        self.device = device
        self.cpu_weights: dict[nn.Parameter, Tensor] = {}
        for parameter in model.parameters():
            parameter.data = parameter.data.pin_memory() if device.type == "cuda" else parameter.data
            self.cpu_weights[parameter] = parameter.data
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))

    def load(self) -> None:
        """Copy the weights to the device."""
        for parameter, weights in self.cpu_weights.items():
            parameter.data = weights.to(self.device, copy=True, non_blocking=True)

    def unload(self) -> None:
        """Drop the copy on the device."""
        for parameter, weights in self.cpu_weights.items():
            parameter.data = weights


@contextmanager
def loaded_on_device(models: Sequence[OffloadedModel]) -> Iterator[None]:
    """Within this context the models are on the device."""
    try:
        for model in models:
            model.load()
        yield
    finally:
        for model in models:
            model.unload()
