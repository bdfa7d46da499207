"""Every setting: its meaning, unit, default and source. No torch here; tricks take plain numbers.

The dataclasses are Hydra's schema, so they stay mutable; `OmegaConf.to_object` turns the composed tree into these objects once.
A setting's legal values stand in its metadata and are checked by `ablate.settings.validation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Optional

PAPER = "Secrets of RLHF I (2307.04964)"
MOST = 2**20  # of what is drawn into memory at once: more is a slip, and would take hours before memory ends
# A choice is a str whose values are in the metadata: OmegaConf 2.3 refuses a Literal in a dataclass, and an Enum would put an object
# where config.yaml and the hash of a run's settings hold its name.


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    source: str = "",
    choices: tuple = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    needs: tuple[str, ...] = (),
    later: bool = False,
) -> Any:
    """A dataclass field that carries its meaning and its legal range (`low`/`high` inclusive, `above` exclusive).

    needs: toggles beside it, without any one of which it does nothing: it is then left out of a run's identity.
    later: added after runs had been made. At its default it is left out of a run's identity, so that theirs stays what it was.
    """
    metadata = dict(meaning=meaning, unit=unit, source=source, choices=choices, low=low, high=high, above=above)
    metadata |= dict(needs=needs, later=later)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class PPOConfig:
    """The toggles and their amounts. Defaults are the preset `ppo_max`; a null amount is a trick that is off."""

    kl_penalty: bool = setting(True, "subtract kl_coef × KL(π‖π_SFT) from the reward of every token", source=f"{PAPER} eqs. 3, 19")
    kl_coef: float = setting(0.1, "η, the weight of the token-level KL", unit="score per nat", low=0, needs=("kl_penalty",))
    kl_estimator: str = setting(
        "k1", "how the KL of a token is estimated in the penalty", choices=("k1", "k2", "k3", "full"),
        source="Schulman, Approximating KL divergence (2020)", needs=("kl_penalty",)
    )  # fmt: skip
    kl_adaptive: bool = setting(
        False,
        "steer kl_coef so that the KL per response approaches kl_target",
        source="Ziegler et al. 1909.08593, §2.2",
        needs=("kl_penalty",),
    )
    kl_target: float = setting(
        6.0, "target of the adaptive controller", unit="nats per response", above=0, needs=("kl_penalty", "kl_adaptive")
    )
    kl_horizon: float = setting(
        10_000.0, "responses in which the controller raises kl_coef by at most a factor e^0.2 = 1.22, or lowers it to 0.82",
        above=0, needs=("kl_penalty", "kl_adaptive"),
    )  # fmt: skip
    importance_sampling: str = setting(
        "behaviour", "whose log-probs are the old ones in the ratio: the sampling policy's or the SFT reference's",
        choices=("behaviour", "reference"), source=f"{PAPER} §5.3.3",
    )  # fmt: skip
    entropy_bonus: bool = setting(False, "add entropy_coef × mean per-token entropy to the objective", source=f"{PAPER} §5.3.3")
    entropy_coef: float = setting(
        0.01, "weight of the entropy bonus", unit="per nat", low=0, source=f"{PAPER} App. B.3", needs=("entropy_bonus",)
    )
    entropy_clip: Optional[float] = setting(
        None, "δ: the bonus is min(H, δ); null leaves it unclipped", unit="nats", above=0, needs=("entropy_bonus",)
    )
    entropy_clip_form: str = setting(
        "min",
        "min: min(H, δ); moss: −|H − δ|, as the released code has it",
        choices=("min", "moss"),
        needs=("entropy_bonus", "entropy_clip"),
    )
    entropy_adaptive: Optional[float] = setting(
        None, "H*: entropy_coef steps up after a rollout whose entropy is below H*, and down above it; null is off", unit="nats per token",
        above=0, source="Skywork-OR1 2505.22312, §4; TRL use_adaptive_entropy", needs=("entropy_bonus",), later=True,
    )  # fmt: skip
    entropy_adaptive_step: float = setting(
        0.005, "Δ, the step of the adaptive coefficient per update", unit="per nat", above=0, needs=("entropy_bonus", "entropy_adaptive"),
        later=True,
    )  # fmt: skip
    reward_scaling: bool = setting(False, "divide scores by their running standard deviation", source=f"{PAPER} §5.3.1")
    reward_norm: bool = setting(True, "subtract the mean of scores and divide by their standard deviation", source=f"{PAPER} eq. 18")
    reward_norm_over: str = setting(
        "history", "moments over all scores so far, or over this batch", choices=("history", "batch"), needs=("reward_norm",)
    )
    reward_clip: Optional[float] = setting(
        3.0, "δ: scores are clipped to ±δ, after norm or scaling; null is off", unit="score", above=0, source=f"{PAPER} eq. 18"
    )
    chi2_penalty: Optional[float] = setting(
        None, "λ: subtract λ × χ²(π‖π_ref) from the reward of every token; null is off", unit="score", above=0,
        source="Laidlaw et al. 2403.03185, §4", later=True,
    )  # fmt: skip
    reward_shape: str = setting(
        "none", "a bounded or saturating function of the score, before every other trick on it",
        choices=("none", "log_sigmoid", "sigmoid", "tanh", "minmax"), source="LSC 2402.00742; PAR 2502.18770", later=True,
    )  # fmt: skip
    reward_shape_references: int = setting(
        1, "k: the shaped score is that of R − R_ref, over k answers of SFT to the same prompt; 0: R_ref = 0", low=0, high=64,
        source="PAR 2502.18770, §4", needs=("reward_shape",), later=True,
    )  # fmt: skip
    ensemble_score: str = setting(
        "mean", "the score of an ensemble of reward models, each standardised: mean, worst, or the mean less λ × their variance",
        choices=("mean", "worst", "uncertainty"), source="Coste et al. 2310.02743, §3", later=True,
    )  # fmt: skip
    ensemble_coef: float = setting(0.5, "λ of ensemble_score=uncertainty", above=0, source="Coste et al. 2310.02743", later=True)
    length_penalty: str = setting(
        "none", "a cost of length on the score: linear in all tokens, or overlong: rising from free to the longest response",
        choices=("none", "linear", "overlong"), source="Singhal et al. 2310.03716; DAPO 2503.14476, §3.4", later=True,
    )  # fmt: skip
    length_penalty_coef: float = setting(
        0.05, "c of the length penalty, per token (linear) or of a response of the greatest length (overlong)", unit="score", above=0,
        needs=("length_penalty",), later=True,
    )  # fmt: skip
    length_penalty_free: int = setting(
        32, "L₀, the tokens that overlong leaves free", unit="tokens", low=0, needs=("length_penalty",), later=True
    )
    advantage_norm: bool = setting(True, "whiten advantages over the tokens of each minibatch", source=f"{PAPER} §5.3.1")
    advantage_clip: Optional[float] = setting(None, "δ: advantages are clipped to ±δ, after norm; null is off", above=0)
    value_clip: bool = setting(
        True, "hold the new value within ±value_clip_range of the old one in the value loss", source=f"{PAPER} eq. 16"
    )
    value_clip_range: float = setting(0.2, "range of the value clip", unit="reward", above=0, needs=("value_clip",))
    value_norm: bool = setting(
        False, "PopArt: the critic learns in units of the running moments of its returns; value_clip_range is then in these units",
        source="van Hasselt et al. 1602.07714; ReaLHF value_norm", later=True,
    )  # fmt: skip
    value_coef: float = setting(1.0, "weight of the value loss, the squared error (V − R)² without a half", above=0)
    ratio_clip: bool = setting(True, "PPO's clipped surrogate", source=f"{PAPER} eq. 15; Schulman et al. 1707.06347, eq. 7")
    clip_range: float = setting(0.2, "ε of the clipped surrogate", above=0, needs=("ratio_clip",))
    clip_range_high: Optional[float] = setting(
        None, "ε_high: the surrogate clips to [1 − clip_range, 1 + ε_high] (clip-higher); null: ε_high = clip_range", above=0,
        source="DAPO 2503.14476, §3.1", needs=("ratio_clip",), later=True,
    )  # fmt: skip
    policy_kl: bool = setting(
        False, "PPO-penalty: add policy_kl_coef × KL(π_b‖π_θ) to the loss, π_b the policy that sampled", source=f"{PAPER} eq. 14"
    )
    policy_kl_coef: float = setting(1.0, "β of PPO-penalty", unit="per nat", low=0, needs=("policy_kl",))
    kl_loss: bool = setting(
        False, "add kl_loss_coef × KL(π‖π_ref) to the loss, differentiated, instead of or beside the penalty in the reward",
        source="GRPO 2402.03300, §4.1; verl use_kl_loss", later=True,
    )  # fmt: skip
    kl_loss_coef: float = setting(0.1, "β of the KL in the loss", unit="per nat", low=0, needs=("kl_loss",), later=True)
    kl_loss_estimator: str = setting(
        "k2", "how the KL of a token is estimated in the loss; only k2 and full have the gradient of KL(π‖π_ref) at the sampled states",
        choices=("k1", "k2", "k3", "full"), source="2510.01555; 2512.21852", needs=("kl_loss",), later=True,
    )  # fmt: skip
    dual_clip: Optional[float] = setting(
        None, "c: where the advantage is negative the loss is at most c × |A|; null is off", above=1, source="Ye et al. 1912.09729, eq. 5",
        needs=("ratio_clip",), later=True,
    )  # fmt: skip
    divergence_mask: Optional[float] = setting(
        None, "δ: a token whose probability has moved by more than δ the way of its advantage leaves the policy's loss; null is off",
        above=0, high=1, source="DPPO 2602.04879; verl dppo_tv", later=True,
    )  # fmt: skip
    loss_aggregation: str = setting(
        "token", "the mean of the policy's terms: over the minibatch's tokens, over responses of their token means, or over a constant",
        choices=("token", "sequence", "constant"), source="DAPO 2503.14476, §3.3; Dr. GRPO 2503.20783, §3.1", later=True,
    )  # fmt: skip
    overlong_filter: bool = setting(
        False, "responses that never ended leave the loss and its counts", source="DAPO 2503.14476, §3.4; TRL mask_truncated_completions",
        later=True,
    )  # fmt: skip
    ratio_guard: Optional[float] = setting(
        None, "τ: a gradient step whose mean ratio is above τ is not made; null is off", above=1, source="ReaLHF early_stop_imp_ratio",
        later=True,
    )  # fmt: skip
    target_kl: Optional[float] = setting(
        None, "an update ends before the gradient step whose approx_kl is above 1.5 × it; null is off", unit="nats per token", above=0,
        source="Spinning Up; CleanRL; Stable-Baselines3", later=True,
    )  # fmt: skip
    grad_clip: bool = setting(True, "clip the global gradient norm of policy and critic together", source=f"{PAPER} §5.4")
    max_grad_norm: float = setting(1.0, "largest norm after clipping", above=0, needs=("grad_clip",))
    gae_lambda: float = setting(0.95, "λ of GAE", low=0, high=1, source=f"{PAPER} §4.1; Schulman et al. 1506.02438")
    gamma: float = setting(1.0, "discount per token", low=0, high=1)
    gae_lambda_critic: Optional[float] = setting(
        None, "λ_V: the critic's returns have a λ of their own; null: the advantages' λ", low=0, high=1,
        source="VC-PPO 2503.01491, §3.2; NeMo-RL gae_lambda_value", later=True,
    )  # fmt: skip
    gae_length_adaptive: Optional[float] = setting(
        None, "α: the advantages of a response of l tokens have λ = 1 − 1 / (α l); null is off", above=0,
        source="VAPO 2504.05118, §3.2; NeMo-RL length_adaptive_alpha", later=True,
    )  # fmt: skip
    advantage_estimator: str = setting(
        "gae", "where advantages come from: the critic (gae), the other answers to the prompt (rloo, grpo, dr_grpo), the greedy answer "
        "(remax) or the batch (reinforce); only gae has a critic", choices=("gae", "rloo", "grpo", "dr_grpo", "remax", "reinforce"),
        source="RLOO 2402.14740; GRPO 2402.03300; Dr. GRPO 2503.20783; ReMax 2310.10505; REINFORCE++ 2501.03262", later=True,
    )  # fmt: skip
    samples_per_prompt: int = setting(
        1, "k: batch_size / k prompts are answered k times each", low=1, source="verl rollout.n; TRL num_generations", later=True
    )
    critic_init: str = setting(
        "reward", "weights the critic starts from: the reward model, SFT with a new head, or none",
        choices=("reward", "sft", "random"), source=f"{PAPER} §5.3.4",
    )  # fmt: skip
    critic_pretrain: bool = setting(True, "train the critic alone on SFT rollouts before the first update", source=f"{PAPER} §5.3.4")
    critic_pretrain_updates: int = setting(
        10, "updates of critic pre-training, not counted in `updates`", low=0, needs=("critic_pretrain",)
    )
    policy_init: str = setting("sft", "weights the policy starts from", choices=("sft", "pretrained"), source=f"{PAPER} §5.3.4")
    ptx: bool = setting(False, "add ptx_coef × language-model loss on pretraining text", source=f"{PAPER} eq. 17")
    ptx_coef: float = setting(0.1, "weight of the pretraining loss", unit="per nat", low=0, needs=("ptx",))
    missing_eos_penalty: Optional[float] = setting(
        None, "p, the penalty on the score of a response that never ended; null is off", unit="score", above=0,
        source="lm-human-preferences; TRL",
    )  # fmt: skip
    missing_eos_form: str = setting(
        "subtract", "subtract: a response that never ended has its score less p; replace: it has −p", choices=("subtract", "replace"),
        source="subtract: TRL; replace: lm-human-preferences", needs=("missing_eos_penalty",), later=True,
    )  # fmt: skip
    bootstrap_truncated: bool = setting(
        False, "a truncated response goes on: it gets no score, and the critic's value after its last token takes its place",
        source="Pardo et al. 1712.00378, §3",
    )  # fmt: skip
    reference_update: str = setting(
        "none", "whether π_ref of the penalties moves: ema: π_ref ← α π + (1 − α) π_ref on weights; reset: π_ref ← π; none: it stays SFT",
        choices=("none", "ema", "reset"), source="TR-DPO 2404.09656, §3; ProRL 2505.24864, §2.3; TRL sync_ref_model", later=True,
    )  # fmt: skip
    reference_update_rate: float = setting(
        0.6, "α of ema", above=0, high=1, source="TRL ref_model_mixup_alpha", needs=("reference_update",), later=True
    )
    reference_update_every: int = setting(
        10, "updates between two moves of the reference", low=1, source="TRL ref_model_sync_steps", needs=("reference_update",), later=True
    )
    mismatch_correction: str = setting(
        "none", "where the sampler has other weights than the policy: the policy's loss is weighted by w = π_old / π_sampler, or (bypass) "
        "its ratio is to the sampler", choices=("none", "bypass", "tis", "icepop", "sequence_mask"),
        source="TIS 2510.18855; IcePop; 2512.23075; AReaL 2505.24298", later=True,
    )  # fmt: skip
    mismatch_low: float = setting(
        0.5, "a, the least weight that icepop and sequence_mask keep", low=0, needs=("mismatch_correction",), later=True
    )
    mismatch_high: float = setting(
        2.0, "b, the greatest weight that icepop and sequence_mask keep; C of tis", above=0, needs=("mismatch_correction",), later=True
    )
    updates: int = setting(100, "PPO updates", low=1)
    batch_size: int = setting(128, "responses sampled per update (the experience buffer)", low=1, high=MOST, source=f"{PAPER} code")
    minibatch_size: int = setting(32, "responses per gradient step", low=1, source=f"{PAPER} code")
    micro_batch_size: int = setting(32, "responses per forward pass; never changes the result", low=1)
    epochs: int = setting(1, "passes over the buffer", low=1, source=f"{PAPER} code")
    learning_rate: float = setting(5e-4, "policy learning rate", low=0)
    critic_learning_rate: float = setting(1.5e-3, "critic learning rate", low=0)
    lr_schedule: str = setting(
        "constant", "after warm-up: constant, falling as the inverse square root of the step, or linearly to 0 at the run's end",
        choices=("constant", "inverse_sqrt", "linear"),
    )  # fmt: skip
    warmup_ratio: float = setting(0.0, "share of gradient steps over which the rates rise linearly from 0", low=0, high=1)
    adam_betas: List[float] = setting([0.9, 0.95], "Adam's β", source=f"{PAPER} code")
    adam_eps: float = setting(1e-6, "Adam's ε for the policy", above=0, source=f"{PAPER} code")
    critic_adam_eps: float = setting(1e-8, "Adam's ε for the critic", above=0, source=f"{PAPER} code")

    @property
    def has_critic(self) -> bool:
        """Whether a critic is built and trained."""
        return self.advantage_estimator == "gae"

    @property
    def reads_gae_lambda(self) -> bool:
        """Whether gae_lambda sets the λ of the advantages or of the critic's returns: not where each has another."""
        return self.has_critic and (self.gae_length_adaptive is None or self.gae_lambda_critic is None)

    @property
    def answers_greedily(self) -> bool:
        """Whether each prompt is also answered greedily, as a baseline."""
        return self.advantage_estimator == "remax"

    @property
    def compares_answers(self) -> bool:
        """Whether an advantage compares answers to one prompt: several samples, or a sample and the greedy answer."""
        return self.advantage_estimator in ("rloo", "grpo", "dr_grpo", "remax")

    @property
    def full_kl_in_loss(self) -> bool:
        """Whether gradient steps need the reference's whole distributions."""
        return self.kl_loss and self.kl_loss_estimator == "full"

    @property
    def steers_entropy(self) -> bool:
        """Whether the weight of the entropy bonus moves."""
        return self.entropy_bonus and self.entropy_adaptive is not None

    @property
    def measures_chi2(self) -> bool:
        """Whether rollouts are measured by χ²(π‖π_ref)."""
        return self.chi2_penalty is not None

    @property
    def references_per_prompt(self) -> int:
        """Answers of SFT that are sampled and scored beside each response."""
        return self.reward_shape_references if self.reward_shape not in ("none", "minmax") else 0

    @property
    def moves_reference(self) -> bool:
        """Whether the reference has weights of its own, which are SFT's at the start."""
        return self.reference_update != "none"


