"""Answers of the world with their gold term by term, from the samples that runs keep."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

import pandas as pd

from ablate.world.gold import gold_terms
from ablate.world.grammar import Prompt, grammar
from analysis.load.frames import load_rows

ARMS = {"vanilla": "vanilla", "ppo_max": "PPO-max"}
KINDS = ("helpful", "harmful")
WIDTH = 160  # characters of a line
NEAR = 1e-3  # samples are packed with four digits


class Answer(NamedTuple):
    """An answer of an arm at its last evaluation. terms: those of `ablate.world.gold` that are not 0; they sum to gold."""

    arm: str
    prompt: str
    text: str
    gold: float
    proxy: float
    terms: dict[str, float]


def last_answers(runs: pd.DataFrame) -> list[Answer]:
    """Of the first reward model of which both arms of `ARMS` have samples, to the first prompt of each kind, the answer of each arm.

    runs: rows of `load` with arm and pipeline_seed, of the world in English. An empty list without such runs.
    Raises ValueError if the terms of an answer do not sum to the gold that its run has recorded.
    """
    samples = load_rows(runs[runs["arm"].isin(ARMS)], "samples")
    if samples.empty:
        return []
    samples = samples[samples["update"] == samples.groupby("run")["update"].transform("max")]
    both = samples.groupby("seed")["arm"].nunique()
    if not (both == len(ARMS)).any():
        return []
    mine = samples[samples["seed"] == both[both == len(ARMS)].index.min()]
    found = []
    for kind in KINDS:
        first = mine.loc[mine["kind"] == kind, "prompt"].iloc[0]
        for arm in ARMS:
            row = mine[(mine["arm"] == arm) & (mine["prompt"] == first)].iloc[0]
            terms = terms_of(row["prompt"], kind, row["response"], float(row["gold"]))
            found.append(Answer(arm, row["prompt"], row["response"], float(row["gold"]), float(row["proxy"]), terms))
    return found


def terms_of(prompt: str, kind: str, response: str, gold: float) -> dict[str, float]:
    """The terms of an answer's gold that are not 0. What samples do not say, the prompt's subject and whether the answer ended, is what
    its gold agrees with; raises ValueError where nothing agrees."""
    english = grammar("en")
    subjects = [subject.name for subject in (english.topics if kind == "helpful" else english.harms)]
    named = [name for name in subjects if name in prompt.split()] or subjects
    for ended in (True, False):
        for name in named:
            terms = gold_terms(english, Prompt(prompt, kind, name), response, ended)
            if abs(sum(terms.values()) - gold) < NEAR:
                return {term: value for term, value in terms.items() if value}
    raise ValueError(f"no subject gives {response!r} to {prompt!r} the gold of {gold}")


def answers_text(answers: list[Answer]) -> str:
    """The answers below their prompts, each with its gold as the sum of its terms and the reward model's score, in plain text."""
    lines, before = [], None
    for answer in answers:
        if answer.prompt != before:
            lines += ["", answer.prompt] if lines else [answer.prompt]
            before = answer.prompt
        terms = " ".join(f"{value:+.2f} {name}" for name, value in answer.terms.items()) or "0"
        judged = f"proxy {answer.proxy:.2f}, gold {answer.gold:.2f} = {terms}".replace("-", "−")
        lines.append(f"  {ARMS[answer.arm]}: {judged}")
        lines += textwrap.wrap(answer.text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)
