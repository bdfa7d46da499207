"""Attention over packed sequences, as one of transformers' attention implementations.

A packed pass is one long row of slots, group by group: the slots of a group are equally wide and hold one sequence each, at their
left. Linear layers, norms and positions see the row; attention sees each group as a batch of its own, which needs no mask, since it
is causal and pads come last. Without slots it is transformers' `sdpa`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ablate.models.linear import ROW_MULTIPLE

IMPLEMENTATION = "slots"
MIN_FILLED = 0.8  # share of its slot that a sequence fills at least: narrower groups are more calls, wider ones more pads
MAX_BMM_KEYS = 128  # most keys of attention by products, whose scores are all in memory at once

LengthGroups = Sequence[tuple[int, int]]  # (number, width in tokens) of each group


def length_groups(lengths: Sequence[int]) -> tuple[list[int], LengthGroups]:
    """Where each sequence of these lengths begins in a packed row, and the groups of slots, widest first.

    The last group may be filling up to a multiple of tokens, so that linear layers need not fill up (`ablate.models.linear.MULTIPLE`).
    """
    starts, groups, end = [0] * len(lengths), [], 0
    for sequence in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not groups or lengths[sequence] < MIN_FILLED * groups[-1][1]:
            groups.append((0, lengths[sequence]))
        number, width = groups[-1]
        groups[-1] = number + 1, width
        starts[sequence] = end
        end += width
    if end % ROW_MULTIPLE:
        groups.append((1, -end % ROW_MULTIPLE))
    return starts, groups


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    slots: LengthGroups | None = None,
    **settings,
) -> tuple[Tensor, None]:
    """Attention of queries [b, h, t, d] over keys and values [b, h', k, d] → [b, t, h, d]; of a packed row (b = 1) within each slot.

    attention_mask: as for `sdpa`; a layer whose cache has let go of old keys reads its end.
    """
    if slots is None:
        mask = attention_mask if attention_mask is None else attention_mask[..., -key.shape[2] :]
        if mask is not None and use_bmm(query, key, settings):
            return bmm_attention(query, key, value, mask, settings["scaling"]), None
        return sdpa_attention_forward(module, query, key, value, mask, **settings)
    tokens = [number * width for number, width in slots]
    out = []
    for (number, width), *parts in zip(slots, *(states.split(tokens, dim=2) for states in (query, key, value)), strict=True):
        batch = [part.view(*part.shape[1:2], number, width, part.shape[-1]).transpose(0, 1) for part in parts]
        window = settings.get("sliding_window")
        if use_bmm(*batch[:2], settings):
            states = bmm_attention(*batch, band(width, window or width, query.device), settings["scaling"])
        else:
            mask = None if window is None or width <= window else band(width, window, query.device)
            states, _ = sdpa_attention_forward(module, *batch, mask, **settings)
        out.append(states.flatten(0, 1))
    return torch.cat(out)[None], None


def use_bmm(query: Tensor, key: Tensor, settings: dict) -> bool:
    """Whether batched products are the faster way: on the CPU the fused kernel calls a small product for every head of every sequence."""
    plain = not any(settings.get(name) for name in ("dropout", "softcap")) and settings.get("position_bias") is None
    small = key.shape[1] == query.shape[1] and key.shape[2] <= MAX_BMM_KEYS
    return plain and small and query.is_cpu and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def bmm_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """softmax(q kᵀ · scaling, where mask [b or 1, 1, t, k] is True) v, [b, t, h, d]; heads have keys of their own.

    A query that sees nothing, a pad, sees everything: its state is read by none, but must be a number.
    """
    (batch, heads, count, width), keys = query.shape, key.shape[2]
    bias = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(query.dtype).min)
    query, key, value = (states.reshape(batch * heads, *states.shape[2:]) for states in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, count, keys)
    weights = scores.mul_(scaling).add_(bias).softmax(-1)
    return torch.bmm(weights.flatten(0, 1), value).view(batch, heads, count, width).transpose(1, 2)


def band(width: int, window: int, device: torch.device) -> Tensor:
    """[1, 1, width, width] True where a query may look back, less than `window` tokens."""
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return causal.triu(1 - window)[None, None]


def attends_in_groups(model: PreTrainedModel) -> bool:
    return model.config._attn_implementation == IMPLEMENTATION


def use_grouped_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model attend by slots where it asks transformers for its attention; others are left as they are."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(IMPLEMENTATION)
    return model


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
