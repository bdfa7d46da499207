"""PopArt: the critic learns in units of the returns' running moments, and says what it said before when these move.

V = μ + σ v, with v = score(h) − shift what the critic's trunk and head give. μ and σ lie in its configuration, so they go into its
checkpoints with it; without them V = v.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablate.models.folder import SCORE_SHIFT
from ablate.models.forward import VALUE_MEAN, VALUE_SCALE, score_shift, value_units
from ablate.ppo.tricks.running import update_moments
from ablate.ppo.types import RunningMoments, Targets


@torch.no_grad()
def rescale(critic: PreTrainedModel, mean: float, scale: float) -> None:
    """Make μ = mean and σ = scale the critic's units, in place, with every V as it was (van Hasselt et al. 1602.07714, eqs. 8 and 9).

    score' = score σ / σ';  shift' = (σ shift − μ + μ') / σ'
    """
    old_mean, old_scale = value_units(critic)
    critic.score.weight.mul_(old_scale / scale)
    setattr(critic.config, SCORE_SHIFT, (old_scale * score_shift(critic) - old_mean + mean) / scale)
    setattr(critic.config, VALUE_MEAN, mean)
    setattr(critic.config, VALUE_SCALE, scale)


def follow_returns(critic: PreTrainedModel, targets: Targets, mask: Tensor, known: RunningMoments) -> RunningMoments:
    """Add the returns [B, T] of a rollout to the moments of all so far, make these the critic's units, and return them."""
    moments = update_moments(known, targets.returns[mask])
    if moments.std > 0:
        rescale(critic, moments.mean, moments.std)
    return moments


def plain_units(critic: PreTrainedModel) -> None:
    """Make reward units a critic's again, in place, so that its head alone says V; a scorer without units of its own stays as it is."""
    if not hasattr(critic.config, VALUE_SCALE):
        return
    rescale(critic, 0.0, 1.0)
    for name in (VALUE_MEAN, VALUE_SCALE):
        delattr(critic.config, name)
