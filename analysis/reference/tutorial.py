"""The block of the tutorial, docs/tutorial/first_hour.md: how much the set holds, and the beginning of what one study's verdicts print."""

from __future__ import annotations

import textwrap

import pandas as pd

from analysis.claims.answer import answer, question_of
from analysis.claims.judge import CANNOT_TELL
from analysis.claims.study import StudyVerdicts
from analysis.reference.estimates import ReferenceSet
from analysis.reference.prose import counted

TAUGHT = "policy_constraints"  # the study of the tutorial
NOTHING = pd.DataFrame()


def tutorial(reference: ReferenceSet) -> str | None:
    """Of the tutorial: how much there is, and the beginning of what the verdicts of one study print."""
    study = reference.several(TAUGHT)
    if study is None:
        return None
    arms = study.arms.reset_index()
    told = answer(StudyVerdicts(TAUGHT, study.outcomes, arms, study.effects, NOTHING, study.claims, NOTHING, NOTHING, NOTHING, []))
    gains = next((sentence for sentence in told if sentence.startswith("Gold gained")), "")
    first = next((verdict for _, verdict in study.claims if verdict.verdict != CANNOT_TELL), None)
    shown = [f"$ python -m analysis.verdicts results/reference/{TAUGHT}", f"== {TAUGHT} ==", question_of(TAUGHT), "", *_printed(told[0])]
    shown += [f"{gains.partition('; ')[0]}; …"] if "; " in gains else []
    shown += ["…"]
    if first is not None:
        shown += [*_printed(first.sentence), *(line for part in first.parts for line in _printed(part.sentence, "    ")), "…"]
    has = f"`results/reference` holds {counted(len(reference.loaded.runs), 'finished run')}; each arm of this study has {study.basis}:"
    return "\n".join([has, "", "```", *shown, "```"])


def _printed(text: str, indent: str = "") -> list[str]:
    """Lines as `analysis.verdicts` prints them."""
    return textwrap.wrap(text, 130, initial_indent=indent, subsequent_indent=indent + "    ", break_on_hyphens=False)
