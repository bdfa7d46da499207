"""Drawing from a grammar: prompts, demonstrations, a pretraining corpus and a multiple-choice probe of it.

Every function takes a `numpy.random.Generator` and draws from nothing else, so one seed gives one world on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ablate.world.grammar_en import ENGLISH
from ablate.world.grammar_zh import CHINESE
from ablate.world.structure import Grammar, Harm, Topic, answer_plan, refusal_plan, slot_of

T = TypeVar("T")

GRAMMARS = {"en": ENGLISH, "zh": CHINESE}

HELPFUL_SHARE = 0.7
HELD_OUT_SHARE = 0.2
"""Share of all prompt texts kept for evaluation."""

STEP_COUNTS = (0.3, 0.28, 0.2, 0.14, 0.08)
"""Probability of 1, 2, ... steps in an imperfect answer to a helpful prompt."""
OBEYED_STEP_COUNTS = (0.8, 0.2, 0.0, 0.0, 0.0)
"""The same where a harmful request is obeyed: briefly, so that in the demonstrations longer is nearly always better."""
CLEAN_STEP_COUNTS = (0.0, 0.0, 0.5, 0.5, 0.0)
OPENER_SHARE, CLOSER_SHARE = 0.7, 0.4
OFF_TOPIC_SHARE = 0.06
"""Probability that a word which should be on topic is taken from another topic, in an imperfect demonstration."""
NEEDLESS_REFUSAL_SHARE = 0.03
OBEYED_SHARE = 0.5
"""Share of harmful requests that an imperfect demonstration obeys."""
ALTERNATIVE_SHARE, WISH_SHARE = 0.5, 0.4

PROBE_OPTIONS = 4


@dataclass(frozen=True)
class Prompt:
    """A request. ``kind`` is "helpful" or "harmful"; ``topic`` is the name of the topic or harm it is about."""

    text: str
    kind: str
    topic: str

    @property
    def turns(self) -> str:
        """One user turn."""
        return self.text


@dataclass(frozen=True)
class Choice:
    """A multiple-choice question: which option continues ``question``; ``answer`` is the index of the right one."""

    question: str
    options: tuple[str, ...]
    answer: int


def grammar(language: str) -> Grammar:
    """The grammar of "en" or "zh". Raises ValueError for any other language."""
    if language not in GRAMMARS:
        raise ValueError(f"language must be 'en' or 'zh', not {language!r}")
    return GRAMMARS[language]


def is_held_out(text: str) -> bool:
    """Whether a prompt's text belongs to the evaluation part: decided by a hash of the text, so by nothing else."""
    first_bytes = hashlib.sha256(text.encode()).digest()[:4]
    return int.from_bytes(first_bytes, "big") < HELD_OUT_SHARE * 2**32


def prompts(grammar: Grammar, count: int, rng: np.random.Generator, held_out: bool = False) -> list[Prompt]:
    """Draw ``count`` prompts, about 70 % helpful, from the training part of prompt space or from the held-out part."""
    return [_prompt(grammar, rng, held_out) for _ in range(count)]


def demonstrations(grammar: Grammar, count: int, rng: np.random.Generator, clean: bool = False) -> list[tuple[Prompt, str]]:
    """Draw ``count`` training prompts with a response each.

    Imperfect unless ``clean``: some words are off topic, some answers are short, half of the harmful requests are
    obeyed and a few harmless ones refused. Clean ones stay on topic in three or four steps, close politely, and answer
    every harmful request by a refusal, an alternative and a wish.
    """
    pairs = []
    for prompt in prompts(grammar, count, rng):
        plan = _clean_plan(prompt, rng) if clean else _imperfect_plan(prompt, rng)
        pairs.append((prompt, _response(grammar, prompt, plan, rng, off_topic=0.0 if clean else OFF_TOPIC_SHARE)))
    return pairs


def corpus(grammar: Grammar, count: int, rng: np.random.Generator) -> list[str]:
    """Draw ``count`` texts of one to three sentences that tell facts of one topic, or warn of a harm (one in ten)."""
    texts = []
    for _ in range(count):
        if rng.random() < 0.1:
            harm = _pick(grammar.harms, rng)
            fill = {"harm": harm.name, "target": _pick(harm.targets, rng), "noun": _pick(harm.words, rng)}
            texts.append(_fill(grammar, _pick(grammar.warnings, rng), fill, rng))
            continue
        topic = _pick(grammar.topics, rng)
        sentences = (_pick(grammar.facts, rng) for _ in range(int(rng.integers(1, 4))))
        texts.append(" ".join(_fill(grammar, sentence, _fact(topic, rng), rng) for sentence in sentences))
    return texts


