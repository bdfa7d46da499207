"""Random records without a model, for the functions that only see numbers."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from ablate.config import PPOConfig, PPOSettings
from ablate.ppo.shaping import counted, ppo_loss
from ablate.ppo.types import NOT_PER_TOKEN, LossTerms, MinibatchSize, Rollout, Targets


def random_rollout(seed: int = 0, lengths: tuple[int, ...] = (5, 2, 7, 1, 7, 4), prompt: int = 3, drift: float = 0.5) -> Rollout:
    """A Rollout with a row a length; the last but one of the longest is truncated. `drift` is how far π is from the reference."""
    generator = torch.Generator().manual_seed(seed)
    rows, steps = len(lengths), max(lengths)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.arange(steps)[None] < torch.tensor(lengths)[:, None]
    mismatch = 0.3 * torch.randn(rows, steps, generator=torch.Generator().manual_seed(seed + 100))
    logprobs = -0.2 - 2 * torch.rand(rows, steps, generator=generator)
    per_token = dict(
        logprobs=logprobs, ref_logprobs=(logprobs + drift * normal(rows, steps)).clamp(max=-0.01),
        kl=drift * torch.rand(rows, steps, generator=generator), entropy=1 + torch.rand(rows, steps, generator=generator),
        values=normal(rows, steps), sampler_logprobs=logprobs + mismatch,
    )  # fmt: skip
    return Rollout(
        tokens=torch.randint(2, 9, (rows, prompt + steps), generator=generator),
        attention=torch.cat([torch.ones(rows, prompt, dtype=torch.bool), mask], dim=1), mask=mask,
        ended=torch.arange(rows) != rows - 2, last_value=normal(rows), score=2 * normal(rows) + 1,
        prompt_nll=3 * torch.rand(rows, generator=generator), **{name: torch.where(mask, x, 0.0) for name, x in per_token.items()},
    )  # fmt: skip


def with_pads(rollout: Rollout, fill: float) -> Rollout:
    """The same rollout with `fill` at every pad of its [B, T] float fields, and other token ids at the pads."""
    changed = {
        f.name: torch.where(rollout.mask, value, fill)
        for f in fields(rollout)
        if f.name not in NOT_PER_TOKEN
        and (value := getattr(rollout, f.name)) is not None
        and value.dim() == 2
        and value.is_floating_point()
    }
    return replace(rollout, tokens=torch.where(rollout.attention, rollout.tokens, 1), **changed)


def random_targets(rollout: Rollout, seed: int = 1) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    shape = rollout.mask.shape
    return Targets(*(torch.where(rollout.mask, torch.randn(shape, generator=generator), 0.0) for _ in range(2)))


def rows_of(values: Tensor, mask: Tensor) -> list[list[float]]:
    """[B, T] → a list a row of its real entries, as the slow loops want them."""
    return [row[real].tolist() for row, real in zip(values, mask, strict=True)]


def flat(values: Tensor, mask: Tensor) -> list[float]:
    return values[mask].tolist()


def loss_of(
    logprobs: Tensor, entropy: Tensor, values: Tensor, rollout: Rollout, targets: Targets, ppo: PPOConfig | PPOSettings, **more
) -> LossTerms:
    """`ppo_loss` of a minibatch that is one micro-batch, whose longest response may have 9 tokens."""
    settings = ppo if isinstance(ppo, PPOSettings) else PPOSettings(ppo)
    mask = counted(rollout, settings.ppo)
    size = MinibatchSize(max(int(mask.sum()), 1), max(int(mask.any(1).sum()), 1), len(mask), longest=9)
    return ppo_loss(logprobs, entropy, values, rollout, targets, settings, size, entropy_coef=settings.ppo.entropy_coef, **more)
