"""Estimate how much memory a run needs, from its settings and the shapes of its models: `estimate(run)`.

An update has the phases `rollout` (sampling), `measure` (log-probs, values and scores of the responses) and `update` (the gradient
steps); `evaluate` samples and measures held-out prompts. Each phase has its own peak. Lengths are the worst case: every prompt and every
response is as long as the settings allow. Only tensors are counted: a GPU's context, the workspaces of its libraries and the allocator's
fragments come on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ablate.config import Config
from ablate.memory.shapes import WORLD_PROMPT, Shape
from ablate.models.attention import MAX_BMM_KEYS, ROW_MULTIPLE
from ablate.ppo.rollout import rows_of_a_pass
from ablate.ppo.sampling import DISTRIBUTION_BYTES, LOGIT_BYTES

# Bytes per token that autograd keeps of a layer: (per unit of hidden width, per unit of the MLP's width).
# tests/memory/test_memory.py counts them in real passes.
ACTIVATIONS = {
    ("llama", "fp32"): (44, 16), ("llama", "bf16"): (36, 8),
    ("gpt2", "fp32"): (36, 20), ("gpt2", "bf16"): (22, 10),
    ("gpt_neox", "fp32"): (40, 8), ("gpt_neox", "bf16"): (24, 4),
}  # fmt: skip
FROZEN_NORMS = {"llama": 8, "gpt2": 0, "gpt_neox": 0}  # bytes per token and hidden unit that a layer saves where LoRA freezes its norms
LAST_NORM = 16  # bytes per token and unit of hidden width, kept beside the layers: embeddings, the last norm, the head's input
INFERENCE_WIDTHS = {"llama": (3, 3), "gpt2": (3, 4), "gpt_neox": (4, 2)}  # (hidden, MLP) alive in a layer of a pass without gradients
ATTENTION_WIDTHS = 9  # hidden widths alive in attention by batched products: residual, queries, keys and values, their copies, the outcome
# [tokens, vocabulary] float32 tensors alive at once: kept by the graph; while the loss is made; while it is differentiated;
# while a rollout is measured; at a step of sampling; at the prompt's NLL.
LOGITS_KEPT, LOGITS_FORWARD, LOGITS_BACKWARD, LOGITS_MEASURE, LOGITS_STEP, LOGITS_PROMPT = 2.25, 5.25, 4.25, 5.25, 5, 2
ADAM = 8  # bytes per trained parameter: two moments in float32


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per phase and item."""

    phases: dict[str, dict[str, float]] = field(default_factory=dict)

    def peak(self, phase: str | None = None) -> float:
        """Bytes of a phase, which are the sum of its items, or of the run's largest phase."""
        return sum(self.phases[phase].values()) if phase else max(map(self.peak, self.phases))


@dataclass(frozen=True)
class Run:
    """What decides the memory of a run. Lengths are in tokens, batches in responses."""

    policy: Shape
    reward: Shape
    prompt: int  # tokens of the longest prompt
    response: int
    batch: int  # per rollout
    minibatch: int  # per gradient step
    micro: int  # per pass of a gradient step
    precision: str = "fp32"
    frozen: str = "fp32"  # what the matrices of frozen models are held in
    checkpointing: bool = False
    lora_rank: int = 0  # 0 trains all weights
    lora_targets: list[str] | None = None
    critic: bool = True
    shared_critic: bool = True  # with LoRA: the critic's adapter lies on the reward model's weights
    offload: bool = False
    reward_models: int = 1
    sft_copy: bool = False  # the reference moves, so SFT is one more model
    sampler: bool = False  # rollouts are sampled by weights of their own
    earlier_policies: int = 0  # whose weights are kept for a stale sampler, on the CPU also where the run is on a GPU
    entropy_bonus: bool = False  # whether the loss differentiates the entropy
    held_out: int = 0  # prompts of an evaluation, answered all at once; 0 leaves that phase out


def run_of(config: Config, policy: Shape, reward: Shape) -> Run:
    """The part of the settings that decides the memory, with the shapes of the models."""
    ppo, model = config.ppo, config.model
    return Run(
        policy=policy, reward=reward, prompt=WORLD_PROMPT if config.data.source == "world" else config.data.max_prompt_tokens,
        response=config.sampling.max_new_tokens, batch=ppo.batch_size, minibatch=ppo.minibatch_size,
        micro=min(ppo.micro_batch_size, ppo.minibatch_size), precision=config.precision, frozen=model.frozen_dtype,
        checkpointing=model.gradient_checkpointing,
        lora_rank=model.lora_rank, lora_targets=model.lora_targets, shared_critic=ppo.critic_init == "reward", offload=config.offload,
        critic=ppo.has_critic, reward_models=1 if config.reward_model.average else config.reward_model.ensemble,
        sft_copy=ppo.moves_reference, sampler=config.sampling.has_own_weights, earlier_policies=config.sampling.staleness,
        entropy_bonus=ppo.entropy_bonus, held_out=config.evaluation.prompts,
    )  # fmt: skip


