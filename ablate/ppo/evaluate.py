"""Evaluation on held-out prompts: gold, proxy and win rate against SFT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ablate.config import Config
from ablate.data.source import Prompt, Source
from ablate.errors import Diverged
from ablate.models.forward import response_values
from ablate.models.offload import OffloadedModel, loaded_on_device
from ablate.ppo.alignment_tax import HeldOutTasks
from ablate.ppo.collapse import mean
from ablate.ppo.models import Models
from ablate.ppo.monitor import monitors
from ablate.ppo.rollout import decode_responses, encode_prompts, gather_rollout, generate_responses, score_responses
from ablate.ppo.sampling import EncodedPrompts
from ablate.ppo.scoring import Gold
from ablate.ppo.types import Rollout
from ablate.system.distributed import all_gather_object, rank_slice
from ablate.system.seeding import numpy_generator, torch_generator
from ablate.system.sharding import inference

MOST_ANSWERS = 4  # most answers of an evaluation that are shown token by token, with the critic's values


@dataclass(frozen=True)
class Evaluation:
    """The responses of one policy to the held-out prompts, and their rewards. Lists have one entry per prompt."""

    responses: list[str]
    proxy: list[float]  # the reward model's scores
    gold: list[float | None]  # None without a gold reward
    lengths: list[int]  # response tokens
    ended: list[bool]  # whether the response closed with the end token
    monitors: dict[str, float]  # monitor/*
    alignment_tax: dict[str, float] = field(default_factory=dict)  # eval/lm_loss and eval/choice_accuracy, where there are tasks for them
    member_scores: Tensor | None = None  # [N, k] of each reward model of an ensemble
    rollout: Rollout | None = None  # the responses measured, a row per prompt; values of the first MOST_ANSWERS of each process only


@dataclass(frozen=True)
class HeldOut:
    """What all evaluations of a run share: N held-out prompts, the noise of sampling, and the tasks of the alignment tax."""

    prompts: Sequence[Prompt]
    encoded: EncodedPrompts  # N of them
    noise: Tensor  # [N, T] uniform on [0, 1)
    tasks: HeldOutTasks

    @classmethod
    def draw(cls, config: Config, source: Source, tokenizer, device: torch.device) -> HeldOut:
        """Draw prompts and tasks from the pipeline's seed, and the noise from the run's. Raises UserError if the tokenizer lacks a word."""
        prompts = source.held_out_prompts(config.evaluation.prompts, numpy_generator(config.pipeline_seed, "held-out prompts"))
        generator = torch_generator(config.seed, "evaluation noise")
        noise = torch.rand(len(prompts), config.sampling.max_new_tokens, generator=generator).to(device)
        encoded = encode_prompts(tokenizer, [prompt.turns for prompt in prompts], device)
        return cls(prompts, encoded, noise, HeldOutTasks.draw(config, tokenizer))


def evaluate(models: Models, held_out: HeldOut, gold: Gold, config: Config, offloaded: Sequence[OffloadedModel] = ()) -> Evaluation:
    """Answer every held-out prompt with `models.policy`, score the answers by reward model and gold, and measure the alignment tax.

    offloaded: models that are on the device only while answers are scored.
    With several processes each answers its share of the prompts, and all measure the same alignment tax.
    Raises UserError if a question is longer than the model's context.
    """
    own = rank_slice(len(held_out.prompts))
    prompts, encoded = held_out.prompts[own], held_out.encoded[own]
    with inference(*models.trained):
        sampled = generate_responses(models.policy, models.tokenizer, encoded, held_out.noise[own], config.sampling)
        with loaded_on_device(offloaded):
            rollout = score_responses(replace(models, critic=None), encoded, sampled, config.ppo_settings())
        if models.critic is not None:
            rollout = valued(rollout, models.critic, MOST_ANSWERS)
        steps = rollout.mask.shape[1]
        responses = decode_responses(models.tokenizer, rollout.tokens[:, -steps:], rollout.mask, rollout.ended)
        golds = gold(prompts, responses, rollout.ended.tolist())
        tax = held_out.tasks.alignment_tax(models.policy)
    rollout = gather_rollout(rollout, models.tokenizer.pad_token_id)
    responses, golds = (list(chain.from_iterable(all_gather_object(part))) for part in (responses, golds))
    ended = rollout.ended.tolist()
    scores, lengths = rollout.score.tolist(), rollout.lengths.tolist()
    return Evaluation(responses, scores, golds, lengths, ended, monitors(rollout), tax, rollout.member_scores, rollout)


@torch.no_grad()
def valued(rollout: Rollout, critic: PreTrainedModel, rows: int) -> Rollout:
    """The rollout with the critic's values of its first `rows` responses, and 0 for the others, whose values nothing reads."""
    values, last_value = rollout.values.clone(), rollout.last_value.clone()
    values[:rows], last_value[:rows] = response_values(critic, rollout.tokens[:rows], rollout.attention[:rows], rollout.mask[:rows])
    return replace(rollout, values=values, last_value=last_value)


