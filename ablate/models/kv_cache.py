"""A KV cache with room for the whole response from the start.

A step writes its keys and values in place, where transformers' `DynamicCache` copies all earlier ones.
"""

from __future__ import annotations

from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer


class ReservedLayer(DynamicLayer):
    """Keys and values [b, h, capacity, d] of one layer, of which the first `get_seq_length()` positions are filled."""

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add keys and values [b, h, t, d]; returns views [b, h, filled, d] of all so far. Raises ValueError beyond the capacity."""
        filled = self.get_seq_length()
        end = filled + key_states.shape[-2]
        if end > self.capacity:
            raise ValueError(f"{end} positions in a cache for {self.capacity}")
        if not self.is_initialized:
            self.room = tuple(new.new_empty(*new.shape[:2], self.capacity, new.shape[-1]) for new in (key_states, value_states))
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, filled:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the sequences at `indices` [b']."""
        filled = self.get_seq_length()
        self.room = tuple(room[indices] for room in self.room)
        self.keys, self.values = (room[:, :, :filled] for room in self.room)


def reserved_cache(config: PretrainedConfig, capacity: int) -> Cache:
    """A cache for sequences of up to `capacity` tokens. Layers of another kind (sliding windows) stay as transformers makes them."""
    layers = DynamicCache(config=config).layers
    return Cache(layers=[ReservedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in layers])
