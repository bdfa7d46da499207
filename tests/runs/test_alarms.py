"""The verdict without gold: each statistic by hand, when an alarm sounds, and what a run writes of it."""

import math
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import wandb
from processes import run

from ablate.config import CollapseConfig
from ablate.runs import alarms
from ablate.runs.alarms import ALARMS, PATIENCE, VOTES, AlarmWatch, watched
from ablate.runs.checkpoint import read_state
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute

SFT = {
    "update": 1, "monitor/kl_to_sft": 0.0, "monitor/kl_per_token": 0.0, "monitor/response_length": 20.0, "monitor/entropy": 2.0,
    "monitor/perplexity_ref": math.e**2, "monitor/distinct": 0.8, "monitor/distinct_across": 0.5,
}  # fmt: skip
FAR = {"monitor/kl_to_sft": 80.0, "monitor/entropy": 0.1, "monitor/perplexity_ref": math.e**6}  # 4 nats per token: beyond every threshold
BY_NAME = {alarm.name: alarm for alarm in ALARMS}


def rows(number: int, first: int = 2, **changes: float) -> list[dict]:
    return [SFT | {"update": first + index} | changes for index in range(number)]


@pytest.mark.parametrize(("name", "row", "value"), [
    ("kl", {"monitor/kl_to_sft": 30.0, "monitor/response_length": 10.0}, 30 / 10 / 2),
    ("kl", {"monitor/kl_to_sft": None, "monitor/kl_per_token": 0.5}, 0.25),
    ("nll_under_sft", {"monitor/perplexity_ref": math.e**3}, 3 / 2),
    ("nll_under_sft", {"monitor/perplexity_ref": math.inf}, math.inf),
    ("entropy", {"monitor/entropy": 0.5}, 0.25),
    ("distinct", {"monitor/distinct": 0.6}, 0.75),
    ("distinct_across", {"monitor/distinct_across": 0.1}, 0.2),
])  # fmt: skip
def test_a_statistic_is_what_its_formula_says(name, row, value):
    assert BY_NAME[name].statistic(SFT | row, SFT) == pytest.approx(value)


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm.name)
def test_a_statistic_has_no_unit_and_is_not_a_number_where_a_monitor_is_missing(alarm):
    assert math.isnan(alarm.statistic({}, SFT)) and math.isnan(alarm.statistic(SFT, {})) and not alarm.beyond(math.nan)
    assert alarm.statistic(SFT, SFT) == (0.0 if alarm.name == "kl" else 1.0) and not alarm.beyond(alarm.statistic(SFT, SFT))
    assert alarm.beyond(math.inf if alarm.rises else -math.inf) and not alarm.beyond(alarm.threshold)


def test_an_alarm_sounds_in_the_last_of_its_updates_in_a_row_and_not_again():
    watch = watched([SFT, *rows(PATIENCE - 1, 2, **FAR), *rows(1, PATIENCE + 1), *rows(PATIENCE + 4, PATIENCE + 2, **FAR)])
    assert watch.sounded == {"kl": 2 * PATIENCE + 1, "nll_under_sft": 2 * PATIENCE + 1, "entropy": 2 * PATIENCE + 1}
    assert watch.collapsed is True and watch.collapse_update == 2 * PATIENCE + 1


def test_the_documentation_has_the_thresholds_and_formulas_in_force():
    text = (Path(alarms.__file__).parents[2] / "docs" / "explanation" / "alarms.md").read_text()
    for alarm in ALARMS:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `alarm/{alarm.name}` |")]
        assert alarm.formula in row and row.endswith(f"| {'above' if alarm.rises else 'below'} {alarm.threshold:.2f} |")
    assert (PATIENCE, VOTES) == (5, 2) and "five updates in a row" in text and "two have sounded" in text


def test_one_alarm_is_no_collapse_and_the_second_decides_its_update():
    assert VOTES == 2
    watch = watched([SFT, *rows(PATIENCE, 2, **{"monitor/entropy": 0.1})])
    assert watch.sounded == {"entropy": PATIENCE + 1} and watch.collapsed is False and watch.collapse_update is None
    for row in rows(PATIENCE, PATIENCE + 2, **FAR):
        watch.update(row)
    assert watch.collapse_update == 2 * PATIENCE + 1


