"""Which values and combinations of settings are refused. No torch here."""

from __future__ import annotations

import math

from ablate.config import Config, ModelConfig, PPOConfig, PreferencesConfig, RewardModelConfig
from ablate.errors import UserError
from ablate.settings.fields import cut, is_path_setting, walk
from ablate.system.files import is_folder_name, is_path


def validate(config: Config) -> None:
    """Refuse values out of range and combinations that are inert or contradictory, before any model loads.

    Raises UserError, one sentence that names the setting to change.
    """
    check_values(config)
    check_tracker(config.tracker)
    check_paths(config)
    check_ppo(config.ppo)
    check_sampling(config)
    check_sampler(config)
    check_critic(config)
    check_reward_model(config)
    check_data(config)
    check_lora(config)
    if config.bugs.nested_reward_norm and not config.ppo.reward_norm:
        raise UserError("bugs.nested_reward_norm changes ppo.reward_norm, which is off: set ppo.reward_norm=true")
    if config.bugs.kl_wrong_sign and not config.ppo.kl_penalty:
        raise UserError("bugs.kl_wrong_sign turns the sign of ppo.kl_penalty, which is off: set ppo.kl_penalty=true")
    if config.bugs.unmasked_whitening and not config.ppo.advantage_norm:
        raise UserError("bugs.unmasked_whitening changes ppo.advantage_norm, which is off: set ppo.advantage_norm=true")
    if config.bugs.kl_loss_clamped and not (config.ppo.kl_loss and config.ppo.kl_loss_estimator == "k3"):
        raise UserError("bugs.kl_loss_clamped clamps k3 in the loss, which is not there: set ppo.kl_loss=true ppo.kl_loss_estimator=k3")
    if config.bugs.micro_batch_mean and not config.ppo.has_critic:
        raise UserError("bugs.micro_batch_mean changes the value loss, and this advantage_estimator has no critic: leave it out")
    if config.bugs.micro_batch_mean and config.ppo.micro_batch_size >= config.ppo.minibatch_size:
        raise UserError("bugs.micro_batch_mean acts only where a minibatch has several micro-batches: lower ppo.micro_batch_size")
    if config.offload and config.ppo.full_kl_in_loss:
        raise UserError(
            "offload keeps the reference off the GPU while the policy learns, and ppo.kl_loss_estimator=full needs it there: set "
            "offload=false or another estimator"
        )
    if config.model.hidden_size % (2 * config.model.heads):
        raise UserError(
            f"model.hidden_size={config.model.hidden_size} must be a multiple of 2 × model.heads={config.model.heads} "
            "(rotary positions need an even head width): change one of them"
        )


def check_values(config: Config) -> None:
    """Raises UserError for the first setting whose value is outside the range in its metadata."""
    for name, field, value in walk(config):
        if value is None:
            continue
        meta = field.metadata
        for each in value if isinstance(value, list) else [value]:
            if meta.get("choices") and each not in meta["choices"]:
                raise UserError(f"{name}={cut(str(each))} is not one of {', '.join(meta['choices'])}")
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"{name}={each} is not a finite number: give it one")
        if meta.get("low") is not None and value < meta["low"]:
            raise UserError(f"{name}={value} is too small: the least value is {meta['low']}")
        if meta.get("high") is not None and value > meta["high"]:
            raise UserError(f"{name}={value} is too large: the greatest value is {meta['high']}")
        if meta.get("above") is not None and value <= meta["above"]:
            raise UserError(f"{name}={value} must be greater than {meta['above']}")


def check_tracker(tracker: str | list[str] | None) -> None:
    """Raises UserError for a list of trackers that contradicts or repeats itself, and for null. The names are those of choices."""
    if tracker is None:
        raise UserError("tracker=null names no tracker: set tracker=none to have none")
    if isinstance(tracker, list):
        if "none" in tracker and len(tracker) > 1:
            raise UserError(f"tracker=[{','.join(tracker)}] names none beside others: leave none out")
        if twice := [name for name in tracker if tracker.count(name) > 1]:
            raise UserError(f"tracker=[{','.join(tracker)}] names {twice[0]} twice: leave one out")


