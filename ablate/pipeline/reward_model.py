"""The reward model: Bradley-Terry on pairs plus a language-model loss, centred once on SFT samples."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ablate.config import Config
from ablate.data.chat import TOKEN_LETTERS, encode_dialogues, unwritable
from ablate.errors import UserError
from ablate.models.folder import SCORE_SHIFT, check_length
from ablate.models.forward import packed_states, vocabulary_head
from ablate.models.load import load_policy, load_scorer, load_tokenizer
from ablate.pipeline.preferences import read
from ablate.pipeline.supervised import batches, fit, pad_right, real_tokens, response_targets, token_nll
from ablate.system.seeding import numpy_generator, torch_generator

EVALUATIONS = 20  # held-out accuracies over the training, or fewer: between two of them at least half as many pairs are trained on
Z = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval


def reward_model(config: Config, sft: Path, pairs: Path, folder: Path, device: torch.device, member: int = 0) -> None:
    """Minimise −log σ(r(y_w) − r(y_l)) + β_rm · LM loss on y_w, from the SFT trunk with a new head (Secrets of RLHF I, eq. 2).

    member: of an ensemble, from 0. The first is the reward model of a run without an ensemble: its head starts at 0. The others draw an
    order of pairs of their own and, as `reward_model.ensemble_varies` says, a random head or a bootstrap sample of the pairs.
    Writes the model, training.jsonl (Fig. 3), pairs.csv (Fig. 2) and report.json: held-out accuracy beside that of "longer wins".
    """
    tokenizer, scorer = load_tokenizer(sft), load_scorer(sft, device, new_head=True)
    stage, seed = config.reward_model, config.pipeline_seed
    nn.init.zeros_(scorer.score.weight)
    head = vocabulary_head(load_policy(sft, device))
    files = [read(pairs / name) for name in ("train.jsonl", "held_out.jsonl")]
    letters = max(len(row[side]["response"]) for rows in files for row in rows for side in ("chosen", "rejected"))
    check_pair_length(letters // TOKEN_LETTERS, scorer.config)  # before it is encoded, which can take minutes
    train, held_out = (encode_pairs(tokenizer, rows) for rows in files)
    check_pair_length(max(len(ids) for pair in train + held_out for ids, _ in pair), scorer.config)
    streams = "" if member == 0 else f" of member {member}"
    if member and stage.ensemble_varies == "initialisation":
        generator = torch_generator(seed, f"reward model head{streams}")
        start = torch.randn(scorer.score.weight.shape, generator=generator)
        scorer.score.weight.data = scorer.config.initializer_range * start.to(device)
    if member and stage.ensemble_varies == "data":
        train = [train[i] for i in numpy_generator(seed, f"reward model pairs{streams}").integers(0, len(train), len(train))]
    order = batches(len(train), stage.batch_size, numpy_generator(seed, f"reward model order{streams}"))
    pad = tokenizer.pad_token_id
    every = max(stage.steps // EVALUATIONS, ceil(len(held_out) / (2 * stage.batch_size)), 1)

    def loss_of(step: int):
        batch = [train[i] for i in next(order)]
        chosen, rejected = [pair[0] for pair in batch], [pair[1] for pair in batch]
        tokens = pad_right([ids for ids, _ in chosen + rejected], pad, device)
        lengths = [len(ids) for ids, _ in chosen + rejected]
        hidden, first = packed_states(scorer, tokens, real_tokens(lengths, tokens))
        scores = last_score(scorer, hidden, first, lengths)
        margin = scores[: len(batch)] - scores[len(batch) :]
        loss = -nn.functional.logsigmoid(margin).mean()
        if stage.lm_coef:
            targets = response_targets(chosen, tokens[: len(batch)])
            loss = loss + stage.lm_coef * token_nll((hidden, first[: len(batch)]), head, tokens[: len(batch)], targets)
        row = {"accuracy": float((margin > 0).float().mean()), "held_out_accuracy": None}
        if (step + 1) % every == 0:
            row["held_out_accuracy"] = float((score_differences(scorer, held_out, pad, device) > 0).float().mean())
        return loss, row

    fit([*scorer.parameters(), *head.parameters()], loss_of, stage.steps, stage.learning_rate, "reward model", folder / "training.jsonl")
    finish(scorer, tokenizer, files[1], held_out, folder)


def average(members: Sequence[Path], pairs: Path, folder: Path, device: torch.device) -> None:
    """The reward model whose weights are θ = (1/k) Σ_i θ_i of k members that started from the same weights (WARM, 2401.12187, §3).

    Writes the model, pairs.csv and report.json as `reward_model` does. Its scores are centred anew.
    """
    scorer, *others = (load_scorer(member, device) for member in members)
    with torch.no_grad():
        for parameters in zip(*(model.parameters() for model in (scorer, *others)), strict=True):
            parameters[0].copy_(torch.stack([parameter.double() for parameter in parameters]).mean(0))
    tokenizer, rows = load_tokenizer(members[0]), read(pairs / "held_out.jsonl")
    finish(scorer, tokenizer, rows, encode_pairs(tokenizer, rows), folder)


def finish(scorer: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], held_out: list, folder: Path) -> None:
    """Measure a reward model on the held-out pairs, which are `rows`, centre its scores on their answers, and write it all."""
    device, pad = scorer.device, tokenizer.pad_token_id
    write_report(folder, rows, held_out, score_differences(scorer, held_out, pad, device))
    sample = [answer for pair in held_out for answer in pair]
    setattr(scorer.config, SCORE_SHIFT, float(score_all(scorer, sample, pad, device).mean()))
    scorer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_pair_length(longest: int, shape: PretrainedConfig) -> None:
    """Raises UserError where a preference pair of `longest` tokens does not fit into the model's positions."""
    check_length(longest, shape, "a preference pair", "shorten the pairs or name a model with a longer context in model.path")


