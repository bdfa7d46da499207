"""A Slurm that starts and stops with the tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from one_node import DAEMONS, configure, missing, node_is_idle, start, stop, until


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands talk to this cluster. It, its jobs and its folder are gone afterwards."""
    if missing():
        pytest.skip(missing())
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: sockets have no long ones
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = []
    try:
        configure(folder)
        for daemon in DAEMONS:
            daemons.append(start(daemon, folder, environment))
        until(lambda: node_is_idle(environment), 60, folder)
        yield environment
    finally:
        stop(daemons, environment)
        shutil.rmtree(folder)
