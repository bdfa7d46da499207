"""The passes of this product against the model's own `forward`, on three short rows, each time a model is loaded.

The passes here call a model by parts: its trunk on packed rows or with a KV cache of our own, then its head. Not every architecture
is the sum of those parts. One keeps a state where others keep keys and values, another tells its window by the mask alone, a third
rescales its logits. What differs would be silent, so it is compared: the log-probs of packed rows, those of prompts and of sampled
tokens with the cache, and scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablate.errors import UserError
from ablate.models.attention import attends_in_groups, use_grouped_attention
from ablate.models.folder import check_causal, linear_score
from ablate.models.forward import cached_states, response_logits, score_shift, sequence_score, vocabulary_head
from ablate.models.kv_cache import reserved_cache
from ablate.models.weights import one_line

LENGTHS = (8, 7, 4)  # tokens of each row: two share a group of slots, and the last has one of its own
DECODED = 2  # tokens of each row that are fed one at a time
WINDOW = 3  # tokens that a window of the architecture is narrowed to, so that it matters for rows this short
WINDOWS = ("sliding_window", "attention_chunk_size")  # names of windows in configs and attention layers
TOLERANCE = 1e-3  # nats, or score, for logits or scores of size 1


def use_checked_passes(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Let the model attend in groups of equal length where that agrees with its own `forward`, and return it.

    Where it does not, packed rows are given to the model group by group. Raises UserError for an architecture that agrees in neither way.
    Weights and random state stay as they are. Passes are compared in the numbers of the weights, whatever autocast is in force.
    """
    own = model.config._attn_implementation
    unsupported = f"{folder}: the architecture {model.config.model_type} is not supported"
    if any(type(module).__name__.endswith("Indexer") for module in model.modules()):  # among thousands of keys: no short row shows it
        raise UserError(f"{unsupported} (its attention picks a few keys, and others once rows are padded): name a model of another one")
    exact = torch.autocast(next(model.parameters()).device.type, enabled=False)  # bfloat16 rounds the two ways of a pass apart
    with torch.random.fork_rng(devices=[]), narrow_windows(model), exact:
        try:
            check_causal(model, folder)
            expected = own_answers(model, own)
        except UserError:
            raise
        except Exception as error:  # an architecture that needs more than tokens, or a config that does not fit its weights
            raise UserError(f"{unsupported} (its own forward pass fails: {one_line(error)}): name a model of another one") from error
        if not torch.isfinite(expected).all():
            if linear_score(model):  # an overflow at these rows alone is no reason to refuse: a run names the score that overflows
                return use_grouped_attention(model)
            raise UserError(f"the log-probs of {folder} are not finite: restore the folder or name another")
        if attends_in_groups(use_grouped_attention(model)):
            if disagreement(model, expected) is None:
                return model
            model.set_attn_implementation(own)
        found = disagreement(model, expected)
    if found is not None:
        raise UserError(f"{unsupported} ({found}): name a model of another one")
    return model


@contextmanager
def narrow_windows(model: PreTrainedModel) -> Iterator[None]:
    """Within this context every window of the model is at most WINDOW tokens."""
    holders = [model.config, model.config.get_text_config(), *model.modules()]
    wide = [(holder, name, getattr(holder, name, None)) for holder in holders for name in WINDOWS]
    wide = [(holder, name, width) for holder, name, width in wide if type(width) is int and width > WINDOW]
    try:
        for holder, name, _ in wide:
            setattr(holder, name, WINDOW)
        yield
    finally:
        for holder, name, width in wide:
            setattr(holder, name, width)


