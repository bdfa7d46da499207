"""The sampled answers of the page, and the prompt that is shown first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.load.frames import load_rows
from analysis.report.curves import short

MAX_UPDATES = 16  # evenly spaced evaluations, the first and the last among them
MAX_ANSWERS = 16_000  # the last seeds are left out until the rest are no more
MAX_CHARACTERS = 600  # of one answer

RULE = "of the prompts that most arms answer, the one on which gold falls most from SFT to the last evaluation, averaged over runs"


def draws(runs: pd.DataFrame) -> pd.Series:
    """What tells the runs of one arm apart, by run: the seed, and where runs differ in reward model 'seed 0, pipeline_seed=3'."""
    labels = runs["seed"]
    if runs["reward_model"].nunique() > 1:
        labels = "seed " + labels.astype(str) + ", " + runs["reward_model"].astype(str)
    return pd.Series(labels.to_numpy(), index=runs["run"].astype(str))


def load_samples(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of samples.jsonl of as many seeds, in order, as `text_data` keeps and one more: of thousands of runs most are not shown."""
    labels, parts, answers = draws(runs).to_numpy(), [], 0
    for label in np.sort(np.unique(labels)):
        part = load_rows(runs[labels == label], "samples")
        if len(part):
            kept = part["update"].isin(evenly_spaced(np.unique(part["update"]), MAX_UPDATES))
            parts, answers = [*parts, part], answers + len(part[kept].drop_duplicates(["run", "prompt", "update"]))
        if answers > MAX_ANSWERS:
            break
    return pd.concat(parts, ignore_index=True) if parts else load_rows(runs[:0], "samples")


def evenly_spaced(updates: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the updates, which are in order; the first and the last among them."""
    return updates[np.unique(np.round(np.linspace(0, len(updates) - 1, most)).astype(int))]


def shown(
    rows: pd.DataFrame, runs: pd.DataFrame, most_updates: int, sizes: np.ndarray, most: int
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """(the rows that are shown, with the label of `draws` as `draw`; their updates; their seeds).

    At most `most_updates` evenly spaced updates, and of the seeds, in order, as many as keep the sum of `sizes`, one per row, to `most`;
    at least one.
    """
    rows = rows.assign(draw=rows["run"].astype(str).map(draws(runs)), size=sizes)
    updates, seeds = evenly_spaced(np.sort(rows["update"].unique()), most_updates), np.sort(rows["draw"].unique())
    rows = rows[rows["update"].isin(updates)]
    totals = rows["size"].groupby(rows["draw"]).sum().reindex(seeds, fill_value=0).cumsum()
    seeds = seeds[: max(1, int((totals <= most).sum()))]
    return rows[rows["draw"].isin(seeds)].drop(columns="size"), updates, seeds


def text_data(runs: pd.DataFrame, samples: pd.DataFrame) -> dict[str, Any] | None:
    """Samples as {prompts, kinds, updates, seeds, strings, answers, default, rule, of}. None if there are none.

    seeds: the labels of `draws`.
    answers: `answers[run][prompt][update]` is [index into strings, proxy, gold, length], or None. Runs have the order of `runs`. That of
        a seed which is left out is None.
    runs: all of the study, so that the number of seeds is known where `samples` has but the first.
    default: [index of the prompt, one of seeds] shown first, chosen by `rule`. of: the numbers of updates and seeds before the limits.
    """
    if samples.empty or not {"update", "prompt", "response"} <= set(samples.columns):
        return None
    samples = samples.drop_duplicates(["run", "prompt", "update"], keep="last")
    number = samples["update"].nunique()
    samples, updates, seeds = shown(samples, runs, MAX_UPDATES, np.ones(len(samples), dtype=int), MAX_ANSWERS)
    prompts = list(dict.fromkeys(samples["prompt"]))
    first = samples.drop_duplicates("prompt").set_index("prompt")
    kinds = first["kind"].to_dict() if "kind" in first else {}
    return {
        "prompts": prompts, "kinds": [str(kinds.get(prompt, "")) for prompt in prompts], "updates": updates.tolist(),
        "seeds": seeds.tolist(), **_answers(runs, samples, prompts, updates), "default": default(samples, prompts), "rule": RULE,
        "of": {"updates": number, "seeds": draws(runs).nunique()},
    }  # fmt: skip


def default(samples: pd.DataFrame, prompts: list[str]) -> list:
    """[index of the prompt chosen by `RULE`, the first seed with which most arms answer it].

    Without gold it is the first prompt that most arms answer. Arms and seeds of different worlds have different prompts.
    """
    arms = samples.groupby("prompt")["arm"].nunique().reindex(prompts)
    shared = arms.index[arms == arms.max()]
    chosen = shared[0]
    if "gold" in samples and samples["gold"].notna().any():
        ordered = samples[samples["prompt"].isin(shared)].sort_values("update").groupby(["prompt", "run"], observed=True)["gold"]
        fall = (ordered.last() - ordered.first()).groupby(level="prompt").mean().reindex(shared).fillna(np.inf)
        chosen = shared[int(fall.to_numpy().argmin())]
    seeds = samples[samples["prompt"] == chosen].groupby("draw")["arm"].nunique()
    return [prompts.index(chosen), seeds.index.tolist()[seeds.to_numpy().argmax()]]


def _answers(runs: pd.DataFrame, samples: pd.DataFrame, prompts: list[str], updates: np.ndarray) -> dict[str, Any]:
    """{strings, answers} of `text_data`. Each distinct answer is stored once, because many are equal."""
    responses = samples["response"].astype(str)
    cut = responses.where(responses.str.len() <= MAX_CHARACTERS, responses.str.slice(0, MAX_CHARACTERS) + " …")
    codes, strings = pd.factorize(cut)
    numbers = [short(samples[name], 3) if name in samples else [None] * len(samples) for name in ("proxy", "gold", "length")]
    row_of = {run: index for index, run in enumerate(runs["run"])}
    prompt_of = {prompt: index for index, prompt in enumerate(prompts)}
    answers: list[Any] = [None] * len(runs)
    columns = np.searchsorted(updates, samples["update"].to_numpy())
    for run, prompt, column, *cell in zip(samples["run"].astype(str), samples["prompt"], columns, codes.tolist(), *numbers, strict=True):
        row = row_of[run]
        if answers[row] is None:
            answers[row] = [[None] * len(updates) for _ in prompts]
        answers[row][prompt_of[prompt]][column] = cell
    return {"strings": strings.tolist(), "answers": answers}
