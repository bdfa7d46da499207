"""Linear layers whose float32 products on the CPU are computed by oneDNN.

PyTorch gives them to MKL, which keeps to AVX2 on processors that are not Intel's: about half the rate of a core with AVX-512
(docs/explanation/speed.md). Both sum in float32; they differ in the order of the sum alone. Small products, autocast, other devices and
other number formats go PyTorch's way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

MIN_ROWS = 256  # below, oneDNN's start-up costs more than its rate gains
MIN_WEIGHTS = 2**12  # below, with gradients, so does the call of a function of our own
ROW_MULTIPLE = 64  # of rows: oneDNN compiles, and keeps, a kernel for every number of rows that it meets


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [M, K] · rightᵀ [K, N] + bias [N] by oneDNN; transposed views are read as they lie."""
    return torch.ops.mkldnn._linear_pointwise.default(left, right, bias, "none", [], "")


class OneDNNLinear(torch.autograd.Function):
    """y = x Wᵀ + b: dx = dy W, dW = dyᵀ x, db = Σ dy. x [M, K], weight [N, K]."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            multiply(grad, weight.t()) if for_x else None,
            multiply(grad.t(), x.t()) if for_weight else None,
            grad.sum(0) if for_bias else None,
        )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K] · weightᵀ [K, N] + bias; by oneDNN where that is faster."""
    rows, gradients = x.numel() // x.shape[-1], torch.is_grad_enabled()
    small = rows < MIN_ROWS or (gradients and weight.numel() < MIN_WEIGHTS)
    if small or not x.is_cpu or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return functional.linear(x, weight, bias)
    flat = x.reshape(rows, x.shape[-1])
    if rows % ROW_MULTIPLE:
        flat = functional.pad(flat, (0, 0, 0, -rows % ROW_MULTIPLE))
    out = OneDNNLinear.apply(flat, weight, bias) if gradients else multiply(flat, weight, bias)
    return out[:rows].view(*x.shape[:-1], weight.shape[0])


class FastLinear(nn.Linear):
    """nn.Linear by `onednn_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return onednn_linear(x, self.weight, self.bias)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, which keeps its weight [K, N], by `onednn_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return onednn_linear(x, self.weight.t(), self.bias)


FAST = {nn.Linear: FastLinear, Conv1D: FastConv1D}


def use_onednn(model: nn.Module) -> nn.Module:
    """Let every linear layer of `model` compute by `onednn_linear`; parameters, names and saved files stay as they are."""
    for module in model.modules():
        if type(module) in FAST:
            module.__class__ = FAST[type(module)]
    return model
