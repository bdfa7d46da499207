"""Checks of a Hugging Face folder: its files are there, its model is causal and long enough, and a scorer has one score."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from ablate.errors import UserError
from ablate.models.weights import one_line, read_object, stored_shapes, weight_files

# Names that a linear head of one score has in checkpoints; `reward_head` is the released MOSS-RLHF reward model's.
HEADS = ("score", "reward_head", "classifier", "value_head", "v_head")
SCORE_SHIFT = "score_shift"  # set in the config.json of a reward model: the mean score of SFT samples, subtracted from every score
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


# Numbers of layers and experts in a config, each of which is built: beyond MAX_MODULES building takes minutes.
MODULES = re.compile(r"(layers?|experts?|num_blocks|depth)$")
MAX_MODULES = 1024
# Implementations of attention and experts that are part of transformers. Any other could be fetched from a hub and run.
IMPLEMENTATIONS = (None, "eager", "sdpa", "grouped_mm", "batched_mm")
FEW_LAYERS = 64  # are built in no time; defaults of configs that count layers without making any are lower
MAX_UNSTORED = 2**26  # numbers of a model that no file holds: new heads, tables of positions
LIST = re.compile(r"(.*?)\.\d+\.")  # the name of a list of layers, before the number of one
OLD_BUFFERS = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")  # constants that older checkpoints hold
ELSEWHERE = ("quantization_config", "transformers_weights")  # keys of a config whose weights are read in another way


def check_folder(folder: str | Path) -> None:
    """Raises UserError where the folder holds no config.json, an adapter instead of a model, or an entry that is no file."""
    folder = Path(folder)
    try:
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is not a Hugging Face model folder (no config.json): correct the path")
        special = [entry.name for entry in folder.iterdir() if entry.exists() and not (entry.is_file() or entry.is_dir())]
    except OSError as error:
        raise UserError(f"cannot read {folder} ({one_line(error)}): correct the path") from error
    if special:
        raise UserError(f"{special[0]!a} in {folder} is no plain file: remove it")
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder} holds an adapter over another model (adapter_config.json): merge the two and name the result")


def has_tokenizer(folder: str | Path) -> bool:
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


def read_shape(folder: str | Path) -> PretrainedConfig:
    """config.json of a folder, as transformers reads it.

    Raises UserError where it cannot be read, asks for what is not part of transformers, or describes an encoder-decoder.
    """
    check_folder(folder)
    for key, value in config_values(read_object(Path(folder) / "config.json")):
        if key.endswith("_implementation") and value not in IMPLEMENTATIONS:
            raise UserError(f"config.json in {folder} sets {key}={value!a}, which is no part of transformers here: remove the line")
        if key in ELSEWHERE and value is not None:
            raise UserError(f"config.json in {folder} sets {key}: name a model with plain weights")
        if MODULES.search(key) and isinstance(value, (int, float)) and not value <= MAX_MODULES:
            raise UserError(f"config.json in {folder} sets {key}={value}, beyond {MAX_MODULES}: restore the folder or name another")
    try:
        shape = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # JSON and transformers each raise their own kinds
        raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    if shape.is_encoder_decoder:
        raise UserError(f"{folder} is an encoder-decoder ({shape.model_type}): a policy and a reward model must be causal decoders")
    return shape


def config_values(config: dict) -> Iterator[tuple[str, object]]:
    """(key, value) of a config and of the configs within it."""
    for key, value in config.items():
        yield str(key), value
        if isinstance(value, dict):
            yield from config_values(value)


def check_sizes(kind: type, shape: PretrainedConfig, folder: str | Path) -> None:
    """Raises UserError where config.json describes a model of far more numbers than the weights hold, before it takes memory.

    kind: the Auto class that builds the model. A tied weight is stored once, and a few others may be new, hence the factor.
    """
    shapes = stored_shapes(folder)
    for key, value in config_values(shape.to_dict()):
        if key.endswith(("layer", "layers")) and isinstance(value, int) and value > max(len(shapes), FEW_LAYERS):
            raise UserError(
                f"config.json in {folder} sets {key}={value}, and its weights hold {len(shapes)} tensors: "
                "restore the folder or name another"
            )
    stored = sum(prod(size) for size in shapes.values())
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            empty = kind.from_config(shape)
    except Exception as error:  # values that an architecture cannot be built from, in whatever way it fails
        raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    described = sum(tensor.numel() for tensor in (*empty.parameters(), *empty.buffers()))
    if described > 2 * stored + MAX_UNSTORED:
        raise UserError(
            f"config.json in {folder} describes a model of {described} numbers, and its weights hold {stored}: "
            "restore the folder or name another"
        )


def check_surplus(model: PreTrainedModel, unexpected: list[str], folder: str | Path) -> None:
    """Raises UserError where the weights hold layers, or parts of layers, that config.json leaves out.

    unexpected: the names of stored tensors that the model has no place for.
    """
    lists = {found[1] for name in model.state_dict() if (found := LIST.match(name))}
    for name in unexpected:
        found = LIST.match(name)
        if found and not name.endswith(OLD_BUFFERS) and any(same_path(found[1], path) for path in lists):
            raise UserError(f"the weights in {folder} hold {name}, which config.json leaves out: restore the folder or name another")


def same_path(one: str, other: str) -> bool:
    """Whether two dotted names are the same but for leading parts."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def context_length(shape: PretrainedConfig) -> int | None:
    """The number of positions that the model was made for, or None where its config does not say."""
    return getattr(shape, "max_position_embeddings", None)


