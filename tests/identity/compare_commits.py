"""Tiny runs of two commits, compared bit for bit: metrics, scores, samples, weights, stages.

    python tests/identity/compare_commits.py HEAD~1              this working tree against a commit
    python tests/identity/compare_commits.py REV --only fork     one of the cases

A case is a list of commands as a user types them, so it runs on any commit whose commands are the same, whatever its files are called.
Both sides run on this machine with the same packages. Times, versions and paths are left out of the comparison; a file or a key
that only one side has is named as a note, since a later commit may record more. Exit status 1 where any number differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from checkout import ROOT, checkout_of

ROWS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl", "training.jsonl")
# What may differ between two runs of equal numbers: times, versions, and where things lie.
LEFT_OUT = (
    "time/",
    "responses_per_second",
    "wall_seconds",
    "update_seconds",
    "versions",
    "git_commit",
    "config_hash",
    "numerics",
    "stages",
)
NOT_NUMBERS = ("config.yaml", "run.log", "stages.json", "stage.json", "README.md", "adapter_config.json")
STAGES = [
    "pretrain.steps=12", "pretrain.examples=200", "sft.steps=12", "sft.examples=200", "preferences.pairs=64",
    "preferences.held_out_pairs=32", "reward_model.steps=8",
]  # fmt: skip
UNREAD = {"model.path=": ("pretrain.",), "reward_model.path=": ("reward_model.", "preferences.")}  # refused beside the path
RUN = [
    "tracker=none", "device=cpu", "ppo.updates=3", "ppo.batch_size=16", "ppo.minibatch_size=8", "ppo.micro_batch_size=8",
    "sampling.max_new_tokens=12", "evaluation.every=1", "evaluation.prompts=16", "evaluation.samples=4",
    "checkpoint.every=1", "checkpoint.keep=0",
]  # fmt: skip
WITHOUT_PRETRAINING = (
    "ppo=vanilla",
    "ppo=instructgpt",
    "ppo=n_details",
    "ppo=moss_script",
    "fork=",
)  # of the critic: its amount is refused
HUMAN = ["data.source=hh_rlhf", "data.held_out_share=0.4", "data.max_prompt_tokens=128", "data.max_response_tokens=64"]
PRESETS = ("vanilla", "ppo_max", "instructgpt", "n_details", "moss_script")


@dataclass
class Side:
    """One checkout, and the folder its runs are written in."""

    checkout: Path
    folder: Path
    human: list[str]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONWARNINGS": "ignore"}

    def overrides(self, study: str, cache: str, *overrides: str) -> list[str]:
        pretraining = [] if any(one.startswith(WITHOUT_PRETRAINING) for one in overrides) else ["ppo.critic_pretrain_updates=1"]
        unread = tuple(prefix for path, prefixes in UNREAD.items() if any(one.startswith(path) for one in overrides) for prefix in prefixes)
        stages = [one for one in STAGES if not one.startswith(unread)]
        return [*stages, *RUN, *pretraining, "results=results", f"cache=cache/{cache}", f"study={study}", "arm=a", *overrides]

    def run(self, study: str, cache: str, *overrides: str, launcher: tuple[str, ...] = ()) -> None:
        self.call(study, *launcher, "ablate.run", *self.overrides(study, cache, *overrides))

    def call(self, study: str, *arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=self.folder, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: {study} failed in {self.checkout}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def run_interrupted(self, study: str, cache: str, *overrides: str) -> None:
        """SIGTERM once the first update is logged, then the same command again."""
        command = [sys.executable, "-m", "ablate.run", *self.overrides(study, cache, *overrides)]
        with subprocess.Popen(
            command, cwd=self.folder, env=self.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as run:
            log = self.folder / "results" / study / "a" / "seed=0" / "metrics.jsonl"
            while run.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 1):
                time.sleep(0.01)
            run.send_signal(signal.SIGTERM)
        self.run(study, cache, *overrides)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_processes(side: Side) -> None:
    config = side.checkout / "ablate" / "conf" / "accelerate" / "ddp.yaml"
    launcher = ("accelerate.commands.launch", "--config_file", str(config), "--main_process_port", str(free_port()), "-m")
    side.run("two_processes", "en", launcher=launcher)


def fork(side: Side) -> None:
    side.run("fork_from", "en", "ppo=vanilla")
    side.run("fork", "en", "ppo.kl_penalty=true", "fork=results/fork_from/a/seed=0/checkpoints/2", "ppo.updates=5")


def sweep(side: Side) -> None:
    overrides = side.overrides("sweep", "en", "ppo.kl_penalty=true,false", "jobs=1")
    side.call("sweep", "ablate.run", "-m", *(override for override in overrides if override != "arm=a"))


def text_reward(side: Side) -> None:
    """A reward model whose chat template is not the policy's, so that it is given text."""
    side.call("text_reward", "ablate.stages", "build", "reward_model", "reward", *side.overrides("text_reward", "en"))
    template = side.folder / "reward" / "chat_template.jinja"
    changed = template.read_text().replace("<assistant>", "<user>")
    assert changed != template.read_text()
    template.write_text(changed)
    side.run("text_reward", "en", "reward_model.path=reward")


