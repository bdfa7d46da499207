"""Two tuners on one study in a real PostgreSQL server, which each test starts for itself."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from tune_bench import start_tuner, starts

pytestmark = pytest.mark.slow


def binary(name: str) -> str | None:
    """A server program; Debian keeps them beside PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture
def database():
    """The URL of an empty database, reached by a socket alone. As root, the server runs as the user postgres.

    Its folder is none of pytest's, which every other pytest of the machine closes to other users when it starts.
    """
    initdb, control = binary("initdb"), binary("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("no PostgreSQL server is installed")
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("psycopg2 is not installed")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        root = Path(folder)
        data, log = root / "data", root / "log"
        data.mkdir()
        as_user = []
        if os.getuid() == 0:
            for place in (root, data):
                shutil.chown(place, "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]

        def call(*command: str) -> None:
            subprocess.run([*as_user, *command], check=True, cwd=root, stdout=subprocess.DEVNULL, timeout=120)

        call(initdb, "-D", str(data), "-A", "trust", "-U", "tuner")
        call(control, "-D", str(data), "-l", str(log), "-w", "-o", f"-c listen_addresses='' -k {root}", "start")
        yield f"postgresql+psycopg2://tuner@/postgres?host={root}"
        call(control, "-D", str(data), "-m", "immediate", "stop")


def test_two_tuners_share_a_study_in_postgresql_and_do_each_trial_once(database, tmp_path):
    command = ("ppo.kl_coef=tag(log, interval(0.01,1))", f"storage={database}", "n_trials=8", "workers=1")
    both = [start_tuner(tmp_path, *command) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    storage = RDBStorage(database)
    trials = optuna.load_study(study_name="tune", storage=storage).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    assert [starts(tmp_path, number) for number in range(8)] == [1] * 8
    assert not (tmp_path / "results" / "tune" / "optuna.journal").exists()
    storage.remove_session()
    storage.engine.dispose()
