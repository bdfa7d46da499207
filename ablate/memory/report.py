"""The estimate of a run's memory as text: tables per phase, per saving, and over public shapes."""

from __future__ import annotations

from dataclasses import replace

from ablate.memory.estimate import MemoryEstimate, Run, estimate
from ablate.memory.shapes import SHAPES
from ablate.system.tables import text_table

PHASES = ("rollout", "measure", "update", "evaluate")
LORA_RANK = 16  # of the changes that the tables show


def report(run: Run) -> str:
    """Everything that the command prints about one run."""
    memory = estimate(run)
    sizes = f"policy {run.policy.parameters / 1e6:.0f} M parameters, reward model {run.reward.trunk / 1e6:.0f} M"
    peak = f"peak {bytes_text(memory.peak())}; a GPU's context, workspaces and fragments come on top"
    return "\n\n".join([heading(run), sizes, items(memory), peak, savings(run)])


def heading(run: Run) -> str:
    """The batch of a rollout, the longest sequences, the micro-batch and the precision, in a line."""
    return f"{run.batch} responses of at most {run.prompt} + {run.response} tokens, {run.micro} in a micro-batch, {run.precision}"


def bytes_text(size: float) -> str:
    """A number of bytes with its unit, to three digits: `13.5 GB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}" if size < 1000 * scale else f"{size / scale:.0f} {unit}"
    return "0" if size == 0 else f"{size / 1e3:.0f} kB"


def items(memory: MemoryEstimate) -> str:
    """A table of every item per phase, and the peak of each phase."""
    names = list(dict.fromkeys(name for phase in PHASES for name in memory.phases[phase]))
    rows = [[name, *(bytes_text(memory.phases[phase].get(name, 0)) for phase in PHASES)] for name in names]
    rows.append(["peak", *(bytes_text(memory.peak(phase)) for phase in PHASES)])
    return text_table(["", *PHASES], rows, align="right", markdown=True)


def savings(run: Run) -> str:
    """A table of the peak after one change of the settings at a time, for the changes that lower it; a sentence where none does."""
    changes = {
        "model.gradient_checkpointing=true": {"checkpointing": True},
        "ppo.micro_batch_size=1": {"micro": 1},
        "precision=bf16": {"precision": "bf16"},
        f"model.lora_rank={LORA_RANK}": {"lora_rank": LORA_RANK},
        "model.frozen_dtype=bf16": {"frozen": "bf16"},
        "offload=true": {"offload": True},
    }
    if run.lora_rank:
        del changes["model.frozen_dtype=bf16"]
    if run.lora_rank and run.shared_critic:
        del changes["offload=true"]
    peaks = {name: estimate(replace(run, **change)).peak() for name, change in changes.items()}
    rows = [[name, bytes_text(peak)] for name, peak in peaks.items() if peak < estimate(run).peak()]
    if not rows:
        return f"none of {', '.join(changes)} lowers the peak"
    return text_table(["instead", "peak"], rows, align="right", markdown=True)


def table_of_shapes(run: Run) -> str:
    """The first line of the report, and the peaks of all public shapes with the lengths and batches of `run`."""
    lean = {"precision": "bf16", "checkpointing": True, "micro": 1}
    columns = {
        "as set": {}, "bf16, checkpointing, micro-batch 1": lean, "the same and offload": lean | {"offload": True},
        f"the same with LoRA {LORA_RANK}": lean | {"lora_rank": LORA_RANK, "offload": False},
    }  # fmt: skip
    rows = []
    for name, shape in SHAPES.items():
        peaks = [bytes_text(estimate(replace(run, policy=shape, reward=shape, **change)).peak()) for change in columns.values()]
        rows.append([name, f"{shape.parameters / 1e9:.3g} B", *peaks])
    return f"{heading(run)}\n\n" + text_table(["model", "parameters", *columns], rows, align="right", markdown=True)
