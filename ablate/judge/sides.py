"""The sides that are judged, each with its answers to one run's held-out prompts: a policy, its SFT model, a third model, or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ablate.config import Config
from ablate.data.source import Prompt, Source, open_source
from ablate.errors import UserError
from ablate.models.folder import check_length
from ablate.models.hub import resolve
from ablate.models.load import load_policy, load_tokenizer
from ablate.models.lora import add_adapter, restore_adapter
from ablate.pipeline.build import Stages, build, choose_device
from ablate.ppo.evaluate import HeldOut
from ablate.ppo.rollout import decode_responses, encode_prompts, generate_responses
from ablate.runs.checkpoint import damaged
from ablate.runs.folder import checkpoints, config_of, read_rows
from ablate.runs.summary import read_summary
from ablate.system.jsonl import decoded, numbered_lines, to_lines
from ablate.system.seeding import torch_generator

POLICY, SFT = "policy", "sft"
LARGEST_FILE = 1 << 28  # bytes of a file of answers, which is read whole


@dataclass(frozen=True)
class Answers:
    """The answers of one side, one per prompt."""

    name: str  # short, for titles and file names
    source: dict  # what gave the answers, for the record
    responses: list[str]
    ended: list[bool]  # whether each response closed with the end-of-sequence token
    tokens: float | None = None  # mean length in the side's own tokens; None where it was not counted


@dataclass(frozen=True)
class Run:
    """A policy of a run folder, whether or not the run has finished."""

    folder: Path
    part: str | None  # `sft`, the number of an update, or None for the last checkpoint
    cache: str | None  # folder of built stages, where it is not the run's own

    @cached_property
    def config(self) -> Config:
        """The run's settings, without the held-out tasks, which no judgement uses. Raises UserError."""
        config = config_of(self.folder)
        config.evaluation = replace(config.evaluation, text_path=None, choices_path=None)
        config.cache = self.cache or config.cache
        return config

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.config)

    @cached_property
    def stages(self) -> Stages:
        """SFT and reward model from the cache; where they are missing they are built again. Raises UserError."""
        return build(self.config)

    @cached_property
    def update(self) -> int | None:
        """The update of the checkpoint; None for SFT. Raises UserError where there is no such checkpoint."""
        if self.part == SFT:
            return None
        known = checkpoints(self.folder)
        if not known:
            raise UserError(f"{self.folder} has no checkpoint: name the run that its summary says it was taken_from, or run again")
        if self.part is not None and int(self.part) not in known:
            raise UserError(
                f"{self.folder} has no checkpoint {self.part}: there are {', '.join(map(str, known))} (checkpoint.keep=0 keeps all)"
            )
        return known[-1] if self.part is None else int(self.part)

    @cached_property
    def model(self) -> Path:
        """The folder of the model that answers, or of its adapter. Raises UserError."""
        if self.update is None:
            return self.stages.sft
        folder = self.folder / "checkpoints" / str(self.update) / "policy"
        return folder if folder.is_dir() else damaged(folder.parent, "it has no policy")

    def policy(self) -> PreTrainedModel:
        """The model that answers; with LoRA, SFT with the adapter. Raises UserError."""
        if self.update is None or not self.config.model.lora_rank:
            return load_policy(self.model, self.device)
        generator = torch_generator(self.config.seed, "policy adapter")
        policy = add_adapter(load_policy(self.stages.sft, self.device), self.config.model, generator)
        restore_adapter(policy, self.model)
        return policy

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's tokenizer. An adapter's folder holds none, so with LoRA it is read from SFT, whose tokenizer is the same."""
        return load_tokenizer(self.stages.sft if self.config.model.lora_rank else self.model)

    def held_out(self) -> tuple[Source, HeldOut]:
        """The source of this run's data, and its held-out prompts with their sampling noise. Raises UserError."""
        tokenizer = self.tokenizer()
        source = open_source(self.config, tokenizer)
        return source, HeldOut.draw(self.config, source, tokenizer, self.device)

    def answers(self, host: Run, held_out: HeldOut) -> Answers:
        """This policy's answers to the held-out prompts of the run `host`, with that run's noise and sampling settings."""
        sampled = answer(self.policy(), self.tokenizer(), host.config, held_out)
        config, part = self.config, SFT if self.update is None else POLICY
        source = {"kind": "run", "part": part, "update": self.update, "study": config.study, "arm": config.arm, "seed": config.seed}
        return Answers(part if self.folder == host.folder else f"{config.arm} seed={config.seed} {part}", source, *sampled)


@dataclass(frozen=True)
class Model:
    """A third causal LM, from a Hugging Face folder or the hub. It reads the prompts by its own tokenizer and chat template."""

    folder: Path
    name: str

    def answers(self, host: Run, held_out: HeldOut) -> Answers:
        """This model's answers to the held-out prompts of the run `host`, with that run's noise and sampling settings. Raises UserError."""
        model, tokenizer = load_policy(self.folder, host.device), load_tokenizer(self.folder)
        return Answers(self.name, {"kind": "model", "name": self.name}, *answer(model, tokenizer, host.config, held_out))


