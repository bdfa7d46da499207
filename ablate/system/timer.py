"""Where the seconds of an update go."""

from __future__ import annotations

import time

import torch


class Timer:
    """Seconds between laps, for one update; waits for the GPU where there is one."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def metrics(self, responses: int) -> dict[str, float]:
        """The laps, and responses per second without evaluation."""
        seconds = sum(value for name, value in self.laps.items() if name != "time/eval_s")
        return self.laps | {"responses_per_second": responses / seconds}

    @property
    def total(self) -> float:
        return sum(self.laps.values())