def encode_pairs(tokenizer: PreTrainedTokenizerBase, rows: list[dict]) -> list[tuple[tuple[list[int], int], tuple[list[int], int]]]:
    """(chosen, rejected) per pair, each as (token ids, prompt length). An answer without `ended` counts as ended.

    Raises UserError where people's text, which has no gold, spells a special token that the tokenizer cannot write as text.
    """
    named = unwritable(tokenizer)
    for row in rows:
        texts = [row["prompt"]] if isinstance(row["prompt"], str) else [message["content"] for message in row["prompt"]]
        texts += [row[side]["response"] for side in ("chosen", "rejected") if row[side].get("gold") is None]
        if spelt := next(filter(None, map(named.search, texts)), None):
            raise UserError(f"a preference pair spells {spelt[0]}, which the tokenizer cannot write as text: remove it from the pairs")
    prompts = [row["prompt"] for row in rows]
    sides = [[row[side] for row in rows] for side in ("chosen", "rejected")]
    encoded = [
        encode_dialogues(tokenizer, prompts, [answer["response"] for answer in side], [answer.get("ended", True) for answer in side])
        for side in sides
    ]
    return list(zip(*encoded, strict=True))


def last_score(scorer: PreTrainedModel, hidden: Tensor, first: Tensor, lengths: list[int]) -> Tensor:
    """Scores [B] at the last real token of each row, from hidden states [S, H] and first positions [B] of `packed_states`."""
    return scorer.score(hidden[first + torch.tensor(lengths, device=first.device) - 1]).float().squeeze(-1)


@torch.no_grad()
def score_all(scorer: PreTrainedModel, rows: list[tuple[list[int], int]], pad: int, device: torch.device, size: int = 64) -> Tensor:
    """Uncentred scores [len(rows)] of dialogues, which are (token ids, prompt length); `size` dialogues per pass."""
    scores = []
    for start in range(0, len(rows), size):
        part = [ids for ids, _ in rows[start : start + size]]
        tokens, lengths = pad_right(part, pad, device), [len(ids) for ids in part]
        scores.append(last_score(scorer, *packed_states(scorer, tokens, real_tokens(lengths, tokens)), lengths))
    return torch.cat(scores)


def score_differences(scorer: PreTrainedModel, pairs: list, pad: int, device: torch.device) -> Tensor:
    """r(chosen) − r(rejected) of every pair, [len(pairs)]."""
    scores = score_all(scorer, [answer for pair in pairs for answer in pair], pad, device)
    return scores[0::2] - scores[1::2]


def write_report(folder: Path, rows: list[dict], encoded: list, differences: Tensor) -> None:
    """Write pairs.csv and report.json, and print both accuracies. In "longer wins" equal lengths count one half.

    differences [len(rows)]: r(chosen) − r(rejected). Columns of pairs.csv, one row per held-out pair: score_difference, gold_difference
    (empty for human pairs), chosen_length and rejected_length, in tokens of the answer.
    """
    lengths = [[len(ids) - prompt for ids, prompt in pair] for pair in encoded]
    longer = sum(1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0 for chosen, rejected in lengths)
    with open(folder / "pairs.csv", "w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["score_difference", "gold_difference", "chosen_length", "rejected_length"])
        for row, difference, (chosen, rejected) in zip(rows, differences.tolist(), lengths, strict=True):
            golds = [row[side].get("gold") for side in ("chosen", "rejected")]
            gold = None if None in golds else golds[0] - golds[1]
            out.writerow([difference, gold, chosen, rejected])
    count, shares = len(rows), {"held_out": float((differences > 0).float().mean()), "longer_wins": longer / len(rows)}
    report: dict = {"held_out_pairs": count}
    for name, share in shares.items():
        report |= {f"{name}_accuracy": share, f"{name}_interval": wilson(share, count)}
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    says = [f"{share:.1%} ({{0:.1%}}–{{1:.1%}})".format(*report[f"{name}_interval"]) for name, share in shares.items()]
    print(f'reward model: right on {says[0]} of {count} held-out pairs; "longer wins" {says[1]}', file=sys.stderr, flush=True)


def wilson(share: float, count: int) -> list[float]:
    """95 % score interval [low, high] of a share of `count` (Wilson 1927). Ties that count one half make it too wide, never too narrow."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * (share * (1 - share) / count + Z**2 / (4 * count**2)) ** 0.5
    return [max(centre - half, 0.0), min(centre + half, 1.0)]
