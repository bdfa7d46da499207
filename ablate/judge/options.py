"""The command line of `python -m ablate.judge`, and what of it is refused before anything loads."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ablate.errors import UserError
from ablate.judge.endpoint import Endpoint


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
