"""A wandb workspace for the mirrored runs of one study.

    python -m analysis.dashboard results/policy_constraints
    python -m analysis.dashboard results/policy_constraints --entity my-team --project rlhf --out dashboard.json

With a wandb login the workspace is saved in wandb. Without one it is written as JSON, for which --entity says whose it is.
`tracker=wandb` sends runs to wandb while they train, and `python -m ablate.mirror results/STUDY` afterwards. `wandb sync` uploads
runs that were mirrored offline.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.errors import UserError
from ablate.runs.alarms import ALARMS
from ablate.runs.trackers.interface import PROJECT
from ablate.runs.trackers.wandb import strip_key
from ablate.system.commands import command_errors
from ablate.system.files import write_atomically
from analysis.load.packed import begin_reading

if TYPE_CHECKING:
    import pandas as pd
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

NAME = "PPO stability"
LINES = {  # section → metric of metrics.jsonl → title
    "Gold against proxy": {
        "eval/gold": "gold reward: what the answers are worth",
        "eval/proxy": "proxy reward: what PPO maximises",
        "eval/win": "win rate against SFT",
    },
    "Distance from SFT": {"monitor/kl_to_sft": "KL to SFT, nats per response"},
    "Text": {
        "monitor/perplexity": "true perplexity",
        "monitor/perplexity_moss": "perplexity as MOSS-RLHF logs it",
        "monitor/response_length": "response length, tokens",
        "monitor/entropy": "entropy, nats per token",
        "monitor/distinct": "different bigrams, share",
        "monitor/distinct_across": "different bigrams of the whole batch, share",
        "monitor/reward_length_corr": "score and length, correlation",
    },
    "Optimiser": {"ppo/value_loss": "value loss", "ppo/clip_fraction": "clip fraction", "ppo/grad_norm": "gradient norm"},
    "Alarms": {**{f"alarm/{alarm.name}": alarm.title for alarm in ALARMS}, "alarm/sounded": "alarms that have sounded"},
}
SCATTERS = {  # section → (x, y, title); one point per run, at its end
    "Gold against proxy": ("eval/proxy", "eval/gold", "gold against proxy at the end"),
    "Distance from SFT": ("eval/kl_to_sft", "eval/gold", "gold against KL at the end"),
}
SUMMARY = ("status", "collapsed", "collapse_update", "eval/gold")  # columns beside the runs
MAX_LEVELS = 3  # of grouping; with more, wandb's run table is hard to read
MAX_RUNS = 100  # lines in a panel


def separating(settings: pd.DataFrame) -> list[str]:
    """The settings that tell the arms apart. One that those before it determine is left out, as a coefficient by its switch."""
    from analysis.estimate.effects import differing

    kept: list[str] = []
    for name in differing(settings).columns:
        if len(settings[[*kept, name]].drop_duplicates()) > (len(settings[kept].drop_duplicates()) if kept else 1):
            kept.append(name)
    return kept


def grouping(settings: pd.DataFrame) -> list[str]:
    """The settings by which runs are grouped: those of `separating`, or "arm" if they are more than `MAX_LEVELS` or none."""
    names = separating(settings)
    return names if 0 < len(names) <= MAX_LEVELS else ["arm"]


def workspace(runs: pd.DataFrame, entity: str, project: str) -> Workspace:
    """The workspace "PPO stability" of one study. runs: as `analysis.load.frames.load` returns them.

    Raises:
        UserError: wandb-workspaces is not installed.
        UserError: there is no run, or there are several studies.
    """
    from analysis.load.designs import arm_settings

    ws, wr = workspaces_library()
    studies = list(runs["study"].unique())
    if len(studies) != 1:
        raise UserError(f"a dashboard shows one study; here are {', '.join(studies) or 'none'}: name results/STUDY")
    settings = arm_settings(runs)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=name, is_open=True, panels=_panels(wr, name)) for name in LINES] + [_collapse(ws, wr)],
        settings=ws.WorkspaceSettings(max_runs=min(max(len(settings), 10), MAX_RUNS)),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Config("study") == studies[0]),  # the group may be WANDB_RUN_GROUP
            groupby=[ws.Config(name) for name in grouping(settings)],
            pinned_columns=[_column(name) for name in separating(settings)] + [f"summary:{name}" for name in SUMMARY],
        ),
    )


def _panels(wr, section: str) -> list:
    """The panels of a section: lines over updates, with the mean and range over each group's runs, and its scatter plot if it has one."""
    lines = [wr.LinePlot(title=title, x="Step", y=[metric], title_x="update", groupby_aggfunc="mean", groupby_rangefunc="minmax")
             for metric, title in LINES[section].items()]  # fmt: skip
    if section in SCATTERS:
        x, y, title = SCATTERS[section]
        lines.append(wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y)))
    return lines


