"""The paper's figures from simulated studies under the names of the sweeps: panels, arms, numbers, layout, command line."""

import csv
import functools
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.axis import XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from simulate import SFT_GOLD, SFT_SD, Arm, write_study

from ablate.errors import UserError
from ablate.world.gold import REFUSAL
from analysis.estimate.outcomes import SCORE_COUNTED_TWICE
from analysis.figures import __main__ as command
from analysis.figures import draw as drawing
from analysis.figures.catalogue import FIGURES, find_source
from analysis.figures.collapse import proxy_and_gold
from analysis.figures.curves import draw, fig08
from analysis.figures.distribution import fig13, score_table
from analysis.figures.estimate import GOLD, PROXY, Frames, Panel, mean_and_band, trajectories
from analysis.figures.judged import PLAIN_REFUSAL, fig10, fig11
from analysis.figures.labels import spread
from analysis.figures.opening import BASE, CONSTRAINT, OTHER, opening, opening_table
from analysis.figures.panels import draw_panels
from analysis.figures.reward_models import difference_table, fig03, reward_models
from analysis.figures.style import PALETTE, arm_colours, arm_dashes, arm_label, arm_order, collapse_is
from analysis.figures.tax import fig12
from analysis.load.frames import load

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
STUDIES = sorted({entry.sources[0].study for entry in FIGURES.values()})
GROUPS = {"preferences=clear": {"preferences.noise": 0.25}, "preferences=hard": {"preferences.noise": 1.0}}
PRESET = {"ppo": "ppo.preset"}  # the simulation has no presets: arms of two differ in this
EXTRA = {
    "monitor/perplexity": 2.0, "monitor/perplexity_moss": 1.2, "ppo/policy_loss": 0.1, "ppo/value_loss": 0.3, "ppo/explained_variance": 0.5,
    "ppo/advantage_std": 0.9, "ppo/grad_norm": 4.0, "ppo/approx_kl": 0.01,
}  # fmt: skip
JUDGED = {
    "eval/helpful/win": 0.5, "eval/helpful/tie": 0.2, "eval/helpful/lose": 0.3,
    "eval/harmful/win": 0.7, "eval/harmful/tie": 0.1, "eval/harmful/lose": 0.2,
}  # fmt: skip
SIX = ["Proxy reward (held-out)", "Gold reward (held-out)", "Win rate against SFT", "KL to SFT (nats per response)",
       "Perplexity of the responses", "Response length (tokens)"]  # fmt: skip
PANELS = {name: SIX for name in ("fig06", "fig07", "fig09", "fig15")} | {
    "fig04": [*SIX[:3], "Policy loss", "Value loss", SIX[3], SIX[5], SIX[4], "MOSS-RLHF's perplexity"],
    "fig08": [*SIX[:2], SIX[3], "Value loss", "Explained variance of returns"],
    "fig14": [*SIX[:5], "Value loss"],
    "fig16": [*SIX[:2], "Entropy (nats per token)", *SIX[3:]],
    "fig17": [*SIX[:2], "KL of one update (nats per token)", *SIX[3:]],
    "fig18": [*SIX[:2], "Gradient norm before clipping", *SIX[3:]],
    "fig19": [*SIX[:2], "SD of advantages", "Value loss", SIX[3], SIX[5]],
    "perplexity": ["True perplexity of the responses", "MOSS-RLHF's perplexity", SIX[5], SIX[1]],
}


def sweep_arms(study):
    """arm → dotted settings, as the sweep's file says; a grid multiplies the arms."""
    text = yaml.safe_load((SWEEPS / f"{study}.yaml").read_text())
    cells = [dict(zip(text.get("grid", {}), values, strict=True)) for values in itertools.product(*text.get("grid", {}).values())]
    arms = {}
    for arm, overrides in text["arms"].items():
        for cell in cells:
            words = [*overrides, *(f"{name}={value}" for name, value in cell.items())]
            name = ",".join([arm, *sorted(f"{key}={value}" for key, value in cell.items())])
            settings = {
                PRESET.get(key, key): yaml.safe_load(value)
                for key, value in (word.split("=") for word in words)
                if "." in key or key in PRESET
            }
            arms[name] = settings | {key: value for word in words for key, value in GROUPS.get(word, {}).items()}
    return arms


def add_large_files(folder, generator):
    """scores.jsonl, reward_model/, outcomes by kind of prompt, the summary of both ends: more than the simulation writes."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [row | (JUDGED if "eval/gold" in row else {}) for row in metrics]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    kinds = ["helpful"] * 20 + ["harmful"] * 10
    rows = [dict(update=update, prompt=i, kind=kind, proxy=generator.normal(update / 10), gold=float(generator.choice([0.0, 1.5, 3.0])))
            for update in (0, 10, 20) for i, kind in enumerate(kinds)]  # fmt: skip
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward_model").mkdir()
    training = [dict(step=step, held_out_accuracy=0.6 + 0.02 * step / 20 + 0.01 * generator.normal()) for step in range(20, 101, 20)]
    (folder / "reward_model" / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in training))
    differences = generator.normal(1.0, 2.0, 50).tolist()
    (folder / "reward_model" / "pairs.csv").write_text("\n".join(["score_difference", *map(str, differences)]) + "\n")
    summary = json.loads((folder / "summary.json").read_text())
    for part in ("sft", "final"):
        summary[part] |= {"eval/helpful/gold": generator.normal(1), "eval/harmful/gold": generator.normal(2),
                          "monitor/perplexity_ref": 2 + generator.random(), "monitor/distinct": 0.9}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two seeds of every arm of the figures' sweeps, 20 updates, and one vanilla run that collapses."""
    root, generator = tmp_path_factory.mktemp("results"), np.random.default_rng(0)
    short = {"ppo.updates": 20}
    for study in STUDIES:
        own = {"policy_constraints": {"vanilla": dict(collapse_probability=1.0, onset=1.0, lift=0.0)}}.get(study, {})
        arms = {name: Arm(settings | short, **own.get(name, {})) for name, settings in sweep_arms(study).items()}
        write_study(root, arms, 2, generator, study=study, extra=EXTRA)
    for study, per_seed in (("rm_training", True), ("win_rate", False), ("vanilla", False), ("ptx", False)):
        for folder in sorted((root / study).glob("*/*")):
            add_large_files(folder, generator)
            if per_seed:
                config = (folder / "config.yaml").read_text()
                (folder / "config.yaml").write_text(config.replace("pipeline_seed: 0", f"pipeline_seed: {folder.name[-1]}"))
    return root


