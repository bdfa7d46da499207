"""The online verdict on collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ablate.config import CollapseConfig


@dataclass
class CollapseDetector:
    """The collapse verdict, online: the first of `patience` consecutive evaluations with mean gold below `limit`.

    limit = SFT's mean gold − threshold × SD of SFT's per-response gold; null without a gold reward. `collapsed` is null then, and
    where a run has not collapsed in `patience` evaluations or fewer, the one before training among them: it was too short to.
    """

    limit: float | None
    patience: int
    below: list[int] = field(default_factory=list)  # updates of the current unbroken series of evaluations below the limit
    collapse_update: int | None = None
    evaluations: int = 0

    @classmethod
    def from_baseline(cls, gold: Sequence[float | None], collapse: CollapseConfig) -> CollapseDetector:
        """gold: of every SFT response; null where there is no gold reward."""
        if gold[0] is None:
            return cls(None, collapse.patience)
        return cls(mean(gold) - collapse.threshold * deviation(gold), collapse.patience)

    def update(self, update: int, gold: float | None) -> None:
        """Take note of the evaluation after `update`."""
        if self.limit is None or gold is None or self.collapse_update is not None:
            return
        self.evaluations += 1
        self.below = [*self.below, update] if gold < self.limit else []
        if len(self.below) == self.patience:
            self.collapse_update = self.below[0]

    @property
    def collapsed(self) -> bool | None:
        if self.collapse_update is not None:
            return True
        return None if self.limit is None or self.evaluations <= self.patience else False


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Unbiased standard deviation."""
    centre = mean(values)
    return (sum((value - centre) ** 2 for value in values) / (len(values) - 1)) ** 0.5
