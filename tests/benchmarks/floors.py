"""Where an update's time goes, beside the least that its matrix products could take.

    python tests/benchmarks/floors.py                              2 layers × 64, the default world model
    python tests/benchmarks/floors.py --layers 4 --width 128 --stage-steps 200
    python tests/benchmarks/floors.py --layers 12 --width 768 --mlp 2048 --stage-steps 25 --batch 32 --updates 3
    python tests/benchmarks/floors.py --device cuda --precision bf16
    python tests/benchmarks/floors.py --updates 2 --settings model=smollm2 data=hh_rlhf data.path=FILE sampling.max_new_tokens=128

One process and one thread on the work of `bench.py` (PPO-max at learning rate 0, all monitors), or on the run that --settings
describe, with learning rates 0. Times are CPU seconds, or wall seconds on a GPU, which is waited for; medians over the measured
updates. Sampling counts the tokens of responses, the other phases those of prompts too. The floor of a phase is the number of operations of
its linear layers on real tokens, 2 a weight and token forward and 4 backward, over the rate that this machine reaches on the
model's own largest product with as many rows as a minibatch has tokens. Attention, norms and elementwise work have no floor here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from side_ablate import measured_config
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import ablate.ppo.rollout
import ablate.ppo.scoring
import ablate.ppo.update
import ablate.trainer
from ablate.config import Config
from ablate.models.linear import onednn_linear
from ablate.models.load import load_policy
from ablate.runs.compose import composed, composing
from ablate.runs.store import RunStore
from ablate.runs.tracking import Trackers
from ablate.session import autocast, prepare

PHASES = {
    "sampling": (ablate.trainer, "generate_responses"),
    "measuring": (ablate.trainer, "score_responses"),
    "  reference": (ablate.ppo.rollout, "response_logits"),
    "  critic": (ablate.ppo.rollout, "response_values"),
    "  reward model": (ablate.ppo.scoring, "sequence_score"),
    "updating": (ablate.trainer, "update"),
    "  forward": (ablate.ppo.update, "forward"),
    "  backward": (torch.Tensor, "backward"),
    "  optimiser": (ablate.ppo.update, "apply_gradients"),
}


WHOLE = ("sampling", "measuring", "updating")
SIZES = {
    "layers": 2,
    "width": 64,
    "mlp": None,
    "batch": 128,
    "minibatch": 32,
    "max_new_tokens": 48,
    "updates": 10,
    "skip": 2,
    "stage_steps": None,
}
CACHE = Path(__file__).resolve().parents[2] / "results" / ".bench"


def now(device: torch.device) -> float:
    """CPU seconds, or wall seconds after a GPU has done what it was given."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch:
    """Seconds by phase, summed over the calls of one update."""

    def __init__(self, device: torch.device):
        self.device, self.spent = device, defaultdict(float)
        for phase, (owner, name) in PHASES.items():
            setattr(owner, name, self.timed(phase, getattr(owner, name)))

    def timed(self, phase: str, function):
        def call(*arguments, **named):
            with self.watch(phase):
                return function(*arguments, **named)

        return call

    @contextmanager
    def watch(self, phase: str):
        started = now(self.device)
        yield
        self.spent[phase] += now(self.device) - started


