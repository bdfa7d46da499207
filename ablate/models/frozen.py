"""Frozen models (the reference, the reward models and a judge in `gold.path`) held in bfloat16: `model.frozen_dtype=bf16`.

The matrices of linear layers and embeddings take half their size; vectors, such as those of norms, stay float32. A matrix is cast to
float32 for the product of its layer and the copy dropped after it, so log-probs and scores are those of rounded weights in float32
arithmetic. Under `precision=bf16` the product takes the matrix as it is held.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablate.models.linear import FAST


class Float32Embedding(nn.Embedding):
    """nn.Embedding whose vectors are float32, whatever its weights are held in: tokens [...] → [..., H]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).float()


CASTING = (*FAST.values(), Float32Embedding)  # the layers that can be held in bfloat16


def hold_in_bfloat16(model: PreTrainedModel) -> None:
    """Round the matrices of a frozen model to bfloat16 (to nearest, ties to even) and hold them so, in place.

    A matrix that a layer of another kind reads too stays float32.
    """
    for module in model.modules():
        if type(module) is nn.Embedding:
            module.__class__ = Float32Embedding
    owners = [(type(module), parameter) for module in model.modules() for parameter in module.parameters(recurse=False)]
    elsewhere = {parameter for kind, parameter in owners if kind not in CASTING}
    for _, parameter in owners:
        if parameter.dim() == 2 and parameter not in elsewhere:
            parameter.data = parameter.data.to(torch.bfloat16)
