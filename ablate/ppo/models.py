"""What PPO trains and what it is held against: policy, reference, critic, and the reward model behind one interface."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    reference: PreTrainedModel  # π_ref of the penalties
    scorer: Scorer
    critic: PreTrainedModel | None  # null with an estimator of advantages that has none
    tokenizer: PreTrainedTokenizerBase  # the policy's; reference and critic read its tokens
    moved_from: PreTrainedModel | None = None  # SFT, where the reference has weights of its own because it moves
    more_scorers: tuple[Scorer, ...] = ()  # the other members of an ensemble of reward models
    sampler: PreTrainedModel | None = None  # what samples rollouts, where it has other weights than the policy

    @property
    def trained(self) -> tuple[PreTrainedModel, ...]:
        """What learns: the policy, and the critic where there is one."""
        return (self.policy,) if self.critic is None else (self.policy, self.critic)

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """The reward models: one, or the members of an ensemble."""
        return self.scorer, *self.more_scorers

    @property
    def sampling(self) -> PreTrainedModel:
        """The model that samples rollouts."""
        return self.policy if self.sampler is None else self.sampler

    @property
    def sft(self) -> PreTrainedModel:
        """The SFT model, from which KL is monitored and against which answers are compared."""
        return self.reference if self.moved_from is None else self.moved_from

    def of_sft(self) -> Models:
        """The same models with SFT as policy, as reference and as sampler."""
        return replace(self, policy=self.sft, reference=self.sft, moved_from=None, sampler=None)

    def check_length(self, longest: int) -> None:
        """Refuse models that cannot take `longest` of the policy's tokens. Raises UserError."""
        check_policy_length(self.reference, longest)
        for scorer in self.scorers:
            scorer.check_length(longest)
        if self.critic is not None:
            check_policy_length(self.critic, longest)


def check_policy_length(model: PreTrainedModel, longest: int) -> None:
    """Refuse a model with fewer positions than `longest`, the length of the longest dialogue in the policy's tokens. Raises UserError."""
    check_length(longest, model.config, "a prompt with sampling.max_new_tokens", "lower sampling.max_new_tokens")
