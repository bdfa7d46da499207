"""Verdicts laid out as plain text, as Markdown and as CSV.

Every number comes from `analysis.claims.study`, every sentence from `analysis.claims`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ablate.system.tables import text_table
from analysis.claims.answer import answer, arm_answers, question_of
from analysis.claims.judge import CANNOT_TELL
from analysis.claims.paper import UNJUDGED
from analysis.claims.study import StudyVerdicts
from analysis.estimate.overoptimisation import frontier_words
from analysis.markdown import markdown_table, plain

WIDTH = 130  # of lines of prose; tables are as wide as their arms' names need
AT_END, AT_MATCHED = ("gold", "win", "proxy", "kl"), ("gold_at_kl", "win_at_kl", "gold_at_proxy", "win_at_proxy")
WARNING = ["monitor", "direction", "area", "detected", "lead", "false_alarms", "collapses", "runs"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula in a spreadsheet
MONITORS = 12  # as many as fit a reader's screen; --csv has all
FRAMES = ("outcomes", "arms", "effects", "factorial", "thresholds", "frontier", "warnings")


def as_text(verdicts: StudyVerdicts, *, everything: bool = False) -> str:
    """The verdicts as plain text: question, answer, arms, claims and what the numbers rest on.

    everything: also each claim's parts, the figures not judged, and every other table.
    """
    lines = [f"== {verdicts.study} =="]
    if question := question_of(verdicts.study):
        lines.append(_wrapped(question, ""))
    lines += ["", *(_wrapped(sentence, "") for sentence in answer(verdicts)), "", _three_things(verdicts), ""]
    claims = sorted(verdicts.claims, key=lambda pair: pair[1].verdict == CANNOT_TELL)
    for _, verdict in claims:
        lines.append(_wrapped(verdict.sentence, ""))
        if everything or verdict.verdict != CANNOT_TELL:
            lines += [_wrapped(part.sentence, "    ") for part in verdict.parts]
    if not claims:
        lines.append("No claim of the paper can be judged with these arms.")
    if everything:
        judged = {claim.figure for claim, _ in verdicts.claims}
        lines += [
            _wrapped(f"not judged by any run: {text} [{figure}]: {why}", "") for figure, text, why in UNJUDGED if figure not in judged
        ]
        for title, table in _tables(verdicts):
            lines += ["", _wrapped(title, ""), _printed(table)]
    lines += ["", *(_wrapped(remark, "") for remark in verdicts.remarks)]
    return "\n".join(
        lines if everything else [*lines, "--all shows effects with intervals, equal KL and proxy, thresholds and early warnings."]
    )


def _three_things(verdicts: StudyVerdicts) -> str:
    """Survival, gold and KL of every arm, the base first."""
    table, rows = arm_answers(verdicts), []
    last = dict(verdicts.outcomes.groupby("arm", observed=True)["time"].max())
    unit = verdicts.outcomes["time_unit"].iloc[0]
    for row in table.to_dict("records"):
        collapsed = f"{row['collapses']} of {row['n']} {_interval(row, 'rate').partition(' ')[2]}" if row["n"] else "–"
        never = np.isinf(row["median_time"])
        versus = {"base": "(base)", "": ""}.get(row["versus"], f"{row['versus']}, p = {row['p_holm']:.2g}")
        rows.append([row["name"], row["basis"], collapsed, versus, f"> {last[row['arm']]:g}" if never else f"{row['median_time']:g}",
                     _interval(row, "gold_gain"), row["gold_versus"], _interval(row, "win"), _interval(row, "kl")])  # fmt: skip
    header = [
        "arm",
        "runs",
        "collapsed [95 %]",
        "than the base",
        f"median {unit}",
        "gold gained over SFT",
        "than the base",
        "win rate",
        "KL spent",
    ]
    if table["basis"].nunique() == 1:
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
        basis = f" Every arm: {table['basis'].iloc[0]}."
    else:
        basis = ""
    note = f"Means with 95 % t intervals, rates with exact ones; tests against the base after Holm over arms.{basis}"
    return "\n".join([text_table(header, rows), _wrapped(note, "")])


def _printed(table: pd.DataFrame) -> str:
    return text_table([f"{name}" for name in table.columns], [[f"{cell}" for cell in row] for row in table.itertuples(index=False)])


def as_markdown(verdicts: StudyVerdicts) -> str:
    """Claims and arms as two Markdown tables, for a README."""
    claims = [
        dict(claim=f"{claim.text} [{claim.figure}]", verdict=f"**{verdict.verdict}**",
             numbers="; ".join(part.sentence.partition(": ")[2] for part in verdict.parts))
        for claim, verdict in verdicts.claims
    ]  # fmt: skip
    parts = [f"### {plain(verdicts.study)}"]
    parts += [markdown_table(pd.DataFrame(claims))] if claims else []
    return "\n\n".join([*parts, markdown_table(arms_shown(verdicts, AT_END)), *map(plain, verdicts.remarks)]) + "\n"


def claims_frame(verdicts: StudyVerdicts) -> pd.DataFrame:
    """One row per part of a claim: figure, claim, verdict, part, outcome, expects, arms, effect, basis, needed, sentence.

    `part` is the part's own verdict.
    """
    rows = []
    for claim, verdict in verdicts.claims:
        for asked, found in zip(claim.parts, verdict.parts, strict=True):
            effect = found.effect._asdict() | {"basis": str(found.effect.basis)} if found.effect else {}
            rows.append(dict(figure=claim.figure, claim=claim.text, verdict=verdict.verdict, part=found.verdict, outcome=asked.outcome,
                             expects=asked.expects, arms=" ".join(dict.fromkeys(found.arms)), **effect, needed=found.needed,
                             sentence=found.sentence))  # fmt: skip
    return pd.DataFrame(rows)


def write_csv(verdicts: StudyVerdicts, folder: Path) -> None:
    """Every frame as folder/STUDY/NAME.csv; empty ones are not written."""
    target = folder / verdicts.study
    target.mkdir(parents=True, exist_ok=True)
    for name, frame in {"claims": claims_frame(verdicts), **{name: getattr(verdicts, name) for name in FRAMES}}.items():
        if len(frame):
            frame.map(no_formula).to_csv(target / f"{name}.csv", index=False)


def no_formula(cell: object) -> object:
    """The cell, with an apostrophe before a text that a spreadsheet would take for a formula; numbers stay numbers."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "    ", break_on_hyphens=False)


