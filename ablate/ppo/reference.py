"""A reference that moves: `ppo.reference_update`."""

from __future__ import annotations

import torch

from ablate.config import PPOConfig
from ablate.ppo.models import Models
from ablate.ppo.tricks.policy import reference_update
from ablate.system.sharding import full_tensor


@torch.no_grad()
def move_reference(models: Models, ppo: PPOConfig, update: int) -> None:
    """After every n-th update, change the reference's weights in place as `reference_update` says; a reference that is SFT stays."""
    if not ppo.moves_reference or update % ppo.reference_update_every:
        return
    for reference, policy in zip(models.reference.parameters(), models.policy.parameters(), strict=True):
        now = full_tensor(policy.detach()).to(reference.device)
        reference.copy_(reference_update(reference, now, ppo.reference_update, ppo.reference_update_rate))
