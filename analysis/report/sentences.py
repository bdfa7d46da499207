"""The computed sentences of the page as plain text: the frontier test, and the cautions."""

from __future__ import annotations

from typing import Any

from analysis.estimate.units import MIN_SEEDS
from analysis.report.cells import decimal, ends


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def frontier(data: dict[str, Any]) -> list[dict[str, str]]:
    """{arm, sentence} per arm with a KL penalty. The sentence says whether gold at equal KL differs from that without the penalty."""
    items = []
    for row in data["frontier"]:
        known = f"gold at equal KL {_signed(row, 'estimate', '')} against {row['control']}, {row['basis']}"
        if row["unmeasured"]:
            missing = _count(row["unmeasured"], "pair was", "pairs were")
            at = f"{known}; {missing} not measured where they are compared: evaluation.every={row['every']:.0f} would do"
        else:
            at = known + (f"; about {row['needed']:.0f} would do" if row["needed"] else "")
        end = f"gold at its end {_signed(row, 'over_stopping', 'over_stopping_')} over {row['control']} stopped early"
        items.append({"arm": row["arm"], "sentence": f"{row['verdict']}: {at}; {end}."})
    return items


def _signed(row: dict[str, Any], name: str, prefix: str) -> str:
    if row[name] is None:
        return "unknown"
    sign = "+" if row[name] > 0 else ""
    return f"{sign}{decimal(row[name])} {ends(row[f'{prefix}low'], row[f'{prefix}high']) or '(no interval)'}"


def cautions(data: dict[str, Any]) -> list[str]:
    """What the data cannot tell: remarks of the analysis, comparisons with too few units, and every folder that was left out."""
    items = list(data["remarks"])
    if data["facts"]["few"]:
        items.append(
            f"Some arms have fewer than {MIN_SEEDS} runs or reward models: little is decided from so few, whatever the curves look like."
        )
    wanted = [part["needed"] for claim in data["claims"] for part in claim["parts"] if part["needed"]]
    if wanted:
        many = f"{min(wanted)} to {max(wanted)}" if min(wanted) < max(wanted) else f"{max(wanted)}"
        items.append(f"{_count(len(wanted), 'comparison is', 'comparisons are')} undecided that {many} seeds or reward models "
                     "would decide, "
                     "if the effects are as large as they look now.")  # fmt: skip
    items += [f"Left out ({row['what']}): {row['folder']}: {row['reason']}" for row in data["left_out"]]
    return items
