"""The blocks of docs/findings.md: pure functions of the set, one per block. The wording follows the verdicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.claims.judge import CANNOT_TELL, Claim, Part, Verdict, outcome_name
from analysis.claims.modern import MODERN_CLAIMS
from analysis.claims.paper import PAPER_CLAIMS, UNJUDGED
from analysis.estimate.collapse import threshold_curve
from analysis.estimate.equivalence import ALPHA, CONTINUOUS, never_acted
from analysis.estimate.overoptimisation import frontier_words
from analysis.markdown import markdown_table
from analysis.reference.estimates import ReferenceSet, Study, arms_by_effect, out_of_reach
from analysis.reference.prose import between, bullets, coded, counted, difference, fate, level, listed, p_value, wrapped
from analysis.reference.readme import made_by, read_as
from analysis.reference.sentences import NAMES, holds_given, rate_still_allowed, why_out_of_reach

FRONTIER = "Whether the KL penalty moves the frontier of gold against KL, or only stops earlier"
LIMITS = (0.5, 1.0, 1.5, 2.0)  # SDs of SFT's gold below its mean, at which a collapse may be said to begin
MADE_ALIKE = "one language, one size of model"
VANILLA = {"add_one_in": "vanilla", "kl_frontier": "no_kl"}  # the same runs, evaluated seldom and often
NEAR_SFT = 1.0  # nats per response


def origin(reference: ReferenceSet) -> str:
    """Of docs/findings.md: the studies with their designs, the code of the runs, and what all of it holds given."""
    runs = reference.loaded.runs
    rows = [
        {"study": study.name, "arms": str(len(study.arms)), "runs": str(len(study.runs)), "an arm's runs": str(study.basis),
         "updates": f"{study.runs['updates'].max():g}", "read as": read_as([study.basis])}
        for study in reference.studies.values()
    ]  # fmt: skip
    told = [holds_given(reference), f"The runs were made by {made_by(runs)}:",
            "[results/reference](../results/reference/README.md) has commands and versions."]  # fmt: skip
    return f"{markdown_table(pd.DataFrame(rows))}\n\n{wrapped(' '.join(told))}"


def arms_of(name: str) -> Callable[[ReferenceSet], str]:
    """A block with the arms of one study: a table, and the sentences on what differs from the base after Holm's correction."""

    def block(reference: ReferenceSet) -> str:
        study = reference.several(name)
        return _absent(name) if study is None else f"{arm_rows(study)}\n\n{_differences(study)}"

    return block


def arm_rows(study: Study) -> str:
    """One row per arm, the base first, then by collapse rate and gold: collapses, rate and its difference, gold and its, KL spent."""
    arms = study.arms.drop(index=list(study.miscounted))
    order = pd.DataFrame({"other": arms.index != study.base, "rate": arms["rate"].fillna(2), "gain": -arms["gold_gain"].fillna(-np.inf)})
    rows = []
    for arm in arms.index[order.reset_index(drop=True).sort_values(["other", "rate", "gain"], kind="stable").index]:
        row, rate, gold = arms.loc[arm], study.effect(arm, "collapsed"), study.effect(arm, "gold")
        rows.append({
            "arm": arm, "collapsed": f"{fate(row)}: {level(row, 'rate')}" if row["n"] else "–",
            f"rate against {study.base}": "–" if rate is None else difference(rate),
            "gold gained over SFT": level(row, "gold_gain", sign=True),
            f"gold against {study.base}": "–" if gold is None else difference(gold), "KL spent": level(row, "kl"),
        })  # fmt: skip
    return markdown_table(pd.DataFrame(rows))


