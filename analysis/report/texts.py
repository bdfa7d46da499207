"""The text of the page: which of the sampled answers it holds, and which prompt it opens with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.report.curves import short

MOST_UPDATES = 16  # evenly spaced evaluations, the first and the last among them
MOST_ANSWERS = 16_000  # seeds are left out from the last until the rest fits
MOST_CHARACTERS = 600  # of one answer

RULE = "the prompt on which gold falls most from SFT to the last evaluation, averaged over all runs shown"


def text_data(runs: pd.DataFrame, samples: pd.DataFrame) -> dict[str, Any] | None:
    """Samples as {prompts, kinds, updates, seeds, strings, answers, default, of}, or None without any.

    `answers[run][prompt][update]` is None or [index into strings, proxy, gold, length], runs in the order of `runs` (None:
    a seed left out). `of`: how many updates and seeds there were before the limits.
    """
    if samples.empty or not {"update", "prompt", "response"} <= set(samples.columns):
        return None
    samples = samples.drop_duplicates(["run", "prompt", "update"], keep="last")
    updates, seeds = np.sort(samples["update"].unique()), np.sort(samples["seed"].unique())
    kept_updates = updates[np.unique(np.round(np.linspace(0, len(updates) - 1, MOST_UPDATES)).astype(int))]
    samples = samples[samples["update"].isin(kept_updates)]
    counts = samples.groupby("seed").size().reindex(seeds, fill_value=0).cumsum()
    kept_seeds = seeds[: max(1, int((counts <= MOST_ANSWERS).sum()))]
    samples = samples[samples["seed"].isin(kept_seeds)]
    prompts = list(dict.fromkeys(samples["prompt"]))
    kinds = samples.drop_duplicates("prompt").set_index("prompt").get("kind", pd.Series(dtype=str))
    return {
        "prompts": prompts, "kinds": [str(kinds.get(prompt, "")) for prompt in prompts], "updates": kept_updates.tolist(),
        "seeds": kept_seeds.tolist(), **_answers(runs, samples, prompts, kept_updates), "default": default_prompt(samples, prompts),
        "of": {"updates": len(updates), "seeds": len(seeds)},
    }  # fmt: skip


def default_prompt(samples: pd.DataFrame, prompts: list[str]) -> int:
    """`RULE`; the first prompt without a gold reward."""
    if "gold" not in samples or samples["gold"].isna().all():
        return 0
    ordered = samples.sort_values("update").groupby(["prompt", "run"], observed=True)["gold"]
    fall = (ordered.last() - ordered.first()).groupby(level="prompt").mean().reindex(prompts)
    return int(fall.fillna(np.inf).to_numpy().argmin())


def _answers(runs: pd.DataFrame, samples: pd.DataFrame, prompts: list[str], updates: np.ndarray) -> dict[str, Any]:
    """Every distinct answer once: all arms share SFT's, and collapsed policies repeat themselves."""
    responses = samples["response"].astype(str)
    cut = responses.where(responses.str.len() <= MOST_CHARACTERS, responses.str.slice(0, MOST_CHARACTERS) + " …")
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
