"""Preference pairs: two answers of the SFT model to one prompt, labelled by Bradley-Terry on gold; or two that people ranked."""

from __future__ import annotations

import json
import math
import sys
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from ablate.config import Config, SamplingConfig
from ablate.data.dialogues import Example, Malformed, messages_of, parse_generic, prompt_of
from ablate.data.files import bounded
from ablate.data.human import HumanSource
from ablate.data.source import open_source
from ablate.errors import UserError
from ablate.models.load import load_policy, load_tokenizer
from ablate.ppo.rollout import decode_responses, encode_prompts
from ablate.ppo.sampling import sample
from ablate.system.jsonl import decoded, numbered_lines, to_lines
from ablate.system.progress import track
from ablate.system.seeding import numpy_generator, torch_generator

BATCH = 256  # prompts of one sampling call
ROUNDS = 20  # sampling stops with an error after this many times the prompts that pairs without a margin would need


def preferences(config: Config, sft: Path, folder: Path, device: torch.device) -> None:
    """Write train.jsonl and held_out.jsonl: human pairs where the data is human, else pairs of answers sampled from SFT.

    Answers are plain samples (temperature 1, top-p 1) whatever sampler PPO uses, so that every arm is judged by the same pairs. A sampled
    pair with equal answers or |Δgold| < margin is dropped, and another drawn. Raises UserError where too few are left.
    """
    tokenizer = load_tokenizer(sft)
    if config.data.source != "world":
        human_pairs(config, HumanSource(config.data, tokenizer), folder)
        return
    wanted = config.preferences.pairs + config.preferences.held_out_pairs
    source, policy = open_source(config), load_policy(sft, device)
    rounds = (draw_pairs(config, source, tokenizer, policy, step, device) for step in range(ROUNDS * -(-wanted // BATCH)))
    pairs = list(track(islice(chain.from_iterable(rounds), wanted), wanted, "preference pairs"))
    if len(pairs) < wanted:
        raise UserError(f"preferences.margin={config.preferences.margin} leaves too few pairs ({len(pairs)} of {wanted}): lower it")
    label(pairs, config.preferences.noise, config.preferences.length_bias, numpy_generator(config.pipeline_seed, "labels"))
    write(folder / "train.jsonl", pairs[: config.preferences.pairs])
    write(folder / "held_out.jsonl", pairs[config.preferences.pairs :])


def human_pairs(config: Config, source: HumanSource, folder: Path) -> None:
    """Write pairs as people ranked them, held-out ones from held-out prompts, and in report.json what was read, skipped and dropped.

    Where reward_model.path is set nothing reads them, so data without pairs is no error.
    """
    settings, report = config.preferences, dict(source.report)
    print("data: {too_long:,} dialogues too long; prompts: {train_prompts:,} for training, {held_out_prompts:,} held out".format(**report),
          file=sys.stderr, flush=True)  # fmt: skip
    sides = [
        ("train", settings.pairs, "train pairs", False, settings.half),
        ("held_out", settings.held_out_pairs, "held-out pairs", True, "all"),
    ]
    for name, count, stream, held_out, half in sides:
        if config.reward_model.path is not None and not source.all_pairs(held_out, half):
            continue
        pairs = source.pairs(count, numpy_generator(config.pipeline_seed, stream), held_out, half)
        report[f"{name}_pairs"] = len(pairs)
        write(folder / f"{name}.jsonl", [
            {"prompt": prompt.turns, "kind": prompt.kind, "chosen": {"response": chosen}, "rejected": {"response": rejected}}
            for prompt, chosen, rejected in pairs
        ])  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")


def draw_pairs(config: Config, source, tokenizer, policy, step: int, device: torch.device) -> list[dict]:
    """Unlabelled pairs from one batch of prompts: dicts of prompt, kind, and the answers `first` and `second` with their gold."""
    prompts = source.prompts(BATCH, numpy_generator(config.pipeline_seed, "pair prompts", step))
    texts = [prompt.text for prompt in prompts]
    encoded = encode_prompts(tokenizer, texts + texts, device)
    noise = torch.rand(
        len(encoded.tokens), config.sampling.max_new_tokens, generator=torch_generator(config.pipeline_seed, "pair noise", step)
    )
    plain = SamplingConfig(max_new_tokens=config.sampling.max_new_tokens)
    sampled = sample(policy, encoded.tokens, encoded.attention, noise.to(device), plain, tokenizer.eos_token_id, tokenizer.pad_token_id)
    responses = decode_responses(tokenizer, sampled.responses, sampled.mask, sampled.ended)
    ended = sampled.ended.tolist()
    answers = [
        {"response": response, "ended": end, "gold": source.gold(prompt, response, end)}
        for prompt, response, end in zip([*prompts, *prompts], responses, ended, strict=True)
    ]
    drawn = zip(prompts, answers[:BATCH], answers[BATCH:], strict=True)
    return [
        {"prompt": prompt.text, "kind": prompt.kind, "first": first, "second": second}
        for prompt, first, second in drawn
        if first["response"] != second["response"] and abs(first["gold"] - second["gold"]) >= config.preferences.margin
    ]


def label(pairs: list[dict], noise: float, length_bias: float, rng: np.random.Generator) -> None:
    """Turn first and second into chosen and rejected: P(first chosen) = sigmoid((Δgold + b Δwords) / noise), b = length_bias.

    At noise 0 the one with more gold + b words wins. Words are what blanks separate. b = 0: gold alone decides.
    """
    for pair, uniform in zip(pairs, rng.random(len(pairs)), strict=True):
        first, second = pair.pop("first"), pair.pop("second")
        words = len(first["response"].split()) - len(second["response"].split())
        difference = first["gold"] - second["gold"] + length_bias * words
        if noise > 0:
            wins = uniform < 1 / (1 + np.exp(-np.clip(difference / noise, -50, 50)))
        else:
            wins = difference > 0 or (difference == 0 and uniform < 0.5)
        pair["chosen"], pair["rejected"] = (first, second) if wins else (second, first)


def write(path: Path, rows: list[dict]) -> None:
    """Write one line of JSON per row."""
    path.write_text(to_lines(rows), encoding="utf-8")


def read(path: Path) -> list[dict]:
    """The rows of a pairs file, each with `prompt`, `chosen` and `rejected`, whose text is their `response`.

    Rows of any form that data.source=jsonl reads are brought into this one. Raises UserError where the file is missing, holds no pair or
    cannot be read, and for the first line that is not a pair.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: a folder of pairs holds train.jsonl and held_out.jsonl")
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): write the pairs as JSON lines in UTF-8") from error
    rows = []
    for number, line in numbered_lines(text):
        try:
            rows.append(pair_of(decoded(line)))
        except ValueError as error:
            reason = "not JSON" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{path}, line {number}, is not a pair (prompt, chosen, rejected): {reason}; mend or remove it") from error
    if not rows:
        raise UserError(f"{path} holds no pairs: write one line of JSON per pair (prompt, chosen, rejected)")
    return rows


def pair_of(row: object) -> dict:
    """The row in the form that `read` returns. Raises Malformed.

    One that this stage wrote stays as it is: its answers may be empty where they were sampled, which their gold shows.
    """
    own = isinstance(row, dict) and all(isinstance(row.get(side), dict) and "response" in row[side] for side in ("chosen", "rejected"))
    if not own:
        found = bounded(parse_generic(row, "any"))
        if found.chosen is None or found.rejected is None:
            raise Malformed("chosen or rejected is missing")
        answers = {"chosen": {"response": found.chosen}, "rejected": {"response": found.rejected}}
        return {"prompt": found.prompt.turns, "kind": found.prompt.kind, **answers}
    assert isinstance(row, dict)
    answers = [row["chosen"], row["rejected"]]
    for answer in answers:
        check_answer(answer)
    if answers[0]["response"] == answers[1]["response"]:
        raise Malformed("chosen and rejected are the same")
    given = row.get("prompt")
    prompt = prompt_of([("user", given)] if isinstance(given, str) else messages_of(given), "any")
    bounded(Example(prompt, answers[0]["response"], answers[1]["response"]))
    return row


def check_answer(answer: dict) -> None:
    """Raises Malformed for one side of a pair without a text, or with an `ended` or a `gold` that is none."""
    if not isinstance(answer["response"], str):
        raise Malformed("`response` is no text")
    gold = answer.get("gold")
    if gold is not None and (isinstance(gold, bool) or not isinstance(gold, int | float) or not math.isfinite(gold)):
        raise Malformed("`gold` is no finite number")
    if not isinstance(answer.get("ended", True), bool):
        raise Malformed("`ended` is neither true nor false")
    if gold is None and not answer["response"].strip():
        raise Malformed("an answer is empty")
