"""The page's tables as HTML: they can be read without scripts, searched, printed and copied."""

from __future__ import annotations

from html import escape
from typing import Any

from analysis.report.cells import LAST, Cell, amount, arm_name, decimal, dot, interval, share, table, text
from analysis.report.curves import METRICS

ARMS = ("arm", "collapsed", "rate", "median update of collapse", "gold, end", "win rate, end", "gold, matched KL", "win rate, matched KL",
        "proxy, end", "KL, end")  # fmt: skip
WARNINGS = ("monitor", "before collapse it", "ROC area", "area", "collapses seen", "lead", "false alarms")
FITS = ("arm", "α", "β", "peak at √KL", "gold gained there", "R²", "seeds")
RUNS = ("arm", "seed", "status", "update", "collapsed at", "gold", "win rate", "KL", "proxy", "length")


def arms(data: dict[str, Any]) -> str:
    """Table 1: an arm a row."""
    rows = []
    for index, arm in enumerate(data["arms"]):
        unfinished = f" <small>{arm['unfinished']} of {arm['runs']} runs unfinished</small>" if arm["unfinished"] else ""
        collapsed = Cell(f"{arm['collapses']} of {arm['n']}{unfinished}", arm["rate"], "number")
        rate = Cell(f"{dot(arm['rate'], arm['rate_low'], arm['rate_high'])} {interval(arm, 'rate').html}", arm["rate"], "number")
        levels = [interval(arm, name) for name in ("gold", "win", "gold_at_kl", "win_at_kl", "proxy", "kl")]
        rows.append([arm_name(data, index), collapsed, rate, _median_time(arm), *levels])
    return table(ARMS, rows, "arms-table", range(len(rows)))


def _median_time(arm: dict[str, Any]) -> Cell:
    if arm["median_time"] is None:
        return amount(None)
    low, high = ("∞" if arm[f"median_time_{end}"] == "never" else decimal(arm[f"median_time_{end}"], 0) for end in ("low", "high"))
    shown = f" <small>[{low}, {high}]</small>" if low not in ("∞", "–") else ""
    never = arm["median_time"] == "never"
    return Cell(("not reached" if never else decimal(arm["median_time"], 0)) + shown, LAST if never else arm["median_time"], "number")


def warnings(data: dict[str, Any]) -> str:
    """Table 3: a monitor a row, best first."""
    if not data["warnings"]:
        return "<p>No early warning can be learned: it takes a collapse, and two seeds.</p>"
    rows = []
    for row in data["warnings"]:
        code = f"<small><code>{escape(row['monitor'])}</code></small>"
        monitor = Cell(f"{METRICS[row['monitor']].panel} {code}" if row["monitor"] in METRICS else code, row["monitor"])
        direction = text({1: "rises", -1: "falls", 0: "undecided"}[row["direction"]])
        area = [Cell(dot(row["auc"], row["low"], row["high"]), row["auc"]), interval(row, "auc", "")]
        lead = Cell("–" if row["lead"] is None else f"{row['lead']:g} updates", row["lead"], "number")
        rows.append([monitor, direction, *area, share(row["detected"]), lead, share(row["false_alarms"])])
    return table(WARNINGS, rows, "warning-table")


def fits(data: dict[str, Any]) -> str:
    """Table 2: Gao's fit, an arm a row."""
    found = [(index, entry["fit"]) for index, entry in enumerate(data["over"] or ()) if entry["fit"]]
    rows = []
    for index, fit in found:
        peak = interval(fit, "peak_d") if fit["peak_seen"] else Cell("beyond what was seen", LAST, "number")
        gain = interval(fit, "peak_gain") if fit["peak_seen"] else amount(None)
        numbers = [interval(fit, "alpha"), interval(fit, "beta"), peak, gain, amount(fit["r2"]), amount(fit["seeds"], 0)]
        rows.append([arm_name(data, index), *numbers])
    return (
        table(FITS, rows, "fit-table", [index for index, _ in found]) if rows else "<p>No arm has been measured at two distances yet.</p>"
    )


def runs(data: dict[str, Any]) -> str:
    """Table 4: what came out of every run, and the settings that differ between arms."""
    rows = []
    for run in data["runs"]["rows"]:
        reason = f" <small>{escape(run['reason'][:160])}</small>" if run["reason"] else ""
        when = f"{run['time']:g}" if run["event"] else "no" if run["collapsed"] == 0 else "–"
        collapse = Cell(when, run["time"] if run["event"] else LAST, "number")
        measured = [amount(run[name], 1 if name == "length" else 2) for name in ("gold", "win", "kl", "proxy", "length")]
        pairs = zip(run["settings"], data["runs"]["base"], strict=True)
        settings = [text(value, "same" if value == base else "") for value, base in pairs]
        who = [arm_name(data, run["arm"]), amount(run["seed"], 0), Cell(escape(run["status"]) + reason, run["status"])]
        rows.append([*who, amount(run["updates"], 0), collapse, *measured, *settings])
    head = (*RUNS, *(name.removeprefix("ppo.") for name in data["runs"]["settings"]))
    return table(head, rows, "run-table", [run["arm"] for run in data["runs"]["rows"]])
