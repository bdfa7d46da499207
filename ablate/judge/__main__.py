"""Who answers better: `python -m ablate.judge FIRST SECOND` judges two sides on the held-out prompts of the first, with common noise.

A side is a run folder (its last checkpoint's policy; RUN:40 that of update 40, RUN:sft its SFT model), a causal LM (Hugging Face folder or
hub name), or JSONL of {prompt, response}. FIRST must be a run, or a folder of runs: then each of them is judged, against its own SFT where
SECOND is the word sft, against the run of the same seed where SECOND is a folder of runs, else against the same third party.

  python -m ablate.judge results/win_rate/A/seed=0 sft                       gold: the world's, or gold.path's
  python -m ablate.judge results/win_rate/A/seed=0 sft --judge rm            the run's reward model; --reward-model names any
  python -m ablate.judge RUN THIRD --prompts prompts.jsonl                   only write the prompts, for a third model to answer
  python -m ablate.judge RUN sft --judge llm --url http://localhost:8000/v1 --model NAME

Each judgement is printed and kept as RUN/judgements/….json, from where analysis.figures (fig10, fig11) and analysis.verdicts read it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ablate.config import Config
from ablate.data.source import Prompt, Source
from ablate.errors import UserError
from ablate.judge.endpoint import Endpoint, Meter
from ablate.judge.llm import VERSION, PairResults, VerdictCache, judge_pairs
from ablate.judge.sides import SFT, Answers, Run, Side, departure, open_side, split_part, write_prompts
from ablate.judge.table import UNREADABLE, as_text, file_name, table, write
from ablate.models.hub import resolve
from ablate.ppo.scoring import RetokenizingRewardModel, open_gold
from ablate.runs.folder import run_folders
from ablate.system.seeding import numpy_generator

SHOWN = 3  # unreadable replies


def matches(first: str, second: str, cache: str | None) -> list[tuple[Run, Side]]:
    """The pairs of sides that the command line names. Raises UserError."""
    root, part = split_part(first)
    if (root / "config.yaml").is_file() or not root.is_dir() or (root / "config.json").is_file():
        run = open_side(first, cache)
        if not isinstance(run, Run):
            raise UserError(f"{first} is no run folder: FIRST must be one, since its held-out prompts are judged on")
        return [(run, against(run, second, cache))]
    return [(run, against(run, second, cache)) for run in (Run(folder, part, cache) for folder in run_folders(root))]


def against(run: Run, second: str, cache: str | None) -> Side:
    """The second side for one run of the first. Raises UserError."""
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


def by_scores(
    options: argparse.Namespace, run: Run, source: Source, prompts: Sequence[Prompt], sides: Sequence[Answers]
) -> list[list[float]]:
    """Gold, or a reward model's scores, of both sides' answers. Raises UserError where there is no gold."""
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


def by_difference(first: Sequence[float], second: Sequence[float], margin: float) -> list[str]:
    """win where first − second > margin, lose where it is < −margin, else tie."""
    return ["win" if a - b > margin else "lose" if a - b < -margin else "tie" for a, b in zip(first, second, strict=True)]


def judged(options: argparse.Namespace, run: Run, second: Side) -> tuple[dict, list[str], bool]:
    """(record for the file, lines to print, whether every pair was judged) of one pair of sides. Raises UserError."""
    torch.set_num_threads(run.config.threads)
    source, held_out = run.asked()
    sides = [side.answers(run, held_out) for side in (run, second)]
    own = [(side, answers) for side, answers in zip((run, second), sides, strict=True) if isinstance(side, Run)]
    notes = [f"note: {words}" for side, answers in own if side.folder == run.folder and (words := departure(side, answers))]
    rows = [
        {"prompt": prompt.text, "kind": prompt.kind, "first": a, "second": b}
        for prompt, a, b in zip(held_out.prompts, sides[0].responses, sides[1].responses, strict=True)
    ]
    judge = {"kind": options.judge, "name": judge_name(options, run)}
    if options.judge == "llm":
        outcomes, judge["usage"], lines = by_llm(options, run.config, rows)
    else:
        scores = by_scores(options, run, source, held_out.prompts, sides)
        judge["margin"] = margin_of(options, run.config)
        outcomes, lines = by_difference(*scores, judge["margin"]), []
        rows = [row | {"first_score": a, "second_score": b} for row, a, b in zip(rows, *scores, strict=True)]
    asked = [(row, outcome) for row, outcome in zip(rows, outcomes, strict=True) if outcome is not None]
    generator = numpy_generator(run.config.seed, "judge bootstrap")
    found = table([row["kind"] for row, _ in asked], [outcome for _, outcome in asked], generator)
    config = run.config
    record = {
        "study": config.study, "arm": config.arm, "seed": config.seed, "judge": judge,
        "first": {"name": sides[0].name} | sides[0].source, "second": {"name": sides[1].name} | sides[1].source,
        "table": found, "verdicts": [row | {"outcome": outcome} for row, outcome in asked],
    }  # fmt: skip
    title = f"{run.folder}: {sides[0].name} against {sides[1].name}, judged by {judge['name']}"
    return record, [title, as_text(found), *lines, *notes], len(asked) == len(rows)


def margin_of(options: argparse.Namespace, config: Config) -> float:
    """--margin, else evaluation.win_margin for gold, which is in gold's unit, and 0 for a reward model."""
    if options.margin is not None:
        return options.margin
    return config.evaluation.win_margin if options.judge == "gold" else 0.0


def judge_name(options: argparse.Namespace, run: Run) -> str:
    """Who judges, without a path of this machine."""
    if options.judge == "rm":
        return Path(options.reward_model).name if options.reward_model else "its reward model"
    if options.judge == "llm":
        return options.model
    return "gold" if run.config.gold.path is None else f"gold {Path(run.config.gold.path).name}"


