"""What a Slurm of one node is made of: munged, slurmctld and slurmd, on loopback, in one folder, as the user who tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PROGRAMS = (*DAEMONS, "sbatch", "scancel", "scontrol", "squeue", "srun")
SLOTS = 2  # jobs that run at a time

# A running job of `standard` gives way to one of `urgent` and is put back in the queue, where it rests until its old credentials
# have expired (cred_expire seconds; two minutes by default).
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} RealMemory=4000 State=UNKNOWN
PartitionName=standard Nodes={host} Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=2 State=UP
"""


def program(name: str) -> str | None:
    """Its path; daemons may lie outside a user's PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def missing() -> str:
    """What has to be installed before these tests can run, or nothing."""
    programs = [name for name in PROGRAMS if program(name) is None]
    if programs:
        return f"no {', '.join(programs)} here: apt-get install slurm-wlm munge"
    if find_spec("submitit") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        return "submitit or hydra-submitit-launcher is not installed: pip install '.[cluster]'"
    return ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def configure(folder: Path) -> None:
    """Write slurm.conf and a munge key, and make the folders that the daemons keep."""
    folder.chmod(0o711)  # munged wants its socket to be within everybody's reach
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = {"controller_port": free_port(), "node_port": free_port()}
    text = SLURM_CONF.format(folder=folder, host=socket.gethostname(), user=getpass.getuser(), slots=SLOTS, **ports)
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key-file"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))


def command(daemon: str, folder: Path) -> list[str]:
    """How to run a daemon in the foreground."""
    munge = [f"--{kind}={folder}/munge.{kind}" for kind in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
    return [program(daemon), *(["--foreground", *munge] if daemon == "munged" else ["-D", "-c", "-f", f"{folder}/slurm.conf"])]


def start(daemon: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    with (folder / f"{daemon}.out").open("wb") as out:
        process = subprocess.Popen(command(daemon, folder), stdout=out, stderr=out, env=environment)
    if daemon == "munged":
        until((folder / "munge.socket").exists, 30, folder)
    return process


def until(holds: Callable[[], bool], seconds: float, folder: Path) -> None:
    """Wait until `holds()`; if it never does, fail with what the daemons said."""
    deadline = time.monotonic() + seconds
    while not holds():
        said = "".join(path.read_text(errors="replace") for path in folder.glob("*.out"))
        assert time.monotonic() < deadline, f"Slurm did not start:\n{said}"
        time.sleep(0.1)


def node_is_idle(environment: dict[str, str]) -> bool:
    said = subprocess.run(["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True)
    return "idle" in said.stdout


def stop(daemons: list[subprocess.Popen], environment: dict[str, str]) -> None:
    """End every job, then the daemons, the last one first. Jobs go first: what watches one outlives a slurmd that has gone."""
    if len(daemons) == len(DAEMONS):
        user = f"--user={getpass.getuser()}"
        for how in (["--state=PENDING"], ["--full", "--signal=KILL"]):
            subprocess.run(["scancel", *how, user], env=environment, timeout=60, check=False)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and queued(environment):
            time.sleep(0.5)
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def queued(environment: dict[str, str]) -> bool:
    return bool(subprocess.run(["squeue", "--noheader"], env=environment, capture_output=True, text=True, timeout=60).stdout.strip())
