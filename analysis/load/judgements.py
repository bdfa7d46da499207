"""What `python -m ablate.judge` has kept beside runs, RUN/judgements/*.json → a frame: policies and SFT against SFT and third parties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.load.runfolder import read_summary

OUTCOMES = ("win", "tie", "lose")
COLUMNS = ("run", "study", "arm", "reward_model", "seed", "judge", "judge_kind", "part", "against", "kind", "prompts", *OUTCOMES)


def load_judgements(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a judgement and kind of prompt ('all' or the kind): `COLUMNS`, outcomes as shares of the readable prompts.

    `part` (policy or sft) is the first side, `against` the second: 'sft' for the run's own, else a name. Judgements of another
    checkpoint than the run's last are left out, and so is what cannot be read.
    """
    rows = []
    for run in runs.itertuples():
        for path in sorted((Path(run.folder) / "judgements").glob("*.json")):
            record = read_summary(path, [])
            if {"first", "second", "judge", "table"} <= record.keys() and record["first"].get("update") in (None, run.last_update):
                rows += _rows(run, record)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(run, record: dict) -> list[dict]:
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
    """The rows of `kind`; of judgements that have no such prompts those over all."""
    keys = ["run", "judge", "part", "against"]
    own = judgements[judgements["kind"] == kind]
    rest = judgements[judgements["kind"] == "all"].merge(own[keys], on=keys, how="left", indicator=True)
    return pd.concat([own, rest[rest["_merge"] == "left_only"].drop(columns="_merge")], ignore_index=True)


def third_parties(judgements: pd.DataFrame) -> pd.DataFrame:
    """Judgements on harmful prompts (all, where there are none) against a third party that both the policy and SFT of a run have met."""
    met = of_one_kind(judgements[judgements["against"] != "sft"], "harmful")
    both = met.groupby(["run", "judge", "against"])["part"].transform("nunique") == 2
    return met[both & met["part"].isin(["policy", "sft"])].reset_index(drop=True)


def third_losses(table: pd.DataFrame, judgements: pd.DataFrame) -> np.ndarray:
    """Losses of the policy to third parties minus those of its SFT, a value a row of `table` (a share); NaN where they have not met."""
    met = third_parties(judgements)
    if met.empty:
        return np.full(len(table), np.nan)
    lost = met.pivot_table(index=["run", "judge", "against"], columns="part", values="lose")
    return (lost["policy"] - lost["sft"]).groupby("run").mean().reindex(table["run"]).to_numpy()