def estimate(run: Run) -> MemoryEstimate:
    """Bytes per phase and item. The reference has the policy's shape, the critic the reward model's."""
    always = weights_and_optimizer(run)
    frozen = {name: always.pop(name) for name in ("reference", "SFT", "reward model") if name in always}
    frozen_on_device = {} if run.offload else frozen
    kept = {"kept distributions": kept_distributions(run)}
    phases = {
        "rollout": always | frozen_on_device | kept | rollout(run),
        "measure": always | frozen | kept | measure(run),
        "update": always | frozen_on_device | kept | update(run),
    }
    if run.held_out:
        evaluation = replace(run, batch=run.held_out)
        kept = {"kept distributions": kept["kept distributions"] + kept_distributions(evaluation)}
        moments = always | frozen_on_device | kept | rollout(evaluation), always | frozen | kept | measure(evaluation)
        phases["evaluate"] = max(moments, key=lambda moment: sum(moment.values()))
    return MemoryEstimate(phases)


def trainable_parameters(run: Run) -> tuple[int, int]:
    """The numbers of trained parameters: (of the policy, of the critic)."""
    if run.lora_rank:
        policy, critic = (shape.adapter(run.lora_rank, run.lora_targets) for shape in (run.policy, run.reward))
        return policy, (critic + run.reward.hidden) * run.critic
    return run.policy.parameters, (run.reward.trunk + run.reward.hidden) * run.critic


def weights_and_optimizer(run: Run) -> dict[str, float]:
    """Bytes of each model's weights, in float32 or as `frozen` holds them, and of Adam's moments.

    With LoRA the reference shares the policy's weights, and the critic those of the reward model where it starts from it. A reference
    that moves is not frozen, and SFT beside it is.
    """
    policy, critic = trainable_parameters(run)
    scorer = run.reward.trunk + run.reward.hidden
    if not run.lora_rank:
        own = {"policy": policy, "reference": policy, "critic": critic, "reward model": scorer * run.reward_models}
    else:
        own = {
            "policy": run.policy.parameters + policy, "reference": 0,
            "critic": critic + (0 if run.shared_critic or not run.critic else scorer),
            "reward model": scorer * run.reward_models,
        }  # fmt: skip
    whole = run.policy.parameters + (policy if run.lora_rank else 0)
    own |= {"SFT": whole} if run.sft_copy else {}
    own |= {"sampler": whole} if run.sampler else {}
    own |= {"earlier policies": run.earlier_policies * whole} if run.earlier_policies else {}
    found = {name: 4.0 * count for name, count in own.items()}
    if run.frozen != "fp32":
        head = 0 if run.policy.tied else run.policy.vocabulary * run.policy.hidden
        found["SFT" if run.sft_copy else "reference"] -= 2.0 * (run.policy.embeddings + run.policy.matrices + head)
        found["reward model"] -= 2.0 * (run.reward.embeddings + run.reward.matrices + run.reward.hidden) * run.reward_models
    return found | {"optimiser": float(ADAM * (policy + critic))}


def kept_distributions(run: Run) -> float:
    """Bytes of the sampler's distributions, [batch, response, vocabulary], which are kept for the KL where they are small enough."""
    size = 4.0 * run.batch * run.response * run.policy.vocabulary
    return size if size <= DISTRIBUTION_BYTES and run.precision == "fp32" else 0.0


def inference_activations(shape: Shape, run: Run, tokens: int, length: int) -> float:
    """Bytes at the peak of one layer, in a pass without gradients over `tokens` tokens in sequences of `length`.

    The peak is in the MLP, where an adapter's product, unscaled and scaled, is held beside the layer's own; or in attention by batched
    products, where scores and weights are held at once.
    """
    hidden, inner = INFERENCE_WIDTHS[shape.family]
    mlp = 4.0 * tokens * (hidden * shape.hidden + (inner + 2 * (run.lora_rank > 0)) * shape.inner)
    if run.precision != "fp32" or shape.heads != shape.kv_heads or length > MAX_BMM_KEYS:
        return mlp
    return max(mlp, 4.0 * tokens * (ATTENTION_WIDTHS * shape.hidden + 2 * shape.heads * length))


