"""A run as a table on the terminal, and runs as the paper's curves."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from ablate.errors import UserError
from ablate.system.tables import text_table
from analysis.audit.names import CLIPPED, ENTROPY, KL, KL_PER_TOKEN, MISMATCH, REWARD, TRUNCATED, as_logged
from analysis.audit.translate import Run, absent

CLEAR = 0.5  # rank correlation with the update from which on a monitor is said to rise or fall
SUFFIXES = (".png", ".pdf", ".svg")
WIDTH = 120  # characters of a line below the table
DPI = 200


def table(run: Run) -> str:
    """One run: the first value, the last and the trend of each monitor, then how they differ from ours, what is missing and notes."""
    first, last = int(run.rows[0]["update"]), int(run.rows[-1]["update"])
    lines = [f"{run.name}: {run.trainer}, {len(run.rows)} updates, {first} to {last}"]
    rows = []
    for monitor, column in run.columns.items():
        points = [(row["update"], row[monitor]) for row in run.rows if monitor in row]
        marked = f"{monitor}{' ~' if column.note else ''}"
        rows.append([marked, f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}", trend(points), as_logged(column)])
    lines += [text_table(["monitor", "first", "last", "trend", "logged as"], rows)]
    noted = {monitor: column for monitor, column in run.columns.items() if column.note}
    for note in dict.fromkeys(column.note for column in noted.values()):
        lines.append(f"~ {', '.join(monitor for monitor, column in noted.items() if column.note == note)}: {note}")
    missing = absent(run)
    lines += [f"not in this log: {', '.join(missing)}"] if missing else []
    return "\n".join([*lines[:2], *map(wrapped, [*lines[2:], *run.notes])])


def wrapped(line: str) -> str:
    """A line in lines of at most `WIDTH` characters; names stay whole."""
    return textwrap.fill(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def trend(points: Sequence[tuple[float, float]]) -> str:
    """Spearman's rank correlation of the values with their updates, in words from ± 0.5 on; '–' below three points.

    >>> trend([(1, 0.1), (2, 0.4), (3, 0.9)]), trend([(1, 2.0), (2, 2.0), (3, 2.0)])
    ('rises 1.00', 'constant')
    """
    updates, values = np.array(points, dtype=float).T
    if len(values) < 3:
        return "–"
    if np.ptp(values) == 0:
        return "constant"
    correlation = float(np.corrcoef(rankdata(updates), rankdata(values))[0, 1])
    word = "rises" if correlation >= CLEAR else "falls" if correlation <= -CLEAR else "no trend"
    return f"{word} {round(correlation, 2) + 0.0:.2f}"


def check_figure(path: Path) -> None:
    """Raises UserError for a picture that could not be written: another suffix, or no such folder."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--figure {path}: end its name in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise UserError(f"--figure {path}: there is no folder {path.parent}; make it first")


def write_figure(arms: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Draw the monitors of every arm over its updates, its runs as seeds, in the style of the paper's figures. Raises UserError."""
    import pandas as pd

    from analysis.figures import estimate
    from analysis.figures.panels import MAX_LABELLED, draw_panels
    from analysis.figures.style import arm_order, bands, style
    from analysis.load.foreign import frames_of

    per_token = [estimate.panel(name, unit=True) for name in (KL_PER_TOKEN, ENTROPY, CLIPPED, MISMATCH)]
    panels = (
        *(estimate.GOLD, estimate.PROXY, estimate.panel(REWARD), estimate.KL, estimate.PERPLEXITY, estimate.LENGTH),
        *(*per_token, estimate.panel(TRUNCATED)),
    )
    members = [(arm, seed, run) for arm, runs in arms.items() for seed, run in enumerate(runs)]
    runs = [dict(study="audit", arm=arm, seed=seed, folder=run.name, status="completed") for arm, seed, run in members]
    loaded = frames_of(runs, [pd.DataFrame(run.rows).astype({"update": int}) for _, _, run in members])
    order = arm_order(loaded.runs)
    drawn = estimate.trajectories(estimate.Frames(loaded.runs, loaded.curves), panels, {"": order}, many=len(order) > MAX_LABELLED)
    titles = ", ".join(dict.fromkeys(run.trainer for _, _, run in members))
    noted = {monitor for _, _, run in members for monitor, column in run.columns.items() if column.note}
    near = ", ".join(panel.title.split(" (")[0] for panel in panels if panel.metric in noted)
    caption = " ".join(filter(None, [
        f"Runs of {titles}, by their logs; KL is to the reference of each.", bands(loaded.runs, drawn),
        "Square-root scale: KL to SFT." * (KL in loaded.curves),
        f"Estimated, or measured otherwise than here, as the command's table says: {near}." if near else "",
    ]))  # fmt: skip
    figure = draw_panels(drawn, order, caption, columns=2, scales={panel.title: panel.scale for panel in panels})
    for axes in figure.axes:
        if axes.get_xlabel():
            axes.set_xlabel("update of the trainer")
    try:
        with style():
            figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): name another file with --figure") from error
