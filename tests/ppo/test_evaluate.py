"""The collapse verdict by hand-made series, and win rates."""

from dataclasses import replace

import pytest
import torch

from ablate import trainer
from ablate.config import CollapseConfig, Config
from ablate.data.source import open_source
from ablate.models.forward import response_values
from ablate.models.load import freeze
from ablate.ppo.collapse import CollapseDetector, deviation, mean
from ablate.ppo.evaluate import MOST_ANSWERS, Evaluation, HeldOut, evaluate, score_rows, summarise
from ablate.ppo.scoring import open_gold
from ablate.session import execute
from ablate.world.grammar import Prompt

KINDS = ("helpful", "harmful", "helpful", "helpful")
PROMPTS = [Prompt(f"prompt {i}", kind, "topic") for i, kind in enumerate(KINDS)]


def judged(gold: list[float | None], proxy: list[float] | None = None) -> Evaluation:
    count = len(gold)
    monitors = {f"monitor/{name}": 1.0 for name in ("kl_to_sft", "perplexity", "response_length")}
    return Evaluation(["answer"] * count, proxy or [0.0] * count, gold, [3] * count, [True] * count, monitors)


def watched(golds: list[float], patience: int = 3, limit: float = -1.0, every: int = 5) -> CollapseDetector:
    watch = CollapseDetector(limit, patience)
    for index, gold in enumerate(golds):
        watch.update(every * index, gold)
    return watch


@pytest.mark.parametrize(("golds", "update"), [
    ([0, 0, 0, 0, 0], None),
    ([0, -2, -2, -2, 0], 5),          # three in a row: collapsed at the first of them, and a recovery changes nothing
    ([-2, -2, -2], 0),                # from the start
    ([0, -2, -2, 0, -2, -2], None),   # two and two: interrupted
    ([0, -2, -2, 0, -2, -2, -2], 20),
    ([-2, -2], None),                 # the run ended one evaluation too early
    ([-1, -1, -1, -1], None),         # at the limit is not below it
    ([-2, -2, -1, -2, -2], None),     # touching the limit interrupts
    ([-1.0001] * 3, 0),
    ([0, -2, -2, -2, 0, -9, -9, -9], 5),
])  # fmt: skip
def test_collapse_is_the_first_of_exactly_three_consecutive_evaluations_below_the_limit(golds, update):
    watch = watched(golds)
    assert watch.collapse_update == update
    assert watch.collapsed is (True if update is not None else False if len(golds) > 3 else None)  # three and fewer cannot collapse


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_patience_is_the_number_of_evaluations(patience):
    assert watched([0] + [-2] * (patience - 1) + [0], patience).collapsed is False
    assert watched([0] + [-2] * patience, patience).collapse_update == 5


def test_without_gold_the_verdict_is_null():
    watch = CollapseDetector.from_baseline([None] * 4, CollapseConfig())
    for update in range(5):
        watch.update(update, None)
    assert watch.collapsed is None and watch.collapse_update is None


def test_the_limit_is_sfts_mean_minus_threshold_times_its_deviation_per_response():
    """Gold (0, 0, 4, 4): mean 2, SD with N − 1 √(16/3)."""
    watch = CollapseDetector.from_baseline([0.0, 0.0, 4.0, 4.0], CollapseConfig(threshold=1.5, patience=2))
    assert watch.limit == pytest.approx(2 - 1.5 * (16 / 3) ** 0.5) and watch.patience == 2


def test_sft_never_collapses_against_itself():
    baseline = judged([-3.0, 1.0, 5.0, 2.0])
    watch = CollapseDetector.from_baseline(baseline.gold, CollapseConfig(patience=1))
    watch.update(0, mean(baseline.gold))
    watch.update(5, mean(baseline.gold))
    assert watch.collapsed is False


@pytest.mark.parametrize(("gold", "proxy", "win"), [(-100.0, 100.0, 0.0), (100.0, -100.0, 1.0)])
def test_a_high_proxy_changes_no_verdict(gold, proxy, win, tiny_config, monkeypatch):
    """A run of which every evaluation but SFT's has this gold and this proxy collapses, and wins, by the gold alone."""
    measured, evaluations = trainer.evaluate, []

    def evaluate_as_told(*args, **kwargs) -> Evaluation:
        evaluations.append(measured(*args, **kwargs))
        answers = len(evaluations[0].proxy)
        return evaluations[0] if len(evaluations) == 1 else replace(evaluations[-1], gold=[gold] * answers, proxy=[proxy] * answers)

    monkeypatch.setattr(trainer, "evaluate", evaluate_as_told)
    summary = execute(tiny_config("evaluation.every=1", "collapse.patience=2"))
    assert len(evaluations) == 6  # SFT, the policy as it starts, and four updates
    assert (summary["collapsed"], summary["collapse_update"]) == ((True, 0) if gold < 0 else (False, None))
    final = summary["final"]
    assert (final["eval/gold"], final["eval/proxy"], final["eval/win"], final["eval/lose"]) == (gold, proxy, win, 1 - win)


