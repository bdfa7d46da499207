"""The order of calls in an update, recorded in a run, against the one that docs/explanation/design.md shows."""

import functools
import re
import sys
from pathlib import Path

import pytest

import ablate
from ablate import trainer
from ablate.ppo import rollout
from ablate.runs.store import RunStore
from ablate.session import execute

ROLLOUT, LEARNING = ["generate_responses", "score_responses"], ["shape_rewards", "estimate_targets", "update"]
EVALUATION = ["evaluate", "token_rows"]  # of the answers to held-out prompts; the second writes no metric
ROW = ["append"]  # of a row of metrics.jsonl


def record_calls(monkeypatch) -> list[str]:
    """The names of the functions above and of `evaluate`, as they are called; what an evaluation and its rows call is left out."""
    calls: list[str] = []
    within: list[str] = []

    def recorded(name: str, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            if within or (name == "append" and "metrics.jsonl" not in args):
                return function(*args, **kwargs)
            if name != "token_rows":
                calls.append(name)
            if name not in EVALUATION:
                return function(*args, **kwargs)
            within.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                within.pop()

        return call

    for home, names in ((rollout, ROLLOUT), (trainer, [*LEARNING, *EVALUATION])):
        for name in names:
            function = getattr(home, name)
            wrapped = recorded(name, function)
            for module in [module for key, module in sys.modules.items() if key.partition(".")[0] == "ablate"]:
                if getattr(module, name, None) is function:  # under whichever module's name it is called
                    monkeypatch.setattr(module, name, wrapped)
    monkeypatch.setattr(RunStore, "append", recorded("append", RunStore.append))
    return calls


def test_an_update_generates_scores_shapes_estimates_updates_evaluates_and_logs_in_this_order(tiny_config, monkeypatch):
    """Twice, the second time without an evaluation; before them a baseline and the row of the policy as it starts."""
    calls = record_calls(monkeypatch)
    execute(tiny_config("ppo.updates=3", "evaluation.every=2", "ppo.critic_pretrain=false"))
    evaluated = [*ROLLOUT, *LEARNING, "evaluate", *ROW]
    assert calls == ["evaluate", "evaluate", *ROW, *ROLLOUT, *LEARNING, *ROW, *evaluated, *evaluated]


def test_pre_training_the_critic_shapes_and_estimates_as_an_update_does_but_updates_no_policy(tiny_config, monkeypatch):
    calls = record_calls(monkeypatch)
    execute(tiny_config("ppo.updates=1", "ppo.critic_pretrain_updates=2"))
    pretraining = [*ROLLOUT, "shape_rewards", "estimate_targets"]
    assert calls == ["evaluate", *pretraining, *pretraining, "evaluate", *ROW, *ROLLOUT, *LEARNING, "evaluate", *ROW]


def calls_shown(flow: str) -> list[str]:
    """The names of an update's functions that a code block calls, in its order."""
    return [name for name in re.findall(r"(\w+)\(", flow) if name in ROLLOUT + LEARNING + ROW]


@pytest.fixture
def flow() -> str:
    """The code block of the documents that shows an update."""
    documents = sorted((Path(ablate.__file__).parents[1] / "docs").rglob("*.md"))
    blocks = [block for path in documents for block in re.findall(r"^```.*?$(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)]
    (found,) = (block for block in blocks if "shape_rewards(" in block)
    return found


def test_the_document_shows_the_calls_in_that_order(flow):
    assert calls_shown(flow) == ROLLOUT + LEARNING + ROW


def test_a_document_with_two_lines_exchanged_one_left_out_or_one_twice_would_be_seen(flow):
    lines = flow.strip().splitlines()
    assert len(lines) == len(ROLLOUT + LEARNING + ROW)
    exchanged = [[*lines[:n], lines[n + 1], lines[n], *lines[n + 2 :]] for n in range(len(lines) - 1)]
    left_out = [[*lines[:n], *lines[n + 1 :]] for n in range(len(lines))]
    twice = [[*lines[: n + 1], *lines[n:]] for n in range(len(lines))]
    for wrong in (*exchanged, *left_out, *twice):
        assert calls_shown("\n".join(wrong)) != ROLLOUT + LEARNING + ROW, wrong
