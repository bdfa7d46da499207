"""Memory against time: gradient checkpointing and the offload of frozen models change no number."""

import pytest
import torch
from synthetic import random_rollout
from transformers import AutoModelForCausalLM

from ablate import trainer
from ablate.config import ModelConfig, SamplingConfig
from ablate.errors import UserError
from ablate.models.forward import response_logits, response_values, sequence_score
from ablate.models.load import freeze, load_policy, load_scorer
from ablate.models.lora import add_adapter, merged
from ablate.models.offload import OffloadedModel, loaded_on_device
from ablate.models.recompute import checkpoint_gradients
from ablate.pipeline.build import Stages, choose_device
from ablate.ppo.rollout import encode_prompts, generate_responses
from ablate.runs.folder import read_rows, run_folder
from ablate.runs.store import RunStore
from ablate.runs.tracking import Trackers
from ablate.system.seeding import torch_generator

CPU = torch.device("cpu")


def batch() -> tuple[torch.Tensor, ...]:
    rollout = random_rollout()
    return rollout.tokens, rollout.attention, rollout.mask


def loss(policy, critic) -> torch.Tensor:
    logits, (values, _) = response_logits(policy, *batch()), response_values(critic, *batch())
    return logits.log_softmax(-1)[:, 3].sum() + values.square().sum()


def saved_bytes(policy, critic) -> int:
    """Bytes that the graph of one loss keeps, each tensor once, weights left out."""
    weights = {p.data_ptr() for model in (policy, critic) for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss(policy, critic)
    assert result.requires_grad
    return sum(kept.values())


def both(architecture_folders, architecture: str) -> tuple:
    folders = architecture_folders(architecture)
    return load_policy(folders[0], CPU), load_scorer(folders[1], CPU)


def test_gradients_with_and_without_checkpointing_are_the_same_bits_and_the_graph_keeps_less(architecture, architecture_folders):
    plain, other = both(architecture_folders, architecture), both(architecture_folders, architecture)
    for model in other:
        checkpoint_gradients(model)
    for models in (plain, other):
        loss(*models).backward()
    for model, checkpointed in zip(plain, other, strict=True):
        gradients = [(a.grad, b.grad) for a, b in zip(model.parameters(), checkpointed.parameters(), strict=True)]
        assert all(torch.equal(a, b) for a, b in gradients if a is not None)
        assert [a is None for a, _ in gradients] == [b is None for _, b in gradients]
    assert saved_bytes(*other) < 0.6 * saved_bytes(*plain)


def test_a_layer_is_computed_again_only_where_a_gradient_is_asked_for(architecture_folders):
    policy = load_policy(architecture_folders("llama")[0], CPU)
    calls = []
    policy.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_gradients(policy)
    with torch.no_grad():
        response_logits(policy, *batch())
    assert len(calls) == 1
    response_logits(policy, *batch()).sum().backward()
    assert len(calls) == 3


def test_the_sampler_keeps_its_cache_under_checkpointing(tiny_models):
    prompts = encode_prompts(tiny_models.tokenizer, ["how do i start with bread ?"] * 2, CPU)
    noise = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    responses = [generate_responses(tiny_models.policy, tiny_models.tokenizer, prompts, noise, SamplingConfig()).responses]
    checkpoint_gradients(tiny_models.policy)
    responses.append(generate_responses(tiny_models.policy, tiny_models.tokenizer, prompts, noise, SamplingConfig()).responses)
    assert torch.equal(*responses)


def test_adapters_learn_the_same_with_checkpointing_and_a_merged_copy_runs_its_own_layers(architecture_folders):
    pytest.importorskip("peft")
    policy = load_policy(architecture_folders("llama")[0], CPU)
    models = [add_adapter(policy, ModelConfig(lora_rank=4), torch_generator(0, "a")) for _ in range(2)]
    checkpoint_gradients(models[1])
    for model in models:
        response_logits(model, *batch()).square().sum().backward()
    first, second = ([p.grad for p in model.parameters() if p.requires_grad] for model in models)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) and any(g.abs().max() > 0 for g in first)
    plain = merged(models[1])
    expected = response_logits(plain, *batch()).detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    assert torch.equal(response_logits(plain, *batch()).detach(), expected)


def test_a_model_whose_layers_cannot_be_computed_again_is_refused(architecture_folders):
    policy = AutoModelForCausalLM.from_pretrained(architecture_folders("llama")[0])
    policy.model.layers = torch.nn.ModuleList()
    with pytest.raises(UserError, match=r"model.gradient_checkpointing: LlamaForCausalLM has no layers .*: set it to false"):
        checkpoint_gradients(policy)


def places(model) -> list[int]:
    return [parameter.data_ptr() for parameter in model.parameters()]


