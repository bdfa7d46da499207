"""The work of `python -m ablate.judge`: find the two sides, sample their answers, judge each pair of answers, write the judgement."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ablate.config import Config
from ablate.data.source import Prompt, Source
from ablate.errors import UserError
from ablate.judge.endpoint import Endpoint, Meter
from ablate.judge.llm import VERSION, Comparison, PairResults, VerdictCache, judge_pairs, messages, missing_verdicts
from ablate.judge.sides import SFT, Answers, Model, Run, Side, mismatch_with_run, open_side, split_part, write_prompts
from ablate.judge.table import UNREADABLE, as_text, file_name, table, write
from ablate.models.hub import resolve
from ablate.ppo.scoring import RetokenizingRewardModel, open_gold
from ablate.runs.folder import run_folders
from ablate.system.commands import announce, without_controls
from ablate.system.seeding import numpy_generator

CHAT_TOKENS = 64  # of marks around two messages, at most
MAX_REPLIES_SHOWN = 3  # of those without a verdict


@dataclass(frozen=True)
class Judgement:
    """One pair of sides, judged."""

    record: dict  # for the file
    lines: list[str]  # to print
    complete: bool  # whether every pair of answers was judged; False where the limit of cost came first


def run_command(options: argparse.Namespace, endpoint: Endpoint | None) -> None:
    """Do what the command line asks for. endpoint: the LLM's, with --judge llm. Raises UserError and OSError."""
    pairs = paired_sides(options.first, options.second, options.stages)
    if options.prompts:
        write_prompts(options.prompts, pairs[0][0].held_out()[1].prompts)
        print(f"{options.prompts}: answer these as JSONL of prompt and response")
        return
    for run, second in pairs:
        judgement = judge_sides(options, endpoint, run, second)
        print(without_controls("\n".join(judgement.lines)), flush=True)
        if not judgement.complete:
            raise UserError(
                f"stopped at --max-cost {options.max_cost:g}: raise it and run the same command, which asks only what is missing"
            )
        names = (judgement.record[part]["name"] for part in ("first", "second", "judge"))
        path = (options.out or run.folder / "judgements") / file_name(*names)
        write(path, judgement.record)
        print(without_controls(f"→ {path}\n"), flush=True)


def paired_sides(first: str, second: str, cache: str | None) -> list[tuple[Run, Side]]:
    """The pairs of sides that the command line names, one per run. Raises UserError where `first` is no run.

    cache: the folder of built stages, where it is not the run's own.
    """
    root, part = split_part(first)
    if (root / "config.yaml").is_file() or not root.is_dir() or (root / "config.json").is_file():
        run = open_side(first, cache)
        if not isinstance(run, Run):
            raise UserError(f"{first} is no run folder: FIRST must be one, since its held-out prompts are judged on")
        return [(run, second_side(run, second, cache))]
    return [(run, second_side(run, second, cache)) for run in (Run(folder, part, cache) for folder in run_folders(root))]


def second_side(run: Run, second: str, cache: str | None) -> Side:
    """The side that `run` is compared with. Raises UserError where a folder of runs has not exactly one of its seed."""
    if second == SFT:
        return Run(run.folder, SFT, cache)
    root, part = split_part(second)
    several = root.is_dir() and not any((root / name).is_file() for name in ("config.yaml", "config.json"))
    if not several:
        return open_side(second, cache)
    others = [other for other in (Run(folder, part, cache) for folder in run_folders(root)) if other.config.seed == run.config.seed]
    if len(others) != 1:
        raise UserError(f"{root} has {len(others)} runs of seed {run.config.seed}, one is needed for {run.folder}: name an arm's folder")
    return others[0]


def judge_sides(options: argparse.Namespace, endpoint: Endpoint | None, run: Run, second: Side) -> Judgement:
    """Take both sides' answers to the held-out prompts of `run`, and judge each pair of them. Raises UserError."""
    config = run.config
    torch.set_num_threads(config.threads)
    source, held_out = run.held_out()
    announce(intention(options, run, second, len(held_out.prompts)))
    other = second.answers(run, held_out)  # first, since a file that cannot be used is known at once
    sides = [run.answers(run, held_out), other]
    own = [(side, answers) for side, answers in zip((run, second), sides, strict=True) if isinstance(side, Run)]
    notes = [f"note: {text}" for side, answers in own if side.folder == run.folder and (text := mismatch_with_run(side, answers))]
    rows = [
        {"prompt": prompt.text, "kind": prompt.kind, "first": a, "second": b}
        for prompt, a, b in zip(held_out.prompts, sides[0].responses, sides[1].responses, strict=True)
    ]
    judge = {"kind": options.judge, "name": judge_name(options, run)}
    if endpoint is not None:
        outcomes, judge["usage"], lines = judge_by_llm(options, endpoint, config, rows)
    else:
        scores = score_sides(options, run, source, held_out.prompts, sides)
        judge["margin"] = margin_of(options, config)
        outcomes, lines = outcomes_of_scores(*scores, judge["margin"]), []
        rows = [row | {"first_score": a, "second_score": b} for row, a, b in zip(rows, *scores, strict=True)]
    verdicts = [row | {"outcome": outcome} for row, outcome in zip(rows, outcomes, strict=True) if outcome is not None]
    generator = numpy_generator(config.seed, "judge bootstrap")
    counts = table([row["kind"] for row in verdicts], [row["outcome"] for row in verdicts], generator)
    record = {
        "study": config.study, "arm": config.arm, "seed": config.seed, "judge": judge,
        "first": {"name": sides[0].name} | sides[0].source, "second": {"name": sides[1].name} | sides[1].source,
        "table": counts, "verdicts": verdicts,
    }  # fmt: skip
    title = f"{run.folder}: {sides[0].name} against {sides[1].name}, judged by {judge['name']}"
    return Judgement(record, [title, as_text(counts), *lines, *notes], complete=len(verdicts) == len(rows))