def check_paths(config: Config) -> None:
    """Raises UserError for a study or arm that is not the name of one folder, and for a path that no file can have."""
    for name in ("study", "arm"):
        text = getattr(config, name)
        if text is not None and not is_folder_name(text):
            raise UserError(f"{name}={cut(text)} is not the name of one folder: leave out separators and control characters")
    for name, _, value in walk(config):
        if isinstance(value, str) and is_path_setting(name):
            if value == "":
                raise UserError(f"{name} is empty: name a folder, a file or a hub name")
            if not is_path(value):
                raise UserError(f"{name}={cut(value)} is too long for a path or has control characters: name another")


def check_ppo(ppo: PPOConfig) -> None:
    """Raises UserError for settings of PPO that contradict each other or would do nothing."""
    if ppo.reward_norm and ppo.reward_scaling:
        raise UserError(
            "ppo.reward_norm and ppo.reward_scaling both set the scale of the reward, so one would hide the other: "
            "set ppo.reward_norm=false (or start from ppo=vanilla)"
        )
    if ppo.kl_adaptive and not ppo.kl_penalty:
        raise UserError("ppo.kl_adaptive steers ppo.kl_coef, which ppo.kl_penalty=false ignores: set ppo.kl_penalty=true")
    if ppo.entropy_clip is not None and not ppo.entropy_bonus:
        raise UserError("ppo.entropy_clip clips the entropy bonus, which is off: set ppo.entropy_bonus=true or ppo.entropy_clip=null")
    if ppo.entropy_clip_form == "moss" and ppo.entropy_bonus and ppo.entropy_clip is None:
        raise UserError("ppo.entropy_clip_form=moss needs a threshold: set ppo.entropy_clip")
    if ppo.bootstrap_truncated and ppo.missing_eos_penalty is not None:
        raise UserError(
            "ppo.bootstrap_truncated says a truncated response goes on, ppo.missing_eos_penalty that it ended badly: switch one off"
        )
    if ppo.bootstrap_truncated and not ppo.has_critic:
        raise UserError(
            f"ppo.bootstrap_truncated goes on with the critic's value, and ppo.advantage_estimator={ppo.advantage_estimator} has no "
            "critic: set ppo.bootstrap_truncated=false"
        )
    if ppo.advantage_estimator in ("rloo", "grpo", "dr_grpo") and ppo.samples_per_prompt < 2:
        raise UserError(
            f"ppo.advantage_estimator={ppo.advantage_estimator} compares the answers to one prompt: set ppo.samples_per_prompt to 2 or more"
        )
    if ppo.batch_size % ppo.samples_per_prompt:
        raise UserError(f"ppo.batch_size={ppo.batch_size} is not a multiple of ppo.samples_per_prompt={ppo.samples_per_prompt}: change one")
    for toggle, amount in (("kl_penalty", "kl_coef"), ("entropy_bonus", "entropy_coef"), ("policy_kl", "policy_kl_coef"),
                           ("ptx", "ptx_coef"), ("critic_pretrain", "critic_pretrain_updates"), ("kl_loss", "kl_loss_coef")):  # fmt: skip
        if getattr(ppo, toggle) and getattr(ppo, amount) == 0:
            raise UserError(f"ppo.{toggle}=true with ppo.{amount}=0 does nothing: set ppo.{toggle}=false or give an amount")
    if ppo.loss_aggregation == "constant" and ppo.entropy_clip is not None:
        raise UserError(
            "ppo.entropy_clip is in nats per token, and ppo.loss_aggregation=constant gives the bonus another unit: set one of them back"
        )
    if ppo.overlong_filter and ppo.missing_eos_penalty is not None:
        raise UserError("ppo.overlong_filter leaves out the responses that ppo.missing_eos_penalty would charge: switch one off")
    if ppo.overlong_filter and ppo.bootstrap_truncated:
        raise UserError("ppo.overlong_filter leaves out the responses whose values ppo.bootstrap_truncated would learn: switch one off")
    reads = ppo.kl_penalty or ppo.kl_loss or ppo.chi2_penalty is not None or ppo.importance_sampling == "reference"
    if ppo.moves_reference and not reads:
        raise UserError(
            f"ppo.reference_update={ppo.reference_update} moves a reference that nothing reads: set ppo.kl_penalty=true, "
            "ppo.kl_loss=true or ppo.chi2_penalty, or reference_update=none"
        )
    if ppo.reference_update == "reset" and ppo.reference_update_rate != PPOConfig.reference_update_rate:
        raise UserError("ppo.reference_update_rate acts only with ppo.reference_update=ema: leave it out")
    if ppo.batch_size % ppo.minibatch_size:
        raise UserError(f"ppo.batch_size={ppo.batch_size} is not a multiple of ppo.minibatch_size={ppo.minibatch_size}: change one")
    if len(ppo.adam_betas) != 2 or not all(0 <= beta < 1 for beta in ppo.adam_betas):
        raise UserError(f"ppo.adam_betas={ppo.adam_betas} must be two numbers in [0, 1)")


