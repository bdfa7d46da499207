"""The six points that the world must show over reward models, each judged on the runs of `sweep=world_check`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.estimate.effects import arm_effect
from analysis.estimate.equivalence import ALPHA, margin_of, shown_same
from analysis.estimate.stats import Interval, clustered_rate, mean_interval
from analysis.estimate.survival import median_time
from analysis.estimate.units import MIN_FOR_RATES, Basis, levels
from analysis.world_check.measures import STAGES_OF_A_RUN

PASS, FAIL, UNKNOWN = "pass", "fail", "cannot tell"
COLLAPSING, HOLDING = 0.9, 0.95  # least share of runs that collapse, or hold
MIDWAY = (0.3, 0.6)  # of the updates: where the median collapse must lie
CPU_SECONDS = 60.0  # of a run, without its stages
BASES = {
    "vanilla": "vanilla",
    "kl": "vanilla with a KL penalty",
    "ppo_max": "PPO-max",
    "ppo_max_without_kl": "PPO-max without its KL penalty",
    "rm_fewer_pairs": "fewer pairs",
    "rm_noisier_pairs": "noisier labels",
}
DIGITS = {"proxy": 2, "kl": 1, "length": 1, "perplexity": 2}
RISING = {"proxy": "proxy rises", "kl": "KL rises", "length": "length rises", "perplexity": "true perplexity falls"}


class Finding(NamedTuple):
    """What one part of a point asks, what the runs show, and the verdict on it; `lacking` names an arm without which it is open."""

    point: int
    asks: str
    found: str
    verdict: str
    lacking: str = ""


def findings(table: pd.DataFrame, limit: float = CPU_SECONDS) -> list[Finding]:
    """The parts of all six points. table: rows of `run_table` of one world. limit: CPU seconds that a run may take.

    Only runs that ended by themselves count. A part whose arm has none is `UNKNOWN`.
    """
    ended = table[table["ended"]].assign(arm=table["base"], held=1 - table["collapsed"])
    return [
        *collapse_findings(ended),
        *(finding for base in ("ppo_max", "kl") for finding in holding_findings(ended, base)),
        *monitor_findings(ended),
        rate_finding(4, "PPO-max without its KL penalty collapses in at least {} of runs", ended, "ppo_max_without_kl", "collapsed",
                     COLLAPSING),
        *(finding for base in ("rm_fewer_pairs", "rm_noisier_pairs") for finding in cost_findings(ended, base)),
        cost_of_a_run(ended, limit),
    ]  # fmt: skip


def verdict_of(parts: list[Finding]) -> str:
    """The verdict on a point from those on its parts: `FAIL` if one fails, else `UNKNOWN` if one is open, else `PASS`."""
    return next((verdict for verdict in (FAIL, UNKNOWN) if verdict in {part.verdict for part in parts}), PASS)


def rate_verdict(interval: Interval, basis: Basis, least: float) -> str:
    """Whether a share of runs is at least `least`.

    `PASS` if the share among these runs is, of at least six reward models: the interval beside it says what they leave possible.
    `FAIL` only if the whole interval lies below; a share below `least` that it may still be the rate of is `UNKNOWN`.
    """
    if interval.estimate >= least - 1e-9:
        return PASS if basis.reward_models >= MIN_FOR_RATES else UNKNOWN
    return FAIL if interval.high < least else UNKNOWN


def mean_verdict(interval: Interval, basis: Basis, sign: int) -> str:
    """Whether a mean over reward models is above 0 (sign 1) or below (−1): `PASS` or `FAIL` where its interval leaves out 0."""
    low, high = sorted((sign * interval.low, sign * interval.high))
    if high < 0:
        return FAIL
    return PASS if low > 0 and basis.reward_models > 1 and basis.enough() else UNKNOWN


def absent(point: int, asks: str, base: str) -> Finding:
    """The finding where no run of an arm has ended."""
    return Finding(point, asks, f"no finished run of {base}", UNKNOWN, base)


def rate_finding(point: int, asks: str, runs: pd.DataFrame, base: str, column: str, least: float) -> Finding:
    """A share of the runs of an arm, whose `column` is 1 or 0, against the least share asked for."""
    asks, mine = asks.format(percent(least)), runs[runs["arm"] == base].dropna(subset=[column])
    if mine.empty:
        return absent(point, asks, base)
    sample = levels(mine, column, [base])
    interval = clustered_rate(sample.values, sample.basis.runs)
    return Finding(point, asks, f"{int(mine[column].sum())} of {len(mine)} {shares(interval)}", rate_verdict(interval, sample.basis, least))


def collapse_findings(runs: pd.DataFrame) -> list[Finding]:
    """Point 1: vanilla collapses, midway, and its gold first rises above SFT's."""
    share = rate_finding(1, "vanilla collapses in at least {} of runs", runs, "vanilla", "collapsed", COLLAPSING)
    asks = "… at {} to {} of the updates, by the median".format(*map(percent, MIDWAY))
    mine = runs[runs["arm"] == "vanilla"]
    if mine.empty:
        return [share, absent(1, asks, "vanilla")]
    part = mine["end_update"] / mine["updates"]
    median = median_time(part.to_numpy(), mine["event"].to_numpy(), mine["reward_model"].to_numpy())
    inside = MIDWAY[0] <= median.estimate <= MIDWAY[1] and levels(mine, "end_update", ["vanilla"]).basis.reward_models >= MIN_FOR_RATES
    outside = median.high < MIDWAY[0] or median.low > MIDWAY[1]
    said = f"{percent(median.estimate)} {shares(median)}"
    rose = rate_finding(1, "… after its gold rose above SFT's, in at least {} of runs", runs, "vanilla", "rose", COLLAPSING)
    rise = mean_interval(levels(mine, "rise", ["vanilla"]).values)
    return [
        share,
        Finding(1, asks, said, PASS if inside else FAIL if outside else UNKNOWN),
        rose._replace(found=f"{rose.found}, at most by {numbers(rise)}"),
    ]


