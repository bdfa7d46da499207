"""What an exported model is made from: a run's settings, its checkpoint and its stages. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ablate.errors import UserError
from ablate.runs.folder import checkpoint_folder, checkpoints, config_of, read_config
from ablate.runs.summary import read_summary
from ablate.system.reading import read_object


@dataclass(frozen=True)
class Origin:
    """The records of a run folder, and the folders that hold the weights."""

    config: dict  # config.yaml
    summary: dict | None  # summary.json; none while the run goes on
    checkpoint: Path | None  # none for the reward model of a run without any
    stages: dict[str, Path]  # those that the model needs: `sft`, `reward_model`


def find_origin(run: Path, to: Path, what: str, checkpoint: int | None) -> Origin:
    """Where the policy, reward model or critic (`what`) of a run folder lies. Raises UserError, also where `to` may not be written."""
    config = read_config(run)
    if config is None:
        raise UserError(f"{run} is not a run folder (no config.yaml): name a folder results/<study>/<arm>/seed=<n>")
    config_of(run)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists and is not empty: name another folder with --to")
    summary = read_summary(run)
    if what == "reward_model" and checkpoint is not None:
        raise UserError("--checkpoint chooses a policy or a critic; a run has one reward model: leave it out")
    estimator = config["ppo"].get("advantage_estimator", "gae")
    if what == "critic" and estimator != "gae":
        raise UserError(f"{run} has no critic, since its ppo.advantage_estimator={estimator} needs none: export the policy")
    place = chosen_checkpoint(run, checkpoint, summary) if what != "reward_model" or (run / "checkpoints").is_dir() else None
    adapted = ["sft"] if what == "policy" else ["sft", "reward_model"]
    needed = ["reward_model"] if what == "reward_model" else adapted if config["model"].get("lora_rank") else []
    return Origin(config, summary, place, {stage: stage_folder(run, stage) for stage in needed})


def chosen_checkpoint(run: Path, update: int | None, summary: dict | None) -> Path:
    """The folder of the checkpoint of `update`, or of the newest. Raises UserError where there is none."""
    known = checkpoints(run)
    if not known:
        origin = (summary or {}).get("taken_from")
        remedy = f"this run was taken over from {origin}, export that one" if origin else "wait for the first one, or run it again"
        raise UserError(f"{run} has no checkpoint: {remedy}")
    if update is not None and update not in known:
        raise UserError(f"{run} has no checkpoint of update {update}: name one of {', '.join(map(str, known))} with --checkpoint")
    return checkpoint_folder(run, known[-1] if update is None else update)


def stage_folder(run: Path, stage: str) -> Path:
    """The folder of a stage (`sft` or `reward_model`), as stages.json of the run names it. Raises UserError where it is missing."""
    try:
        folder = Path(read_object(run / "stages.json")[stage])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run} does not say where its {stage} lies (no readable stages.json): run it again") from error
    if not folder.is_dir():
        raise UserError(f"the {stage} of {run} is no longer in {folder}: run it again to build it")
    return folder
