"""Claims of the papers since "Secrets of RLHF Part I" that our runs can judge, in settings. The words are ours.

Some contradict each other, as the papers do: what one calls essential another leaves out.
"""

from __future__ import annotations

from analysis.claims.judge import Claim, Part
from analysis.claims.paper import KL, ppo

NO_KL = ppo(kl_penalty=False, kl_loss=False)
IN_REWARD = ppo(kl_penalty=True, kl_loss=False)
IN_LOSS = ppo(kl_penalty=False, kl_loss=True)
AMOUNTS = (*KL, "ppo.kl_loss_coef", "ppo.kl_loss_estimator")
ONE, FOUR = {"reward_model.ensemble": 1, "ppo.ensemble_score": "mean"}, {"reward_model.ensemble": 4}
SHAPE = ("ppo.reward_shape_references",)
STALE = {"sampling.staleness": 4}
GROUPS = ppo(samples_per_prompt=4)


def _pair(outcome: str, expects: str, on: dict, off: dict, *linked: str) -> tuple[Part, ...]:
    return (Part(outcome, expects, on, off, linked=linked),)


def _estimator(name: str) -> dict:
    return {**IN_LOSS, **ppo(kl_loss_estimator=name)}


MODERN_CLAIMS = (
    Claim("2510.01555", "a KL in the loss by k2 holds as the penalty by k1 in the reward does",
          _pair("collapsed", "same", _estimator("k2"), {**IN_REWARD, **ppo(kl_estimator="k1")}, *AMOUNTS)),
    Claim("2510.01555", "a KL in the loss by k3 drifts further than by k2", _pair("kl", "higher", _estimator("k3"), _estimator("k2"))),
    Claim("2510.01555", "a KL in the loss by k1 holds no more than none", _pair("collapsed", "same", _estimator("k1"), NO_KL, *AMOUNTS)),
    Claim("GRPO 2402.03300", "a KL in the loss by k3 prevents collapse", _pair("collapsed", "lower", _estimator("k3"), NO_KL, *AMOUNTS)),
    Claim("VC-PPO 2503.01491", "λ = 1 for the critic alone steadies training",
          _pair("stable_updates", "higher", ppo(gae_lambda_critic=1.0, gae_length_adaptive=None), ppo(gae_lambda_critic=None))),
    Claim("VAPO 2504.05118", "a λ of the policy that grows with the length gives more gold",
          _pair("gold", "higher", ppo(gae_lambda_critic=1.0, gae_length_adaptive=0.4),
                ppo(gae_lambda_critic=1.0, gae_length_adaptive=None))),
    Claim("Coste et al. 2310.02743", "the worst score of four reward models prevents over-optimisation",
          _pair("collapsed", "lower", {**FOUR, **ppo(ensemble_score="worst")}, ONE)),
    Claim("Coste et al. 2310.02743", "the mean less the variance of four reward models prevents over-optimisation",
          _pair("collapsed", "lower", {**FOUR, **ppo(ensemble_score="uncertainty")}, ONE, "ppo.ensemble_coef")),
    Claim("Eisenstein et al. 2312.09244", "the mean of four reward models gives more gold than one",
          _pair("gold", "higher", {**FOUR, **ppo(ensemble_score="mean"), "reward_model.average": False}, ONE)),
    Claim("WARM 2401.12187", "a reward model of averaged weights gives more gold than one",
          _pair("gold", "higher", {**FOUR, "reward_model.average": True}, {**ONE, "reward_model.average": False},
                "reward_model.ensemble_varies")),
    Claim("PAR 2502.18770", "a sigmoid of the score over SFT's prevents reward hacking",
          _pair("collapsed", "lower", ppo(reward_shape="sigmoid", reward_shape_references=4, reward_clip=None),
                ppo(reward_shape="none", reward_clip=None), *SHAPE)),
    Claim("PAR 2502.18770", "minmax does not prevent reward hacking",
          _pair("collapsed", "same", ppo(reward_shape="minmax", reward_clip=None), ppo(reward_shape="none", reward_clip=None), *SHAPE)),
    Claim("LSC 2402.00742", "the log-sigmoid of the score over SFT's prevents reward hacking",
          _pair("collapsed", "lower", ppo(reward_shape="log_sigmoid", reward_clip=None),
                ppo(reward_shape="none", reward_clip=None), *SHAPE)),
    Claim("Singhal et al. 2310.03716", "a cost of length shortens the answers and takes no gold",
          _pair("length", "lower", ppo(length_penalty="linear"), ppo(length_penalty="none"), "ppo.length_penalty_coef")
          + _pair("gold", "higher", ppo(length_penalty="linear"), ppo(length_penalty="none"), "ppo.length_penalty_coef")),
    Claim("DAPO 2503.14476", "leaving truncated answers out of the loss steadies training",
          _pair("stable_updates", "higher", ppo(overlong_filter=True), ppo(overlong_filter=False))),
    Claim("DAPO 2503.14476", "a higher upper clip steadies training",
          _pair("stable_updates", "higher", ppo(clip_range_high=0.28), ppo(clip_range_high=None))),
    Claim("1912.09729", "a dual clip steadies training", _pair("stable_updates", "higher", ppo(dual_clip=3.0), ppo(dual_clip=None))),
    Claim("DPPO 2602.04879", "a mask by probabilities is steadier than the clip of ratios",
          _pair("stable_updates", "higher", ppo(ratio_clip=False, divergence_mask=0.1), ppo(ratio_clip=True, divergence_mask=None),
                "ppo.clip_range", "ppo.clip_range_high", "ppo.dual_clip")),
    Claim("Dr. GRPO 2503.20783", "a mean over responses makes longer answers than a mean over tokens",
          _pair("length", "higher", ppo(loss_aggregation="sequence"), ppo(loss_aggregation="token"))),
    Claim("RLOO 2402.14740", "RLOO gives as much gold as PPO with a critic",
          _pair("gold", "same", {**GROUPS, **ppo(advantage_estimator="rloo")}, {**GROUPS, **ppo(advantage_estimator="gae")})),
    Claim("AsyPPO 2510.01656", "GRPO gives less gold than PPO with a critic",
          _pair("gold", "lower", {**GROUPS, **ppo(advantage_estimator="grpo")}, {**GROUPS, **ppo(advantage_estimator="gae")})),
    Claim("2512.23075", "a sampler four updates behind destabilises training",
          _pair("stable_updates", "lower", {**STALE, **ppo(mismatch_correction="none")}, {"sampling.staleness": 0})),
    Claim("2512.23075", "masking whole responses cures a sampler four updates behind",
          _pair("stable_updates", "higher", {**STALE, **ppo(mismatch_correction="sequence_mask")},
                {**STALE, **ppo(mismatch_correction="none")}, "ppo.mismatch_low", "ppo.mismatch_high")),
    Claim("2510.18855", "truncated importance weights cure a sampler rounded to int8",
          _pair("stable_updates", "higher", {"sampling.sampler_precision": "int8", **ppo(mismatch_correction="tis")},
                {"sampling.sampler_precision": "int8", **ppo(mismatch_correction="none")}, "ppo.mismatch_high")),
    Claim("TR-DPO 2404.09656", "a reference that follows the policy gives more gold",
          _pair("gold", "higher", ppo(reference_update="ema"), ppo(reference_update="none"), "ppo.reference_update_rate",
                "ppo.reference_update_every")),
    Claim("Spinning Up", "ending an update at a KL prevents collapse",
          _pair("collapsed", "lower", ppo(target_kl=0.01), ppo(target_kl=None))),
    Claim("ReaLHF", "leaving out steps whose ratios have run away prevents collapse",
          _pair("collapsed", "lower", ppo(ratio_guard=1.2), ppo(ratio_guard=None))),
    Claim("PopArt 1602.07714", "a critic in units of its returns steadies training",
          _pair("stable_updates", "higher", ppo(value_norm=True), ppo(value_norm=False))),
)  # fmt: skip
