"""The computed sentences of the page as plain text: the set-up, the frontier test, and the cautions."""

from __future__ import annotations

from typing import Any

from analysis.estimate.overoptimisation import frontier_words
from analysis.estimate.units import MIN_SEEDS
from analysis.report.cells import decimal, ends


def setup(data: dict[str, Any]) -> str:
    """The set-up in one line: model, data, responses per update × updates, and the accuracy of the reward model."""
    told = [data["setup"][name] for name in ("model", "data", "amount", "accuracy") if data["setup"][name]]
    return f"{' · '.join(told)}." if told else ""


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def frontier(data: dict[str, Any]) -> list[dict[str, str]]:
    """{arm, sentence} per arm with a KL penalty. The sentence says whether gold at equal KL differs from that without the penalty."""
    items = []
    for row in data["frontier"]:
        at = f"gold at equal KL {_signed(row, 'estimate', '')} against {row['control']}, {row['basis']}{_would_do(row)}"
        verdict = frontier_words(row["verdict"], row["at_end"] or 0.0, 1.0 if row["at_end_p"] is None else row["at_end_p"])
        then = f"gold at its end {_signed(row, 'at_end', 'at_end_')} over {row['control']} when it had that KL"
        end = f"{_signed(row, 'over_stopping', 'over_stopping_')} over {row['control']} stopped early"
        items.append({"arm": row["arm"], "sentence": f"{verdict}: {at}; {then}, {end}."})
    return items


def _would_do(row: dict[str, Any]) -> str:
    if row["unmeasured"]:
        missing = _count(row["unmeasured"], "pair was", "pairs were")
        return f"; {missing} not measured in that range: evaluation.every={row['every']:.0f} would do"
    unit = "reward models" if "reward models" in row["basis"] else "seeds"
    return f"; about {row['needed']:.0f} {unit} would do" if row["needed"] else ""


def _signed(row: dict[str, Any], name: str, prefix: str) -> str:
    if row[name] is None:
        return "unknown"
    sign = "+" if row[name] > 0 else ""
    return f"{sign}{decimal(row[name])} {ends(row[f'{prefix}low'], row[f'{prefix}high']) or '(no interval)'}"


def cautions(data: dict[str, Any]) -> list[str]:
    """What the numbers rest on: remarks of the analysis, comparisons with too few units, and every folder that was left out."""
    items = list(data["remarks"])
    if data["facts"]["units"] < MIN_SEEDS:
        items.append(f"Some arms have fewer than {MIN_SEEDS} units of inference (reward models where they vary, else seeds), so their "
                     "means have wide intervals or none.")  # fmt: skip
    wanted = [part["needed"] for claim in data["claims"] for part in claim["parts"] if part["needed"]]
    if wanted:
        many = f"{min(wanted)} to {max(wanted)}" if min(wanted) < max(wanted) else f"{max(wanted)}"
        unit = "reward models" if data["facts"]["reward_models"] > 1 else "seeds per arm"
        items.append(f"{_count(len(wanted), 'comparison is', 'comparisons are')} undecided that {many} {unit} would decide, "
                     "if the effects are as large as they look now.")  # fmt: skip
    items += [f"Left out ({row['what']}): {row['folder']}: {row['reason']}" for row in data["left_out"]]
    return items
