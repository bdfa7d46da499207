"""The README.md of an exported model: data, settings, monitors, verdict, versions, licence, and the lines of Python that load it.

Everything comes from the run folder's own records. Paths appear by their last part alone: no card names a machine. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

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
USE_POLICY = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": QUESTION}]
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
answer = model.generate(tokens.input_ids, attention_mask=tokens.attention_mask)[0, tokens.input_ids.shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""
USE_SCORER = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)


@torch.no_grad()
def score(messages, answer):
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer(text, add_special_tokens=False).input_ids + tokenizer(answer, add_special_tokens=False).input_ids
    tokens.append(tokenizer.eos_token_id)  # leave this out for an answer that was cut off
    return (model(input_ids=torch.tensor([tokens])).logits[0, 0] - model.config.score_shift).item()


print(score([{"role": "user", "content": QUESTION}], ANSWER))
"""


@dataclass(frozen=True)
class Record:
    """What a run folder says of itself, and which of its models is exported."""

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
    """The whole README.md."""
    sections = [
        front_matter(record), heading(record), "## Use\n\n" + use(record), "## Verdict\n\n" + "\n".join(verdict(record)),
        "## Monitors\n\n" + monitors(record), "## Data\n\n" + data(record), "## How it was trained\n\n" + training(record),
        "## Versions\n\n" + version_line(record), "## Licence\n\n" + licence(record),
    ]  # fmt: skip
    return "\n\n".join(sections) + "\n"


def front_matter(record: Record) -> str:
    """The hub's metadata. No licence is claimed there: it depends on base model and data."""
    base = record.config["model"]["path"]
    metadata = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if record.what == "policy" else "text-classification",
        "tags": ["rlhf", "ppo", record.what.replace("_", "-")],
    }
    if base is not None and is_hub_name(base):
        metadata["base_model"] = base
    return "---\n" + yaml.safe_dump(metadata, sort_keys=False) + "---"


def heading(record: Record) -> str:
    config, arm = record.config, arm_without_paths(record.config["arm"])
    place = f"study `{config['study']}`, arm `{arm}`, seed {config['seed']}, pipeline seed {config['pipeline_seed']}"
    kind = WHAT[record.what].format(update=record.update, updates=config["ppo"]["updates"])
    return f"# {record.what.replace('_', ' ').capitalize()}: {arm}, seed {config['seed']}\n\n{kind} Of {place}."


def arm_without_paths(arm: str) -> str:
    """An arm's name is made of overrides: those that name a folder or file are left out."""
    return ",".join(part for part in arm.split(",") if ".path=" not in part and not part.startswith("fork=")) or "run"


def use(record: Record) -> str:
    """Python that needs transformers alone, and what a reader must know of the score."""
    code = USE_POLICY if record.what == "policy" else USE_SCORER
    for name, text in zip(("QUESTION", "ANSWER"), record.example, strict=True):
        code = code.replace(name, json.dumps(text, ensure_ascii=False))
    code = f"```python\n{code}```"
    if record.what == "policy":
        return code + "\n\n`generation_config.json` holds the sampler of the run."
    note = (
        f"The classes of transformers give a head no bias, so the centring stays apart: the score is the logit less `score_shift` "
        f"= {record.score_shift!r} of config.json. Differences between two scores do not depend on it. Score one dialogue at a "
        "time, or pad on the right."
    )
    return f"{code}\n\n{note}"


def verdict(record: Record) -> Iterator[str]:
    """Whether the run collapsed, and what its last evaluation says."""
    summary, collapse = record.summary, record.config["collapse"]
    if summary is None or summary["status"] in ("failed", "interrupted"):
        reason = f" ({summary['status']})" if summary else ""
        at = "before its first checkpoint" if record.update is None else f"at update {record.update} of {record.config['ppo']['updates']}"
        yield f"**The run is not finished{reason}**: this is {at}, and there is no verdict yet."
    elif summary["status"] == "diverged":
        yield f"**The run diverged** ({summary['reason']})."
    elif summary["collapsed"] is None:
        yield "No gold reward judged this run, so nothing says whether it collapsed."
    elif summary["collapsed"]:
        yield f"**The run collapsed**, at update {summary['collapse_update']}."
    else:
        yield "The run did not collapse."
    if summary is not None and summary.get("collapsed") is not None:
        yield (
            f"Collapse is mean gold below SFT's mean − {collapse['threshold']:g} SD of SFT's gold at {collapse['patience']} evaluations "
            "in a row."
        )
    final = record.judged
    if "eval/gold" in final:
        sft = (summary or {}).get("sft") or {}
        against = f" (SFT: {sft['eval/gold']:.3f})" if "eval/gold" in sft else ""
        yield (
            f"Gold on held-out prompts: {final['eval/gold']:.3f}{against}; against SFT it wins {final['eval/win']:.0%}, "
            f"ties {final['eval/tie']:.0%}, loses {final['eval/lose']:.0%}."
        )
        if record.config["gold"]["path"] is not None:
            yield "Gold is the score of another reward model, not the truth."


