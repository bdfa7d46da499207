"""Common random numbers: every draw of a run comes from a generator that is seeded with (seed, stream, step).

Two arms with one seed therefore see the same prompts and the same sampling noise in each update, and a resumed run needs no state
of a generator: the number of the update determines it. `stream` names the purpose of the draws, and is part of the seed.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def entropy(seed: int, stream: str, step: int) -> np.random.SeedSequence:
    """The seed of the generator of a stream at a step."""
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode()), step])


def numpy_generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """A NumPy generator for prompts, demonstrations and other data."""
    return np.random.default_rng(entropy(seed, stream, step))


def torch_generator(seed: int, stream: str, step: int = 0) -> torch.Generator:
    """A CPU generator for noise, orders and initial weights; on the CPU so that the draws do not depend on the device."""
    state = entropy(seed, stream, step).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