def rollout(run: Run) -> dict[str, float]:
    """Bytes of the KV cache, allocated in full, and of the largest of these: the prompts' pass, their NLL, a step of sampling."""
    shape, prompts = run.policy, run.batch * run.prompt
    rotary = shape.family != "gpt2"  # rotary positions leave keys in float32
    bytes_of_pair = 8 if run.precision == "fp32" else 6 if rotary else 4
    token = float(bytes_of_pair * shape.layers * shape.kv)
    logits = 4.0 * shape.vocabulary
    nll_prompts = min(run.batch, max(1, LOGIT_BYTES // (4 * run.prompt * shape.vocabulary)))
    nll = LOGITS_PROMPT * nll_prompts * (run.prompt - 1) * logits + 8.0 * prompts * shape.hidden
    cache = token * run.batch * (run.prompt + run.response)
    widest = max(inference_activations(shape, run, prompts, run.prompt), nll, LOGITS_STEP * run.batch * logits)
    return {"KV cache": cache, "logits and passing activations": widest}


def measure(run: Run) -> dict[str, float]:
    """Bytes of the passes without gradients over groups of responses: their logits with the KL, or logits and activations.

    A matrix that is held in bfloat16 is there in float32 as well while its layer multiplies, the reference's vocabulary head beside the
    logits of two models.
    """
    rows = min(rows_of_a_pass(run.response, run.policy.vocabulary), run.batch)
    logits = 4.0 * rows * run.response * run.policy.vocabulary
    passes = max(
        inference_activations(shape, run, packed_tokens(run, rows), run.prompt + run.response) + cast_matrix(shape, run)
        for shape in (run.policy, run.reward)
    )
    moments = [LOGITS_MEASURE * logits, 2 * logits + passes]
    if cast_matrix(run.policy, run):
        moments.append(3 * logits + 4.0 * run.policy.vocabulary * run.policy.hidden)
    return {"logits and passing activations": max(moments)}


def cast_matrix(shape: Shape, run: Run) -> float:
    """Bytes of the float32 copy of a layer's largest matrix, where frozen models are held in bfloat16 and products are in float32."""
    if run.frozen == "fp32" or run.precision != "fp32":
        return 0.0
    return 4.0 * max(rows * columns for rows, columns in shape.linear.values())


def packed_tokens(run: Run, rows: int) -> int:
    """Positions of a packed row of `rows` sequences of the longest length."""
    return math.ceil(rows * (run.prompt + run.response) / ROW_MULTIPLE) * ROW_MULTIPLE


def activations(shape: Shape, run: Run) -> tuple[float, float]:
    """(bytes that the graph of one micro-batch keeps of a model's trunk, bytes that recomputing one layer adds to them)."""
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
    """Bytes of gradients, activations and logits at the peak of a micro-batch.

    The moments, in order: the policy's loss is computed; the critic's graph is complete and is differentiated; the policy's loss is
    differentiated; the policy's trunk is differentiated; the optimizer steps. Differentiation frees a graph and leaves its gradients.
    The graph of the entropy, which without its bonus no loss differentiates, lives on while the next micro-batch's loss is computed.
    """
    logits = 4.0 * run.micro * run.response * run.policy.vocabulary
    (policy, policy_recomputed), (critic, critic_recomputed) = (activations(shape, run) for shape in (run.policy, run.reward))
    critic, critic_recomputed = critic * run.critic, critic_recomputed * run.critic
    all_gradients = [4.0 * count for count in trainable_parameters(run)]
    several = run.minibatch > run.micro
    gradients = sum(all_gradients) if several else 0.0  # of earlier micro-batches
    forward = LOGITS_FORWARD + (LOGITS_KEPT if several and not run.entropy_bonus else 0.0)
    head = 0.0 if run.lora_rank else 4.0 * run.policy.vocabulary * run.policy.hidden
    moments = [
        {"gradients": gradients, "activations": policy, "logits": forward * logits},
        {"gradients": gradients, "activations": policy + critic + critic_recomputed, "logits": LOGITS_KEPT * logits},
        {"gradients": max(gradients, all_gradients[1]) + head, "activations": policy, "logits": LOGITS_BACKWARD * logits},
        {"gradients": max(gradients, all_gradients[1]) + head, "activations": policy + policy_recomputed, "logits": 0.0},
        {"gradients": sum(all_gradients), "activations": 0.0, "logits": 0.0},
    ]
    return max(moments, key=lambda moment: sum(moment.values()))
