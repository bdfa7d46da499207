"""The metrics of other trainers as monitors of this project: one table, with the file of their code that logs each name.

Each name was read in that file at the commit of `Trainer.commit`; other versions may log others, which are then absent.
"""

from __future__ import annotations

from dataclasses import dataclass

from ablate.runs.metrics import METRICS

LENGTH = "monitor/response_length"
KL, KL_PER_TOKEN, MISMATCH = "monitor/kl_to_sft", "monitor/kl_per_token", "monitor/mismatch_kl"
REWARD, SHAPED = "reward/proxy_mean", "reward/shaped_mean"
ENTROPY, TRUNCATED = "monitor/entropy", "monitor/truncated"
APPROX_KL, CLIPPED = "ppo/approx_kl", "ppo/clip_fraction"

# Notes that several columns share.
ACTING = "counts a token outside the clip's range only where the clip changes its gradient, so it is at most ours"
OF_RESPONSES = "the mean over responses of each response's mean, where ours is over tokens"
TIMES = "an estimate: their KL per token times the mean response length"
PADDED = "what comes after a response's end counts too"
SUMMED = "a sum over the gradient steps of an update, so equal to ours with one step per update"


@dataclass(frozen=True)
class Column:
    """A metric of another trainer.

    theirs: its name; `*` stands for one part between slashes. ours: the monitor it is read as; None for one whose scale is not known from
    the log, which is shown as it is. file: in their repository. note: how it differs from ours, or what it assumes. per_token: to be
    multiplied by the mean response length. judged: whether alarms may read it, since its values lie where ours do.
    """

    theirs: str
    ours: str | None
    file: str
    note: str = ""
    per_token: bool = False
    judged: bool = True


@dataclass(frozen=True)
class Trainer:
    """A trainer and what it logs.

    title: its name. commit: the version whose code was read. steps: names of the number of an update, the best first. prefix: may stand
    before a name. columns: where several are read as one monitor, the first that a log holds counts.
    """

    title: str
    commit: str
    steps: tuple[str, ...]
    columns: tuple[Column, ...]
    prefix: str = ""