def by_llm(options: argparse.Namespace, config: Config, rows: Sequence[dict]) -> tuple[list[str | None], dict, list[str]]:
    """(outcome a row, null where the limit of cost came first; usage for the record; lines to print)."""
    endpoint = endpoint_of(options)
    path = options.verdicts or Path(config.cache).expanduser() / "verdicts.jsonl"
    meter = Meter(endpoint)
    pairs = judge_pairs(
        endpoint, VerdictCache.open(path), [(row["prompt"], row["first"], row["second"]) for row in rows], meter, options.threads
    )
    usage = meter.record() | {"cached": pairs.cached, "template": VERSION, "changed_with_position": pairs.changed, "equal": pairs.equal}
    return pairs.outcomes, usage, said(pairs, meter)


def said(pairs: PairResults, meter: Meter) -> list[str]:
    """What a table of an LLM's verdicts does not show."""
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
        shown = "; ".join(repr(reply[:80]) for reply in pairs.unreadable[:SHOWN])
        lines.append(f"{len(pairs.unreadable)} replies without a verdict, which make their pairs {UNREADABLE}: {shown}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__).parse_args(arguments)
    try:
        check(options)
        found = matches(options.first, options.second, options.stages)
        if options.prompts:
            write_prompts(options.prompts, found[0][0].asked()[1].prompts)
            print(f"{options.prompts}: answer these as JSONL of prompt and response")
            return
        for run, second in found:
            record, lines, whole = judged(options, run, second)
            print("\n".join(lines), flush=True)
            if not whole:
                raise UserError(
                    f"stopped at --max-cost {options.max_cost:g}: raise it and run the same command, which asks only what is missing"
                )
            path = (options.out or run.folder / "judgements") / file_name(
                record["first"]["name"], record["second"]["name"], record["judge"]["name"]
            )
            write(path, record)
            print(f"→ {path}\n", flush=True)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()


def parser(description: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m ablate.judge", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("first", help="run folder, RUN:<update>, RUN:sft, or a folder of runs")
    found.add_argument("second", help="the same, or sft, a model's folder or hub name, or a JSONL file of answers")
    found.add_argument("--judge", choices=("gold", "rm", "llm"), default="gold", help="who judges (default: %(default)s)")
    found.add_argument("--margin", type=float, help="a difference of scores up to this is a tie (gold: evaluation.win_margin; rm: 0)")
    found.add_argument("--reward-model", help="with --judge rm: a folder or hub name instead of the run's own")
    found.add_argument("--out", type=Path, help="folder for the judgement instead of RUN/judgements, where the analysis looks")
    found.add_argument(
        "--prompts", type=Path, metavar="FILE", help="only write the held-out prompts of FIRST as JSONL, to be answered elsewhere"
    )
    found.add_argument("--stages", metavar="FOLDER", help="cache of built stages (SFT, reward model) instead of the run's own")
    llm = found.add_argument_group("with --judge llm, an OpenAI-compatible endpoint")
    llm.add_argument("--url", help="its address, such as http://localhost:8000/v1")
    llm.add_argument("--model", help="the judge's name there")
    llm.add_argument(
        "--key-from", default="OPENAI_API_KEY", metavar="VARIABLE", help="environment variable with the key (default: %(default)s)"
    )
    llm.add_argument("--rate", type=positive, metavar="N", help="requests a minute, at most (default: as fast as it answers)")
    llm.add_argument("--threads", type=int, default=4, help="requests under way at a time (default: %(default)s)")
    llm.add_argument("--timeout", type=positive, default=60.0, help="seconds to wait for a reply (default: %(default)s)")
    llm.add_argument("--attempts", type=int, default=6, help="tries of a request, the first included (default: %(default)s)")
    llm.add_argument("--longest-wait", type=positive, default=120.0, help="longest pause between tries, seconds (default: %(default)s)")
    llm.add_argument("--max-tokens", type=int, default=512, help="longest reply (default: %(default)s)")
    llm.add_argument("--prompt-price", type=float, help="price of a million prompt tokens")
    llm.add_argument("--completion-price", type=float, help="price of a million completion tokens")
    llm.add_argument("--max-cost", type=float, help="stop before this is spent; the same command later goes on")
    llm.add_argument("--verdicts", type=Path, metavar="FILE", help="JSONL that keeps verdicts (default: verdicts.jsonl in the cache)")
    return found


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything loads. Raises UserError."""
    if options.judge == "llm" and not (options.url and options.model):
        raise UserError("--judge llm needs to know whom to ask: set --url and --model")
    if options.judge != "llm" and (options.url or options.model):
        raise UserError("--url and --model name an LLM as judge: add --judge llm")
    if options.reward_model and options.judge != "rm":
        raise UserError("--reward-model names a reward model as judge: add --judge rm")
    if min(options.threads, options.attempts, options.max_tokens) < 1:
        raise UserError("--threads, --attempts and --max-tokens are counts: give them 1 or more")
    if options.judge == "llm":
        endpoint_of(options).check()


def endpoint_of(options: argparse.Namespace) -> Endpoint:
    """Where and how to ask the LLM; the key comes from the environment alone."""
    return Endpoint(
        url=options.url, model=options.model, key=os.environ.get(options.key_from) or None, timeout=options.timeout,
        attempts=options.attempts, longest_wait=options.longest_wait, requests_per_minute=options.rate, max_tokens=options.max_tokens,
        prompt_price=options.prompt_price, completion_price=options.completion_price, max_cost=options.max_cost,
    )  # fmt: skip
