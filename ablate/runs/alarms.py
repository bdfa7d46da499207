"""Alarms: the verdict on collapse where no gold reward exists, from monitors that need none. No torch here.

Each alarm is a statistic of an update's monitors against those of SFT, without a unit, so that one threshold serves models of any size
and vocabulary. It sounds once the statistic has been beyond its threshold in `PATIENCE` updates in a row, and a run counts as collapsed
once `VOTES` alarms have sounded. `python -m analysis.alarms` learned the thresholds on runs of the embedded world, where gold tells the
truth, and measured false alarms, misses and lead on reward models that were held out; `docs/explanation/alarms.md` has its table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

PATIENCE = 5  # updates in a row
VOTES = 2  # alarms
Monitors = Mapping[str, float | None]


@dataclass(frozen=True)
class Alarm:
    """A statistic of a row of metrics against the row of SFT, and its threshold.

    name: `alarm/<name>` in metrics.jsonl. title: of a panel. formula: in words, for tables. statistic: (row, row of SFT) → value, NaN
    where a monitor is missing. rises: whether values above the threshold are beyond it; else those below.
    """

    name: str
    title: str
    formula: str
    statistic: Callable[[Monitors, Monitors], float]
    threshold: float
    rises: bool

    def beyond(self, value: float) -> bool:
        """Whether a value of the statistic is beyond the threshold; NaN is not."""
        return value > self.threshold if self.rises else value < self.threshold


def monitor(row: Monitors, name: str) -> float:
    """`monitor/<name>` of a row; NaN where it is missing."""
    value = row.get(f"monitor/{name}")
    return math.nan if value is None else float(value)


def ratio(value: float, base: float) -> float:
    """value / base, NaN where `base` is not positive."""
    return value / base if base > 0 else math.nan


def kl(row: Monitors, sft: Monitors) -> float:
    """KL(π‖π_SFT) per token / entropy of SFT per token. KL is the sampled mean where the sum over the vocabulary was not logged."""
    full = ratio(monitor(row, "kl_to_sft"), monitor(row, "response_length"))
    return ratio(monitor(row, "kl_per_token") if math.isnan(full) else full, monitor(sft, "entropy"))


def nll_under_sft(row: Monitors, sft: Monitors) -> float:
    """Mean NLL per token of the answers under SFT / the same of SFT's own answers: log perplexity_ref over that of SFT."""
    return ratio(log(monitor(row, "perplexity_ref")), log(monitor(sft, "perplexity_ref")))


def entropy(row: Monitors, sft: Monitors) -> float:
    """Entropy per token / that of SFT."""
    return ratio(monitor(row, "entropy"), monitor(sft, "entropy"))


def distinct(row: Monitors, sft: Monitors) -> float:
    """Share of different bigrams within an answer / that of SFT."""
    return ratio(monitor(row, "distinct"), monitor(sft, "distinct"))


def distinct_across(row: Monitors, sft: Monitors) -> float:
    """Share of different bigrams over all answers of the update / that of SFT."""
    return ratio(monitor(row, "distinct_across"), monitor(sft, "distinct_across"))


def length(row: Monitors, sft: Monitors) -> float:
    """Mean length of an answer / that of SFT."""
    return ratio(monitor(row, "response_length"), monitor(sft, "response_length"))


def truncated(row: Monitors, sft: Monitors) -> float:
    """Share of answers that never ended, less that of SFT."""
    return monitor(row, "truncated") - monitor(sft, "truncated")


def reward_length(row: Monitors, sft: Monitors) -> float:
    """Correlation of score and length, less that of SFT."""
    return monitor(row, "reward_length_corr") - monitor(sft, "reward_length_corr")


def log(value: float) -> float:
    """The natural logarithm, NaN where `value` is not positive."""
    return math.log(value) if value > 0 else math.nan


ALARMS = (
    Alarm("kl", "KL over SFT's entropy", "KL to SFT per token / entropy of SFT per token", kl, 0.65, True),
    Alarm("nll_under_sft", "NLL under SFT", "NLL of the answers under SFT / NLL of SFT's own answers", nll_under_sft, 1.22, True),
    Alarm("entropy", "entropy over SFT's", "entropy per token / that of SFT", entropy, 0.39, False),
    Alarm("distinct", "distinct bigrams over SFT's", "different bigrams within an answer / those of SFT", distinct, 0.80, False),
    Alarm(
        "distinct_across", "distinct bigrams, whole batch, over SFT's", "different bigrams of all answers / those of SFT",
        distinct_across, 0.33, False,
    ),
)  # fmt: skip


@dataclass
class AlarmWatch:
    """What the alarms have said of a run so far.

    sft: the monitors of SFT that the others are compared with; those of the first row where none are given, since the answers of the
    first update are SFT's own. beyond: updates in a row that each alarm is beyond its threshold. sounded: alarm → the update in which
    it sounded first, the last of `PATIENCE`. updates: rows with monitors so far.
    """

    sft: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, int] = field(default_factory=dict)
    sounded: dict[str, int] = field(default_factory=dict)
    updates: int = 0

    def update(self, row: Monitors) -> dict[str, float]:
        """Record a row of metrics, unless it has no monitors. Returns `alarm/*`: its statistics, and how many alarms have sounded."""
        if not any(name.startswith("monitor/") for name in row):
            return {}
        if not self.sft:
            self.sft = {name: float(value) for name, value in row.items() if name.startswith("monitor/") and value is not None}
        self.updates += 1
        values = {alarm.name: alarm.statistic(row, self.sft) for alarm in ALARMS}
        for alarm in ALARMS:
            self.beyond[alarm.name] = self.beyond.get(alarm.name, 0) + 1 if alarm.beyond(values[alarm.name]) else 0
            if self.beyond[alarm.name] >= PATIENCE:
                self.sounded.setdefault(alarm.name, int(row["update"] or 0))
        return {f"alarm/{name}": value for name, value in values.items() if math.isfinite(value)} | {"alarm/sounded": len(self.sounded)}

    @property
    def collapse_update(self) -> int | None:
        """The update in which the alarm number `VOTES` sounded."""
        return sorted(self.sounded.values())[VOTES - 1] if len(self.sounded) >= VOTES else None

    @property
    def collapsed(self) -> bool | None:
        """Whether the run has collapsed so far; None for one too short to, or with too few monitors for `VOTES` alarms."""
        if self.collapse_update is not None:
            return True
        able = sum(math.isfinite(alarm.statistic(self.sft, self.sft)) for alarm in ALARMS)
        return False if self.updates > PATIENCE and able >= VOTES else None


def watched(rows: Iterable[Monitors], sft: Monitors | None = None) -> AlarmWatch:
    """What the alarms say of a run's rows, in order; `sft` as in `AlarmWatch`."""
    watch = AlarmWatch({name: float(value) for name, value in (sft or {}).items() if name.startswith("monitor/") and value is not None})
    for row in rows:
        watch.update(row)
    return watch
