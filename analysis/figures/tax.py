"""Figure 12: gold at the end of training and the alignment tax."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.errors import UserError
from analysis.figures.estimate import Drawn, Frames, mean_and_band
from analysis.figures.judged import ended
from analysis.figures.style import PALETTE, WIDTH, add_caption, arm_label, arm_order, basis, gold_source, points, style

WON = {"eval/helpful/gold": "Gold,\nhelpful prompts", "eval/harmful/gold": "Gold,\nharmful prompts"}
PAID = {"eval/lm_loss": "Held-out text,\nnats per token", "eval/choice_accuracy": "Multiple choice,\nshare right"}
# Some runs log no ability, for instance those on human data without texts for it. These metrics are the nearest that they log.
NEAREST = {"monitor/perplexity_ref": "Perplexity of answers\nunder SFT", "monitor/distinct": "Distinct bigrams\nin an answer"}
MEASURES = {
    "eval/lm_loss": "the loss",
    "eval/choice_accuracy": "the share of multiple-choice questions whose right choice has the highest log-likelihood per token",
}
NOT_MEASURED = (
    "The cost is not judged: these runs have logged no loss on held-out text and no multiple choice; perplexity under SFT and distinct "
    "bigrams, the nearest, show how far the language has gone from SFT's."
)


def panels_of(runs: pd.DataFrame) -> dict[str, str]:
    """Metric → title of its panel: gold, and the abilities that all `runs` have measured at both ends. If there are none, `NEAREST`."""

    def known(name: str) -> bool:
        return all(column in runs and runs[column].notna().all() for column in (f"sft/{name}", f"final/{name}"))

    paid = {name: title for name, title in PAID.items() if known(name)}
    return {name: title for name, title in (WON | (paid or NEAREST)).items() if f"final/{name}" in runs and f"sft/{name}" in runs}


def tax_table(frames: Frames) -> pd.DataFrame:
    """SFT and each arm at the end of training: panel, arm, kind ('run' or 'mean'), value, and for means low, high (`mean_and_band`), n.

    Raises:
        UserError: no summary holds the metrics of both SFT and the end.
    """
    runs, rows = ended(frames), []
    for metric, title in panels_of(runs).items():
        columns = {"SFT": runs.drop_duplicates(["reward_model", "seed"])[f"sft/{metric}"]}
        columns |= {arm_label(arm): runs.loc[runs["arm"] == arm, f"final/{metric}"] for arm in arm_order(runs)}
        for arm, values in columns.items():
            band = mean_and_band(values.to_numpy(dtype=float)[None], runs.loc[values.index, "reward_model"]).iloc[0]
            rows += [dict(panel=title, arm=arm, kind="run", value=value) for value in values]
            rows.append(dict(panel=title, arm=arm, kind="mean", value=band["mean"], low=band["low"], high=band["high"], n=band["n"]))
    if not rows:
        raise UserError("no summary.json holds the metrics of SFT and of the end: " + ", ".join([*WON, *PAID, *NEAREST]))
    return pd.DataFrame(rows)


def fig12(frames: Frames) -> Drawn:
    """SFT, PPO-max and PPO-ptx: gold at the end of training and the alignment tax.

    The paper measures the tax on a language-understanding suite. Here it is measured by the loss on held-out text (`eval/lm_loss`) and by
    multiple choice (`eval/choice_accuracy`). Runs without these show how far their language is from SFT's.
    """
    runs, table = ended(frames), tax_table(frames)
    panels = list(dict.fromkeys(table["panel"]))
    arms = list(dict.fromkeys(table["arm"]))
    measured = " and ".join(text for name, text in MEASURES.items() if PAID[name] in panels)
    cost = f"The cost is measured on plain text that no stage has learned from: {measured}." if measured else NOT_MEASURED
    caption = (
        "Figure 12. SFT and every arm at the end of training: gold reward, and its possible cost, the alignment tax. "
        f"{cost} {basis(runs)} "
        f"Points: {points(runs, table)}; faint: runs. {gold_source(frames.runs)}"
    )
    with style():
        figure = Figure(figsize=(WIDTH, 0.27 * len(arms) + 1.6), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
            _draw_points(axes, table[table["panel"] == panel], arms)
            axes.set_title(panel)
        add_caption(figure, caption)
    return Drawn(figure, table)


def _draw_points(axes: Axes, part: pd.DataFrame, arms: list[str]) -> None:
    for place, arm in enumerate(arms):
        own, colour = part[part["arm"] == arm], PALETTE[place % len(PALETTE)]
        values, mean = own.loc[own["kind"] == "run", "value"], own[own["kind"] == "mean"].iloc[0]
        axes.plot(values, [place] * len(values), linestyle="", marker="o", markersize=3, color=colour, alpha=0.3, markeredgewidth=0)
        axes.plot([mean["low"], mean["high"]], [place] * 2, color=colour, linewidth=1.5)
        axes.plot(mean["value"], place, marker="o", markersize=5, color=colour)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.margins(x=0.15)
