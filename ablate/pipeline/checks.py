"""What is refused before a stage is built: paths that are not there, architectures, vocabularies and lengths that do not fit."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ablate.config import Config
from ablate.data.files import content_key, read_table
from ablate.data.probes import read_questions, read_texts
from ablate.data.source import open_source
from ablate.errors import UserError
from ablate.models.folder import check_classifier, check_length, read_shape, score_head
from ablate.models.hub import resolve
from ablate.models.load import load_tokenizer
from ablate.models.lora import require_peft
from ablate.models.weights import weight_files
from ablate.pipeline.preferences import read as read_pairs
from ablate.pipeline.pretrain import longest_dialogue
from ablate.pipeline.reward_model import encode_pairs
from ablate.ppo.scoring import needs_retokenizing

PAIR_FILES = ("train.jsonl", "held_out.jsonl")


@dataclass(frozen=True)
class Provided:
    """Folders that stand in place of stages, None where the stage is built. `data` is the content key of human data."""

    pretrained: Path | None
    sft: Path | None
    preferences: Path | None
    reward_model: Path | None
    gold: Path | None
    critic: Path | None
    data: str | None


def resolve_provided(config: Config) -> Provided:
    """The folders that the `….path` settings name, hub models included. Raises UserError for what is missing or could not be run.

    Only config.json, tokenizers, the headers of weights and data are read here. Weights are checked when they are loaded.
    """
    if config.model.lora_rank:
        require_peft()
    folders = {name: model_folder(config, name) for name in ("model", "pretrain", "sft", "reward_model", "gold", "critic")}
    pairs = config.preferences.path
    if pairs is not None and not exists(Path(pairs)):
        raise UserError(f"preferences.path={pairs} does not exist: correct the path, or leave it out to build the stage")
    start = folders["model"] or folders["pretrain"]
    if pairs is not None and folders["reward_model"] is None:
        check_pairs(config, Path(pairs), own_tokenizer=folders["sft"] is None and start is None)
    for read, path in ((read_texts, config.evaluation.text_path), (read_questions, config.evaluation.choices_path)):
        if path is not None:
            read(Path(path))
    data = None
    if config.data.source != "world":
        data = content_key(config.data)
        print(f"data: {read_table(config.data)}", file=sys.stderr, flush=True)
    check_models(config, folders["sft"] or start, folders["reward_model"])
    for folder in filter(None, (folders["reward_model"], folders["gold"], folders["critic"])):
        check_scorer(folder)
    return Provided(
        start, folders["sft"], None if pairs is None else Path(pairs), folders["reward_model"], folders["gold"], folders["critic"], data
    )


def check_pairs(config: Config, folder: Path, own_tokenizer: bool) -> None:
    """Raises UserError where a file of preferences.path is missing or holds a mistake.

    own_tokenizer: the model is trained from scratch. Where it then speaks the world's language, each word must be one of the world's.
    """
    files = {name: read_pairs(folder / name) for name in PAIR_FILES}
    if own_tokenizer and config.data.source == "world":
        tokenizer = open_source(config).tokenizer()
        for name, rows in files.items():
            try:
                encode_pairs(tokenizer, rows)
            except UserError as error:
                raise UserError(f"preferences.path={folder}, {name}, is not in the words of the embedded world: {error}") from error


def exists(path: Path) -> bool:
    """Whether the path can be reached; one that is too long, or behind a folder that may not be entered, cannot."""
    try:
        return path.exists()
    except OSError:
        return False


def model_folder(config: Config, name: str) -> Path | None:
    """The folder that the setting `<name>.path` means, or None where it is not set. Raises UserError."""
    path = getattr(config, name).path
    return None if path is None else resolve(path, f"{name}.path")


def check_scorer(folder: Path) -> None:
    """Raises UserError where a folder holds no sequence classifier with one score, by its config.json and the headers of its weights."""
    check_classifier(read_shape(folder), folder)
    score_head(folder)


def check_models(config: Config, policy: Path | None, reward: Path | None) -> None:
    """Raises UserError where the policy has too few positions or too small a vocabulary, or the reward model does not suit it."""
    if policy is None:
        return
    shape, tokenizer = read_shape(policy), load_tokenizer(policy)
    if reward is None or config.ppo.critic_init != "reward":
        check_classifier(shape, policy)
    for folder in filter(None, (policy, reward)):
        weight_files(folder)
    size = shape.get_text_config().vocab_size
    if len(tokenizer) > size:
        raise UserError(f"the tokenizer in {policy} has {len(tokenizer)} tokens and the model {size}: they do not belong together")
    if config.data.source != "world":
        check_length(
            longest_dialogue(config), shape, "data.max_prompt_tokens with data.max_response_tokens or sampling.max_new_tokens",
            "lower them, or name a model with a longer context",
        )  # fmt: skip
    if reward is not None:
        needs_retokenizing(reward, tokenizer, config.ppo.critic_init)
