"""The page's sentences and tables as HTML: they can be read without scripts, searched, printed and copied."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from analysis.report.curves import METRICS

MARKS = {"supported": "✓", "contradicted": "✗", "cannot tell": "?"}


class Cell(NamedTuple):
    """`html` is markup, escaped by who makes it; `sort` what the column is ordered by."""

    html: str
    sort: float | str | None = None
    kind: str = ""


def text(value: Any) -> Cell:
    return Cell(escape(str(value)), str(value))


def decimal(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; an en dash for none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def amount(value: float | None, digits: int = 2) -> Cell:
    return Cell(decimal(value, digits), value, "number")


def interval(row: dict[str, Any], name: str, ends: str | None = None, digits: int = 2) -> Cell:
    """An estimate with its interval; `ends` is what the interval's names begin with, by default `name`_."""
    if row[name] is None:
        return Cell("–", None, "number")
    low, high = (row[f"{name}_{end}" if ends is None else ends + end] for end in ("low", "high"))
    shown = f" <small>[{decimal(low, digits)}, {decimal(high, digits)}]</small>" if low is not None and high is not None else ""
    return Cell(decimal(row[name], digits) + shown, row[name], "number")


def dot(value: float | None, low: float | None, high: float | None, start: float = 0.0, end: float = 1.0) -> str:
    """A dot with its interval on a short axis from `start` to `end`, as SVG; the middle is marked."""
    if value is None:
        return ""
    at = [4 + 92 * (min(max(x, start), end) - start) / (end - start) for x in (value if low is None else low, value, value if high is None else high)]
    return (f'<svg class="dot" viewBox="0 0 100 14" aria-hidden="true"><path class="axis" d="M4 7H96M50 3V11"/>'
            f'<path class="range" d="M{at[0]:.1f} 7H{at[2]:.1f}"/><circle cx="{at[1]:.1f}" cy="7" r="3.4"/></svg>')  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], name: str, row_attributes: Sequence[str] = ()) -> str:
    """A table in its own scrolling box, its columns sortable. Heads are plain text; the first column names the row."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(title)}</button></th>' for title in head)
    body = []
    for index, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            order = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort), quote=True)}"'
            kind = f' class="{cell.kind}"' if cell.kind else ""
            tag = 'th scope="row"' if column == 0 else "td"
            cells.append(f"<{tag}{order}{kind}>{cell.html}</{tag[:2]}>")
        body.append(f"<tr{row_attributes[index] if row_attributes else ''}>{''.join(cells)}</tr>")
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name, quote=True)}"><table id="{name}" class="sortable">'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>")  # fmt: skip


def arm_name(data: dict[str, Any], index: int) -> Cell:
    """An arm's name beside its line, as in the legend."""
    name = data["arms"][index]["arm"]
    return Cell(f'<span class="arm"><svg class="key" data-key="{index}" viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5H25"/></svg>{escape(name)}</span>', name)


def claims(data: dict[str, Any]) -> str:
    """Every judged claim of the paper: verdict, claim, and a sentence a comparison with its numbers."""
    if not data["claims"]:
        return "<p>No claim of the paper can be judged with these arms.</p>"
    items = []
    for claim in data["claims"]:
        parts = "".join(f"<li>{_badge(part['verdict'], small=True)} <span>{escape(part['sentence'])}.</span></li>" for part in claim["parts"])
        items.append(f'<li class="claim">{_badge(claim["verdict"])}<div><h3>{escape(claim["text"])} <small>{escape(claim["figure"])}</small></h3>'
                     f'<ul class="parts">{parts}</ul></div></li>')  # fmt: skip
    return f'<ol class="claims">{"".join(items)}</ol>'


def _badge(verdict: str, small: bool = False) -> str:
    kind = verdict.replace(" ", "-")
    return f'<span class="badge {kind}{" small" if small else ""}"><b aria-hidden="true">{MARKS[verdict]}</b> {verdict}</span>'


