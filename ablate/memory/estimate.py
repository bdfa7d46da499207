"""How much memory a run needs, from numbers alone: `estimate(run)`. The command is `python -m ablate.memory`.

The phases of an update, each with its peak: `rollout` (sampling), `measure` (log-probs, values and scores of what was sampled),
`update` (the gradient steps), and `evaluate`, which samples and measures held-out prompts. Lengths are the
worst case: every prompt and every response as long as the settings allow.
What is counted is what tensors take; a GPU's context, its libraries' workspaces and the allocator's fragments come on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ablate.memory.shapes import Shape
from ablate.models.attention import MAX_BMM_KEYS, ROW_MULTIPLE
from ablate.ppo.rollout import rows_of_a_pass
from ablate.ppo.sampling import DISTRIBUTION_BYTES, LOGIT_BYTES

# What autograd keeps of a layer, bytes per token: (per unit of hidden width, per unit of the MLP's width).
# tests/memory/test_memory.py counts them anew in the real passes.
ACTIVATIONS = {
    ("llama", "fp32"): (44, 16), ("llama", "bf16"): (36, 8),
    ("gpt2", "fp32"): (36, 20), ("gpt2", "bf16"): (22, 10),
    ("gpt_neox", "fp32"): (40, 8), ("gpt_neox", "bf16"): (24, 4),
}  # fmt: skip
FROZEN_NORMS = {"llama": 8, "gpt2": 0, "gpt_neox": 0}  # what a layer keeps less, per hidden unit, where LoRA leaves its norms
LAST_NORM = 16  # bytes per token and unit of hidden width, kept beside the layers: embeddings, the last norm, the head's input
PASSING = {"llama": (3, 3), "gpt2": (3, 4), "gpt_neox": (4, 2)}  # widths (hidden, MLP) alive in a layer of a pass without gradients
ATTENDING = 9  # hidden widths alive in attention by batched products: residual, queries, keys and values, their copies, the outcome
# [tokens, vocabulary] float32 tensors alive at once: kept by the graph; while the loss is made; while it is differentiated;
# while a rollout is measured; at a step of sampling; at the prompt's NLL.
LOGITS_KEPT, LOGITS_FORWARD, LOGITS_BACKWARD, LOGITS_MEASURE, LOGITS_STEP, LOGITS_PROMPT = 2.25, 4.25, 4.25, 5.25, 5, 2
ADAM = 8  # bytes a trained parameter: two moments in float32


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by phase and by item; `peak` of a phase is their sum, of a run the largest of the phases."""

    phases: dict[str, dict[str, float]] = field(default_factory=dict)

    def peak(self, phase: str | None = None) -> float:
        return sum(self.phases[phase].values()) if phase else max(map(self.peak, self.phases))


@dataclass(frozen=True)
class Run:
    """What of a run decides its memory."""

    policy: Shape
    reward: Shape
    prompt: int  # tokens of the longest prompt
    response: int
    batch: int
    minibatch: int
    micro: int
    precision: str = "fp32"
    checkpointing: bool = False
    lora_rank: int = 0
    lora_targets: list[str] | None = None
    shared_critic: bool = True  # with LoRA: on the reward model's weights
    offload: bool = False
    held_out: int = 0  # prompts of an evaluation, answered all at once; 0 leaves that phase out


def estimate(run: Run) -> MemoryEstimate:
    """Bytes of every phase. Policy, reference and critic, reward model have the same shapes in pairs."""
    always = resident(run)
    frozen = {name: always.pop(name) for name in ("reference", "reward model")}
    asleep = {} if run.offload else frozen
    kept = {"kept distributions": kept_distributions(run)}
    phases = {
        "rollout": always | asleep | kept | rollout(run),
        "measure": always | frozen | kept | measure(run),
        "update": always | asleep | kept | update(run),
    }
    if run.held_out:
        judged = replace(run, batch=run.held_out)
        kept = {"kept distributions": kept["kept distributions"] + kept_distributions(judged)}
        moments = always | asleep | kept | rollout(judged), always | frozen | kept | measure(judged)
        phases["evaluate"] = max(moments, key=lambda moment: sum(moment.values()))
    return MemoryEstimate(phases)


def trained(run: Run) -> tuple[int, int]:
    """Parameters of policy and critic that learn."""
    if run.lora_rank:
        policy, critic = (shape.adapter(run.lora_rank, run.lora_targets) for shape in (run.policy, run.reward))
        return policy, critic + run.reward.hidden
    return run.policy.parameters, run.reward.trunk + run.reward.hidden


def resident(run: Run) -> dict[str, float]:
    """Weights in float32 and Adam's moments. With LoRA the reference's weights are the policy's, and the critic's the reward model's."""
    policy, critic = trained(run)
    scorer = run.reward.trunk + run.reward.hidden
    if not run.lora_rank:
        own = {"policy": policy, "reference": policy, "critic": critic, "reward model": scorer}
    else:
        own = {
            "policy": run.policy.parameters + policy, "reference": 0, "critic": critic + (0 if run.shared_critic else scorer),
            "reward model": scorer,
        }  # fmt: skip
    return {name: 4.0 * count for name, count in own.items()} | {"optimiser": float(ADAM * (policy + critic))}


