"""The cache with reserved room against transformers' own, which copies."""

import pytest
import torch
from transformers import DynamicCache

from ablate.models.kv_cache import ReservedLayer, reserved_cache
from ablate.models.load import load_policy

CPU = torch.device("cpu")


@torch.no_grad()
def test_states_and_keys_equal_the_copying_cache_through_steps_and_leaving_rows(architecture, architecture_folders):
    policy = load_policy(architecture_folders(architecture)[0], CPU)
    tokens = torch.randint(2, 23, (5, 9), generator=torch.Generator().manual_seed(0))
    caches = reserved_cache(policy.config, 9), DynamicCache(config=policy.config)
    kept = torch.arange(5)
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9)):
        positions = torch.arange(start, stop).expand(len(kept), -1)
        states = [
            policy.base_model(input_ids=tokens[kept, start:stop], position_ids=positions, past_key_values=cache, use_cache=True)
            for cache in caches
        ]
        torch.testing.assert_close(states[0].last_hidden_state, states[1].last_hidden_state, rtol=0, atol=1e-6)
        if stop in (5, 7):
            rows = torch.tensor([0, 1, len(kept) - 1])
            kept = kept[rows]
            for cache in caches:
                cache.batch_select_indices(rows)
    for ours, plain in zip(caches[0].layers, caches[1].layers, strict=True):
        torch.testing.assert_close(ours.keys, plain.keys, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.values, plain.values, rtol=0, atol=1e-6)


def test_steps_write_in_place_and_no_further_than_the_room():
    layer, new = ReservedLayer(3), torch.ones(2, 1, 1, 4)
    keys, _ = layer.update(new, new)
    again, _ = layer.update(2 * new, new)
    assert again.data_ptr() == keys.data_ptr() and again[0, 0, :, 0].tolist() == [1.0, 2.0] and layer.get_seq_length() == 2
    layer.update(new, new)
    with pytest.raises(ValueError, match="4 positions in a cache for 3"):
        layer.update(new, new)
