"""One PPO update: epochs × minibatches × micro-batches over a rollout, policy and critic under one optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ablate.config import PPOConfig, PPOSettings
from ablate.errors import Diverged
from ablate.models.forward import entropy_of, log_softmax, response_logits, response_values, unflatten, value_units
from ablate.ppo.models import Models
from ablate.ppo.shaping import average, counted, critic_pretrain_loss, minibatch_advantages, ppo_loss
from ablate.ppo.tricks.policy import ptx, ratio_guard, target_kl
from ablate.ppo.tricks.value import grad_clip, gradient_norm
from ablate.ppo.types import MinibatchSize, Rollout, Targets
from ablate.system.distributed import strided_rank_shard, sum_gradients, sum_tensor, sum_terms, world_size
from ablate.system.sharding import full_tensor

PtxLoss = Callable[[int], Tensor]


def new_optimizer(models: Models, ppo: PPOConfig) -> torch.optim.Optimizer:
    """Adam with a rate and an ε for the policy and for the critic, where there is one; no weight decay."""
    settings = ((ppo.learning_rate, ppo.adam_eps), (ppo.critic_learning_rate, ppo.critic_adam_eps))
    groups = [{"params": trained(model), "lr": rate, "eps": eps} for model, (rate, eps) in zip(models.trained, settings, strict=False)]
    return torch.optim.Adam(groups, betas=tuple(ppo.adam_betas), fused=True)


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that learn: all of them, or with LoRA the adapter's and a critic's head."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def steps_per_update(ppo: PPOConfig) -> int:
    return ppo.epochs * (ppo.batch_size // ppo.minibatch_size)


def rate_factor(step: int, ppo: PPOConfig) -> float:
    """Factor of the peak rate at gradient step `step` (from 0) of N: W linear warm-up steps, then what `lr_schedule` says.

    `constant`: 1. `inverse_sqrt`: √(W / step); without warm-up W counts as one step. `linear`: 1 − (s − W) / (N − W), s the first step of
    the update, or W where that is later. The rate then falls once an update; without warm-up it is 1 − u / updates after u updates, as in
    lm-human-preferences.
    """
    per_update = steps_per_update(ppo)
    steps = ppo.updates * per_update
    warmup = int(ppo.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    if ppo.lr_schedule == "inverse_sqrt":
        return (max(warmup, 1) / max(step + 1, warmup, 1)) ** 0.5
    if ppo.lr_schedule == "linear":
        return 1 - max(step - step % per_update - warmup, 0) / (steps - warmup)
    return 1.0


def minibatches(ppo: PPOConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of every gradient step of one update: a new permutation of the buffer each epoch."""
    for _ in range(ppo.epochs):
        yield from torch.randperm(ppo.batch_size, generator=generator).split(ppo.minibatch_size)


def micro_batches(rows: Tensor, lengths: Tensor, size: int) -> Iterator[Tensor]:
    """This process's share of a minibatch in groups of similar length, which spares padding and changes no result.

    rows: indices [b] on the CPU, whose generator drew them. lengths: [B]. The groups are on the device of the lengths.
    """
    rows = rows.to(lengths.device)
    yield from strided_rank_shard(rows[lengths[rows].argsort(stable=True)]).split(size)