def holding_findings(runs: pd.DataFrame, base: str) -> list[Finding]:
    """Point 2, of one arm: it holds, and every one of its runs ends with more gold than SFT has."""
    share = rate_finding(2, f"{BASES[base]} holds in at least {{}} of runs", runs, base, "held", HOLDING)
    asks, mine = "… and ends with more gold than SFT in each of them", runs[runs["arm"] == base].dropna(subset=["gold_gain"])
    if mine.empty:
        return [share, absent(2, asks, base)]
    least = mine.loc[mine["gold_gain"].idxmin()]
    enough = levels(mine, "gold_gain", [base]).basis.reward_models >= MIN_FOR_RATES
    verdict = FAIL if (mine["gain_high"] < 0).any() else PASS if (mine["gold_gain"] > 0).all() and enough else UNKNOWN
    said = f"{int((mine['gold_gain'] > 0).sum())} of {len(mine)}, the least by {least['gold_gain']:+.2f}"
    return [share, Finding(2, asks, f"{said} {bounds(least['gain_low'], least['gain_high'])} over its prompts", verdict)]


def monitor_findings(runs: pd.DataFrame) -> list[Finding]:
    """Point 3: what the monitors of vanilla have done by the time its gold is greatest, and their course beyond."""
    mine, found = runs[runs["arm"] == "vanilla"], []
    for monitor, asks in RISING.items():
        asks = f"before vanilla's gold turns, {asks}"
        change = (mine[f"{monitor}_peak"] - mine[f"{monitor}_sft"]) if len(mine) else pd.Series(dtype=float)
        if change.notna().sum() == 0:
            found.append(absent(3, asks, "vanilla"))
            continue
        sample, sign = levels(mine.assign(change=change), "change", ["vanilla"]), -1 if monitor == "perplexity" else 1
        interval = mean_interval(sample.values)
        course = " → ".join(
            number(mean_interval(levels(mine, f"{monitor}_{stage}", ["vanilla"]).values).estimate, DIGITS[monitor])
            for stage in STAGES_OF_A_RUN
        )
        said = f"{course}; by gold's peak {numbers(interval)}, in {int((sign * change > 0).sum())} of {change.notna().sum()} runs"
        found.append(Finding(3, asks, said, mean_verdict(interval, sample.basis, sign)))
    return found


def cost_findings(runs: pd.DataFrame, base: str) -> list[Finding]:
    """Point 5, of one arm with worse pairs: against PPO-max on the same world it loses accuracy and gold.

    The p of `arm_effect` decides, which for gold compares runs of one fate: where a run of the arm collapsed, the interval of the mean
    over all pairs may hold 0 and the p be small. The part shows both.
    """
    found = []
    for outcome, asks in (("rm_accuracy", f"{BASES[base]} cost accuracy on pairs by gold"), ("gold", "… and gold at the end")):
        both = runs[runs["arm"].isin([base, "ppo_max"])].dropna(subset=[outcome])
        if lacking := [arm for arm in (base, "ppo_max") if arm not in set(both["arm"])]:
            found.append(absent(5, asks, lacking[0]))
            continue
        effect = arm_effect(both, [base], ["ppo_max"], outcome)
        decided = effect.basis.reward_models > 1 and effect.basis.enough()
        same = decided and shown_same(outcome, both, [base], ["ppo_max"], margin_of(outcome, both))
        shown = decided and effect.p < ALPHA
        verdict = PASS if shown and effect.estimate < 0 else FAIL if same or (shown and effect.estimate > 0) else UNKNOWN
        said = f"{numbers(Interval(effect.estimate, effect.low, effect.high), 3)}, p = {effect.p:.2g}"
        found.append(Finding(5, asks, said, verdict))
    return found


def cost_of_a_run(runs: pd.DataFrame, limit: float) -> Finding:
    """Point 6: the arm whose runs take longest takes no longer than the limit. Stages and imports are not counted."""
    asks, mine = f"a run takes at most {limit:g} s of processor time, in the slowest arm", runs.dropna(subset=["cpu_seconds"])
    if mine.empty:
        return Finding(6, asks, "no finished run has logged time/cpu_s", UNKNOWN)
    slowest = mine.groupby("arm")["cpu_seconds"].mean().idxmax()
    sample = levels(mine, "cpu_seconds", [slowest])
    interval = mean_interval(sample.values)
    verdict = mean_verdict(Interval(*(value - limit for value in interval)), sample.basis, -1)
    return Finding(6, asks, f"{slowest}: {interval.estimate:.0f} s {bounds(interval.low, interval.high, 0)}", verdict)


def number(value: float, digits: int = 1) -> str:
    """'17.2', or '–' for what is not known."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def percent(value: float) -> str:
    """'45 %', or 'never' for ∞."""
    return f"{100 * value:.0f} %" if np.isfinite(value) else "never"


def bounds(low: float, high: float, digits: int = 2) -> str:
    """'[−0.10, 0.25]', or why there is no interval."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) and np.isfinite(high) else "(no interval)"


def shares(interval: Interval) -> str:
    """'[63 %, 100 %]': the interval of a share."""
    return f"[{percent(interval.low)}, {percent(interval.high)}]"


def numbers(interval: Interval, digits: int = 2) -> str:
    """'+7.90 [5.10, 10.70]': a difference with its interval."""
    return f"{interval.estimate:+.{digits}f} {bounds(interval.low, interval.high, digits)}"