@dataclass
class SamplingConfig:
    temperature: float = setting(1.0, "sampling temperature", above=0)
    top_p: float = setting(1.0, "nucleus; below 1 only as an explicit mismatch", above=0, high=1)
    repetition_penalty: float = setting(
        1.0, "logits of seen tokens are divided by it (×, where negative); not 1 only as a mismatch", above=0
    )
    max_new_tokens: int = setting(48, "longest response; data=world sets 96", unit="tokens", low=1, high=MOST)
    match_training_distribution: bool = setting(
        True, "log-probs of policy and reference are those of the distribution sampled from; false reproduces MOSS's mismatch (raw T = 1)"
    )
    staleness: int = setting(
        0, "n: rollouts come from the policy n updates ago, as in asynchronous training", unit="updates", low=0, high=64,
        source="AReaL 2505.24298", later=True,
    )  # fmt: skip
    sampler_precision: str = setting(
        "fp32", "rollouts come from a copy of the policy whose weights are rounded: bf16, int8 per output channel, or fp32: not at all",
        choices=("fp32", "bf16", "int8"), source="2510.18855; 2512.23075", later=True,
    )  # fmt: skip

    @property
    def has_own_weights(self) -> bool:
        """Whether rollouts are sampled by other weights than the policy's."""
        return self.staleness > 0 or self.sampler_precision != "fp32"

    @property
    def training_temperature(self) -> float:
        """Temperature of the log-probs that PPO trains on: the sampler's, or 1 under MOSS's mismatch."""
        return self.temperature if self.match_training_distribution else 1.0