@torch.no_grad()
def test_a_resting_model_is_elsewhere_only_within_its_pass_and_gives_the_same_numbers(architecture, architecture_folders):
    """On the CPU a copy stands for the GPU's: other memory within, its own again after, whatever happened."""
    policy, scorer = (freeze(model) for model in both(architecture_folders, architecture))
    tokens, attention, mask = batch()
    expected = response_logits(policy, tokens, attention, mask), sequence_score(scorer, tokens, attention)
    at_home = places(policy), places(scorer)
    resting = [OffloadedModel(model, CPU) for model in (policy, scorer)]
    with loaded_on_device(resting):
        assert set(places(policy) + places(scorer)).isdisjoint(at_home[0] + at_home[1])
        seen = response_logits(policy, tokens, attention, mask), sequence_score(scorer, tokens, attention)
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)  # kernels round by where memory begins
    assert (places(policy), places(scorer)) == at_home
    with pytest.raises(RuntimeError, match="in a pass"), loaded_on_device(resting):
        raise RuntimeError("in a pass")
    assert (places(policy), places(scorer)) == at_home


@torch.no_grad()
def test_weights_that_are_tied_stay_tied_while_they_are_away(architecture_folders):
    policy = freeze(load_policy(architecture_folders("gpt2")[0], CPU))
    with loaded_on_device([OffloadedModel(policy, CPU)]):
        assert policy.get_input_embeddings().weight.data_ptr() == policy.get_output_embeddings().weight.data_ptr()


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_a_resting_model_takes_its_memory_for_its_pass_alone(architecture_folders):
    device = torch.device("cuda")
    expected = response_logits(load_policy(architecture_folders("llama")[0], device), *(part.to(device) for part in batch()))
    policy = freeze(load_policy(architecture_folders("llama")[0], CPU))
    resting = OffloadedModel(policy, device)
    before = torch.cuda.memory_allocated()
    with loaded_on_device([resting]):
        assert torch.equal(response_logits(policy, *(part.to(device) for part in batch())), expected)
        assert torch.cuda.memory_allocated() > before
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("lora", [(), ("model.lora_rank=4", "ppo.critic_init=sft")])
def test_a_whole_run_with_frozen_models_at_rest_logs_the_same_numbers(lora, tiny_config, stage_folders, monkeypatch):
    """The CPU stands in for the GPU, which the settings refuse; the copies are real."""
    monkeypatch.setattr(trainer, "choose_device", lambda config: CPU)
    stages = Stages(**stage_folders)
    rows = {}
    for arm in ("offload=false", "offload=true"):
        config = tiny_config(f"arm=at_{arm.partition('=')[2]}", arm, *lora)
        run = trainer.Trainer.load(config, stages, RunStore(config))
        assert len(run.offloaded) == (0 if arm == "offload=false" else 1 if lora else 2)
        run.run(Trackers([]))
        run.store.close()
        rows[arm] = [
            {k: v for k, v in row.items() if not k.startswith(("time/", "responses_per"))}
            for row in read_rows(run_folder(config) / "metrics.jsonl")
        ]
    assert len(rows["offload=true"]) == 5
    for ours, plain in zip(rows["offload=true"], rows["offload=false"], strict=True):
        assert ours == pytest.approx(plain, rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    "settings",
    [
        ("ppo.critic_pretrain=true",),
        ("ppo.reward_shape=sigmoid",),
        ("ppo.advantage_estimator=remax",),
        ("ppo.reference_update=reset", "ppo.reference_update_every=1"),
    ],
)
def test_no_pass_asks_a_model_that_rests(settings, tiny_config, stage_folders, monkeypatch):
    """Also where SFT answers: on the rollouts that pre-train the critic, and as the reference of a shaped reward."""
    monkeypatch.setattr(trainer, "choose_device", lambda config: CPU)
    config = tiny_config("offload=true", *settings)
    run = trainer.Trainer.load(config, Stages(**stage_folders), RunStore(config))
    asked, homes = set(), {}
    for model in (run.models.sft, *(scorer.model for scorer in run.models.scorers)):
        resting = next(found for found in run.offloaded if next(model.parameters()) in found.cpu_weights)
        homes[model.base_model] = {weights.data_ptr() for weights in resting.cpu_weights.values()}

    def check(model, *_):
        asked.add(model)
        assert homes[model].isdisjoint(places(model))

    for model in homes:
        model.register_forward_pre_hook(check)
    run.run(Trackers([]))
    run.store.close()
    assert asked == set(homes)


def test_offload_without_a_gpu_is_refused(tiny_config):
    with pytest.raises(UserError, match=r"offload keeps frozen models off the GPU, and this run is on the CPU: set offload=false"):
        choose_device(tiny_config("offload=true"))


def test_dropout_stays_off_under_checkpointing(architecture_folders):
    policy = load_policy(architecture_folders("gpt2")[0], CPU)
    assert policy.config.attn_pdrop > 0
    checkpoint_gradients(policy)
    first, second = (response_logits(policy, *batch()) for _ in range(2))
    assert torch.equal(first, second)
