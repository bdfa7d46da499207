"""What a grammar of the world is made of, and every word pair its responses can contain.

A *template* is a string of words and ``{slots}`` separated by single spaces; a slot stands for one of several
*fillers*, each of zero or more words. A *block* is one sentence of a response (opener, first step, ...): a set of
templates. A *plan* is the sequence of blocks of a whole response. Demonstrations are drawn by choosing a plan, a
template for each block and a filler for each slot, each whatever its neighbours are; so the set of possible word pairs
follows from the same choices by enumeration (`possible_pairs`), and no pair is missed because it is rare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

START, END = "<start>", "<end>"
"""The two sides of a response in a word pair: (START, first word) and (last word, END)."""

MAX_STEPS = 5
"""The most linked steps a demonstration has."""


@dataclass(frozen=True)
class Topic:
    """A harmless subject: the words an answer about it should name, and the facts the corpus tells of it.

    ``qualities`` runs parallel to ``words``; ``place`` is where the words of this topic are kept.
    """

    name: str
    words: tuple[str, ...]
    qualities: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Harm:
    """A harmful subject: the act (its name), whom it is done to, and the words that only an accomplice would name."""

    name: str
    words: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """The data of one language. Everything but ``topics``, ``harms`` and ``slots`` is a tuple of templates.

    ``questions`` are pairs (template, slot): the template is the beginning of a corpus sentence whose next word fills
    ``slot`` ("topic", "place" or "quality"), which makes a multiple-choice question of it. ``refusal_words`` occur in
    refusals and in nothing else that a demonstration says.
    """

    language: str
    topics: tuple[Topic, ...]
    harms: tuple[Harm, ...]
    slots: Mapping[str, tuple[str, ...]]
    helpful_prompts: tuple[str, ...]
    harmful_prompts: tuple[str, ...]
    openers: tuple[str, ...]
    first_links: tuple[str, ...]
    middle_links: tuple[str, ...]
    last_links: tuple[str, ...]
    steps: tuple[str, ...]
    closers: tuple[str, ...]
    refusals: tuple[str, ...]
    alternatives: tuple[str, ...]
    wishes: tuple[str, ...]
    refusal_words: frozenset[str]
    facts: tuple[str, ...]
    warnings: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]

    @cached_property
    def subjects(self) -> dict[str, Topic | Harm]:
        """Topic or harm by the name a `Prompt` carries."""
        return {subject.name: subject for subject in (*self.topics, *self.harms)}

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Block name to its templates; each of a block's templates is equally likely."""

        def linked(links: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(f"{link} {step}" for link, step in product(links, self.steps))

        return {
            "opener": self.openers,
            "first": linked(self.first_links),
            "middle": linked(self.middle_links),
            "last": linked(self.last_links),
            "closer": self.closers,
            "refusal": self.refusals,
            "alternative": self.alternatives,
            "wish": self.wishes,
        }

    @cached_property
    def fillers(self) -> dict[str, tuple[str, ...]]:
        """Slot to everything that may fill it, over all topics and harms."""
        topics, harms = self.topics, self.harms
        return {
            **self.slots,
            "topic": tuple(topic.name for topic in topics),
            "noun": tuple(word for subject in (*topics, *harms) for word in subject.words),
            "place": tuple(sorted({topic.place for topic in topics})),
            "quality": tuple(sorted({quality for topic in topics for quality in topic.qualities})),
            "harm": tuple(harm.name for harm in harms),
            "target": tuple(sorted({target for harm in harms for target in harm.targets})),
        }

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The complete vocabulary, sorted and unique: every word of every template and filler."""
        templates = (
            *self.helpful_prompts, *self.harmful_prompts, *self.facts, *self.warnings,
            *(template for block in self.blocks.values() for template in block),
            *(template for template, _ in self.questions),
        )  # fmt: skip
        literal = {word for template in templates for word in template.split() if slot_of(word) is None}
        filled = {word for choices in self.fillers.values() for filler in choices for word in filler.split()}
        return tuple(sorted(literal | filled))

    @cached_property
    def subject_words(self) -> frozenset[str]:
        """Every word that belongs to one topic or harm alone (its words, and a topic's name)."""
        return frozenset(self.fillers["noun"]) | frozenset(self.fillers["topic"])

    @cached_property
    def possible_pairs(self) -> frozenset[tuple[str, str]]:
        """Every pair of neighbouring words (with START and END) that some response of the grammar contains."""
        pairs: set[tuple[str, str]] = set()
        for plan in all_plans():
            pairs |= plan_pairs(self, plan)
        return frozenset(pairs)


def slot_of(word: str) -> str | None:
    """The slot's name when a template's word is ``{slot}``, else None."""
    return word[1:-1] if word.startswith("{") and word.endswith("}") else None


def answer_plan(opened: bool, steps: int, closed: bool) -> tuple[str, ...]:
    """The blocks of an answer of 1 to MAX_STEPS steps: opener?, first, middle ..., last, closer?."""
    linked = ("first",) if steps == 1 else ("first", *("middle",) * (steps - 2), "last")
    return ("opener",) * opened + linked + ("closer",) * closed


def refusal_plan(alternative: bool, wish: bool) -> tuple[str, ...]:
    """The blocks of a refusal: refusal, alternative?, wish?."""
    return ("refusal",) + ("alternative",) * alternative + ("wish",) * wish


def all_plans() -> tuple[tuple[str, ...], ...]:
    """Every plan a demonstration can follow."""
    answers = product((False, True), range(1, MAX_STEPS + 1), (False, True))
    refusals = product((False, True), (False, True))
    return (*(answer_plan(*choice) for choice in answers), *(refusal_plan(*choice) for choice in refusals))


def plan_pairs(grammar: Grammar, plan: Iterable[str]) -> set[tuple[str, str]]:
    """Every word pair of the responses that follow ``plan``, with START and END.

    Goes along the plan keeping the set of words a response may have reached; a block's templates are taken in turn from
    that set. Exact because templates and fillers are chosen independently of what came before.
    """
    pairs: set[tuple[str, str]] = set()
    reached = {START}
    for block in plan:
        after_block: set[str] = set()
        for template in grammar.blocks[block]:
            after_block |= _template_pairs(grammar, template, reached, pairs)
        reached = after_block
    return pairs | {(word, END) for word in reached}


def _template_pairs(grammar: Grammar, template: str, reached: set[str], pairs: set[tuple[str, str]]) -> set[str]:
    """Add the pairs of one template, entered from any of ``reached``, to ``pairs``; return its last words."""
    for item in template.split():
        slot = slot_of(item)
        following: set[str] = set()
        for filler in (item,) if slot is None else grammar.fillers[slot]:
            words = filler.split()
            if not words:
                following |= reached
                continue
            pairs.update((word, words[0]) for word in reached)
            pairs.update(pairwise(words))
            following.add(words[-1])
        reached = following
    return reached