def rows(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Tokens [B, L] of rows of LENGTHS, padded at the right, and attention [B, L], True at real tokens."""
    size, width = model.config.get_text_config().vocab_size, max(LENGTHS)
    device = next(model.parameters()).device
    tokens = (7 + 5 * torch.arange(len(LENGTHS) * width, device=device) ** 2).view(-1, width) % size
    return tokens, torch.arange(width, device=device) < torch.tensor(LENGTHS, device=device)[:, None]


@torch.no_grad()
def own_answers(model: PreTrainedModel, implementation: str) -> Tensor:
    """What the model's own `forward` says of the rows: log-probs [B, L, V], 0 at pads, or scores [B] of a sequence classifier.

    Its attention is the eager one, which has everything that an architecture adds to attention.
    """
    tokens, attention = rows(model)
    model.set_attn_implementation("eager")
    try:
        if linear_score(model):
            alone = (tokens[row : row + 1, :length] for row, length in enumerate(LENGTHS))
            return torch.cat([model(input_ids=row, use_cache=False).logits.float().flatten() for row in alone])
        logits = model(input_ids=tokens, attention_mask=attention.long(), use_cache=False).logits.float()
        return torch.where(attention[..., None], logits.log_softmax(-1), 0.0)
    finally:
        model.set_attn_implementation(implementation)


def disagreement(model: PreTrainedModel, expected: Tensor) -> str | None:
    """How the passes here differ from what the model's own `forward` says, in words, or None where they do not."""
    tokens, attention = rows(model)
    size = 1 + float(expected.abs().max())
    passes = {"scores": scored} if linear_score(model) else {"log-probs of packed rows": packed, "log-probs with a KV cache": sampled}
    for what, run in passes.items():
        try:
            off = run(model, tokens, attention, expected)
        except Exception as error:  # whatever an architecture does with an input that it was not written for
            return f"{what} cannot be computed, {type(error).__name__}"
        if not off <= TOLERANCE * size:  # NaN too
            return f"{what} are {off:.2g} off its own forward pass"
    return None


def scored(model: PreTrainedModel, tokens: Tensor, attention: Tensor, expected: Tensor) -> float:
    """Largest difference of scores."""
    with torch.no_grad():
        return float((sequence_score(model, tokens, attention) + score_shift(model) - expected).abs().max())


def packed(model: PreTrainedModel, tokens: Tensor, attention: Tensor, expected: Tensor) -> float:
    """Largest difference of log-probs of packed rows, in nats, as they are computed in training."""
    mask = attention[:, 1:]
    with torch.enable_grad():
        logits = response_logits(model, tokens, attention, mask).detach()
    return float((logits.log_softmax(-1) - expected[:, :-1][mask]).abs().max())


@torch.no_grad()
def sampled(model: PreTrainedModel, tokens: Tensor, attention: Tensor, expected: Tensor) -> float:
    """Largest difference of log-probs, in nats, when prompts padded at the left are cached and DECODED tokens follow, the last one
    after the middle row has left the cache."""
    lengths = attention.sum(1) - DECODED  # [B] of prompts
    width = int(lengths.max())
    index = torch.arange(width, device=tokens.device) - (width - lengths)[:, None]  # [B, width] of each prompt's token, negative at pads
    real = torch.cat([index >= 0, attention.new_ones(len(tokens), DECODED)], dim=1)
    positions, head = index.clamp(min=0), vocabulary_head(model)
    cache = reserved_cache(model.config, width + DECODED)
    hidden = cached_states(model, tokens.gather(1, positions), real[:, :width], positions, cache)
    row = torch.arange(len(tokens), device=tokens.device)
    off = [(head(hidden).float().log_softmax(-1) - expected[row[:, None], positions])[index >= 0]]
    for step in range(DECODED):
        if step == DECODED - 1:
            kept = torch.tensor([0, 2], device=tokens.device)
            cache.batch_select_indices(kept)
            row, real, lengths = row[kept], real[kept], lengths[kept]
        place = lengths + step
        hidden = cached_states(model, tokens[row, place][:, None], real[:, : width + step + 1], place[:, None], cache)
        off.append(head(hidden[:, -1]).float().log_softmax(-1) - expected[row, place])
    return max(float(difference.abs().max()) for difference in off)
