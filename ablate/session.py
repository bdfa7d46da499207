"""One run from its config to its summary: validate → stages → PPO → summary.json."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ablate.config import Config
from ablate.errors import Diverged, UserError
from ablate.pipeline.build import Stages, build, choose_device
from ablate.runs.content import changed, content
from ablate.runs.folder import is_finished, run_folder, without_digest
from ablate.runs.fork import check_forked_content
from ablate.runs.store import ReadOnlyRunStore, RunStore
from ablate.runs.summary import Outcome, read_summary
from ablate.runs.tracking import Trackers, open_trackers
from ablate.settings.validation import validate
from ablate.system.distributed import from_main, is_main, raise_on_all_ranks
from ablate.system.malloc import retain_freed_memory
from ablate.system.processes import check, report_peer_failure
from ablate.system.signals import Interrupted, ending_on_signals
from ablate.trainer import Trainer

NO_MEMORY = (
    "there is not enough memory for this run: lower ppo.batch_size, ppo.micro_batch_size, evaluation.prompts, sampling.max_new_tokens or "
    "the model's size; python -m ablate.memory says what they take"
)
UNALLOCATED = ("allocate memory", "enough memory", "Storage size calculation overflowed")  # in texts of torch's CPU allocator
STAGE_RECORDS = ("training.jsonl", "pairs.csv", "report.json")


def prepare(config: Config) -> Stages:
    """Build the stages that a run starts from, or find them in the cache. Of several processes one does, and the others wait.

    Raises UserError, and Interrupted on a signal, before which what is half-built is removed.
    """
    torch.set_num_threads(config.threads)
    retain_freed_memory()
    with interruptible():
        return from_main(lambda: build_stages(config))


def build_stages(config: Config) -> Stages:
    """`build`, where a stage that diverges or finds no memory is a sentence. Raises UserError."""
    try:
        with memory_errors():
            return build(config)
    except Diverged as error:
        raise UserError(f"{error}: lower this stage's rate, pretrain., sft. or reward_model.learning_rate") from error


def execute(config: Config) -> Outcome:
    """Do one run and return its summary, which a process that does not write it knows without versions. A finished run is not done again.

    Raises UserError, and Interrupted on a signal before the first update; later a signal is a status of the summary.
    """
    validate(config)
    check(config)
    with report_peer_failure(), interruptible():
        finished = from_main(lambda: is_finished(config))
        if is_main() and (lacking := without_digest(config)):
            print(f"{run_folder(config)} keeps no digest of {', '.join(lacking)}, so nothing tells whether its content has changed since",
                  file=sys.stderr, flush=True)  # fmt: skip
        if finished:
            summary = read_summary(run_folder(config))
            assert summary is not None  # `is_finished` has read it
            return summary
        from_main(lambda: check_forked_content(config))
        before = from_main(lambda: content(config))
        stages = prepare(config)
        with raise_on_all_ranks():
            difference = changed(config, before, content(config)) if is_main() else ""
            if difference:
                raise UserError(f"the content of {difference} changed while the stages were built: start the command again")
            store, tracker = RunStore(config) if is_main() else ReadOnlyRunStore(config), Trackers([])
    try:
        with report_peer_failure(), memory_errors(), autocast(config):
            with interruptible():
                with raise_on_all_ranks():
                    store.name_stages(vars(stages))
                    store.copy_stage("reward_model", stages.reward_model, STAGE_RECORDS)
                    if config.data.source != "world":
                        store.copy_stage("preferences", stages.preferences, ("report.json",))
                trainer = Trainer.load(config, stages, store)
                tracker = open_trackers(config, run_folder(config)) if is_main() else tracker
            outcome = trainer.run(tracker)
    except BaseException as error:
        failed = failure(config, error)
        store.finish(failed)  # before the tracker, which can wait for a network
        tracker.finish(failed)
        raise
    summary = store.finish(outcome)
    tracker.finish(summary)
    return summary


def interruptible() -> AbstractContextManager[None]:
    """End the process on a signal in the block. Processes that only wait for the main one write nothing, so they just die."""
    return ending_on_signals("the preparation of this run") if is_main() else nullcontext()


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn the exceptions of a failed allocation into a UserError. Raises UserError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(NO_MEMORY) from error
    except RuntimeError as error:  # torch's CPU allocator and its arithmetic of sizes have no type of their own
        if not any(text in str(error) for text in UNALLOCATED):
            raise
        raise UserError(NO_MEMORY) from error


def autocast(config: Config) -> torch.autocast:
    """With `precision=bf16`, compute matrix products of PPO's models in bfloat16; otherwise do nothing.

    Weights, log-softmax and losses stay float32, since a log-probability in bfloat16 is too coarse for a ratio of two. Autocast's
    cache of cast weights is off: it lives as long as the context, which is the whole run, so every pass after the first gradient
    step would still use the weights of the first pass.
    """
    enabled = config.precision == "bf16"
    return torch.autocast(choose_device(config).type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


def failure(config: Config, error: BaseException) -> Outcome:
    """The outcome of a run that an exception ended."""
    status = "interrupted" if isinstance(error, (KeyboardInterrupt, Interrupted)) else "failed"
    if isinstance(error, Interrupted):
        reason = "stopped by a signal before the first update"
    else:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Outcome(status=status, reason=reason, collapsed=None, collapse_update=None, study=config.study, arm=config.arm, seed=config.seed)
