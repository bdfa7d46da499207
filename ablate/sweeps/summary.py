"""What a sweep prints at its end: a table of its runs, and the answers of two arms to one prompt."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from ablate.errors import UserError
from ablate.runs.folder import read_config, read_rows
from ablate.runs.metrics import win_rate
from ablate.runs.summary import read_summary
from ablate.sweeps.table import SHORTEST_ARM, cut_middle, number, shared_parts, without_shared_parts
from ablate.system.reading import fits

COLUMNS = ("arm", "seed", "gold", "win", "proxy", "KL", "ppl", "length", "collapsed", "resp/s", "folder in ")
LEFT = ("arm", "collapsed", "folder in ")
TRUE_REWARD, SECOND_OPINION = "true reward, never trained on", "score of a second reward model, never trained on"
LEGEND = "win: rate against SFT, a tie is one half; KL to SFT, nats per response; – unknown"
WIDTH = 120
SAMPLE = {"update": int, "prompt": str, "response": str, "gold": float, "proxy": float}  # what is shown of a row


def sweep_summary(folders: Sequence[Path]) -> str:
    """The table of these run folders, and two answers to one prompt if at least two arms have run.

    gold, proxy, KL to SFT (nats per response), perplexity and length (tokens) are those of the last evaluation. win is the win rate
    against SFT on the same prompts, a tie counting one half. resp/s is responses per second. An unknown value is `–`.
    """
    runs = [(folder, _summary(folder)) for folder in folders]
    parent = Path(os.path.commonpath([folder.parents[1] for folder in folders]))
    header = (*COLUMNS[:-1], f"{COLUMNS[-1]}{parent}")
    arms = without_shared_parts([str(summary.get("arm") or folder.parent.name) for folder, summary in runs])
    rows = [header, *((arm, *_row(folder, parent, summary)) for arm, (folder, summary) in zip(arms, runs, strict=True))]
    table = _aligned(rows)
    fits = max(map(len, table if sys.stdout.isatty() else table[1:])) <= width()  # in a file the path of the header may be longer
    where = [] if fits else [f"folders: {parent}/<arm>/seed=<n>", *_all_with(runs)]
    table = table if fits else _aligned([row[:-1] for row in rows])
    return "\n".join([*table, *(line for text in (_legend(runs), *where) for line in _indented(text, 0)), *_two_answers(runs)])


def width() -> int:
    """Columns of the terminal that is printed to, and WIDTH elsewhere."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def _all_with(runs: Sequence[tuple[Path, dict]]) -> list[str]:
    """A line with what the names of all arms share, for a table that leaves it out."""
    arms = [str(summary.get("arm") or folder.parent.name) for folder, summary in runs]
    return [f"all arms with {', '.join(shared_parts(arms))}"] if len(set(arms)) > 1 and shared_parts(arms) else []


def _legend(runs: Sequence[tuple[Path, dict]]) -> str:
    """What the columns mean; gold is the world's formula, or the score of the model in `gold.path`."""
    judged = any(_gold_path(folder) for folder, _ in runs)
    return f"gold: {SECOND_OPINION if judged else TRUE_REWARD}; {LEGEND}"


def _gold_path(folder: Path) -> str | None:
    """`gold.path` of a run; null too where its config.yaml is damaged or gone, of which `_summary` says what there is to say."""
    try:
        return (read_config(folder) or {}).get("gold", {}).get("path")
    except UserError:
        return None


def _summary(folder: Path) -> dict:
    """The summary of a run for its row in the table: empty if there is none, and of status `unreadable` if it is damaged."""
    try:
        return read_summary(folder) or {}
    except UserError:
        return {"status": "unreadable"}


