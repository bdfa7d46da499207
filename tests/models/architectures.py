"""Tiny models of every causal architecture that the installed transformers can build from its config."""

from __future__ import annotations

import inspect

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MAX_PARAMETERS = 20_000_000  # of a model that counts as tiny
# Sizes by the names that configs give them. A config takes those that it knows.
SIZES = {
    "vocab_size": 24, "hidden_size": 32, "n_embd": 32, "d_model": 32, "dim": 32, "embedding_size": 32, "intermediate_size": 48,
    "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "ffn_hidden_size": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4, "decoder_layers": 4, "num_attention_heads": 4, "n_head": 4,
    "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "context_length": 64, "max_seq_len": 64, "sliding_window": 6,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_topk": 2,
    "moe_k": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "state_size": 8, "conv_kernel": 4, "mamba_d_state": 8,
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_num_heads": 8, "mamba_head_dim": 8,
    "mamba_d_ssm": 64, "lru_width": 32, "attention_window_size": 6, "attention_chunk_size": 6, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 8, "time_step_rank": 4, "qkv_hidden_size": 32,
    "attention_hidden_size": 32, "block_size": 8, "chunk_size": 8, "encoder_layers": 2, "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "initializer_range": 0.3, "init_std": 0.3,
}  # fmt: skip
# What single config classes need beside them.
OTHERS = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 6}, "zaya": {"num_experts_per_tok": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8}, "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "dots3_note_text": {"num_key_value_heads": 4}, "longcat_flash": {"expert_ffn_hidden_size": 16, "ffn_hidden_size": 48},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]}, "xlm": {"emb_dim": 32},
    "gemma3n_text": {"num_kv_shared_layers": 0},
}  # fmt: skip
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def causal_architectures() -> list[str]:
    """Model types with a causal language model, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> PretrainedConfig:
    """The architecture's config with the sizes of SIZES. Whatever a config class refuses is raised."""
    kind = CONFIG_MAPPING[model_type]
    config = sized(kind)
    text = config.get_text_config()
    if text is not config:
        name = next(name for name, value in vars(config).items() if value is text)
        config = kind(**{name: sized(type(text))})
    return config


def sized(kind: type[PretrainedConfig]) -> PretrainedConfig:
    """A config of this class with those of SIZES that it knows."""
    known = inspect.signature(kind.__init__).parameters
    sizes = {name: value for name, value in {**SIZES, **TOKENS}.items() if name in known}
    if "kv_lora_rank" in sizes:  # every head has keys of its own, of a width that is worked out
        sizes = {name: value for name, value in sizes.items() if name != "head_dim"} | {"num_key_value_heads": 4}
    return kind(**sizes | OTHERS.get(kind.model_type, {}))


def tiny_model(model_type: str) -> PreTrainedModel:
    """A random model of the architecture. Raises ValueError for one that is too large to count as tiny."""
    config = tiny_config(model_type)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():  # norms away from one and biases away from zero, so that each counts
            for weight in model.parameters():
                if weight.dim() == 1:
                    weight.add_(0.1 * torch.randn_like(weight))
    return model
