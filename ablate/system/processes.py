"""Runs of several processes: how they join, which settings they do not support, and how they exit."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ablate.config import Config
from ablate.errors import UserError
from ablate.system import distributed
from ablate.system.distributed import is_main, is_sharded, world_size

STEP_TIMEOUT = timedelta(minutes=30)  # for tensors, which processes exchange at the same step
OBJECT_TIMEOUT = timedelta(days=7)  # for Python objects, which one process may await while another builds a stage
RANK0_EXIT_TIMEOUT = timedelta(seconds=30)  # how long the others wait for the exit of the main process; a launcher kills the rest
OTHER_STRATEGIES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "ACCELERATE_USE_PARALLELISM_CONFIG")
# The options of FSDP that are supported, by their names in accelerate. A launcher's config with other values is refused.
FSDP_DONE = {
    "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false", "FSDP_ACTIVATION_CHECKPOINTING": "false",
}  # fmt: skip


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that the environment names (WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT), and leave them at the end.

    If processes exit with a message (SystemExit), one of them prints it. The main process exits first, since a launcher kills the
    others once one has failed. Raises SystemExit if a variable is missing.
    """
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        sys.exit(f"error: WORLD_SIZE={os.environ['WORLD_SIZE']} is set but {missing[0]} is not: start with accelerate launch, or unset it")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    store, number, count = next(rendezvous("env://", timeout=STEP_TIMEOUT))
    dist.init_process_group(store=dist.PrefixStore("run", store), rank=number, world_size=count, timeout=STEP_TIMEOUT)
    object_group = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    distributed.membership = distributed.Membership(object_group, os.environ.get("ACCELERATE_USE_FSDP") == "true")
    try:
        yield
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            if claim_error_report(store):
                print(leaving.code, file=sys.stderr, flush=True)
            leaving.code = 1
        raise
    finally:
        distributed.membership = None
        dist.destroy_process_group()
        wait_for_rank0_exit(store, number)


def claim_error_report(store: dist.Store) -> bool:
    """Whether this process is the first to report an error; true also where the process that holds the store has exited."""
    try:
        return store.add("error reports", 1) == 1
    except dist.DistError:
        return True


def wait_for_rank0_exit(store: dist.Store, number: int) -> None:
    """Announce the exit of the main process, or, in the others, wait for that announcement for RANK0_EXIT_TIMEOUT at most."""
    with suppress(dist.DistError):
        if number == 0:
            store.set("the main process has left", "")
        else:
            store.wait(["the main process has left"], RANK0_EXIT_TIMEOUT)


def check(config: Config) -> None:
    """Check the settings of a run in several processes before any model loads. Raises UserError if one is not supported."""
    count = world_size()
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
def report_peer_failure() -> Iterator[None]:
    """Turn a broken connection into a UserError. Raises UserError if another process of the run has ended during the block.

    The main process then ignores SIGTERM, which a launcher sends to the others, so that it can write its summary.
    """
    try:
        yield
    except RuntimeError as error:
        if distributed.membership is None or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        if is_main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise UserError(
            "another process of this run has ended, so this one cannot go on: the same command continues from the last checkpoint"
        ) from error
