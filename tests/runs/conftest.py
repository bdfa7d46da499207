"""Tiny runs in processes of their own, and how two run folders are compared bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ablate.config import Config

APART = ("time/", "responses_per_second", "wall_seconds", "git_commit")  # somebody may commit between two runs of a test
STREAMS = ("metrics.jsonl", "scores.jsonl", "samples.jsonl", "tokens.jsonl")


@pytest.fixture(autouse=True)
def own_wandb_service(monkeypatch):
    """A run started here starts its own wandb service, as a user's does, and takes that with it when it is killed.

    A test that used wandb in this process has left its service's address in the environment.
    """
    monkeypatch.delenv("WANDB_SERVICE", raising=False)


@pytest.fixture(scope="session")
def make_config(stage_folders) -> Callable[..., Config]:
    """make_config(folder, *overrides) → a run of six updates from tiny models, kept under `folder`."""

    def make(folder: Path, *overrides: str) -> Config:
        paths = [f"{name}.path={path}" for name, path in stage_folders.items() if name != "pretrained"]
        tiny = [
            f"model.path={stage_folders['pretrained']}", *paths, f"results={folder / 'results'}", f"cache={folder / 'cache'}",
            "study=s", "arm=a", "tracker=none", "device=cpu", "ppo.updates=6", "ppo.batch_size=16", "ppo.minibatch_size=8",
            "ppo.micro_batch_size=8", "ppo.critic_pretrain_updates=1", "ppo.learning_rate=1e-3", "sampling.max_new_tokens=10",
            "evaluation.every=2", "evaluation.prompts=8", "evaluation.samples=3", "checkpoint.every=2",
        ]  # fmt: skip
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist([*tiny, *overrides])))

    return make


def timeless(row: dict) -> dict:
    return {key: value for key, value in row.items() if not key.startswith(APART)}


def numbers(folder: Path) -> dict:
    """Everything in a run folder that must be equal bits for equal settings; weights as bytes."""
    found = {}
    for name in STREAMS:
        found[name] = [timeless(json.loads(line)) for line in (folder / name).read_text().splitlines()]
    found["summary"] = timeless(json.loads((folder / "summary.json").read_text()))
    checkpoints = folder / "checkpoints"
    found["checkpoints"] = sorted(path.name for path in checkpoints.iterdir())
    newest = checkpoints / max(found["checkpoints"], key=int)
    for path in sorted(newest.rglob("*.safetensors")):
        found[str(path.relative_to(newest))] = path.read_bytes()
    return found


@pytest.fixture
def same_numbers() -> Callable[[Path, Path], None]:
    """Assert that two run folders hold the same numbers, naming the first that differs."""

    def check(one: Path, other: Path) -> None:
        first, second = numbers(one), numbers(other)
        assert first.keys() == second.keys()
        for name in first:
            assert first[name] == second[name], name

    return check
