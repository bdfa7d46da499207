"""The optimisation loop that the supervised stages share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ablate.errors import Diverged
from ablate.models.forward import packed_states
from ablate.system.progress import track

WARMUP = 0.1  # share of steps
MAX_GRAD_NORM = 1.0


def learning_rate(step: int, steps: int) -> float:
    """Factor of the peak rate: linear warm-up over the first tenth, then half a cosine to 0."""
    warmup = max(int(WARMUP * steps), 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def fit(
    parameters: list[nn.Parameter],
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    peak: float,
    description: str,
    log: Path,
) -> None:
    """Minimise loss_of(step), which gives (loss, columns to log), by Adam. Raises Diverged where the loss is not finite.

    log: JSON lines, one per step: step (from 1), loss, and these columns.
    """
    optimizer = torch.optim.Adam(parameters, lr=peak, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    with open(log, "w") as rows:
        for step in track(range(steps), steps, description):
            loss, row = loss_of(step)
            if not torch.isfinite(loss):
                raise Diverged(f"{description}: the loss of step {step} is not finite")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            schedule.step()
            rows.write(json.dumps({"step": step + 1, "loss": loss.item(), **row}) + "\n")


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless minibatches of `size` indices: a fresh permutation per epoch, of which an incomplete rest is dropped."""
    size = min(size, count)
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + size] for i in range(0, count - size + 1, size))


def pad_right(rows: list[list[int]], pad: int, device: torch.device) -> Tensor:
    """Token ids [B, L] of the rows, padded at the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)


def response_targets(rows: list[tuple[list[int], int]], tokens: Tensor) -> Tensor:
    """[B, L], True at response tokens. rows: (token ids, prompt length) per row of tokens [B, L]."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    start = torch.tensor([prompt for _, prompt in rows], device=tokens.device)[:, None]
    stop = torch.tensor([len(ids) for ids, _ in rows], device=tokens.device)[:, None]
    return (columns >= start) & (columns < stop)


def real_tokens(lengths: Sequence[int], tokens: Tensor) -> Tensor:
    """[B, L], True at the first lengths[i] tokens of row i of tokens [B, L]."""
    return torch.arange(tokens.shape[1], device=tokens.device) < torch.tensor(lengths, device=tokens.device)[:, None]


def language_model_loss(model: PreTrainedModel, head: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean NLL, nats per token, of the tokens [B, L] at which targets [B, L] is True.

    Rows begin at the left. What comes after the last token that counts is not computed.
    """
    states = packed_states(model, tokens, targets.flip(1).cumsum(1).flip(1) > 0)
    return token_nll(states, head, tokens, targets)


def token_nll(states: tuple[Tensor, Tensor], head: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """As `language_model_loss`, from hidden states [S, H] and the first position [B] of each row, as `packed_states` gives them."""
    hidden, first = states
    rows, before = targets[:, 1:].nonzero(as_tuple=True)
    return nn.functional.cross_entropy(head(hidden[first[rows] + before]).float(), tokens[rows, before + 1])
