"""A model of a run folder, read from its checkpoint or stage and written as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ablate.errors import UserError
from ablate.export.card import Record, card
from ablate.export.origin import find_origin, stage_folder
from ablate.models.folder import SCORE_SHIFT, has_tokenizer
from ablate.models.forward import score_shift
from ablate.models.hub import resolve
from ablate.models.load import load_policy, load_scorer, load_tokenizer, new_critic
from ablate.models.lora import merged, require_peft
from ablate.ppo.scoring import load_scorer_tokenizer
from ablate.ppo.value_norm import plain_units
from ablate.runs.checkpoint import load_adapted, progress_from, read_state
from ablate.runs.folder import config_of, read_rows
from ablate.runs.versions import versions
from ablate.system.files import atomic_folder
from ablate.system.seeding import torch_generator

CPU = torch.device("cpu")


def export(run: Path, to: Path, what: str = "policy", checkpoint: int | None = None) -> Path:
    """Write the policy, reward model or critic (`what`) of a run folder to the folder `to`, atomically, and return `to`.

    checkpoint: its update; None is the newest. Raises UserError, where possible before any weights are read.
    """
    origin = find_origin(run, to, what, checkpoint)
    config, place = origin.config, origin.checkpoint
    if what == "reward_model":
        folder = origin.stages["reward_model"]
        model, tokenizer = load_scorer(folder, CPU), load_scorer_tokenizer(folder if has_tokenizer(folder) else stage_folder(run, "sft"))
    else:
        assert place is not None  # only a reward model needs no checkpoint
        model = load_trained(run, config, place, what, origin.stages)
        tokenizer = load_tokenizer(origin.stages["sft"] if config["model"].get("lora_rank") else place / "policy")
    if what == "policy":
        model.generation_config = generation(config["sampling"], tokenizer)
    else:
        plain_units(model)
        plain_scorer(model)
    write(to, model, tokenizer, card(record(run, config, origin.summary, what, place, model)))
    return to


def load_trained(run: Path, config: dict, place: Path, what: str, stages: dict[str, Path]) -> PreTrainedModel:
    """The policy or critic of a checkpoint; LoRA adapters are merged into the weights. Raises UserError."""
    if not config["model"].get("lora_rank"):
        return (load_policy if what == "policy" else load_scorer)(place / what, CPU)
    require_peft()
    settings = config_of(run)
    trunk = None
    if what == "critic":
        generator = torch_generator(settings.seed, "critic head")
        given = settings.critic.path
        trunk = new_critic(config["ppo"]["critic_init"], stages["sft"], stages["reward_model"], CPU, generator) if given is None else (
            load_scorer(resolve(given, "critic.path"), CPU)
        )  # fmt: skip
    policy, critic = load_adapted(place, load_policy(stages["sft"], CPU), trunk, settings)
    return merged(policy if what == "policy" else critic)


def plain_scorer(scorer: PreTrainedModel) -> PreTrainedModel:
    """Set the model's config so that transformers reads its score at the end-of-sequence token, and return the model.

    transformers reads a score at the last token that is not padding. Where padding and end of sequence are the same token, that would be
    the token before the end; without a padding token it is the last token, for one dialogue at a time.
    """
    end = scorer.config.eos_token_id
    if scorer.config.pad_token_id in (end if isinstance(end, list) else [end]):
        scorer.config.pad_token_id = None
    setattr(scorer.config, SCORE_SHIFT, score_shift(scorer))
    return scorer


def generation(sampling: dict, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The sampling settings of the run. top_k is 0, because the default of transformers keeps only 50 tokens."""
    return GenerationConfig(
        do_sample=True, temperature=sampling["temperature"], top_p=sampling["top_p"], top_k=0,
        repetition_penalty=sampling["repetition_penalty"], max_new_tokens=sampling["max_new_tokens"],
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def record(run: Path, config: dict, summary: dict | None, what: str, place: Path | None, model: PreTrainedModel) -> Record:
    """What the card is written from. The monitors are those of the last evaluation before the checkpoint, else the run's last."""
    progress = None if place is None else progress_from(place, read_state(place))
    judged = progress.judged if progress else (summary or {}).get("final") or {}
    known = (summary or {}).get("versions")
    return Record(
        what=what, config=config, summary=summary, update=progress and progress.update, judged=judged,
        reward_report=read_report(run / "reward_model"), data_report=read_report(run / "preferences"),
        versions=known or versions(), versions_of_run=known is not None,
        score_shift=0.0 if what == "policy" else score_shift(model), example=example(run, config),
    )  # fmt: skip


def example(run: Path, config: dict) -> tuple[str, str]:
    """A question and an answer for the card's Python: the run's own in the world, whose tokenizer knows no other words."""
    rows = read_rows(run / "samples.jsonl") if config["data"]["source"] == "world" else []
    return (rows[0]["prompt"], rows[0]["response"]) if rows else ("How do I bake bread?", "Mix flour and water, and wait.")


def read_report(folder: Path) -> dict:
    """report.json in the records of a stage; {} where there is none."""
    path = folder / "report.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def write(to: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Write model, tokenizer and card to a folder beside `to`, and rename it. Raises UserError where that fails."""
    try:
        with atomic_folder(to) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / "README.md").write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {to} ({error}): free space or name another folder with --to") from error
