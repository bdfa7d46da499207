"""Figures 2 and 3: the reward models of a study. The unit is a reward model, not a run, because several runs can share one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.errors import UserError
from analysis.estimate.units import MIN_SEEDS
from analysis.figures.estimate import COLUMNS, Drawn, Frames, gold_levels, mean_and_band
from analysis.figures.labels import spread_labels
from analysis.figures.panels import LEVELS, draw_panel
from analysis.figures.style import PALETTE, WIDTH, WORDS, add_caption, arm_dashes, arm_label, gold_source, natural, style

STAGES = ("preferences.", "reward_model.", "data.", "sft.", "pretrain.", "model.")


def reward_models(runs: pd.DataFrame, recorded: pd.DataFrame) -> pd.DataFrame:
    """One row per reward model. Runs with equal settings of all stages before PPO and equal pipeline_seed have the same one.

    run, study, arm, reward_model: of one run that used it. kind: number of the settings. pipeline_seed. group: the language, ''
    if there is only one. steps: of training, NaN if not known. series: 'clear pairs' or 'hard pairs' under these presets, else the arm.
    Arms that share their reward models are one series. recorded: a frame of `load_reward_models`. Runs that are not in it are left out.

    Raises:
        UserError: no run has recorded its reward model.
    """
    known = runs[runs["run"].isin(set(recorded["run"]) if len(recorded) else set())]
    if known.empty:
        raise UserError("none of these runs holds reward_model/pairs.csv and training.jsonl: reward models given by a path have none")
    settings = [name for name in known.columns if name.startswith(STAGES)]
    kinds = pd.MultiIndex.from_frame(known[settings].astype(str)) if settings else pd.Index(["all"] * len(known))
    kind, seed = pd.factorize(kinds)[0], known["pipeline_seed"].to_numpy() if "pipeline_seed" in known else known["seed"].to_numpy()
    languages = known["data.language"].astype(str) if "data.language" in known else pd.Series("", index=known.index)
    table = pd.DataFrame({
        **{name: known[name].to_numpy() for name in ("run", "study", "arm", "reward_model")}, "kind": kind, "pipeline_seed": seed,
        "group": [WORDS.get(name, name) for name in languages] if languages.nunique() > 1 else "",
        "steps": known["reward_model.steps"].to_numpy(dtype=float) if "reward_model.steps" in known else np.nan,
    }).drop_duplicates(["kind", "pipeline_seed"])  # fmt: skip
    table["series"] = table["kind"].map(table.groupby("kind")["arm"].first().map(series))
    return table.iloc[sorted(range(len(table)), key=lambda row: (table["group"].iloc[row], natural(table["series"].iloc[row])))]


def series(arm: str) -> str:
    """'rm_after_20_percent,data.language=en,preferences=clear' → 'clear pairs'. An arm without preferences → its label."""
    pairs = [part.removeprefix("preferences=") for part in arm.split(",") if part.startswith("preferences=")]
    return f"{pairs[0]} pairs" if pairs else arm_label(arm)


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour per series. The grey of base arms is left out, because no series is a base."""
    return dict(zip(names, cycle(PALETTE[1:]), strict=False))


def fully_trained(models: pd.DataFrame) -> pd.DataFrame:
    """The rows of `reward_models` with the most steps, or with steps that are not known."""
    return models[models["steps"].isna() | (models["steps"] == models["steps"].max())]


def difference_table(models: pd.DataFrame, pairs: pd.DataFrame, bins: int = 40) -> pd.DataFrame:
    """Histograms of score differences, chosen − rejected, averaged over the reward models of a series.

    One row per group, series and bin: group, series, left, right (edges), share (of pairs), n (reward models), accuracy (share of
    differences above 0).
    """
    joined = pairs.merge(models[["run", "series", "group"]], on="run")
    # A few extreme differences would stretch the axis. Those beyond its ends count in the outermost bins.
    edges = np.linspace(*np.quantile(joined["score_difference"], [0.002, 0.998]), bins + 1)
    inside = joined["score_difference"].clip(edges[0], edges[-1])
    rows = []
    for (group, name), part in joined.assign(inside=inside).groupby(["group", "series"], sort=False):
        shares = [np.histogram(one["inside"], edges)[0] / len(one) for _, one in part.groupby("run")]
        accuracy = (part["score_difference"] > 0).groupby(part["run"]).mean().mean()
        rows += [dict(group=group, series=name, left=left, right=right, share=share, n=len(shares), accuracy=accuracy)
                 for left, right, share in zip(edges, edges[1:], np.mean(shares, axis=0), strict=False)]  # fmt: skip
    return pd.DataFrame(rows)