def kept_distributions(run: Run) -> float:
    """The sampler's own distributions, kept for the KL where they are small enough."""
    size = 4.0 * run.batch * run.response * run.policy.vocabulary
    return size if size <= DISTRIBUTION_BYTES and run.precision == "fp32" else 0.0


def passing(shape: Shape, run: Run, tokens: int, length: int) -> float:
    """The widest moment of a layer in a pass without gradients over `tokens` in sequences of `length`.

    That is the MLP (an adapter's product, scaled and not, stands beside the layer's own), or attention by batched products, whose
    scores and weights are there at once.
    """
    hidden, inner = PASSING[shape.family]
    mlp = 4.0 * tokens * (hidden * shape.hidden + (inner + 2 * (run.lora_rank > 0)) * shape.inner)
    if run.precision != "fp32" or shape.heads != shape.kv_heads or length > MAX_BMM_KEYS:
        return mlp
    return max(mlp, 4.0 * tokens * (ATTENDING * shape.hidden + 2 * shape.heads * length))


def rollout(run: Run) -> dict[str, float]:
    """The KV cache, which has room for everything from the start, and the prompts' pass with their NLL or a step of sampling, whichever
    takes more."""
    shape, prompts = run.policy, run.batch * run.prompt
    rotary = shape.family != "gpt2"  # rotary positions leave keys in float32
    bytes_of_pair = 8 if run.precision == "fp32" else 6 if rotary else 4
    token = float(bytes_of_pair * shape.layers * shape.kv)
    logits = 4.0 * shape.vocabulary
    together = min(run.batch, max(1, LOGIT_BYTES // (4 * run.prompt * shape.vocabulary)))  # prompts
    nll = LOGITS_PROMPT * together * (run.prompt - 1) * logits + 8.0 * prompts * shape.hidden
    whole = token * run.batch * (run.prompt + run.response)
    widest = max(passing(shape, run, prompts, run.prompt), nll, LOGITS_STEP * run.batch * logits)
    return {"KV cache": whole, "logits and passing activations": widest}


def measure(run: Run) -> dict[str, float]:
    """Passes without gradients over groups of responses; their logits outweigh all else where the vocabulary is large."""
    rows = min(rows_of_a_pass(run.response, run.policy.vocabulary), run.batch)
    logits = 4.0 * rows * run.response * run.policy.vocabulary
    passes = max(passing(shape, run, packed_tokens(run, rows), run.prompt + run.response) for shape in (run.policy, run.reward))
    return {"logits and passing activations": max(LOGITS_MEASURE * logits, 2 * logits + passes)}


def packed_tokens(run: Run, rows: int) -> int:
    """Positions of a packed row of `rows` sequences, all as long as they can be."""
    return math.ceil(rows * (run.prompt + run.response) / ROW_MULTIPLE) * ROW_MULTIPLE


def activations(shape: Shape, run: Run) -> tuple[float, float]:
    """What the graph of one micro-batch keeps of a model's trunk, and what computing one layer again adds for a moment."""
    tokens = packed_tokens(run, run.micro)
    hidden, inner = ACTIVATIONS[shape.family, run.precision]
    hidden -= FROZEN_NORMS[shape.family] if run.lora_rank else 0
    layer = tokens * (hidden * shape.hidden + inner * shape.inner)
    layer += 2.0 * shape.matrices / shape.layers if run.precision == "bf16" else 0.0  # cast copies of its weights
    ends = float(LAST_NORM * tokens * shape.hidden)
    if run.checkpointing:
        return shape.layers * 4.0 * tokens * shape.hidden + ends, layer
    return shape.layers * layer + ends, 0.0


def update(run: Run) -> dict[str, float]:
    """Gradients, activations and logits at the worst moment of a micro-batch: the policy's loss is made, the critic's graph is complete
    and differentiated first, then the policy's loss and its trunk. A graph is gone once it is differentiated, its gradients stay."""
    logits = 4.0 * run.micro * run.response * run.policy.vocabulary
    (policy, policy_again), (critic, critic_again) = (activations(shape, run) for shape in (run.policy, run.reward))
    grown = [4.0 * count for count in trained(run)]
    gradients = sum(grown) if run.minibatch > run.micro else 0.0  # of earlier micro-batches
    head = 0.0 if run.lora_rank else 4.0 * run.policy.vocabulary * run.policy.hidden
    moments = [
        {"gradients": gradients, "activations": policy, "logits": LOGITS_FORWARD * logits},
        {"gradients": gradients, "activations": policy + critic + critic_again, "logits": LOGITS_KEPT * logits},
        {"gradients": max(gradients, grown[1]) + head, "activations": policy, "logits": LOGITS_BACKWARD * logits},
        {"gradients": max(gradients, grown[1]) + head, "activations": policy + policy_again, "logits": 0.0},
        {"gradients": sum(grown), "activations": 0.0, "logits": 0.0},
    ]
    return max(moments, key=lambda moment: sum(moment.values()))
