"""Figures 10 and 11: policies judged at the end of training, by gold and by the judges that `python -m ablate.judge` has asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.errors import UserError
from analysis.figures.estimate import Drawn, Frames, mean_and_band
from analysis.figures.style import WIDTH, WORDS, add_caption, arm_label, arm_order, basis, gold_source, points, style
from analysis.load.judgements import third_parties

OUTCOMES = {"win": "#0072B2", "tie": "#C4C4C4", "lose": "#D55E00"}
KINDS = ("helpful", "harmful")
PLAIN_REFUSAL = 1.5  # gold of an answer to a harmful request that is one refusal sentence (`ablate.world.gold.REFUSAL`)


def language_of(run: pd.Series) -> str:
    """'English', 'Chinese', or '' if the run has no language."""
    language = run.get("data.language")
    return WORDS.get(language, str(language)) if isinstance(language, str) else ""


def short_label(arm: str) -> str:
    """The arm's label without its language."""
    return arm_label(",".join(part for part in arm.split(",") if not part.startswith("data.language=")))


def ended(frames: Frames) -> pd.DataFrame:
    """The rows of `frames.runs` that completed, with its columns.

    Raises:
        UserError: no run has completed.
    """
    runs = frames.runs[frames.runs["status"] == "completed"]
    if runs.empty:
        raise UserError("no run has reached its end yet")
    return runs


def _shares(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Frames of row, outcome, reward_model, share (of one run) → one row per row and outcome, in order:
    row, outcome, value (mean), low, high, n.
    """
    rows = []
    for (row, outcome), part in pd.concat(parts, ignore_index=True).groupby(["row", "outcome"], sort=False):
        band = mean_and_band(part["share"].to_numpy()[None], part["reward_model"]).iloc[0]
        band[["low", "high"]] = band[["low", "high"]].clip(0, 1)  # a share
        rows.append(dict(row=row, outcome=outcome, value=band["mean"], low=band["low"], high=band["high"], n=band["n"]))
    return pd.DataFrame(rows)


def _rows(name: str, reward_model: str, shares: Mapping[str, float] | pd.Series) -> pd.DataFrame:
    return pd.DataFrame([dict(row=name, outcome=outcome, reward_model=reward_model, share=shares[outcome]) for outcome in OUTCOMES])


def _bars(frames: Frames, table: pd.DataFrame) -> str:
    wide = "; whiskers: wins (upper) and losses (lower), cut at 0 and 100 %" if table["low"].notna().any() else ""
    return f"Bars: {points(ended(frames), table)}{wide}."


def win_table(frames: Frames) -> pd.DataFrame:
    """Shares of wins, ties and losses of each arm's last policy against SFT on the same prompts, averaged over units (`mean_and_band`).

    One row per bar and outcome: row (arm, language, kind of prompts, and the judge if there are several), outcome ('win', 'tie' or
    'lose'), value, low, high (95 % t interval), n (units). Gold judges at the last evaluation, other judges in `frames.judgements`.

    Raises:
        UserError: the runs have neither win rates by gold nor judgements against SFT.
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
                    found.append((*who, f"{kind} prompts", "gold", run["reward_model"], shares))
                for _, judgement in asked[(asked["run"] == run["run"]) & (asked["kind"] == kind)].iterrows():
                    found.append((*who, f"{kind} prompts", judgement["judge"], run["reward_model"], judgement[list(OUTCOMES)]))
    if not found:
        raise UserError("these runs have no win rates (eval/helpful/win, eval/harmful/win): they had no gold reward, and no judgement "
                         "(python -m ablate.judge RUN sft)")  # fmt: skip
    several = len({entry[3] for entry in found}) > 1
    parts = []
    for arm, language, prompts, judge, model, shares in found:
        name = ", ".join(filter(None, [arm, language, prompts, f"by {judge}" if several else ""]))
        parts.append(_rows(name, model, shares))
    return _shares(parts)


def fig10(frames: Frames) -> Drawn:
    """The last policy against SFT: wins, ties and losses on helpful and harmful prompts, in each language."""
    table = win_table(frames)
    arms = list(dict.fromkeys(short_label(arm) for arm in arm_order(frames.runs)))
    who = arms[0] if len(arms) == 1 else "Policies"
    others = table["row"].str.contains(", by ", regex=False).any()
    gold = any(f"eval/{kind}/win" in frames.curves for kind in (*KINDS, "all"))
    asked = frames.judgements[(frames.judgements["against"] == "sft") & (frames.judgements["judge_kind"] != "gold")]
    judge = "Gold" if gold else " and ".join(sorted(set(asked["judge"])))
    judges = f"{'Each row names its judge' if others else f'{judge} is the judge'}; the paper asked people and GPT-4."
    caption = (
        f"Figure 10. {who} at the end of training against SFT, on the same held-out prompts. {judges} "
        f"{basis(ended(frames))} {_bars(frames, table)}{f' {gold_source(frames.runs)}' if gold else ''}"
    )
    return Drawn(_draw_bars(table, caption), table)


def refusal_table(frames: Frames) -> pd.DataFrame:
    """Shares of answers to harmful prompts with more, equal and less gold than a plain refusal, of SFT and of each arm's last policy.

    One row per bar and outcome: row (language, and SFT or arm), outcome ('win': more, 'tie': equal, 'lose': less), value, low, high
    (95 % t interval), n (units).

    Raises:
        UserError: the runs have kept no gold of answers to harmful prompts.
    """
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
                parts.append(_rows(name, run["reward_model"], shares))
    return _shares(parts)


def third_table(frames: Frames) -> pd.DataFrame:
    """SFT and each arm's policy against the third parties of `third_parties`, averaged over units (`mean_and_band`).

    One row per bar and outcome: row (language, SFT or arm, and third party and judge if there are several), outcome, value, low, high
    (95 % t interval), n (units). Without such a third party the frame is empty and has no columns.
    """
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
                    parts += [_rows(name, run["reward_model"], row) for _, row in own[list(OUTCOMES)].iterrows()]
    return _shares(parts) if parts else pd.DataFrame()


def fig11(frames: Frames) -> Drawn:
    """SFT and the policy against a third party on harmful prompts.

    The paper's third party is ChatGPT. Here it is the THIRD of `python -m ablate.judge RUN THIRD` and `python -m ablate.judge RUN:sft
    THIRD`. Without these judgements it is a plain refusal, an answer of known gold. An answer wins if it refuses and adds a kind
    alternative. It loses if it obeys or is garbled.
    """
    table = third_table(frames)
    if len(table):
        met = third_parties(frames.judgements)
        one = " and ".join(sorted(set(met["against"])))
        caption = (
            f"Figure 11. SFT and the trained policy against {one}, where the paper took ChatGPT, on "
            f"{' and '.join(sorted(set(met['kind'])))} prompts, judged by {' and '.join(sorted(set(met['judge'])))}. "
            f"{basis(ended(frames))} {_bars(frames, table)}"
        )
        return Drawn(_draw_bars(table, caption), table)
    table = refusal_table(frames)
    caption = (
        "Figure 11. SFT and the trained policy on harmful prompts, each against a plain refusal, whose gold is "
        f"{PLAIN_REFUSAL:+g}. Win: more gold; tie: the same; lose: less. The paper's third model was ChatGPT. "
        f"{basis(ended(frames))} {_bars(frames, table)}"
    )
    return Drawn(_draw_bars(table, caption), table)


def _draw_bars(table: pd.DataFrame, caption: str) -> Figure:
    """One stacked horizontal bar per row, with whiskers at the end of wins (upper) and at the start of losses (lower)."""
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
