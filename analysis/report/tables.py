"""The tables of the page as values. They stand in the HTML itself, so that they can be read without scripts, searched and printed."""

from __future__ import annotations

from typing import Any

from analysis.report.cells import LAST, Cell, Table, amount, arm_name, decimal, dot, interval, share, text
from analysis.report.curves import METRICS

ARMS = ("arm", "collapsed", "rate", "than the base", "median time to collapse", "gold gained over SFT", "than the base", "win rate, end",
        "KL spent", "proxy, end", "gold, matched KL", "change against the base")  # fmt: skip
WARNINGS = ("monitor", "before collapse it", "ROC area", "area", "collapses seen", "lead", "false alarms")
FITS = ("arm", "α", "β", "peak at √KL", "gold gained there", "R²", "rests on")
RUNS = ("arm", "reward model", "seed", "status", "update", "collapsed at", "gold", "win rate", "KL", "proxy", "length")


def arms(data: dict[str, Any]) -> Table:
    """Table 1: one row per arm, the base first and then by collapse rate and gold gained, with the columns `ARMS`."""
    rows, order, place = [], [], {arm["arm"]: index for index, arm in enumerate(data["arms"])}
    for found in data["answers"]:
        index = place[found["arm"]]
        arm = data["arms"][index]
        order.append(index)
        unfinished = f"{arm['unfinished']} of {arm['runs']} runs unfinished" if arm["unfinished"] else ""
        collapsed = Cell(f"{arm['collapses']} of {arm['n']}", arm["rate"], "number", small=unfinished)
        rate = interval(arm, "rate")._replace(dot=dot(arm["rate"], arm["rate_low"], arm["rate_high"]))
        gain, win, kl, proxy, matched = (interval(arm, name) for name in ("gold_gain", "win", "kl", "proxy", "gold_at_kl"))
        versus = text("base" if found["versus"] == "base" else f"{found['versus']}, p = {found['p_holm']:.2g}" if found["versus"] else "")
        rows.append([arm_name(data, index), collapsed, rate, versus, _median_time(arm), gain, text(found["gold_versus"]), win, kl, proxy,
                     matched, text(arm["change"])])  # fmt: skip
    return Table("arms-table", ARMS, rows, order)


def _median_time(arm: dict[str, Any]) -> Cell:
    if arm["median_time"] is None:
        return amount(None)
    low, high = ("∞" if arm[f"median_time_{end}"] == "never" else decimal(arm[f"median_time_{end}"], 0) for end in ("low", "high"))
    small = f"[{low}, {high}]" if low not in ("∞", "–") else ""
    if arm["median_time"] == "never":
        return Cell("not reached", LAST, "number", small)
    return Cell(decimal(arm["median_time"], 0), arm["median_time"], "number", small)


def warnings(data: dict[str, Any]) -> Table:
    """Table 3: one row per monitor, best first, with the columns `WARNINGS`. It has no rows if no early warning can be learned."""
    rows = []
    for row in data["warnings"]:
        label = METRICS[row["monitor"]].panel if row["monitor"] in METRICS else ""
        monitor = Cell(label, row["monitor"], metric=row["monitor"])
        direction = text({1: "rises", -1: "falls", 0: "undecided"}[row["direction"]])
        area = [Cell("", row["auc"], dot=dot(row["auc"], row["low"], row["high"])), interval(row, "auc", "")]
        lead = Cell("–" if row["lead"] is None else f"{row['lead']:g} updates", row["lead"], "number")
        rows.append([monitor, direction, *area, share(row["detected"]), lead, share(row["false_alarms"])])
    return Table("warning-table", WARNINGS, rows)


def fits(data: dict[str, Any]) -> Table:
    """Table 2: the fit of Gao et al. (2023), one row per arm that has one, with the columns `FITS`."""
    found = [(index, entry["fit"]) for index, entry in enumerate(data["over"] or ()) if entry["fit"]]
    rows = []
    for index, fit in found:
        peak = interval(fit, "peak_d") if fit["peak_seen"] else Cell("beyond what was seen", LAST, "number")
        gain = interval(fit, "peak_gain") if fit["peak_seen"] else amount(None)
        numbers = [interval(fit, "alpha"), interval(fit, "beta"), peak, gain, amount(fit["r2"]), text(fit["basis"])]
        rows.append([arm_name(data, index), *numbers])
    return Table("fit-table", FITS, rows, [index for index, _ in found])


def runs(data: dict[str, Any]) -> Table:
    """Table 4: one row per run, with the columns `RUNS` and the settings that differ between arms."""
    rows = []
    for run in data["runs"]["rows"]:
        when = f"{run['time']:g}" if run["event"] else "no" if run["collapsed"] == 0 else "–"
        collapse = Cell(when, run["time"] if run["event"] else LAST, "number")
        measured = [amount(run[name], 1 if name == "length" else 2) for name in ("gold", "win", "kl", "proxy", "length")]
        pairs = zip(run["settings"], data["runs"]["base"], strict=True)
        settings = [text(value, "same" if value == base else "") for value, base in pairs]
        status = Cell(run["status"], run["status"], small=run["reason"][:160])
        who = [arm_name(data, run["arm"]), text(run["reward_model"]), amount(run["seed"], 0), status]
        rows.append([*who, amount(run["updates"], 0), collapse, *measured, *settings])
    head = (*RUNS, *(name.removeprefix("ppo.") for name in data["runs"]["settings"]))
    return Table("run-table", head, rows, [run["arm"] for run in data["runs"]["rows"]])
