"""The shapes of decoders that the memory estimate needs: read from a config.json, or from the list of public models."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from transformers import PretrainedConfig

from ablate.config import Config
from ablate.errors import UserError
from ablate.models.folder import read_shape
from ablate.models.weights import one_line

WORLD_PROMPT, WORLD_VOCABULARY = 14, 174  # tokens of the embedded world's longest prompt, and of its vocabulary


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder. family: `llama` (RMSNorm, gated MLP; also Mistral, Qwen, SmolLM, …), `gpt2` or `gpt_neox`."""

    family: str
    vocabulary: int  # tokens
    hidden: int  # width
    layers: int
    heads: int
    kv_heads: int
    inner: int  # width of the MLP
    tied: bool = False  # the vocabulary head shares the embedding's weights
    positions: int = 0  # learned position embeddings
    qkv_bias: bool = False
    head_width: int = 0  # of one attention head; 0 is hidden / heads

    @property
    def kv(self) -> int:
        """Width of one token's keys in a layer; its values have the same."""
        return self.kv_heads * (self.head_width or self.hidden // self.heads)

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """The linear maps of one layer, by the end of their names: (input width, output width)."""
        hidden, inner, q = self.hidden, self.inner, self.heads * (self.head_width or self.hidden // self.heads)
        if self.family == "gpt2":
            return {
                "attn.c_attn": (hidden, 3 * hidden), "attn.c_proj": (hidden, hidden),
                "c_fc": (hidden, inner), "mlp.c_proj": (inner, hidden),
            }  # fmt: skip
        if self.family == "gpt_neox":
            return {
                "query_key_value": (hidden, 3 * hidden), "dense": (hidden, hidden), "dense_h_to_4h": (hidden, inner),
                "dense_4h_to_h": (inner, hidden),
            }  # fmt: skip
        return {
            "q_proj": (hidden, q), "k_proj": (hidden, self.kv), "v_proj": (hidden, self.kv), "o_proj": (q, hidden),
            "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
        }  # fmt: skip

    @property
    def matrices(self) -> int:
        """Parameters of the linear maps of all layers."""
        return self.layers * sum(rows * columns for rows, columns in self.linear.values())

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings of tokens and positions."""
        return (self.vocabulary + self.positions) * self.hidden

    @property
    def trunk(self) -> int:
        """Parameters without the vocabulary head."""
        norms, bias = 2 * self.hidden, self.qkv_bias * sum(self.linear[name][1] for name in ("q_proj", "k_proj", "v_proj") if self.qkv_bias)
        if self.family != "llama":
            norms, bias = 4 * self.hidden, sum(columns for _, columns in self.linear.values())
        return self.embeddings + self.matrices + self.layers * (norms + bias) + norms // 2

    @property
    def parameters(self) -> int:
        """Parameters of the language model."""
        return self.trunk + (0 if self.tied else self.vocabulary * self.hidden)

    def adapter(self, rank: int, targets: list[str] | None) -> int:
        """Parameters of LoRA adapters of this rank on the targets, or on every linear map where `targets` is None or empty."""
        widths = [sum(width) for name, width in self.linear.items() if not targets or name.rpartition(".")[2] in targets]
        return self.layers * rank * sum(widths)


def shape_of(config: PretrainedConfig) -> Shape:
    """The shape that a config.json describes; an architecture of another family counts as Llama."""
    text = config.get_text_config()
    family = text.model_type if text.model_type in ("gpt2", "gpt_neox") else "llama"
    heads, hidden = text.num_attention_heads, text.hidden_size
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
    return Shape(
        family=family, vocabulary=text.vocab_size, hidden=hidden, layers=text.num_hidden_layers, heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads, inner=inner, tied=text.tie_word_embeddings,
        positions=text.max_position_embeddings if family == "gpt2" else 0, qkv_bias=text.model_type.startswith("qwen2"),
        head_width=getattr(text, "head_dim", None) or 0,
    )  # fmt: skip


# Public shapes, from the config.json of each model.
SHAPES = {
    "GPT-2 124M": Shape("gpt2", 50257, 768, 12, 12, 12, 3072, tied=True, positions=1024),
    "SmolLM2 135M": Shape("llama", 49152, 576, 30, 9, 3, 1536, tied=True),
    "Qwen2.5 0.5B": Shape("llama", 151936, 896, 24, 14, 2, 4864, tied=True, qkv_bias=True),
    "Pythia 1.4B": Shape("gpt_neox", 50304, 2048, 24, 16, 16, 8192),
    "Qwen2.5 1.5B": Shape("llama", 151936, 1536, 28, 12, 2, 8960, tied=True, qkv_bias=True),
    "Llama 2 7B": Shape("llama", 32000, 4096, 32, 32, 32, 11008),
    "Llama 3 8B": Shape("llama", 128256, 4096, 32, 32, 8, 14336),
    "Llama 2 13B": Shape("llama", 32000, 5120, 40, 40, 40, 13824),
    "Llama 3 70B": Shape("llama", 128256, 8192, 80, 64, 8, 28672),
}


def folder_shape(path: str, setting: str) -> Shape:
    """The shape of the model in a folder or on the hub, of which only config.json is fetched. Raises UserError where it cannot be."""
    if Path(path).exists():
        return counted_shape(read_shape(path), path)
    try:
        with tempfile.TemporaryDirectory() as folder:  # not the cache: it would pass for the whole model there
            hf_hub_download(path, "config.json", local_dir=folder)
            config = read_shape(folder)
    except Exception as error:  # the hub's client and the network each raise their own kinds
        raise UserError(
            f"{setting}={path} is not a folder, and its config.json cannot be fetched ({one_line(error)}): "
            "name a folder, or --parameters with the model's size"
        ) from error
    return counted_shape(config, path)


def counted_shape(config: PretrainedConfig, path: str) -> Shape:
    """`shape_of` a config.json. Raises UserError for an architecture whose sizes are not those of a decoder with attention."""
    try:
        shape = shape_of(config)
        if shape.parameters > 0:
            return shape
        reason = "sizes below one"
    except (AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # other names, types, and sizes by layer
        reason = one_line(error)
    raise UserError(f"the sizes of {path} ({config.model_type}) cannot be counted ({reason}): name --parameters with the model's size")


def model_shapes(config: Config, parameters: float | None) -> tuple[Shape, Shape]:
    """The shapes of (policy, reward model). parameters: take the public shape nearest to this size instead. Raises UserError."""
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
