"""This core's side of the benchmark. Run by `bench.py` with an interpreter that finds the `ablate` to be measured.

    side_ablate.py prepare WORK --cache DIR [--layers N --width N ...]   build the stages and write the work to be done
    side_ablate.py run WORK                                              do it; the last line printed is one JSON object

WORK is a JSON file both sides read: folders of the SFT and reward models, token ids of the prompts of every update, sizes.
The measured configuration is the preset PPO-max with learning rates 0 (so that lengths cannot drift), without critic
pre-training. Metrics go to a run folder as in any run, with every monitor on; no evaluation and no checkpoint falls
into the measured updates, and wandb is off.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch

import ablate
from ablate.config import Config
from ablate.data.source import open_source
from ablate.models.forward import log_softmax, response_logits, score_shift, sequence_score
from ablate.models.load import load_scorer, load_tokenizer
from ablate.ppo.rollout import encode_prompts, encode_turns
from ablate.runs.checkpoint import load_weights
from ablate.runs.folder import run_folder
from ablate.runs.store import RunStore
from ablate.session import execute, prepare
from ablate.system.seeding import numpy_generator

CHECKED_ROWS = 8  # prompts on which both sides report log-probs, scores and values


class Stopwatch:
    """Notes wall and CPU seconds whenever a run has appended a row to metrics.jsonl: at the start, and at the end of every update.

    A GPU is waited for first.
    """

    def __init__(self, device: str):
        self.wall: list[float] = []
        self.cpu: list[float] = []
        append = RunStore.append

        def noted(store: RunStore, stream: str, rows) -> None:
            append(store, stream, rows)
            if stream == "metrics.jsonl":
                if device == "cuda":
                    torch.cuda.synchronize()
                self.wall.append(time.perf_counter())
                self.cpu.append(time.process_time())

        RunStore.append = noted


def write_work(options: argparse.Namespace) -> None:
    """Build the stages of the default pipeline (or find them in the cache) and write down what both sides shall do."""
    config = Config(cache=str(options.cache), device=options.device, seed=options.seed)
    model = config.model
    model.layers, model.hidden_size = options.layers, options.width
    model.intermediate_size = options.mlp or 2 * options.width
    model.heads = max(4, options.width // 64)
    if options.stage_steps is not None:
        config.pretrain.steps = config.sft.steps = config.reward_model.steps = options.stage_steps
        config.preferences.pairs = config.preferences.held_out_pairs = max(4 * options.stage_steps, 64)
    stages = prepare(config)
    tokenizer, source = load_tokenizer(stages.sft), open_source(config)
    measured = range(1, options.skip + options.updates + 1)
    drawn = [source.prompts(options.batch, numpy_generator(config.seed, "rollout prompts", number)) for number in measured]
    work = {
        "sft": str(stages.sft),
        "preferences": str(stages.preferences),
        "reward_model": str(stages.reward_model),
        "prompts": [encode_turns(tokenizer, [prompt.turns for prompt in prompts]) for prompts in drawn],
        "check": [prompt.text for prompt in drawn[0][:CHECKED_ROWS]],
        "layers": options.layers,
        "width": options.width,
        "batch": options.batch,
        "minibatch": options.minibatch,
        "max_new_tokens": options.max_new_tokens,
        "updates": options.updates,
        "skip": options.skip,
        "seed": options.seed,
        "device": options.device,
        "precision": options.precision,
    }
    Path(options.work).write_text(json.dumps(work))


def measured_config(work: dict, results: str) -> Config:
    """PPO-max at learning rate 0; one update more than is measured, since the last is always evaluated."""
    config = Config(results=results, study="benchmark", arm="lr0", tracker="none", seed=work["seed"])
    config.device, config.precision = work["device"], work["precision"]
    updates = work["skip"] + work["updates"] + 1
    ppo = config.ppo
    ppo.updates, ppo.batch_size, ppo.epochs = updates, work["batch"], 1
    ppo.minibatch_size = ppo.micro_batch_size = work["minibatch"]
    ppo.learning_rate = ppo.critic_learning_rate = 0.0
    ppo.critic_pretrain = False
    config.sampling.max_new_tokens = work["max_new_tokens"]
    config.evaluation.every, config.evaluation.prompts = updates + 1, 2
    config.checkpoint.every = 0
    config.pretrain.path = config.sft.path = work["sft"]
    config.preferences.path, config.reward_model.path = work["preferences"], work["reward_model"]
    return config


def run(work: dict) -> dict:
    """Train and report seconds of every measured update, what was sampled, peak memory, and the numbers of the check."""
    clock = Stopwatch(work["device"])
    with tempfile.TemporaryDirectory() as results:
        config = measured_config(work, results)
        execute(config)
        memory = peak_megabytes(work["device"])
        folder = run_folder(config)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        numbers = check(folder / "checkpoints" / str(config.ppo.updates), work)
    first, last = work["skip"], work["skip"] + work["updates"]  # row 0 is the start, row n the end of update n
    rows = rows[first + 1 : last + 1]
    shift = score_shift(load_scorer(work["reward_model"], torch.device("cpu")))
    return {
        "wall": [b - a for a, b in zip(clock.wall[first:last], clock.wall[first + 1 : last + 1], strict=True)],
        "cpu": [b - a for a, b in zip(clock.cpu[first:last], clock.cpu[first + 1 : last + 1], strict=True)],
        "tokens": sum(row["monitor/response_length"] for row in rows) / len(rows),
        "score": sum(row["reward/proxy_mean"] for row in rows) / len(rows) + shift,
        "memory_mb": memory,
        "batch": work["batch"],
        "code": str(Path(ablate.__file__).parent),
        "check": numbers,
    }


def peak_megabytes(device: str) -> float:
    """Greatest memory so far: of the process, or on a GPU of its tensors."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def check(checkpoint: Path, work: dict) -> dict[str, list[float]]:
    """Log-probs of some prompts under the trained policy, and uncentred score and value of each by reward model and trained critic."""
    policy, critic = load_weights(checkpoint, torch.device("cpu"))
    reward = load_scorer(work["reward_model"], torch.device("cpu"))
    prompts = encode_prompts(load_tokenizer(work["sft"]), work["check"], torch.device("cpu"))
    tokens, attention = prompts.tokens, prompts.attention
    mask = attention[:, 1:] & attention[:, :-1]
    log_probs = log_softmax(response_logits(policy, tokens, attention, mask), 1.0)
    chosen = log_probs.gather(1, tokens[:, 1:][mask][:, None]).squeeze(1)
    return {
        "logprob": torch.zeros(mask.shape).masked_scatter(mask, chosen).sum(1).tolist(),
        "score": (sequence_score(reward, tokens, attention) + score_shift(reward)).tolist(),
        "value": (sequence_score(critic, tokens, attention) + score_shift(critic)).tolist(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("work")
    prepare_parser = commands.add_parser("prepare")
    prepare_parser.add_argument("work")
    prepare_parser.add_argument("--cache", required=True)
    for name in ("layers", "width", "batch", "minibatch", "max-new-tokens", "updates", "skip", "seed"):
        prepare_parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("mlp", "stage-steps"):
        prepare_parser.add_argument(f"--{name}", type=int)
    prepare_parser.add_argument("--device", default="cpu")
    prepare_parser.add_argument("--precision", default="fp32")
    return parser.parse_args()


if __name__ == "__main__":
    options = parse()
    if options.command == "prepare":
        write_work(options)
    else:
        print(json.dumps(run(json.loads(Path(options.work).read_text()))))
