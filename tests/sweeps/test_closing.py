"""The closing table of a sweep and its live table, from run folders made by hand."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from ablate.config import Config, PPOConfig
from ablate.runs.console import run_progress
from ablate.sweeps.summary import sweep_summary
from ablate.sweeps.table import (
    Job,
    RunProgress,
    last_rows,
    number,
    read_progress,
    seconds_left,
    state_of,
    table,
    totals,
    without_shared_parts,
)

FINAL = {
    "eval/gold": 1.234, "eval/win": 0.5, "eval/tie": 0.25, "eval/proxy": 0.5, "eval/kl_to_sft": 2.04, "eval/perplexity": 2.125,
    "eval/length": 20.31,
}  # fmt: skip


def run(root, arm, seed, summary=None, samples=()):
    folder = root / "results" / "study" / arm / f"seed={seed}"
    folder.mkdir(parents=True)
    if summary is not None:
        text = {"status": "completed", "arm": arm, "seed": seed, "collapsed": False, "responses_per_second": 99.6, "final": FINAL}
        (folder / "summary.json").write_text(json.dumps(text | summary))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return folder


def sample(prompt, gold, response, update=80):
    return {"update": update, "prompt": prompt, "kind": "helpful", "response": response, "proxy": -gold, "gold": gold, "length": 3}


@pytest.mark.parametrize(("config", "said"), [
    (None, "gold: true reward, never trained on;"),
    ("hash: a\nidentity: {}\ngold:\n  path: null\n", "gold: true reward, never trained on;"),
    ("hash: a\nidentity: {}\ngold:\n  path: results/judge\n", "gold: score of a second reward model, never trained on;"),
    ("gold: [", "gold: true reward, never trained on;"),
])  # fmt: skip
def test_gold_is_not_called_the_true_reward_where_a_model_gives_it(config, said, tmp_path):
    folder = run(tmp_path, "kl", 0, {})
    if config is not None:
        (folder / "config.yaml").write_text(config)
    assert sweep_summary([folder]).splitlines()[2].startswith(said)


def test_a_row_shows_the_last_evaluation_and_counts_a_tie_as_half_a_win(tmp_path):
    lines = sweep_summary([run(tmp_path, "kl", 0, {})]).splitlines()
    assert lines[0].split() == [
        *"arm seed gold win proxy KL ppl length collapsed resp/s folder in".split(),
        str(tmp_path / "results" / "study"),
    ]
    assert lines[1].split() == "kl 0 1.23 62% 0.50 2.0 2.12 20.3 held 100 kl/seed=0".split()


def test_collapse_divergence_and_absence_are_told_apart_and_the_unknown_is_a_dash(tmp_path):
    folders = [
        run(tmp_path, "a", 0, {"collapsed": True, "collapse_update": 35}),
        run(tmp_path, "a", 1, {"status": "diverged", "final": {}, "responses_per_second": None}),
        run(tmp_path, "a", 2, {"status": "failed", "collapsed": None, "final": {}}),
        run(tmp_path, "a", 3),
        run(tmp_path, "a", 4, {"collapsed": None, "final": FINAL | {"eval/gold": None, "eval/win": None}}),
    ]
    rows = sweep_summary(folders).splitlines()[1:6]
    assert "at update 35" in rows[0]
    assert rows[1].split() == "a 1 – – – – – – diverged – a/seed=1".split()
    assert "failed" in rows[2] and "no result" in rows[3]
    assert rows[4].split() == "a 4 – – 0.50 2.0 2.12 20.3 – 100 a/seed=4".split()


def test_a_damaged_summary_still_has_its_row(tmp_path):
    folder = run(tmp_path, "a", 0, {})
    (folder / "summary.json").write_text('{"status": ')
    assert sweep_summary([folder]).splitlines()[1].split() == "a 0 – – – – – – unreadable – a/seed=0".split()


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_its_output_with_whole_names_and_says_where_the_folders_are(tmp_path, monkeypatch, columns):
    monkeypatch.setattr("ablate.sweeps.summary.WIDTH", columns)
    common = "batch_size=16,evaluation.prompts=16,minibatch_size=16,sampling.max_new_tokens=12"
    folders = [run(tmp_path, f"{name},{common}", 0, {}) for name in ("gamma=0.9", "kl_coef=0.2")]
    lines = sweep_summary(folders).splitlines()
    assert max(map(len, lines[:3])) <= columns and [line.split()[0] for line in lines[:3]] == ["arm", "gamma=0.9", "kl_coef=0.2"]
    assert "folder in" not in lines[0] and "…" not in "".join(lines)
    said = " ".join(lines[3:])
    assert f"folders: {tmp_path / 'results' / 'study'}/<arm>/seed=<n>" in said
    assert "all arms with batch_size=16, evaluation.prompts=16," in said


def test_the_table_leaves_out_of_an_arm_what_all_arms_share():
    assert without_shared_parts(["kl_coef=0.1,updates=9", "kl_coef=0.2,updates=9"]) == ["kl_coef=0.1", "kl_coef=0.2"]
    assert without_shared_parts(["vanilla,updates=9", "vanilla,kl_penalty=true,updates=9"]) == ["vanilla", "kl_penalty=true"]
    assert without_shared_parts(["vanilla,updates=9"] * 2) == ["vanilla,updates=9"] * 2


def test_two_arms_answer_the_prompt_of_median_difference_at_the_last_evaluation(tmp_path):
    good = [
        sample("q", 9, "early", update=75),
        *(sample(p, g, f"good {p}") for p, g in (("p", 1), ("q", 5), ("r", 9))),
        sample("s", 0, "same"),
    ]
    bad = [*(sample(p, 0, f"bad {p}") for p in "pqr"), sample("s", 0, "same"), sample("only here", 0, "x")]
    high = run(tmp_path, "kl", 0, {}, good)
    low = run(tmp_path, "vanilla", 0, {"final": FINAL | {"eval/gold": -20}}, bad)
    assert sweep_summary([low, high]).splitlines()[-6:] == [
        "One prompt, the median of 3 answered differently, by the difference in gold:",
        "  q",
        "kl, seed 0 (gold 5.00, proxy -5.00):",
        "  good q",
        "vanilla, seed 0 (gold 0.00, proxy 0.00):",
        "  bad q",
    ]


def test_one_arm_alone_has_no_second_answer(tmp_path):
    folders = [run(tmp_path, "kl", seed, {"final": FINAL | {"eval/gold": seed}}, [sample("p", seed, f"{seed}")]) for seed in (0, 1)]
    assert "One prompt" not in sweep_summary(folders)


def test_progress_is_read_from_whole_lines_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_rows(path) == [] and read_progress(tmp_path) == RunProgress()
    rows = [
        {"update": 5, "eval/gold": 1.5, "monitor/kl_to_sft": 0.5},
        {"update": 6, "monitor/kl_to_sft": 0.75, "responses_per_second": 90.0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"update": 7, "eval/g')
    assert read_progress(tmp_path) == RunProgress(update=6, gold=1.5, kl=0.75, responses_per_second=90.0)


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"update": i, "pad": "x" * 500}) + "\n" for i in range(1000)))
    rows = last_rows(path)
    assert rows[-1]["update"] == 999 and 30 <= len(rows) <= 33


def job(tmp_path, state, update, collapsed=False, updates=10):
    config = Config(arm="kl", ppo=PPOConfig(updates=updates))
    return Job(config=config, folder=tmp_path, state=state, collapsed=collapsed, progress=RunProgress(update=update))


def test_time_left_follows_from_updates_done_since_the_sweep_began(tmp_path):
    jobs = [job(tmp_path, "completed", 10), job(tmp_path, "running", 6), job(tmp_path, "waiting", 0), job(tmp_path, "failed", 4)]
    # 20 updates are done, 8 of them before the sweep: 12 in 60 s. 4 + 10 remain, since a failed run does not go on.
    assert seconds_left(jobs, elapsed=60, before=8) == 70
    assert seconds_left([job(tmp_path, "waiting", 0)], elapsed=5, before=0) is None


def test_totals_count_results_collapses_and_failures(tmp_path):
    states = [("running", False), ("completed", True), ("completed", False), ("diverged", False), ("failed", False), ("waiting", False)]
    jobs = [job(tmp_path, state, 0, collapsed) for state, collapsed in states]
    assert totals(jobs, 130, 40) == "1 running · 3 done · 1 collapsed · 1 failed · 1 waiting · 40 s so far · 2 min left"


def test_a_low_terminal_shows_the_running_and_the_failed_and_counts_the_rest(tmp_path):
    jobs = [job(tmp_path, state, 3) for state in ("waiting", "completed", "failed", "running")]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(jobs, None, height=2))
    text = console.export_text()
    assert "running" in text.splitlines()[2] and "failed" in text.splitlines()[3]
    assert "3/10" in text and "… and 2 more" in text


def shown(jobs, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(jobs, 60.0, height=20, elapsed=30.0, width=width))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 200])
def test_the_live_table_cuts_no_state_and_no_header_and_says_once_what_all_arms_share(tmp_path, width):
    common = "batch_size=16,evaluation.prompts=16,minibatch_size=16,updates=150"
    jobs = [job(tmp_path, state, 3, updates=150) for state in ("running", "completed", "interrupted", "waiting")]
    for each, name in zip(jobs, ("kl_penalty=false", "kl_penalty=true", "gamma=0.9", "gamma=1"), strict=True):
        each.config.arm, each.seconds = f"{name},{common}", 40.0
    jobs[1].collapsed, jobs[1].collapse_update = True, 120
    lines = shown(jobs, width)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("default, all with batch_size=16, evaluation.prompts=16,")
    header = next(line for line in lines if line.startswith("arm"))
    assert header.split() == ["arm", "seed", "state", "update", "gold", "KL", "resp/s", "time"]
    text = "\n".join(lines)
    assert text.count("batch_size=16,") == 1 + text.count("minibatch_size=16,") and "…" not in text
    assert all(word in text for word in ("collapsed at 120", "interrupted", "waiting", "kl_penalty=false", "30 s so far"))


@pytest.mark.parametrize("updates", [6, 150])
@pytest.mark.parametrize("width", [80, 200])
def test_a_long_name_is_cut_in_its_middle_and_leaves_every_other_column_whole(tmp_path, width, updates):
    jobs = [job(tmp_path, "running", 3, updates=updates), job(tmp_path, "completed", updates, updates=updates)]
    jobs[0].config.arm, jobs[1].config.arm = f"{'a' * 60}=1", f"{'a' * 60}=2"
    header, *rows = shown(jobs, width)[1:4]
    assert header.split() == ["arm", "seed", "state", "update", "gold", "KL", "resp/s", "time"] and max(map(len, rows)) <= width
    assert [row.split()[0][-2:] for row in rows] == ["=1", "=2"] and ("…" in rows[0]) == (width == 80)


@pytest.mark.parametrize(("state", "alarms", "told"), [
    ("running", 0, "running"), ("running", 1, "1 alarm"), ("running", 2, "2 alarms"), ("completed", 2, "completed"),
])  # fmt: skip
def test_a_running_job_says_how_many_alarms_have_sounded(tmp_path, state, alarms, told):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"update": 3, "alarm/sounded": alarms}) + "\n")
    one = job(tmp_path, state, 3)
    one.progress = read_progress(folder)
    assert state_of(one) == told and told in shown([one], 80)[2]


def test_widths_stay_while_states_change(tmp_path):
    jobs = [job(tmp_path, "waiting", 0), job(tmp_path, "waiting", 0)]
    before = shown(jobs, 80)[1]
    jobs[0].state, jobs[0].collapsed, jobs[0].collapse_update, jobs[0].seconds = "completed", True, 10, 90.0
    jobs[0].progress = RunProgress(10, -12.34, 123.4, 1234.0)
    assert shown(jobs, 80)[1] == before


def test_nothing_rounds_to_minus_zero():
    assert (number(-0.04, 1), number(-0.0), number(-0.06, 1)) == ("0.0", "0.00", "-0.1")


@pytest.mark.parametrize("width", [80, 200])
def test_the_bar_of_a_run_with_a_long_name_is_whole(width):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    bar = run_progress(console)
    task = bar.add_task("study: " + "batch_size=16," * 9 + " seed=0", total=10, figures="gold +1.00  proxy +2.00  KL 0.0")
    bar.update(task, completed=4)
    console.print(bar.get_renderable())
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert any("━━━━━━━━━━" in line and "4/10" in line and "so far" in line and "left" in line for line in lines)
    assert lines[-1].startswith("gold +1.00")