def linear_weights(policy: PreTrainedModel) -> tuple[int, int]:
    """(weights of the trunk's linear layers, those of the vocabulary head)."""
    layers = [module.weight for module in policy.base_model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    return sum(weight.numel() for weight in layers), policy.get_output_embeddings().weight.numel()


def operations(trunk: int, head: int, tokens: float, answered: float) -> dict[str, float]:
    """Floating-point operations of one update by phase: `tokens` real ones of prompts and responses, `answered` of responses."""
    forward, logits = 2 * trunk * tokens, 2 * head * answered
    one_by_one = {"sampling": forward + logits, "  reference": forward + logits, "  critic": forward, "  reward model": forward}
    update = {"  forward": 2 * forward + logits, "  backward": 2 * (2 * forward + logits)}
    return one_by_one | {"measuring": 3 * forward + logits} | update | {"updating": 3 * (2 * forward + logits)}


@torch.no_grad()
def product_rate(rows: int, inner: int, columns: int, device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Best operations a second of [rows, inner] · [inner, columns] in numbers of `dtype`, as the linear layers compute it.

    Under autocast a layer also casts, which the floor leaves out.
    """
    left, weight = (torch.randn(count, inner, device=device, dtype=dtype) for count in (rows, columns))
    repeats = 5 if device.type == "cpu" else 50  # products that a GPU does for each time that it is waited for
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = now(device)
        for _ in range(repeats):
            onednn_linear(left, weight, None)
        best = min(best, now(device) - started)
    return repeats * 2 * rows * inner * columns / best


def described_config(settings: list[str], updates: int, results: str) -> Config:
    """The run of these settings at learning rate 0, as `measured_config` changes the default one."""
    with composing():
        config = composed([*settings, "tracker=none"])
    config.results, config.ppo.updates = results, updates
    config.ppo.learning_rate = config.ppo.critic_learning_rate = 0.0
    config.ppo.critic_pretrain = False
    config.evaluation.every, config.evaluation.prompts = updates + 1, 2
    config.checkpoint.every = 0
    return config


def measure(config: Config, skip: int) -> tuple[list[dict], dict]:
    """Seconds by phase of every update after the first `skip` but the last, and what the floor needs to know."""
    torch.set_num_threads(1)
    stages = prepare(config)
    with autocast(config):
        trainer = ablate.trainer.Trainer.load(config, stages, RunStore(config))
        trainer.tracker = Trackers([])
        clock, spent, lengths = Stopwatch(trainer.device), [], []
        generate = ablate.trainer.generate_responses

        def counted(policy, tokenizer, prompts, *rest, **named):
            sampled = generate(policy, tokenizer, prompts, *rest, **named)
            lengths.append((int(prompts.attention.sum()), int(sampled.mask.sum())))
            return sampled

        ablate.trainer.generate_responses = counted
        trainer.log = lambda row: None
        for _ in range(config.ppo.updates - 1):
            clock.spent = defaultdict(float)
            with clock.watch("update"):
                trainer.step()
            spent.append(dict(clock.spent))
    prompts, answered = (median(row[column] for row in lengths[skip:]) for column in (0, 1))
    policy = load_policy(stages.sft, torch.device("cpu"))
    largest = max((module.weight for module in policy.base_model.modules() if isinstance(module, nn.Linear)), key=torch.numel)
    minibatch = int((prompts + answered) * config.ppo.minibatch_size / config.ppo.batch_size)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    rate = product_rate(minibatch, largest.shape[1], largest.shape[0], trainer.device, dtype)
    floor = operations(*linear_weights(policy), prompts + answered, answered)
    return spent[skip:], {"floor": floor, "rate": rate, "tokens": prompts + answered, "answered": answered}


def table(spent: list[dict], floor: dict[str, float], rate: float, tokens: float, answered: float) -> str:
    """A line per phase: milliseconds, tokens a second, the floor, how far the phase is above it, and its share of the update."""
    floor = floor | {"update": sum(floor[phase] for phase in WHOLE)}
    for row in spent:
        row["rest"] = row["update"] - sum(row[phase] for phase in WHOLE)
    lines = ["| phase | ms | tokens/s | floor, ms | × floor | share |", "|---|---|---|---|---|---|"]
    for phase in [*PHASES, "rest", "update"]:
        seconds = median(row.get(phase, 0.0) for row in spent)
        least = floor[phase] / rate if phase in floor else None
        cells = ("", "") if least is None else (f"{1e3 * least:.1f}", f"{seconds / least:.1f}")
        share = seconds / median(row["update"] for row in spent)
        speed = "" if phase == "rest" else f"{(answered if phase == 'sampling' else tokens) / seconds:.0f}"
        lines.append(f"| {phase.replace('  ', '&nbsp;&nbsp;')} | {1e3 * seconds:.1f} | {speed} | {cells[0]} | {cells[1]} | {share:.0%} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--work", type=Path, help="what an earlier `side_ablate.py prepare` wrote; the sizes are then its own")
    parser.add_argument("--cache", default=str(CACHE), help="where the stages are kept")
    parser.add_argument("--settings", nargs="+", metavar="setting=value", help="a run of these settings in place of the sizes")
    return parser.parse_args()


def work_of(options: argparse.Namespace, place: Path) -> dict:
    """The work of `bench.py`, prepared in `place` unless --work names it."""
    if options.work is None:
        flags = {name.replace("_", "-"): getattr(options, name) for name in (*SIZES, "cache", "device", "precision")} | {"seed": 0}
        arguments = [text for name, value in flags.items() if value is not None for text in (f"--{name}", str(value))]
        subprocess.run([sys.executable, Path(__file__).with_name("side_ablate.py"), "prepare", place, *arguments], check=True)
    return json.loads((options.work or place).read_text())


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        if options.settings:
            skip, name = options.skip, " ".join(options.settings)
            config = described_config(options.settings, skip + options.updates + 1, folder)
        else:
            work = work_of(options, Path(folder) / "work.json")
            skip, name = work["skip"], f"{work['layers']} layers × {work['width']}, {work['device']}, {work['precision']}"
            config = measured_config(work, folder)
        spent, known = measure(config, skip)
    gigaflop = sum(known["floor"][phase] for phase in WHOLE) / 1e9
    print(f"{name}: {known['tokens']:.0f} real tokens an update,")
    print(f"{gigaflop:.1f} GFLOP at {known['rate'] / 1e9:.0f} GFLOP/s\n")
    print(table(spent, **known))


if __name__ == "__main__":
    main()
