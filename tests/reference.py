"""Slow, independent implementations in plain Python: one number at a time, no tensors, written from the papers' equations.

Rows are lists of different lengths: there are no pads here, so nothing can leak from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

Row = Sequence[float]


def gae(rewards: Row, values: Row, bootstrap: float, gamma: float, gae_lambda: float) -> list[float]:
    """A_t = Σ_l (γλ)^l δ_{t+l}, summed out for every t instead of by recursion (Schulman et al. 1506.02438, eq. 16)."""
    following = [*values[1:], bootstrap]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    return [sum((gamma * gae_lambda) ** (later - t) * deltas[later] for later in range(t, len(deltas))) for t in range(len(deltas))]


def mean_and_std(numbers: Row) -> tuple[float, float]:
    """Mean, and deviation with N − 1."""
    mean = math.fsum(numbers) / len(numbers)
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def whiten(rows: Sequence[Row]) -> list[list[float]]:
    """(x − mean) / std over all numbers of all rows."""
    mean, std = mean_and_std([x for row in rows for x in row])
    return [[(x - mean) / std for x in row] for row in rows]


def kl_full(p: Row, q: Row) -> float:
    """Σ_v p log(p / q) of two distributions."""
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def kl_sample(p: float, q: float, estimator: str) -> float:
    """k1, k2, k3 at one sample of probability p under π and q under the reference, in ratios (Schulman 2020: r = q / p)."""
    r = q / p
    return {"k1": -math.log(r), "k2": 0.5 * math.log(r) ** 2, "k3": (r - 1) - math.log(r)}[estimator]


def ratio_clip(probability: float, old: float, advantage: float, clip_range: float) -> float:
    """−min(ρ A, clip(ρ) A) by cases: the objective is flat only where moving further would be rewarded."""
    ratio = probability / old
    if advantage >= 0:
        return -min(ratio, 1 + clip_range) * advantage
    return -max(ratio, 1 - clip_range) * advantage


def value_clip(value: float, old: float, target: float, clip_range: float) -> float:
    """The larger of the two squared errors, by cases."""
    held = value
    if value > old + clip_range:
        held = old + clip_range
    elif value < old - clip_range:
        held = old - clip_range
    return max((value - target) ** 2, (held - target) ** 2)


def softmax(logits: Row, temperature: float = 1.0) -> list[float]:
    top = max(logits)
    weights = [math.exp((x - top) / temperature) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def penalise_repetition(logits: Row, seen: Sequence[int], penalty: float) -> list[float]:
    """Keskar et al. 1909.05858 with the sign kept: a seen token loses whatever sign its logit has, once however often it was seen."""
    return [(x / penalty if x > 0 else x * penalty) if token in set(seen) else x for token, x in enumerate(logits)]


def nucleus(probabilities: Row, top_p: float) -> list[float]:
    """The fewest most likely tokens whose sum reaches top_p, renormalised (Holtzman et al. 1904.09751)."""
    kept: dict[int, float] = {}
    for token in sorted(range(len(probabilities)), key=lambda v: -probabilities[v]):
        if math.fsum(kept.values()) >= top_p:
            break
        kept[token] = probabilities[token]
    total = math.fsum(kept.values())
    return [kept.get(token, 0.0) / total for token in range(len(probabilities))]


def inverse_cdf(probabilities: Row, uniform: float) -> int:
    """The token whose interval of the cumulative distribution holds the number."""
    level = 0.0
    for token, p in enumerate(probabilities):
        level += p
        if uniform < level:
            return token
    return len(probabilities) - 1


def perplexity(nll: Sequence[Row]) -> float:
    """exp of the mean NLL over all tokens of all rows."""
    flat = [x for row in nll for x in row]
    return math.exp(math.fsum(flat) / len(flat))


def perplexity_moss(prompt_nll: Sequence[Row], response_nll: Sequence[Row]) -> float:
    """exp(Σ_i mean NLL of sequence i, prompt and response, / Σ_i response tokens of i)."""
    means = [math.fsum([*p, *r]) / (len(p) + len(r)) for p, r in zip(prompt_nll, response_nll, strict=True)]
    return math.exp(math.fsum(means) / sum(len(r) for r in response_nll))


def distinct_2(responses: Sequence[Sequence[int]]) -> float:
    """Mean over responses of two tokens or more: different bigrams / bigrams."""
    shares = []
    for response in responses:
        pairs = list(pairwise(response))
        if pairs:
            shares.append(len(set(pairs)) / len(pairs))
    return sum(shares) / len(shares)