@pytest.fixture(scope="module")
def drawn(results):
    """name → Drawn, each drawn once."""
    loaded = load(results)

    @functools.cache
    def of(name):
        entry = FIGURES[name]
        return entry.draw(drawing.frames_of(loaded, find_source(entry, loaded.runs), entry.reads))

    return of


def frames_of(root, study):
    loaded = load(root / study)
    return Frames(loaded.runs, loaded.curves)


def titles(figure):
    return [axes.get_title("left") for axes in figure.axes]


# --- panels, arms, numbers


@pytest.mark.parametrize("name", PANELS)
def test_a_figure_over_updates_has_the_papers_panels_and_every_arm_in_each(drawn, name):
    table, study = drawn(name).table, FIGURES[name].sources[0].study
    shown = titles(drawn(name).figure)
    if name == "fig08":
        assert shown == [f"{group} – {panel}" for panel in PANELS[name] for group in ("PPO-max", "Vanilla")]
    else:
        assert shown == PANELS[name]
    means = table[table["kind"] == "mean"]
    for _, part in means.groupby("panel"):
        assert set(part["arm"]) == set(sweep_arms(study))


def test_the_other_figures_have_their_panels():
    """Named here, because what they show are not arms over updates: see the tests of each below."""
    assert set(FIGURES) - set(PANELS) == {"fig02", "fig03", "fig10", "fig11", "fig12", "fig13"}


@pytest.mark.parametrize("name, panels", [
    ("fig02", ["English", "Chinese"]),
    ("fig03", ["English – held-out accuracy", "Chinese – held-out accuracy", "Gold reward after PPO", "Gold reward after PPO"]),
    ("fig10", [""]), ("fig11", [""]),
    ("fig12", ["Gold,\nhelpful prompts", "Gold,\nharmful prompts", "Perplexity of answers\nunder SFT", "Distinct bigrams\nin an answer"]),
    ("fig13", ["Proxy reward of held-out answers", "Gold reward of the same answers"]),
])  # fmt: skip
def test_a_figure_of_reward_models_judges_or_scores_has_its_panels(drawn, name, panels):
    assert titles(drawn(name).figure) == panels


def test_the_table_holds_means_over_seeds_computed_by_hand(drawn, results):
    table = drawn("fig07").table
    for arm in ("kl", "vanilla"):
        runs = [[json.loads(line) for line in path.read_text().splitlines()]
                for path in sorted((results / "policy_constraints" / arm).glob("*/metrics.jsonl"))]  # fmt: skip
        for panel, metric in (("Gold reward (held-out)", "eval/gold"), ("KL to SFT (nats per response)", "monitor/kl_to_sft")):
            values = [{row["update"]: row[metric] for row in rows if metric in row} for rows in runs]
            part = table[(table["panel"] == panel) & (table["arm"] == arm) & (table["kind"] == "mean")].set_index("update")
            assert set(part.index) == set(values[0]) and (part["n"] == 2).all()
            for update, mean in part["value"].items():
                a, b = (one[update] for one in values)
                assert mean == pytest.approx((a + b) / 2, abs=1e-12)
            assert part[["low", "high"]].isna().all(axis=None)  # two seeds: too few for a band


def test_the_win_rate_counts_ties_half(drawn, results):
    (path, _) = sorted((results / "policy_constraints" / "kl").glob("*/metrics.jsonl"))
    last = json.loads(path.read_text().splitlines()[-1])
    table = drawn("fig07").table
    part = table[(table["panel"] == "Win rate against SFT") & (table["arm"] == "kl") & (table["seed"] == 0) & (table["update"] == 20)]
    assert part["value"].tolist() == pytest.approx([last["eval/win"] + last["eval/tie"] / 2])


def test_every_collapse_is_marked_at_its_run_and_update(drawn, results):
    table = drawn("fig07").table
    marks = table[(table["kind"] == "collapse") & (table["panel"] == "Gold reward (held-out)")]
    expected = {}
    for path in (results / "policy_constraints").glob("*/*/summary.json"):
        summary = json.loads(path.read_text())
        if summary["collapsed"]:
            rows = {row["update"]: row for row in map(json.loads, (path.parent / "metrics.jsonl").read_text().splitlines())}
            expected[summary["arm"], summary["seed"]] = (summary["collapse_update"], rows[summary["collapse_update"]]["eval/gold"])
    assert {(row.arm, row.seed): (row.update, row.value) for row in marks.itertuples()} == expected
    assert {arm for arm, _ in expected} == {"vanilla"}
    limit = table[(table["kind"] == "limit")]["value"].tolist()
    assert limit == pytest.approx([SFT_GOLD - SFT_SD])


