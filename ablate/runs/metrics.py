"""Every metric of metrics.jsonl: its name, unit, meaning and the title of a panel that shows it. No torch here.

The table in the documentation of the run folder, titles of figures and labels of the report page are made from this list; tests
hold it to what runs log, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ablate.runs.alarms import ALARMS

NO_UNIT = "–"
KINDS = ("helpful", "harmful")  # of the world's prompts and of hh-rlhf
# Parts of meanings that several metrics share.
_STEPS = "mean over the gradient steps of the update"
_BUFFER = "over the rollout's tokens, before the first gradient step"
_ONE_KIND = "over the held-out prompts of one kind"
_SFT = "held-out prompts whose gold(policy) − gold(SFT) is above, within and below ± `evaluation.win_margin`"


@dataclass(frozen=True)
class Metric:
    """A column of metrics.jsonl.

    name: its key. unit: of its values, NO_UNIT for pure numbers. meaning: in Markdown; metrics of one unit and one meaning share a
    row of the table. panel: the title of a panel that shows it, short and without the unit.
    """

    name: str
    unit: str
    meaning: str
    panel: str


METRICS = (
    Metric(
        "update",
        "updates",
        "number of the row's update; the first row, 0 or that of a fork's checkpoint, holds the evaluation before training",
        "update",
    ),
    Metric(
        "monitor/perplexity", NO_UNIT, "exp(Σ NLL / Σ tokens) of the policy's responses under the policy", "perplexity of the responses"
    ),
    Metric("monitor/perplexity_ref", NO_UNIT, "the same responses under SFT", "perplexity under SFT"),
    Metric(
        "monitor/perplexity_moss",
        NO_UNIT,
        "what MOSS-RLHF logs by that name: exp(Σ per-sequence mean NLL over prompt and response / Σ response tokens). It falls when "
        "responses get longer",
        "MOSS-RLHF's perplexity",
    ),
    Metric("monitor/response_length", "tokens", "mean length of a response, its end token included", "response length"),
    Metric("monitor/response_length_p95", "tokens", "95th percentile of the responses' lengths", "response length, 95th percentile"),
    Metric("monitor/response_length_std", "tokens", "standard deviation of the responses' lengths", "response length, SD"),
    Metric("monitor/kl_to_sft", "nats per response", "KL(π‖π_SFT) over the full vocabulary, summed over the response", "KL to SFT"),
    Metric("monitor/kl_per_token", "nats per token", "mean of log π − log π_SFT, as the paper plots it", "KL per token, sampled"),
    Metric("monitor/kl_k1", "nats per response", "KL(π‖π_SFT) by the sampled estimator k1, log π − log π_SFT", "KL to SFT, k1"),
    Metric("monitor/kl_k2", "nats per response", "the same by k2, (log π − log π_SFT)² / 2", "KL to SFT, k2"),
    Metric(
        "monitor/kl_k3", "nats per response", "the same by k3, r − 1 − log r with r = π_SFT / π, which is never negative", "KL to SFT, k3"
    ),
    Metric(
        "monitor/kl_to_reference",
        "nats per response",
        "KL(π‖π_ref) to the moving reference of `ppo.reference_update`; absent where the reference is SFT",
        "KL to the reference",
    ),
    Metric(
        "monitor/mismatch_kl",
        "nats per token",
        "KL(π_sampler‖π) by k3 where `sampling.staleness` or `sampling.sampler_precision` gives the sampler other weights; else absent",
        "KL of the sampler's mismatch",
    ),
    Metric(
        "monitor/mismatch_ess",
        "share of tokens",
        "effective sample size of the weights w = π / π_sampler, (Σw)² / (nΣw²); absent where the policy samples itself",
        "effective sample size",
    ),
    Metric("monitor/entropy", "nats per token", "of the policy over the full vocabulary", "entropy"),
    Metric("monitor/truncated", "share of responses", "those that never ended", "truncated"),
    Metric("monitor/distinct", "share of bigrams", "different bigrams / bigrams within a response, averaged", "distinct bigrams"),
    Metric(
        "monitor/distinct_across",
        "share of bigrams",
        "different bigrams / bigrams of all responses together",
        "distinct bigrams, whole batch",
    ),
    Metric("monitor/reward_length_corr", NO_UNIT, "Pearson's correlation of the reward model's score and the length", "score and length"),
    Metric("reward/proxy_mean", "score", "mean of the reward model's raw scores", "proxy reward, training"),
    Metric("reward/proxy_std", "score", "their standard deviation", "proxy reward, SD"),
    Metric("reward/proxy_p95", "score", "their 95th percentile", "proxy reward, 95th percentile"),
    Metric("reward/shaped_mean", "reward per response", "mean of what PPO maximises, after every reward trick", "shaped reward"),
    Metric("eval/gold", "gold", "mean over the held-out prompts; absent without a gold reward", "gold reward (held-out)"),
    Metric("eval/proxy", "score", "mean of the reward model's scores over the held-out prompts", "proxy reward (held-out)"),
    Metric("eval/win", "share of prompts", _SFT, "wins against SFT"),
    Metric("eval/tie", "share of prompts", _SFT, "ties with SFT"),
    Metric("eval/lose", "share of prompts", _SFT, "losses against SFT"),
    *(
        Metric(f"eval/{kind}/gold", "gold", f"mean {_ONE_KIND}; human data may name kinds of its own", f"gold, {kind} prompts")
        for kind in KINDS
    ),
    *(Metric(f"eval/{kind}/proxy", "score", f"mean {_ONE_KIND}", f"proxy, {kind} prompts") for kind in KINDS),
    *(
        Metric(f"eval/{kind}/{outcome}", "share of prompts", f"as `eval/win`, `eval/tie` and `eval/lose`, {_ONE_KIND}", title)
        for kind in KINDS
        for outcome, title in (("win", f"wins, {kind} prompts"), ("tie", f"ties, {kind} prompts"), ("lose", f"losses, {kind} prompts"))
    ),
    Metric("eval/kl_to_sft", "nats per response", "as `monitor/kl_to_sft`, on the held-out prompts", "KL to SFT (held-out)"),
    Metric("eval/length", "tokens", "as `monitor/response_length`, on the held-out prompts", "response length (held-out)"),
    Metric("eval/perplexity", NO_UNIT, "as `monitor/perplexity`, on the held-out prompts", "perplexity (held-out)"),
    Metric(
        "eval/lm_loss",
        "nats per token",
        "the alignment tax: loss on 32 held-out texts, end token included, at most 512 tokens each. They are those of "
        "`evaluation.text_path`, else of the world's corpus: pre-training has learned none of them, and `ppo.ptx`, which draws afresh, "
        "may meet up to a tenth. Absent for human data without a file",
        "loss on held-out text",
    ),
    Metric(
        "eval/choice_accuracy",
        "share of questions",
        "of 128 multiple-choice questions (on the world's corpus, or `evaluation.choices_path`) those whose right choice has the "
        "highest mean log-likelihood per token, as plain text. Absent for human data without a file",
        "multiple choice",
    ),
    Metric("ppo/policy_loss", NO_UNIT, _STEPS, "policy loss"),
    Metric("ppo/value_loss", NO_UNIT, _STEPS, "value loss"),
    Metric(
        "ppo/approx_kl",
        "nats per token",
        f"KL(π_old‖π) from the policy that sampled to the one being trained, by k3; {_STEPS}",
        "KL of one update",
    ),
    Metric(
        "ppo/clip_fraction",
        "share of tokens",
        f"those whose ratio π / π_old is outside 1 ± `ppo.clip_range`, 0 without `ppo.ratio_clip`; {_STEPS}",
        "clip fraction",
    ),
    Metric("ppo/clip_fraction_low", "share of tokens", f"those below the clip's range; {_STEPS}", "clip fraction, below"),
    Metric("ppo/clip_fraction_high", "share of tokens", f"those above the clip's range; {_STEPS}", "clip fraction, above"),
    Metric(
        "ppo/value_clip_fraction",
        "share of tokens",
        f"those whose value has moved by more than `ppo.value_clip_range`, 0 without `ppo.value_clip`; {_STEPS}",
        "value clip fraction",
    ),
    Metric("ppo/ratio_mean", NO_UNIT, f"mean ratio π / π_old; {_STEPS}", "mean ratio"),
    Metric("ppo/ratio_min", NO_UNIT, "the smallest ratio π / π_old of a token in any gradient step of the update", "smallest ratio"),
    Metric("ppo/skipped", "share of gradient steps", "those that `ppo.ratio_guard` or `ppo.target_kl` left out", "gradient steps left out"),
    Metric("ppo/actor_grad_norm", NO_UNIT, f"of the policy, before any clip; {_STEPS}", "gradient norm of the policy"),
    Metric("ppo/critic_grad_norm", NO_UNIT, f"of the critic, before any clip; {_STEPS}", "gradient norm of the critic"),
    Metric(
        "ppo/entropy_coef",
        "per nat",
        "the weight of the entropy bonus after the update, where `ppo.entropy_adaptive` moves it; else absent",
        "entropy coefficient",
    ),
    Metric("ppo/grad_norm", NO_UNIT, f"of policy and critic together, before any clip; {_STEPS}", "gradient norm before clipping"),
    Metric("ppo/ratio_max", NO_UNIT, "the largest ratio π / π_old of a token in any gradient step of the update", "largest ratio"),
    Metric("ppo/explained_variance", NO_UNIT, f"1 − Var(return − value) / Var(return) {_BUFFER}", "explained variance of returns"),
    Metric("ppo/value_mean", "reward", f"mean of the critic's values {_BUFFER}", "mean value"),
    Metric("ppo/advantage_mean", "reward", f"mean {_BUFFER} and before any normalisation", "mean advantage"),
    Metric("ppo/advantage_std", "reward", f"standard deviation {_BUFFER} and before any normalisation", "SD of advantages"),
    Metric("ppo/return_mean", "reward", f"mean of what the critic learns to predict, {_BUFFER}", "mean return"),
    Metric(
        "ppo/kl_coef",
        "score per nat",
        "the coefficient η of the KL penalty after the update; it moves under `ppo.kl_adaptive`",
        "KL coefficient η",
    ),
    *(Metric(f"alarm/{alarm.name}", NO_UNIT, alarm.formula, f"alarm: {alarm.title}") for alarm in ALARMS),
    Metric("alarm/sounded", "alarms", "those that have sounded so far", "alarms that have sounded"),
    Metric("time/rollout_s", "s", "wall time of sampling the responses", "time of sampling"),
    Metric(
        "time/score_s", "s", "wall time of scoring them by every model, shaping the rewards and measuring the monitors", "time of scoring"
    ),
    Metric("time/update_s", "s", "wall time of the gradient steps", "time of gradient steps"),
    Metric("time/eval_s", "s", "wall time of the evaluation", "time of the evaluation"),
    Metric("time/cpu_s", "s", "processor time of the update and its evaluation, all threads of the process", "processor time"),
    Metric(
        "responses_per_second", "1/s", "responses of the update per second of all its phases but the evaluation", "responses per second"
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def win_rate(wins: Any, ties: Any) -> Any:
    """Win rate from shares or counts of wins and of ties (numbers, arrays or columns), a tie counting half: wins + ties / 2."""
    return wins + ties / 2


def metric_table() -> str:
    """The metrics as a Markdown table: name, unit, meaning; neighbours of one unit and one meaning share a row."""
    lines = ["| name | unit | meaning |", "|---|---|---|"]
    for (unit, meaning), group in groupby(METRICS, key=lambda metric: (metric.unit, metric.meaning)):
        lines.append(f"| {', '.join(f'`{metric.name}`' for metric in group)} | {unit} | {meaning} |")
    return "\n".join(lines) + "\n"
