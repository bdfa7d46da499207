"""The README.md of an exported model: how to load it, verdict, monitors, data, settings, versions and licence.

Everything comes from the run folder's own records, laid out by card.md.jinja. Only the last part of a path is shown, so that no card names
a machine. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ablate.config import Config
from ablate.models.hub import NAME
from ablate.settings.fields import flat, spelled
from ablate.settings.groups import CONF

PRESETS = CONF / "ppo"
WHAT = {
    "policy": "The policy after update {update} of {updates}: a causal language model.",
    "reward_model": "The reward model that the run's policy was trained on: a sequence classifier with one label.",
    "critic": "The critic (value model) after update {update} of {updates}: a sequence classifier with one label, read at every token.",
}


@dataclass(frozen=True)
class Record:
    """What the card is written from: the records of a run folder, and which of its models is exported."""

    what: str  # policy, reward_model or critic
    config: dict  # config.yaml
    summary: dict | None  # summary.json; none while the run goes on
    update: int | None  # of the checkpoint; none where there is none yet
    judged: dict[str, float]  # every monitor of the last evaluation before the checkpoint
    reward_report: dict  # reward_model/report.json, or empty
    data_report: dict  # preferences/report.json, or empty
    versions: dict[str, str]
    versions_of_run: bool  # else of the export: the run has no summary
    score_shift: float  # of a scorer; 0 for a policy
    example: tuple[str, str]  # a question and an answer in words that the tokenizer knows


def card(record: Record) -> str:
    """The whole README.md, in Markdown."""
    config, summary = record.config, record.summary or {}
    updates = config["ppo"]["updates"]
    preset, changes = nearest_preset(config["identity"]["ppo"])
    # Markdown is plain text: the escapes of HTML would be read as they stand.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    templates.filters |= {"formatted": format, "literal": python_literal, "public": public, "inline": inline}
    return templates.get_template("card.md.jinja").render(
        what=record.what, config=config, summary=record.summary, final=record.judged, sft=summary.get("sft") or {},
        metadata=front_matter(record), arm=inline(arm_without_paths(config["arm"])), study=inline(config["study"]),
        description=WHAT[record.what].format(update=record.update, updates=updates),
        place="before its first checkpoint" if record.update is None else f"at update {record.update} of {updates}",
        question=record.example[0], answer=record.example[1], score_shift=repr(record.score_shift),
        reward_report=record.reward_report, data_report=record.data_report, accuracy=accuracy, number=number,
        overrides=[inline(text) for text in (f"ppo={preset}", *changes, *other_settings(config))],
        commit=summary.get("git_commit"), versions=record.versions, versions_of_run=record.versions_of_run,
    )  # fmt: skip


def python_literal(text: str) -> str:
    """The text as a string of Python on one line, without a backtick, which could end the block of code that it stands in."""
    return json.dumps(text).replace("`", "\\u0060")


def inline(text: str) -> str:
    """A name or setting as Markdown shows it, also between backticks: without what could end the code, a line or a tag."""
    return " ".join(text.replace("`", "´").replace("<", "‹").split())


def front_matter(record: Record) -> str:
    """The hub's metadata as YAML. It names no licence, because that depends on the base model and the data."""
    base = record.config["model"]["path"]
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if record.what == "policy" else "text-classification",
        "tags": ["rlhf", "ppo", record.what.replace("_", "-")],
    }
    if base is not None and is_hub_name(base):
        metadata["base_model"] = base
    return yaml.safe_dump(metadata, sort_keys=False)


def arm_without_paths(arm: str) -> str:
    """The arm's name without the overrides that name a folder or a file; `run` where none is left."""
    return ",".join(part for part in arm.split(",") if ".path=" not in part and not part.startswith("fork=")) or "run"


def accuracy(report: dict, name: str) -> str:
    """A share of the held-out pairs, with its interval where the report has one: `71.3 % (95 % interval 69.0 % to 73.5 %)`."""
    interval = report.get(f"{name}_interval")
    within = "" if interval is None else f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})"
    return f"{report[f'{name}_accuracy']:.1%}{within}"


def number(value: float | None) -> str:
    """Four digits, or a dash where there is no value."""
    return "–" if value is None else f"{value:.4g}"


def nearest_preset(ppo: dict) -> tuple[str, list[str]]:
    """(the preset with the fewest differences, these differences as overrides)."""
    candidates = []
    for path in sorted(PRESETS.glob("*.yaml")):
        preset = yaml.safe_load(path.read_text(encoding="utf-8"))["ppo"]
        changes = [f"ppo.{name}={spelled(value)}" for name, value in ppo.items() if name not in preset or preset[name] != value]
        candidates.append((len(changes), path.stem, changes))
    return min(candidates)[1:]


def other_settings(config: dict) -> Iterator[str]:
    """`setting=value` for every setting outside `ppo` that is part of the run's identity and differs from its default."""
    defaults = dict(flat(asdict(Config())))
    for name, value in flat({key: value for key, value in config["identity"].items() if key != "ppo"}):
        if name not in defaults or defaults[name] != value:
            yield f"{name}={public(value) if name == 'fork' or name.endswith('.path') else spelled(value)}"


def is_hub_name(path: str) -> bool:
    """Whether the path names a model on the hub rather than a folder here."""
    return NAME.fullmatch(path) is not None and not Path(path).exists()


def public(path: str | None) -> str:
    """A hub name in full, and only the last part of a path, since a card must not tell where its author keeps files."""
    if path is None:
        return "null"
    return path if is_hub_name(path) else inline(Path(path).name)