def test_the_band_is_the_t_interval_of_the_mean_over_seeds():
    values = np.array([[0.0, 1.0, 2.0, 5.0, 9.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
    band = mean_and_band(values)
    half = 2.7764451052 * np.std(values[0], ddof=1) / np.sqrt(5)  # t of 4 degrees of freedom at 0.975
    assert band.loc[0].tolist() == pytest.approx([3.4, 3.4 - half, 3.4 + half, 5])
    assert band.loc[1, ["mean", "n"]].tolist() == [1.0, 5.0] and band.loc[1, ["low", "high"]].isna().all()  # no spread: no error is known


def test_runs_of_one_reward_model_are_averaged_before_the_mean_and_the_reward_models_are_the_units():
    models = ["a", "a", "a", "b", "c", "d", "e"]
    values = np.array([[0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 10.0], [0.0, 1.0, np.nan, np.nan, np.nan, np.nan, np.nan]])
    band = mean_and_band(values, models)
    assert band.loc[0].tolist() == pytest.approx(mean_and_band(np.array([[1.0, 2.0, 3.0, 4.0, 10.0]])).loc[0].tolist())
    assert band.loc[1, ["mean", "n"]].tolist() == [0.5, 1]  # two runs are left, of one reward model: they do not become the units
    assert mean_and_band(values[:1], ["a"] * 7).loc[0, "n"] == 7


def test_a_seed_that_stops_early_leaves_its_mean_to_the_others_and_few_units_have_no_interval():
    values = np.array([[1.0, 3.0, 4.0, 5.0, 6.0], [np.nan, 4.0, 4.0, 5.0, 7.0], [np.nan] * 5])
    band = mean_and_band(values)
    assert band["n"].tolist() == [5, 4, 0] and band["mean"].tolist()[:2] == [3.8, 5.0] and np.isfinite(band.loc[0, "low"])
    assert np.isnan(band.loc[1:, ["low", "high"]].to_numpy()).all()


def test_runs_of_several_reward_models_with_the_same_seed_are_all_drawn_and_the_caption_names_the_units(tmp_path):
    arms = {f"{arm},pipeline_seed={model}": Arm({"ppo.kl_penalty": arm == "kl", "pipeline_seed": model})
            for arm in ("vanilla", "kl") for model in range(6)}  # fmt: skip
    write_study(tmp_path, arms, 2, np.random.default_rng(0), study="models")
    frames = frames_of(tmp_path, "models")
    figure, table = draw(frames, "Figure.", (PROXY, GOLD))
    runs = table[(table["kind"] == "run") & (table["panel"] == GOLD.title) & (table["update"] == 80)]
    assert runs.groupby("arm").size().to_dict() == {"kl": 12, "vanilla": 12}
    means = table[(table["kind"] == "mean") & (table["panel"] == GOLD.title) & (table["update"] == 80)].set_index("arm")
    by_model = runs[runs["arm"] == "kl"].groupby("reward_model")["value"].mean().to_numpy()
    expected = mean_and_band(by_model[None]).loc[0]
    assert means.loc["kl", ["value", "low", "high", "n"]].tolist() == pytest.approx(expected.tolist()) and expected["n"] == 6
    said = unwrapped(figure)
    assert "6 reward models × 2 seeds (for each of 2 arms), study models." in said
    assert "Bold: mean over 6 reward models × 2 seeds; band: its 95 % t interval; faint: runs." in said
    check_layout(figure)


def test_sfts_gold_and_the_limit_are_drawn_as_the_mean_of_runs_and_shaded_where_runs_differ(tmp_path):
    root = write_study(tmp_path, {"vanilla": Arm()}, 2, np.random.default_rng(0))
    path = root / "vanilla" / "seed=1" / "summary.json"
    summary = json.loads(path.read_text())
    summary["sft"]["eval/gold"] += 0.5
    path.write_text(json.dumps(summary))
    figure, table = draw(frames_of(tmp_path, "study"), "Figure.", (PROXY, GOLD))
    levels = table[table["kind"].isin(["sft", "limit"])].set_index("kind")[["value", "low", "high"]]
    assert levels.loc["sft"].tolist() == pytest.approx([SFT_GOLD + 0.25, SFT_GOLD, SFT_GOLD + 0.5])
    assert levels.loc["limit"].tolist() == pytest.approx([SFT_GOLD - SFT_SD + shift for shift in (0.25, 0, 0.5)])
    assert "Dashed: SFT's mean gold; shaded: from the least to the most of the runs." in unwrapped(figure)
    assert set(table.loc[table["kind"].isin(["sft", "limit"]), "panel"]) == {GOLD.title}
    drawn = {tuple(np.round(line.get_ydata(), 6)) for line in figure.axes[1].lines if len(line.get_ydata()) == 2}
    assert {(round(level, 6),) * 2 for level in levels["value"]} <= drawn


def test_a_single_seed_is_drawn_without_a_band_and_the_caption_says_n(tmp_path):
    write_study(tmp_path, {"vanilla": Arm(), "kl": Arm({"ppo.kl_penalty": True})}, 1, np.random.default_rng(0), study="one")
    figure, table = draw(frames_of(tmp_path, "one"), "Figure.", (PROXY,))
    assert table["low"].isna().all() and "1 seed, one reward model (for each of 2 arms), study one." in unwrapped(figure)


def test_runs_still_going_are_drawn_and_counted_in_the_caption(tmp_path):
    root = write_study(tmp_path, {"vanilla": Arm(), "kl": Arm({"ppo.kl_penalty": True})}, 2, np.random.default_rng(0))
    (root / "kl" / "seed=1" / "summary.json").unlink()
    figure, table = draw(frames_of(tmp_path, "study"), "Figure.", (PROXY,))
    assert set(table["seed"].dropna()) == {0, 1} and "1 of 4 runs not at their end)" in unwrapped(figure)


def test_the_caption_gives_the_rule_of_collapse_only_where_all_runs_share_it():
    runs = pd.DataFrame({"collapse.threshold": [1.0, 1.0], "collapse.patience": [3, 3]})
    assert collapse_is(runs) == "Collapse: gold below the dotted line, SFT's mean − 1 SD, at 3 evaluations in a row."
    for name, other in (("collapse.threshold", 2.0), ("collapse.patience", 1)):
        assert "each run's own threshold and patience" in collapse_is(runs.assign(**{name: [runs[name].iloc[0], other]}))


def test_the_caption_of_figure_8_names_two_sides_only_where_it_has_two(drawn, tmp_path):
    arms = {"vanilla": Arm(), "vanilla_critic": Arm({"ppo.critic_pretrain": True})}
    write_study(tmp_path, arms, 2, np.random.default_rng(0), study="one")
    assert "(left)" in unwrapped(drawn("fig08").figure)
    assert "(left)" not in unwrapped(fig08(frames_of(tmp_path, "one")).figure)


def test_the_caption_of_figure_3_describes_gold_only_where_it_is_drawn(drawn):
    runs = pd.DataFrame([dict(run="r", study="s", arm="a", reward_model="a", seed=0, status="completed")])
    training = pd.DataFrame([dict(run="r", step=step, held_out_accuracy=0.7) for step in (1, 2)])
    bare = fig03(Frames(runs, pd.DataFrame(dict(run=["r"], update=[0])), training=training)).figure
    assert titles(bare) == ["Held-out accuracy"] and not re.search("Top|Bottom|gold|Gold", unwrapped(bare))
    assert "Bottom: gold at the end of PPO" in unwrapped(drawn("fig03").figure)


def unwrapped(figure):
    return figure.get_supxlabel().replace("\n", " ")


def test_many_arms_go_into_a_legend_without_bands(tmp_path):
    arms = {f"kl_{i}": Arm({"ppo.kl_coef": float(i)}) for i in range(9)}
    write_study(tmp_path, arms, 2, np.random.default_rng(0), study="many", every_update=False)
    figure, table = draw(frames_of(tmp_path, "many"), "Figure.", (PROXY, GOLD))
    (legend,) = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == sorted(f"KL {i}" for i in range(9))
    assert table.loc[table["kind"] == "mean", "low"].isna().all() and "run" not in set(table["kind"])
    check_layout(figure)


# --- nothing is empty


def test_panels_that_no_run_logged_are_left_out_and_named(tmp_path):
    write_study(tmp_path, {"vanilla": Arm()}, 2, np.random.default_rng(0), study="bare")
    frames = frames_of(tmp_path, "bare")
    figure, _ = draw(frames, "Figure.", (PROXY, Panel("monitor/unheard_of", "Unheard of")))
    assert titles(figure) == [PROXY.title] and "Not logged by these runs: Unheard of." in unwrapped(figure)
    with pytest.raises(UserError, match="none of the panels has been logged by these runs: monitor/unheard_of"):
        trajectories(frames, (Panel("monitor/unheard_of", "Unheard of"),), {"": ["vanilla"]})


def test_an_empty_panel_is_refused():
    table = pd.DataFrame([dict(group="", panel="KL", arm="vanilla", kind="limit", update=0, value=1.0)])
    with pytest.raises(UserError, match="nothing to draw in the panel 'KL'"):
        draw_panels(table, ["vanilla"], "", columns=1, scales={})


# --- layout


def texts_of(figure):
    """Every text that is seen, as (words, box in pixels); ticks outside the view are not seen."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-6 * (high - low)
            shown = axis.get_visible() and axis.get_tick_params().get("labelleft" if not isinstance(axis, XAxis) else "labelbottom", True)
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                hidden |= {tick.label2} | (set() if shown and low - margin <= tick.get_loc() <= high + margin else {tick.label1})
            hidden.add(axis.offsetText)
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden]
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in found]


def check_layout(figure):
    boxes = texts_of(figure)
    width, height = figure.bbox.width, figure.bbox.height
    clipped = [words for words, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width + 0.5 or box.y1 > height + 0.5]
    overlapping = [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2)
                   if min(one.x1, two.x1) - max(one.x0, two.x0) > 0.5 and min(one.y1, two.y1) - max(one.y0, two.y0) > 0.5]  # fmt: skip
    assert (clipped, overlapping) == ([], [])


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_covers_another_and_none_is_clipped(drawn, name):
    check_layout(drawn(name).figure)


def test_the_layout_check_sees_an_overlap_and_a_clipped_label():
    figure = Figure(figsize=(2, 2))
    figure.text(0.4, 0.5, "one label")
    figure.text(0.45, 0.51, "another")
    with pytest.raises(AssertionError, match="one label"):
        check_layout(figure)
    figure = Figure(figsize=(2, 2))
    figure.text(0.8, 0.5, "beyond the edge")
    with pytest.raises(AssertionError, match="beyond the edge"):
        check_layout(figure)


@pytest.mark.parametrize("seed", range(20))
def test_spread_labels_keep_their_order_do_not_overlap_and_stay_inside(seed):
    generator = np.random.default_rng(seed)
    centres, heights = generator.uniform(0, 100, 6), generator.uniform(4, 16, 6)
    moved = spread(centres, heights, 0.0, 100.0)
    order = np.argsort(centres)
    assert (np.argsort(moved) == order).all()
    gaps = np.diff(moved[order]) - (heights[order][1:] + heights[order][:-1]) / 2
    assert gaps.min() > -1e-9
    assert (moved - heights / 2).min() > -1e-9 and (moved + heights / 2).max() < 100 + 1e-9


def test_labels_that_are_apart_stay_and_two_at_one_place_move_equally_far():
    assert spread(np.array([10.0, 90.0, 50.0]), np.full(3, 8.0), 0, 100).tolist() == [10, 90, 50]
    assert spread(np.array([50.0, 50.0]), np.array([8.0, 8.0]), 0, 100).tolist() == [46, 54]


# --- arms


def test_arms_are_ordered_named_and_coloured(tmp_path):
    arms = {name: Arm({"ppo.kl_coef": i / 100}) for i, name in enumerate(["kl_0.2", "vanilla", "kl_0.05", "kl_10", "advantage_norm"])}
    runs = load(write_study(tmp_path, arms, 1, np.random.default_rng(0))).runs
    order = arm_order(runs)
    assert order == ["vanilla", "advantage_norm", "kl_0.05", "kl_0.2", "kl_10"]
    assert arm_colours(order)["vanilla"] == PALETTE[0] and len(set(arm_colours(order).values())) == 5
    many = [str(i) for i in range(20)]
    assert len({(arm_colours(many)[arm], arm_dashes(many)[arm]) for arm in many}) == 20
    assert arm_label("kl_and_importance_sampling") == "KL and importance sampling"
    assert arm_label("lambda_0.9") == "λ = 0.9" and arm_label("ppo_max,data.language=zh") == "PPO-max, Chinese"


# --- reward models, judges, scores


def test_a_reward_model_that_runs_share_counts_once():
    runs = pd.DataFrame(dict(run=["a0", "a1", "b0", "b1"], study="s", reward_model="0", arm=["a", "a", "b", "b"], seed=[0, 1, 0, 1],
                             pipeline_seed=0,
                             **{"preferences.noise": [0.5, 0.5, 1.0, 1.0], "data.language": "en"}))  # fmt: skip
    pairs = pd.DataFrame(dict(run=["a0"] * 4 + ["a1"] * 4 + ["b0"] * 2, score_difference=[-1.0, 1, 2, 3] * 2 + [-1, 1]))
    models = reward_models(runs, pairs)
    assert models["run"].tolist() == ["a0", "b0"] and models["group"].unique().tolist() == [""]
    table = difference_table(models, pairs, bins=4)
    assert table.groupby("series")["accuracy"].first().to_dict() == {"a": 0.75, "b": 0.5}
    assert (table["n"] == 1).all() and table.groupby("series")["share"].sum().tolist() == pytest.approx([1.0, 1.0])
    assert table.loc[table["series"] == "a", "share"].tolist() == [0.25, 0.0, 0.25, 0.5]


def test_figure_3_shows_clear_and_hard_pairs_and_what_ppo_made_of_each_reward_model(drawn):
    table = drawn("fig03").table
    assert set(table.loc[table["kind"] != "sft", "arm"]) == {"clear pairs", "hard pairs"} and set(table["group"]) == {"English", "Chinese"}
    assert table.loc[table["kind"] == "sft"].set_index("group")["value"].to_dict() == pytest.approx(
        {"English": SFT_GOLD, "Chinese": SFT_GOLD}
    )
    ends = table[table["kind"] == "end"]
    assert len(ends) == 8 and set(ends["steps"]) == {80, 400} and (ends["n"] == 2).all()


def test_figure_10_shows_win_tie_and_lose_by_language_and_kind(drawn):
    table = drawn("fig10").table.set_index(["row", "outcome"])["value"]
    assert list(dict.fromkeys(table.index.get_level_values(0))) == [
        "English, helpful prompts", "English, harmful prompts", "Chinese, helpful prompts", "Chinese, harmful prompts",
    ]  # fmt: skip
    assert table["English, helpful prompts"].to_dict() == pytest.approx({"win": 0.5, "tie": 0.2, "lose": 0.3})
    assert table["Chinese, harmful prompts"].to_dict() == pytest.approx({"win": 0.7, "tie": 0.1, "lose": 0.2})


def test_figure_11_counts_answers_above_at_and_below_a_plain_refusal():
    assert PLAIN_REFUSAL == REFUSAL
    runs = pd.DataFrame([dict(run="r", study="s", arm="ppo_max", reward_model="a", seed=0, status="completed")])
    gold = {0: [3.0, 1.5, -1.0, -1.0], 5: [0.0] * 4, 10: [3.0, 3.0, 3.0, 1.5]}
    scores = pd.DataFrame([dict(run="r", arm="ppo_max", update=update, kind="harmful", gold=value)
                           for update, values in gold.items() for value in values])  # fmt: skip
    scores = pd.concat([scores, scores.assign(kind="helpful", gold=-9.0)], ignore_index=True)
    table = fig11(Frames(runs, pd.DataFrame(), scores)).table.set_index(["row", "outcome"])["value"]
    assert table["SFT"].to_dict() == {"win": 0.25, "tie": 0.25, "lose": 0.5}
    assert table["PPO-max"].to_dict() == {"win": 0.75, "tie": 0.25, "lose": 0.0}


def judgement(run, part, kind, win, tie, lose, judge="judge-1", against="sft"):
    return dict(run=run, study="s", arm="ppo_max", seed=0, judge=judge, judge_kind="llm", part=part, against=against, kind=kind,
                prompts=10, win=win, tie=tie, lose=lose)  # fmt: skip


ONE_RUN = pd.DataFrame([dict(run="r", study="s", arm="ppo_max", reward_model="a", seed=0, status="completed")])


def test_figure_10_shows_each_judge_beside_gold():
    curves = pd.DataFrame([dict(run="r", update=10, **JUDGED)])
    asked = pd.DataFrame([judgement("r", "policy", "all", 0.9, 0.1, 0.0), judgement("r", "policy", "helpful", 0.6, 0.3, 0.1),
                          judgement("r", "policy", "harmful", 0.2, 0.7, 0.1), judgement("r", "sft", "harmful", 0.0, 1.0, 0.0)])  # fmt: skip
    drawn = fig10(Frames(ONE_RUN, curves, judgements=asked))
    shares = drawn.table.set_index(["row", "outcome"])["value"]
    assert list(dict.fromkeys(drawn.table["row"])) == [
        f"{kind} prompts, by {judge}" for kind in ("helpful", "harmful") for judge in ("gold", "judge-1")
    ]
    assert shares["harmful prompts, by judge-1"].to_dict() == {"win": 0.2, "tie": 0.7, "lose": 0.1}
    assert shares["harmful prompts, by gold", "win"] == JUDGED["eval/harmful/win"] and "Each row names its judge" in unwrapped(drawn.figure)
    check_layout(drawn.figure)


def test_figure_10_is_drawn_without_gold_from_judgements_alone():
    asked = pd.DataFrame([judgement("r", "policy", "all", 0.5, 0.25, 0.25)])
    drawn = fig10(Frames(ONE_RUN, pd.DataFrame([dict(run="r", update=10)]), judgements=asked))
    assert drawn.table[["row", "outcome", "value"]].values.tolist() == [
        ["all prompts", "win", 0.5], ["all prompts", "tie", 0.25], ["all prompts", "lose", 0.25],
    ]  # fmt: skip
    assert "judge-1 is the judge;" in unwrapped(drawn.figure) and "Gold" not in unwrapped(drawn.figure)
    with pytest.raises(UserError, match=r"python -m ablate\.judge RUN sft"):
        fig10(Frames(ONE_RUN, pd.DataFrame([dict(run="r", update=10)])))


def test_figure_11_takes_a_third_model_that_policy_and_sft_have_met_instead_of_a_plain_refusal():
    shares = (("sft", "all", 0.0, 0.9), ("sft", "harmful", 0.25, 0.5), ("policy", "harmful", 0.5, 0.25), ("policy", "helpful", 0.0, 0.0))
    met = [judgement("r", part, kind, 1 - tie - lose, tie, lose, against="chat") for part, kind, tie, lose in shares]
    met.append(judgement("r", "policy", "harmful", 1.0, 0.0, 0.0, against="met once"))
    drawn = fig11(Frames(ONE_RUN, pd.DataFrame(), judgements=pd.DataFrame(met)))
    shares = drawn.table.set_index(["row", "outcome"])["value"]
    assert shares["SFT"].to_dict() == {"win": 0.25, "tie": 0.25, "lose": 0.5}
    assert shares["PPO-max"].to_dict() == {"win": 0.25, "tie": 0.5, "lose": 0.25}
    said = unwrapped(drawn.figure)
    assert "against chat, where the paper took ChatGPT, on harmful prompts, judged by judge-1." in said and "refusal" not in said
    check_layout(drawn.figure)


def test_figure_12_compares_sft_and_both_policies(drawn, results):
    table = drawn("fig12").table
    assert list(dict.fromkeys(table["arm"])) == ["SFT", "PPO-max", "PPO-ptx"]
    golds = [json.loads(path.read_text())["final"]["eval/helpful/gold"] for path in (results / "ptx" / "ppo_ptx").glob("*/summary.json")]
    mean = table[(table["arm"] == "PPO-ptx") & (table["panel"] == "Gold,\nhelpful prompts") & (table["kind"] == "mean")]["value"].item()
    assert mean == pytest.approx(np.mean(golds))


def test_figure_12_shows_ability_where_every_run_has_measured_it_and_says_not_judged_where_not(tmp_path):
    root = write_study(tmp_path, {"ppo_max": Arm({"ppo.ptx": False}), "ppo_ptx": Arm({"ppo.ptx": True})}, 3, np.random.default_rng(0))
    for number, path in enumerate(sorted(root.glob("*/*/summary.json"))):
        summary = json.loads(path.read_text())
        for end, part in enumerate(("sft", "final")):
            summary[part] |= {"eval/helpful/gold": 1.0, "eval/harmful/gold": 2.0, "monitor/perplexity_ref": 2.0, "monitor/distinct": 0.9,
                              "eval/lm_loss": 3.0 + end * number, "eval/choice_accuracy": 0.5}  # fmt: skip
        path.write_text(json.dumps(summary))
    drawn = fig12(frames_of(tmp_path, "study"))
    assert titles(drawn.figure)[2:] == ["Held-out text,\nnats per token", "Multiple choice,\nshare right"]
    means = drawn.table[(drawn.table["kind"] == "mean") & drawn.table["panel"].str.startswith("Held-out")].set_index("arm")["value"]
    assert means.to_dict() == pytest.approx({"SFT": 3.0, "PPO-max": 4.0, "PPO-ptx": 7.0})
    assert "not judged" not in unwrapped(drawn.figure) and "the loss and the share of multiple-choice" in unwrapped(drawn.figure)
    check_layout(drawn.figure)
    summary = json.loads(path.read_text())
    for name, panels, said in (
        ("eval/choice_accuracy", ["Held-out text,\nnats per token"], "learned from: the loss. "),
        ("eval/lm_loss", ["Perplexity of answers\nunder SFT", "Distinct bigrams\nin an answer"], "The cost is not judged"),
    ):
        for part in ("sft", "final"):
            del summary[part][name]
        path.write_text(json.dumps(summary))
        fewer = fig12(frames_of(tmp_path, "study"))
        assert titles(fewer.figure)[2:] == panels and said in unwrapped(fewer.figure)


def test_whiskers_of_shares_stay_between_0_and_1_and_are_t_intervals_over_reward_models():
    runs = pd.DataFrame([dict(run=f"{model}{seed}", study="s", arm="ppo_max", reward_model=model, seed=seed, status="completed")
                         for model in "abcde" for seed in (0, 1)])  # fmt: skip
    wins = [1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 0.9]
    shares = pd.DataFrame({"eval/helpful/win": wins, "eval/helpful/tie": 0.0, "eval/helpful/lose": 1 - np.array(wins)})
    curves = shares.assign(run=runs["run"], update=10)
    drawn = fig10(Frames(runs, curves))
    win = drawn.table.set_index("outcome").loc["win"]
    expected = mean_and_band(np.array([[1.0, 0.95, 1.0, 1.0, 0.95]])).loc[0]
    assert (
        win[["value", "low", "n"]].tolist() == pytest.approx(expected[["mean", "low", "n"]].tolist())
        and expected["high"] > 1 == win["high"]
    )
    assert "means over 5 reward models × 2 seeds with 95 % t intervals; whiskers" in unwrapped(drawn.figure)


def test_a_ridge_is_the_mean_of_its_runs_histograms():
    scores = pd.DataFrame(dict(run=["a"] * 3 + ["b"], update=0, proxy=[0.0, 1.0, 1.0, 0.0], gold=np.nan))
    table = score_table(scores, [0])
    assert set(table["panel"]) == {"proxy"} and table["share"].sum() == pytest.approx(1.0)
    filled = table[table["share"] > 0]["share"].tolist()
    assert filled == pytest.approx([(1 / 3 + 1) / 2, (2 / 3) / 2]) and (table["n"] == 2).all()


def test_figure_13_shows_only_evaluations_that_all_runs_have_kept_and_counts_them():
    kept = {"a": (0, 10, 20), "b": (0, 5, 20)}
    who = dict(study="s", arm="vanilla", reward_model="0", status="completed")
    runs = pd.DataFrame([{"run": run, "seed": seed, "sft/eval/gold": 1.0, **who} for seed, run in enumerate(kept)])
    scores = pd.DataFrame([dict(run=run, arm="vanilla", update=update, proxy=value, gold=value)
                           for run, updates in kept.items() for update in updates for value in (0.0, 1.0, 2.0)])  # fmt: skip
    figure, table = fig13(Frames(runs, pd.DataFrame(), scores))
    assert set(table["update"]) == {0, 20} and (table["n"] == 2).all()
    assert [line.get_xdata() for line in figure.axes[1].lines if line.get_linestyle() == "--"] == [[1.0, 1.0]]  # SFT's mean gold
    assert "Ridges: 2 of the 2 evaluations that all 2 runs have kept (2 more were kept by some runs only)" in unwrapped(figure)
    with pytest.raises(UserError, match="no evaluation of vanilla whose scores all 2 runs have kept"):
        fig13(Frames(runs, pd.DataFrame(), scores[scores["update"].isin([5, 10])]))


# --- the picture that opens the README


def test_the_opening_figure_colours_every_constraint_and_leaves_out_what_names_share(tmp_path):
    arms = {
        "vanilla": {},
        "kl_penalty": {"ppo.kl_penalty": True},
        "policy_kl": {"ppo.policy_kl": True},
        "reward_norm": {"ppo.reward_norm": True},
    }
    base = {"ppo.policy_kl": False, "ppo.updates": 40}
    write_study(
        tmp_path, {f"{arm},updates=40": Arm(base | own) for arm, own in arms.items()}, 2, np.random.default_rng(0), study="add_one_in"
    )
    loaded = load(tmp_path)
    lives, _ = opening(loaded.runs, loaded.curves).axes
    colours = {tick.get_text(): tick.get_color() for tick in lives.get_yticklabels()}
    assert colours == {"vanilla": BASE, "+ KL penalty": CONSTRAINT, "+ policy KL": CONSTRAINT, "+ reward norm": OTHER}


def test_the_opening_figure_does_not_call_runs_too_short_to_collapse_held(tmp_path):
    short = {"ppo.updates": 10, "evaluation.every": 5}  # three evaluations with that before training, and a patience of three
    write_study(
        tmp_path, {"vanilla": Arm(short), "kl": Arm(short | {"ppo.kl_penalty": True})}, 2, np.random.default_rng(0), study="add_one_in"
    )
    loaded = load(tmp_path)
    figure = opening(loaded.runs, loaded.curves)
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 too short to collapse"] * 2
    assert "Dotted runs: too short to collapse" in unwrapped(figure)


def test_the_opening_figure_says_which_runs_counted_a_score_twice(tmp_path):
    arms = {"vanilla": Arm({"ppo.bootstrap_truncated": False}), "bootstrap_truncated": Arm({"ppo.bootstrap_truncated": True})}
    write_study(tmp_path, arms, 5, np.random.default_rng(0), study="add_one_in")
    loaded = load(tmp_path)
    wrong = "+ bootstrap truncated: run by code that counted the score of a truncated answer twice."
    said = unwrapped(opening(loaded.runs, loaded.curves))
    assert wrong not in said and "Means over 5 seeds, with 95 % t intervals." in said
    assert wrong in unwrapped(opening(loaded.runs.assign(git_commit=SCORE_COUNTED_TWICE[0]), loaded.curves))


def test_the_table_behind_the_opening_figure_has_every_run_and_every_mean(tmp_path):
    arms = {"vanilla": Arm(collapse_probability=1.0), "kl_penalty": Arm({"ppo.kl_penalty": True})}
    write_study(tmp_path, arms, 3, np.random.default_rng(0), study="add_one_in")
    loaded = load(tmp_path)
    table = opening_table(loaded.runs, loaded.curves)
    assert list(table["kind"]) == ["run"] * 3 + ["mean"] + ["run"] * 3 + ["mean"]
    of = table[(table["arm"] == "vanilla") & (table["kind"] == "run")]
    vanilla = loaded.runs[loaded.runs["arm"] == "vanilla"]
    assert list(of["update"]) == list(vanilla["collapse_update"]) and list(of["collapsed"]) == [1, 1, 1]
    np.testing.assert_allclose(of["gold"], vanilla["final/eval/gold"])
    assert table.loc[table["kind"] == "mean", "gold"].iloc[0] == pytest.approx(of["gold"].mean())


def test_the_world_check_figure_draws_runs_of_one_seed_with_other_reward_models_and_sfts_level():
    rows = [dict(run=f"{model}", arm="a", reward_model=model, seed=0, update=update,
                 **{"eval/proxy": model * 1.0, "eval/gold": model + update})
            for model in (0, 1) for update in (0, 10)]  # fmt: skip
    left, right = proxy_and_gold(pd.DataFrame(rows), {"a": "arm"}, -1.0).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[0, 0], [1, 1], [0.5, 0.5]]
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in right.lines] and "SFT" in [text.get_text() for text in right.texts]


def test_sources_are_sweeps_and_arms_that_exist_and_each_figure_is_its_sweeps():
    for name, entry in FIGURES.items():
        for source in entry.sources:
            assert set(source.arms) <= set(sweep_arms(source.study)), (name, source)
        if name != "perplexity":
            figures = yaml.safe_load((SWEEPS / f"{entry.sources[0].study}.yaml").read_text())["figure"]
            assert str(int(name.removeprefix("fig"))) in re.findall(r"\d+", figures), name


# --- command line


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["python -m analysis.figures", *map(str, arguments)])
    command.main()


def test_the_command_writes_pdf_png_and_the_csv_of_what_is_drawn(results, tmp_path, monkeypatch, capsys, drawn):
    run(monkeypatch, "fig18", results / "grad_clip", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fig18.csv", "fig18.pdf", "fig18.png"]
    assert (tmp_path / "out" / "fig18.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "out" / "fig18.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "out" / "fig18.csv") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["value"] for row in rows] == [f"{value:.6g}" for value in drawn("fig18").table["value"]]
    assert "6 runs of grad_clip" in capsys.readouterr().out


def test_the_same_runs_give_the_same_bytes(results, tmp_path, monkeypatch):
    for out in ("a", "b"):
        run(monkeypatch, "fig12", results / "ptx", "--out", tmp_path / out)
    for name in ("fig12.pdf", "fig12.png", "fig12.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_all_draws_what_is_there_and_names_what_is_missing_and_its_sweep(results, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--all", results / "ptx", results / "win_rate", "--out", tmp_path)
    said = capsys.readouterr().out
    assert sorted(path.stem for path in tmp_path.glob("*.pdf")) == ["fig10", "fig11", "fig12"]
    assert "3 figures drawn, 15 left out:" in said
    for name, entry in FIGURES.items():
        if name not in ("fig10", "fig11", "fig12"):
            assert f"{name}: no runs of {entry.sources[0].study} here; python -m ablate.run -m sweep={entry.sources[0].study} " in said


def test_another_study_can_be_drawn_and_its_arms_chosen(results, tmp_path, monkeypatch):
    run(monkeypatch, "fig15", results / "policy_constraints", "--study", "policy_constraints", "--arms", "vanilla,kl", "--out", tmp_path)
    assert set(pd.read_csv(tmp_path / "fig15.csv")["arm"].dropna()) == {"vanilla", "kl"}


@pytest.mark.parametrize("arguments, said", [
    (["fig07", "{root}/ptx"], "fig07: no runs of policy_constraints here; python -m ablate.run -m sweep=policy_constraints"),
    (["fig05", "{root}/ptx"], "no figure fig05: there are fig02, "),
    (["fig07"], "name figures or --all, and a folder"),
    (["--all", "fig07", "{root}"], "name figures or --all, and a folder"),
    (["fig07", "{root}/nowhere"], "nowhere is not a folder"),
    (["fig07", "{root}/ptx", "{root}/vanilla", "--study", "ptxx"], "--study ptxx: no such study here; there are ptx, vanilla"),
    (["fig07", "{root}/ptx", "--study", "ptx", "--arms", "kl"], "--arms kl: not in ptx; there are ppo_max, ppo_ptx"),
    (["fig13", "{root}/grad_clip", "--study", "grad_clip"], "no run of "),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_1(results, tmp_path, monkeypatch, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *(word.format(root=results) for word in arguments), "--out", tmp_path / "out")
    assert said in stopped.value.code and "\n" not in stopped.value.code  # a text as code: printed, and the shell sees 1
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_figure(monkeypatch, capsys):
    run(monkeypatch, "--list")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FIGURES) and all(len(line.split()) > 3 for line in lines)
