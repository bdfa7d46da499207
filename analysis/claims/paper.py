"""The claims of "Secrets of RLHF Part I" (2307.04964) that our runs can judge, figure by figure, in settings.

The words are ours. A claim is judged in every study that holds its arms; "collapse" is ours too, the paper shows curves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from analysis.claims.judge import MAX_VALUE, MIN_VALUE, Claim, Part


def ppo(**settings: Any) -> dict[str, Any]:
    """Settings under their dotted names."""
    return {f"ppo.{name}": value for name, value in settings.items()}


KL = ("ppo.kl_coef", "ppo.kl_estimator")
ENTROPY = ("ppo.entropy_coef", "ppo.entropy_clip", "ppo.entropy_clip_form")
PLAIN = ppo(kl_penalty=False, entropy_bonus=False, importance_sampling="behaviour")
KL_ALONE = {**PLAIN, **ppo(kl_penalty=True)}
REFERENCE = ppo(importance_sampling="reference")
VANILLA = {**PLAIN, **ppo(reward_scaling=False, reward_norm=False, reward_clip=None, advantage_norm=False, critic_pretrain=False)}
MAX = ppo(kl_penalty=True, reward_norm=True, critic_pretrain=True, critic_init="reward", policy_init="sft", grad_clip=True, value_clip=True)
FEW_PAIRS, MANY_PAIRS = {"preferences.pairs": MIN_VALUE}, {"preferences.pairs": MAX_VALUE}
CLEAR_PAIRS = {"preferences.noise": MIN_VALUE, "preferences.margin": MAX_VALUE}
HARD_PAIRS = {"preferences.noise": MAX_VALUE, "preferences.margin": MIN_VALUE}
EARLY_RM, LATE_RM = {"reward_model.steps": MIN_VALUE}, {"reward_model.steps": MAX_VALUE}
BOTH_CLIPPED = ppo(reward_norm=True, reward_clip=0.8, advantage_norm=True, advantage_clip=0.8)


def _vanilla_collapses() -> tuple[Part, ...]:
    return Part("collapsed", "above", VANILLA, bound=0.5), Part("proxy_gain", "above", VANILLA), Part("gold_gain", "below", VANILLA)


def _beats_sft(language: str) -> tuple[Part, ...]:
    """More wins than losses by the gold reward on either kind of prompt."""
    arm = {**MAX, "data.language": language}
    return tuple(Part(f"win_margin_{kind}", "above", arm) for kind in ("helpful", "harmful"))


def _rm_bounds_policy() -> tuple[Part, ...]:
    """Fewer pairs and noisier pairs each lower the reward model's accuracy and, through it, the policy's gold."""
    pairs_of = ((MANY_PAIRS, FEW_PAIRS), (CLEAR_PAIRS, HARD_PAIRS))
    return tuple(Part(outcome, "higher", better, worse) for outcome in ("rm_accuracy", "gold") for better, worse in pairs_of)


def _with(outcome: str, expects: str, on: dict, off: dict, *linked: str) -> tuple[Part, ...]:
    return (Part(outcome, expects, on, off, linked=linked),)


def _clipped(trick: str, clip: str, deltas: tuple[float, ...]) -> tuple[Part, ...]:
    """A part a δ: the normalisation with its clip at δ against neither."""
    off = ppo(**{trick: False, clip: None})
    return tuple(
        Part("stable_updates", "higher", ppo(**{trick: True, clip: delta}), off, linked=("ppo.reward_norm_over",)) for delta in deltas
    )


def _ability(name: str, cost: str, won_back: str) -> tuple[Part, ...]:
    """PPO-max alone is worse than SFT, and with ptx better than without; there is a sign for either."""
    alone = {**MAX, **ppo(ptx=False)}
    return Part(f"{name}_gain", cost, alone), Part(name, won_back, {**MAX, **ppo(ptx=True)}, alone, linked=("ppo.ptx_coef",))


def _kl_order(outcome: str) -> tuple[Part, ...]:
    """η ∈ {0.05, 0.1, 0.2}: each step up lowers the outcome."""
    at = [ppo(kl_penalty=True, kl_coef=eta) for eta in (0.05, 0.1, 0.2)]
    return tuple(Part(outcome, "lower", stronger, weaker) for weaker, stronger in pairwise(at))


PAPER_CLAIMS = (
    Claim("Fig. 2", "clearer preference pairs give a more accurate reward model", _with("rm_accuracy", "higher", CLEAR_PAIRS, HARD_PAIRS)),
    Claim("Fig. 3", "the reward model's accuracy saturates early", _with("rm_accuracy", "same", EARLY_RM, LATE_RM)),
    Claim("Fig. 3", "an early reward model makes a worse policy although its accuracy is close",
          _with("rm_accuracy", "same", EARLY_RM, LATE_RM) + _with("gold", "lower", EARLY_RM, LATE_RM)),
    Claim("Fig. 4", "vanilla PPO collapses: proxy reward rises while gold falls", _vanilla_collapses()),
    Claim("Fig. 6", "reward scaling alone changes nothing",
          _with("stable_updates", "same", ppo(reward_scaling=True), ppo(reward_scaling=False))),
    Claim("Fig. 6", "reward normalisation with clipping steadies training", _clipped("reward_norm", "reward_clip", (0.3, 0.8))),
    Claim("Fig. 6", "advantage normalisation with clipping steadies training", _clipped("advantage_norm", "advantage_clip", (0.12, 0.5))),
    Claim("Fig. 7", "a token-level KL penalty prevents collapse", _with("collapsed", "lower", KL_ALONE, PLAIN, *KL)),
    Claim("Fig. 7", "an entropy bonus prevents collapse",
          _with("collapsed", "lower", {**PLAIN, **ppo(entropy_bonus=True)}, PLAIN, *ENTROPY)),
    Claim("Fig. 7", "importance sampling against the reference does not prevent collapse",
          _with("collapsed", "same", {**PLAIN, **REFERENCE}, PLAIN)),
    Claim("Fig. 7", "importance sampling on top of the KL penalty costs reward",
          _with("proxy", "lower", {**KL_ALONE, **REFERENCE}, KL_ALONE)),
    Claim("Fig. 8", "without SFT the policy fails", _with("gold", "lower", ppo(policy_init="pretrained"), ppo(policy_init="sft"))),
    Claim("Fig. 8", "the critic's initial weights hardly matter", _with("gold", "same", ppo(critic_init="sft"), ppo(critic_init="reward"))),
    Claim("Fig. 8", "critic pre-training steadies training",
          _with("stable_updates", "higher", ppo(critic_pretrain=True), ppo(critic_pretrain=False), "ppo.critic_pretrain_updates")),
    Claim("Fig. 9", "PPO-max stays stable: fewer than one run in four collapses", (Part("collapsed", "below", MAX, bound=0.25),)),
    Claim("Fig. 10", "PPO-max beats SFT in English, on helpful and on harmful prompts", _beats_sft("en")),
    Claim("Fig. 10", "PPO-max beats SFT in Chinese, on helpful and on harmful prompts", _beats_sft("zh")),
    Claim("Fig. 11", "PPO-max loses less often than SFT to a third model in English",
          (Part("third_losses", "below", {**MAX, "data.language": "en"}),)),
    Claim("Fig. 11", "PPO-max loses less often than SFT to a third model in Chinese",
          (Part("third_losses", "below", {**MAX, "data.language": "zh"}),)),
    Claim("Fig. 12", "PPO costs ability on general text and ptx wins part of it back, by the loss on held-out text",
          _ability("lm_loss", "above", "lower")),
    Claim("Fig. 12", "PPO costs ability on general text and ptx wins part of it back, by multiple choice",
          _ability("choice_accuracy", "below", "higher")),
    Claim("Fig. 13", "the collapse of vanilla PPO gives its proxy scores a long tail", (Part("proxy_tail", "above", VANILLA),)),
    Claim("Fig. 14", "a value clip on top of reward and advantage clips destabilises",
          _with("stable_updates", "lower", {**BOTH_CLIPPED, **ppo(value_clip=True)}, {**BOTH_CLIPPED, **ppo(value_clip=False)},
                "ppo.value_clip_range")),
    Claim("Fig. 15", "a weaker KL penalty drifts further", _kl_order("kl")),
    Claim("Fig. 15", "a weaker KL penalty wins more reward", _kl_order("proxy")),
    Claim("Fig. 16", "the entropy bonus depends on its clip",
          _with("stable_updates", "different", ppo(entropy_bonus=True, entropy_clip_form="min"), ppo(entropy_bonus=True, entropy_clip=None),
                "ppo.entropy_clip")),
    Claim("Fig. 17", "the clipped surrogate has little effect on stability",
          _with("stable_updates", "same", ppo(ratio_clip=True), ppo(ratio_clip=False), "ppo.clip_range")),
    Claim("Fig. 17", "the clipped surrogate is no substitute for a KL penalty",
          _with("collapsed", "higher", {**PLAIN, **ppo(ratio_clip=True)}, KL_ALONE, *KL, "ppo.clip_range")),
    Claim("Fig. 18", "gradient clipping makes no difference",
          _with("stable_updates", "same", ppo(grad_clip=True), ppo(grad_clip=False), "ppo.max_grad_norm")),
    Claim("Fig. 19", "λ = 0 is less stable than λ near 1", _with("stable_updates", "lower", ppo(gae_lambda=0.0), ppo(gae_lambda=0.9))),
    Claim("main finding", "the reward model's quality bounds the policy's", _rm_bounds_policy()),
)  # fmt: skip

# What is said of a figure where a study's runs judge no claim of it.
UNJUDGED = (
    ("Fig. 11", "RLHF loses less often than SFT to a third model",
     "no run of PPO-max here has been judged against one: python -m ablate.judge RUN THIRD and RUN:sft THIRD would"),
    ("Fig. 12", "PPO costs ability on general text and ptx wins part of it back",
     "no arms of this study differ in ptx, or its runs have not logged eval/lm_loss, as runs of older versions and on human data without "
     "evaluation.text_path have not"),
)  # fmt: skip
