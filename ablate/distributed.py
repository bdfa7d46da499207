"""Several processes, one run: `accelerate launch` starts them, and every number stays that of one process.

Every process draws the same prompts and noise (`ablate.streams`), samples and measures its own rows, and gets the rows of all
others; from there each computes the same rewards, moments, targets, monitors and verdict. In the update each takes its share of a
minibatch's rows, with losses divided by the whole minibatch's tokens, and gradients are added up before their norm is taken.
With one process every function here hands its argument back.

Tensors travel over the default group (gloo between CPUs, NCCL between GPUs), words over a gloo group of their own that waits for
days: the main process builds stages while the others wait.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from ablate.config import Config
from ablate.errors import Diverged, UserError
from ablate.types import Rollout

T = TypeVar("T")
STEP_TIMEOUT = timedelta(minutes=30)  # for tensors of processes that are at the same step
WORD_TIMEOUT = timedelta(days=7)  # for words, which may wait for a stage
FAREWELL = timedelta(seconds=30)  # others wait so long for the main process to leave: the launcher kills who is left after a failure
BUCKET = 2**26  # gradient entries of one message
OTHER_STRATEGIES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")
# What FSDP does here, as accelerate names it; another value of its config is refused.
FSDP_DONE = {
    "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false", "FSDP_ACTIVATION_CHECKPOINTING": "false",
}  # fmt: skip


@dataclass(frozen=True)
class Membership:
    """What a process of several has beside torch.distributed's own state."""

    store: dist.Store
    words: dist.ProcessGroup
    sharded: bool  # FSDP


membership: Membership | None = None


def processes() -> int:
    return dist.get_world_size() if membership else 1


def rank() -> int:
    return dist.get_rank() if membership else 0