def _differences(study: Study) -> str:
    """The sentences below a table of arms."""
    told = [f"{study.basis} per arm. Rates with exact 95 % intervals, means with t intervals; KL in nats per response."]
    over = counted(len(study.arms) - 1, "comparison")
    for outcome, name in (("collapsed", "the rate of collapse"), ("gold", "gold at the end")):
        below, above, rest = arms_by_effect(study, outcome)
        parts = [f"{word} with {coded(arms)}" for arms, word in ((below, "lower"), (above, "higher")) if arms]
        parts += [f"not shown to differ with {'any arm' if not parts else counted(len(rest), 'arm')}"] if rest else []
        told.append(f"Against `{study.base}` {name} is {listed(parts)}, after Holm's correction over {over}.")
    clear = [arm for arm in study.arms.index if (effect := study.effect(arm, "gold")) is not None and not effect["p_holm"] < ALPHA
             and (effect["low"] > 0 or effect["high"] < 0) and arm not in study.miscounted]  # fmt: skip
    if clear:
        told.append(f"The interval of gold, which nothing corrects, leaves out 0 with {coded(clear)}: the p counts the comparisons too, "
                    "and of runs of different fate only how often they collapse ([statistics](explanation/statistics.md)).")  # fmt: skip
    still = [arm for arm, row in study.arms.iterrows() if row["collapses"] == 0 and row["n"] and row["kl_high"] < NEAR_SFT]
    if still:
        told.append(f"Held by hardly moving, within {NEAR_SFT:g} nat of SFT: {coded(still)}.")
    if inert := never_acted(study.outcomes, study.base):
        told.append(f"Never acted, as each run is that of `{study.base}` to the bit: {coded(inert)}.")
    if floor := out_of_reach(study):
        told.append(f"No difference in rates could be: {why_out_of_reach(study, floor)}")
    if study.miscounted:
        told.append(f"The arm {coded(study.miscounted)} is left out: in these runs the score of a truncated answer counts twice, so they "
                    "measure that error and not the trick ([log](log/2026-11-25-equal-kl.md)).")  # fmt: skip
    return wrapped(" ".join(told))


def claims(reference: ReferenceSet) -> str:
    """Every claim that a study can judge: those decided with all numbers, the others with what would decide them."""
    found = [(study, claim, verdict) for study in reference.compared for claim, verdict in study.claims]
    if not found:
        return "The set has no runs that a claim can be judged by."
    order = {id(claim): number for number, claim in enumerate((*PAPER_CLAIMS, *MODERN_CLAIMS))}
    found.sort(key=lambda one: (order[id(one[1])], one[0].name))
    decided = [_decided(*one) for one in found if one[2].verdict != CANNOT_TELL]
    open_ones = [_undecided(*one) for one in found if one[2].verdict == CANNOT_TELL]
    parts = [f"Decided: {len(decided)} of {len(found)} judgements."]
    parts += [markdown_table(pd.DataFrame(decided))] if decided else []
    parts += ["Not decided, and what would decide each:", markdown_table(pd.DataFrame(open_ones))] if open_ones else []
    judged = {claim.figure for _, claim, _ in found}
    parts += [wrapped(f"Not judged by any run: {text} [{figure}]: {why}.") for figure, text, why in UNJUDGED if figure not in judged]
    return "\n\n".join(parts)


def _decided(study: Study, claim: Claim, verdict: Verdict) -> dict[str, str]:
    numbers = "; ".join(_plain(part.sentence.partition(": ")[2]) for part in verdict.parts)
    return {"claim": claim.text, "from": claim.figure, "study": study.name, "verdict": verdict.verdict,
            "estimate, interval and unit": numbers}  # fmt: skip


def _undecided(study: Study, claim: Claim, verdict: Verdict) -> dict[str, str]:
    would = _plain(verdict.sentence.rpartition("]; ")[2]) if "]; " in verdict.sentence else "–"
    numbers = "; ".join(_estimate(study, *pair) for pair in zip(claim.parts, verdict.parts, strict=True))
    return {"claim": claim.text, "from": claim.figure, "study": study.name, "estimates": numbers, "what would decide it": would}


def _estimate(study: Study, asked: Part, found: Verdict) -> str:
    """'collapse rate 1.00 [0.48, 1.00] (cannot tell)': a level, or a difference with its sign, and the verdict on that part alone."""
    name, effect = outcome_name(asked.outcome, study.outcomes), found.effect
    if effect is None or not effect.n:
        return f"{name} not measured"
    return f"{name} {between(effect.estimate, effect.low, effect.high, sign=asked.control is not None)} ({found.verdict})"


