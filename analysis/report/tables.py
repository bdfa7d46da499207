"""The tables of the page as values. They stand in the HTML itself, so that they can be read without scripts, searched and printed."""

from __future__ import annotations

from typing import Any

from analysis.report.cells import LAST, Cell, Table, amount, arm_name, decimal, dot, ends, interval, share, text
from analysis.report.curves import METRICS

MATCHED = ("arm", "gold at matched KL", "win rate at matched KL", "gold at matched proxy", "win rate at matched proxy", "proxy at the end")
WARNINGS = ("monitor", "before collapse it", "ROC area", "area", "collapses seen", "lead", "false alarms")
FITS = ("arm", "α", "β", "peak at √KL", "gold gained there", "R²", "rests on")
RUNS = ("arm", "seed", "status", "update", "collapsed at", "gold", "win rate", "KL", "proxy", "length")


def arms(data: dict[str, Any]) -> Table:
    """Table 1: one row per arm in the order of `arm_answers`: collapses, median time, gold gained over SFT, win rate and KL."""
    several = not data["facts"]["basis"]
    rows = []
    for row in data["answers"]:
        told = ", ".join(f"{row[name]} {what}" for name, what in (("unfinished", "unfinished"), ("too_short", "too short")) if row[name])
        small = f"{told} of {row['runs']}" if told else ends(row["rate_low"], row["rate_high"])
        collapsed = Cell(f"{row['collapses']} of {row['n']}" if row["n"] else "–", row["rate"], "number", small=small,
                         dot=dot(row["rate"], row["rate_low"], row["rate_high"]))  # fmt: skip
        versus = Cell({"base": "the base", "": "–"}.get(row["versus"], row["versus"]), row["versus"],
                      small=f"p = {row['p_holm']:.2g}" if row["versus"] in ("fewer", "more") else "")  # fmt: skip
        gold = Cell("the base" if row["versus"] == "base" else row["gold_versus"] or "–", row["gold_versus"])
        basis = [text(row["basis"])] if several else []
        cells = [arm_name(data, row["arm"]), *basis, collapsed, versus, _median_time(row), interval(row, "gold_gain"), gold]
        rows.append([*cells, interval(row, "win"), interval(row, "kl")])
    head = ("arm", *(["rests on"] if several else []), "collapsed", "than the base", f"median {data['facts']['time_unit']} to collapse",
            "gold gained over SFT", "than the base", "win rate", "KL spent")  # fmt: skip
    return Table("arms-table", head, rows, [row["arm"] for row in data["answers"]])


def _median_time(row: dict[str, Any]) -> Cell:
    if row["n"] == 0 and row["unfinished"] == 0:
        return amount(None)
    low, high = ("∞" if row[f"median_time_{end}"] is None else decimal(row[f"median_time_{end}"], 0) for end in ("low", "high"))
    if row["median_time"] is None:
        return Cell(f"> {decimal(row['followed'], 0)}", LAST, "number")
    return Cell(decimal(row["median_time"], 0), row["median_time"], "number", f"[{low}, {high}]")


def matched(data: dict[str, Any]) -> Table:
    """Table 2: one row per arm, with the columns `MATCHED`. It has no rows where nothing was measured at a matched KL or proxy."""
    names = ("gold_at_kl", "win_at_kl", "gold_at_proxy", "win_at_proxy")
    order = [row["arm"] for row in data["answers"]]
    if all(arm[name] is None for arm in data["arms"] for name in names):
        return Table("matched-table", MATCHED, [])
    rows = [[arm_name(data, index), *(_of_runs(data["arms"][index], name) for name in (*names, "proxy"))] for index in order]
    return Table("matched-table", MATCHED, rows, order)


def _of_runs(arm: dict[str, Any], name: str) -> Cell:
    """The mean with its interval, or where not every run is known with the number of those that are."""
    cell, known = interval(arm, name), int(arm[f"{name}_n"])
    return cell if known in (0, arm["runs"]) else cell._replace(small=f"{cell.small} {known} of {arm['runs']} runs".strip())


