"""Attention over packed sequences, as one of transformers' attention implementations.

A packed pass is one long row of slots in groups. The slots of a group are equally wide and hold one sequence each, at their left. Linear
layers and norms compute over the row. Attention computes each group as a batch, which needs no mask, since it is causal and pads come
last. Without slots it gives what transformers' `sdpa` gives.

In shapes, b is sequences, h heads, h' heads of keys and values, t queries, k keys, and d the width of a head.
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
MIN_FILLED = 0.8  # least share of its slot that a sequence fills: a larger share means more calls, a smaller one more pads
MAX_BMM_KEYS = 128  # most keys of attention by batched products, which hold all scores in memory at once

LengthGroups = Sequence[tuple[int, int]]  # (number, width in tokens) of each group


def length_groups(lengths: Sequence[int]) -> tuple[list[int], LengthGroups]:
    """(where each sequence of these lengths begins in a packed row, the groups of slots with the widest first).

    A last group of one empty slot fills the row up to a multiple of ROW_MULTIPLE tokens, so that no linear layer has to pad it.
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
    """Attention of queries [b, h, t, d] over keys and values [b, h', k, d] → ([b, t, h, d], None).

    slots: the groups of a packed row (b = 1), which is attended within each slot. attention_mask: as for `sdpa`; its last k columns count,
    because the cache of a sliding window keeps the last keys only.
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
    """Whether batched products are faster for queries [b, h, t, d] and keys [b, h', k, d].

    They are faster for few keys on the CPU, where the fused kernel calls a small product per head of each sequence.
    """
    plain = not any(settings.get(name) for name in ("dropout", "softcap")) and settings.get("position_bias") is None
    small = key.shape[1] == query.shape[1] and key.shape[2] <= MAX_BMM_KEYS
    return plain and small and query.is_cpu and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def bmm_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """softmax(q kᵀ · scaling) v → [b, t, h, d'], over the keys where mask [b or 1, 1, t, k] is True.

    query [b, h, t, d]; key [b, h, k, d]; value [b, h, k, d'], where d' is mostly d. A query without any key is a pad. It attends to
    all keys, because its state, which is never read, must be finite.
    """
    (batch, heads, count, _), keys = query.shape, key.shape[2]
    bias = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(query.dtype).min)
    query, key, value = (states.reshape(batch * heads, *states.shape[2:]) for states in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, count, keys)
    weights = scores.mul_(scaling).add_(bias).softmax(-1)
    return torch.bmm(weights.flatten(0, 1), value).view(batch, heads, count, value.shape[-1]).transpose(1, 2)


def band(width: int, window: int, device: torch.device) -> Tensor:
    """[1, 1, width, width], True at the last `window` tokens up to each query, itself included."""
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return causal.triu(1 - window)[None, None]


def attends_in_groups(model: PreTrainedModel) -> bool:
    """Whether the attention of the model takes slots, as `use_grouped_attention` sets it."""
    return model.config._attn_implementation == IMPLEMENTATION


def use_grouped_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model attend by slots, and return it. One that does not take its attention from transformers is left as it is."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(IMPLEMENTATION)
    return model


# cuDNN's attention, PyTorch's first choice for bfloat16 on recent GPUs, plans for each new shape, and groups and KV caches have ever new
# ones: planning took most of an update (docs/explanation/speed.md).
torch.backends.cuda.enable_cudnn_sdp(False)
AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
