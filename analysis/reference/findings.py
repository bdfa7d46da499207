"""What the documents say of the committed runs: pure functions of the set, one per block. The wording follows the verdicts.

A function returns None where the set lacks the study that it speaks of and the document may keep what it says of other runs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from analysis.claims.answer import answer, question_of, two_digits
from analysis.claims.judge import CANNOT_TELL, CONTRADICTED, SUPPORTED, Claim, Part, Verdict, outcome_name
from analysis.claims.modern import MODERN_CLAIMS
from analysis.claims.paper import PAPER_CLAIMS, UNJUDGED
from analysis.claims.study import StudyVerdicts
from analysis.estimate.collapse import threshold_curve
from analysis.estimate.equivalence import ALPHA, never_acted
from analysis.estimate.overoptimisation import frontier_words
from analysis.estimate.units import MIN_FOR_RATES
from analysis.markdown import markdown_table
from analysis.reference.estimates import DISAGREE, ReferenceSet, Study, most_allowed, out_of_reach, overall, verdicts_on
from analysis.reference.prose import between, bullets, coded, counted, difference, fate, level, listed, p_value, wrapped
from analysis.reference.readme import made_by, read_as

KL_CLAIM = "a token-level KL penalty prevents collapse"
IS_CLAIM = "importance sampling against the reference does not prevent collapse"
# Of what is judged, how the bullet begins.
ON_KL = {
    SUPPORTED: "A token-level KL penalty prevents collapse.",
    CONTRADICTED: "A token-level KL penalty does not prevent collapse.",
    CANNOT_TELL: "Whether a token-level KL penalty prevents collapse cannot be told.",
    DISAGREE: "Whether a token-level KL penalty prevents collapse differs between studies.",
}
ON_IS = {
    SUPPORTED: "Importance sampling against SFT does not prevent collapse, as the paper says.",
    CONTRADICTED: "Importance sampling against SFT is not without effect on collapse, against what the paper says.",
    CANNOT_TELL: "Whether importance sampling against SFT prevents collapse cannot be told; the paper says that it does not.",
    DISAGREE: "Whether importance sampling against SFT prevents collapse differs between studies; the paper says that it does not.",
}
PREVENTS = "Importance sampling against SFT prevents collapse; the paper says that it does not."
# Study → its arm that adds the trick to vanilla PPO and nothing else.
KL_ALONE = {"add_one_in": "kl_penalty", "policy_constraints": "kl"}
IS_ALONE = {"add_one_in": "importance_sampling", "policy_constraints": "importance_sampling"}
TAUGHT = "policy_constraints"  # the study of the tutorial
FRONTIER = "Whether the KL penalty moves the frontier of gold against KL, or only stops earlier"
NAMED = 6  # arms in a sentence
LIMITS = (0.5, 1.0, 1.5, 2.0)  # SDs of SFT's gold below its mean, at which a collapse may be said to begin
NEAR_SFT = 1.0  # nats per response
README_WIDTH = 280  # characters of a line; the README has few lines
NOTHING = pd.DataFrame()
NAMES = {"vanilla": "vanilla PPO", "ppo_max": "PPO-max"}


def findings(reference: ReferenceSet) -> str | None:
    """The findings of the README: a list whose items follow the verdicts. The last says what all of it holds given."""
    told = [about(reference) for about in (on_kl_penalty, on_importance_sampling, on_added, on_left_out, on_frontier)]
    return bullets([*told, on_scope(reference)], README_WIDTH) if any(told) else None


def on_kl_penalty(reference: ReferenceSet) -> str | None:
    """Does the penalty prevent collapse: added to vanilla PPO, and taken out of PPO-max."""
    verdicts = verdicts_on(reference, KL_CLAIM)
    if not verdicts:
        return None
    told = [
        _pair(reference, *_widest(reference, KL_ALONE), "with the penalty alone"),
        _pair(reference, "leave_one_out", "no_kl_penalty", "without its penalty"),
    ]
    return " ".join([f"**{ON_KL[overall(verdicts)]}**", *filter(None, told), _judged(verdicts)])


def on_importance_sampling(reference: ReferenceSet) -> str | None:
    """Does importance sampling against SFT prevent collapse, and what do it, the penalty and PPO-max gain and spend."""
    verdicts = verdicts_on(reference, IS_CLAIM)
    if not verdicts:
        return None
    verdict = overall(verdicts)
    effects = [found.parts[0].effect for found in verdicts.values() if found.verdict == CONTRADICTED]
    lower = all(effect is not None and effect.estimate < 0 for effect in effects)
    head = PREVENTS if verdict == CONTRADICTED and lower else ON_IS[verdict]
    pair = _pair(reference, *_widest(reference, IS_ALONE), "with it")
    gains = [
        _gain(reference, *_widest(reference, IS_ALONE), "importance sampling"),
        _gain(reference, *_widest(reference, KL_ALONE), "the KL penalty"),
        _gain(reference, "leave_one_out", "ppo_max", "PPO-max"),
    ]
    spent = "; ".join(filter(None, gains))
    return " ".join(filter(None, [f"**{head}**", pair, spent and f"Gold gained over SFT, and the KL spent: {spent}.", _judged(verdicts)]))


def on_added(reference: ReferenceSet) -> str | None:
    """Which tricks, added alone to vanilla PPO, lower its rate of collapse after Holm's correction."""
    study = reference.several("add_one_in")
    if study is None:
        return None
    fewer, more, rest = _by_effect(study, "collapsed")
    total = len(fewer) + len(more) + len(rest)
    if floor := out_of_reach(study):
        head = f"Which of {total} tricks added alone to vanilla PPO lower its rate of collapse cannot be told"
        return f"**{head}**: {_reach(study, floor)} {_allowed(study)}"
    if not fewer:
        head = f"None of {total} tricks added alone to vanilla PPO is shown to lower its rate of collapse"
    else:
        head = f"{len(fewer)} of {total} tricks added alone to vanilla PPO {'lowers' if len(fewer) == 1 else 'lower'} its rate of collapse"
    told = [f"**{head}**, after Holm's correction" + (f": {_with_fates(study, fewer)}." if fewer else ".")]
    if more:
        told.append(f"It is higher with {_with_fates(study, more)}.")
    if rest:
        told.append(f"Of {'the other ' if fewer or more else ''}{len(rest)} no difference is shown ({_counts(study, rest)}).")
    rates = study.effects[study.effects["outcome"] == "collapsed"].set_index("arm").loc[rest]
    for word, sign in (("lower", -1), ("higher", 1)):
        if alone := list(rates.index[(rates["p"] < ALPHA) & (sign * rates["estimate"] > 0)]):
            told.append(f"Without the correction it is {word} with {_with_fates(study, alone)}: p below {ALPHA:g} each.")
    if inert := never_acted(study.outcomes, study.base):
        told.append(f"Never acted: {coded(inert)}.")
    return " ".join([*told, _allowed(study)])