def check_length(longest: int, shape: PretrainedConfig, what: str, remedy: str) -> None:
    """Raises UserError where sequences of `longest` tokens do not fit into the model's positions. what, remedy: words of the message."""
    limit = context_length(shape)
    if limit is not None and longest > limit:
        raise UserError(f"{what} can take {longest} tokens, but the model has {limit} positions: {remedy}")


@torch.no_grad()
def check_causal(model: PreTrainedModel, folder: str | Path) -> None:
    """Raises UserError for a model whose state at a token depends on the next one, an encoder, and for states that are not finite."""
    device = next(model.parameters()).device
    last = min(model.config.get_text_config().vocab_size, 4) - 1
    tokens = torch.tensor([[1, 0], [1, last]], device=device)
    first, second = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, 0].float()
    if not torch.isfinite(first + second).all():
        raise UserError(f"the hidden states of {folder} are not finite: restore the folder or name another")
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise UserError(
            f"{folder} reads later tokens ({model.config.model_type} is no causal decoder): a policy and a reward model must be decoders"
        )


def stored_tensors(folder: str | Path, names: set[str]) -> dict[str, torch.Tensor]:
    """Name → float32 tensor, for those of `names` that the safetensors files of a folder hold. Raises UserError for a damaged file."""
    found = {}
    try:
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                for name in names & set(file.keys()):
                    found[name] = file.get_tensor(name).float()
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    return found


def score_head(folder: str | Path) -> str:
    """Which of HEADS a folder's weights hold, by their headers. Raises UserError where there is none, or one of several scores."""
    shapes = stored_shapes(folder)
    heads = [head for head in HEADS if f"{head}.weight" in shapes]
    if not heads:
        raise UserError(
            f"{folder} has no score head (looked for {', '.join(HEADS)}): name a sequence-classification model, or leave "
            "reward_model.path out to train one"
        )
    size = shapes[f"{heads[0]}.weight"]
    if len(size) != 2 or size[0] != 1 or shapes.get(f"{heads[0]}.bias", (1,)) not in ((), (1,)):
        raise UserError(f"the head of {folder} gives {size[0] if size else 0} labels per text: a reward model gives one score")
    return heads[0]


def check_classifier(shape: PretrainedConfig, folder: str | Path) -> None:
    """Raises UserError for an architecture of which transformers has no sequence classifier."""
    if type(shape) not in AutoModelForSequenceClassification._model_mapping:
        raise UserError(
            f"{folder}: the architecture {shape.model_type} has no sequence classifier in transformers, which a reward model and a "
            "critic are: name a model of another one"
        )


def load_score_head(model: PreTrainedModel, folder: str | Path) -> None:
    """Copy the stored head [1, H] into `model.score`, whichever of HEADS is its name.

    A bias goes into the score shift, since only score − shift is ever used. Raises UserError where there is no head of one score.
    """
    head = score_head(folder)
    stored = stored_tensors(folder, {f"{head}.weight", f"{head}.bias"})
    weight, bias = stored[f"{head}.weight"], stored.get(f"{head}.bias")
    if weight.shape != model.score.weight.shape:
        raise UserError(f"the head of {folder} does not fit its model ({tuple(weight.shape)}): restore the folder or name another")
    with torch.no_grad():
        model.score.weight.copy_(weight)
    if bias is not None:
        setattr(model.config, SCORE_SHIFT, float(getattr(model.config, SCORE_SHIFT, 0.0)) - float(bias))


def is_moss_layout(folder: str | Path) -> bool:
    """Whether the folder has the layout of the released MOSS-RLHF reward model: a Llama trunk and `reward_head`."""
    return "reward_head.weight" in stored_shapes(folder)


def linear_score(model: PreTrainedModel) -> bool:
    return isinstance(getattr(model, "score", None), nn.Linear)
