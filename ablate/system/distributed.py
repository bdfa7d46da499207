"""Several processes, one run: `accelerate launch` starts them, and every number stays that of one process.

Every process draws the same prompts and noise (`ablate.system.seeding`), samples and measures its own rows, and gets the rows of all
others; from there each computes the same rewards, moments, targets, monitors and verdict. In the update each takes its share of a
minibatch's rows, with losses divided by the whole minibatch's tokens, and gradients are added up before their norm is taken.
With one process every function here hands its argument back.

Tensors travel over the default group (gloo between CPUs, NCCL between GPUs), words over a gloo group of their own that waits for
days: the main process builds stages while the others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ablate.errors import Diverged, UserError

T = TypeVar("T")
BUCKET = 2**26  # gradient entries of one message


@dataclass(frozen=True)
class Membership:
    """What a process of several has beside torch.distributed's own state."""

    words: dist.ProcessGroup
    sharded: bool  # FSDP


membership: Membership | None = None


def world_size() -> int:
    return dist.get_world_size() if membership else 1


def rank() -> int:
    return dist.get_rank() if membership else 0


def is_main() -> bool:
    """Whether this process writes the run folder, builds stages and talks to wandb."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether the launcher asked for FSDP."""
    return membership is not None and membership.sharded


def all_gather_object(value: T) -> list[T]:
    """What every process says, by rank. Any small picklable value."""
    if membership is None:
        return [value]
    said: list = [None] * world_size()
    dist.all_gather_object(said, value, group=membership.words)
    return said


def any_process(flag: bool) -> bool:
    """Whether any process says yes."""
    return any(all_gather_object(flag))


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """A UserError or Diverged of one process is raised in all. Within the block nothing may wait for another process."""
    if membership is None:
        yield
        return
    problem = None
    try:
        yield
    except (UserError, Diverged) as error:
        problem = error
    for known in all_gather_object(problem):
        if known is not None:
            raise known


def from_main(work: Callable[[], T]) -> T:
    """The result of `work()`, which the main process does; its UserError is raised in all."""
    value = None
    with raise_on_all_ranks():
        if is_main():
            value = work()
    return all_gather_object(value)[0]


def rank_slice(count: int) -> slice:
    """This process's rows of `count`: what comes together again in `gather_rollout`."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def strided_rank_shard(rows: Sequence[T] | Tensor) -> Sequence[T] | Tensor:
    """Every n-th of the rows; sorted ones are dealt in shares of nearly equal length."""
    return rows[rank() :: world_size()]


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
    said = all_gather_object(terms)
    return {name: (max if name in largest else sum)(other[name] for other in said) for name in terms}
