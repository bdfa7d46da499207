"""Who answers better: judge two sides, prompt by prompt, on the held-out prompts of the first and with the same noise.

  python -m ablate.judge results/win_rate/A/seed=0 sft                       by gold: the world's, or gold.path
  python -m ablate.judge results/win_rate/A/seed=0 sft --judge rm            by the run's reward model, or by --reward-model
  python -m ablate.judge RUN sft --judge llm --url http://localhost:8000/v1 --model NAME
  python -m ablate.judge RUN THIRD --prompts prompts.jsonl                   only write the prompts, for a third model to answer

A side is a run folder (the policy of its last checkpoint; RUN:40 is the policy of update 40, RUN:sft the run's SFT model), a causal LM
(Hugging Face folder or hub name), or a JSONL file of {prompt, response}. FIRST must be a run or a folder of runs. Each run of such a
folder is judged against its own SFT where SECOND is the word sft, against the run of the same seed where SECOND is a folder of runs, and
else against the same third party.

Each judgement is printed and written to RUN/judgements/….json, where analysis.figures (fig10, fig11) and analysis.verdicts read it.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.judge.endpoint import Endpoint
from ablate.system.commands import announce, command_errors

OWN_KEY = "OPENAI_API_KEY"
LONGEST = 86_400.0  # seconds, a day; threads cannot wait for arbitrary numbers
COUNTS = {"threads": 256, "attempts": 100, "max_tokens": 1_000_000}
AMOUNTS = ("margin", "prompt_price", "completion_price", "max_cost")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError, or a file that cannot be read or written, is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        try:
            check(options)
            announce(f"judging {options.first} against {options.second} by {options.judge}")
            # Imported here, because torch takes seconds that neither --help nor a refused option should wait for.
            from ablate.judge.compare import run_command

            run_command(options, endpoint_of(options) if options.judge == "llm" else None)
        except OSError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(130)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m ablate.judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("first", help="run folder, RUN:<update>, RUN:sft, or a folder of runs")
    result.add_argument("second", help="the same, or the word sft, a model's folder or hub name, or a JSONL file of answers")
    result.add_argument("--judge", choices=("gold", "rm", "llm"), default="gold", help="who judges (default: %(default)s)")
    result.add_argument(
        "--margin", type=float, help="a difference of scores up to this is a tie (default: evaluation.win_margin for gold, 0 for rm)"
    )
    result.add_argument("--reward-model", help="with --judge rm: a folder or hub name instead of the run's own reward model")
    result.add_argument("--out", type=Path, help="folder for the judgement instead of RUN/judgements, where the analysis looks")
    result.add_argument(
        "--prompts", type=Path, metavar="FILE", help="only write the held-out prompts of FIRST as JSONL, to be answered elsewhere"
    )
    result.add_argument("--stages", metavar="FOLDER", help="cache of built stages (SFT, reward model) instead of the run's own")
    llm = result.add_argument_group("with --judge llm, an OpenAI-compatible endpoint")
    llm.add_argument("--url", help="its address, such as http://localhost:8000/v1")
    llm.add_argument("--model", help="the judge's name there")
    llm.add_argument(
        "--key-from", default=OWN_KEY, metavar="VARIABLE", help="environment variable that holds the key (default: %(default)s)"
    )
    llm.add_argument("--rate", type=positive, metavar="N", help="at most this many requests per minute (default: no limit)")
    llm.add_argument("--threads", type=int, default=4, help="requests in flight at a time (default: %(default)s)")
    llm.add_argument("--timeout", type=positive, default=60.0, help="seconds to wait for a whole reply (default: %(default)s)")
    llm.add_argument("--attempts", type=int, default=6, help="attempts per request, the first included (default: %(default)s)")
    llm.add_argument("--longest-wait", type=positive, default=120.0, help="seconds between two attempts at most (default: %(default)s)")
    llm.add_argument("--max-tokens", type=int, default=512, help="tokens per reply at most (default: %(default)s)")
    llm.add_argument("--prompt-price", type=float, help="price per million prompt tokens")
    llm.add_argument("--completion-price", type=float, help="price per million completion tokens")
    llm.add_argument("--max-cost", type=float, help="stop before more than this is spent; the same command continues later")
    llm.add_argument("--verdicts", type=Path, metavar="FILE", help="JSONL that keeps the verdicts (default: verdicts.jsonl in the cache)")
    return result


def positive(text: str) -> float:
    """A number above 0 and at most LONGEST, for argparse."""
    value = float(text)
    if not 1 / LONGEST <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is not above 0, or is beyond {LONGEST:g}")
    return value


def check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other or cannot be, before anything is read. Raises UserError."""
    if options.judge == "llm" and not (options.url and options.model):
        raise UserError("--judge llm needs to know whom to ask: set --url and --model")
    if options.judge != "llm" and (options.url or options.model):
        raise UserError("--url and --model name an LLM as judge: add --judge llm")
    if options.reward_model and options.judge != "rm":
        raise UserError("--reward-model names a reward model as judge: add --judge rm")
    for name, most in COUNTS.items():
        if not 1 <= getattr(options, name) <= most:
            raise UserError(f"--{name.replace('_', '-')} is a count: give it 1 to {most}")
    for name in AMOUNTS:
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise UserError(f"--{name.replace('_', '-')} {value:g} is no amount: give it a finite number, 0 or more")
    check_places(options)
    if options.judge == "llm":
        if options.key_from != OWN_KEY and options.key_from not in os.environ:
            raise UserError("the variable that --key-from names is not set: name the environment variable that holds the key")
        endpoint_of(options).check()


def check_places(options: argparse.Namespace) -> None:
    """Refuse paths at which nothing can be written. Raises UserError."""
    if options.prompts and not options.prompts.parent.is_dir():
        raise UserError(f"--prompts {options.prompts}: there is no folder {options.prompts.parent}: make it, or name another")
    for name in ("prompts", "verdicts"):
        path = getattr(options, name)
        if path and path.exists() and not path.is_file():
            raise UserError(f"--{name} {path} is no file: name another")
    if options.out and options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is no folder: name another")


def endpoint_of(options: argparse.Namespace) -> Endpoint:
    """Where and how to ask the LLM; the key comes from the environment alone."""
    key = os.environ.get(options.key_from, "").strip()  # a file's last line break comes along with $(cat FILE) and the like
    return Endpoint(
        url=options.url, model=options.model, key=key or None, timeout=options.timeout,
        attempts=options.attempts, longest_wait=options.longest_wait, requests_per_minute=options.rate, max_tokens=options.max_tokens,
        prompt_price=options.prompt_price, completion_price=options.completion_price, max_cost=options.max_cost,
    )  # fmt: skip


if __name__ == "__main__":
    main()