def frontier(reference: ReferenceSet) -> str:
    """Gold at equal KL of every coefficient of the penalty against none."""
    study = reference.several("kl_frontier")
    if study is None or study.frontier.empty:
        return _absent("kl_frontier")
    rows = [
        {"arm": row["arm"], "gold at equal KL, against none": frontier_words(row["verdict"], row["at_end"], row["at_end_p"]),
         "on the way": _found(row), "rests on": row["basis"],
         "at its end, over none at that KL": between(row["at_end"], row["at_end_low"], row["at_end_high"], sign=True)
         + (f", {p_value('p', row['at_end_p'])}" if np.isfinite(row["at_end_p"]) else ""),
         "at its end, over none stopped early":
             between(row["over_stopping"], row["over_stopping_low"], row["over_stopping_high"], sign=True)}
        for row in study.frontier.to_dict("records")
    ]  # fmt: skip
    margin = study.frontier["margin"].iloc[0]
    note = (
        "The same on the way, or acts like early stopping: the 90 % interval of gold at equal KL, as runs first come there, lies within "
        f"± {margin:.2f}. A run with the penalty then stays at a KL that the other passes in a few updates: at its end its gold is "
        "compared with what the other had when it first came to that KL."
    )
    return f"{markdown_table(pd.DataFrame(rows))}\n\n{wrapped(note)}"


def _found(row: dict) -> str:
    return between(row["estimate"], row["low"], row["high"], sign=True) + (f", {p_value('p', row['p'])}" if np.isfinite(row["p"]) else "")


def thresholds(reference: ReferenceSet) -> str:
    """Whether the verdicts hang on where a collapse begins: collapses of every arm at limits between half an SD and two below SFT."""
    rows = []
    for name in ("policy_constraints", "leave_one_out"):
        if (study := reference.several(name)) is None:
            continue
        curve = threshold_curve(study.runs, study.curves, np.array(LIMITS))
        for arm, part in curve.groupby("arm", sort=False):
            if arm not in study.miscounted:
                counts = {f"{limit:g} SD": f"{row.collapses} of {row.n}" for limit, row in zip(LIMITS, part.itertuples(), strict=True)}
                rows.append({"study": name, "arm": arm} | counts)
    if not rows:
        return _absent("policy_constraints")
    note = ("A run counts at a limit where its mean gold was further below SFT's, in SDs of SFT's gold per answer, at three evaluations in "
            "a row. The rule has 1 SD.")  # fmt: skip
    return f"{markdown_table(pd.DataFrame(rows))}\n\n{wrapped(note)}"


def limits(reference: ReferenceSet) -> str:
    """What the runs of the set cannot say."""
    told = []
    worlds = _worlds(pd.concat([study.runs for study in reference.compared] or [reference.loaded.runs]))
    if sum(worlds.values()) == 1:
        told.append("*Anything about another reward model.* All runs share one.")
    elif len(worlds) == 1:
        told.append(f"*Anything beyond one world.* The {sum(worlds.values())} reward models are draws of one pipeline: {MADE_ALIKE}.")
    else:
        drawn = listed([f"{models} with a length bias of {bias:g}" for bias, models in worlds.items()])
        told.append(f"*Anything beyond these worlds.* The reward models are draws of one pipeline, {drawn}: {MADE_ALIKE}.")
    if (study := reference.several("kl_frontier")) is None:
        told.append(f"*{FRONTIER}.* `sweep=kl_frontier` asks it; the set has no runs of it.")
    elif (study.frontier["verdict"] == CANNOT_TELL).any():
        arms = list(study.frontier.loc[study.frontier["verdict"] == CANNOT_TELL, "arm"])
        told.append(f"*{FRONTIER}*, with {coded(arms)}.")
    if (study := reference.several("add_one_in")) is not None:
        told.append(f"*A small difference in rates, and a rare collapse.* {rate_still_allowed(study)}")
    if (study := reference.several("policy_constraints")) is not None:
        told.append(_hangs_on_the_limit(study))
    if hangs := _hangs_on_the_evaluations(reference):
        told.append(hangs)
    runs, names = reference.loaded.runs, ["ppo.learning_rate", "ppo.critic_learning_rate"]
    if reference.compared and set(names) <= set(runs) and len(rates := runs[names].drop_duplicates()) == 1:
        policy, critic = rates.iloc[0]
        told.append("*A trick at another amount, or at learning rates of its own.* Except for `kl_frontier` a study has one amount per "
                    f"trick, and every run has {policy:g} for the policy and {critic:g} for the critic.")  # fmt: skip
    alone = [study.name for study in reference.studies.values() if study.layout_only]
    if alone:
        told.append(f"*Anything of {coded(alone)}.* One seed per arm shows what a run looks like and decides nothing.")
    return bullets(told)


