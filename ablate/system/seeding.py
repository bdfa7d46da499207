"""Common random numbers: every draw of a run comes from a generator made of (seed, stream, step).

Two arms with one seed therefore see the same prompts and the same sampling noise update by update, and a resumed run needs
no generator state: the update's number is the state.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def entropy(seed: int, stream: str, step: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode()), step])


def numpy_generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """A NumPy generator for prompts, demonstrations and other data."""
    return np.random.default_rng(entropy(seed, stream, step))


def torch_generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for noise, orders and initial weights; on the CPU so that every device sees the same draws."""
    state = entropy(seed, stream, step).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