def intention(options: argparse.Namespace, run: Run, second: Side, pairs: int) -> str:
    """One sentence before the work: who is judged, by whom, on how many pairs, and with an LLM at what greatest cost."""
    against = second.folder if isinstance(second, Run) else second.name if isinstance(second, Model) else second.path.name
    against = SFT if isinstance(second, Run) and second.part == SFT and second.folder == run.folder else against
    asked = f"; at most {2 * pairs} requests" if options.judge == "llm" else ""
    limit = f" and a cost of {options.max_cost:g}" if options.max_cost is not None else ""
    return f"judging {run.folder} against {against} by {judge_name(options, run)} on {pairs} pairs of answers{asked}{limit}"


def score_sides(
    options: argparse.Namespace, run: Run, source: Source, prompts: Sequence[Prompt], sides: Sequence[Answers]
) -> list[list[float]]:
    """Per side one score per prompt: gold, or a reward model's. Raises UserError where there is no gold."""
    if options.judge == "rm":
        folder = resolve(options.reward_model, "--reward-model") if options.reward_model else run.stages.reward_model
        scorer = RetokenizingRewardModel.load(folder, run.device)
        return [scorer([prompt.turns for prompt in prompts], side.responses, side.ended).tolist() for side in sides]
    path = run.config.gold.path
    gold = open_gold(None if path is None else resolve(path, "gold.path"), source, run.device)
    scores = [gold(prompts, side.responses, side.ended) for side in sides]
    if scores[0][0] is None:
        raise UserError(f"{run.folder} is on human data without gold.path, so there is no gold: use --judge rm or --judge llm")
    return scores


def outcomes_of_scores(first: Sequence[float], second: Sequence[float], margin: float) -> list[str]:
    """Per pair of scores: win where first − second > margin, lose where it is < −margin, else tie."""
    return ["win" if a - b > margin else "lose" if a - b < -margin else "tie" for a, b in zip(first, second, strict=True)]


def margin_of(options: argparse.Namespace, config: Config) -> float:
    """--margin; else evaluation.win_margin for gold, whose unit it is in, and 0 for a reward model."""
    if options.margin is not None:
        return options.margin
    return config.evaluation.win_margin if options.judge == "gold" else 0.0


def judge_name(options: argparse.Namespace, run: Run) -> str:
    """The judge's name, without a path of this machine."""
    if options.judge == "rm":
        return Path(options.reward_model).name if options.reward_model else "its reward model"
    if options.judge == "llm":
        return options.model
    return "gold" if run.config.gold.path is None else f"gold {Path(run.config.gold.path).name}"


def judge_by_llm(
    options: argparse.Namespace, endpoint: Endpoint, config: Config, rows: Sequence[dict]
) -> tuple[list[str | None], dict, list[str]]:
    """(outcome per row, None where the limit of cost came first; usage for the record; lines to print). Raises UserError."""
    cache = VerdictCache.open(options.verdicts or Path(config.cache).expanduser() / "verdicts.jsonl")
    meter = Meter(endpoint)
    comparisons = [(row["prompt"], row["first"], row["second"]) for row in rows]
    announce(greatest_cost(endpoint, list(missing_verdicts(endpoint, cache, comparisons).values())))
    pairs = judge_pairs(endpoint, cache, comparisons, meter, options.threads)
    usage = meter.record() | {"cached": pairs.cached, "template": VERSION, "changed_with_position": pairs.changed, "equal": pairs.equal}
    return pairs.outcomes, usage, usage_lines(pairs, meter)


def greatest_cost(endpoint: Endpoint, missing: Sequence[Comparison]) -> str:
    """One sentence: how many requests are to be made, and the tokens and the cost that they cannot pass unless they are repeated.

    A token stands for one byte or more; what a chat template adds is counted as CHAT_TOKENS.
    """
    prompt = sum(len(message["content"].encode()) for shown in missing for message in messages(shown)) + CHAT_TOKENS * len(missing)
    completion = endpoint.max_tokens * len(missing)
    cost = endpoint.cost(prompt, completion)
    if cost is None:
        spent = "without prices their cost is unknown"
    else:
        spent = f"cost at most {min(cost, math.inf if endpoint.max_cost is None else endpoint.max_cost):.4g}"
    return f"{len(missing)} requests of at most {prompt:,} prompt and {completion:,} completion tokens; {spent} if none is repeated"


def usage_lines(pairs: PairResults, meter: Meter) -> list[str]:
    """Requests, tokens, cost, the influence of the position and replies without a verdict: what the table does not show."""
    cost = "" if meter.cost is None else f", cost {meter.cost:.4g}"
    lines = [
        f"{meter.requests} requests ({meter.retries} repeated), {pairs.cached} verdicts known before; {meter.prompt_tokens:,} prompt and "
        f"{meter.completion_tokens:,} completion tokens{cost}",
        f"{pairs.changed} pairs changed with the position and count as ties; {pairs.equal} pairs of equal answers tie unasked; the answer "
        f"shown first won {pairs.first_position_wins} of {pairs.verdicts} verdicts",
    ]
    if meter.without_usage:
        lines.append(f"{meter.without_usage} replies told no token usage: tokens and cost are too low")
    if pairs.unreadable:
        shown = "; ".join(repr(reply[:80]) for reply in pairs.unreadable[:MAX_REPLIES_SHOWN])
        lines.append(f"{len(pairs.unreadable)} replies without a verdict, which make their pairs {UNREADABLE}: {shown}")
    return lines