def fig02(frames: Frames) -> Drawn:
    """Histograms of the reward models' score differences on held-out pairs."""
    models = fully_trained(reward_models(frames.runs, frames.pairs))
    table = difference_table(models, frames.pairs)
    groups = list(dict.fromkeys(table["group"]))
    caption = (
        "Figure 2. Reward models on held-out pairs: score of the chosen answer − score of the rejected one. Left of 0 they are wrong. "
        f"Histograms: mean over {_count(models)}. Each model is measured on held-out pairs of its own kind, so that kinds differ in their "
        "pairs too. Percentages: accuracy."
    )
    with style():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        for axes, group in zip(figure.subplots(1, len(groups), squeeze=False, sharey=True)[0], groups, strict=True):
            _draw_histograms(axes, table[table["group"] == group])
            axes.set(title=group or "Reward models on held-out pairs", xlabel="score(chosen) − score(rejected)")
        figure.axes[0].set_ylabel("share of pairs")
        add_caption(figure, caption)
    return Drawn(figure, table)


def _draw_histograms(axes: Axes, part: pd.DataFrame) -> None:
    axes.axvline(0, color="0.45", linewidth=0.8, linestyle=(0, (1, 2)))
    colours = series_colours(list(dict.fromkeys(part["series"])))
    for name, rows in part.groupby("series", sort=False):
        colour = colours[name]
        axes.stairs(rows["share"], [*rows["left"], rows["right"].iloc[-1]], color=colour, fill=True, alpha=0.15)
        axes.stairs(rows["share"], [*rows["left"], rows["right"].iloc[-1]], color=colour, linewidth=1.2,
                    label=f"{name}: {rows['accuracy'].iloc[0]:.0%}")  # fmt: skip
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    axes.legend(frameon=False, loc="upper left", handlelength=1.2, borderaxespad=0)


