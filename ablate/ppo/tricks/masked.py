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
    """(x − mean) / (std + eps) over the True entries; 0 elsewhere. Shapes: both [B, T].

    The standard deviation is the unbiased one (N − 1), as in lm-human-preferences; with fewer than two entries
    the deviation is taken as 1, so a single entry becomes 0.
    """
    count = mask.sum()
    mean = masked_mean(values, mask)
    variance = masked_sum((values - mean) ** 2, mask) / (count - 1).clamp(min=1)
    std = torch.where(count > 1, variance.sqrt(), torch.ones_like(variance))
    return torch.where(mask, (values - mean) / (std + eps), 0.0)