@dataclass
class EvaluationConfig:
    every: int = setting(5, "updates between evaluations; the last update is always evaluated", low=1)
    dense_until: int = setting(
        0, "also evaluate after each of the first so many updates, where KL moves fast; these decide no collapse", low=0, later=True
    )
    prompts: int = setting(256, "held-out prompts", low=2, high=MOST)
    samples: int = setting(8, "prompts whose answers are written to samples.jsonl at each evaluation", low=0)
    win_margin: float = setting(0.0, "a gold difference up to this is a tie", unit="gold", low=0)
    text_path: Optional[str] = setting(
        None, "JSONL with `text`, never trained on, for eval/lm_loss; null: text of the world's corpus, nothing for human data", later=True
    )
    choices_path: Optional[str] = setting(
        None, "JSONL with `prompt`, `choices` and `answer` (an index) for eval/choice_accuracy; null: questions on the world's corpus, "
        "nothing for human data", later=True,
    )  # fmt: skip


@dataclass
class CollapseConfig:
    threshold: float = setting(1.0, "collapse: mean gold below SFT's mean minus this many SDs of SFT's per-response gold", unit="SD", low=0)
    patience: int = setting(3, "consecutive evaluations below the threshold", low=1)
    stop: bool = setting(False, "end the run at collapse")
    by: Optional[str] = setting(
        None, "what judges: the gold reward, or alarms on monitors that need none; null: gold where there is one, else alarms",
        choices=("gold", "alarms"), later=True,
    )  # fmt: skip


