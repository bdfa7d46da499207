"""LoRA: adapters over weights that stay; the reference is the policy without its adapter, on the same tensors."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ablate.config import Config, ModelConfig, PPOConfig, PPOSettings, SamplingConfig
from ablate.errors import UserError
from ablate.models.forward import response_logits
from ablate.models.load import load_policy, load_scorer
from ablate.models.lora import add_adapter, linear_layers, merged, require_peft, restore_adapter
from ablate.ppo.models import Models
from ablate.ppo.rollout import collect_rollout, encode_prompts
from ablate.ppo.shaping import estimate_targets, initial_state, shape_rewards
from ablate.ppo.update import new_optimizer, update
from ablate.runs.checkpoint import load_adapted, optimizer_tensors
from ablate.system.seeding import numpy_generator, torch_generator
from ablate.world.grammar import grammar, prompts

pytest.importorskip("peft")
CPU, SAMPLING = torch.device("cpu"), SamplingConfig()
PPO = PPOConfig(batch_size=12, minibatch_size=6, micro_batch_size=6, learning_rate=1e-2, critic_learning_rate=1e-2)
LORA = ModelConfig(lora_rank=4, lora_alpha=8.0)


def with_adapters(models: Models, settings: ModelConfig = LORA) -> Models:
    policy, critic = load_adapted(None, models.reference, models.scorer.model, Config(model=settings))
    return replace(models, policy=policy, critic=critic)


def rollout_of(models: Models):
    questions = [prompt.text for prompt in prompts(grammar("en"), 12, numpy_generator(0, "test prompts"))]
    noise = torch.rand(12, 10, generator=torch_generator(0, "test noise"))
    return collect_rollout(models, encode_prompts(models.tokenizer, questions, CPU), noise, PPOSettings(PPO, SAMPLING))


def train(models: Models):
    """One update of PPO-max: two gradient steps. Returns the optimiser."""
    rollout, optimizer = rollout_of(models), new_optimizer(models, PPO)
    rewards, _ = shape_rewards(rollout, PPOSettings(PPO, SAMPLING), initial_state(PPO))
    targets = estimate_targets(rollout, rewards, PPO)
    update(models, optimizer, rollout, targets, PPOSettings(PPO, SAMPLING), torch_generator(0, "minibatches"), 0, lambda step: None)
    return optimizer


def learned(models: Models) -> dict:
    """Everything that may learn in policy and critic, by name."""
    both = ("policy", models.policy), ("critic", models.critic)
    return {f"{role}.{name}": p for role, model in both for name, p in model.named_parameters() if p.requires_grad}


def random_adapter(model) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def pair(architecture: str, architecture_folders) -> tuple:
    """(causal LM, scorer), each as it is and with an adapter of random weights."""
    folders = architecture_folders(architecture)
    policy, scorer = load_policy(folders[0], CPU), load_scorer(folders[1], CPU)
    both = add_adapter(policy, LORA, torch_generator(0, "a")), add_adapter(scorer, LORA, torch_generator(0, "b"), head="score")
    for model in both:
        random_adapter(model)
    return (policy, both[0]), (scorer, both[1])


TOKENS = torch.randint(2, 23, (3, 9), generator=torch.Generator().manual_seed(0))


def test_a_new_adapter_changes_nothing_bit_for_bit(tiny_models):
    models = with_adapters(tiny_models)
    rollout = rollout_of(models)
    batch = rollout.tokens, rollout.attention, rollout.mask
    assert torch.equal(response_logits(models.policy, *batch), response_logits(models.reference, *batch))
    assert rollout.kl.abs().max() < 1e-6
    plain = rollout_of(tiny_models)
    assert torch.equal(rollout.tokens, plain.tokens) and torch.equal(rollout.values, plain.values)


def test_no_weight_of_policy_or_critic_is_a_second_copy(tiny_models):
    models = with_adapters(tiny_models)
    for own, frozen in ((models.policy, models.reference), (models.critic, models.scorer.model)):
        known = {parameter.data_ptr() for parameter in frozen.parameters()}
        copies = [name for name, parameter in own.named_parameters() if "default" not in name and parameter.data_ptr() not in known]
        assert copies == []


def test_an_update_trains_adapters_and_the_score_head_and_leaves_the_weights_beneath_bit_for_bit(tiny_models):
    models = with_adapters(tiny_models)
    rollout = rollout_of(models)
    batch = rollout.tokens, rollout.attention, rollout.mask
    beneath = [*models.reference.parameters(), *models.scorer.model.parameters()]
    before = [parameter.clone() for parameter in beneath]
    learn = {name: p.clone() for name, p in learned(models).items()}
    reference, policy = (response_logits(model, *batch) for model in (models.reference, models.policy))
    optimizer = train(models)
    assert all(torch.equal(a, b) for a, b in zip(before, beneath, strict=True))
    assert torch.equal(response_logits(models.reference, *batch), reference)
    assert not torch.equal(response_logits(models.policy, *batch), policy)
    after = learned(models)
    assert [name for name in learn if torch.equal(learn[name], after[name])] == []
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in after.values()}
    assert {name.partition(".")[0] for name in optimizer_tensors(optimizer)} == {str(i) for i in range(len(held))}


def test_only_adapters_and_the_critics_score_head_can_learn(architecture, architecture_folders):
    for (_, model), head in zip(pair(architecture, architecture_folders), (set(), {"score.modules_to_save.default.weight"}), strict=True):
        learn = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert {name for name in learn if ".lora_A." not in name and ".lora_B." not in name} == head
        adapters = {name.split(".lora_A.")[0] for name in learn if ".lora_A." in name}
        assert adapters == {f"{model.base_model_prefix}.{name}" for name in linear_layers(pair(architecture, architecture_folders)[0][0])}


@torch.no_grad()
def test_a_model_with_an_adapter_is_the_plain_one_with_weights_merged_by_hand(architecture, architecture_folders):
    """W + (α / r) B A, layer by layer; GPT-2 keeps its matrices transposed."""
    for plain, model in pair(architecture, architecture_folders):
        expected, weights = model(TOKENS).logits, dict(plain.named_parameters())
        assert not torch.allclose(plain(TOKENS).logits, expected, atol=1e-2)
        learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name, a in learned.items():
            if ".lora_A." in name:
                weight = weights[name.replace(".lora_A.default", "")]
                delta = (8.0 / 4) * learned[name.replace("lora_A", "lora_B")] @ a
                weight += delta.T if architecture == "gpt2" else delta
        if "score.weight" in weights:
            weights["score.weight"].copy_(learned["score.modules_to_save.default.weight"])
        torch.testing.assert_close(plain(TOKENS).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_merged_model_is_an_ordinary_folder_and_leaves_the_one_it_came_from(architecture, architecture_folders, tmp_path):
    (_, policy), (_, scorer) = pair(architecture, architecture_folders)
    before = policy(TOKENS).logits, scorer(TOKENS).logits
    plain = merged(policy)
    plain.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(TOKENS).logits, before[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(merged(scorer)(TOKENS).logits, before[1], rtol=0, atol=1e-5)
    assert not any("lora" in name for model in (plain, merged(scorer)) for name, _ in model.named_parameters())
    assert torch.equal(policy(TOKENS).logits, before[0]) and torch.equal(scorer(TOKENS).logits, before[1])


def test_a_new_adapter_belongs_to_the_seed(tiny_models):
    first, again = (add_adapter(tiny_models.reference, LORA, torch_generator(0, "a")) for _ in range(2))
    other = add_adapter(tiny_models.reference, LORA, torch_generator(1, "a"))
    same = [[torch.equal(a, b) for a, b in zip(first.parameters(), m.parameters(), strict=True)] for m in (again, other)]
    assert all(same[0]) and not all(same[1])


def test_the_named_layers_alone_get_an_adapter_and_an_unknown_name_is_refused_with_those_there_are(tiny_models):
    model = add_adapter(tiny_models.reference, replace(LORA, lora_targets=["q_proj", "v_proj"]), torch_generator(0, "a"))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert layers == {"q_proj", "v_proj"}
    message = r"model.lora_targets: no linear layer is named query: choose among down_proj, gate_proj, .*v_proj, or leave it null"
    with pytest.raises(UserError, match=message):
        add_adapter(tiny_models.reference, replace(LORA, lora_targets=["query"]), torch_generator(0, "a"))


@torch.no_grad()
def test_an_adapter_comes_back_from_its_folder_bit_for_bit_and_one_of_another_rank_is_refused(tiny_models, tmp_path):
    models = with_adapters(tiny_models)
    for name in ("policy", "critic"):
        random_adapter(getattr(models, name))
        getattr(models, name).save_pretrained(tmp_path / name)
    policy, critic = load_adapted(tmp_path, models.reference, models.scorer.model, Config(model=LORA, seed=7))
    tokens = TOKENS
    assert torch.equal(policy(tokens).logits, models.policy(tokens).logits)
    assert torch.equal(critic(tokens).logits, models.critic(tokens).logits)
    with pytest.raises(UserError, match=r"belongs to other layers or another rank: set the model.lora_"):
        load_adapted(tmp_path, models.reference, models.scorer.model, Config(model=replace(LORA, lora_rank=2)))
    (tmp_path / "policy/adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="policy holds no readable adapter"):
        restore_adapter(policy, Path(tmp_path / "policy"))


def test_a_missing_peft_is_one_sentence_with_the_remedy(monkeypatch):
    require_peft()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"needs the package peft, which is not installed: pip install 'ppo-ablation\[lora\]'"):
        require_peft()