def _worlds(runs: pd.DataFrame) -> dict[float, int]:
    """The annotator's length bias → how many reward models were drawn with it, the greatest bias first."""
    biases = runs["preferences.length_bias"] if "preferences.length_bias" in runs else pd.Series(0.0, runs.index)
    return {bias: part.nunique() for bias, part in sorted(runs["reward_model"].groupby(biases), reverse=True)}


def _hangs_on_the_evaluations(reference: ReferenceSet) -> str | None:
    """How many of the same runs of vanilla PPO collapse by how often they are evaluated; None where no two studies have such runs."""
    studies = [reference.several(name) for name in VANILLA]
    pair, ends = ["reward_model", "seed", *CONTINUOUS], []
    for study, arm in zip(studies, VANILLA.values(), strict=True):
        if study is None:
            return None
        ends.append(study.outcomes[["run", *pair]].merge(study.runs[study.runs["arm"] == arm], on=["run", "reward_model", "seed"]))
    same = ends[0].merge(ends[1], on=pair, suffixes=("", "_often"))
    if same.empty or (same["evaluation.every"] == same["evaluation.every_often"]).any():
        return None
    seldom, often = (f"{same[f'collapsed{end}'].eq(True).sum()} collapse when evaluated every {same[f'evaluation.every{end}'].iloc[0]:g}"
                     for end in ("", "_often"))  # fmt: skip
    apart = (same["collapse_update"] - same["collapse_update_often"]).abs().max()
    moved = f"; where a run does at both, the updates of the collapse are up to {apart:g} apart" if apart > 0 else ""
    return ("*How often vanilla PPO collapses, however often it is evaluated.* The rule counts evaluations: of the same "
            f"{len(same)} runs {seldom} updates and {often}{moved}.")  # fmt: skip


def _hangs_on_the_limit(study: Study) -> str:
    """How often the base collapses by where a collapse is said to begin."""
    curve = threshold_curve(study.runs[study.runs["arm"] == study.base], study.curves, np.array(LIMITS))
    said = [f"{row.collapses} of {row.n} at {row.threshold:g} SD" for row in curve.itertuples()]
    return f"*How often {NAMES.get(study.base, study.base)} collapses, whatever one calls so.* {listed(said)} below SFT's gold."


def one_seed(reference: ReferenceSet) -> str:
    """The studies with one run per arm: how each run ended, marked as no evidence."""
    alone = [study for study in reference.studies.values() if study.layout_only]
    if not alone:
        return "The set holds no study of one seed."
    parts = [wrapped("**Layout only, one seed.** These runs show that a study runs and what its results look like. One run per arm decides "
                     "nothing: another seed or reward model may give the opposite.")]  # fmt: skip
    rows = [
        {"study": study.name, "arm": arm, "collapsed": _of_one_run(row),
         "gold gained over SFT": level(row, "gold_gain", sign=True), "KL spent": level(row, "kl")}
        for study in alone for arm, row in study.arms.iterrows()
    ]  # fmt: skip
    return "\n\n".join([*parts, markdown_table(pd.DataFrame(rows))])


def _of_one_run(row: pd.Series) -> str:
    """Whether the one run of an arm collapsed, and whether it came back from that above SFT's gold. row: of `arm_table`."""
    if not row["n"]:
        return "not known"
    if not row["collapses"]:
        return "no"
    return "yes, and recovered" if row["gold_gain"] > 0 else "yes"


def _absent(name: str) -> str:
    return f"The set has no study `{name}` of several runs per arm."


def _plain(sentence: str) -> str:
    """A sentence of a verdict with the minus sign that documents have."""
    return sentence.replace(" -", " −").replace("[-", "[−")
