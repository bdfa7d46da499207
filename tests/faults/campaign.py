"""One sweep under fire: what is done to it, when, and what is noted of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from damage import Disk, advised, remove, status, tear_metrics, truncate_checkpoint, truncate_stage, truncate_summary
from fire import JOBS, Invocation, Orders, Place

MOST_INVOCATIONS = 30
BEGAN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", flush=True)


class Campaign:
    """One sweep under fire."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.draw = folder, random.Random(seed)
        folder.mkdir(parents=True)
        self.disk = Disk(folder / "disk")
        self.place = Place(self.disk.folder, folder / "faults")
        self.orders = Orders(folder / "faults")
        self.kills: Counter = Counter()  # (kind, phase) → number
        self.damaged: dict[Path, str] = {}  # what may have to be removed → why
        self.events: Counter = Counter()  # damage done, advice followed, full disks, kills that came too late
        self.codes: list[int] = []
        self.deaths: list[float] = []  # seconds from a launcher's end to that of its last job or builder
        self.unexplained: list[str] = []

    # -- one run of the command --

    def invoke(self, *actions: Callable[[Invocation], None], file_limit: int | None = None) -> int:
        """Run the command, do the actions one after another while it runs, and then what it tells its user to do."""
        landed = len(self.orders.landed())
        invocation = Invocation(self.place, self.folder / f"invocation-{len(self.codes) + 1}.log", file_limit)
        for action in actions:
            action(invocation)
        code = invocation.wait()
        self.codes.append(code)
        self.disk.free()
        for order in self.orders.landed()[landed:]:
            self.kills["from inside", order["phase"]] += 1
        done = sum(status(folder) == "completed" for folder in self.place.run_folders())
        say(f"invocation {len(self.codes)}: exit {code}; {sum(self.kills.values())} kills so far; {done}/{JOBS} runs completed")
        self.follow(invocation.log.read_text())
        return code

    def follow(self, said: str) -> None:
        """Remove what a message asks the user to remove. Only damage that was done here may be named."""
        assert "exit code 70" not in said, "hook/sitecustomize.py names a function that is not there any more"
        if any(words in said for words in ("No space left", "File too large", "the disk is full")):
            self.events["full disk named"] += 1
        for path in advised(said):
            if path not in self.damaged:
                self.unexplained.append(f"asked to remove {path}, which was not damaged")
            elif path.exists():
                say(f"  as told: remove {path.relative_to(self.place.data)} ({self.damaged[path]})")
                self.events["removed as told"] += 1
                remove(path)

    # -- what is done while it runs --

    def order(self, phase: str, call: str, latest: int, side: str = "before") -> None:
        """A kill from inside at the n-th such call, n up to `latest`."""
        self.orders.give(phase, call, self.draw.randrange(1, latest + 1), side)

    def kill_launcher(self, after: Callable[[Invocation], object]) -> Callable[[Invocation], None]:
        def action(invocation: Invocation) -> None:
            if not invocation.until(lambda: after(invocation)):
                self.events["launcher had ended before its kill"] += 1
                return
            phases = sorted(set(invocation.workers().values()) - {"loading", "between"})
            self.deaths.append(invocation.kill_launcher())
            self.kills["launcher", "+".join(phases) or "between"] += 1
            say(f"  launcher killed during {', '.join(phases) or 'no phase'}; its jobs were gone after {self.deaths[-1]:.2f} s")

        return action

    def kill_worker(self, phase: str | None = None, rows: int = 0) -> Callable[[Invocation], None]:
        """SIGKILL from outside for a job, when so many more rows are written, or for a process seen in a phase."""

        def action(invocation: Invocation) -> None:
            kind = "stage builder" if phase == "stage build" else "job"
            grown = self.grown(rows)
            reached = invocation.until(lambda: grown() and phase in (None, *invocation.workers().values()))
            time.sleep(self.draw.uniform(0, 0.3))
            died = None
            while reached and died is None and invocation.running:  # no job may be there just now
                died = invocation.kill_worker(self.draw, phase)
            if died is None:
                self.events["no process left for a kill from outside"] += 1
                return
            self.kills[kind, died] += 1
            say(f"  {kind} killed from outside, during {died}")

        return action

    def kill_forkserver(self, rows: int) -> Callable[[Invocation], None]:
        def action(invocation: Invocation) -> None:
            phases = invocation.kill_forkserver() if invocation.until(self.grown(rows)) else None
            if phases is None:
                self.events["no process left for a kill from outside"] += 1
                return
            self.kills["forkserver", "+".join(phases)] += 1
            say(f"  forkserver killed, during {', '.join(phases)}")

        return action

    def fill_disk(self, rows: int) -> Callable[[Invocation], None]:
        def action(invocation: Invocation) -> None:
            if invocation.until(self.grown(rows)):
                self.disk.fill()
                self.events["disk filled"] += 1
                say("  the disk is full")

        return action if self.disk.mounted else lambda invocation: None

    def grown(self, rows: int) -> Callable[[], bool]:
        """Whether so many rows of metrics have been added since it was least; a run that resumes takes some away first."""
        least = self.place.rows()

        def look() -> bool:
            nonlocal least
            now = self.place.rows()
            least = min(least, now)
            return now >= least + rows

        return look

    def after_rows(self, least: int, most: int) -> Callable[[Invocation], bool]:
        """Once a number of rows between these two has been added to all the metrics."""
        grown = self.grown(self.draw.randrange(least, most + 1))
        return lambda invocation: grown()

    # -- while nothing runs --

    def damage(self, *kinds: Callable) -> None:
        for kind in kinds:
            done = kind(self.place, self.draw)
            if done is None:
                self.events[f"nothing to damage for {kind.__name__}"] += 1
                continue
            what, path = done
            self.events[what] += 1
            if path is not None:
                self.damaged[path] = what
            say(f"  {what}" + (f" ({path.relative_to(self.place.data)})" if path else ""))

    # -- the whole --

    def run(self) -> None:
        """The schedule: order is fixed so that each phase is met; moments and victims are drawn."""
        self.order("stage build", "gradient step", 60)
        self.invoke()
        self.order("stage build", "replace", 1, self.draw.choice(("before", "after")))
        self.invoke()
        self.invoke(self.kill_launcher(lambda invocation: "stage build" in invocation.workers().values()))
        self.invoke(self.kill_worker("stage build"))
        self.order("rollout", self.draw.choice(("sample", "join")), 6)
        self.order("update", "gradient step", 24)
        self.invoke(self.kill_launcher(self.after_rows(8, 20)))
        self.damage(tear_metrics)
        self.invoke(self.fill_disk(self.draw.randrange(2, 8)), file_limit=self.disk.file_limit)
        self.order("checkpoint", "fsync", 20)
        self.order("checkpoint", self.draw.choice(("save_file", "rmtree")), 3)
        self.order("summary", "fsync", 1)
        self.invoke(
            self.kill_worker(rows=4), self.kill_forkserver(rows=4), self.kill_worker(rows=4), self.kill_launcher(self.after_rows(16, 28))
        )
        self.damage(truncate_checkpoint, tear_metrics, truncate_summary)
        self.order("checkpoint", "replace", 2, self.draw.choice(("before", "after")))
        self.order("summary", "replace", 1, self.draw.choice(("before", "after")))
        self.order("evaluation", "join", 2)
        self.order("rollout", "join", 2)
        self.order("update", "gradient step", 4)
        self.invoke(self.kill_worker(rows=5), self.kill_worker(rows=5))
        self.damage(truncate_stage, truncate_summary, truncate_checkpoint)
        while self.invoke() != 0:
            if len(self.codes) >= MOST_INVOCATIONS:
                self.unexplained.append(f"not done after {MOST_INVOCATIONS} invocations")
                return
