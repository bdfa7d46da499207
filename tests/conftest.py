"""Tiny random models in ordinary Hugging Face folders, and a config that starts from them: what every test of a run needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM as CausalLM
from transformers import AutoModelForSequenceClassification as Scorer
from transformers import (
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from ablate.config import Config
from ablate.models.folder import SCORE_SHIFT
from ablate.models.load import freeze, load_policy, load_scorer, load_tokenizer
from ablate.ppo.models import Models
from ablate.ppo.scoring import TokenScorer
from ablate.world.grammar import grammar
from ablate.world.tokenizer import build_tokenizer

os.environ["WANDB_MODE"] = "offline"
torch.set_num_threads(1)

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen2")
SPREAD = 0.3  # of random weights: wide enough for distributions that are far from uniform
STAGES = ("pretrained", "sft", "reward_model")


def tiny_shape(architecture: str, vocabulary: int, pad: int, end: int) -> PretrainedConfig:
    """Two layers of width 16, two heads: under 20,000 parameters with the world's vocabulary."""
    common = dict(vocab_size=vocabulary, pad_token_id=pad, eos_token_id=end, bos_token_id=None, initializer_range=SPREAD)
    if architecture == "gpt2":
        return GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, **common)
    if architecture == "gptj":  # an attention of its own
        return GPTJConfig(n_embd=16, n_layer=2, n_head=2, rotary_dim=4, n_positions=128, **common)
    if architecture == "mistral":  # two heads share keys and values, and look back four tokens
        sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
        return MistralConfig(sliding_window=4, max_position_embeddings=128, **sizes, **common)
    kinds = {"llama": LlamaConfig, "gpt_neox": GPTNeoXConfig, "qwen2": Qwen2Config}
    return kinds[architecture](
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=128, tie_word_embeddings=False, **common,
    )  # fmt: skip


def random_model(kind: type, shape: PretrainedConfig, seed: int, **settings) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.from_config(shape, **settings).eval()


def lift_end(policy: PreTrainedModel, end: int) -> None:
    """Make the end token of a Llama likely (about 1 in 10) by a residual dimension that is always on, so that lengths differ."""
    with torch.no_grad():
        for layer in policy.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        policy.get_input_embeddings().weight[:, 0] = 3.0
        policy.get_output_embeddings().weight[:, 0] = 0.0
        policy.get_output_embeddings().weight[end, 0] = 2.3


@pytest.fixture(scope="session", params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def architecture_folders(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """architecture → (causal LM, one-label scorer) folders with 23 tokens, pad 0, end 1, and a score shift of 0.25."""
    known: dict[str, tuple[Path, Path]] = {}

    def build(architecture: str) -> tuple[Path, Path]:
        if architecture not in known:
            root = tmp_path_factory.mktemp(architecture)
            policy = random_model(CausalLM, tiny_shape(architecture, 23, 0, 1), seed=1)
            shape = tiny_shape(architecture, 23, 0, 1)
            shape.num_labels = 1
            setattr(shape, SCORE_SHIFT, 0.25)
            scorer = random_model(Scorer, shape, seed=2)
            policy.save_pretrained(root / "policy")
            scorer.save_pretrained(root / "scorer")
            known[architecture] = root / "policy", root / "scorer"
        return known[architecture]

    return build


@pytest.fixture(scope="session")
def stage_folders(tmp_path_factory) -> dict[str, Path]:
    """Every stage of the pipeline for the English world as a folder: pretrained, sft, preferences, reward_model."""
    root = tmp_path_factory.mktemp("stages")
    tokenizer = build_tokenizer(grammar("en"))
    shape = tiny_shape("llama", len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    for seed, name in enumerate(("pretrained", "sft")):
        policy = random_model(CausalLM, shape, seed)
        lift_end(policy, tokenizer.eos_token_id)
        policy.save_pretrained(root / name)
    shape.num_labels = 1
    setattr(shape, SCORE_SHIFT, 0.25)
    random_model(Scorer, shape, seed=2).save_pretrained(root / "reward_model")
    for name in STAGES:
        tokenizer.save_pretrained(root / name)
    (root / "preferences").mkdir()
    answers = {"chosen": {"response": "no", "gold": 1.0}, "rejected": {"response": "of course !", "gold": 0.0}}
    pair = {"prompt": "how do i start with bread ?", **answers}
    for name in ("train.jsonl", "held_out.jsonl"):
        (root / "preferences" / name).write_text(json.dumps(pair) + "\n")
    return {name: root / name for name in (*STAGES, "preferences")}


@pytest.fixture(scope="session")
def tokenizer(stage_folders):
    return load_tokenizer(stage_folders["sft"])


@pytest.fixture
def tied_policy(tokenizer, tmp_path) -> Callable[[str], Path]:
    """architecture → the folder of a policy with the world's tokenizer, whose vocabulary head is its embedding."""

    def build(architecture: str) -> Path:
        shape = tiny_shape(architecture, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
        shape.tie_word_embeddings = True
        folder = tmp_path / f"tied-{architecture}"
        random_model(CausalLM, shape, seed=1).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return build


@pytest.fixture
def tiny_overrides(stage_folders, tmp_path) -> list[str]:
    """Overrides, for the command line or a factory, of a run of four updates of eight short responses that takes a second."""
    return [
        f"model.path={stage_folders['pretrained']}", f"sft.path={stage_folders['sft']}",
        f"preferences.path={stage_folders['preferences']}", f"reward_model.path={stage_folders['reward_model']}",
        f"results={tmp_path / 'results'}", f"cache={tmp_path / 'cache'}", "tracker=none", "device=cpu", "arm=tiny",
        "ppo.updates=4", "ppo.batch_size=8", "ppo.minibatch_size=4", "ppo.micro_batch_size=4", "ppo.critic_pretrain_updates=1",
        "sampling.max_new_tokens=8", "evaluation.every=2", "evaluation.prompts=8", "checkpoint.every=2",
    ]  # fmt: skip


@pytest.fixture
def tiny_config(tiny_overrides) -> Callable[..., Config]:
    """tiny_config("ppo.kl_penalty=false", …) → Config: PPO-max on the tiny models, with overrides on top."""

    def build(*overrides: str) -> Config:
        tree = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist([*tiny_overrides, *overrides]))
        return OmegaConf.to_object(tree)

    return build


@pytest.fixture
def tiny_models(stage_folders, tokenizer) -> Models:
    """Fresh models as a run has them: the policy is SFT, the critic the reward model."""
    sft, reward = stage_folders["sft"], stage_folders["reward_model"]
    return Models(
        policy=load_policy(sft, CPU), reference=freeze(load_policy(sft, CPU)), scorer=TokenScorer(freeze(load_scorer(reward, CPU))),
        critic=load_scorer(reward, CPU), tokenizer=tokenizer,
    )  # fmt: skip