def update(
    models: Models,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    targets: Targets,
    settings: PPOSettings,
    generator: torch.Generator,
    first_step: int,
    ptx_loss: PtxLoss,
    entropy_coef: float | None = None,
) -> dict[str, float]:
    """All gradient steps on one rollout: epochs × minibatches. Returns the means of their loss terms as `ppo/*`.

    generator: of the order of rows. first_step: how many gradient steps were planned before, which places this update in the schedule of
    learning rates. ptx_loss(step): the language-model loss on pretraining text of one gradient step. entropy_coef: the weight of the
    bonus where it moves; null: that of the settings. A step that `ratio_guard` or `target_kl` leaves out counts in the means and in
    `ppo/skipped`; a minibatch without a token that counts has no step and counts in `ppo/skipped` alone. Raises Diverged for a step that
    is made.
    """
    ppo, rows_of_stats, made = settings.ppo, [], 0
    entropy_coef = ppo.entropy_coef if entropy_coef is None else entropy_coef
    for offset, rows in enumerate(minibatches(ppo, generator)):
        if not counted(rollout, ppo)[rows].any():
            continue
        step = first_step + offset
        set_rates(optimizer, ppo, step)
        optimizer.zero_grad()
        losses, terms = backward_minibatch(models, rollout, targets, rows, settings, entropy_coef)
        ended = ppo.target_kl is not None and target_kl(terms["ppo/approx_kl"], ppo.target_kl)
        skipped = ended or (ppo.ratio_guard is not None and ratio_guard(terms["ppo/ratio_mean"], ppo.ratio_guard))
        if not skipped:
            check_finite(losses)
        if ppo.ptx and not skipped:
            ptx(ptx_loss(step), ppo.ptx_coef).backward()
        rows_of_stats.append(terms | apply_gradients(optimizer, ppo, skipped))
        made += not skipped
        if ended:
            break
    optimizer.zero_grad()  # frees the gradients, which the next rollout has no use for
    skipped = {"ppo/skipped": 1 - made / steps_per_update(ppo)}
    if not rows_of_stats:
        return skipped
    names = rows_of_stats[0]
    means = {name: sum(row[name] for row in rows_of_stats) / len(rows_of_stats) for name in names}
    extremes = {"ppo/ratio_max": max(row["ppo/ratio_max"] for row in rows_of_stats)}
    extremes |= {"ppo/ratio_min": min(row["ppo/ratio_min"] for row in rows_of_stats)}
    return means | extremes | skipped


