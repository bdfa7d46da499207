"""Figures 10 and 11: policies judged at the end of training, by gold and by whomever `python -m ablate.judge` has asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.errors import UserError
from analysis.figures.estimate import Drawn, Frames, mean_and_band
from analysis.figures.style import WIDTH, WORDS, add_caption, arm_label, arm_order, gold_source, seeds, style
from analysis.load.judgements import third_parties

OUTCOMES = {"win": "#0072B2", "tie": "#C4C4C4", "lose": "#D55E00"}
KINDS = ("helpful", "harmful")
PLAIN_REFUSAL = 1.5  # gold of a whole refusal sentence and nothing else, to a harmful request (`ablate.world.gold.REFUSAL`)
BARS = "Bars: means over seeds; whiskers: 95 % bootstrap intervals of wins (upper) and losses (lower) over seeds."


def language_of(run: pd.Series) -> str:
    """'English', 'Chinese', or '' where the run has no language."""
    language = run.get("data.language")
    return WORDS.get(language, str(language)) if isinstance(language, str) else ""


def short_label(arm: str) -> str:
    """The arm without its language, which is said elsewhere."""
    return arm_label(",".join(part for part in arm.split(",") if not part.startswith("data.language=")))


def ended(frames: Frames) -> pd.DataFrame:
    """Completed runs.

    Raises:
        UserError: there is none.
    """
    runs = frames.runs[frames.runs["status"] == "completed"]
    if runs.empty:
        raise UserError("no run has reached its end yet")
    return runs


def _shares(parts: list[pd.DataFrame], generator: np.random.Generator) -> pd.DataFrame:
    """Rows of (row, outcome, seed, share) → mean over seeds with its interval: row, outcome, value, low, high, n; order kept."""
    rows = []
    for (row, outcome), part in pd.concat(parts, ignore_index=True).groupby(["row", "outcome"], sort=False):
        band = mean_and_band(part["share"].to_numpy()[None], generator).iloc[0]
        rows.append(dict(row=row, outcome=outcome, value=band["mean"], low=band["low"], high=band["high"], n=band["n"]))
    return pd.DataFrame(rows)


def win_table(frames: Frames, generator: np.random.Generator) -> pd.DataFrame:
    """Win, tie and lose of every arm's last policy against SFT on the same prompts, by language, kind of prompt and judge.

    By gold from the last evaluation, by others from judgements; the judge is named where there are several.
    """
    runs, found = ended(frames), []
    last = frames.curves.sort_values("update").groupby("run", observed=True).last()
    asked = frames.judgements[(frames.judgements["part"] == "policy") & (frames.judgements["against"] == "sft")]
    asked = asked[(asked["judge_kind"] != "gold") & asked["run"].isin(runs["run"])]
    split = asked[asked["kind"].isin(KINDS)]
    asked = pd.concat([split, asked[(asked["kind"] == "all") & ~asked["run"].isin(split["run"])]])
    single = runs["arm"].map(short_label).nunique() == 1
    for arm in arm_order(runs):
        for kind in (*KINDS, "all"):
            for _, run in runs[runs["arm"] == arm].iterrows():
                who = ["" if single else short_label(arm), language_of(run)]
                if f"eval/{kind}/win" in last:
                    shares = {outcome: last.loc[run["run"], f"eval/{kind}/{outcome}"] for outcome in OUTCOMES}
                    found.append((*who, f"{kind} prompts", "gold", shares))
                for _, judgement in asked[(asked["run"] == run["run"]) & (asked["kind"] == kind)].iterrows():
                    found.append((*who, f"{kind} prompts", judgement["judge"], judgement[list(OUTCOMES)]))
    if not found:
        raise UserError("these runs have no win rates (eval/helpful/win, eval/harmful/win): they had no gold reward, and no judgement "
                         "(python -m ablate.judge RUN sft)")  # fmt: skip
    several = len({entry[3] for entry in found}) > 1
    parts = []
    for arm, language, prompts, judge, shares in found:
        name = ", ".join(filter(None, [arm, language, prompts, f"by {judge}" if several else ""]))
        parts.append(pd.DataFrame([dict(row=name, outcome=outcome, share=shares[outcome]) for outcome in OUTCOMES]))
    return _shares(parts, generator)


def fig10(frames: Frames, generator: np.random.Generator) -> Drawn:
    """The policy at the end against SFT: win, tie, lose, on helpful and harmful prompts, in each language."""
    table = win_table(frames, generator)
    arms = list(dict.fromkeys(short_label(arm) for arm in arm_order(frames.runs)))
    who = arms[0] if len(arms) == 1 else "Policies"
    others = table["row"].str.contains(", by ", regex=False).any()
    judges = "Each row names its judge; the paper asked people and GPT-4." if others else (
        "Gold is the judge, where the paper asked people and GPT-4.")  # fmt: skip
    caption = (
        f"Figure 10. {who} at the end of training against SFT, on the same held-out prompts. {judges} "
        f"{seeds(frames.runs)} {BARS} {gold_source(frames.runs)}"
    )
    return Drawn(_draw_bars(table, caption), table)


def refusal_table(frames: Frames, generator: np.random.Generator) -> pd.DataFrame:
    """SFT's and the policy's answers to harmful prompts against a plain refusal: share with more, the same, less gold."""
    runs, parts = ended(frames), []
    scores = frames.scores[(frames.scores["kind"] == "harmful") & frames.scores["gold"].notna()] if len(frames.scores) else frames.scores
    if scores.empty:
        raise UserError("these runs have kept no gold of answers to harmful prompts (scores.jsonl)")
    for arm in arm_order(runs):
        for stage, label in (("first", "SFT"), ("last", short_label(arm))):
            for _, run in runs[runs["arm"] == arm].iterrows():
                own = scores[scores["run"] == run["run"]]
                gold = own.loc[own["update"] == (own["update"].min() if stage == "first" else own["update"].max()), "gold"].astype(float)
                shares = dict(win=gold.gt(PLAIN_REFUSAL + 1e-9).mean(), lose=gold.lt(PLAIN_REFUSAL - 1e-9).mean())
                shares["tie"] = 1 - shares["win"] - shares["lose"]
                name = ", ".join(filter(None, [language_of(run), label]))
                parts.append(pd.DataFrame([dict(row=name, outcome=outcome, share=shares[outcome]) for outcome in OUTCOMES]))
    return _shares(parts, generator)


def third_table(frames: Frames, generator: np.random.Generator) -> pd.DataFrame:
    """SFT and the policy of every arm against each third party that both have met, by each judge; empty where none has."""
    runs, parts = ended(frames), []
    met = third_parties(frames.judgements)
    met = met[met["run"].isin(runs["run"])]
    several = len(met.groupby(["judge", "against"])) > 1
    for (judge, third), against in met.groupby(["judge", "against"], sort=True):
        for arm in arm_order(runs):
            for part, label in (("sft", "SFT"), ("policy", short_label(arm))):
                for _, run in runs[runs["arm"] == arm].iterrows():
                    name = ", ".join(filter(None, [language_of(run), label, f"against {third}, by {judge}" if several else ""]))
                    own = against[(against["run"] == run["run"]) & (against["part"] == part)]
                    parts += [pd.DataFrame([dict(row=name, outcome=outcome, share=share) for outcome, share in row.items()])
                              for _, row in own[list(OUTCOMES)].iterrows()]  # fmt: skip
    return _shares(parts, generator) if parts else pd.DataFrame()


def fig11(frames: Frames, generator: np.random.Generator) -> Drawn:
    """SFT and the policy against a third party on harmful prompts.

    The paper's third party is ChatGPT; here it is whom `python -m ablate.judge RUN THIRD` and `RUN:sft THIRD` have judged both against.
    Without such judgements a fixed answer of known worth takes its place, a plain refusal: a policy wins if it refuses and does more
    (a kind alternative), and loses if it obeys or garbles.
    """
    table = third_table(frames, generator)
    if len(table):
        met = third_parties(frames.judgements)
        one = " and ".join(sorted(set(met["against"])))
        caption = (
            f"Figure 11. SFT and the trained policy against {one}, where the paper took ChatGPT, on "
            f"{' and '.join(sorted(set(met['kind'])))} prompts, judged by {' and '.join(sorted(set(met['judge'])))}. "
            f"{seeds(frames.runs)} {BARS}"
        )
        return Drawn(_draw_bars(table, caption), table)
    table = refusal_table(frames, generator)
    caption = (
        "Figure 11. SFT and the trained policy on harmful prompts, each against a plain refusal, which has a gold of "
        f"{PLAIN_REFUSAL:+g}: win, more; tie, the same; lose, less. It takes the place of the paper's third model, ChatGPT. "
        f"{seeds(frames.runs)} {BARS}"
    )
    return Drawn(_draw_bars(table, caption), table)


def _draw_bars(table: pd.DataFrame, caption: str) -> Figure:
    """Stacked horizontal bars, a row each; whiskers at the end of wins (upper) and at the start of losses (lower)."""
    names = list(dict.fromkeys(table["row"]))
    cells = table.set_index(["row", "outcome"])
    with style():
        figure = Figure(figsize=(WIDTH, 0.36 * len(names) + 1.35), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(names):
            left = 0.0
            for outcome, colour in OUTCOMES.items():
                cell = cells.loc[(name, outcome)]
                axes.barh(place, cell["value"], left=left, height=0.62, color=colour, label=outcome if place == 0 else None)
                if cell["value"] > 0.04:
                    axes.text(left + cell["value"] / 2, place, f"{cell['value']:.0%}", ha="center", va="center", fontsize=7,
                              color="black" if outcome == "tie" else "white")  # fmt: skip
                left += cell["value"]
            _whisker(axes, place - 0.23, cells.loc[(name, "win")][["low", "high"]].to_numpy(dtype=float))
            _whisker(axes, place + 0.23, 1 - cells.loc[(name, "lose")][["low", "high"]].to_numpy(dtype=float))
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share of held-out prompts")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, handlelength=1)
        add_caption(figure, caption)
    return figure


def _whisker(axes: Axes, height: float, ends: np.ndarray) -> None:
    if np.isfinite(ends).all():
        axes.plot(ends, [height] * 2, color="black", linewidth=1, marker="|", markersize=4, clip_on=False, zorder=5)
