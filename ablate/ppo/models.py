"""What PPO trains and what it is held against: policy, reference, critic, and the reward model behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.models.folder import check_length
from ablate.ppo.sampling import EncodedPrompts, Sampled


class Scorer(Protocol):
    """The reward model of a run, whichever tokens it reads dialogues in: `ablate.ppo.scoring` has one for each case."""

    @property
    def model(self) -> PreTrainedModel:
        """Its weights, which are frozen."""
        ...

    def scores(self, prompts: EncodedPrompts, sampled: Sampled) -> Tensor:
        """The score of each response, [B], float32. Raises UserError for a dialogue longer than the model's positions."""
        ...

    def check_length(self, longest: int) -> None:
        """Refuse dialogues of `longest` of the policy's tokens, as far as their length in its own tokens follows. Raises UserError."""
        ...


@dataclass(frozen=True)
class Models:
    """The models of a run. Modules only: no settings, no optimiser."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    scorer: Scorer
    critic: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase  # the policy's; reference and critic read its tokens

    def check_length(self, longest: int) -> None:
        """Refuse models that cannot take `longest` of the policy's tokens. Raises UserError."""
        check_policy_length(self.reference, longest)
        self.scorer.check_length(longest)
        check_policy_length(self.critic, longest)


def check_policy_length(model: PreTrainedModel, longest: int) -> None:
    """Refuse a model with fewer positions than `longest`, the length of the longest dialogue in the policy's tokens. Raises UserError."""
    check_length(longest, model.config, "a prompt with sampling.max_new_tokens", "lower sampling.max_new_tokens")
