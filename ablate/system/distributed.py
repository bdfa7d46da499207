"""One run in several processes, which `accelerate launch` starts; every number is that of a run in one process.

Every process draws the same prompts and noise (`ablate.system.seeding`), samples and scores its own rows, and receives the rows of
all others; from there each computes the same rewards, moments, targets, monitors and verdict. In an update each process takes its
share of a minibatch's rows, divides its losses by the tokens of the whole minibatch, and the gradients are summed before their norm
is taken. With one process every function here returns its argument.

Tensors are exchanged in the default group (gloo between CPUs, NCCL between GPUs), Python objects in a gloo group of their own with a
timeout of days, because the main process builds stages while the others wait.
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
BUCKET = 2**26  # gradient entries per message


@dataclass(frozen=True)
class Membership:
    """What a process needs to know of its run beyond the state of torch.distributed."""

    object_group: dist.ProcessGroup  # in which Python objects are exchanged
    sharded: bool  # whether the launcher asked for FSDP


membership: Membership | None = None  # None in a run of one process


def world_size() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if membership else 1


def rank() -> int:
    """The number of this process, from 0; process 0 is the main one."""
    return dist.get_rank() if membership else 0


def is_main() -> bool:
    """Whether this process is the main one, which writes the run folder, builds stages and logs to wandb."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether the launcher asked for FSDP."""
    return membership is not None and membership.sharded


def all_gather_object(value: T) -> list[T]:
    """The `value` of every process, by rank. It must be small and picklable."""
    if membership is None:
        return [value]
    gathered: list = [None] * world_size()
    dist.all_gather_object(gathered, value, group=membership.object_group)
    return gathered


def any_process(flag: bool) -> bool:
    """Whether the flag is true in at least one process."""
    return any(all_gather_object(flag))


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise a UserError or Diverged of one process in all of them. The block must not wait for another process.

    Raises UserError and Diverged.
    """
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
    """Call `work` in the main process and return its result in every process. Its UserError is raised in all of them."""
    value = None
    with raise_on_all_ranks():
        if is_main():
            value = work()
    return all_gather_object(value)[0]


def rank_slice(count: int) -> slice:
    """The contiguous share of `count` rows that belongs to this process; `gather_rows` puts the shares together again."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def strided_rank_shard(rows: Sequence[T] | Tensor) -> Sequence[T] | Tensor:
    """Every n-th of the rows (a list, or a tensor [B, …]) from the rank on, n being the number of processes.

    Shares of rows that are sorted by length have nearly equal lengths.
    """
    return rows[rank() :: world_size()]


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Concatenate the rows [b, …] of every process to [B, …]. counts: the number of rows b of each process, by rank."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def sum_gradients(parameters: list[nn.Parameter]) -> None:
    """Sum every gradient over the processes, in place, whatever its shape. With FSDP the backward pass has summed them already."""
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
    """Sum a tensor of any shape over the processes, in place."""
    if membership is not None:
        dist.all_reduce(value)
    return value


def sum_terms(terms: dict[str, float], largest: Sequence[str] = ()) -> dict[str, float]:
    """Sum the terms of a minibatch over the processes, name by name. For the names in `largest` the maximum is taken instead."""
    if membership is None:
        return terms
    gathered = all_gather_object(terms)
    return {name: (max if name in largest else sum)(other[name] for other in gathered) for name in terms}