def test_win_tie_and_lose_by_hand_and_by_kind():
    """Against (0, 0, 0, 0): (+1, −1, 0, +0.1), harmful is the second."""
    row = summarise(judged([1.0, -1.0, 0.0, 0.1]), judged([0.0] * 4), PROMPTS, 0.0)
    assert (row["eval/win"], row["eval/tie"], row["eval/lose"]) == (0.5, 0.25, 0.25)
    assert (row["eval/helpful/win"], row["eval/helpful/tie"], row["eval/helpful/lose"]) == pytest.approx((2 / 3, 1 / 3, 0))
    assert (row["eval/harmful/win"], row["eval/harmful/lose"], row["eval/harmful/gold"]) == (0, 1, -1)
    assert row["eval/gold"] == pytest.approx(0.025)


def test_a_difference_up_to_the_margin_is_a_tie():
    row = summarise(judged([0.5, -0.5, 0.6, 0.0]), judged([0.0] * 4), PROMPTS, 0.5)
    assert (row["eval/win"], row["eval/tie"], row["eval/lose"]) == (0.25, 0.75, 0.0)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_win_tie_and_lose_sum_to_one(margin):
    row = summarise(judged([0.3, -1.0, 1.0, 7.0]), judged([0.0, 1.0, 0.7, 2.0]), PROMPTS, margin)
    for prefix in ("eval/", "eval/helpful/", "eval/harmful/"):
        assert sum(row[prefix + name] for name in ("win", "tie", "lose")) == pytest.approx(1)


def test_without_gold_there_is_a_proxy_and_no_win_rate():
    row = summarise(judged([None] * 4, [1.0, 2.0, 3.0, 4.0]), judged([None] * 4), PROMPTS, 0.0)
    assert row["eval/proxy"] == 2.5 and not any(name.endswith(("gold", "win", "tie", "lose")) for name in row)


def test_sft_against_itself_ties_everywhere(tiny_config, tiny_models):
    """Two evaluations of one policy share prompts and noise, so they are equal in every answer."""
    config: Config = tiny_config("evaluation.prompts=16")
    source = open_source(config)
    held_out = HeldOut.draw(config, source, tiny_models.tokenizer, freeze(tiny_models.reference).device)
    gold = open_gold(None, source, held_out.noise.device)
    sft = evaluate(replace(tiny_models, policy=tiny_models.reference), held_out, gold, config)
    policy = evaluate(tiny_models, held_out, gold, config)
    row = summarise(policy, sft, held_out.prompts, 0.0)
    assert policy.responses == sft.responses
    assert [row[f"eval/{kind}tie"] for kind in ("", "helpful/", "harmful/")] == [1.0, 1.0, 1.0]
    assert row["eval/kl_to_sft"] == pytest.approx(0, abs=1e-6)
    assert len(score_rows(0, held_out, policy)) == 16


def test_the_critic_values_the_answers_that_are_shown_and_no_others(tiny_config, tiny_models):
    """They are those of a pass over all answers; the rest of an evaluation is the same without a critic."""
    config: Config = tiny_config("evaluation.prompts=9")
    source = open_source(config)
    held_out = HeldOut.draw(config, source, tiny_models.tokenizer, tiny_models.reference.device)
    gold = open_gold(None, source, held_out.noise.device)
    found = evaluate(tiny_models, held_out, gold, config)
    rollout = found.rollout
    assert rollout is not None and tiny_models.critic is not None
    values, last_value = response_values(tiny_models.critic, rollout.tokens, rollout.attention, rollout.mask)
    assert values[:MOST_ANSWERS].abs().min(1).values.max() > 0
    torch.testing.assert_close(rollout.values[:MOST_ANSWERS], values[:MOST_ANSWERS], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rollout.last_value[:MOST_ANSWERS], last_value[:MOST_ANSWERS], rtol=1e-5, atol=1e-5)
    assert not rollout.values[MOST_ANSWERS:].any() and not rollout.last_value[MOST_ANSWERS:].any()
    without = evaluate(replace(tiny_models, critic=None), held_out, gold, config)
    assert (without.monitors, without.proxy, without.responses) == (found.monitors, found.proxy, found.responses)


def test_deviation_has_bessels_correction():
    assert deviation([1.0, 2.0, 3.0]) == 1.0