def _tables(verdicts: StudyVerdicts) -> list[tuple[str, pd.DataFrame]]:
    """(title, table) of everything that is a table and not empty."""
    unit = verdicts.outcomes["time_unit"].iloc[0]
    tables = [(f"Arms at the end of runs (means [95 % t interval]; rates [95 % exact]; time in {unit}, – not reached; (n): known of n runs "
               "only)", arms_shown(verdicts, AT_END))]  # fmt: skip
    if verdicts.arms[list(AT_MATCHED)].notna().any(axis=None):
        tables.append(("Arms at matched KL and at matched proxy", arms_shown(verdicts, AT_MATCHED)))
    if len(verdicts.effects):
        base = verdicts.effects["base"].iloc[0]
        title = f"Effect against {base} (paired [95 %]; * p < 0.05, ** 0.01, *** 0.001 after Holm over arms)"
        tables.append((title, _effects(verdicts.effects)))
        tables.append((f"What sets the arms apart from {base} (+ switched on, − switched off)", _changes(verdicts.effects)))
    if len(verdicts.factorial):
        shown = verdicts.factorial.assign(effect=[_interval(row) for row in verdicts.factorial.to_dict("records")])
        shown = shown[["outcome", "term", "effect", "p_holm", "n"]].round(3)
        tables.append(("Factorial: main and two-way effects (paired)", shown))
    if len(verdicts.frontier):
        same = f"(the same if the 90 % interval is within ± {verdicts.frontier['margin'].iloc[0]:.2f})"
        title = (
            f"KL penalty against early stopping: gold at equal KL on the way [95 %] {same}, and gold at its end over that of no penalty at "
            "that KL, and over that of stopping early without it"
        )
        tables.append((title, _frontier(verdicts.frontier)))
    if len(verdicts.warnings):
        rows = verdicts.warnings.head(MONITORS)
        shown = rows.assign(area=[_interval(row, "auc", prefix="") for row in rows.to_dict("records")], lead=_known(rows["lead"]))
        title = f"Early warning of a collapse within 15 updates, on held-out units (best {len(rows)} of {len(verdicts.warnings)} monitors)"
        tables.append((title, shown[WARNING].round(2)))
    if len(verdicts.thresholds):
        wide = verdicts.thresholds.assign(of=[f"{row.collapses}/{row.n}" for row in verdicts.thresholds.itertuples()])
        wide = wide.pivot(index="arm", columns="threshold", values="of")
        tables.append(("Collapses by threshold (SDs of SFT's gold)", wide.rename_axis(columns=None).reset_index()))
    return tables


def _known(values: pd.Series) -> list[str]:
    return ["–" if pd.isna(value) else f"{value:g}" for value in values]