def on_left_out(reference: ReferenceSet) -> str | None:
    """Which tricks PPO-max needs: against collapse, and for gold at the end."""
    study = reference.several("leave_one_out")
    if study is None:
        return None
    _, more, same = _by_effect(study, "collapsed")
    lower, higher, _ = _by_effect(study, "gold")
    total = len(study.arms) - 1
    if floor := out_of_reach(study):
        head = f"Which of {total} tricks PPO-max needs against collapse cannot be told"
        base = fate(study.arms.loc[study.base])
        told = [f"**{head}**: {_reach(study, floor)} PPO-max itself collapsed in {base} runs."]
    elif more:
        needed = f"{len(more)} {'is' if len(more) == 1 else 'are'} needed against collapse"
        base = fate(study.arms.loc[study.base])
        told = [
            f"**Of {total} tricks taken out of PPO-max alone, {needed}**: {_with_fates(study, more)}, where PPO-max collapsed in {base}."
        ]
    else:
        told = [f"**Of {total} tricks taken out of PPO-max alone, none is shown to be needed against collapse** ({_counts(study, same)})."]
    for arms, word in ((lower, "lower"), (higher, "higher")):
        if arms:
            by = listed([f"{_size(study.effect(arm, 'gold'))} in `{arm}`" for arm in arms])
            told.append(f"Gold at the end is {word} by {by}.")
    rest = total - len(lower) - len(higher)
    if rest:
        told.append(f"In {'the other ' if lower or higher else 'all '}{rest} no difference in gold is shown.")
    return " ".join(told)


