"""What a killed job had started ends with it."""

from __future__ import annotations

import time
from pathlib import Path

from bad_jobs import Note

from ablate.sweeps.pool import run_jobs
from ablate.sweeps.table import Job, LiveTable


def alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_a_killed_job_had_started_does_not_outlive_it(tmp_path):
    note = tmp_path / "pid"
    job = Job(config=Note(note), folder=tmp_path / "run")
    run_jobs(LiveTable([job]), 1, "bad_jobs.leave", None, [])
    assert (job.state, job.reason) == ("failed", "ended by SIGKILL, perhaps for want of memory")
    until = time.monotonic() + 5
    while alive(int(note.read_text())):
        assert time.monotonic() < until, "it goes on"
        time.sleep(0.05)
