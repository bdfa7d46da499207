"""Answers of an evaluation token by token, each token with what an update would use of it: value, advantage, reward, KL to SFT.

They come from the functions that an update calls, so the numbers shown are the numbers trained on. No random number is drawn and no
state is kept: a run computes the same with these rows as without.
"""

from __future__ import annotations

import math

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ablate.config import PPOSettings
from ablate.ppo.evaluate import MOST_ANSWERS, Evaluation, HeldOut
from ablate.ppo.shaping import estimate_targets, shape_rewards
from ablate.ppo.types import Rollout, ShapingState

MOST_TOKENS = 256  # of one answer
DIGITS = 4  # significant


def token_measures(rollout: Rollout, settings: PPOSettings, shaping: ShapingState) -> dict[str, Tensor | None]:
    """Value, advantage, reward and kl of the responses' tokens, each [B, T], as if the next update learned from these responses.

    kl: KL(π‖π_SFT) over the vocabulary, in nats. reward: after every reward trick. advantage: before the norm and clip of a minibatch.
    value is null without a critic; advantage is null where it compares answers to one prompt, since an evaluation has one for each, and
    so are reward and advantage where the reward compares with answers of SFT.
    """
    ppo = settings.ppo
    value = rollout.values if ppo.has_critic else None
    kl = rollout.kl if rollout.sft_kl is None else rollout.sft_kl
    if ppo.references_per_prompt:
        return {"value": value, "advantage": None, "reward": None, "kl": kl}
    reward, _ = shape_rewards(rollout, settings, shaping)
    advantage = None if ppo.compares_answers else estimate_targets(rollout, reward, ppo).advantages
    return {"value": value, "advantage": advantage, "reward": reward, "kl": kl}


def token_rows(
    update: int,
    held_out: HeldOut,
    evaluation: Evaluation,
    tokenizer: PreTrainedTokenizerBase,
    settings: PPOSettings,
    shaping: ShapingState,
    count: int,
) -> list[dict]:
    """The rows of tokens.jsonl, for the first `count` prompts but at most `MOST_ANSWERS`.

    update, prompt (its text), length (of the whole answer, in tokens), and lists over its first `MOST_TOKENS` tokens, the end token
    included: tokens (the text of each), value, advantage, reward and kl to `DIGITS` digits, null as `token_measures` has it.
    """
    rollout = evaluation.rollout
    assert rollout is not None  # every evaluation of a policy has measured its responses
    measures, steps = token_measures(rollout, settings, shaping), rollout.mask.shape[1]
    rows = []
    for index, prompt in enumerate(held_out.prompts[: min(count, MOST_ANSWERS)]):
        length = int(rollout.lengths[index])
        shown = min(length, MOST_TOKENS)
        tokens = rollout.tokens[index, -steps:][:shown].tolist()
        lists = {name: None if values is None else rounded(values[index, :shown]) for name, values in measures.items()}
        texts = [tokenizer.decode([token], skip_special_tokens=False) for token in tokens]
        rows.append({"update": update, "prompt": prompt.text, "length": length, "tokens": texts, **lists})
    return rows


def rounded(values: Tensor) -> list[float | None]:
    """The values [n] to `DIGITS` significant digits, null where not finite, since JSON has no NaN."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]
