"""A study's folder → its page."""

from __future__ import annotations

import time
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import announce
from analysis.load.frames import load
from analysis.report.data import report_data
from analysis.report.page import page


def render(root: Path, *, base: str | None = None, reload_seconds: int = 0, home: str = "") -> tuple[str, int]:
    """(the page as HTML text, the number of runs it shows). reload_seconds and home: as `page` takes them.

    Raises:
        UserError: `root` is not a folder, or holds no run, or several studies.
        UserError: `base` is not one of the study's arms.
    """
    loaded = load(root)
    studies = list(dict.fromkeys(loaded.runs["study"]))
    if not studies:
        reasons = "".join(f"\n  {row.folder}: {row.reason}" for row in loaded.left_out.itertuples())
        raise UserError(f"no run folder could be used below {root}{reasons}")
    if len(studies) > 1:
        names = " or ".join(str(root / study) for study in studies)
        raise UserError(f"{root} holds {len(studies)} studies, a page shows one: name {names}")
    command = f"python -m analysis.report {root}" + (f" --base {base}" if base else "")
    announce(f"judging and drawing {len(loaded.runs)} runs of {studies[0]}")
    data = report_data(loaded, studies[0], base=base)
    built = time.strftime("%Y-%m-%d %H:%M")
    return page(data, built=built, command=command, reload_seconds=reload_seconds, home=home), len(loaded.runs)