_PPO = "trl/experimental/ppo/ppo_trainer.py"
_GRPO = "trl/trainer/grpo_trainer.py and trl/trainer/rloo_trainer.py"
_HF = ("global_step", "step", "_step", "Step")
TRL = (
    Trainer(
        "TRL's PPOTrainer",
        "huggingface/trl 1.12.0",
        _HF,
        (
            Column("objective/scores", REWARD, _PPO, "after `missing_eos_penalty`"),
            Column("objective/rlhf_reward", SHAPED, _PPO, "before `whiten_rewards`"),
            Column("objective/kl", KL, _PPO, "estimated from the sampled tokens, by `kl_estimator`: k1 by default"),
            Column("objective/entropy", None, _PPO, "−log π of the sampled tokens, per response; no length is logged to divide it by"),
            Column("policy/entropy_avg", ENTROPY, _PPO, PADDED, judged=False),
            Column("policy/approxkl_avg", APPROX_KL, _PPO, f"by k2, where ours is k3; {PADDED}, as 0", judged=False),
            Column("policy/clipfrac_avg", CLIPPED, _PPO, ACTING, judged=False),
            Column("val/ratio", "ppo/ratio_mean", _PPO, f"{PADDED}, at a ratio of 1", judged=False),
        ),
        "train/",
    ),
    Trainer(
        "TRL's GRPOTrainer or RLOOTrainer",
        "huggingface/trl 1.12.0",
        _HF,
        (
            Column("reward", REWARD, _GRPO, "the weighted sum of the reward functions"),
            Column("kl", KL_PER_TOKEN, _GRPO, "by k1 in RLOOTrainer, by k3 in GRPOTrainer; absent at `beta` 0"),
            Column("kl", KL, _GRPO, TIMES, per_token=True),
            Column("entropy", ENTROPY, _GRPO),
            Column("completions/mean_length", LENGTH, _GRPO),
            Column("completions/clipped_ratio", TRUNCATED, _GRPO),
            Column("clip_ratio/region_mean", CLIPPED, _GRPO, f"{ACTING}; RLOOTrainer counts responses", judged=False),
            Column("clip_ratio", CLIPPED, "trl/trainer/grpo_trainer.py", f"with Liger's kernel; {ACTING}", judged=False),
            Column("clip_ratio/low_mean", "ppo/clip_fraction_low", _GRPO, f"{ACTING}; RLOOTrainer counts responses", judged=False),
            Column("clip_ratio/high_mean", "ppo/clip_fraction_high", _GRPO, f"{ACTING}; RLOOTrainer counts responses", judged=False),
            Column("grad_norm", "ppo/actor_grad_norm", "transformers/trainer.py", "of the last gradient step"),
        ),
        "train/",
    ),
)
_DATA, _CORE = "verl/trainer/ppo/metric_utils.py", "verl/trainer/ppo/core_algos.py"
_RAY, _ACTOR, _CRITIC = "verl/trainer/ppo/ray_trainer.py", "verl/workers/actor/dp_actor.py", "verl/workers/critic/dp_critic.py"
_CORRECTION = "verl/trainer/ppo/rollout_corr_helper.py"
VERL = (
    Trainer(
        "verl",
        "volcengine/verl b178a3c",
        ("training/global_step", "step", "_step", "Step"),
        (
            Column("critic/score/mean", REWARD, _DATA),
            Column("critic/rewards/mean", SHAPED, _DATA),
            Column("actor/reward_kl_penalty", KL_PER_TOKEN, _RAY, f"{OF_RESPONSES}; by `kl_penalty`: k1 by default"),
            Column("actor/reward_kl_penalty", KL, _RAY, TIMES, per_token=True),
            Column("actor/kl_loss", None, _ACTOR, "by `kl_loss_type`, and in the FSDP actor a sum over the gradient steps of an update"),
            Column("actor/entropy", ENTROPY, _RAY, "with `loss_agg_mode=token-mean`, the default"),
            Column("rollout_corr/training_ppl", "monitor/perplexity", _CORRECTION, "the mean of each response's perplexity", judged=False),
            Column("response_length/mean", LENGTH, _DATA),
            Column("response_length/clip_ratio", TRUNCATED, _DATA, "counts a response that ends with the last token allowed too"),
            Column("actor/ppo_kl", APPROX_KL, _CORE, "by k1, which may be negative, where ours is k3", judged=False),
            Column("actor/pg_clipfrac", CLIPPED, _CORE, ACTING, judged=False),
            Column("actor/grad_norm", "ppo/actor_grad_norm", _ACTOR),
            Column("critic/grad_norm", "ppo/critic_grad_norm", _CRITIC),
            Column("critic/vf_explained_var", "ppo/explained_variance", _DATA),
            Column("critic/values/mean", "ppo/value_mean", _DATA),
            Column("critic/returns/mean", "ppo/return_mean", _DATA),
            Column("rollout_corr/k3_kl", MISMATCH, _CORRECTION, "to the policy during its gradient steps"),
            Column("rollout_corr/rollout_is_eff_sample_size", "monitor/mismatch_ess", _CORRECTION, "of truncated weights", judged=False),
        ),
    ),
)
_EXPERIENCE, _STATS = "openrlhf/trainer/ppo_utils/experience_maker.py", "openrlhf/trainer/ppo_trainer.py"
_STEP = "openrlhf/trainer/ray/ppo_actor.py"
OPENRLHF = (
    Trainer(
        "OpenRLHF",
        "OpenRLHF/OpenRLHF 3c3be62",
        ("global_step", "step", "_step", "Step"),
        (
            Column("rollout/reward_mean", REWARD, _STATS),
            Column("reward", REWARD, "openrlhf/trainer/ppo_utils/samples_generator.py"),
            Column("rollout/reward_std", "reward/proxy_std", _STATS),
            Column("return", SHAPED, _EXPERIENCE),
            Column("logprobs_diff", KL_PER_TOKEN, _EXPERIENCE, f"{OF_RESPONSES}; 0 without a reference"),
            Column("kl", KL_PER_TOKEN, _EXPERIENCE, f"{OF_RESPONSES}; by `--algo.kl.estimator`: k1 by default"),
            Column("logprobs_diff", KL, _EXPERIENCE, TIMES, per_token=True),
            Column("kl", KL, _EXPERIENCE, TIMES, per_token=True),
            Column("entropy_loss", None, _STEP, "divided by the micro-batches of a gradient step as well as by the tokens"),
            Column("rollout/response_length_mean", LENGTH, _STATS),
            Column("response_length", LENGTH, _STEP),
            Column("rollout/truncated_rate", TRUNCATED, _STATS),
            Column("ppo_kl", APPROX_KL, _STEP, "by k1, which may be negative, where ours is k3", judged=False),
            Column("ppo_clip_ratio", CLIPPED, _STEP, ACTING, judged=False),
            Column("actor_grad_norm", "ppo/actor_grad_norm", _STEP, "of the last gradient step"),
            Column("critic_grad_norm", "ppo/critic_grad_norm", "openrlhf/trainer/ray/ppo_critic.py"),
            Column("vllm_kl", MISMATCH, _STEP, "by k1, which may be negative, where ours is k3", judged=False),
        ),
        "train/",
    ),
)
_NEMO, _ROLLOUTS = "nemo_rl/algorithms/loss/loss_functions.py", "nemo_rl/experience/rollouts.py"
NEMO_RL = (
    Trainer(
        "NeMo RL",
        "NVIDIA-NeMo/RL 7ea279a",
        ("step", "_step", "Step"),
        (
            Column("reward", REWARD, "nemo_rl/algorithms/grpo.py", "after the scaling and shaping of rewards"),
            Column("kl_penalty", KL_PER_TOKEN, _NEMO, f"by `reference_policy_kl_type`: k3 by default; {SUMMED}", judged=False),
            Column("kl_penalty", KL, _NEMO, f"{TIMES}; {SUMMED}", per_token=True, judged=False),
            Column("approx_entropy", ENTROPY, _NEMO, f"estimated from the sampled tokens; {SUMMED}", judged=False),
            Column("mean_gen_tokens_per_sample", LENGTH, _ROLLOUTS, "over all turns"),
            Column("truncation_rate", TRUNCATED, _ROLLOUTS),
            Column("probs_ratio_max", "ppo/ratio_max", _NEMO),
            Column("probs_ratio_min", "ppo/ratio_min", _NEMO),
            Column("gen_kl_error", MISMATCH, _NEMO, SUMMED, judged=False),
            Column("grad_norm", "ppo/actor_grad_norm", "nemo_rl/algorithms/grpo.py", SUMMED, judged=False),
            Column("critic/explained_var", "ppo/explained_variance", "nemo_rl/algorithms/ppo.py", SUMMED, judged=False),
        ),
        "train/",
    ),
)
_METRICS, _FUNCTIONALS = "roll/utils/metrics/metrics_manager.py", "roll/utils/functionals.py"
_WORKER = "roll/pipeline/base_worker.py and roll/pipeline/rlvr/actor_worker.py"
_STEPS_SUMMED = "in the RLVR and agentic pipelines a sum over the gradient steps of an update"
ROLL = (
    Trainer(
        "ROLL",
        "alibaba/ROLL 8eb27cc",
        ("system/step", "step", "_step", "Step"),
        (
            Column("critic/score/mean", REWARD, _METRICS),
            Column("critic/rewards/mean", SHAPED, _METRICS),
            Column("critic/kl", KL_PER_TOKEN, _FUNCTIONALS, f"{OF_RESPONSES}; by `kl_penalty`: k1 by default"),
            Column("critic/kl", KL, _FUNCTIONALS, TIMES, per_token=True),
            Column("actor/kl_loss", None, _WORKER, f"by k3 and `loss_agg_mode`; {_STEPS_SUMMED}"),
            Column("critic/entropy/mean", ENTROPY, _METRICS, "0 where the log-probs of the rollout are not computed again", judged=False),
            Column("token/response_length/mean", LENGTH, _METRICS),
            Column("tokens/response_length/mean", LENGTH, "roll/pipeline/agentic/agentic_pipeline.py", "over all turns"),
            Column("actor/approxkl", APPROX_KL, _WORKER, f"by k2, where ours is k3; {_STEPS_SUMMED}", judged=False),
            Column("actor/ppo_ratio_clipfrac", CLIPPED, _WORKER, f"padding counts too in the RLHF pipeline; {_STEPS_SUMMED}", judged=False),
            Column("actor_train/grad_norm", "ppo/actor_grad_norm", "roll/distributed/strategy/megatron_strategy.py"),
            Column("critic/grad_norm", "ppo/critic_grad_norm", "roll/distributed/strategy/megatron_strategy.py"),
            Column("critic/values/mean", "ppo/value_mean", _METRICS),
            Column("critic/returns/mean", "ppo/return_mean", _METRICS),
        ),
    ),
)
_ORCHESTRATOR, _TRAIN = "src/prime_rl/orchestrator/metrics.py", "src/prime_rl/trainer/rl/train.py"
PRIME_RL = (
    Trainer(
        "prime-rl",
        "PrimeIntellect-ai/prime-rl 559b447",
        ("step", "_step", "Step"),
        (
            Column("train/agg/effective/*/reward/mean", REWARD, _ORCHESTRATOR),
            Column("reward/all/mean", REWARD, "training.md of its documents"),
            Column("train/agg/effective/*/num_output_tokens/mean", LENGTH, _ORCHESTRATOR, "over all turns"),
            Column("train/agg/effective/*/is_truncated/mean", TRUNCATED, _ORCHESTRATOR),
            Column("is_truncated/all/mean", TRUNCATED, "training.md of its documents"),
            Column("entropy/all/mean", ENTROPY, _TRAIN),
            Column("mismatch_kl/all/mean", MISMATCH, _TRAIN, "staleness counts too"),
            Column("optim/grad_norm", "ppo/actor_grad_norm", _TRAIN),
        ),
    ),
)
OWN = (
    Trainer(
        "this project",
        "",
        ("update", "step", "_step", "Step"),
        tuple(Column(metric.name, metric.name, "") for metric in METRICS if "/" in metric.name and not metric.name.startswith("time/")),
    ),
)
# The choices of --from. TRL's trainers log different names; the one with the most names in a log is taken.
TRAINERS = {"trl": TRL, "verl": VERL, "openrlhf": OPENRLHF, "nemo_rl": NEMO_RL, "roll": ROLL, "prime_rl": PRIME_RL, "csv": OWN}


def as_logged(column: Column) -> str:
    """How a monitor comes from a log: 'kl', or 'kl × length' for one that is multiplied by the mean response length."""
    return f"{column.theirs} × length" if column.per_token else column.theirs


def name_tables() -> str:
    """The table of every trainer but our own in Markdown: their name, ours, whether alarms read it, the file, and how it differs."""
    parts = []
    for trainer in (trainer for trainers in TRAINERS.values() for trainer in trainers if trainer.commit):
        repository, _, version = trainer.commit.partition(" ")
        prefix = f"; `{trainer.prefix}` may stand before each name" if trainer.prefix else ""
        parts += [f"### {trainer.title}", "", f"[{repository}](https://github.com/{repository}), {version}{prefix}.", ""]
        parts += ["| logged | read as | judged | file | note |", "|---|---|---|---|---|"]
        for column in trainer.columns:
            ours, judged = (f"`{column.ours}`", "yes" if column.judged else "no") if column.ours else ("shown as it is", "no")
            parts.append(f"| `{as_logged(column)}` | {ours} | {judged} | {column.file} | {column.note} |")
        parts.append("")
    return "\n".join(parts)