def on_frontier(reference: ReferenceSet) -> str | None:
    """Does a KL penalty move gold at equal KL: how many coefficients say what."""
    study = reference.several("kl_frontier")
    if study is None or study.frontier.empty:
        return None
    table = study.frontier
    sorts: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        sorts.setdefault(frontier_words(row["verdict"], row["at_end"], row["at_end_p"]), []).append(row["arm"])
    named = {word: counted(len(table), "coefficient") if len(arms) == len(table) else coded(arms) for word, arms in sorts.items()}
    said = "; ".join(f"{arms}: {word}" for word, arms in named.items())
    told = f"**Does the KL penalty do more than stop earlier?** Gold at equal KL, against no penalty, with {said}."
    known = table.dropna(subset=["at_end", "over_stopping"])
    most = known.loc[known["over_stopping"].idxmax()] if len(known) else None
    if most is not None:
        ends = between(most["at_end"], most["at_end_low"], most["at_end_high"], sign=True)
        stopped = between(most["over_stopping"], most["over_stopping_low"], most["over_stopping_high"], sign=True)
        told += f" `{most['arm']}` ends with {ends} more than vanilla PPO had at that KL, and {stopped} more than vanilla stopped early."
    return told


def on_scope(reference: ReferenceSet) -> str:
    """What the findings hold given: reward models, and the code of the runs."""
    runs = reference.loaded.runs
    link = "[results/reference](results/reference/README.md)"
    told = [_given(reference), f"The {counted(len(runs), 'run')} of {link} were made by {made_by(runs)}."]
    erred = sorted({arm for study in reference.compared for arm in study.miscounted})
    if erred:
        told.append(f"The arm {coded(erred)} measures an error of that code ([log](docs/log/2026-11-25-equal-kl.md)).")
    return " ".join([*told, "Every interval, and what these runs cannot tell: [docs/findings.md](docs/findings.md)."])