def _row(folder: Path, parent: Path, summary: dict) -> tuple[str, ...]:
    final = summary.get("final") or {}
    win, tie = final.get("eval/win"), final.get("eval/tie")
    return (
        str(summary.get("seed", folder.name.removeprefix("seed="))),
        number(final.get("eval/gold")),
        "–" if win is None or tie is None else f"{win_rate(win, tie):.0%}",
        number(final.get("eval/proxy")),
        number(final.get("eval/kl_to_sft"), 1),
        number(final.get("eval/perplexity")),
        number(final.get("eval/length"), 1),
        _verdict(summary),
        number(summary.get("responses_per_second"), 0),
        str(folder.relative_to(parent)),
    )


def _verdict(summary: dict) -> str:
    """The cell of the column "collapsed": `at update 35`, `held`, or the reason why the verdict is unknown."""
    status = summary.get("status")
    if summary.get("collapsed"):
        return f"at update {summary.get('collapse_update')}"
    if status in ("completed", "diverged"):
        unknown = "–" if (summary.get("final") or {}).get("eval/gold") is None else "too short"
        held = {False: "held", None: unknown}[summary.get("collapsed")]
        return held if status == "completed" else "diverged"
    return status or "no result"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, columns padded to their widest cell. Past the width of the output the name of an arm is cut in its middle."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + 2 * (len(widths) - 1) - width()
    if len(widths) < len(COLUMNS):
        widths[0] = max(widths[0] - max(excess, 0), min(widths[0], SHORTEST_ARM))
    lines = []
    for arm, *others in rows:
        cells = zip(COLUMNS, (cut_middle(arm, widths[0]), *others), widths, strict=False)
        lines.append("  ".join(cell.ljust(wide) if name in LEFT else cell.rjust(wide) for name, cell, wide in cells).rstrip())
    return lines


def last_samples(folder: Path) -> dict[str, dict]:
    """Prompt → its row of the last evaluation in `samples.jsonl`; {} for a file that is not readable. Odd rows are passed over."""
    try:
        rows = read_rows(folder / "samples.jsonl")
    except UserError:
        return {}
    rows = [row for row in rows if all(fits(row.get(name), kind) for name, kind in SAMPLE.items())]
    newest = max((row["update"] for row in rows), default=0)
    return {row["prompt"]: row for row in rows if row["update"] == newest}


def _two_answers(runs: Sequence[tuple[Path, dict]]) -> list[str]:
    """The answers of the runs with the highest and the lowest final gold to the prompt with the median difference in gold.

    Prompts with two equal answers are left out. Of two medians the lower counts.
    """
    scored = [(s["final"]["eval/gold"], folder, s) for folder, s in runs if (s.get("final") or {}).get("eval/gold") is not None]
    if not scored:
        return []
    low, high = min(scored, key=lambda run: run[0]), max(scored, key=lambda run: run[0])
    worse, better = last_samples(low[1]), last_samples(high[1])
    differ = [prompt for prompt in worse.keys() & better.keys() if worse[prompt]["response"] != better[prompt]["response"]]
    shared = sorted(differ, key=lambda prompt: (better[prompt]["gold"] - worse[prompt]["gold"], prompt))
    if low[2].get("arm") == high[2].get("arm") or not shared:
        return []
    prompt = shared[(len(shared) - 1) // 2]
    lines = ["", f"One prompt, the median of {len(shared)} answered differently, by the difference in gold:", *_indented(prompt, 2)]
    for summary, sample in ((high[2], better[prompt]), (low[2], worse[prompt])):
        scores = f"gold {number(sample['gold'])}, proxy {number(sample['proxy'])}"
        lines += [f"{summary.get('arm')}, seed {summary.get('seed')} ({scores}):", *_indented(sample["response"], 2)]
    return lines


def _indented(text: str, by: int) -> list[str]:
    """A text in lines as wide as the output, broken between words alone."""
    indent = " " * by
    options = {"break_long_words": False, "break_on_hyphens": False}
    return wrap(text, width(), initial_indent=indent, subsequent_indent=indent, **options) or [f"{indent}(nothing)"]
