"""Alarms as judges where there is no gold, and the thresholds learned on runs where there is."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ablate.runs.alarms import ALARMS, PATIENCE
from analysis.alarms import learn
from analysis.alarms.__main__ import main
from analysis.alarms.learn import (
    Course,
    as_set,
    calibrate,
    candidates,
    course,
    courses,
    first_beyond,
    first_votes,
    held_out,
    rate,
    sustained,
    threshold,
)
from analysis.estimate.collapse import collapse_times, threshold_curve
from analysis.load.frames import Loaded

HUMAN = {"data.source": "hh_rlhf", "gold.path": None, "collapse.by": None, "fork": None}


def monitors(far: bool) -> dict[str, float]:
    return {"monitor/entropy": 0.1, "monitor/kl_per_token": 5.0} if far else {"monitor/entropy": 2.0, "monitor/kl_per_token": 0.0}


def frames(*bad: int, updates: int = 12, **settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs 'r0', 'r1', …, one per number of `bad`: from that update on its policy is far from SFT; none where it is 0."""
    runs = [
        dict(run=f"r{i}", arm="a", reward_model="", seed=i, status="completed", **HUMAN, **{"sft/monitor/entropy": 2.0}) | settings
        for i, _ in enumerate(bad)
    ]
    rows = [
        {"run": f"r{i}", "update": update, "eval/proxy": 1.0 if update % 5 == 0 else np.nan}
        | (monitors(0 < first <= update) if update else {})
        for i, first in enumerate(bad)
        for update in range(updates + 1)
    ]  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(rows)


def test_alarms_judge_runs_on_human_data_and_the_collapse_is_where_the_second_sounds():
    times = collapse_times(*frames(0, 4, 11))
    assert times["by"].eq("alarms").all() and times["judged"].all() and not times["too_short"].any() and times["severity"].isna().all()
    np.testing.assert_array_equal(times["collapse_update"], [np.nan, 4 + PATIENCE - 1, np.nan])  # the last one has two updates left


@pytest.mark.parametrize(("settings", "by"), [
    ({"gold.path": "gold"}, "gold"), ({"data.source": "world"}, "gold"), ({"data.source": "world", "collapse.by": "alarms"}, "alarms"),
    ({"collapse.by": "gold"}, "gold"), ({}, "alarms"),
])  # fmt: skip
def test_gold_judges_where_there_is_one_unless_alarms_are_asked_for(settings, by):
    times = collapse_times(*frames(4, **settings))
    assert (times["by"][0], times["judged"][0]) == (by, by == "alarms")  # these frames have no gold


def test_a_run_of_too_few_updates_has_no_verdict():
    times = collapse_times(*frames(0, updates=PATIENCE))
    assert not times["judged"][0] and times["too_short"][0]


def test_a_fork_is_measured_against_sft_and_not_against_its_own_first_row():
    runs, curves = frames(1)
    assert np.isnan(collapse_times(runs, curves)["collapse_update"][0])
    assert collapse_times(runs.assign(fork="checkpoint"), curves)["collapse_update"][0] == PATIENCE


def test_no_curve_over_thresholds_of_gold_counts_runs_that_alarms_judge():
    assert threshold_curve(*frames(0, 4)).empty


def test_sustained_is_the_least_of_the_last_values_and_nothing_over_a_gap():
    np.testing.assert_array_equal(sustained(np.array([1.0, 3, 2, 5, np.nan, 4, 6]), 2), [-np.inf, 1, 2, 2, -np.inf, -np.inf, 4])
    np.testing.assert_array_equal(sustained(np.array([1.0]), 2), [-np.inf])


def planted(model: str, collapse: float, peak: float, gain: float = math.nan) -> Course:
    """A run of 10 updates in which every statistic is 0 and, from update 6 on, `peak`."""
    values = np.array([0.0] * 5 + [peak] * 5)
    return Course(model, collapse, np.arange(1, 11), {name: values.copy() for name in candidates()}, gain)


def test_a_threshold_lets_a_twentieth_of_the_held_runs_beyond_it_and_no_more():
    held = [planted("m", math.inf, peak) for peak in range(1, 41)]
    assert threshold([*held, planted("m", 3, 99.0)], "kl") == 38.0
    assert sum(math.isfinite(first_beyond(run, "kl", 38.0)) for run in held) == 2
    assert threshold(held[:19], "kl") == 19.0 and threshold([planted("m", 3, 9.0)], "kl") == math.inf


def test_the_course_of_a_run_is_its_sustained_statistic_and_its_change_over_twenty_updates():
    rows = [{"update": update} | monitors(update > 30) for update in range(1, 41)]
    found = course(rows, "m", math.inf)
    assert found.updates.tolist() == list(range(1, 41))
    assert found.worst["entropy"].tolist() == [-math.inf] * 4 + [-1.0] * 30 + [-0.05] * 6  # its sign changed, since it falls
    assert found.worst["entropy, change"].tolist() == [-math.inf] * 24 + [0.0] * 10 + [0.95] * 6
    assert found.worst["kl"].max() == 2.5 and np.isneginf(found.worst["distinct"]).all()


