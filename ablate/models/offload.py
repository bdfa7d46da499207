"""`offload`: frozen models rest in CPU memory and are on the device for their passes only.

The reference and the reward model are needed while a rollout is measured, not while it is sampled (KV cache) nor in the update
(gradients, activations), which is where memory peaks. Weights that never change are copied to the device and dropped
there, never copied back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Resting:
    """A frozen model at rest: its parameters on the CPU (page-locked for a GPU), its few buffers on the device."""

    def __init__(self, model: nn.Module, device: torch.device):
        """`model` has its weights on the CPU."""
        self.device = device
        self.home: dict[nn.Parameter, Tensor] = {}
        for parameter in model.parameters():
            parameter.data = parameter.data.pin_memory() if device.type == "cuda" else parameter.data
            self.home[parameter] = parameter.data
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))

    def wake(self) -> None:
        for parameter, weights in self.home.items():
            parameter.data = weights.to(self.device, copy=True, non_blocking=True)

    def rest(self) -> None:
        for parameter, weights in self.home.items():
            parameter.data = weights


@contextmanager
def on_device(models: Sequence[Resting]) -> Iterator[None]:
    """Within it the models are on the device."""
    try:
        for model in models:
            model.wake()
        yield
    finally:
        for model in models:
            model.rest()
