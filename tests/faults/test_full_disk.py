"""A sweep on a disk that is full says so, although no log can be written there."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_jobs import Note
from damage import Disk

from ablate.sweeps.pool import run_jobs
from ablate.sweeps.table import Job, LiveTable


@pytest.fixture
def disk(tmp_path):
    """A disk of its own; unmounted at the end."""
    made = Disk(tmp_path / "disk")
    if not made.mounted:
        pytest.skip("needs leave to mount a tmpfs")
    yield made
    made.unmount()


def test_a_job_whose_log_cannot_be_written_fails_with_the_disk_as_its_reason(disk):
    log = disk.folder / "run" / "run.log"
    log.parent.mkdir()
    log.write_text("update 3\n")
    disk.fill()
    job = Job(config=Note(Path(disk.folder / "note")), folder=log.parent)
    run_jobs(LiveTable([job]), 1, "bad_jobs.refuse", None, [])
    assert job.reason == "exit code 1, and the disk is full: free space or set results=<folder>"