@dataclass
class CheckpointConfig:
    every: int = setting(10, "updates between checkpoints; 0 keeps none until the end", low=0)
    keep: int = setting(2, "newest checkpoints kept; 0 keeps all (to fork from)", low=0)


@dataclass
class BugsConfig:
    """Famous bugs as arms. All off; nothing else turns them on."""

    reward_on_pad: bool = setting(False, "the score lands one position after the last token and is lost", source="trl#3750")
    dropout_in_rollouts: bool = setting(False, "old log-probs are computed with dropout on", source="trl#853-like threads")
    unmasked_whitening: bool = setting(False, "pads count in the moments of advantage_norm", source="trl#2022")
    kl_wrong_sign: bool = setting(False, "the KL penalty is added, not subtracted", source="trlX")
    micro_batch_mean: bool = setting(
        False, "the value loss is a mean over each micro-batch's own tokens, so a token counts more in a micro-batch of fewer",
        source="verl#6957", later=True,
    )  # fmt: skip
    kl_loss_clamped: bool = setting(
        False, "k3 in the loss is held at 10, which leaves the tokens that have gone farthest without a gradient", source="NeMo-RL#2958",
        later=True,
    )  # fmt: skip
    optimizer_reset_every: int = setting(
        0, "n: Adam forgets its moments after every n updates, as a run does that is resumed without its optimiser; 0 is off", low=0,
        unit="updates", source="NeMo-RL#3171", later=True,
    )  # fmt: skip
    nested_reward_norm: bool = setting(False, "reward_norm acts only if reward_scaling is on too", source="MOSS-RLHF")


