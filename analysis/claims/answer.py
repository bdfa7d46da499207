"""The answer to a study's question in one to three sentences, and each arm in three things at once: survival, gold and KL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ablate.errors import UserError
from ablate.runs.alarms import ALARMS, VOTES
from ablate.sweeps.study import load_study, study_names
from ablate.sweeps.table import without_shared_parts
from analysis.claims.judge import CANNOT_TELL, CONTRADICTED, SUPPORTED, scope
from analysis.claims.study import StudyVerdicts
from analysis.estimate.equivalence import ALPHA
from analysis.estimate.units import levels

SHOWN = 4  # arms named in a sentence; more are counted


def question_of(study: str) -> str:
    """The question of a study of `sweeps/`, '' for runs of another name or where its file cannot be read."""
    try:
        return load_study(study).question if study in study_names() else ""
    except UserError:
        return ""


def answer(verdicts: StudyVerdicts) -> list[str]:
    """What the runs say: what judges them if not gold, how long they hold, what they gain and at what KL, and how claims fare."""
    arms = arm_answers(verdicts)
    told = [_judge(verdicts), _survival(verdicts, arms), _gain(arms), _claims([verdict.verdict for _, verdict in verdicts.claims])]
    return [sentence for sentence in told if sentence]


def arm_answers(verdicts: StudyVerdicts) -> pd.DataFrame:
    """One row per arm, the base first, then by collapse rate and by gold gained.

    Columns: arm, name (without the parts that all arms' names share), basis, runs, collapses, n, rate, rate_low, rate_high; versus
    ('base', 'fewer' or 'more' collapses than the base after Holm over arms, else ''), p_holm; gold_gain, win and kl with _low, _high and
    _n; gold_versus ('higher' or 'lower' gold at the end than the base after Holm, else ''); median_time with _low and _high, unfinished,
    too_short.
    """
    names = ["arm", "basis", "runs", "collapses", "n", "rate", "rate_low", "rate_high"]
    names += [f"{level}{end}" for level in ("gold_gain", "win", "kl") for end in ("", "_low", "_high", "_n")]
    table = verdicts.arms[[*names, "median_time", "median_time_low", "median_time_high", "unfinished", "too_short"]].copy()
    table.insert(1, "name", without_shared_parts(list(table["arm"])))
    table["versus"], table["p_holm"], table["gold_versus"] = "", np.nan, ""
    for row in verdicts.effects.itertuples() if len(verdicts.effects) else ():
        at = table["arm"] == row.arm
        if row.outcome == "collapsed":
            table.loc[at, "p_holm"] = row.p_holm
            table.loc[at, "versus"] = _direction(row, "fewer", "more")
        elif row.outcome == "gold":
            table.loc[at, "gold_versus"] = _direction(row, "lower", "higher")
    base = verdicts.effects["base"].iloc[0] if len(verdicts.effects) else table["arm"].iloc[0]
    table.loc[table["arm"] == base, "versus"] = "base"
    order = pd.DataFrame({"other": table["arm"] != base, "rate": table["rate"].fillna(2), "gain": -table["gold_gain"].fillna(-np.inf)})
    return table.loc[order.sort_values(["other", "rate", "gain"], kind="stable").index].reset_index(drop=True)


def two_digits(value: float) -> str:
    """A number with two significant digits and no exponent: '0.97', '4.4', '110'."""
    return f"{float(f'{value:.2g}'):.10g}"


def _direction(row, below: str, above: str) -> str:
    return "" if not row.p_holm < ALPHA else below if row.estimate < 0 else above


def _judge(verdicts: StudyVerdicts) -> str:
    """What tells a collapse, where it is not the gold reward in every run."""
    alarms = (verdicts.outcomes["judged_by"] == "alarms").to_numpy()
    if not alarms.any():
        return ""
    which = "" if alarms.all() else f" in {alarms.sum()} of {len(alarms)} runs"
    return (f"Collapse is judged{which} by alarms on monitors, not by a gold reward: a run has collapsed where {VOTES} of {len(ALARMS)} "
            "have sounded, which misses some collapses and calls some runs collapsed that gold would not.")  # fmt: skip


def _survival(verdicts: StudyVerdicts, arms: pd.DataFrame) -> str:
    known = arms[arms["n"] > 0]
    if known.empty:
        short = bool(verdicts.outcomes["too_short"].any())
        return ("These runs are too short to collapse: nothing is said about it." if short else
                "Nothing is known about collapse yet: no run that can be judged has ended." )  # fmt: skip
    basis = levels(verdicts.outcomes.assign(one=1.0), "one", list(verdicts.outcomes["arm"].unique()[:1])).basis
    where = scope(basis)
    if (known["versus"] == "base").sum() == 0 or len(known) == 1:
        return f"{where[0].upper()}{where[1:]}, {_each(known.assign(versus='base'))}."
    base, others = known[known["versus"] == "base"], known[known["versus"] != "base"]
    told = [f"{where[0].upper()}{where[1:]}, {_each(base)}"]
    for direction in ("fewer", "more"):
        group = others[others["versus"] == direction]
        if len(group):
            worst = group["p_holm"].max()
            told.append(f"{direction} runs collapse with {_each(group)}, p ≤ {worst:.2g} after Holm's correction")
    rest = others[~others["versus"].isin(["fewer", "more"])]
    if len(rest):
        one = "the other arm" if len(others) == 1 else "each other arm" if len(rest) == len(others) else f"the other {len(rest)} arms"
        told.append(f"of {one} no difference is shown ({_range(rest)})" if len(rest) > 1 else f"no difference is shown for {_each(rest)}")
    return "; ".join(told) + "."


def _each(group: pd.DataFrame) -> str:
    """'vanilla collapsed in 5 of 5 runs', 'kl_penalty and kl_adaptive (0 of 5 each)'."""
    counts = [f"{row.collapses} of {row.n}" for row in group.itertuples()]
    if len(group) == 1 and group["versus"].iloc[0] == "base":
        return f"{group['name'].iloc[0]} collapsed in {counts[0]} runs"
    if len(group) > SHOWN:
        return f"{len(group)} arms ({_range(group)})"
    if len(set(counts)) == 1:
        return f"{_listed(list(group['name']))} ({counts[0]}{' each' * (len(group) > 1)})"
    return _listed([f"{arm} ({count})" for arm, count in zip(group["name"], counts, strict=True)])


def _range(group: pd.DataFrame) -> str:
    least, most = group.loc[group["rate"].idxmin()], group.loc[group["rate"].idxmax()]
    one = f"{least['collapses']} of {least['n']}"
    return f"{one} collapsed" if least["rate"] == most["rate"] else f"{one} to {most['collapses']} of {most['n']} collapsed"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _gain(arms: pd.DataFrame) -> str:
    """Gold gained over SFT and the KL spent for it, of the base and the arms that gain most."""
    known = arms[arms["gold_gain_n"] > 0]
    if known.empty:
        return ""
    base, others = known[known["versus"] == "base"], known[known["versus"] != "base"]
    chosen = pd.concat([base, others.sort_values(["rate", "gold_gain"], ascending=[True, False], kind="stable").head(SHOWN)])
    told = [f"{row.name} {row.gold_gain:+.2f}{_bounds(row)} for {two_digits(row.kl)} nats" for row in chosen.itertuples(index=False)]
    if len(base) and len(chosen) < len(known):
        told[1] = f"of the others those that hold best and gain most are {told[1]}"
    return f"Gold gained over SFT at the end, and the KL spent: {'; '.join(told)}."


def _bounds(row) -> str:
    return f" [{row.gold_gain_low:.2f}, {row.gold_gain_high:.2f}]" if np.isfinite(row.gold_gain_low) else ""


def _claims(verdicts: Sequence[str]) -> str:
    if not verdicts:
        return ""
    counts = {word: verdicts.count(word) for word in (SUPPORTED, CONTRADICTED, CANNOT_TELL)}
    one = f"The one claim of a paper that these arms test is {verdicts[0]}." if verdicts[0] != CANNOT_TELL else (
        "The one claim of a paper that these arms test cannot be told yet.")  # fmt: skip
    if len(verdicts) == 1:
        return one
    return (f"Of {len(verdicts)} claims of papers that these arms test {counts[SUPPORTED]} {'is' if counts[SUPPORTED] == 1 else 'are'} "
            f"supported, {counts[CONTRADICTED]} contradicted, and {counts[CANNOT_TELL]} cannot be told yet.")  # fmt: skip