def _collapse(ws, wr):
    """The section of bars: update of collapse and gold at the end, with the mean and range over each group's runs."""
    bars = {"collapse_update": "update of collapse, of the runs that collapsed", "eval/gold": "gold reward at the end"}
    panels = [
        wr.BarPlot(title=title, metrics=[metric], groupby_aggfunc="mean", groupby_rangefunc="minmax") for metric, title in bars.items()
    ]
    return ws.Section(name="Collapse", is_open=True, panels=panels)


def _column(setting: str) -> str:
    """The column of a setting in wandb's run table. wandb nests below the first name: ppo.kl_penalty is `config:ppo.value.kl_penalty`."""
    first, _, rest = setting.partition(".")
    return f"config:{first}.value" + (f".{rest}" if rest else "")


def workspaces_library():
    """The two modules, imported without their deprecation warnings. Raises UserError if wandb-workspaces is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import wandb_workspaces.reports.v2 as wr
            import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise UserError("a dashboard needs wandb-workspaces: pip install 'ppo-ablation[dashboard]'") from error
    return ws, wr


def specification(board: Workspace) -> str:
    """The workspace as the JSON that wandb stores."""
    return board._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)


def logged_in() -> bool:
    """Whether the environment or .netrc holds a wandb login; the network is not asked."""
    import wandb

    wandb.setup(settings=wandb.Settings(mode="online", silent=True))
    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(f"the wandb login cannot be used ({first_line(error)}): run `wandb login` or correct WANDB_API_KEY") from error


def default_entity(study: Path, command: str = "analysis.dashboard") -> str:
    """The entity that wandb takes for the user who is logged in. Raises UserError where nobody is, or wandb does not answer."""
    import wandb

    what = command.rpartition(".")[2].replace("_", " ")
    remedy = f"write python -m {command} {study} --entity NAME with a wandb user or team, or set WANDB_ENTITY"
    if not logged_in():
        raise UserError(f"there is no wandb login that says whose {what} it is: {remedy}")
    try:
        entity = wandb.Api().default_entity
    except (wandb.errors.Error, OSError) as error:
        raise UserError(f"wandb does not say whose {what} it is ({first_line(error)}): {remedy}") from error
    if not entity:
        raise UserError(f"the wandb login has no default entity: {remedy}")
    return entity


def save(board: Workspace | Report) -> str | None:
    """Save a workspace or a report in wandb. None if that is done, else the reason why not, in words."""
    import wandb

    if not logged_in():
        return "there is no wandb login: run `wandb login` or set WANDB_API_KEY"
    try:
        board.save()
    except (wandb.errors.Error, OSError) as error:
        return f"wandb did not take it ({first_line(error)}): look at the network and the login"
    return None


def default_place(study: Path, name: str) -> Path:
    """The file for a specification: in the study's folder, or in the current one where the study is no folder."""
    return (study if study.is_dir() else Path()) / name


def stored(board: Workspace | Report, text: str, out: Path, what: str) -> str:
    """Save a workspace or a report in wandb, or write its specification to `out` where that fails. Returns what was done, as a sentence.

    Raises UserError where the file cannot be written. what: "workspace" or "report".
    """
    reason = save(board)
    if reason is None:
        return f"the {what} is saved in wandb"
    try:
        write_atomically(out, text + "\n")
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): name another file with --out") from error
    return f"{out}: the specification of the {what}. Not saved in wandb: {reason}, and give this command again."


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the dashboard of one study, and save it or write its specification. A UserError is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="results/STUDY")
    parser.add_argument("--entity", help="wandb user or team (default: WANDB_ENTITY, else that of the login)")
    parser.add_argument("--project", help=f"wandb project (default: WANDB_PROJECT, else {PROJECT}, as for runs)")
    parser.add_argument("--out", type=Path, help="where the specification goes without a login (default: results/STUDY/dashboard.json)")
    options = parser.parse_args(arguments)
    with command_errors():
        strip_key()
        begin_reading([options.study])
        # Imported here and above, because pandas takes a second that neither --help nor a folder that is not there should wait for.
        from analysis.load.frames import load

        runs = load(options.study).runs
        entity = options.entity or os.environ.get("WANDB_ENTITY") or default_entity(options.study)
        board = workspace(runs, entity, options.project or os.environ.get("WANDB_PROJECT") or PROJECT)
        print(stored(board, specification(board), options.out or default_place(options.study, "dashboard.json"), "workspace"))


if __name__ == "__main__":
    main()
