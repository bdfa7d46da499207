"""The verdict on collapse, reached while a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ablate.config import CollapseConfig


@dataclass
class CollapseDetector:
    """A run collapses at the first of `patience` consecutive evaluations with a mean gold below `limit`.

    limit = mean − threshold × standard deviation of the gold of SFT's responses. Without a gold reward it is None, and so is `collapsed`.
    `collapsed` is None as well for a run that has not collapsed in `patience` evaluations or fewer, the one before training among
    them: it was too short to.
    """

    limit: float | None
    patience: int
    below: list[int] = field(default_factory=list)  # updates of the latest consecutive evaluations below the limit
    collapse_update: int | None = None
    evaluations: int = 0

    @classmethod
    def from_baseline(cls, gold: Sequence[float | None], collapse: CollapseConfig) -> CollapseDetector:
        """gold: one value per response of SFT to the held-out prompts, each None without a gold reward."""
        if gold[0] is None:
            return cls(None, collapse.patience)
        return cls(mean(gold) - collapse.threshold * deviation(gold), collapse.patience)

    def update(self, update: int, gold: float | None) -> None:
        """Record the mean gold of the evaluation after `update`."""
        if self.limit is None or gold is None or self.collapse_update is not None:
            return
        self.evaluations += 1
        self.below = [*self.below, update] if gold < self.limit else []
        if len(self.below) == self.patience:
            self.collapse_update = self.below[0]

    @property
    def collapsed(self) -> bool | None:
        """Whether the run has collapsed so far; None where that cannot be known."""
        if self.collapse_update is not None:
            return True
        return None if self.limit is None or self.evaluations <= self.patience else False


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation with n − 1 in the denominator."""
    centre = mean(values)
    return (sum((value - centre) ** 2 for value in values) / (len(values) - 1)) ** 0.5
