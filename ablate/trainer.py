"""The loop. It reads like the data flow: collect → shape → estimate → update → log."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ablate.config import Config
from ablate.data.chat import encode_texts
from ablate.data.source import Source, open_source
from ablate.errors import Diverged, UserError
from ablate.models.folder import context_length
from ablate.models.forward import vocabulary_head
from ablate.models.load import freeze, load_policy, load_scorer, load_tokenizer, new_critic
from ablate.models.offload import OffloadedModel, loaded_on_device
from ablate.models.recompute import checkpoint_gradients
from ablate.pipeline.build import Stages, choose_device
from ablate.pipeline.supervised import language_model_loss, pad_right, response_targets
from ablate.ppo.bugs import optimizer_reset
from ablate.ppo.collapse import CollapseDetector, deviation
from ablate.ppo.evaluate import Evaluation, HeldOut, check_finite, evaluate, sample_rows, score_rows, summarise
from ablate.ppo.models import Models
from ablate.ppo.monitor import advantage_metrics, monitors, reward_metrics
from ablate.ppo.reference import move_reference
from ablate.ppo.rollout import encode_prompts, gather_rollout, generate_responses, score_greedy, score_references, score_responses
from ablate.ppo.sampler import fill, new_sampler, remembered
from ablate.ppo.sampling import EncodedPrompts
from ablate.ppo.scoring import Gold, open_gold, open_scorer
from ablate.ppo.shaping import estimate_targets, greedy_baseline, initial_state, shape_rewards
from ablate.ppo.tokens import token_rows
from ablate.ppo.types import Rollout, RunningMoments, Targets
from ablate.ppo.update import critic_update, new_optimizer, steps_per_update, update
from ablate.ppo.value_norm import follow_returns
from ablate.runs.alarms import AlarmWatch
from ablate.runs.checkpoint import (
    TrainState,
    load_adapted,
    load_history,
    load_optimizer,
    load_weights,
    moved_reference,
    progress_from,
    read_state,
    save,
)
from ablate.runs.folder import checkpoint_folder, checkpoints, config_of, run_folder
from ablate.runs.store import ReadOnlyRunStore, RunStore
from ablate.runs.summary import Outcome, Status
from ablate.runs.tracking import Tracker, Trackers
from ablate.system.distributed import any_process, from_main, is_sharded, raise_on_all_ranks, rank_slice, strided_rank_shard
from ablate.system.seeding import numpy_generator, torch_generator
from ablate.system.sharding import inference, shard
from ablate.system.signals import stop_signals
from ablate.system.timer import Timer


@dataclass
class Trainer:
    """One run: models, optimiser and position. `load` builds it, `run` trains and returns the summary without versions."""

    config: Config
    store: RunStore | ReadOnlyRunStore
    device: torch.device
    models: Models
    offloaded: list[OffloadedModel]
    source: Source
    gold: Gold
    held_out: HeldOut
    optimizer: torch.optim.Optimizer
    baseline: Evaluation  # of SFT
    progress: TrainState
    resumed: bool  # whether the run goes on from a checkpoint of its own
    history: list[list[torch.Tensor]] = field(default_factory=list)  # weights of the policies before the last updates, for a stale sampler
    tracker: Tracker = field(default_factory=lambda: Trackers([]))

    @classmethod
    def load(cls, config: Config, stages: Stages, store: RunStore | ReadOnlyRunStore) -> Trainer:
        """Load everything, and cut the files of the run folder back to where the run goes on. Raises UserError."""
        device = choose_device(config)
        start, resumed = from_main(lambda: starting_point(config))
        with raise_on_all_ranks():
            models = load_models(config, stages, start, device)
            offloaded = offload_frozen(models, config, device)
            source: Source = open_source(config, models.tokenizer)
            gold = open_gold(stages.gold, source, device, config.model.frozen_dtype)
            held_out = HeldOut.draw(config, source, models.tokenizer, device)
            models.check_length(held_out.encoded.tokens.shape[1] + config.sampling.max_new_tokens)
        if is_sharded():
            for model in models.trained:
                shard(model)
        optimizer = new_optimizer(models, config.ppo)
        with loaded_on_device(offloaded):
            baseline = evaluate(models.of_sft(), held_out, gold, config)
        detector = CollapseDetector.from_baseline(baseline.gold, config.collapse)
        progress = TrainState(update=0, shaping=initial_state(config.ppo, baseline.member_scores), watch=detector)
        trainer = cls(config, store, device, models, offloaded, source, gold, held_out, optimizer, baseline, progress, resumed)
        with raise_on_all_ranks():
            if start is not None:
                trainer.restore(start)
            if not resumed:
                store.truncate_to({name: 0 for name in store.offsets()})
        return trainer

    def restore(self, start: Path) -> None:
        """Go on from a checkpoint. A fork keeps weights, optimiser, moments and position; verdict and streams start anew.

        An adaptive KL coefficient goes on from where the controller had it, unless the fork sets another. Raises UserError.
        """
        state, detector, members = read_state(start), self.progress.watch, self.progress.shaping.members
        load_optimizer(start, self.optimizer, self.device)
        self.history = load_history(start, self.models.policy, self.config.sampling.staleness)
        self.progress = progress_from(start, state)
        self.progress.shaping = replace(self.progress.shaping, members=members)
        if self.resumed:
            if self.progress.update > 0 and not self.progress.alarms.sft:  # a checkpoint from before there were alarms
                self.progress.alarms = AlarmWatch(self.baseline.monitors)
            self.store.truncate_to(state["offsets"])
            return
        shaping, ppo = self.progress.shaping, self.config.ppo
        before = config_of(start.parents[1]).ppo
        if not (ppo.kl_adaptive and before.kl_adaptive and ppo.kl_coef == before.kl_coef):
            shaping = replace(shaping, kl_coef=ppo.kl_coef)
        if not (ppo.steers_entropy and before.steers_entropy and ppo.entropy_coef == before.entropy_coef):
            shaping = replace(shaping, entropy_coef=initial_state(ppo).entropy_coef)
        self.progress = TrainState(self.progress.update, shaping, detector, AlarmWatch(self.baseline.monitors))

    def run(self, tracker: Tracker) -> Outcome:
        """Train to the end, to collapse if asked, or until a signal; every way out but a kill returns an outcome."""
        self.tracker, started, before = tracker, time.perf_counter(), self.progress.wall_seconds
        status: Status = "completed"
        reason = ""
        with stop_signals() as stop:
            try:
                if not self.resumed:
                    self.before_first_update()
                while not self.ended() and not any_process(stop.is_set()):
                    self.step()
                    self.progress.wall_seconds = before + time.perf_counter() - started
                    if self.checkpoint_is_due():
                        self.checkpoint()
                if not self.ended():
                    status, reason = "interrupted", f"stopped by a signal after update {self.progress.update}"
                elif self.progress.update < self.config.ppo.updates:
                    reason = "stopped at collapse"
                self.checkpoint()
            except Diverged as error:
                status, reason = "diverged", f"update {self.progress.update + 1}: {error}"
            self.progress.wall_seconds = before + time.perf_counter() - started
        return self.outcome(status, reason)

    def ended(self) -> bool:
        """All updates done, or collapsed where that ends the run."""
        return self.progress.update >= self.config.ppo.updates or bool(self.config.collapse.stop and self.judge().collapsed)

    def judge(self) -> CollapseDetector | AlarmWatch:
        """What decides collapse: `collapse.by`, else gold where there is one and alarms elsewhere."""
        by_gold = self.progress.watch.limit is not None if self.config.collapse.by is None else self.config.collapse.by == "gold"
        return self.progress.watch if by_gold else self.progress.alarms

    def checkpoint_is_due(self) -> bool:
        every = self.config.checkpoint.every
        return every > 0 and self.progress.update % every == 0

    def before_first_update(self) -> None:
        """Before the first update: pre-train the critic, and evaluate the policy as it starts. Raises Diverged."""
        check_finite(self.baseline)
        ppo = self.config.ppo
        if ppo.has_critic and ppo.critic_pretrain and self.config.fork is None:
            self.pretrain_critic()
        self.log({"update": self.progress.update} | self.evaluate())

    def pretrain_critic(self) -> None:
        """Value loss alone on rollouts of SFT. Their scores enter the running moments, so the critic learns the scale it will meet.

        The adaptive KL coefficient stays: SFT's KL to itself is 0 and says nothing of how far the policy will go.
        """
        config, settings = self.config, self.config.ppo_settings()
        teacher = self.models.of_sft()
        for step in range(config.ppo.critic_pretrain_updates):
            stream = "critic pre-training"
            rollout = self.collect(teacher, *self.sample_prompts(stream, step), Timer(), self.reference_noise(stream, step))
            rewards, shaping = shape_rewards(rollout, settings, self.progress.shaping)
            self.progress.shaping = replace(self.progress.shaping, moments=shaping.moments)
            targets = estimate_targets(rollout, rewards, config.ppo)
            self.normalise_values(rollout, targets)
            generator = torch_generator(config.seed, "critic pre-training order", step)
            critic_update(self.models, self.optimizer, rollout, targets, config.ppo, generator)

    def normalise_values(self, rollout: Rollout, targets: Targets) -> RunningMoments:
        """Under `value_norm`, let the critic's units follow its returns. Returns their moments, which are kept."""
        shaping, critic = self.progress.shaping, self.models.critic
        if critic is not None and self.config.ppo.value_norm:
            shaping = replace(shaping, returns=follow_returns(critic, targets, rollout.mask, shaping.returns))
            self.progress.shaping = shaping
        return shaping.returns

    def sample_prompts(self, stream: str, step: int) -> tuple[EncodedPrompts, torch.Tensor]:
        """Fresh prompts and sampling noise [B, T]; they depend on seed, stream and step alone.

        With k samples per prompt the first B / k of the same prompts stand k times each, next to each other.

        Every process draws the whole batch and gets its own rows of it.
        """
        config = self.config
        drawn = self.source.prompts(config.ppo.batch_size, numpy_generator(config.seed, f"{stream} prompts", step))
        samples = config.ppo.samples_per_prompt
        prompts = [prompt for prompt in drawn[: len(drawn) // samples] for _ in range(samples)]
        noise = torch.rand(
            config.ppo.batch_size, config.sampling.max_new_tokens, generator=torch_generator(config.seed, f"{stream} noise", step)
        )
        own = rank_slice(len(prompts))
        encoded = encode_prompts(self.models.tokenizer, [prompt.turns for prompt in prompts], self.device)
        return encoded[own], noise[own].to(self.device)

    def reference_noise(self, stream: str, step: int) -> torch.Tensor:
        """The noise [k, b, T] of the k answers of SFT that this process's rewards are compared with; k is 0 where none is."""
        ppo, steps = self.config.ppo, self.config.sampling.max_new_tokens
        generator = torch_generator(self.config.seed, f"{stream} reference noise", step)
        noise = torch.rand(ppo.references_per_prompt, ppo.batch_size, steps, generator=generator)
        return noise[:, rank_slice(ppo.batch_size)].to(self.device)

    def collect(self, models: Models, prompts: EncodedPrompts, noise: torch.Tensor, timer: Timer, references: torch.Tensor) -> Rollout:
        """Responses to this process's prompts, measured and scored; the rows of all processes come back. Raises UserError, Diverged.

        noise: [b, T], uniform on [0, 1), a row for each of the b prompts. references: [k, b, T], of SFT's answers to them.
        """
        settings = self.config.ppo_settings()
        with inference(*models.trained):
            with loaded_on_device(self.offloaded if models.sampling is self.models.sft else []):
                sampled = generate_responses(models.sampling, models.tokenizer, prompts, noise, settings.sampling)
            timer.lap("time/rollout_s")
            with loaded_on_device(self.offloaded):
                rollout = score_responses(models, prompts, sampled, settings)
                if self.config.ppo.answers_greedily:
                    rollout = replace(rollout, **score_greedy(models, prompts, noise.shape[1], settings))
                if len(references):
                    rollout = replace(rollout, reference_scores=score_references(models, prompts, references, settings))
        rollout = gather_rollout(rollout, models.tokenizer.pad_token_id)
        if not torch.isfinite(rollout.score).all():
            raise Diverged("the reward model's score is not finite")
        return rollout

    def step(self) -> None:
        """One update, from prompts to a row of metrics: collect → shape → estimate → update → log. Raises UserError, Diverged."""
        ppo, settings, number, timer = self.config.ppo, self.config.ppo_settings(), self.progress.update + 1, Timer()
        if self.models.sampler is not None:
            fill(self.models.sampler, self.models.policy, self.history, settings.sampling)
        rollout = self.collect(self.models, *self.sample_prompts("rollout", number), timer, self.reference_noise("rollout", number))
        self.history = remembered(self.history, self.models.policy, settings.sampling.staleness)
        rewards, shaping = shape_rewards(rollout, settings, self.progress.shaping)
        targets = estimate_targets(rollout, rewards, ppo, greedy_baseline(rollout, settings, shaping))
        row = {"update": number} | monitors(rollout) | reward_metrics(rollout, rewards)
        row |= advantage_metrics(rollout, targets, ppo.has_critic)
        shaping = replace(shaping, returns=self.normalise_values(rollout, targets))
        timer.lap("time/score_s")
        order, first_step = torch_generator(self.config.seed, "minibatches", number), (number - 1) * steps_per_update(ppo)
        if settings.bugs.optimizer_reset_every:
            optimizer_reset(self.optimizer, number, settings.bugs.optimizer_reset_every)
        entropy_coef = self.progress.shaping.entropy_coef if ppo.steers_entropy else None
        row |= update(self.models, self.optimizer, rollout, targets, settings, order, first_step, self.ptx_loss, entropy_coef)
        move_reference(self.models, ppo, number)
        timer.lap("time/update_s")
        self.progress.advance(number, shaping, ppo.batch_size, timer.total)
        row |= self.progress.alarms.update(row)
        row |= {"ppo/kl_coef": shaping.kl_coef} | ({"ppo/entropy_coef": shaping.entropy_coef} if ppo.steers_entropy else {})
        row |= self.evaluate_if_due(timer) | timer.metrics(ppo.batch_size)
        self.log(row)

    def evaluate_if_due(self, timer: Timer) -> dict[str, float]:
        """`eval/*` every `evaluation.every` updates, at the last and up to `evaluation.dense_until`; nothing otherwise."""
        number, settings = self.progress.update, self.config.evaluation
        regular = number % settings.every == 0 or number == self.config.ppo.updates
        if not regular and number > settings.dense_until:
            return {}
        row = self.evaluate(counts=regular)
        timer.lap("time/eval_s")
        return row

    def ptx_loss(self, step: int) -> torch.Tensor:
        """Language-model loss of the policy on pretraining text drawn for one gradient step; of this process's share of it."""
        config, tokenizer = self.config, self.models.tokenizer
        text = self.source.corpus(config.ppo.minibatch_size, numpy_generator(config.seed, "ptx", step))
        rows = encode_texts(tokenizer, text, context_length(self.models.policy.config))
        own = strided_rank_shard(rows)
        share = sum(len(row) - 1 for row in own) / sum(len(row) - 1 for row in rows)  # of the tokens that are predicted
        tokens = pad_right(own, tokenizer.pad_token_id, self.device)
        policy, real = self.models.policy, response_targets([(row, 0) for row in own], tokens)
        return share * language_model_loss(policy, vocabulary_head(policy), tokens, real)

    def evaluate(self, counts: bool = True) -> dict[str, float]:
        """Evaluate the policy, write scores, samples and tokens, and update the collapse verdict if the evaluation counts for it.

        Raises Diverged where gold is not finite.
        """
        config, number = self.config, self.progress.update
        evaluation = evaluate(replace(self.models, sampler=None), self.held_out, self.gold, config, self.offloaded)
        check_finite(evaluation)
        scores = score_rows(number, self.held_out, evaluation)
        samples = sample_rows(number, self.held_out, evaluation, config.evaluation.samples)
        settings, shaping = config.ppo_settings(), self.progress.shaping
        tokens = token_rows(number, self.held_out, evaluation, self.models.tokenizer, settings, shaping, config.evaluation.samples)
        with raise_on_all_ranks():
            self.store.append("scores.jsonl", scores)
            self.store.append("samples.jsonl", samples)
            self.store.append("tokens.jsonl", tokens)
        row = summarise(evaluation, self.baseline, self.held_out.prompts, config.evaluation.win_margin)
        if counts:
            self.progress.watch.update(number, row.get("eval/gold"))
        self.progress.judged = self.values(evaluation)
        self.tracker.evaluation(number, scores, samples)
        return row

    def log(self, row: dict) -> None:
        with raise_on_all_ranks():
            self.store.append("metrics.jsonl", [row])
        self.tracker.log(row)

    def checkpoint(self) -> None:
        store, progress = self.store, self.progress
        folder = store.checkpoint_folder(progress.update)
        if not from_main(folder.exists):
            save(folder, self.models, self.optimizer, self.history, progress, store.offsets(), store.hash)
        store.prune(self.config.checkpoint.keep)

    def outcome(self, status: Status, reason: str) -> Outcome:
        """What summary.json says of the run; final values are those of the last evaluation."""
        progress, judge = self.progress, self.judge()
        seconds = progress.update_seconds
        return {
            "status": status,
            "reason": reason,
            "collapsed": judge.collapsed,
            "collapse_update": judge.collapse_update,
            "collapse_by": "gold" if judge is progress.watch else "alarms",
            "alarms": progress.alarms.sounded,
            "updates": progress.update,
            "wall_seconds": progress.wall_seconds,
            "responses_per_second": progress.responses / seconds if seconds else None,
            "final": progress.judged,
            "sft": self.values(self.baseline),
            "study": self.config.study,
            "arm": self.config.arm,
            "seed": self.config.seed,
        }

    def values(self, evaluation: Evaluation) -> dict[str, float]:
        """Every monitor of one evaluation, and the spread of its gold."""
        row = summarise(evaluation, self.baseline, self.held_out.prompts, self.config.evaluation.win_margin)
        gold = evaluation.gold
        spread = {} if gold[0] is None else {"eval/gold_sd": deviation(gold)}
        return evaluation.monitors | row | spread


def starting_point(config: Config) -> tuple[Path | None, bool]:
    """Where a run goes on from, and whether that is its own: its newest checkpoint, else the one it forks from, else none."""
    known = checkpoints(run_folder(config))
    if known:
        return checkpoint_folder(run_folder(config), known[-1]), True
    return (Path(config.fork) if config.fork else None), False


def load_models(config: Config, stages: Stages, start: Path | None, device: torch.device) -> Models:
    """All models of a run, from a checkpoint or from the stages. Raises UserError.

    policy_init: the policy starts from `sft`, or from `pretrained` without SFT (Secrets of RLHF I, §5.3.4).
    """
    ppo, lora, dtype = config.ppo, config.model.lora_rank > 0, config.model.frozen_dtype
    tokenizer = load_tokenizer(stages.sft)
    generator = torch_generator(config.seed, "critic head")
    frozen = torch.device("cpu") if config.offload else device
    first_policy = stages.pretrained if ppo.policy_init == "pretrained" else stages.sft
    scorer = open_scorer(stages.reward_model, tokenizer, ppo.critic_init, frozen, dtype)
    members = tuple(open_scorer(folder, tokenizer, ppo.critic_init, frozen, dtype) for folder in stages.ensemble)
    reference = freeze(load_policy(stages.sft, device if lora else frozen), dtype)
    if start is not None:
        read_state(start, last=ppo.updates)
    critic = None
    if stages.critic is not None and (start is None or lora):
        critic = load_scorer(stages.critic, device)
    elif ppo.has_critic and (start is None or lora):
        shared = lora and ppo.critic_init == "reward"
        critic = scorer.model if shared else new_critic(ppo.critic_init, stages.sft, stages.reward_model, device, generator)
    if lora:
        policy, critic = load_adapted(start, reference, critic, config)
    elif start is not None:
        critic_start = stages.critic or (stages.reward_model if ppo.critic_init == "reward" else stages.sft)
        policy, critic = load_weights(start, device, (first_policy, critic_start)[: 1 + ppo.has_critic])
    else:
        policy = load_policy(first_policy, device)
    if config.model.gradient_checkpointing:
        for model in filter(None, (policy, critic)):
            checkpoint_gradients(model)
    if policy.config.vocab_size != reference.config.vocab_size:
        raise UserError(
            f"the policy has {policy.config.vocab_size} tokens and SFT {reference.config.vocab_size}: they must share a tokenizer"
        )
    sft = None
    if ppo.moves_reference:
        moved = None if start is None else moved_reference(start)
        sft, reference = reference, freeze(load_policy(stages.sft if moved is None else moved, frozen))
    return Models(policy, reference, scorer, critic, tokenizer, sft, members, new_sampler(policy, config.sampling))


def offload_frozen(models: Models, config: Config, device: torch.device) -> list[OffloadedModel]:
    """With `offload`, the reward model, and the reference where its weights are not the policy's as well; else none."""
    if not config.offload:
        return []
    frozen = [scorer.model for scorer in models.scorers]
    if not config.model.lora_rank:
        frozen.append(models.reference)
    if models.moved_from is not None:
        frozen.append(models.moved_from)
    return [OffloadedModel(model, device) for model in frozen]
