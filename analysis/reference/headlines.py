"""The findings of README: one bullet per question, whose wording follows the verdicts. Pure functions of the set.

A bullet is None where the set lacks the study that it speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.claims.answer import two_digits
from analysis.claims.judge import CANNOT_TELL, CONTRADICTED, SUPPORTED, Verdict
from analysis.estimate.equivalence import ALPHA, CONTINUOUS, never_acted
from analysis.estimate.overoptimisation import frontier_words
from analysis.reference.estimates import DISAGREE, ReferenceSet, Study, arms_by_effect, out_of_reach, overall, verdicts_on
from analysis.reference.prose import between, bullets, coded, counted, fate, level, listed, p_value
from analysis.reference.readme import made_by
from analysis.reference.sentences import NAMES, holds_given, rate_still_allowed, why_out_of_reach

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
NAMED = 6  # arms in a sentence
README_WIDTH = 280  # characters of a line; the README has few lines


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
    return " ".join([f"**{ON_KL[overall(verdicts)]}**", *filter(None, told), _judged(reference, verdicts)])


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
    gained = f"Gold gained over SFT, and the KL spent: {spent}." if spent else ""
    return " ".join(filter(None, [f"**{head}**", pair, gained, _judged(reference, verdicts)]))


def on_added(reference: ReferenceSet) -> str | None:
    """Which tricks, added alone to vanilla PPO, lower its rate of collapse after Holm's correction."""
    study = reference.several("add_one_in")
    if study is None:
        return None
    fewer, more, rest = arms_by_effect(study, "collapsed")
    total = len(fewer) + len(more) + len(rest)
    if floor := out_of_reach(study):
        head = f"Which of {total} tricks added alone to vanilla PPO lower its rate of collapse cannot be told"
        return f"**{head}**: {why_out_of_reach(study, floor)} {rate_still_allowed(study)}"
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
    return " ".join([*told, rate_still_allowed(study)])


def on_left_out(reference: ReferenceSet) -> str | None:
    """Which tricks PPO-max needs: against collapse, and for gold at the end."""
    study = reference.several("leave_one_out")
    if study is None:
        return None
    _, more, same = arms_by_effect(study, "collapsed")
    lower, higher, _ = arms_by_effect(study, "gold")
    total = len(study.arms) - 1
    if floor := out_of_reach(study):
        head = f"Which of {total} tricks PPO-max needs against collapse cannot be told"
        base = fate(study.arms.loc[study.base])
        told = [f"**{head}**: {why_out_of_reach(study, floor)} PPO-max itself collapsed in {base} runs."]
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
    told = [holds_given(reference), f"The {counted(len(runs), 'run')} of {link} were made by {made_by(runs)}."]
    erred = sorted({arm for study in reference.compared for arm in study.miscounted})
    if erred:
        told.append(f"The arm {coded(erred)} measures an error of that code ([log](docs/log/2026-11-25-equal-kl.md)).")
    return " ".join([*told, "Every interval, and what these runs cannot tell: [docs/findings.md](docs/findings.md)."])


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


def _judged(reference: ReferenceSet, verdicts: dict[str, Verdict]) -> str:
    """'The claim is supported in 3 studies.', 'The claim is supported in 1 study and cannot be told in 2 studies.'

    Studies have runs of the same settings, so that they do not confirm each other as independent ones would: then it is said how many
    runs end with the gold, proxy and KL, to the bit, of a run of another study.
    """
    words = {SUPPORTED: "is supported in", CONTRADICTED: "is contradicted in", CANNOT_TELL: "cannot be told in"}
    counts = {text: sum(found.verdict == word for found in verdicts.values()) for word, text in words.items()}
    said = [f"{text} {counted(number, 'study')}" for text, number in counts.items() if number]
    ends = pd.concat([reference.studies[name].outcomes[["study", *CONTINUOUS]] for name in verdicts])
    sizes = [len(same) for _, same in ends.groupby([*CONTINUOUS]) if same["study"].nunique() > 1]
    return f"The claim {listed(said)}" + (
        f", which are not independent: {sum(sizes)} of their {len(ends)} runs stand in several." if sizes else "."
    )


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