def accuracy_table(models: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """Held-out accuracy over training steps, with columns as in `trajectories`: group, panel, arm, kind,
    reward_model, seed, update, value, low, high, n.

    arm: the series. kind: 'run', one reward model, or 'mean'. reward_model: the run that recorded it. seed: pipeline_seed.
    update: the training step. n: reward models.
    """
    joined = training.dropna(subset=["held_out_accuracy"]).merge(models[["run", "series", "group", "pipeline_seed"]], on="run")
    parts = []
    for (group, name), rows in joined.groupby(["group", "series"], sort=False):
        each = rows.pivot(index="step", columns="pipeline_seed", values="held_out_accuracy")
        band = mean_and_band(each.to_numpy()).rename(columns={"mean": "value"}).assign(kind="mean", update=each.index)
        faint = pd.DataFrame(
            dict(kind="run", reward_model=rows["run"], seed=rows["pipeline_seed"], update=rows["step"], value=rows["held_out_accuracy"])
        )
        parts.append(pd.concat([faint, band], ignore_index=True).assign(group=group, arm=name, panel="Held-out accuracy"))
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def fig03(frames: Frames) -> Drawn:
    """Accuracy of reward models while they train, and gold at the end of PPO with each of them."""
    every = reward_models(frames.runs, frames.training)
    table = accuracy_table(fully_trained(every), frames.training)
    ends = end_table(every, frames)
    levels = sft_table(every, frames) if len(ends) else pd.DataFrame()
    names = list(dict.fromkeys(table["arm"]))
    colours = series_colours(names)
    groups = list(dict.fromkeys(table["group"]))
    stops = " Open: shorter training; filled: the longest." if every["steps"].nunique() > 1 else ""
    bottom = (
        " Bottom: gold at the end of PPO against the accuracy of the reward model used; points: means over reward models"
        f"{_interval(ends, 'bars')}; dashed: SFT's mean gold.{stops} {gold_source(frames.runs)}"
    )
    caption = (
        f"Figure 3. {'Top: accuracy' if len(ends) else 'Accuracy'} of reward models while they train ({_count(every)}), each on held-out "
        f"pairs of its own kind; bold: mean of them{_interval(table, 'band')}; faint: reward models.{bottom if len(ends) else ''}"
    )
    with style():
        figure = Figure(figsize=(WIDTH, 4.9 if len(ends) else 2.9), layout="constrained")
        grid, labels = figure.subplots(2 if len(ends) else 1, len(groups), squeeze=False, sharey="row"), {}
        for column, group in enumerate(groups):
            axes = grid[0][column]
            labels[axes] = draw_panel(axes, table[table["group"] == group], colours, arm_dashes(names))
            axes.set(title=f"{group} – held-out accuracy" if group else "Held-out accuracy", xlabel="reward model training step",
                     xlim=(0, table["update"].max()))  # fmt: skip
            if len(ends):
                _draw_ends(grid[1][column], ends[ends["group"] == group], colours)
                for level in levels.loc[levels["group"] == group, "value"]:
                    grid[1][column].axhline(level, color="0.45", linewidth=0.8, linestyle=LEVELS["sft"], zorder=1)
        add_caption(figure, caption)
        spread_labels(figure, labels)
    return Drawn(figure, pd.concat([table, ends, levels], ignore_index=True))


def _interval(table: pd.DataFrame, what: str) -> str:
    known = "low" in table and table["low"].notna().any()
    return f"; {what}: 95 % t interval" if known else f", without a 95 % t interval below {MIN_SEEDS}"


def end_table(models: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """Accuracy and gold at the end of PPO, one row per group, series and number of training steps.

    panel ('Gold after PPO'), group, arm (series), kind ('end'), steps, accuracy (mean), value (mean gold), low, high, n (reward models).
    Without gold the frame is empty. So it is where arms share reward models, because their gold then differs for other reasons.
    """
    if "eval/gold" not in frames.curves or frames.runs["arm"].nunique() > models["kind"].nunique():
        return pd.DataFrame()
    done = frames.runs.loc[frames.runs["status"] == "completed", "run"]
    curves = frames.curves[frames.curves["run"].isin(done) & frames.curves["eval/gold"].notna()]
    gold = curves.sort_values("update").groupby("run", observed=True)["eval/gold"].last().rename("gold")
    accuracy = frames.training.dropna(subset=["held_out_accuracy"]).groupby("run")["held_out_accuracy"].last().rename("accuracy")
    by_model = frames.runs.merge(gold, left_on="run", right_index=True).groupby(["arm", "reward_model"], observed=True)["gold"].mean()
    joined = models.merge(by_model, left_on=["arm", "reward_model"], right_index=True).merge(accuracy, left_on="run", right_index=True)
    rows = []
    for (group, name, steps), part in joined.groupby(["group", "series", "steps"], sort=False, dropna=False):
        band = mean_and_band(part["gold"].to_numpy()[None]).iloc[0]
        rows.append(dict(panel="Gold after PPO", group=group, arm=name, kind="end", steps=steps, accuracy=part["accuracy"].mean(),
                         value=band["mean"], low=band["low"], high=band["high"], n=band["n"]))  # fmt: skip
    return pd.DataFrame(rows)


def sft_table(models: pd.DataFrame, frames: Frames) -> pd.DataFrame:
    """SFT's gold, one row per group: panel, group, kind ('sft'), value (mean of the runs), low, high (least and most of them)."""
    group = frames.runs["arm"].map(models.drop_duplicates("arm").set_index("arm")["group"])
    parts = [gold_levels(part).assign(group=name, panel="Gold after PPO") for name, part in frames.runs.groupby(group)]
    levels = pd.concat(parts, ignore_index=True)
    return levels[levels["kind"] == "sft"]


def _draw_ends(axes: Axes, part: pd.DataFrame, colours: dict[str, str]) -> None:
    for name, rows in part.sort_values("steps").groupby("arm", sort=False):
        axes.plot(rows["accuracy"], rows["value"], color=colours[name], linewidth=0.7)
        for index, row in enumerate(rows.itertuples()):
            face = colours[name] if index == len(rows) - 1 else "white"
            axes.plot([row.accuracy] * 2, [row.low, row.high], color=colours[name], linewidth=1)
            axes.plot(row.accuracy, row.value, marker="o", markersize=5, color=colours[name], markerfacecolor=face)
    axes.set(title="Gold reward after PPO", xlabel="held-out accuracy of the reward model")
    axes.margins(0.15)


def _count(models: pd.DataFrame) -> str:
    """'5 reward models of each kind, study rm_training'."""
    each = models.groupby("kind").size()
    least, most = int(each.min()), int(each.max())
    n = f"{least}" if least == most else f"{least} to {most}"
    return f"{n} reward model{'s' * (most > 1)} of each kind, study {', '.join(sorted(models['study'].unique()))}"