def _number(value: float) -> str:
    """Two decimals, fewer for large numbers; – for ∞."""
    return "–" if np.isinf(value) else f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def _interval(row: dict, name: str = "", prefix: str | None = None) -> str:
    """'estimate [low, high]' of the columns name, name_low, name_high (or of estimate, low, high); – if there is none."""
    prefix = (f"{name}_" if name else "") if prefix is None else prefix
    estimate, low, high = row[name or "estimate"], row[f"{prefix}low"], row[f"{prefix}high"]
    if pd.isna(estimate):
        return "–"
    runs = row.get(f"{name}_n" if name else "n", 2)
    if runs == 1 or np.isnan(low):
        return f"{_number(estimate)} (1 run)" if runs == 1 else f"{_number(estimate)} (no interval)"
    return f"{_number(estimate)} (all equal)" if np.isneginf(low) else f"{_number(estimate)} [{_number(low)}, {_number(high)}]"


def arms_shown(verdicts: StudyVerdicts, levels: Sequence[str]) -> pd.DataFrame:
    """One row per arm as text: runs that have ended, collapses and when (with the levels at the end), and `levels`."""
    last, rows = dict(verdicts.outcomes.groupby("arm")["time"].max()), []
    for row in verdicts.arms.to_dict("records"):
        ended = row["runs"] - row["unfinished"]
        shown = {"arm": row["arm"], "runs": f"{ended} of {row['runs']}" if row["unfinished"] else str(ended)}
        if levels == AT_END:
            shown["collapsed"] = f"{row['collapses']}/{row['n']} {_interval(row, 'rate').partition(' ')[2]}" if row["n"] else "–"
            never = np.isinf(row["median_time"]) and np.isinf(row["median_time_low"])
            shown["median time"] = f"> {last[row['arm']]:.0f}" if never else _times(row)
        for level in levels:
            missing = 1 < row[f"{level}_n"] < ended
            shown[level.replace("_", " ")] = _interval(row, level) + (f" ({row[f'{level}_n']})" if missing else "")
        rows.append(shown)
    return pd.DataFrame(rows)


def _times(row: dict) -> str:
    if row["runs"] == 1:
        return f"{row['median_time']:.0f} (1 run)"
    low, high = (_number(row[f"median_time_{end}"]).partition(".")[0] for end in ("low", "high"))
    return f"{_number(row['median_time']).partition('.')[0]} [{low}, {high}]"


def _effects(effects: pd.DataFrame) -> pd.DataFrame:
    shown = effects.assign(text=[_interval(row) + _stars(row) if row["n"] else "–" for row in effects.to_dict("records")])
    wide = shown.pivot(index="arm", columns="outcome", values="text")[list(dict.fromkeys(effects["outcome"]))]
    return wide.rename(columns=lambda name: name.replace("_", " ")).rename_axis(columns=None).reset_index()


def _stars(row: dict) -> str:
    return " " + "*" * sum(row["p_holm"] < level for level in (0.05, 0.01, 0.001)) if row["p_holm"] < 0.05 else ""


def _changes(effects: pd.DataFrame) -> pd.DataFrame:
    """arm, change; 'False → True' is said as + and its reverse as −, as most changes switch a trick."""
    table = effects.drop_duplicates("arm")[["arm", "change"]]
    short = [re.sub(r"(\S+) True → False", r"−\1", re.sub(r"(\S+) False → True", r"+\1", text)) for text in table["change"]]
    width = WIDTH - table["arm"].str.len().max() - 2
    rows = [(arm if not i else "", line) for arm, text in zip(table["arm"], short, strict=True)
            for i, line in enumerate(textwrap.wrap(text, width, break_on_hyphens=False) or ["nothing: equal settings"])]  # fmt: skip
    longest = max(len(line) for _, line in rows)
    return pd.DataFrame([(arm, line.ljust(longest)) for arm, line in rows], columns=["arm", "change"])


def _frontier(frontier: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in frontier.to_dict("records"):
        verdict = frontier_words(row["verdict"], row["at_end"], row["at_end_p"])
        rows.append({"arm": row["arm"], "against": row["control"], "verdict": verdict, "at equal KL": _interval(row),
                     "rests on": row["basis"], "at its end": _interval(row, "at_end"), "over stopping": _interval(row, "over_stopping"),
                     "would do": _would_do(row)})  # fmt: skip
    return pd.DataFrame(rows)


def _would_do(row: dict) -> str:
    if row["verdict"] != CANNOT_TELL:
        return ""
    if row["unmeasured"]:
        return f"evaluation.every={row['every']:.0f}"
    return "none below 1000" if pd.isna(row["needed"]) else f"about {row['needed']:.0f}"
