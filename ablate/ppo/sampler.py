"""A sampler that is not the policy: the policy of earlier updates, or a rounded copy, as asynchronous and quantised inference have it.

The trainer keeps one model beside the policy for it, and fills its weights before each rollout. Evaluations sample from the policy.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablate.config import SamplingConfig
from ablate.models.forward import vocabulary_head
from ablate.models.linear import FAST
from ablate.models.load import freeze
from ablate.system.sharding import full_tensor

MATRICES = tuple(FAST) + tuple(FAST.values())
INT8_LEVELS = 127  # of a weight's magnitude


def new_sampler(policy: PreTrainedModel, sampling: SamplingConfig) -> PreTrainedModel | None:
    """A frozen copy of the policy, or None where the policy samples itself."""
    if not sampling.has_own_weights:
        return None
    return freeze(copy.deepcopy(policy))


def weights_of(policy: PreTrainedModel) -> list[Tensor]:
    """A copy of the policy's parameters on the CPU, in order; gathered where they are sharded."""
    return [full_tensor(parameter.detach()).to("cpu", copy=True) for parameter in policy.parameters()]


@torch.no_grad()
def fill(sampler: PreTrainedModel, policy: PreTrainedModel, history: list[list[Tensor]], sampling: SamplingConfig) -> None:
    """Give the sampler the weights that the settings say, in place.

    staleness n: those of the policy n updates ago, the oldest of `history`, which holds the policies before each of the last n updates,
    the oldest first; in the first n updates those at the start. n = 0: those of now.
    """
    source = history[0] if history else [full_tensor(parameter.detach()) for parameter in policy.parameters()]
    for parameter, weights in zip(sampler.parameters(), source, strict=True):
        parameter.copy_(weights)
    round_weights(sampler, sampling.sampler_precision)


@torch.no_grad()
def round_weights(model: PreTrainedModel, precision: str) -> None:
    """Round a model's weights in place. Products stay in float32: the rounding of the weights alone is the mismatch.

    bf16: every parameter to the nearest bfloat16, ties to even (8 significant bits). int8: each linear map but the vocabulary head, per
    output channel c: w ← s_c round(w / s_c), s_c = max|w_c| / 127. Off (fp32): as they are.
    Source: what rollout engines do to weights, 2510.18855, 2512.23075.
    """
    if precision == "bf16":
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    elif precision == "int8":
        head = vocabulary_head(model)
        for module in model.modules():
            if isinstance(module, MATRICES) and module is not head:
                module.weight.copy_(int8(module.weight, outputs=1 if type(module).__name__.endswith("Conv1D") else 0))
    elif precision != "fp32":
        raise ValueError(f"unknown precision of the sampler {precision!r}")


def int8(weight: Tensor, outputs: int) -> Tensor:
    """A matrix [.,.] on a grid of 255 levels per output channel, symmetric about 0. outputs: the dimension that counts the channels."""
    scale = weight.abs().amax(1 - outputs, keepdim=True) / INT8_LEVELS
    return torch.where(scale > 0, (weight / scale).round() * scale, 0.0)


def remembered(history: list[list[Tensor]], policy: PreTrainedModel, staleness: int) -> list[list[Tensor]]:
    """The history with the policy as it is before this update, of which the last `staleness` entries stay."""
    return [*history, weights_of(policy)][-staleness:] if staleness else []
