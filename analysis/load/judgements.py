"""RUN/judgements/*.json, written by `python -m ablate.judge` → a frame: the policy and SFT, each against SFT or a third party."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.system.reading import fits
from analysis.load.runfolder import read_summary

OUTCOMES = ("win", "tie", "lose")
COLUMNS = ("run", "study", "arm", "reward_model", "seed", "judge", "judge_kind", "part", "against", "kind", "prompts", *OUTCOMES)


def load_judgements(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per judgement and kind of prompt, with the columns `COLUMNS`.

    run, study, arm, seed: the run that was judged. judge, judge_kind: who judged. part: the first side, 'policy' or 'sft'.
    against: the second side, 'sft' for that of the run, else a name. kind: 'all' or the kind of prompt. prompts: those with a
    readable verdict. win, tie, lose: shares of them.

    Judgements of another checkpoint than the run's last are left out. So are files that cannot be read.
    """
    rows = []
    for run in runs.itertuples():
        for path in sorted((Path(run.folder) / "judgements").glob("*.json")):
            record = read_summary(path, [])
            if _is_judgement(record) and record["first"].get("update") in (None, run.last_update):
                rows += _rows(run, record)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _is_judgement(record: dict) -> bool:
    """Whether the object in a file has the form of a judgement."""
    sides = all(fits(record.get(name), dict[str, Any]) for name in ("first", "second", "judge"))
    if not sides or not fits(record.get("table"), list[dict[str, Any]]):
        return False
    names = (record["second"].get("name"), record["judge"].get("name"), record["judge"].get("kind"))
    counts = [row.get(outcome) for row in record["table"] for outcome in OUTCOMES]
    texts = all(fits(name, str) for name in (*names, *(row.get("kind") for row in record["table"])))
    return texts and fits(record["first"].get("part"), str | None) and all(fits(count, int) and count >= 0 for count in counts)


def _rows(run, record: dict) -> list[dict]:
    """The rows of one judgement, with the keys `COLUMNS`. Kinds without a readable verdict have none."""
    first, second, judge = record["first"], record["second"], record["judge"]
    who = {name: getattr(run, name) for name in COLUMNS[:5]}
    about = dict(**who, judge=judge["name"], judge_kind=judge["kind"], part=first.get("part"), against=second["name"])
    rows = []
    for row in record["table"]:
        readable = sum(row[outcome] for outcome in OUTCOMES)
        if readable:
            rows.append(dict(**about, kind=row["kind"], prompts=readable, **{outcome: row[outcome] / readable for outcome in OUTCOMES}))
    return rows


def of_one_kind(judgements: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of `kind`, and the rows over all prompts of judgements without that kind. The columns are `COLUMNS`."""
    keys = ["run", "judge", "part", "against"]
    own = judgements[judgements["kind"] == kind]
    rest = judgements[judgements["kind"] == "all"].merge(own[keys], on=keys, how="left", indicator=True)
    return pd.concat([own, rest[rest["_merge"] == "left_only"].drop(columns="_merge")], ignore_index=True)


def third_parties(judgements: pd.DataFrame) -> pd.DataFrame:
    """Judgements against a third party with which a judge has compared both the policy and SFT of a run. The columns are `COLUMNS`.

    Only harmful prompts are kept, or all prompts where a judgement has no harmful ones.
    """
    met = of_one_kind(judgements[judgements["against"] != "sft"], "harmful")
    both = met.groupby(["run", "judge", "against"])["part"].transform("nunique") == 2
    return met[both & met["part"].isin(["policy", "sft"])].reset_index(drop=True)


def third_losses(table: pd.DataFrame, judgements: pd.DataFrame) -> np.ndarray:
    """The policy's share of losses to third parties minus SFT's, averaged over judges and third parties: (rows of `table`,).

    NaN where no judge has compared both with one third party.
    """
    met = third_parties(judgements)
    if met.empty:
        return np.full(len(table), np.nan)
    lost = met.pivot_table(index=["run", "judge", "against"], columns="part", values="lose")
    return (lost["policy"] - lost["sft"]).groupby("run").mean().reindex(table["run"]).to_numpy()
