"""The claims of "Secrets of RLHF Part I" (2307.04964) that our runs can judge, figure by figure, in settings.

The words are ours. A claim is judged in every study that holds its arms; "collapse" is ours too, the paper shows curves.
"""

from __future__ import annotations

from analysis.claims import Claim, Part

KL = ("ppo.kl_coef", "ppo.kl_estimator")
ENTROPY = ("ppo.entropy_coef", "ppo.entropy_clip", "ppo.entropy_clip_form")
PLAIN = {"ppo.kl_penalty": False, "ppo.entropy_bonus": False, "ppo.importance_sampling": "behaviour"}
VANILLA = {**PLAIN, "ppo.reward_scaling": False, "ppo.reward_norm": False, "ppo.reward_clip": None, "ppo.advantage_clip": None}


def _against(outcome: str, expects: str, on: dict, off: dict, linked: tuple[str, ...] = ()) -> Part:
    return Part(outcome, expects, on, off, linked=linked)


def _kl_order(outcome: str, expects: str) -> tuple[Part, ...]:
    """η ∈ {0.05, 0.1, 0.2}: each step up moves the outcome one way."""
    etas = (0.05, 0.1, 0.2)
    at = [{"ppo.kl_penalty": True, "ppo.kl_coef": eta} for eta in etas]
    return tuple(_against(outcome, expects, stronger, weaker) for weaker, stronger in zip(at, at[1:]))


PAPER_CLAIMS = (
    Claim("Fig. 4", "vanilla PPO collapses: proxy reward rises while gold falls",
          (Part("collapsed", "above", VANILLA, bound=0.5), Part("proxy_gain", "above", VANILLA), Part("gold_gain", "below", VANILLA))),
    Claim("Fig. 6", "reward scaling alone changes nothing",
          (_against("stable_updates", "same", {"ppo.reward_scaling": True}, {"ppo.reward_scaling": False}),)),
    Claim("Fig. 6", "reward normalisation with clipping steadies training",
          (_against("stable_updates", "higher", {"ppo.reward_norm": True}, {"ppo.reward_norm": False}, ("ppo.reward_clip", "ppo.reward_norm_over")),)),
    Claim("Fig. 7", "a token-level KL penalty prevents collapse",
          (_against("collapsed", "lower", {**PLAIN, "ppo.kl_penalty": True}, PLAIN, KL),)),
    Claim("Fig. 7", "an entropy bonus prevents collapse",
          (_against("collapsed", "lower", {**PLAIN, "ppo.entropy_bonus": True}, PLAIN, ENTROPY),)),
    Claim("Fig. 7", "importance sampling against the reference does not prevent collapse",
          (_against("collapsed", "same", {**PLAIN, "ppo.importance_sampling": "reference"}, PLAIN),)),
    Claim("Fig. 7", "importance sampling on top of the KL penalty costs reward",
          (_against("proxy", "lower", {**PLAIN, "ppo.kl_penalty": True, "ppo.importance_sampling": "reference"}, {**PLAIN, "ppo.kl_penalty": True}),)),
    Claim("Fig. 8", "without SFT the policy fails",
          (_against("gold", "lower", {"ppo.policy_init": "pretrained"}, {"ppo.policy_init": "sft"}),)),
    Claim("Fig. 8", "the critic's initial weights hardly matter",
          (_against("gold", "same", {"ppo.critic_init": "sft"}, {"ppo.critic_init": "reward"}),)),
    Claim("Fig. 8", "critic pre-training steadies training",
          (_against("stable_updates", "higher", {"ppo.critic_pretrain": True}, {"ppo.critic_pretrain": False}, ("ppo.critic_pretrain_updates",)),)),
    Claim("Fig. 9", "PPO-max stays stable: fewer than one run in four collapses",
          (Part("collapsed", "below", {"ppo.kl_penalty": True, "ppo.reward_norm": True, "ppo.critic_pretrain": True, "ppo.grad_clip": True,
                                       "ppo.value_clip": True, "ppo.critic_init": "reward", "ppo.policy_init": "sft"}, bound=0.25),)),
    Claim("Fig. 14", "on normalised, clipped rewards a value clip does not help unless advantages are clipped too",
          (_against("stable_updates", "higher", {"ppo.reward_norm": True, "ppo.advantage_clip": 0.8}, {"ppo.reward_norm": True, "ppo.advantage_clip": None},
                    ("ppo.advantage_norm",)),)),
    Claim("Fig. 15", "a weaker KL penalty drifts further", _kl_order("kl", "lower")),
    Claim("Fig. 15", "a weaker KL penalty wins more reward", _kl_order("proxy", "lower")),
    Claim("Fig. 16", "the entropy bonus depends on its clip",
          (_against("stable_updates", "different", {"ppo.entropy_bonus": True, "ppo.entropy_clip_form": "min"}, {"ppo.entropy_bonus": True, "ppo.entropy_clip": None},
                    ("ppo.entropy_clip",)),)),
    Claim("Fig. 17", "the clipped surrogate has little effect on stability",
          (_against("stable_updates", "same", {"ppo.ratio_clip": True}, {"ppo.ratio_clip": False}, ("ppo.clip_range",)),)),
    Claim("Fig. 17", "the clipped surrogate is no substitute for a KL penalty",
          (_against("collapsed", "higher", {"ppo.ratio_clip": True, "ppo.kl_penalty": False}, {"ppo.ratio_clip": False, "ppo.kl_penalty": True},
                    (*KL, "ppo.clip_range")),)),
    Claim("Fig. 18", "gradient clipping makes no difference",
          (_against("stable_updates", "same", {"ppo.grad_clip": True}, {"ppo.grad_clip": False}, ("ppo.max_grad_norm",)),)),
    Claim("Fig. 19", "λ = 0 is less stable than λ near 1",
          (_against("stable_updates", "lower", {"ppo.gae_lambda": 0.0}, {"ppo.gae_lambda": 0.9}),)),
)  # fmt: skip