def is_main() -> bool:
    """Whether this process writes the run folder, builds stages and talks to wandb."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether the launcher asked for FSDP."""
    return membership is not None and membership.sharded


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that the environment names (WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT), and leave them in the end.

    Of all processes that leave with a sentence (SystemExit), one says it. The main process leaves first, since a launcher ends
    the others once one has failed. Raises SystemExit where the environment is not a launcher's.
    """
    global membership
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        sys.exit(f"error: WORLD_SIZE={os.environ['WORLD_SIZE']} is set but {missing[0]} is not: start with accelerate launch, or unset it")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    store, number, count = next(rendezvous("env://", timeout=STEP_TIMEOUT))
    dist.init_process_group(store=dist.PrefixStore("run", store), rank=number, world_size=count, timeout=STEP_TIMEOUT)
    words = dist.new_group(backend="gloo", timeout=WORD_TIMEOUT)
    membership = Membership(store, words, os.environ.get("ACCELERATE_USE_FSDP") == "true")
    try:
        yield
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            if first_to_speak(store):
                print(leaving.code, file=sys.stderr, flush=True)
            leaving.code = 1
        raise
    finally:
        membership = None
        dist.destroy_process_group()
        farewell(store, number)


def first_to_speak(store: dist.Store) -> bool:
    """Whether no other process has taken the word; true where the process that keeps count is gone."""
    try:
        return store.add("spoken", 1) == 1
    except dist.DistError:
        return True


def farewell(store: dist.Store, number: int) -> None:
    """The main process says that it leaves, the others wait for that."""
    with suppress(dist.DistError):
        if number == 0:
            store.set("the main process has left", "")
        else:
            store.wait(["the main process has left"], FAREWELL)


def check(config: Config) -> None:
    """Refuse what several processes cannot do, before any model loads. Raises UserError."""
    count = processes()
    if count == 1:
        return
    for name in OTHER_STRATEGIES:
        if os.environ.get(name) == "true":
            raise UserError(f"{name} is set, but only DDP and FSDP are here: launch with ablate/conf/accelerate/ddp.yaml or fsdp.yaml")
    mixed = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if mixed not in ("no", config.precision):
        raise UserError(f"accelerate's mixed_precision={mixed} is not read: set it to no and precision=bf16 on the command line")
    ppo = config.ppo
    for name, rows in (("ppo.minibatch_size", ppo.minibatch_size), ("evaluation.prompts", config.evaluation.prompts)):
        if rows < count:
            raise UserError(f"{name}={rows} leaves some of {count} processes without a row: raise it, or start fewer processes")
    if is_sharded() and ppo.minibatch_size % count:
        raise UserError(f"FSDP needs equal shares, and ppo.minibatch_size={ppo.minibatch_size} is not a multiple of {count} processes")
    if is_sharded() and config.model.lora_rank:
        raise UserError("model.lora_rank leaves policy and reference the same weights, which FSDP would take apart: launch with ddp.yaml")
    for name, done in FSDP_DONE.items():
        if is_sharded() and os.environ.get(name, done) != done:
            raise UserError(f"{name.lower()} other than {done} is not done here: change accelerate's config to it")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if config.device in ("auto", "cuda") and 0 < torch.cuda.device_count() < local:
        raise UserError(f"{local} processes and {torch.cuda.device_count()} GPU: lower num_processes, or set device=cpu")


@contextmanager
def survivors() -> Iterator[None]:
    """A broken connection means that another process ended: one sentence for it.

    The main process then lets a launcher's SIGTERM wait until its summary is written.
    """
    try:
        yield
    except RuntimeError as error:
        if membership is None or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        if is_main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise UserError(
            "another process of this run has ended, so this one cannot go on: the same command continues from the last checkpoint"
        ) from error


def everyone(value: T) -> list[T]:
    """What every process says, by rank. Any small picklable value."""
    if membership is None:
        return [value]
    said: list = [None] * processes()
    dist.all_gather_object(said, value, group=membership.words)
    return said


def any_process(flag: bool) -> bool:
    """Whether any process says yes."""
    return any(everyone(flag))


@contextmanager
def together() -> Iterator[None]:
    """A UserError or Diverged of one process is raised in all. Within the block nothing may wait for another process."""
    if membership is None:
        yield
        return
    problem = None
    try:
        yield
    except (UserError, Diverged) as error:
        problem = error
    for known in everyone(problem):
        if known is not None:
            raise known


def from_main(work: Callable[[], T]) -> T:
    """The result of `work()`, which the main process does; its UserError is raised in all."""
    value = None
    with together():
        if is_main():
            value = work()
    return everyone(value)[0]


def own_rows(count: int) -> slice:
    """This process's rows of `count`: what comes together again in `gather_rollout`."""
    return slice(count * rank() // processes(), count * (rank() + 1) // processes())


def dealt(rows: Sequence[T] | Tensor) -> Sequence[T] | Tensor:
    """Every n-th of the rows; sorted ones are dealt in shares of nearly equal length."""
    return rows[rank() :: processes()]


def gather_rollout(rollout: Rollout, pad: int) -> Rollout:
    """The rows of all processes, in the order of `own_rows`, as wide as the longest response of all needs."""
    if membership is None:
        return rollout
    shapes = everyone(tuple(rollout.mask.shape))
    counts, steps = [rows for rows, _ in shapes], max(width for _, width in shapes)
    gathered = {}
    for field in fields(rollout):
        rows = getattr(rollout, field.name)
        if rows.dim() == 2:
            rows = nn.functional.pad(rows, (0, steps - rollout.mask.shape[1]), value=pad if field.name == "tokens" else 0)
        gathered[field.name] = gather_rows(rows, counts)
    return Rollout(**gathered)


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Rows [b, …] of every process, `counts` of each → [B, …]."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Add up every gradient over the processes, in place; those of sharded parameters have been summed as they were made."""
    if membership is None or membership.sharded:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    while gradients:
        bucket, entries = [], 0
        while gradients and (not bucket or entries + gradients[0].numel() <= BUCKET):
            bucket.append(gradients.pop(0))
            entries += bucket[-1].numel()
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def sum_tensor(value: Tensor) -> Tensor:
    """The sum over the processes."""
    if membership is not None:
        dist.all_reduce(value)
    return value


def sum_terms(terms: dict[str, float], largest: Sequence[str] = ()) -> dict[str, float]:
    """Sums of a minibatch's terms over the processes; of the names in `largest`, the greatest."""
    if membership is None:
        return terms
    said = everyone(terms)
    return {name: (max if name in largest else sum)(other[name] for other in said) for name in terms}