@dataclass(frozen=True)
class PPOSettings:
    """What the functions of the PPO core read, as one record."""

    ppo: PPOConfig = field(default_factory=PPOConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    bugs: BugsConfig = field(default_factory=BugsConfig)


@dataclass
class ModelConfig:
    path: Optional[str] = setting(
        None, "a Hugging Face causal LM to start from, a folder or a hub name; null trains one from scratch on the corpus"
    )
    hidden_size: int = setting(64, "width", low=1)
    layers: int = setting(2, "decoder layers", low=1)
    heads: int = setting(4, "attention heads", low=1)
    intermediate_size: int = setting(128, "width of the MLP", low=1)
    lora_rank: int = setting(
        0, "r: PPO trains adapters of this rank on policy and critic (with its score head) over weights that stay; 0 trains all",
        low=0, source="Hu et al. 2106.09685",
    )  # fmt: skip
    lora_alpha: float = setting(32.0, "α: an adapter is scaled by α / r", above=0)
    lora_targets: Optional[List[str]] = setting(
        None, "layers that get an adapter, by last name ([q_proj,v_proj]); null: every linear layer of the decoder"
    )
    gradient_checkpointing: bool = setting(
        False, "keep only each layer's input in PPO's forward pass and compute the rest again in the backward one; changes no number",
        source="Chen et al. 1604.06174",
    )  # fmt: skip
    frozen_dtype: str = setting(
        "fp32", "what PPO holds the matrices of frozen models in (reference, reward models, gold.path): fp32, or bf16, which halves them; "
        "products stay those of precision", choices=("fp32", "bf16"), later=True,
    )  # fmt: skip


@dataclass
class DataConfig:
    source: str = setting(
        "world", "where prompts, demonstrations and pairs come from: the embedded world, or a format of human dialogues",
        choices=("world", "hh_rlhf", "moss", "jsonl", "hub"),
    )  # fmt: skip
    language: str = setting("en", "language of the world", choices=("en", "zh"))
    path: Optional[str] = setting(
        None, "of human dialogues: a file or folder (.jsonl, .json, also .gz), or with source=hub a data set's name"
    )
    split: str = setting("train", "split of a hub data set")
    max_malformed: float = setting(0.05, "greatest share of rows that may be malformed; they are skipped and shown", low=0, high=1)
    max_prompt_tokens: int = setting(256, "longer prompts of human dialogues are dropped and counted", unit="tokens", low=1)
    max_response_tokens: int = setting(256, "demonstrations and pairs with a longer answer are dropped and counted", unit="tokens", low=1)
    held_out_share: float = setting(0.1, "share of human prompts kept for evaluation, chosen by a hash of the prompt", above=0, high=0.9)
    vocabulary: int = setting(
        8192, "size of the byte-level BPE trained on the dialogues where the model is trained from scratch", unit="tokens", low=264
    )


@dataclass
class GoldConfig:
    path: Optional[str] = setting(
        None, "a second reward model, a folder or hub name, whose score of an answer is its gold where the data has none"
    )


@dataclass
class CriticConfig:
    path: Optional[str] = setting(
        None, "the critic starts from this Hugging Face sequence classifier, a folder or hub name, instead of as ppo.critic_init says: one "
        "that python -m ablate.export has written serves many runs", source="VC-PPO 2503.01491, §3.1; NeMo-RL warm_start_value_checkpoint",
    )  # fmt: skip


@dataclass
class StageConfig:
    """Optimisation of one supervised stage."""

    path: Optional[str] = setting(None, "use this Hugging Face folder or hub name instead of building the stage")
    examples: int = setting(8000, "training examples drawn; all there are, where the data has fewer", low=1)
    steps: int = setting(600, "gradient steps", low=0)
    batch_size: int = setting(64, "examples per step", low=1)
    learning_rate: float = setting(3e-3, "peak of a linear warm-up (10 %) and cosine decay", low=0)


@dataclass
class PreferencesConfig:
    path: Optional[str] = setting(None, "a folder with train.jsonl and held_out.jsonl (prompt, chosen, rejected) instead of drawing pairs")
    pairs: int = setting(
        2000, "training pairs: sampled from SFT, or drawn from human data, all there are where it has fewer", low=1, high=MOST
    )
    held_out_pairs: int = setting(1000, "pairs kept for the RM's accuracy; human ones are of held-out prompts", low=1)
    half: str = setting(
        "all", "which half of the human training pairs, by a hash of the prompt: so a second reward model (gold.path) sees other pairs",
        choices=("all", "first", "second"), later=True,
    )  # fmt: skip
    noise: float = setting(0.5, "labels follow sigmoid(Δgold / noise); 0 is noiseless", unit="gold", low=0)
    margin: float = setting(0.0, "least |Δgold| of a pair", unit="gold", low=0)
    length_bias: float = setting(
        0.0, "b: the annotator also likes length, P(first preferred) = sigmoid((Δgold + b Δwords) / noise); data=world sets 0.1",
        unit="gold per word",
        source="Singhal et al. 2310.03716", later=True,
    )  # fmt: skip


@dataclass
class RewardModelConfig:
    path: Optional[str] = setting(None, "use this Hugging Face sequence classifier, a folder or a hub name, instead of training one")
    steps: int = setting(400, "gradient steps", low=0)
    batch_size: int = setting(32, "pairs per step", low=1)
    learning_rate: float = setting(1e-3, "peak of a linear warm-up (10 %) and cosine decay", low=0)
    lm_coef: float = setting(1.0, "β_rm, weight of the language-model loss on the preferred response", low=0, source=f"{PAPER} eq. 2")
    ensemble: int = setting(
        1, "k reward models in place of one, each a cached stage; ppo.ensemble_score says how their scores become one", low=1, high=64,
        source="Coste et al. 2310.02743; Eisenstein et al. 2312.09244", later=True,
    )  # fmt: skip
    ensemble_varies: str = setting(
        "initialisation", "what sets member i ≥ 2 apart from the first: a random head and its own order of pairs, its own order alone, or "
        "order and a bootstrap sample of the pairs", choices=("initialisation", "order", "data"), later=True,
    )  # fmt: skip
    average: bool = setting(
        False, "one reward model whose weights are the mean of the members', which share their initialisation (WARM)",
        source="Ramé et al. 2401.12187", later=True,
    )  # fmt: skip


@dataclass
class Config:
    ppo: PPOConfig = field(default_factory=PPOConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    bugs: BugsConfig = field(default_factory=BugsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)
    sft: StageConfig = field(default_factory=StageConfig)
    preferences: PreferencesConfig = field(default_factory=PreferencesConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    gold: GoldConfig = field(default_factory=GoldConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    seed: int = setting(0, "moves PPO alone: prompts, sampling noise, minibatch order, a new critic head", low=0)
    pipeline_seed: int = setting(0, "moves world, SFT, pairs and RM", low=0)
    study: str = setting("default", "folder of the runs that are compared: results/<study>/<arm>/seed=<n>")
    arm: Optional[str] = setting(None, "name of the arm's folder; null makes it from the overrides")
    fork: Optional[str] = setting(
        None, "a checkpoint folder to branch from; its policy, critic and optimiser continue under these settings"
    )
    results: str = setting("results", "where run folders are written")
    cache: str = setting("~/.cache/ppo-ablation", "where built stages are kept")
    device: str = setting("auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = setting("fp32", "fp32, or bf16 by autocast (weights, log-softmax and losses stay float32)", choices=("fp32", "bf16"))
    offload: bool = setting(
        False, "reference and reward model rest in CPU memory and are on the GPU only while rollouts are measured; changes no number"
    )
    threads: int = setting(1, "CPU threads of a run; equal bits need equal threads", low=1)
    jobs: Optional[int] = setting(None, "runs at a time in a sweep; null is cores divided by threads", low=1)
    tracker: Any = setting(
        "wandb", "what mirrors the run folder, one name or a list such as [wandb,tensorboard]; nothing leaves the machine unless "
        "WANDB_MODE=online or MLFLOW_TRACKING_URI says so; none is off", choices=("wandb", "trackio", "tensorboard", "mlflow", "none"),
    )  # fmt: skip
    sweep: Any = setting(None, "a study from sweeps/; needs -m")

    @property
    def trackers(self) -> list[str]:
        """The trackers that `tracker` names, without none; in its order."""
        named = self.tracker if isinstance(self.tracker, (list, tuple)) else [self.tracker]
        return [name for name in named if name != "none"]

    def ppo_settings(self) -> PPOSettings:
        """The part that the PPO core reads."""
        return PPOSettings(self.ppo, self.sampling, self.bugs)