def lead(data: dict[str, Any]) -> str:
    """Two sentences before anything else: how the claims fare, and which arms collapsed."""
    verdicts = [claim["verdict"] for claim in data["claims"]]
    counts = ", ".join(f"{verdicts.count(word)} {'is' if verdicts.count(word) == 1 else 'are'} {word}" for word in ("supported", "contradicted"))
    several = f"Of the {len(verdicts)} claims of the paper" if len(verdicts) != 1 else "Of the one claim of the paper"
    judged = f"{several} that these arms can test, {counts}, and {verdicts.count('cannot tell')} cannot be told yet." if verdicts else (
        "These arms test no claim of the paper.")  # fmt: skip
    known = [arm for arm in data["arms"] if arm["n"]]
    if not known:
        return judged + " Nothing can be said about collapse yet."
    always, never = [arm for arm in known if arm["collapses"] == arm["n"]], [arm for arm in known if not arm["collapses"]]
    others = [arm for arm in known if 0 < arm["collapses"] < arm["n"]]
    groups = [(always, "every judged run collapsed in {}"), (others, "some did in {}"), (never, "none did in {}")]
    told = "; ".join(words.format(_names(group)) for group, words in groups if group)
    facts = data["facts"]
    return f"{judged} {facts['collapses']} of {facts['judged']} judged runs collapsed: {told}."


def _names(arms: Sequence[dict[str, Any]]) -> str:
    names = [arm["arm"] for arm in arms]
    return f"{len(names)} arms" if len(names) > 4 else ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def arms(data: dict[str, Any]) -> str:
    """The arms table."""
    head = ("arm", "collapsed", "rate", "median update of collapse", "gold, end", "win rate, end", "gold, matched KL", "win rate, matched KL", "proxy, end",
            "KL, end")  # fmt: skip
    rows = []
    for index, arm in enumerate(data["arms"]):
        unfinished = f" <small>{arm['unfinished']} of {arm['runs']} runs unfinished</small>" if arm["unfinished"] else ""
        collapsed = Cell(f"{arm['collapses']} of {arm['n']}{unfinished}", arm["rate"], "number")
        rate = Cell(f"{dot(arm['rate'], arm['rate_low'], arm['rate_high'])} {interval(arm, 'rate').html}", arm["rate"], "number")
        levels = [interval(arm, name) for name in ("gold", "win", "gold_at_kl", "win_at_kl", "proxy", "kl")]
        rows.append([arm_name(data, index), collapsed, rate, _median_time(arm), *levels])
    return table(head, rows, "arms-table", _arm_attributes(range(len(rows))))


def _median_time(arm: dict[str, Any]) -> Cell:
    if arm["median_time"] is None:
        return Cell("–", None, "number")
    ends = ["∞" if arm[f"median_time_{end}"] == "never" else decimal(arm[f"median_time_{end}"], 0) for end in ("low", "high")]
    shown = f" <small>[{ends[0]}, {ends[1]}]</small>" if ends[0] != "∞" else ""
    never = arm["median_time"] == "never"
    return Cell(("not reached" if never else decimal(arm["median_time"], 0)) + shown, 1e9 if never else arm["median_time"], "number")


def _arm_attributes(arms: Sequence[int]) -> list[str]:
    return [f' data-arm="{arm}"' for arm in arms]


def cautions(data: dict[str, Any]) -> str:
    """What the data cannot tell: remarks of the analysis, claims that want seeds, and every folder that was left out."""
    wanted = [part["seeds"] for claim in data["claims"] for part in claim["parts"] if part["seeds"]]
    items = [escape(remark) for remark in data["remarks"]]
    if wanted:
        items.insert(0, f"{len(wanted)} comparisons are undecided; with {min(wanted)} to {max(wanted)} seeds an arm they would be decided, "
                        "if the effects are as large as they look now.")  # fmt: skip
    if data["facts"]["seeds"][0] < 5:
        items.insert(0, "Some arms have fewer than 5 seeds: nothing is decided from so few, whatever the curves look like.")
    unfinished = sum(count for status, count in data["facts"]["status"].items() if status not in ("completed", "diverged"))
    if unfinished:
        items.append(f"{unfinished} runs have not ended: their collapse counts if they had one, their end is unknown.")
    items += [f"Left out ({escape(row['what'])}): {escape(str(row['folder']))}: {escape(row['reason'])}" for row in data["left_out"]]
    return f'<ul class="cautions">{"".join(f"<li>{item}</li>" for item in items)}</ul>' if items else "<p>Nothing was left out.</p>"


