"""Checks of a Hugging Face folder: its files are there, its model is causal and long enough, and a scorer has one score."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ablate.errors import UserError

# Names that a linear head of one score has in checkpoints; `reward_head` is the released MOSS-RLHF reward model's.
HEADS = ("score", "reward_head", "classifier", "value_head", "v_head")
SCORE_SHIFT = "score_shift"  # set in the config.json of a reward model: the mean score of SFT samples, subtracted from every score
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def one_line(error: Exception) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_folder(folder: str | Path) -> None:
    """Raises UserError where the folder holds no config.json."""
    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{folder} is not a Hugging Face model folder (no config.json): correct the path")


def has_tokenizer(folder: str | Path) -> bool:
    return any((Path(folder) / name).is_file() for name in TOKENIZER_FILES)


def read_shape(folder: str | Path) -> PretrainedConfig:
    """config.json of a folder, as transformers reads it. Raises UserError where it cannot be read, and for an encoder-decoder."""
    check_folder(folder)
    try:
        shape = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # JSON and transformers each raise their own kinds
        raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    if shape.is_encoder_decoder:
        raise UserError(f"{folder} is an encoder-decoder ({shape.model_type}): a policy and a reward model must be causal decoders")
    return shape


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
    """Raises UserError for a model whose state at a token depends on the next one: an encoder, whatever class loaded it."""
    device = next(model.parameters()).device
    last = min(model.config.get_text_config().vocab_size, 4) - 1
    tokens = torch.tensor([[1, 0], [1, last]], device=device)
    first, second = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, 0].float()
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise UserError(
            f"{folder} reads later tokens ({model.config.model_type} is no causal decoder): a policy and a reward model must be decoders"
        )


def stored_tensors(folder: str | Path, names: set[str]) -> dict[str, torch.Tensor]:
    """Name → float32 tensor, for those of `names` that the safetensors files of a folder hold. Raises UserError for a damaged file."""
    found = {}
    try:
        for path in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in names & set(file.keys()):
                    found[name] = file.get_tensor(name).float()
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot load the model in {folder} ({one_line(error)}): restore the folder or name another") from error
    return found


def load_score_head(model: PreTrainedModel, folder: str | Path) -> None:
    """Copy the stored head [1, H] into `model.score`, whichever of HEADS is its name.

    A bias goes into the score shift, since only score − shift is ever used. Raises UserError where there is no head of one score.
    """
    stored = stored_tensors(folder, {f"{head}.{part}" for head in HEADS for part in ("weight", "bias")})
    heads = [head for head in HEADS if f"{head}.weight" in stored]
    if not heads:
        raise UserError(
            f"{folder} has no score head (looked for {', '.join(HEADS)}): name a sequence-classification model, or leave "
            "reward_model.path out to train one"
        )
    weight, bias = stored[f"{heads[0]}.weight"], stored.get(f"{heads[0]}.bias")
    if weight.shape != model.score.weight.shape:
        raise UserError(f"the head of {folder} gives {weight.shape[0]} labels per text: a reward model gives one score")
    with torch.no_grad():
        model.score.weight.copy_(weight)
    if bias is not None:
        setattr(model.config, SCORE_SHIFT, float(getattr(model.config, SCORE_SHIFT, 0.0)) - float(bias))


def is_moss_layout(folder: str | Path) -> bool:
    """Whether the folder has the layout of the released MOSS-RLHF reward model: a Llama trunk and `reward_head`."""
    return "reward_head.weight" in stored_tensors(folder, {"reward_head.weight"})


def linear_score(model: PreTrainedModel) -> bool:
    return isinstance(getattr(model, "score", None), nn.Linear)