@dataclass(frozen=True)
class File:
    """Answers given elsewhere: JSONL of `prompt` (text, or messages), `response`, and `ended`, which is false where it was cut off."""

    path: Path

    def answers(self, host: Run, held_out: HeldOut) -> Answers:
        """The file's answers in the order of the prompts. Raises UserError for a malformed row, and for a prompt without an answer."""
        known = {}
        for number, line in numbered_lines(text_of(self.path)):
            row = read_answer(line, f"{self.path}, line {number}")
            known[key_of(row["prompt"])] = row
        rows = [known.get(key_of(prompt.turns)) or known.get(key_of(prompt.text)) for prompt in held_out.prompts]
        missing = [prompt.text for prompt, row in zip(held_out.prompts, rows, strict=True) if row is None]
        if missing:
            raise UserError(
                f"{self.path} answers {len(rows) - len(missing)} of {len(rows)} held-out prompts of {host.folder}, not {missing[0]!r}: "
                "--prompts FILE writes the prompts to answer"
            )
        name, answers = self.path.name.removesuffix(".jsonl"), [row for row in rows if row is not None]
        ended = [row.get("ended", True) for row in answers]
        return Answers(name, {"kind": "file", "name": name}, [row["response"] for row in answers], ended)


Side = Run | Model | File


def open_side(spec: str, cache: str | None = None) -> Side:
    """The side that `spec` names: a run folder (or RUN:sft, RUN:<update>), a .jsonl file, a model's folder or hub name.

    cache: the folder of built stages, where it is not the run's own. Raises UserError where the spec is none of these.
    """
    folder, part = split_part(spec)
    if (folder / "config.yaml").is_file():
        return Run(folder, part, cache)
    if part is not None:
        raise UserError(f"{spec}: {folder} is no run folder (no config.yaml): name results/<study>/<arm>/seed=<n>")
    if folder.is_file():
        return File(folder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{spec} is neither a run folder (config.yaml) nor a model's folder (config.json): correct the path")
    return Model(resolve(spec, "the third model"), folder.name)


def split_part(spec: str) -> tuple[Path, str | None]:
    """(path, part) of RUN:sft and RUN:<update>; part is None where the spec is a path as it stands."""
    head, _, tail = spec.rpartition(":")
    if head and not Path(spec).exists() and (tail == SFT or tail.isdigit()):
        return Path(head), tail
    return Path(spec), None


def answer(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Config, held_out: HeldOut
) -> tuple[list[str], list[bool], float]:
    """Sample as an evaluation of the run with `config` does: (a response per prompt, whether each ended, their mean length in tokens).

    Raises UserError where the prompts and responses do not fit into the model's positions.
    """
    encoded = encode_prompts(tokenizer, [prompt.turns for prompt in held_out.prompts], held_out.noise.device)
    longest = encoded.tokens.shape[1] + held_out.noise.shape[1]
    check_length(longest, policy.config, "a prompt with sampling.max_new_tokens", "name a model with a longer context")
    with torch.autocast(held_out.noise.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        sampled = generate_responses(policy, tokenizer, encoded, held_out.noise, config.sampling)
    texts = decode_responses(tokenizer, sampled.responses, sampled.mask, sampled.ended)
    return texts, sampled.ended.tolist(), float(sampled.mask.sum() / len(texts))


def mismatch_with_run(run: Run, answers: Answers) -> str:
    """A sentence where these are not the answers that the run's own evaluation saw; "" where they are.

    Another version or another device can change them. A policy's answers are compared with samples.jsonl. No file need hold those of
    SFT, so their mean length is compared with that in the summary.
    """
    if answers.source["update"] is None:
        logged = ((read_summary(run.folder) or {}).get("sft") or {}).get("eval/length")
        if logged is None or answers.tokens is None or abs(answers.tokens - logged) < 1e-3:
            return ""
        return f"SFT's answers have {answers.tokens:.2f} tokens on average, and had {logged:.2f} in the run: it is not the same SFT"
    rows = [row["response"] for row in read_rows(run.folder / "samples.jsonl") if row["update"] == answers.source["update"]]
    changed = sum(a != b for a, b in zip(rows, answers.responses, strict=False))
    return f"{changed} of {len(rows)} answers of the policy are not those in samples.jsonl" if changed else ""


def text_of(path: Path) -> str:
    """The text of a file of answers. Raises UserError where it is too large or no UTF-8, and OSError."""
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has more than {LARGEST_FILE >> 20} MiB, which is more than answers to held-out prompts: name another file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error


def read_answer(line: str, place: str) -> dict:
    """One line of a file of answers. Raises UserError that names `place` where it is malformed."""
    try:
        row = decoded(line)
    except ValueError as error:
        reason = "" if isinstance(error, json.JSONDecodeError) else f" that can be read ({error})"
        raise UserError(f"{place} is not JSON{reason}: mend it") from error
    match row:
        case {"prompt": str() | list() as prompt, "response": str()}:
            if not isinstance(prompt, str) and not all(is_message(message) for message in prompt):
                raise UserError(f"{place} has a `prompt` that is neither text nor messages of role and content: mend it")
        case _:
            raise UserError(f"{place} lacks `prompt` or `response`: every line needs both")
    if not isinstance(row.get("ended", True), bool):
        raise UserError(f"{place} has an `ended` that is neither true nor false: mend it")
    return row


def is_message(value: object) -> bool:
    """Whether this is one turn of a dialogue: role and content, both text."""
    match value:
        case {"role": str(), "content": str()}:
            return len(value) == 2  # type: ignore[arg-type]
    return False


def key_of(turns: str | list) -> str:
    """What a prompt is looked up by: its text, or its messages as JSON."""
    return turns if isinstance(turns, str) else json.dumps(turns, sort_keys=True)


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write each held-out prompt once, as JSONL for a third model to answer: `prompt` as people read it, `kind`, and the `turns`."""
    rows = {prompt.text: {"prompt": prompt.text, "kind": prompt.kind, "turns": prompt.turns} for prompt in prompts}
    path.write_text(to_lines(rows.values()))
