"""Texts and multiple-choice questions that ability is measured on, from the world or JSONL files. No stage has learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablate.config import Config
from ablate.errors import UserError
from ablate.system.jsonl import decoded, numbered_lines
from ablate.world import grammar as world
from ablate.world.structure import Grammar

TEXTS, QUESTIONS = 32, 128  # as many as an evaluation measures; a longer file is drawn from
SENTENCES = 3  # of a held-out text of the world: the most that its corpus has, because so long a text is hardly ever drawn twice


@dataclass(frozen=True)
class Question:
    """A multiple-choice question: `answer` is the index of the choice that rightly continues `prompt`."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


def held_out_texts(config: Config, corpus: np.random.Generator, rng: np.random.Generator) -> list[str]:
    """TEXTS texts from evaluation.text_path, or of the world's corpus, drawn with `rng`. Human data without a file has none.

    corpus: the generator that pretraining draws its texts with, none of which is returned. Raises UserError.
    """
    if config.evaluation.text_path is not None:
        return drawn(read_texts(Path(config.evaluation.text_path)), TEXTS, rng)
    if config.data.source != "world":
        return []
    grammar = world.grammar(config.data.language)
    trained_here = config.model.path is None and config.pretrain.path is None
    return unseen(grammar, set(world.corpus(grammar, config.pretrain.examples, corpus)) if trained_here else set(), rng)


def unseen(grammar: Grammar, seen: set[str], rng: np.random.Generator) -> list[str]:
    """TEXTS different texts of SENTENCES sentences that `seen` does not hold."""
    found: list[str] = []
    while len(found) < TEXTS:
        for text in world.corpus(grammar, TEXTS, rng):
            words = text.split()
            if words.count(words[-1]) == SENTENCES and text not in seen and text not in found:
                found.append(text)
    return found[:TEXTS]


def questions(config: Config, rng: np.random.Generator) -> list[Question]:
    """QUESTIONS questions from evaluation.choices_path, or on the world's facts. Human data without a file has none. Raises UserError."""
    if config.evaluation.choices_path is not None:
        return drawn(read_questions(Path(config.evaluation.choices_path)), QUESTIONS, rng)
    if config.data.source != "world":
        return []
    found = world.probe(world.grammar(config.data.language), QUESTIONS, rng)
    return [Question(choice.question, choice.options, choice.answer) for choice in found]


def drawn(items: Sequence, count: int, rng: np.random.Generator) -> list:
    """`count` of the items in random order, or all of them."""
    return [items[i] for i in rng.permutation(len(items))[:count]]


def read_texts(path: Path) -> list[str]:
    """The `text` of every line of a JSONL file. Raises UserError that names the first line without one."""
    found = []
    for number, row in numbered_rows(path, "evaluation.text_path"):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise UserError(f"evaluation.text_path={path}: line {number} has no `text`: every line must be a JSON object with one")
        found.append(row["text"])
    return found


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file with `prompt`, `choices` and `answer`, an index into the choices.

    Raises UserError that names the first line of another form.
    """
    found = []
    for number, row in numbered_rows(path, "evaluation.choices_path"):
        entry = row if isinstance(row, dict) else {}
        prompt, choices, answer = (entry.get(name) for name in ("prompt", "choices", "answer"))
        whole = isinstance(choices, list) and len(choices) > 1 and all(isinstance(choice, str) and choice.strip() for choice in choices)
        if not whole or not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"evaluation.choices_path={path}: line {number} lacks a `prompt` and a list of two or more `choices`: mend it")
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise UserError(f"evaluation.choices_path={path}: line {number} needs `answer`, an index from 0 to {len(choices) - 1}: mend it")
        found.append(Question(prompt, tuple(choices), answer))
    return found


def numbered_rows(path: Path, setting: str) -> list[tuple[int, object]]:
    """(line number, value) of every line that is not empty. Raises UserError where it cannot be read, or a line is no JSON."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{setting}={path} cannot be read ({error}): name a JSONL file") from error
    rows = []
    for number, line in numbered_lines(text):
        try:
            rows.append((number, decoded(line)))
        except ValueError as error:
            raise UserError(f"{setting}={path}: line {number} is not JSON: mend it") from error
    if not rows:
        raise UserError(f"{setting}={path} holds no rows: name another file")
    return rows
