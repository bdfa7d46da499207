"""The computed sentences of the page as plain text: the lead, the frontier test, and the cautions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.estimate.stats import MIN_SEEDS
from analysis.report.cells import decimal, ends


def lead(data: dict[str, Any]) -> str:
    """The first sentences of the page: how many claims have which verdict, and which arms collapsed."""
    verdicts = [claim["verdict"] for claim in data["claims"]]
    judged = "These arms test no claim of the paper."
    if verdicts:
        which = f"Of the {len(verdicts)} claims" if len(verdicts) > 1 else "Of the one claim"
        fared = [_count(verdicts.count(word), f"is {word}", f"are {word}") for word in ("supported", "contradicted")]
        judged = (
            f"{which} of the paper that these arms can test, {', '.join(fared)}, and {verdicts.count('cannot tell')} cannot be told yet."
        )
    known = [arm for arm in data["arms"] if arm["n"]]
    if not known:
        return f"{judged} Nothing can be said about collapse yet."
    groups = {
        "every run that ended collapsed in": [arm for arm in known if arm["collapses"] == arm["n"]],
        "some did in": [arm for arm in known if 0 < arm["collapses"] < arm["n"]],
        "none did in": [arm for arm in known if not arm["collapses"]],
    }
    told = "; ".join(f"{words} {_names(group)}" for words, group in groups.items() if group)
    return f"{judged} {sum(arm['collapses'] for arm in known)} of {sum(arm['n'] for arm in known)} runs that ended collapsed: {told}."


def _names(arms: Sequence[dict[str, Any]]) -> str:
    names = [arm["arm"] for arm in arms]
    return f"{len(names)} arms" if len(names) > 4 else ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def frontier(data: dict[str, Any]) -> list[dict[str, str]]:
    """{arm, sentence} per arm with a KL penalty. The sentence says whether gold at equal KL differs from that without the penalty."""
    items = []
    for row in data["frontier"]:
        seeds = f"; about {row['seeds']:.0f} seeds would do" if row["seeds"] else ""
        at = f"gold at equal KL {_signed(row, 'estimate', '')} against {row['control']}, {row['n']} seeds{seeds}"
        end = f"gold at its end {_signed(row, 'over_stopping', 'over_stopping_')} over {row['control']} stopped early"
        items.append({"arm": row["arm"], "sentence": f"{row['verdict']}: {at}; {end}."})
    return items


def _signed(row: dict[str, Any], name: str, prefix: str) -> str:
    if row[name] is None:
        return "unknown"
    sign = "+" if row[name] > 0 else ""
    return f"{sign}{decimal(row[name])} {ends(row[f'{prefix}low'], row[f'{prefix}high']) or '(no interval)'}"


def cautions(data: dict[str, Any]) -> list[str]:
    """What the data cannot tell: remarks of the analysis, comparisons with too few seeds, and every folder that was left out."""
    items = list(data["remarks"])
    if data["facts"]["seeds"][0] < MIN_SEEDS:
        items.append(f"Some arms have fewer than {MIN_SEEDS} seeds: nothing is decided from so few, whatever the curves look like.")
    wanted = [part["seeds"] for claim in data["claims"] for part in claim["parts"] if part["seeds"]]
    if wanted:
        many = f"{min(wanted)} to {max(wanted)}" if min(wanted) < max(wanted) else f"{max(wanted)}"
        items.append(f"{_count(len(wanted), 'comparison is', 'comparisons are')} undecided that {many} seeds per arm would decide, "
                     "if the effects are as large as they look now.")  # fmt: skip
    items += [f"Left out ({row['what']}): {row['folder']}: {row['reason']}" for row in data["left_out"]]
    return items
