"""Famous bugs as arms (`bugs.*`), each a step that undoes what the right code has just done. All are off by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGEST_KL = 10.0  # nats, of `kl_loss_clamped`
ROLLOUT_DROPOUT = 0.1  # attention dropout of `dropout_on`


def nested_reward_norm(score: Tensor, normed: Tensor) -> Tensor:
    """The score before `reward_norm`: the norm stands inside the branch of `reward_scaling`, which excludes it. Shapes [B].

    Off: `normed`. Source: MOSS-RLHF.
    """
    return score


def reward_on_pad(rewards: Tensor, mask: Tensor) -> Tensor:
    """Rewards one position later: the score lands on the first pad after the response and is lost. Shapes [B, T].

    Off: rewards as placed. Source: trl#3750.
    """
    return torch.where(mask, nn.functional.pad(rewards, (1, 0))[:, :-1], 0.0)


def micro_batch_mean(value_loss: Tensor, tokens: int, own_tokens: int, share: float) -> Tensor:
    """The value loss of a micro-batch as the mean over its own tokens times its share of the minibatch's responses; a scalar.

    Off: its sum over the tokens of the whole minibatch. Source: verl#6957.
    """
    return value_loss * tokens / max(own_tokens, 1) * share


def kl_loss_clamped(estimate: Tensor, coef: float) -> Tensor:
    """β min(k3, 10) in place of β k3 in the loss: past the clamp there is no gradient. Shapes [B, T]. Off: β k3. Source: NeMo-RL#2958."""
    return estimate.clamp(max=LARGEST_KL * coef)


def kl_wrong_sign(coef: float) -> float:
    """−η: the KL penalty is added to the reward. Off: η. Source: trlX."""
    return -coef


def optimizer_reset(optimizer: torch.optim.Optimizer, number: int, every: int) -> None:
    """Adam forgets its moments and step counts before update `number` (from 1) where a multiple of `every` updates lies behind it.

    Off: they are kept from the first update to the last, over every checkpoint. Source: NeMo-RL#3171.
    """
    if number > 1 and (number - 1) % every == 0:
        optimizer.state.clear()


def unmasked_whitening(mask: Tensor) -> Tensor:
    """A mask [b, T] under which pads count in the moments of `advantage_norm`. Off: the mask of real tokens. Source: trl#2022."""
    return torch.ones_like(mask)


@contextmanager
def dropout_on(model: nn.Module) -> Iterator[None]:
    """Dropout of ROLLOUT_DROPOUT in attention, as a forgotten `.eval()` leaves it. Off: models never drop out. Source: trl#853."""
    layers = [module for module in model.modules() if hasattr(module, "attention_dropout")]
    before = [layer.attention_dropout for layer in layers]
    model.train()
    for layer in layers:
        layer.attention_dropout = ROLLOUT_DROPOUT
    try:
        yield
    finally:
        model.eval()
        for layer, value in zip(layers, before, strict=True):
            layer.attention_dropout = value
