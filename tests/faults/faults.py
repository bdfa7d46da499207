"""Runs a sweep under fire and compares it with one that was left alone, run by run and bit for bit.

    python tests/faults/faults.py                     one sweep under fire, about a dozen kills, some minutes on two cores
    python tests/faults/faults.py --kills 100         sweeps under fire, each with a seed of its own, until so many kills landed
    python tests/faults/faults.py --seed 7 --minutes 60 --results faults-7

The 12 jobs are started by the command that users type, `python -m ablate.run -m …`. At moments drawn from the seed
  (1) jobs are killed with SIGKILL, from outside and from inside: fire.py, hook/sitecustomize.py;
  (2) the launcher is killed, while it builds stages and while jobs run: its children must die with it; so is its forkserver;
  (3) stage builders are killed;
  (4) the disk fills up, a tmpfs where one can be mounted;
  (5) while nothing runs, files are truncated, and removed if a message asks for it: damage.py.
Then the same command runs again, until it exits with 0. Files must be equal to those of the other sweep, apart from times.
Exit status 1 if they are not, or if no kill landed inside one of PHASES.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from campaign import BEGAN, Campaign, say
from fire import JOBS, Invocation, Place
from same_runs import differences

PHASES = ("stage build", "rollout", "update", "checkpoint", "summary")


def missing_phases(kills: Counter) -> list[str]:
    """Phases inside which no job or builder was itself killed."""
    hit = {phase for kind, phase in kills if kind not in ("launcher", "forkserver")}
    return [phase for phase in PHASES if phase not in hit]


def report(campaigns: list[Campaign], unequal: list[str], seconds: float) -> dict:
    total = Counter()
    for campaign in campaigns:
        total += campaign.kills
    return {
        "equal": not unequal,
        "differences": unequal,
        "unexplained": [text for campaign in campaigns for text in campaign.unexplained],
        "phases_missed": missing_phases(total),
        "kills": sum(total.values()),
        "kills_by_kind_and_phase": {f"{kind}, {phase}": count for (kind, phase), count in sorted(total.items())},
        "events": dict(sum((campaign.events for campaign in campaigns), Counter())),
        "orders_open": [order for campaign in campaigns for order in campaign.orders.open()],
        "exit_codes": [campaign.codes for campaign in campaigns],
        "disk": ["tmpfs" if campaign.disk.mounted else "RLIMIT_FSIZE" for campaign in campaigns],
        "slowest_death_with_launcher_seconds": max((death for campaign in campaigns for death in campaign.deaths), default=None),
        "seconds": seconds,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    arguments = parse()
    private_mounts()
    work = arguments.results or Path(tempfile.mkdtemp(prefix="faults-"))
    work.mkdir(parents=True, exist_ok=True)
    say(f"undisturbed sweep of {JOBS} runs, in {work}")
    (work / "undisturbed").mkdir()
    whole = Place(work / "undisturbed")
    code = Invocation(whole, work / "undisturbed.log").wait()
    if code:
        sys.exit(f"error: the undisturbed sweep exited with {code}: see {work / 'undisturbed.log'}")
    campaigns, unequal = [], []
    while not campaigns or enough(arguments, campaigns) is False:
        seed = arguments.seed + len(campaigns)
        say(f"sweep under fire, seed {seed}")
        campaign = Campaign(work / f"fire-{seed}", seed)
        campaigns.append(campaign)
        campaign.run()
        found = differences(whole, campaign.place)
        unequal += [f"seed {seed}: {text}" for text in found]
        if found:  # the tmpfs goes with this process
            shutil.copytree(campaign.place.data, campaign.folder / "kept")
        say(f"{len(campaign.codes)} invocations, {sum(campaign.kills.values())} kills; {len(found)} files differ")
    result = report(campaigns, unequal, time.monotonic() - BEGAN)
    (work / "report.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    if unequal or result["unexplained"] or result["phases_missed"]:
        sys.exit(1)


def enough(arguments: argparse.Namespace, campaigns: list[Campaign]) -> bool:
    kills = sum(sum(campaign.kills.values()) for campaign in campaigns)
    return kills >= arguments.kills and time.monotonic() - BEGAN >= 60 * arguments.minutes


def private_mounts() -> None:
    """Start again in a mount namespace of its own, where there is leave for it: the tmpfs then ends with this process, however."""
    if os.environ.get("FAULTS_PRIVATE") or shutil.which("unshare") is None:
        return
    for flags in (["--mount"], ["--mount", "--map-root-user"]):
        if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode == 0:
            os.environ["FAULTS_PRIVATE"] = "1"
            os.execvp("unshare", ["unshare", *flags, sys.executable, *sys.argv])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="decides moments and victims, and counts up from sweep to sweep")
    parser.add_argument("--kills", type=int, default=1, help="repeat with new seeds until so many kills have landed")
    parser.add_argument("--minutes", type=float, default=0, help="repeat with new seeds for so long")
    parser.add_argument("--results", type=Path, help="a new folder for the sweeps, their logs and report.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