def check_finite(evaluation: Evaluation) -> None:
    """Raises Diverged for gold that is not finite, of which neither a collapse nor its absence could be told."""
    count = sum(value is not None and not math.isfinite(value) for value in evaluation.gold)
    if count:
        raise Diverged(f"gold is not finite for {count} of {len(evaluation.gold)} held-out answers")


def summarise(evaluation: Evaluation, baseline: Evaluation, prompts: Sequence[Prompt], margin: float) -> dict[str, float]:
    """`eval/*` over all prompts; proxy, gold, win, tie and lose also per kind of prompt, as `eval/helpful/gold`.

    A win is gold(policy) − gold(SFT) > margin on the same prompt, a tie |gold(policy) − gold(SFT)| ≤ margin. win, tie and lose are
    shares of the prompts. Without a gold reward only proxy is there of the five. baseline: the evaluation of SFT.
    """
    row = {
        "eval/kl_to_sft": evaluation.monitors["monitor/kl_to_sft"],
        "eval/perplexity": evaluation.monitors["monitor/perplexity"],
        "eval/length": evaluation.monitors["monitor/response_length"],
        **evaluation.alignment_tax,
    }
    kinds = {"eval/": [True] * len(prompts)}
    kinds |= {f"eval/{kind}/": [prompt.kind == kind for prompt in prompts] for kind in sorted({p.kind for p in prompts})}
    for prefix, member in kinds.items():
        index = [i for i, counts in enumerate(member) if counts]
        row[prefix + "proxy"] = mean([evaluation.proxy[i] for i in index])
        own, sft = ([gold for i in index if (gold := golds[i]) is not None] for golds in (evaluation.gold, baseline.gold))
        if not own:
            continue
        differences = [a - b for a, b in zip(own, sft, strict=True)]
        row[prefix + "gold"] = mean(own)
        row[prefix + "win"] = mean([float(d > margin) for d in differences])
        row[prefix + "tie"] = mean([float(abs(d) <= margin) for d in differences])
        row[prefix + "lose"] = mean([float(d < -margin) for d in differences])
    return row


def score_rows(update: int, held_out: HeldOut, evaluation: Evaluation) -> list[dict]:
    """The rows of scores.jsonl, one per held-out prompt: update, prompt (its index), kind, proxy, gold, length, ended."""
    columns = zip(held_out.prompts, evaluation.proxy, evaluation.gold, evaluation.lengths, evaluation.ended, strict=True)
    return [
        {"update": update, "prompt": i, "kind": prompt.kind, "proxy": proxy, "gold": gold, "length": length, "ended": ended}
        for i, (prompt, proxy, gold, length, ended) in enumerate(columns)
    ]


def sample_rows(update: int, held_out: HeldOut, evaluation: Evaluation, count: int) -> list[dict]:
    """The rows of samples.jsonl, for the first `count` prompts: update, prompt (its text), kind, response, proxy, gold, length."""
    columns = zip(held_out.prompts, evaluation.responses, evaluation.proxy, evaluation.gold, evaluation.lengths, strict=True)
    return [
        {"update": update, "prompt": prompt.text, "kind": prompt.kind, "response": response, "proxy": proxy, "gold": gold, "length": length}
        for prompt, response, proxy, gold, length in list(columns)[:count]
    ]