def backward_minibatch(
    models: Models, rollout: Rollout, targets: Targets, rows: Tensor, settings: PPOSettings, entropy_coef: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Accumulate the gradients of one minibatch over its micro-batches; the gradient does not depend on their size.

    rows: indices [b] of the minibatch's responses. Of several processes, each holds the gradient of its own rows and the loss
    terms of all. Returns the losses by name, for `check_finite`, and the terms as metrics.
    """
    ppo, sampling = settings.ppo, settings.sampling
    mask = counted(rollout, ppo)[rows]
    size = MinibatchSize(max(int(mask.sum()), 1), max(int(mask.any(1).sum()), 1), len(rows), sampling.max_new_tokens)
    advantages = targets.advantages.clone()
    advantages[rows] = minibatch_advantages(targets.advantages[rows], mask, settings)
    targets = replace(targets, advantages=advantages)
    parts = list(micro_batches(rows, rollout.lengths, ppo.micro_batch_size))
    whole_entropy = None
    if ppo.entropy_clip is not None and (len(parts) > 1 or world_size() > 1):
        with torch.no_grad():
            own = sum(average(forward(models, batch, settings)[1], counted(batch, ppo), ppo, size) for batch in map(rollout.rows, parts))
            whole_entropy = sum_tensor(own)
    scale = 1.0 if models.critic is None else value_units(models.critic)[1]
    sums: dict[str, float] = {}
    for part in parts:
        batch = rollout.rows(part)
        logprobs, entropy, values, full_kl = forward(models, batch, settings)
        terms = ppo_loss(
            logprobs, entropy, values, batch, targets.rows(part, batch.mask.shape[1]), settings, size, entropy_coef=entropy_coef,
            minibatch_entropy=whole_entropy, full_kl=full_kl, value_scale=scale,
        )  # fmt: skip
        terms.total.backward()
        for name in SUMMED:
            sums[name] = sums.get(name, 0.0) + getattr(terms, name).item()
        sums["ratio_max"] = max(sums.get("ratio_max", 0.0), float(terms.ratio_max))
        sums["ratio_least"] = max(sums.get("ratio_least", -math.inf), -float(terms.ratio_min))
    sums = sum_terms(sums, largest=["ratio_max", "ratio_least"])
    sums["ratio_min"] = -sums["ratio_least"]
    left_out = () if models.critic is not None else OF_CRITIC
    return sums, {metric: sums[name] for name, metric in METRICS.items() if name not in left_out}


SUMMED = (
    "policy", "value", "total", "approx_kl", "clip_fraction", "clip_fraction_low", "clip_fraction_high", "value_clip_fraction",
    "ratio_mean",
)  # fmt: skip


OF_CRITIC = ("value", "value_clip_fraction")
METRICS = {
    "policy": "ppo/policy_loss",
    "value": "ppo/value_loss",
    "approx_kl": "ppo/approx_kl",
    "clip_fraction": "ppo/clip_fraction",
    "clip_fraction_low": "ppo/clip_fraction_low",
    "clip_fraction_high": "ppo/clip_fraction_high",
    "value_clip_fraction": "ppo/value_clip_fraction",
    "ratio_mean": "ppo/ratio_mean",
    "ratio_min": "ppo/ratio_min",
    "ratio_max": "ppo/ratio_max",
}


def forward(models: Models, batch: Rollout, settings: PPOSettings) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Log-probs, entropy and values [b, T] of the batch's response tokens under the current weights, and KL(π_θ‖π_ref) where the loss
    needs it over the whole vocabulary. Values are null without a critic.
    """
    sampling, full_kl = settings.sampling, None
    logits = response_logits(models.policy, batch.tokens, batch.attention, batch.mask)
    log_probs = log_softmax(logits, sampling.training_temperature)
    chosen = batch.tokens[:, -batch.mask.shape[1] :][batch.mask]
    logprobs = unflatten(log_probs.gather(1, chosen[:, None]).squeeze(1), batch.mask)
    entropy = unflatten(entropy_of(log_probs), batch.mask)
    if settings.ppo.full_kl_in_loss:
        with torch.no_grad():
            reference = log_softmax(
                response_logits(models.reference, batch.tokens, batch.attention, batch.mask), sampling.training_temperature
            )
        held = torch.where(log_probs > -torch.inf, log_probs, 0.0)  # before the product, so that 0 · ∞ is in no gradient
        full_kl = unflatten(torch.where(log_probs > -torch.inf, held.exp() * (held - reference), 0.0).sum(-1), batch.mask)
    values = None if models.critic is None else response_values(models.critic, batch.tokens, batch.attention, batch.mask)[0]
    return logprobs, entropy, values, full_kl


def check_finite(sums: dict[str, float]) -> None:
    """Before the optimiser sees its gradients, a minibatch whose loss is not finite is named."""
    for name in ("policy", "value", "total"):
        if not math.isfinite(sums[name]):
            raise Diverged(f"the {name} loss is not finite")


def set_rates(optimizer: torch.optim.Optimizer, ppo: PPOConfig, step: int) -> None:
    factor = rate_factor(step, ppo)
    for group, peak in zip(optimizer.param_groups, (ppo.learning_rate, ppo.critic_learning_rate), strict=False):
        group["lr"] = peak * factor


def apply_gradients(optimizer: torch.optim.Optimizer, ppo: PPOConfig, skip: bool = False) -> dict[str, float]:
    """One optimiser step on the gradients of all processes; the norms logged are those before any clip. skip: leave the step out."""
    groups = [group["params"] for group in optimizer.param_groups]
    parameters = [parameter for group in groups for parameter in group]
    sum_gradients(parameters)
    norm, *parts = (full_tensor(gradient_norm(part)) for part in (parameters, *groups))
    if not skip:
        if not torch.isfinite(norm):
            raise Diverged("the gradient norm is not finite")
        if ppo.grad_clip:
            grad_clip(parameters, norm, ppo.max_grad_norm)
        optimizer.step()
    names = ("ppo/actor_grad_norm", "ppo/critic_grad_norm")
    return {"ppo/grad_norm": float(norm)} | {name: float(part) for name, part in zip(names, parts, strict=False)}


def critic_update(
    models: Models,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    targets: Targets,
    ppo: PPOConfig,
    generator: torch.Generator,
) -> float:
    """One update of critic pre-training: value loss alone; the policy has no gradient and stays. Returns the mean value loss."""
    assert models.critic is not None
    losses = []
    for rows in minibatches(ppo, generator):
        optimizer.zero_grad()
        tokens = int(rollout.mask[rows].sum())
        loss_of_step = 0.0
        for part in micro_batches(rows, rollout.lengths, ppo.micro_batch_size):
            batch = rollout.rows(part)
            values, _ = response_values(models.critic, batch.tokens, batch.attention, batch.mask)
            scale = value_units(models.critic)[1]
            loss = critic_pretrain_loss(values, batch, targets.rows(part, batch.mask.shape[1]), tokens, scale)
            loss.backward()
            loss_of_step += loss.item()
        apply_gradients(optimizer, ppo)
        losses.append(sum_terms({"value": loss_of_step})["value"])
    optimizer.zero_grad()
    return sum(losses) / len(losses)