def warnings(data: dict[str, Any]) -> Table:
    """Table 5: one row per monitor, best first, with the columns `WARNINGS`. It has no rows if no early warning can be learned."""
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
    """Table 4: the fit of Gao et al. (2023), one row per arm that has one, with the columns `FITS`."""
    found = [(index, entry["fit"]) for index, entry in enumerate(data["over"] or ()) if entry["fit"]]
    rows = []
    for index, fit in found:
        peak = interval(fit, "peak_d") if fit["peak_seen"] else Cell("beyond what was seen", LAST, "number")
        gain = interval(fit, "peak_gain") if fit["peak_seen"] else amount(None)
        numbers = [interval(fit, "alpha"), interval(fit, "beta"), peak, gain, amount(fit["r2"]), text(fit["basis"])]
        rows.append([arm_name(data, index), *numbers])
    return Table("fit-table", FITS, rows, [index for index, _ in found])


def settings(data: dict[str, Any]) -> Table:
    """One row per arm, one column per setting in which arms differ. A value that is not the base's has the sign ≠ before it."""
    names, base = data["settings"]["names"], data["settings"]["arms"][0]
    rows, order = [], [row["arm"] for row in data["answers"]]
    for index in order if names else ():
        pairs = zip(data["settings"]["arms"][index], base, strict=True)
        values = [Cell(value, value, "same") if value == own else Cell(f"≠ {value}", value, "differs") for value, own in pairs]
        rows.append([arm_name(data, index), *values])
    return Table("settings-table", ("arm", *(name.removeprefix("ppo.") for name in names)), rows, order if names else ())


def alarms(data: dict[str, Any]) -> Table:
    """Table 3: one row per arm: in how many runs each alarm sounded, at which median update, the same of two of them, and the verdict.

    It has no rows where no run has the monitors that a verdict by alarms takes.
    """
    found = data["alarms"]
    head = ("arm", *(alarm["title"] for alarm in found["alarms"]), f"{found['votes']} alarms: a collapse", "collapsed, as judged")
    rows, order = [], [row["arm"] for row in data["answers"]]
    if not any(arm["able"] for arm in found["arms"]):
        return Table("alarms-table", head, [])
    for judged in data["answers"]:
        arm = found["arms"][judged["arm"]]
        counts = [_sounded(arm["sounded"][alarm["name"]], arm["runs"]) for alarm in found["alarms"]]
        verdict = Cell(f"{judged['collapses']} of {judged['n']}" if judged["n"] else "–", judged["rate"], "number")
        rows.append([arm_name(data, judged["arm"]), *counts, _sounded(arm["collapsed"], arm["able"]), verdict])
    return Table("alarms-table", head, rows, order)


def _sounded(count: list[float | None], of: int) -> Cell:
    number, median = count
    small = "" if median is None else f"update {median:g}"
    return Cell(f"{number} of {of}" if of else "–", number, "number", small=small)


def runs(data: dict[str, Any]) -> Table:
    """Table 6: one row per run, with the columns `RUNS`, its reward model where runs differ in it, and settings that arms differ in."""
    rows, several = [], data["facts"]["reward_models"] > 1
    for run in data["runs"]["rows"]:
        when = f"{run['time']:g}" if run["event"] else "no" if run["collapsed"] == 0 else "–"
        collapse = Cell(when, run["time"] if run["event"] else LAST, "number")
        measured = [amount(run[name], 1 if name == "length" else 2) for name in ("gold", "win", "kl", "proxy", "length")]
        pairs = zip(run["settings"], data["runs"]["base"], strict=True)
        settings = [text(value, "same" if value == base else "") for value, base in pairs]
        status = Cell(run["status"], run["status"], small=run["reason"][:160])
        who = [arm_name(data, run["arm"]), amount(run["seed"], 0), status]
        model = [text(run["reward_model"])] if several else []
        rows.append([*who, amount(run["updates"], 0), collapse, *measured, *model, *settings])
    head = (*RUNS, *(["reward model"] if several else []), *(name.removeprefix("ppo.") for name in data["runs"]["settings"]))
    return Table("run-table", head, rows, [run["arm"] for run in data["runs"]["rows"]])
