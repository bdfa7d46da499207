"""Every estimator's expectation, by enumerating all responses of a policy of seven states, and the statistics on known gradients."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ablate.gradients.compare import compare, grams, inner
from ablate.gradients.estimators import NAMES, surrogates, to_go

END, STEPS, VOCABULARY = 2, 3, 3


def responses() -> list[tuple[int, ...]]:
    """Every response: up to three tokens, no token after the end."""
    return [
        tokens for length in range(1, STEPS + 1) for tokens in product(range(VOCABULARY), repeat=length)
        if END not in tokens[:-1] and (tokens[-1] == END or length == STEPS)
    ]  # fmt: skip


STATES = {prefix: i for i, prefix in enumerate([(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)])}


def measured(logits: Tensor, reference: Tensor, rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(log-probs, log-probs of the reference, exact KL, mask), each [B, T], of some responses under a table of logits [7, V]."""
    own, other = logits.log_softmax(-1), reference.log_softmax(-1)
    kl_of_state = (own.exp() * (own - other)).sum(-1)
    shape = len(rows), STEPS
    states, chosen, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for i, row in enumerate(rows):
        for t, token in enumerate(row):
            states[i, t], chosen[i, t], mask[i, t] = STATES[row[:t]], token, True
    return own[states, chosen], other[states, chosen], kl_of_state[states], mask


@pytest.fixture
def tables() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits, reference = (torch.randn(len(STATES), VOCABULARY, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits.requires_grad_(), reference


def expectation(tables: tuple[Tensor, Tensor], name: str, batch: int = 1) -> Tensor:
    """Σ over all batches of responses of P(batch) ∇ surrogate."""
    logits, reference = tables
    total = torch.zeros_like(logits)
    for rows in product(responses(), repeat=batch):
        logprobs, ref_logprobs, kl, mask = measured(logits, reference, list(rows))
        probability = float(torch.where(mask, logprobs, 0.0).sum().exp().detach())
        (gradient,) = torch.autograd.grad(surrogates(logprobs, ref_logprobs, kl, mask)[name], logits, allow_unused=True)
        total += probability * gradient
    return total


def exact(tables: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Gradients of Σ_y p(y) Σ_t KL_t by differentiating the sum itself: with p(y) differentiated too, with p(y) held, and of KL(ref‖π)."""
    logits, reference = tables
    rows = responses()
    logprobs, _, kl, mask = measured(logits, reference, rows)
    probability = torch.where(mask, logprobs, 0.0).sum(1).exp()
    assert float(probability.detach().sum()) == pytest.approx(1.0, abs=1e-12)
    own, other = logits.log_softmax(-1), reference.log_softmax(-1)
    _, _, _, mask = measured(logits, reference, rows)
    forward = (other.exp() * (other - own)).sum(-1)
    states = torch.zeros(len(rows), STEPS, dtype=torch.long)
    for i, row in enumerate(rows):
        for t in range(len(row)):
            states[i, t] = STATES[row[:t]]
    sums = {
        "response": (probability * torch.where(mask, kl, 0.0).sum(1)).sum(),
        "states": (probability.detach() * torch.where(mask, kl, 0.0).sum(1)).sum(),
        "forward": (probability.detach() * torch.where(mask, forward[states], 0.0).sum(1)).sum(),
    }
    return {name: torch.autograd.grad(value, logits, retain_graph=True)[0] for name, value in sums.items()}


def test_the_expectation_of_each_estimator_is_what_its_docstring_says(tables):
    known = exact(tables)
    expected = {
        "states": known["states"], "response": known["response"], "loss_k1": torch.zeros_like(known["states"]), "loss_k2": known["states"],
        "loss_k3": known["forward"], "reward_k1": known["response"], "reward_full": known["response"] - known["states"],
    }  # fmt: skip
    for name, gradient in expected.items():
        torch.testing.assert_close(expectation(tables, name), gradient, rtol=0, atol=1e-12, msg=name)


def test_k3_in_the_reward_lacks_the_forward_kl_and_k2_in_the_reward_is_none_of_the_exact_ones(tables):
    known = exact(tables)
    torch.testing.assert_close(expectation(tables, "reward_k3"), known["response"] - known["forward"], rtol=0, atol=1e-12)
    k2 = expectation(tables, "reward_k2")
    assert all(float((k2 - gradient).abs().max()) > 1e-2 for gradient in known.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_baseline_leaves_the_expectation_as_it_is(name, tables):
    torch.testing.assert_close(expectation(tables, name, batch=2), expectation(tables, name), rtol=0, atol=1e-12)


def test_pads_change_nothing(tables):
    logprobs, ref_logprobs, kl, mask = measured(*tables, responses()[:9])
    clean = surrogates(logprobs, ref_logprobs, kl, mask)
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    filled = surrogates(*(torch.where(mask, values, nan) for values in (logprobs, ref_logprobs, kl)), mask)
    assert {name: float(value.detach()) for name, value in clean.items()} == {name: float(value.detach()) for name, value in filled.items()}


def test_returns_to_go_by_hand():
    assert to_go(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[7.0, 6.0, 4.0]]


def noisy(batches: int, truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Gradients [n, E, P]: the truth [E, P] and independent noise on every batch, shared by the estimators in part."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(batches, 1, truth.shape[1]))
    return (truth + noise * (shared + rng.normal(size=(batches, *truth.shape)))).astype(np.float32)


def test_products_of_different_batches_equal_a_slow_loop():
    gradients = noisy(5, np.arange(12.0).reshape(3, 4), 1.0, 0)
    found = inner(grams(gradients), range(5))
    for e, f in product(range(3), repeat=2):
        slow = [float(gradients[b, e] @ gradients[c, f]) for b, c in product(range(5), repeat=2) if b != c]
        assert found[e, f] == pytest.approx(sum(slow) / 20, rel=1e-5)


def test_angle_and_length_are_right_where_noise_is_far_longer_than_the_gradient():
    """At 60° and twice as long, with noise of 30 times the length: the plain mean would say nearly 90°. Coverage of the intervals too."""
    size, covered, values = 400, 0, []
    exact_one = np.zeros(size)
    exact_one[0] = 1.0
    other = np.zeros(size)
    other[:2] = 2 * np.cos(np.pi / 3), 2 * np.sin(np.pi / 3)
    for seed in range(60):
        gradients = noisy(48, np.stack([exact_one, other]), 0.4, seed)
        found = compare(grams(gradients), 1, 0)
        values.append([found[name].value for name in ("cosine", "length", "along")])
        covered += found["along"].low <= 1.0 <= found["along"].high
    assert np.mean(values, axis=0) == pytest.approx([0.5, 2.0, 1.0], abs=0.1)
    assert covered >= 50  # of 60, 57 expected


def test_an_estimator_whose_expectation_is_zero_has_no_angle_but_lies_along_nothing():
    truth = np.zeros((2, 50))
    truth[0, 0] = 1.0
    gradients = noisy(30, truth, 0.3, 4)
    found = compare(grams(gradients), 1, 0)
    assert found["along"].low < 0 < found["along"].high


def test_an_estimator_is_itself():
    found = compare(grams(noisy(10, np.ones((2, 30)), 0.1, 1)), 0, 0)
    assert all(number.value == pytest.approx(1.0) and number.high - number.low < 1e-6 for number in found.values())
