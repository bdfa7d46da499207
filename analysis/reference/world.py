"""What docs/explanation/world.md and alarms.md say of the committed runs: pure functions of the set, one per block.

A function returns None where the set lacks the study that it speaks of: the document keeps what it says of other runs.
"""

from __future__ import annotations

import pandas as pd

from analysis.alarms.learn import as_set, courses_of
from analysis.load.frames import Loaded
from analysis.markdown import markdown_table
from analysis.reference.estimates import ReferenceSet, Study
from analysis.reference.prose import bullets, counted, listed, wrapped
from analysis.reference.readme import command, made_by
from analysis.tricks.measured import signed
from analysis.world_check.answers import answers_text, last_answers
from analysis.world_check.measures import run_table
from analysis.world_check.points import CPU_SECONDS, PASS, verdict_of
from analysis.world_check.points import findings as points
from analysis.world_check.tables import arms_table, points_table

NOTHING = pd.DataFrame()
UNBIASED = "world_check_unbiased"  # the study of the world without a length bias
PICTURE = (
    "![Proxy reward and gold reward of the same runs over updates, of vanilla PPO and of PPO-max with and without its KL penalty]"
    "(../collapse.png)"
)


def world_held(reference: ReferenceSet) -> str | None:
    """On which of the points that the world must show the runs pass, and on which they fail or cannot tell."""
    study = reference.several("world_check")
    if study is None:
        return None
    parts = points(world_runs(study))
    verdicts = {number: verdict_of([part for part in parts if part.point == number]) for number in sorted({part.point for part in parts})}
    passed = [number for number, verdict in verdicts.items() if verdict == PASS]
    told = f"{len(passed)} of {len(verdicts)} points pass, over {counted(study.basis.units, study.basis.unit)}."
    others = [f"{number} ({verdict})" for number, verdict in verdicts.items() if verdict != PASS]
    return wrapped(told + (f" The others: {listed(others)}." if others else ""))


def world(reference: ReferenceSet) -> str | None:
    """Of docs/explanation/world.md: the code of the runs, the figure, the verdict on every point and the table of arms."""
    study = reference.several("world_check")
    if study is None:
        return None
    notes = [
        "*RM accuracy* is that on held-out pairs, judged by gold.",
        f"*Gold* is the mean at the last evaluation, on held-out prompts. SFT has {signed(world_runs(study)['gold_sft'].mean())}.",
        "*Win rate* is against SFT on the same prompt; a tie counts one half.",
        "*KL* is in nats per response, *length* in tokens; an arrow goes from SFT to the end.",
        "The arms `rm_` are PPO-max with fewer pairs and with noisier ones. Proxy cannot be compared between them.",
    ]
    return _world_of(study, f"{PICTURE}\n\nEach faint line is a run.", bullets(notes))


def world_answers(reference: ReferenceSet) -> str | None:
    """Of docs/explanation/world.md: two prompts, each with vanilla's answer and PPO-max's at the end, their gold term by term."""
    study = reference.several("world_check")
    answers = [] if study is None else last_answers(study.runs)
    return f"```\n{answers_text(answers)}\n```" if answers else None


def world_unbiased(reference: ReferenceSet) -> str | None:
    """Of docs/explanation/world.md: the same verdicts and table in the world of `preferences=unbiased`."""
    study = reference.several(UNBIASED)
    return None if study is None else _world_of(study, "", "")


def _world_of(study: Study, picture: str, notes: str) -> str:
    """The code of a world's runs and their command, the verdict on every point and the table of arms."""
    runs = world_runs(study)
    return "\n\n".join(filter(None, [
        wrapped(f"Its runs were made by {made_by(study.runs)}: {study.basis} per arm."),
        picture,
        "\n".join(["```", f"{command(study.name, study.runs)} && python -m analysis.world_check results/{study.name}", "```"]),
        points_table(runs, CPU_SECONDS),
        arms_table(runs),
        notes,
    ]))  # fmt: skip


def world_runs(study: Study) -> pd.DataFrame:
    """The runs of the study `world_check` or `world_check_unbiased`, as `analysis.world_check` reads them."""
    return run_table(Loaded(study.runs, study.curves, NOTHING))


def alarms(reference: ReferenceSet) -> str | None:
    """Of docs/explanation/alarms.md: what the alarms in force make of the runs of the studies over several reward models, in the
    default world."""
    names = [study.name for study in reference.compared if study.basis.reward_models > 1 and study.name != UNBIASED]
    if not names:
        return None
    loaded = reference.loaded
    mine = Loaded(loaded.runs[loaded.runs["study"].isin(names)], loaded.curves[loaded.curves["study"].isin(names)], NOTHING)
    runs = courses_of(mine)
    if not runs:
        return None
    models, collapsed = len({run.reward_model for run in runs}), sum(run.collapses for run in runs)
    folders = " ".join(f"results/reference/{name}" for name in names)
    told = f"{counted(len(runs), 'different run')} over {counted(models, 'reward model')}, of which {collapsed} collapsed:"
    return "\n\n".join([f"```\npython -m analysis.alarms {folders}\n```", told, markdown_table(as_set(runs))])