@pytest.mark.parametrize(("updates", "verdict"), [(PATIENCE, None), (PATIENCE + 1, False)])
def test_a_run_too_short_for_an_alarm_has_no_verdict(updates, verdict):
    assert watched([{"update": 0, "eval/proxy": 1.0}, *rows(updates, 1)]).collapsed is verdict


def test_a_log_with_monitors_for_one_alarm_alone_has_no_verdict():
    assert watched([{"update": update, "monitor/entropy": 1.0} for update in range(1, 30)]).collapsed is None


def test_a_row_of_an_evaluation_alone_is_no_update_and_the_first_with_monitors_is_sft():
    watch = AlarmWatch()
    assert watch.update({"update": 0, "eval/kl_to_sft": 0.0}) == {} and watch.sft == {}
    values = watch.update(SFT)
    assert watch.sft == {name: value for name, value in SFT.items() if name != "update"} and watch.updates == 1
    assert values == {f"alarm/{alarm.name}": 0.0 if alarm.name == "kl" else 1.0 for alarm in ALARMS} | {"alarm/sounded": 0}


@pytest.fixture
def sensitive(monkeypatch):
    """Thresholds that a tiny model with random weights passes in its first updates."""
    low = {"kl": 0.001, "nll_under_sft": 0.5}
    monkeypatch.setattr(alarms, "ALARMS", tuple(replace(alarm, threshold=low.get(alarm.name, alarm.threshold)) for alarm in ALARMS))


def logged_and_recomputed(folder) -> tuple[list[dict], list[dict], AlarmWatch]:
    watch, logged, recomputed = AlarmWatch(), [], []
    for row in read_rows(folder / "metrics.jsonl"):
        logged.append({name: value for name, value in row.items() if name.startswith("alarm/")})
        recomputed.append(watch.update({name: value for name, value in row.items() if not name.startswith("alarm/")}))
    return logged, recomputed, watch


def test_gold_judges_where_there_is_one_and_the_alarms_are_logged_all_the_same(tiny_config, sensitive):
    config = tiny_config("ppo.updates=7", "ppo.learning_rate=1e-2")
    summary = execute(config)
    logged, recomputed, watch = logged_and_recomputed(run_folder(config))
    assert logged == recomputed and [row["alarm/sounded"] for row in logged[1:]] == [0, 0, 0, 0, 1, 2, 2]
    assert (summary["alarms"], summary["collapse_by"]) == (watch.sounded, "gold") == ({"nll_under_sft": 5, "kl": 6}, "gold")


def test_a_run_that_was_killed_goes_on_with_the_alarms_it_had(make_config, tmp_path):
    config = make_config(tmp_path)
    assert run(config, "apply_gradients", 2 + 2 * 4 + 1) == -signal.SIGKILL
    assert run(config) == 0
    logged, recomputed, watch = logged_and_recomputed(run_folder(config))
    assert logged == recomputed and watch.updates == 6
    assert read_state(run_folder(config) / "checkpoints" / "6")["progress"]["alarms"] == asdict(watch)


@pytest.mark.parametrize("stop", [False, True])
def test_alarms_judge_and_stop_a_run_where_they_are_asked_to(tiny_config, sensitive, stop):
    config = replace(tiny_config("ppo.updates=8", "ppo.learning_rate=1e-2"), collapse=CollapseConfig(by="alarms", stop=stop))
    summary = execute(config)
    assert (summary["collapse_by"], summary["collapsed"], summary["collapse_update"]) == ("alarms", True, 6)
    assert (summary["updates"], summary["reason"]) == ((6, "stopped at collapse") if stop else (8, ""))


def test_wandb_gets_an_alert_at_every_alarm_and_the_console_its_number(tiny_config, sensitive, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
    told = []
    monkeypatch.setattr(wandb.Run, "alert", lambda self, title, text, level: told.append((title, text, level)))
    execute(tiny_config("ppo.updates=7", "ppo.learning_rate=1e-2", "tracker=wandb", "evaluation.every=7"))
    sentence = "{} of 5 have sounded by update {}; 2 are a collapse where alarms judge."
    assert told == [("An alarm of collapse", sentence.format(*pair), "WARN") for pair in ((1, 5), (2, 6))]
    printed = capsys.readouterr().out
    assert "update 5:  alarms 1/5\nupdate 6:  alarms 2/5\nupdate 7: " in printed and printed.rstrip().endswith("alarms 2/5")
