"""summary.json: its keys with their types and meanings, its writer and its reader. No torch here.

The table in the documentation of the run folder is made from these types, and tests hold what runs write to them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, TypedDict, cast, get_args, get_origin, get_type_hints

from ablate.errors import UserError
from ablate.system.files import write_atomically
from ablate.system.jsonl import finite
from ablate.system.reading import fits, read_object

Status = Literal["completed", "diverged", "failed", "interrupted"]
FINISHED = ("completed", "diverged")  # the status of a run with a result
Monitors = dict[str, float | None]


class Outcome(TypedDict):
    """How a run ended, and what it reached. A run that an exception ended has none of the keys marked NotRequired."""

    status: Annotated[Status, "`completed` and `diverged` are results; a run that `failed` or was `interrupted` can go on"]
    reason: Annotated[str, "why the run ended where it did, in one sentence; empty after the last update"]
    collapsed: Annotated[
        bool | None,
        "the verdict on gold or by alarms (below); null for a run too short to collapse, and for one that an exception ended",
    ]
    collapse_update: Annotated[
        int | None, "update of the first evaluation of the collapse, or of the alarm that decided it; null without one"
    ]
    collapse_by: NotRequired[Annotated[Literal["gold", "alarms"], "what judged the run"]]
    alarms: NotRequired[Annotated[dict[str, int], "each alarm that sounded and the update in which it did, whatever judged"]]
    updates: NotRequired[Annotated[int, "updates done"]]
    wall_seconds: NotRequired[Annotated[float, "seconds of critic pre-training, updates and evaluations; a resumed run counts on"]]
    responses_per_second: NotRequired[Annotated[float | None, "of the updates, without evaluations; null before the first update"]]
    final: NotRequired[Annotated[Monitors, "every `eval/*` and `monitor/*` of the last evaluation, and `eval/gold_sd` over its prompts"]]
    sft: NotRequired[Annotated[Monitors, "the same of the SFT model"]]
    trackers_stopped: NotRequired[
        Annotated[dict[str, str], "each tracker that failed before the run's end, which the run went on without, and why"]
    ]
    study: Annotated[str, "folder of the runs that are compared"]
    arm: Annotated[str | None, "name of the arm's folder"]
    seed: Annotated[int, "seed of PPO"]


class RunSummary(Outcome):
    """The content of summary.json: the outcome and what computed it."""

    versions: Annotated[dict[str, str], "versions of Python and of the packages that compute"]
    git_commit: Annotated[str | None, "commit of the checkout; null for an installed package"]
    config_hash: Annotated[str, "`hash` in `config.yaml`"]
    numerics: Annotated[
        dict[str, Any],
        "what computes the numbers: a fingerprint of the code that decides them, packages, processor, threads; `earlier`: the records of "
        "the code that computed the run up to a checkpoint",
    ]
    taken_from: NotRequired[Annotated[str, "the run that computed this, where another study of the results folder did"]]


def read_summary(folder: Path) -> RunSummary | None:
    """Read summary.json of a run folder; null while the run has none. Raises UserError if it is not readable.

    Runs of older versions may lack the last keys.
    """
    path = folder / "summary.json"
    try:
        summary = read_object(path)
        check_types(summary)
        if "status" not in summary:
            raise ValueError("it has no status")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not readable ({error}): remove it, and the run continues from its last checkpoint") from error
    return cast(RunSummary, summary)


def check_types(summary: dict[str, Any]) -> None:
    """Raises ValueError for a key of summary.json whose value is of another type than it is declared with."""
    for name, kind in _types().items():
        if name in summary and not fits(summary[name], kind):
            raise ValueError(f"its {name} is not {spelled_type(kind)}")


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(RunSummary)


def write_summary(folder: Path, summary: RunSummary) -> None:
    """Write summary.json of a run folder, whole or not at all. Numbers that are not finite become null."""
    write_atomically(folder / "summary.json", json.dumps(finite(summary), indent=1, ensure_ascii=False))


def summary_table() -> str:
    """The keys of summary.json as a Markdown table: key, type, meaning. A key that a run may lack is marked by `?`."""
    lines = ["| key | type | meaning |", "|---|---|---|"]
    for name, hint in get_type_hints(RunSummary, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        kind, meaning = get_args(get_args(hint)[0] if optional else hint)
        lines.append(f"| `{name}`{'?' if optional else ''} | {spelled_type(kind)} | {meaning} |")
    return "\n".join(lines) + "\n"


def spelled_type(kind: Any) -> str:
    """A type as JSON has it.

    >>> spelled_type(int | None), spelled_type(dict[str, float | None])
    ('whole number or null', 'object of number or null')
    """
    names = {str: "string", bool: "true or false", int: "whole number", float: "number", type(None): "null", Any: "any value"}
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    if isinstance(kind, UnionType):
        return " or ".join(spelled_type(part) for part in get_args(kind))
    return f"object of {spelled_type(get_args(kind)[1])}" if get_origin(kind) is dict else names[kind]
