"""A GGUF file, its weights as float32, in an ordinary Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ablate.errors import UserError
from ablate.import_gguf.checks import check_file, check_target, require_gguf
from ablate.import_gguf.header import Header
from ablate.models.folder import MAX_MODULES, MODULES, config_values
from ablate.models.load import load_policy, load_tokenizer
from ablate.models.weights import one_line
from ablate.system.files import atomic_folder

CPU = torch.device("cpu")
NAME = "model.gguf"
# Names of llama.cpp for ways to cut a text into words before byte-level BPE (`tokenizer.ggml.pre`): those that cut as GPT-2 does, and
# those that make every digit a word first. transformers knows neither by name and cuts both as GPT-2 does.
GPT2_WORDS = ("gpt-2", "phi-2", "mpt", "olmo")
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")


def import_gguf(file: Path, to: Path) -> list[str]:
    """Write the model, tokenizer and chat template of a GGUF file to the folder `to`, atomically; the sentences that a user should read.

    The folder has passed the checks of `ablate.models.load`. Raises UserError, where possible before any weights are read.
    """
    require_gguf()
    check_target(to)
    header = check_file(file)
    model, tokenizer = load_gguf(file, header)
    notes = set_words(tokenizer, header, file)
    if tokenizer.chat_template is None:
        notes.append(f"{file} has no chat template: a run puts its turns as `Human:` and `Assistant:` (docs/howto/real.md)")
    try:
        with atomic_folder(to) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            del model  # two copies of the weights in memory would be one too many
            check_written(partial, file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {to} ({one_line(error)}): free space or name another folder with --to") from error
    return notes


def load_gguf(file: Path, header: Header) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, in float32, and tokenizer of a GGUF file.

    Raises UserError for an architecture that transformers does not read from GGUF, or of which it leaves something out.
    """
    try:
        from transformers import GgufConfig
    except ImportError as error:
        raise UserError("the installed transformers cannot write a GGUF file's model: pip install 'ppo-ablation[gguf]'") from error
    with TemporaryDirectory() as alone:  # transformers would read whatever else lies beside the file
        (Path(alone) / NAME).symlink_to(file.resolve())
        source = dict(gguf_file=NAME, local_files_only=True, trust_remote_code=False)
        with transformers_errors(file):
            shape = AutoConfig.from_pretrained(alone, **source)
        check_shape(header, shape, file)
        check_positions(header, shape, file)
        with transformers_errors(file):
            tokenizer = AutoTokenizer.from_pretrained(alone, **source)
            model, report = AutoModelForCausalLM.from_pretrained(
                alone, config=shape, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True, ignore_mismatched_sizes=True, **source,
            )  # fmt: skip
    absent = sorted([*report["missing_keys"], *(str(key) for key, *_ in report["mismatched_keys"])])
    if absent:
        raise UserError(
            f"{file} lacks {absent[0]}, and {len(absent) - 1} more, in the size that its metadata give: name the GGUF file of another model"
        )
    return model, tokenizer


@contextmanager
def transformers_errors(file: Path) -> Iterator[None]:
    """Turn what transformers, tokenizers and gguf raise, each in kinds of its own, into a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"transformers cannot load {file} ({one_line(error)}): name the GGUF file of another model") from error


def check_shape(header: Header, shape: PretrainedConfig, file: Path) -> None:
    """Raises UserError where the file holds another number of weights than the model that transformers makes of its metadata.

    What that model has no place for, transformers leaves out without a word: the scaled positions of Llama 3.1 (`rope_freqs`), or layers
    that predict several tokens. What the file lacks would be drawn at random, and could be larger than the memory.
    """
    for key, value in config_values(shape.to_dict()):
        if MODULES.search(key) and isinstance(value, (int, float)) and not value <= MAX_MODULES:
            raise UserError(f"{file} sets {key}={value}, beyond {MAX_MODULES}: name the GGUF file of another model")
    with transformers_errors(file), torch.random.fork_rng(devices=[]), torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(shape)
    held = sum({id(tensor): tensor.numel() for tensor in empty.state_dict(keep_vars=True).values()}.values())
    tied = {"output.weight"} if shape.get_text_config().tie_word_embeddings else set()
    stored = sum(prod(tensor.shape) for name, tensor in header.tensors.items() if name not in tied)
    if stored != held:
        scaled = next((f", {name} among them" for name in header.tensors if name.startswith("rope_")), "")
        raise UserError(
            f"{file} holds {stored} numbers{scaled}, and its model in transformers has {held}: name the GGUF file of another model"
        )


def check_positions(header: Header, shape: PretrainedConfig, file: Path) -> None:
    """Raises UserError where the file scales its positions, for a longer context, and the model in transformers does not."""
    scaling = header.metadata.get(f"{header.metadata['general.architecture']}.rope.scaling.type", "none")
    positions = getattr(shape.get_text_config(), "rope_parameters", None) or {}
    if scaling != "none" and positions.get("rope_type", "default") == "default":
        raise UserError(f"{file} scales its positions ({scaling!a}), which transformers leaves out: name the GGUF file of another model")


def set_words(tokenizer: PreTrainedTokenizerBase, header: Header, file: Path) -> list[str]:
    """Let a byte-level tokenizer cut texts into words as the model's own does; a sentence where nobody knows how that is."""
    words = header.metadata.get("tokenizer.ggml.pre", "gpt-2")
    backend = tokenizer.backend_tokenizer
    if header.metadata.get("tokenizer.ggml.model") != "gpt2" or backend is None:
        return []
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return []
    if words in SINGLE_DIGITS:
        digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif words not in GPT2_WORDS:
        return [f"transformers does not know how {file} cuts texts into words ({words!a}): some texts get other tokens than its own"]
    return []


def check_written(folder: Path, file: Path) -> None:
    """Raises UserError where a run would refuse the folder made of `file`, or its tokenizer."""
    try:
        tokens = len(load_tokenizer(folder))
        size = load_policy(folder, CPU).config.get_text_config().vocab_size
    except UserError as error:
        raise UserError(str(error).replace(str(folder), f"the model of {file}")) from error
    if tokens > size:
        raise UserError(f"the tokenizer of {file} has {tokens} tokens and the model {size}: name the GGUF file of another model")
