"""The memory that a run will need, from its settings and config.json alone: nothing is loaded.

python -m ablate.memory model=path model.path=FOLDER data=hh_rlhf data.path=FILE ppo.batch_size=64
python -m ablate.memory --parameters 7e9 model.lora_rank=16 precision=bf16     # the public shape nearest in size
python -m ablate.memory --table                                                # all of them, 0.1 B to 70 B
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import hf_hub_download

from ablate.config import Config
from ablate.errors import UserError
from ablate.memory.estimate import MemoryEstimate, Run, estimate
from ablate.memory.shapes import SHAPES, Shape, shape_of
from ablate.models.folder import one_line, read_shape
from ablate.runs.compose import composed, composing
from ablate.settings.overrides import check_overrides, quoted
from ablate.settings.validation import validate
from ablate.system.tables import text_table

WORLD_PROMPT, WORLD_VOCABULARY = 14, 174  # tokens of the embedded world's longest prompt, and of its vocabulary
PHASES = ("rollout", "measure", "update", "evaluate")
LORA_RANK = 16  # of the table


def settings(overrides: Sequence[str]) -> Config:
    """The config that these overrides make. Raises UserError."""
    arguments = [quoted(override) for override in overrides]
    check_overrides(arguments)
    with composing():
        config = composed(arguments)
    validate(config)
    return config


def folder_shape(path: str, setting: str) -> Shape:
    """The shape of a folder or of a hub model, of which config.json alone is fetched. Raises UserError."""
    if Path(path).exists():
        return shape_of(read_shape(path))
    try:
        with tempfile.TemporaryDirectory() as folder:  # not the cache: it would pass for the whole model there
            hf_hub_download(path, "config.json", local_dir=folder)
            return shape_of(read_shape(folder))
    except Exception as error:  # the hub's client and the network each raise their own kinds
        raise UserError(
            f"{setting}={path} is not a folder, and its config.json cannot be fetched ({one_line(error)}): "
            "name a folder, or --parameters with the model's size"
        ) from error


def shapes(config: Config, parameters: float | None) -> tuple[Shape, Shape]:
    """(policy, reward model) of a run. parameters: take the public shape nearest in size instead. Raises UserError."""
    if parameters is not None:
        nearest = min(SHAPES.values(), key=lambda shape: abs(shape.parameters - parameters))
        return nearest, nearest
    path = config.sft.path or config.model.path or config.pretrain.path
    if path is None:
        size, vocabulary = config.model, WORLD_VOCABULARY if config.data.source == "world" else config.data.vocabulary
        policy = Shape("llama", vocabulary, size.hidden_size, size.layers, size.heads, size.heads, size.intermediate_size)
    else:
        policy = folder_shape(path, "model.path")
    reward = config.reward_model.path
    return policy, policy if reward is None else folder_shape(reward, "reward_model.path")


def run_of(config: Config, policy: Shape, reward: Shape) -> Run:
    """What of the settings decides the memory."""
    ppo, model = config.ppo, config.model
    return Run(
        policy=policy, reward=reward, prompt=WORLD_PROMPT if config.data.source == "world" else config.data.max_prompt_tokens,
        response=config.sampling.max_new_tokens, batch=ppo.batch_size, minibatch=ppo.minibatch_size,
        micro=min(ppo.micro_batch_size, ppo.minibatch_size), precision=config.precision, checkpointing=model.gradient_checkpointing,
        lora_rank=model.lora_rank, lora_targets=model.lora_targets, shared_critic=ppo.critic_init == "reward", offload=config.offload,
        held_out=config.evaluation.prompts,
    )  # fmt: skip


def shown(size: float) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:.0f} {unit}"
    return "0" if size == 0 else f"{size / 1e3:.0f} kB"


def items(found: MemoryEstimate) -> str:
    """Every item by phase."""
    names = list(dict.fromkeys(name for phase in PHASES for name in found.phases[phase]))
    rows = [[name, *(shown(found.phases[phase].get(name, 0)) for phase in PHASES)] for name in names]
    rows.append(["peak", *(shown(found.peak(phase)) for phase in PHASES)])
    return text_table(["", *PHASES], rows, align="right", markdown=True)


def lowered(run: Run) -> str:
    """The peak under one change of the settings at a time, and under all."""
    changes = {
        "model.gradient_checkpointing=true": {"checkpointing": True},
        "ppo.micro_batch_size=1": {"micro": 1},
        "precision=bf16": {"precision": "bf16"},
        f"model.lora_rank={LORA_RANK}": {"lora_rank": LORA_RANK},
        "offload=true": {"offload": True},
    }
    if run.lora_rank and run.shared_critic:
        del changes["offload=true"]
    rows = []
    for name, change in changes.items():
        if any(getattr(run, key) != value for key, value in change.items()):
            rows.append([name, shown(estimate(replace(run, **change)).peak())])
    return text_table(["instead", "peak"], rows, align="right", markdown=True)


def public(run: Run) -> str:
    """The peaks of all public shapes under the lengths and batches of `run`."""
    lean = {"precision": "bf16", "checkpointing": True, "micro": 1}
    columns = {
        "as set": {}, "bf16, checkpointing, micro-batch 1": lean, "the same and offload": lean | {"offload": True},
        f"the same with LoRA {LORA_RANK}": lean | {"lora_rank": LORA_RANK, "offload": False},
    }  # fmt: skip
    rows = []
    for name, shape in SHAPES.items():
        peaks = [shown(estimate(replace(run, policy=shape, reward=shape, **change)).peak()) for change in columns.values()]
        rows.append([name, f"{shape.parameters / 1e9:.3g} B", *peaks])
    return text_table(["model", "parameters", *columns], rows, align="right", markdown=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings, as python -m ablate.run takes them")
    parser.add_argument("--parameters", type=float, help="take the public shape nearest to this size (7e9) in place of a model's config")
    parser.add_argument("--table", action="store_true", help="peaks of public shapes from 0.1 B to 70 B")
    arguments = parser.parse_intermixed_args()
    try:
        config = settings(arguments.overrides)
        policy, reward = shapes(config, arguments.parameters)
    except UserError as error:
        sys.exit(f"error: {error}")
    run = run_of(config, policy, reward)
    print(f"{run.batch} responses of at most {run.prompt} + {run.response} tokens, {run.micro} in a micro-batch, {run.precision}\n")
    if arguments.table:
        print(public(run))
        return
    print(f"policy {policy.parameters / 1e6:.0f} M parameters, reward model {reward.trunk / 1e6:.0f} M\n")
    found = estimate(run)
    print(f"{items(found)}\n\npeak {shown(found.peak())}; a GPU's context, workspaces and fragments come on top\n\n{lowered(run)}")


if __name__ == "__main__":
    main()