def check_lora(config: Config) -> None:
    """Raises UserError for settings that LoRA cannot be combined with, and for settings of adapters without LoRA.

    The reference is the policy without its adapter, and adapters are trained on weights that stay, so these must have learned something.
    """
    if not config.model.lora_rank:
        if (config.model.lora_alpha, config.model.lora_targets) != (ModelConfig.lora_alpha, ModelConfig.lora_targets):
            raise UserError("model.lora_alpha and model.lora_targets describe adapters, which are off: set model.lora_rank")
        return
    if config.model.frozen_dtype != "fp32":
        raise UserError(
            f"model.frozen_dtype={config.model.frozen_dtype} rounds models that never learn, and with model.lora_rank policy and critic "
            "stand on their weights: set model.frozen_dtype=fp32 or model.lora_rank=0"
        )
    if config.model.lora_targets == []:
        raise UserError("model.lora_targets is empty, so nothing would learn: name layers, or null for every linear layer")
    if config.ppo.policy_init != "sft":
        raise UserError(
            f"model.lora_rank makes the SFT reference the policy without its adapter, so ppo.policy_init={config.ppo.policy_init} "
            "cannot be: set ppo.policy_init=sft or model.lora_rank=0"
        )
    if config.ppo.value_norm:
        raise UserError("ppo.value_norm rescales the critic's head, which model.lora_rank trains as an adapter: set one of them off")
    if config.ppo.moves_reference:
        raise UserError(
            "model.lora_rank makes the reference the policy without its adapter, which cannot move: set ppo.reference_update=none or "
            "model.lora_rank=0"
        )
    if config.sampling.sampler_precision != "fp32":
        raise UserError(
            f"sampling.sampler_precision={config.sampling.sampler_precision} rounds whole weights, and model.lora_rank keeps base and "
            "adapter apart: set sampler_precision=fp32 or model.lora_rank=0"
        )
    if config.ppo.critic_init == "random":
        raise UserError(
            "model.lora_rank keeps the critic's trunk as it starts, which ppo.critic_init=random leaves without sense: "
            "set ppo.critic_init=reward or sft, or model.lora_rank=0"
        )
    if config.offload and config.ppo.critic_init == "reward":
        raise UserError(
            "offload has nothing to move, since with model.lora_rank policy and critic stand on the weights of reference and reward model: "
            "set offload=false"
        )


def check_sampling(config: Config) -> None:
    """Raises UserError where sampling.match_training_distribution is true and the sampler differs, or false and it does not."""
    sampling = config.sampling
    if sampling.match_training_distribution:
        for name in ("top_p", "repetition_penalty"):
            if getattr(sampling, name) != 1:
                raise UserError(
                    f"sampling.{name}={getattr(sampling, name)} makes the sampler differ from the training distribution: "
                    f"set sampling.match_training_distribution=false to run the mismatch as an arm, or sampling.{name}=1"
                )
    elif sampling.temperature == sampling.top_p == sampling.repetition_penalty == 1:
        raise UserError(
            "sampling.match_training_distribution=false changes nothing at temperature, top_p and repetition_penalty 1: "
            "set one of them, or leave it true"
        )


def check_critic(config: Config) -> None:
    """Raises UserError for a critic where the estimator of advantages has none."""
    if config.critic.path is not None and not config.ppo.has_critic:
        raise UserError(f"critic.path starts a critic, and ppo.advantage_estimator={config.ppo.advantage_estimator} has none: leave it out")