def test_votes_count_alarms_in_the_order_in_which_they_sound():
    run = planted("m", 9, 5.0)
    run.worst["entropy"][:] = [0, 0, 4, 4, 4, 4, 4, 4, 4, 4]
    limits = {"kl": 4.5, "entropy": 3.0, "distinct": 7.0}
    assert [first_votes(run, limits, votes) for votes in (1, 2, 3)] == [3, 6, math.inf]


def test_thresholds_come_from_the_other_reward_models_alone():
    runs = [planted("a", math.inf, 1.0), planted("b", math.inf, 5.0), planted("a", 8, 3.0), planted("b", 8, 3.0)]
    table = held_out(runs, lambda train, run: first_beyond(run, "kl", threshold(train, "kl")))
    assert table.to_dict("list") == {"reward_model": ["a", "a", "b", "b"], "collapse": [math.inf, 8, math.inf, 8],
                                     "alarm": [math.inf, math.inf, 6, 6]}  # fmt: skip


def test_the_table_counts_detections_leads_and_false_alarms_by_hand():
    runs = [planted(model, math.inf, 1.0) for model in "abcd"] + [planted(model, 8, 3.0) for model in "abcd"]
    row = calibrate(runs).set_index("alarm").loc["kl"]
    assert row["sounds"] == "above 1" and row["detected"].startswith("4 of 4, 100 %") and row["false alarms"].startswith("0 of 4, 0 %")
    assert row["lead, updates"] == "2 (2 … 2)"
    assert calibrate(runs).set_index("alarm").loc["entropy", "sounds"] == "below -1"


def test_a_rate_has_clopper_and_pearsons_interval_over_reward_models():
    runs = pd.DataFrame({"reward_model": list("abcde")})
    assert rate(runs, pd.Series([True] * 5)) == "5 of 5, 100 % [48, 100]" and rate(runs[:0], pd.Series(dtype=bool)) == "–"


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm.name)
def test_every_alarm_that_votes_has_a_threshold_on_its_own_side_of_sft(alarm):
    assert alarm.threshold > (0 if alarm.name == "kl" else 1) if alarm.rises else 0 < alarm.threshold < 1


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: no run here has ended with a verdict on gold"):
        main([str(tmp_path)])


def test_the_command_learns_where_a_reward_model_can_be_held_out_and_else_tries_what_is_in_force(monkeypatch, capsys):
    runs = [planted(model, math.inf, 1.0, -0.5) for model in "abcd"] + [planted(model, 8, 3.0, -9.0) for model in "abcd"]
    monkeypatch.setattr(learn, "courses", lambda folders: runs)
    assert main(["x"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("8 runs with 4 reward models, of which 4 collapsed.") and "| kl | above 1 | 4 of 4, 100 %" in printed
    monkeypatch.setattr(learn, "courses", lambda folders: runs[::4])
    assert main(["x"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs with 1 reward model, of which 1 collapsed." in printed and "nothing is learned" in printed and "above 1" not in printed


def test_the_held_runs_that_lost_gold_are_counted_among_those_with_an_alarm_and_without():
    quiet = replace(planted("a", math.inf, 0.0), worst={name: np.full(10, -9.0) for name in candidates()})
    loud = planted("a", math.inf, 9.0)
    runs = [replace(quiet, gain=gain) for gain in (0.5, 0.5, -0.1)] + [replace(loud, gain=gain) for gain in (-1.0, -2.0, 0.2)]
    (row,) = as_set([*runs, planted("a", 8, 9.0, -9.0)]).to_dict("records")
    assert (row["of these below SFT's gold"], row["silent and below it"]) == ("2 of 3", "1 of 3")
    assert row["detected"].startswith("1 of 1") and row["false alarms"].startswith("3 of 6, 50 %")


def test_of_runs_that_two_studies_share_one_counts(monkeypatch):
    world = {"data.source": "world", "sft/eval/gold": 0.0, "sft/eval/gold_sd": 1.0, "final/eval/gold": 0.5, "config_hash": "same"}
    runs, curves = frames(0, 4, updates=20, **world)
    curves["eval/gold"] = curves["eval/proxy"]
    monkeypatch.setattr(learn, "load", lambda folders: Loaded(runs, curves, pd.DataFrame()))
    (found,) = courses(["x"])
    assert found.gain == 0.5 and math.isinf(found.collapse) and found.updates.tolist() == list(range(1, 21))


def test_a_column_of_settings_with_a_number_or_nothing_in_it_is_read_as_text():
    runs, curves = frames(4, 0)
    assert collapse_times(runs.assign(**{"gold.path": np.nan, "collapse.by": [np.nan, 3.0]}), curves)["by"].tolist() == ["alarms", "gold"]
