"""A wandb report of one study: its verdicts in sentences, and its curves in the order of the report page.

    python -m analysis.wandb_report results/policy_constraints
    python -m analysis.wandb_report results/policy_constraints --entity my-team --project rlhf --out report.json

With a wandb login the report is saved in wandb. Without one it is written as JSON, for which --entity says whose it is. It shows runs that
wandb has: `tracker=wandb` sends them, and so do `python -m ablate.mirror results/STUDY` and `wandb sync`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.system.commands import command_errors
from analysis.load.packed import begin_reading

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

    from analysis.claims.study import StudyVerdicts

LONGEST_TITLE = 128  # characters
WIDTH, HEIGHT, PER_ROW = 8, 6, 3  # of a panel in wandb's grid of 24 columns
COLUMNS = ("summary:status", "summary:collapsed", "summary:collapse_update", "summary:gold_gain")  # beside the runs


def report(verdicts: StudyVerdicts, arms: Sequence[str], entity: str, project: str) -> Report:
    """The report of one study. arms: as they are shown, the base first.

    Sections, as on the report page: answer, claims, curves, time to collapse, over-optimisation, alarms, runs. Each grid has a run set
    per arm, whose seeds are one line with a band from the least to the greatest. Raises UserError where wandb-workspaces is missing.
    """
    from ablate.runs.alarms import ALARMS
    from ablate.runs.metrics import BY_NAME
    from analysis.claims.answer import answer, question_of
    from analysis.dashboard import SCATTERS, workspaces_library
    from analysis.report.curves import FIXED, FREE

    _, wr = workspaces_library()
    question = question_of(verdicts.study)

    def grid(panels: list):
        for place, panel in enumerate(panels):
            panel.layout = wr.Layout(x=place % PER_ROW * WIDTH, y=place // PER_ROW * HEIGHT, w=WIDTH, h=HEIGHT)
        return wr.PanelGrid(runsets=[run_set(wr, verdicts.study, arm) for arm in arms], panels=panels)

    def lines(names: Sequence[str]) -> list:
        return [
            wr.LinePlot(title=BY_NAME[name].panel, x="Step", y=[name], title_x="update", groupby_aggfunc="mean", groupby_rangefunc="minmax")
            for name in names
        ]

    bars = [wr.BarPlot(title="update of collapse, of the runs that collapsed", metrics=["collapse_update"],
                       groupby_aggfunc="mean", groupby_rangefunc="minmax")]  # fmt: skip
    scatters = [wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y)) for x, y, title in SCATTERS.values()]
    claims = [sentence for _, verdict in verdicts.claims for sentence in (verdict.sentence, *(part.sentence for part in verdict.parts))]
    none = "No claim of the papers can be judged with these arms."
    return wr.Report(
        entity=entity,
        project=project,
        title=f"PPO stability: {verdicts.study}"[:LONGEST_TITLE],
        description=question,
        width="fluid",
        blocks=[
            wr.H2("Answer"), *([wr.P(question)] if question else []), *map(wr.P, answer(verdicts)),
            wr.H2("Claims of papers"), *([wr.UnorderedList(items=claims)] if claims else [wr.P(none)]),
            wr.H2("Curves"), grid(lines([*FIXED, *FREE])),
            wr.H2("Time to collapse"), grid(bars),
            wr.H2("Over-optimisation"), grid(scatters),
            wr.H2("Early warning"), grid(lines([*(f"alarm/{alarm.name}" for alarm in ALARMS), "alarm/sounded"])),
            *([wr.H2("Remarks"), *map(wr.P, verdicts.remarks)] if verdicts.remarks else []),
        ],
    )  # fmt: skip


def run_set(wr, study: str, arm: str):
    """The runs of an arm of a study, grouped to one line. It names no project, which is then the report's, and needs no login."""
    from wandb_workspaces import expr

    filters = expr.And(expr.Config("study") == study, expr.Config("arm") == arm)
    return wr.Runset(name=arm, filters=filters, groupby=["config.arm"], pinned_columns=list(COLUMNS))


def specification(made: Report) -> str:
    """The report as the JSON that wandb stores."""
    return made._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the report of one study, and save it or write its specification. A UserError is one sentence and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.wandb_report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="results/STUDY")
    parser.add_argument("--base", help="arm that the others are compared with")
    parser.add_argument("--entity", help="wandb user or team (default: WANDB_ENTITY, else that of the login)")
    parser.add_argument("--project", help="wandb project (default: WANDB_PROJECT, else ppo-ablation, as for runs)")
    parser.add_argument("--out", type=Path, help="where the specification goes without a login (default: results/STUDY/wandb_report.json)")
    options = parser.parse_args(arguments)
    with command_errors():
        begin_reading([options.study])
        # Imported here, because pandas and scipy take seconds that --help should not wait for.
        from ablate.errors import UserError
        from ablate.runs.trackers.interface import PROJECT
        from ablate.runs.trackers.wandb import strip_key
        from analysis.claims.answer import arm_answers
        from analysis.claims.study import runs_to_score, study_verdicts
        from analysis.dashboard import default_entity, default_place, stored
        from analysis.load.frames import load, load_rows
        from analysis.load.judgements import load_judgements

        strip_key()
        loaded = load([options.study])
        studies = list(dict.fromkeys(loaded.runs["study"]))
        if len(studies) != 1:
            raise UserError(f"a report shows one study; here are {', '.join(studies) or 'none'}: name results/STUDY")
        verdicts = study_verdicts(
            loaded, studies[0], base=options.base,
            scores=load_rows(runs_to_score(loaded, studies[0]), "scores"), judgements=load_judgements(loaded.runs),
        )  # fmt: skip
        entity = options.entity or os.environ.get("WANDB_ENTITY") or default_entity(options.study, "analysis.wandb_report")
        made = report(verdicts, list(arm_answers(verdicts)["arm"]), entity, options.project or os.environ.get("WANDB_PROJECT") or PROJECT)
        print(stored(made, specification(made), options.out or default_place(options.study, "wandb_report.json"), "report"))


if __name__ == "__main__":
    main()
