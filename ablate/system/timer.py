"""How long each phase of an update takes, and the processor time of all of them."""

from __future__ import annotations

import time

import torch


class Timer:
    """The seconds of each phase of one update. Before it reads the clock it waits for the GPU, where there is one.

    Processor time counts the threads of this process. Unlike the laps it hardly depends on what else the machine does.
    """

    def __init__(self):
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()
        self.processor = time.process_time()

    def lap(self, name: str) -> None:
        """End the phase `name`, which began with the timer or the lap before."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def metrics(self, responses: int) -> dict[str, float]:
        """The laps, the processor seconds since the timer began, and responses per second without evaluation."""
        seconds = sum(value for name, value in self.laps.items() if name != "time/eval_s")
        return self.laps | {"time/cpu_s": time.process_time() - self.processor, "responses_per_second": responses / seconds}

    @property
    def total(self) -> float:
        """The seconds of all phases."""
        return sum(self.laps.values())
