"""A run's checkpoints → gradients of the KL by every estimator, over batches of fresh responses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ablate.config import Config, SamplingConfig
from ablate.data.source import open_source
from ablate.gradients.estimators import NAMES, surrogates
from ablate.models.forward import log_softmax, response_logits, unflatten
from ablate.models.load import freeze, load_policy, load_tokenizer
from ablate.ppo.rollout import encode_prompts, generate_responses
from ablate.ppo.sampling import concat_prompt_response
from ablate.system.seeding import numpy_generator, torch_generator

CPU = torch.device("cpu")


def gradients(config: Config, checkpoint: Path, sft: Path, batches: int, responses: int) -> Iterator[tuple[np.ndarray, float]]:
    """For each batch (gradients [E, P], one row per name of `NAMES` in nats per response; the mean KL of the batch's responses).

    Prompts and sampling noise depend on the run's seed and the batch alone, so every checkpoint of a run answers the same prompts.
    """
    tokenizer, policy, reference = load_tokenizer(sft), load_policy(checkpoint / "policy", CPU), freeze(load_policy(sft, CPU))
    source, sampling = open_source(config, tokenizer), config.sampling
    for batch in range(batches):
        prompts = source.prompts(responses, numpy_generator(config.seed, "KL gradient prompts", batch))
        noise = torch.rand(responses, sampling.max_new_tokens, generator=torch_generator(config.seed, "KL gradient noise", batch))
        encoded = encode_prompts(tokenizer, [prompt.turns for prompt in prompts], CPU)
        sampled = generate_responses(policy, tokenizer, encoded, noise, sampling)
        yield of_batch(policy, reference, *concat_prompt_response(encoded.tokens, encoded.attention, sampled), sampled.mask, sampling)


def of_batch(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    tokens: torch.Tensor,
    attention: torch.Tensor,
    mask: torch.Tensor,
    sampling: SamplingConfig,
) -> tuple[np.ndarray, float]:
    """Gradients [E, P] of one batch, and the mean KL of its responses. tokens, attention [B, P+T]; mask [B, T]."""
    temperature = sampling.training_temperature
    own = log_softmax(response_logits(policy, tokens, attention, mask), temperature)
    with torch.no_grad():
        other = log_softmax(response_logits(reference, tokens, attention, mask), temperature)
    chosen = tokens[:, -mask.shape[1] :][mask][:, None]
    kl = unflatten((own.exp() * (own - other)).sum(-1), mask)
    scalars = surrogates(unflatten(own.gather(1, chosen).squeeze(1), mask), unflatten(other.gather(1, chosen).squeeze(1), mask), kl, mask)
    parameters, rows = list(policy.parameters()), []
    for name in NAMES:
        parts = torch.autograd.grad(scalars[name], parameters, retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]).numpy())
    return np.stack(rows), float(kl.detach().sum() / len(mask))