def origin(reference: ReferenceSet) -> str:
    """Of docs/findings.md: the studies with their designs, the code of the runs, and what all of it holds given."""
    runs = reference.loaded.runs
    rows = [
        {"study": study.name, "arms": str(len(study.arms)), "runs": str(len(study.runs)), "an arm's runs": str(study.basis),
         "updates": f"{study.runs['updates'].max():g}", "read as": read_as([study.basis])}
        for study in reference.studies.values()
    ]  # fmt: skip
    told = [_given(reference), f"The runs were made by {made_by(runs)}:",
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
        below, above, rest = _by_effect(study, outcome)
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
        told.append(f"No difference in rates could be: {_reach(study, floor)}")
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
    models = reference.loaded.runs["reward_model"].nunique()
    told = []
    if models == 1:
        told.append("*Anything about another reward model.* All runs share one.")
    else:
        told.append(f"*Anything beyond one world.* The {models} reward models are draws of one pipeline: one language, one size of model.")
    if (study := reference.several("kl_frontier")) is None:
        told.append(f"*{FRONTIER}.* `sweep=kl_frontier` asks it; the set has no runs of it.")
    elif (study.frontier["verdict"] == CANNOT_TELL).any():
        arms = list(study.frontier.loc[study.frontier["verdict"] == CANNOT_TELL, "arm"])
        told.append(f"*{FRONTIER}*, with {coded(arms)}.")
    if (study := reference.several("add_one_in")) is not None:
        told.append(f"*A small difference in rates, and a rare collapse.* {_allowed(study)}")
    if (study := reference.several("policy_constraints")) is not None:
        told.append(_hangs_on_the_limit(study))
    runs, names = reference.loaded.runs, ["ppo.learning_rate", "ppo.critic_learning_rate"]
    if reference.compared and set(names) <= set(runs) and len(rates := runs[names].drop_duplicates()) == 1:
        policy, critic = rates.iloc[0]
        told.append("*A trick at another amount, or at learning rates of its own.* Except for `kl_frontier` a study has one amount per "
                    f"trick, and every run has {policy:g} for the policy and {critic:g} for the critic.")  # fmt: skip
    alone = [study.name for study in reference.studies.values() if study.layout_only]
    if alone:
        told.append(f"*Anything of {coded(alone)}.* One seed per arm shows what a run looks like and decides nothing.")
    return bullets(told)


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


def size(reference: ReferenceSet) -> str:
    """Of results/README.md."""
    runs, studies = counted(len(reference.loaded.runs), "finished run"), counted(len(reference.studies), "study")
    return (f"[reference/](reference/README.md) is committed: {runs} of {studies}, one archive per study, which every command of "
            "`analysis` reads as it lies.")  # fmt: skip


def _absent(name: str) -> str:
    return f"The set has no study `{name}` of several runs per arm."


def _given(reference: ReferenceSet) -> str:
    compared = [study.basis.reward_models for study in reference.compared]
    if not compared:
        return "No study of the set has several runs per arm."
    if max(compared) == 1:
        return "All of it holds given one reward model: every run shares it."
    if min(compared) == max(compared):
        return f"All of it is over {max(compared)} reward models, which are the unit of every interval."
    alone = [study.name for study in reference.compared if study.basis.reward_models == 1]
    return "The unit of every interval is the reward model" + (
        f", but of {coded(alone)} the seed, given one reward model." if alone else "."
    )


def _by_effect(study: Study, outcome: str) -> tuple[list[str], list[str], list[str]]:
    """(arms below the base after Holm, arms above it, arms not shown to differ), without the base and what was miscounted."""
    below, above, rest = [], [], []
    for arm in study.arms.index:
        effect = study.effect(arm, outcome)
        if effect is None or arm in study.miscounted:
            continue
        (rest if not effect["p_holm"] < ALPHA else below if effect["estimate"] < 0 else above).append(arm)
    return below, above, rest


def _widest(reference: ReferenceSet, arms: Mapping[str, str]) -> tuple[str, str]:
    """Of studies with their arms the one over the most reward models, of equals that with more runs per arm, else the first."""
    known = [(study.basis.reward_models, study.basis.runs, name) for name in arms if (study := reference.several(name)) is not None]
    name = max(known, key=lambda one: one[:2])[2] if known else next(iter(arms))
    return name, arms[name]


def _pair(reference: ReferenceSet, name: str, arm: str, words: str) -> str:
    """'Vanilla PPO collapsed in 5 of 5 runs, with it in 0 of 5 (difference −1.00 [−1.00, −0.39], p = 0.002).'; '' without runs."""
    study = reference.several(name)
    effect = None if study is None else study.effect(arm, "collapsed")
    if study is None or effect is None:
        return ""
    base = NAMES.get(study.base, study.base)
    found = f"{between(effect['estimate'], effect['low'], effect['high'], sign=True)}, {p_value('p', effect['p'])}"
    before, after = fate(study.arms.loc[study.base]), fate(study.arms.loc[arm])
    return f"{base[0].upper()}{base[1:]} collapsed in {before} runs, {words} in {after} (difference {found})."


def _gain(reference: ReferenceSet, name: str, arm: str, words: str) -> str:
    study = reference.several(name)
    if study is None or arm not in study.arms.index:
        return ""
    row = study.arms.loc[arm]
    return f"{words} {level(row, 'gold_gain', sign=True)} for {two_digits(row['kl'])} nats"


def _judged(verdicts: dict[str, Verdict]) -> str:
    """'The claim is supported in 3 studies.', 'The claim is supported in 1 study and cannot be told in 2 studies.'"""
    words = {SUPPORTED: "is supported in", CONTRADICTED: "is contradicted in", CANNOT_TELL: "cannot be told in"}
    counts = {text: sum(found.verdict == word for found in verdicts.values()) for word, text in words.items()}
    said = [f"{text} {counted(number, 'study')}" for text, number in counts.items() if number]
    return f"The claim {listed(said)}."


def _reach(study: Study, floor: float) -> str:
    """Why, in words, and how many reward models could."""
    over = counted(study.basis.reward_models, "reward model")
    return f"over {over} the exact test has no p below {floor:.2g}; {MIN_FOR_RATES} are the fewest that could tell."


def _with_fates(study: Study, arms: list[str]) -> str:
    """'`kl_penalty` (0 of 5) and `ptx` (1 of 5)'; of more than `NAMED` arms their number and the range of their counts."""
    if len(arms) > NAMED:
        return f"{len(arms)} arms ({_counts(study, arms)})"
    return listed([f"`{arm}` ({fate(study.arms.loc[arm])})" for arm in arms])


def _counts(study: Study, arms: list[str]) -> str:
    """'collapsed in 5 of 5 runs', 'collapsed in 1 of 5 to 5 of 5 runs': the least and the greatest rate of these arms."""
    rates = study.arms.loc[arms, "rate"]
    least, most = (fate(study.arms.loc[arm]) for arm in (rates.idxmin(), rates.idxmax()))
    return f"collapsed in {least if least == most else f'{least} to {most}'} runs"


def _size(effect: pd.Series) -> str:
    """An effect without its sign: '0.85 [0.63, 1.08]'."""
    low, high = sorted(abs(effect[end]) for end in ("low", "high"))
    return between(abs(effect["estimate"]), low, high)


def _allowed(study: Study) -> str:
    """What a count of none still allows."""
    n, most = most_allowed(study)
    return f"0 of {n} still allows a rate of up to {100 * most:.0f} %." if n else f"Rates rest on {study.basis} per arm."


def _plain(sentence: str) -> str:
    """A sentence of a verdict with the minus sign that documents have."""
    return sentence.replace(" -", " −").replace("[-", "[−")
