"""Linear layers whose float32 products on the CPU are computed by oneDNN.

PyTorch computes them by MKL, which uses AVX2 alone on processors that are not Intel's, at about half the rate of a core with AVX-512
(docs/explanation/speed.md). Both sum in float32, and differ only in the order of the sum. Small products, autocast, other devices and
other number formats are left to PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

MIN_ROWS = 256  # below, oneDNN's start-up costs more than its rate gains
MIN_WEIGHTS = 2**12  # below, with gradients, the call of an autograd function written in Python costs more
ROW_MULTIPLE = 64  # rows are padded to a multiple of it, because oneDNN compiles and keeps a kernel per number of rows


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [M, K] · rightᵀ [K, N] + bias [N] → [M, N] by oneDNN. Transposed views are read without a copy."""
    return torch.ops.mkldnn._linear_pointwise.default(left, right, bias, "none", [], "")


class OneDNNLinear(torch.autograd.Function):
    """y = x Wᵀ + b, with dx = dy W, dW = dyᵀ x and db = Σ dy. x [M, K], weight W [N, K], bias b [N], y [M, N]."""

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
    """x [..., K] · weightᵀ [K, N] + bias [N] → [..., N], by oneDNN where that is faster. A weight held in bfloat16 is cast as x is."""
    if weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        weight = weight.to(x.dtype)
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
    """nn.Linear by `onednn_linear`: [..., K] → [..., N]."""

    def forward(self, x: Tensor) -> Tensor:
        return onednn_linear(x, self.weight, self.bias)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, which keeps its weight [K, N], by `onednn_linear`: [..., K] → [..., N]."""

    def forward(self, x: Tensor) -> Tensor:
        return onednn_linear(x, self.weight.t(), self.bias)


FAST = {nn.Linear: FastLinear, Conv1D: FastConv1D}


def use_onednn(model: nn.Module) -> nn.Module:
    """Let every linear layer compute by `onednn_linear`, and return the model. Parameters, names and saved files stay as they are."""
    for module in model.modules():
        if type(module) in FAST:
            module.__class__ = FAST[type(module)]
    return model