def warnings(data: dict[str, Any]) -> str:
    """The early-warning table, best monitor first."""
    if not data["warnings"]:
        return "<p>No early warning can be learned: it takes a collapse, and two seeds.</p>"
    head = ("monitor", "before collapse it", "ROC area", "area", "collapses seen", "lead", "false alarms")
    rows = []
    for row in data["warnings"]:
        label = METRICS[row["monitor"]].label if row["monitor"] in METRICS else row["monitor"]
        monitor = Cell(f"{escape(label)} <small><code>{escape(row['monitor'])}</code></small>", row["monitor"])
        direction = {1: "rises", -1: "falls", 0: "undecided"}[row["direction"]]
        shares = [Cell("–" if row[name] is None else f"{row[name]:.0%}", row[name], "number") for name in ("detected", "false_alarms")]
        lead_time = Cell("–" if row["lead"] is None else f"{row['lead']:g} updates", row["lead"], "number")
        rows.append([monitor, text(direction), Cell(dot(row["auc"], row["low"], row["high"]), row["auc"]), interval(row, "auc", ""), shares[0], lead_time, shares[1]])
    return table(head, rows, "warning-table")


def fits(data: dict[str, Any]) -> str:
    """The table of Gao's fits, an arm a row."""
    found = [(index, entry["fit"]) for index, entry in enumerate(data["over"] or ()) if entry["fit"]]
    if not found:
        return ""
    head = ("arm", "α", "β", "peak at √KL", "gold gained there", "R²", "seeds")
    rows = []
    for index, fit in found:
        peak = interval(fit, "peak_d") if fit["peak_seen"] else Cell("beyond what was seen", 1e9, "number")
        gain = interval(fit, "peak_gain") if fit["peak_seen"] else Cell("–", None, "number")
        rows.append([arm_name(data, index), interval(fit, "alpha"), interval(fit, "beta"), peak, gain, amount(fit["r2"]), amount(fit["seeds"], 0)])
    return table(head, rows, "fit-table", _arm_attributes([index for index, _ in found]))


def frontier(data: dict[str, Any]) -> str:
    """A sentence an arm with a KL penalty: does it move gold at equal KL, or only stop earlier?"""
    sentences = []
    for row in data["frontier"]:
        at = f"gold at equal KL {_signed(row, 'estimate', '')} against {escape(data['base'])} without the penalty, {row['n']} seeds"
        end = f"gold at its end {_signed(row, 'over_stopping', 'over_stopping_')} over {escape(data['base'])} stopped early"
        sentences.append(f"<li><b>{escape(row['arm'])}</b>: {escape(row['verdict'])}: {at}; {end}.</li>")
    return f"<ul class='plain'>{''.join(sentences)}</ul>" if sentences else (
        "<p>The test needs the base arm without a KL penalty and an arm that adds nothing but the penalty; this study has no such pair.</p>")  # fmt: skip


def _signed(row: dict[str, Any], name: str, prefix: str) -> str:
    if row[name] is None:
        return "unknown"
    shown = f"{row[name]:+.2f}".replace("-", "−")
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return f"{shown} [{decimal(low)}, {decimal(high)}]" if low is not None and high is not None else f"{shown} (no interval from one seed)"


def runs(data: dict[str, Any]) -> str:
    """The run table: what came out, and the settings that differ between arms."""
    names = data["runs"]["settings"]
    head = ("arm", "seed", "status", "update", "collapsed at", "gold", "win rate", "KL", "proxy", "length", *(name.removeprefix("ppo.") for name in names))
    rows = []
    for run in data["runs"]["rows"]:
        collapse = Cell(f"{run['time']:g}" if run["event"] else "no" if run["collapsed"] == 0 else "–", run["time"] if run["event"] else 1e9, "number")
        status = Cell(escape(run["status"]) + (f" <small>{escape(run['reason'][:160])}</small>" if run["reason"] else ""), run["status"])
        measured = [amount(run[name], 1 if name == "length" else 2) for name in ("gold", "win", "kl", "proxy", "length")]
        settings = [text(value) for value in run["settings"]]
        rows.append([arm_name(data, run["arm"]), amount(run["seed"], 0), status, amount(run["updates"], 0), collapse, *measured, *settings])
    return table(head, rows, "run-table", _arm_attributes([run["arm"] for run in data["runs"]["rows"]]))