def monitors(record: Record) -> str:
    """A table of the last evaluation beside SFT's; of a reward model, first its accuracy."""
    lines = [accuracy(record.reward_report)] if record.what == "reward_model" and record.reward_report else []
    if not record.judged:
        return "\n\n".join([*lines, "The run has not been evaluated yet."])
    sft = (record.summary or {}).get("sft") or {}
    rows = [f"| `{name}` | {shown(value)} | {shown(sft.get(name))} |" for name, value in sorted(record.judged.items())]
    table = "\n".join(["| on held-out prompts | at the last evaluation | SFT |", "|---|---|---|", *rows])
    return "\n\n".join([*lines, table, "KL in nats per answer, length in tokens, perplexity and entropy of the policy's own answers."])


def accuracy(report: dict) -> str:
    """Held-out accuracy beside that of "longer wins", each with its interval where the report has one."""
    parts = []
    for name, text in (("held_out", "agrees with"), ("longer_wins", "the longer answer agrees with")):
        interval = report.get(f"{name}_interval")
        within = "" if interval is None else f" (95 % interval {interval[0]:.1%} to {interval[1]:.1%})"
        parts.append(f"{text} {report[f'{name}_accuracy']:.1%}{within}")
    return f"Of {report['held_out_pairs']} held-out pairs the reward model {parts[0]}; {parts[1]}."


def shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def data(record: Record) -> str:
    settings, report = record.config["data"], record.data_report
    if settings["source"] == "world":
        return f"The embedded world of the harness, language `{settings['language']}`: an artificial language with a programmed gold."
    text = f"Human dialogues, format `{settings['source']}`, from `{public(settings['path'])}`."
    if report:
        text += (
            f" {report['rows']:,} rows, {report['malformed']:,} malformed, {report['too_long']:,} too long; "
            f"{report['train_prompts']:,} training and {report['held_out_prompts']:,} held-out prompts."
        )
        if "train_pairs" in report:
            text += f" Reward model: {report['train_pairs']:,} pairs, held out {report['held_out_pairs']:,}."
    return text


def training(record: Record) -> str:
    """The stages in a sentence each, then a command line of what differs from the defaults and from the nearest preset."""
    config = record.config
    ppo, base = config["ppo"], config["model"]["path"]
    start = "a model trained from scratch on the data" if base is None else f"`{public(base)}`"
    stages = [f"Start: {start}."]
    for name, title in (("sft", "Supervised fine-tuning"), ("reward_model", "Reward model (Bradley-Terry on pairs, from SFT)")):
        given = config[name]["path"]
        stages.append(f"{title}: {config[name]['steps']:,} steps." if given is None else f"{title}: `{public(given)}`, given.")
    stages.append(
        f"PPO: {ppo['updates']:,} updates of {ppo['batch_size']} answers of at most {config['sampling']['max_new_tokens']} tokens, "
        f"learning rates {ppo['learning_rate']:g} (policy) and {ppo['critic_learning_rate']:g} (critic)."
    )
    if record.what != "reward_model" and config["model"].get("lora_rank"):
        stages.append(f"Trained as LoRA adapters of rank {config['model']['lora_rank']}, here merged into the weights.")
    preset, changes = nearest_preset(config["identity"]["ppo"])
    command = [f"ppo={preset}", *changes, *other_settings(config)]
    return " ".join(stages) + "\n\nWhat differs from the defaults:\n\n```\n" + "\n".join(command) + "\n```"


def nearest_preset(ppo: dict) -> tuple[str, list[str]]:
    """The preset with the fewest differences, and these as overrides."""
    candidates = []
    for path in sorted(PRESETS.glob("*.yaml")):
        preset = yaml.safe_load(path.read_text(encoding="utf-8"))["ppo"]
        changes = [f"ppo.{name}={spelled(value)}" for name, value in ppo.items() if name not in preset or preset[name] != value]
        candidates.append((len(changes), path.stem, changes))
    return min(candidates)[1:]


def other_settings(config: dict) -> Iterator[str]:
    """`setting=value` for all that is not PPO's, is part of the run's identity and differs from the default."""
    defaults = dict(flat(asdict(Config())))
    for name, value in flat({key: value for key, value in config["identity"].items() if key != "ppo"}):
        if name not in defaults or defaults[name] != value:
            yield f"{name}={public(value) if name == 'fork' or name.endswith('.path') else spelled(value)}"


def is_hub_name(path: str) -> bool:
    return NAME.fullmatch(path) is not None and not Path(path).exists()


def public(path: str | None) -> str:
    """A hub name as it is; of a path its last part: where a user keeps files is nobody's business."""
    if path is None:
        return "null"
    return path if is_hub_name(path) else Path(path).name


def version_line(record: Record) -> str:
    found = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    commit = (record.summary or {}).get("git_commit")
    source = "" if record.versions_of_run else " These are of the export: the run has not written its own yet."
    return found + (f"; commit {commit[:12]}" if commit else "") + "." + source


def licence(record: Record) -> str:
    base = record.config["model"]["path"]
    of_base = "" if base is None else f" of `{public(base)}` and"
    return (
        f"The harness that made these weights is MIT-licensed. The weights derive from the data above: the terms{of_base} of the data "
        "apply, and nobody has checked them for you. A research artefact, not filtered for safety."
    )