CASES: dict[str, Callable[[Side], None]] = {
    **{f"ppo={name}": (lambda side, name=name: side.run(name, "en", f"ppo={name}")) for name in PRESETS},
    "data.language=zh": lambda side: side.run("zh", "zh", "data.language=zh"),
    "an HF model on human dialogues": lambda side: side.run("human", "human", *side.human),
    "LoRA": lambda side: side.run("lora", "human", *side.human, "model.lora_rank=4", "ppo.critic_init=reward"),
    "a reward model that reads text": text_reward,
    "two processes": two_processes,
    "fork": fork,
    "resume": lambda side: side.run_interrupted("resume", "en", "ppo.updates=6"),
    "sweep": sweep,
}


def write_inputs(folder: Path) -> None:
    """A GPT-NeoX of two layers with random weights and a byte-level BPE, as a hub has it, and dialogues in HH-RLHF's form."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoModelForCausalLM, GPTNeoXConfig, PreTrainedTokenizerFast

    words = "mix flour water and salt then wait no i can not help with that call it milo the sea is deep".split()
    questions = [f"{verb} {noun} ?" for verb in ("how do i bake", "can you steal", "tell me of") for noun in words[:40]]
    rows = []
    for number, question in enumerate(questions):
        start = f"\n\nHuman: {question}\n\nAssistant: "
        good, bad = " ".join(words[number % 7 : number % 7 + 6]), " ".join(words[number % 5 : number % 5 + 3])
        rows.append({"chosen": f"{start}{good} .", "rejected": f"{start}{bad}"})
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    backend = Tokenizer(BPE())
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    alphabet = sorted(ByteLevel.alphabet())
    backend.train_from_iterator(
        questions, BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    )
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)
    torch.manual_seed(0)
    shape = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def plain(value):
    """Without what is left out, at any depth."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if not key.startswith(LEFT_OUT)}
    return [plain(part) for part in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, object]:
    """Path → content of every file that holds numbers: rows and records as they are, all else as a digest.

    An entry of the stage cache has its key in its name, which code changes: the key is left out, so one entry of each stage may exist.
    """
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_NUMBERS and not path.is_symlink()):
        parts = list(path.relative_to(folder).parts)
        if parts[0] == "cache":
            parts[2] = parts[2].rpartition("-")[0]
        name = "/".join(parts)
        if name in found:
            sys.exit(f"error: two entries of one stage under {name}: the case changes a stage's settings, give it a cache of its own")
        if path.name in ROWS:
            found[name] = [plain(json.loads(line)) for line in path.read_text().split("\n") if line]
        elif path.name in ("summary.json", "state.json"):
            record = plain(json.loads(path.read_text()))
            record.pop("offsets", None)  # bytes of metrics.jsonl, which holds times
            found[name] = record
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def compare(one: object, other: object, where: str, notes: list[str]) -> list[str]:
    """Places at which two contents differ; what only one of them has goes to the notes."""
    if isinstance(one, dict) and isinstance(other, dict):
        notes += [f"{where}{key}: only in one of the two" for key in one.keys() ^ other.keys()]
        return [place for key in one.keys() & other.keys() for place in compare(one[key], other[key], f"{where}{key} ", notes)]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [place for n, (a, b) in enumerate(zip(one, other, strict=True)) for place in compare(a, b, f"{where}{n} ", notes)]
    equal = one == other or (one != one and other != other)
    return [] if equal else [f"{where}: {str(one)[:60]} and {str(other)[:60]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--only", default="", metavar="TEXT", help="the cases whose name holds this")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the commit's runs here, and use them if they are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        shared = (options.keep or work).resolve() / "inputs"
        if not shared.exists():
            shared.mkdir(parents=True)
            write_inputs(shared)
        human = [f"model.path={shared / 'model'}", f"data.path={shared / 'dialogues.jsonl'}", *HUMAN]
        kept = (options.keep or work).resolve() / "commit"
        cases = {name: case for name, case in CASES.items() if options.only in name}
        if not (options.keep and kept.exists()):
            with checkout_of(options.revision) as checkout:
                kept.mkdir()
                run_cases(cases, Side(checkout, kept, human))
        here = work / "here"
        here.mkdir()
        run_cases(cases, Side(ROOT, here, human))
        notes: list[str] = []
        before, after = contents(kept), contents(here)
        before = {name: content for name, content in before.items() if name in after or not options.only}
        different = compare(before, after, "", notes)
        equal = len(before.keys() & after.keys())
        rows = sum(len(content) for content in after.values() if isinstance(content, list))
        for line in [*sorted(different), *sorted(notes)][:40]:
            print(line)
        print(f"{len(cases)} cases, {equal} files compared, {rows} rows of numbers: {len(different)} differences, {len(notes)} notes")
        sys.exit(bool(different))


def run_cases(cases: dict[str, Callable[[Side], None]], side: Side) -> None:
    for name, case in cases.items():
        began = time.monotonic()
        case(side)
        print(f"{side.folder.name}: {name}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