def check_reward_model(config: Config) -> None:
    """Raises UserError where an ensemble, a shape of the reward or a length penalty has settings that do nothing or contradict."""
    ppo, reward = config.ppo, config.reward_model
    scores = 1 if reward.average else reward.ensemble
    if reward.ensemble == 1 and (reward.average or reward.ensemble_varies != RewardModelConfig.ensemble_varies):
        raise UserError("reward_model.average and reward_model.ensemble_varies need several reward models: set reward_model.ensemble")
    if reward.ensemble > 1 and reward.path is not None:
        raise UserError("reward_model.path is one reward model, and reward_model.ensemble trains several: leave one of them out")
    if reward.average and reward.ensemble_varies == "initialisation":
        raise UserError(
            "reward_model.average needs members that share their initialisation: set reward_model.ensemble_varies=order or data"
        )
    if scores == 1 and ppo.ensemble_score != PPOConfig.ensemble_score:
        raise UserError(f"ppo.ensemble_score={ppo.ensemble_score} joins the scores of several reward models: set reward_model.ensemble")
    if ppo.ensemble_coef != PPOConfig.ensemble_coef and ppo.ensemble_score != "uncertainty":
        raise UserError("ppo.ensemble_coef acts only with ppo.ensemble_score=uncertainty: leave it out")
    if ppo.reward_shape == "minmax" and ppo.reward_shape_references != PPOConfig.reward_shape_references:
        raise UserError("ppo.reward_shape=minmax compares with no answer of SFT: leave ppo.reward_shape_references out")
    if scores > 1 and ppo.references_per_prompt:
        raise UserError(
            f"ppo.reward_shape={ppo.reward_shape} compares the scores of one reward model with those of SFT's answers: set "
            "ppo.reward_shape_references=0 or reward_model.ensemble=1"
        )
    if scores > 1 and ppo.answers_greedily:
        raise UserError(
            "ppo.advantage_estimator=remax scores the greedy answer by one reward model: set reward_model.ensemble=1 or another estimator"
        )
    if ppo.length_penalty == "linear" and ppo.length_penalty_free != PPOConfig.length_penalty_free:
        raise UserError("ppo.length_penalty_free acts only with ppo.length_penalty=overlong: leave it out")
    if ppo.length_penalty == "overlong" and ppo.length_penalty_free >= config.sampling.max_new_tokens:
        raise UserError(
            f"ppo.length_penalty_free={ppo.length_penalty_free} leaves nothing to penalise: it must be below "
            f"sampling.max_new_tokens={config.sampling.max_new_tokens}"
        )


def check_sampler(config: Config) -> None:
    """Raises UserError for a correction where there is no mismatch, or with bounds that it does not read or that exclude each other."""
    ppo, form = config.ppo, config.ppo.mismatch_correction
    if form == "none":
        return
    if not config.sampling.has_own_weights:
        raise UserError(
            f"ppo.mismatch_correction={form} corrects nothing where the policy samples itself: set sampling.staleness or "
            "sampling.sampler_precision, or mismatch_correction=none"
        )
    unread = {"bypass": ("mismatch_low", "mismatch_high"), "tis": ("mismatch_low",)}.get(form, ())
    for name in unread:
        if getattr(ppo, name) != getattr(PPOConfig, name):
            raise UserError(f"ppo.{name} is not read by ppo.mismatch_correction={form}: leave it out")
    if not unread and ppo.mismatch_low >= ppo.mismatch_high:
        raise UserError(f"ppo.mismatch_low={ppo.mismatch_low} must be below ppo.mismatch_high={ppo.mismatch_high}: change one of them")
    if form == "bypass" and ppo.importance_sampling != "behaviour":
        raise UserError(
            "ppo.mismatch_correction=bypass takes the ratio to the sampler, and ppo.importance_sampling=reference to the reference: "
            "set one of them back"
        )


def check_data(config: Config) -> None:
    """Raises UserError where human data has no path, and where a setting belongs to the other source of data, human or the world."""
    data = config.data
    if data.source == "world":
        if data.path is not None:
            raise UserError(f"data.path={data.path} is not read by data.source=world: set data=hh_rlhf, moss, jsonl or hub")
        if config.preferences.half != "all":
            raise UserError("preferences.half divides human pairs; data.source=world samples its own: leave it out")
        if config.gold.path is not None:
            raise UserError("gold.path judges human data; data.source=world has a gold reward of its own: leave it out")
        return
    if config.preferences.length_bias:
        raise UserError("preferences.length_bias is of the world's annotator, and human pairs come labelled: leave it out")
    if data.path is None:
        raise UserError(f"data.source={data.source} needs its file, folder or name: set data.path")
    if (config.preferences.noise, config.preferences.margin) != (PreferencesConfig.noise, PreferencesConfig.margin):
        raise UserError(
            "preferences.noise and preferences.margin label pairs of the world; human pairs come labelled: use preferences=default"
        )
    if config.collapse.by == "gold" and config.gold.path is None:
        raise UserError("collapse.by=gold needs a gold reward, which human data has none of: set gold.path, or collapse.by=alarms")
