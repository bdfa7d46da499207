"""Every reduction over tokens goes through these, so that pads can never count."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Σ values·mask / Σ mask, a scalar; values where the mask is False may be anything, even NaN. Shapes: both [B, T].

    The mean of nothing is 0.
    """
    return masked_sum(values, mask) / mask.sum().clamp(min=1)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Σ values over the True entries of mask, a scalar. `where`, not ×, since 0 × inf is NaN. Shapes: both [B, T]."""
    return torch.where(mask, values, 0.0).sum()


def masked_whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """(x − mean) / √(var + eps) over the True entries; 0 elsewhere. Shapes: both [B, T].

    ε stands under the root, as in lm-human-preferences and TRL (MOSS-RLHF has 1e-6), so that deviations far below 1e-4, such as
    rounding leaves among equal entries, stay small instead of becoming 1. The variance is the unbiased one (N − 1), as in TRL; the
    other two divide by N. The mean is corrected by the mean of what it leaves, so that equal entries come out exactly 0.
    """
    mean = masked_mean(values, mask)
    mean = mean + masked_mean(values - mean, mask)
    variance = masked_sum((values - mean) ** 2, mask) / (mask.sum() - 1).clamp(min=1)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + eps), 0.0)