def probe(grammar: Grammar, count: int, rng: np.random.Generator) -> list[Choice]:
    """Draw ``count`` questions about the facts of the corpus, each with one right option of four in random order."""
    choices = []
    for _ in range(count):
        template, slot = _pick(grammar.questions, rng)
        fact = _fact(_pick(grammar.topics, rng), rng)
        wrong = [filler for filler in grammar.fillers[slot] if filler != fact[slot]]
        options = [fact[slot], *(wrong[i] for i in rng.permutation(len(wrong))[: PROBE_OPTIONS - 1])]
        order = rng.permutation(PROBE_OPTIONS)
        shuffled = tuple(options[i] for i in order)
        choices.append(Choice(_fill(grammar, template, fact, rng), shuffled, shuffled.index(fact[slot])))
    return choices


def _prompt(grammar: Grammar, rng: np.random.Generator, held_out: bool) -> Prompt:
    helpful = bool(rng.random() < HELPFUL_SHARE)
    while True:
        if helpful:
            topic = _pick(grammar.topics, rng)
            text = _fill(grammar, _pick(grammar.helpful_prompts, rng), _fact(topic, rng), rng)
            prompt = Prompt(text, "helpful", topic.name)
        else:
            harm = _pick(grammar.harms, rng)
            fill = {"harm": harm.name, "target": _pick(harm.targets, rng)}
            text = _fill(grammar, _pick(grammar.harmful_prompts, rng), fill, rng)
            prompt = Prompt(text, "harmful", harm.name)
        if is_held_out(text) == held_out:
            return prompt


def _clean_plan(prompt: Prompt, rng: np.random.Generator) -> tuple[str, ...]:
    if prompt.kind == "harmful":
        return refusal_plan(alternative=True, wish=True)
    return answer_plan(opened=True, steps=_steps(CLEAN_STEP_COUNTS, rng), closed=True)


def _imperfect_plan(prompt: Prompt, rng: np.random.Generator) -> tuple[str, ...]:
    refuses = rng.random() < (NEEDLESS_REFUSAL_SHARE if prompt.kind == "helpful" else 1 - OBEYED_SHARE)
    if refuses:
        return refusal_plan(bool(rng.random() < ALTERNATIVE_SHARE), bool(rng.random() < WISH_SHARE))
    opened, closed = bool(rng.random() < OPENER_SHARE), bool(rng.random() < CLOSER_SHARE)
    step_counts = STEP_COUNTS if prompt.kind == "helpful" else OBEYED_STEP_COUNTS
    return answer_plan(opened, _steps(step_counts, rng), closed)


def _steps(probabilities: Sequence[float], rng: np.random.Generator) -> int:
    return 1 + int(rng.choice(len(probabilities), p=probabilities))


def _response(grammar: Grammar, prompt: Prompt, plan: tuple[str, ...], rng: np.random.Generator, off_topic: float) -> str:
    """Fill a plan; nouns of the prompt's subject come in random order, without repeats until all have been named."""
    subject = grammar.subjects[prompt.topic]
    queue: list[str] = []
    sentences = []
    for block in plan:
        words = []
        for item in _pick(grammar.blocks[block], rng).split():
            slot = slot_of(item)
            if slot == "noun":
                queue = queue or [subject.words[i] for i in rng.permutation(len(subject.words))]
                item = _off_topic_word(grammar, subject, rng) if rng.random() < off_topic else queue.pop()
            elif slot is not None:
                item = _pick(grammar.slots[slot], rng)
            words.extend(item.split())
        sentences.append(" ".join(words))
    return " ".join(sentences)


def _off_topic_word(grammar: Grammar, subject: Topic | Harm, rng: np.random.Generator) -> str:
    """A word of another topic (never of a harm: carelessness, not malice)."""
    return _pick(_pick([topic for topic in grammar.topics if topic is not subject], rng).words, rng)


def _fact(topic: Topic, rng: np.random.Generator) -> dict[str, str]:
    """One word of a topic with everything the corpus says of it."""
    index = int(rng.integers(len(topic.words)))
    return {"topic": topic.name, "noun": topic.words[index], "quality": topic.qualities[index], "place": topic.place}


def _fill(grammar: Grammar, template: str, given: Mapping[str, str], rng: np.random.Generator) -> str:
    """The template with ``given`` slots filled and every other slot drawn from the grammar's own."""
    words: list[str] = []
    for item in template.split():
        slot = slot_of(item)
        filler = item if slot is None else given[slot] if slot in given else _pick(grammar.slots[slot], rng)
        words.extend(filler.split())
    return " ".join(words)


def _pick(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]
