"""The audit of other trainers' logs: what they logged is read under our names, with hand-made files in every format.

trl_ppo.json, trl_grpo.json and trl_rloo.json were written by TRL 1.12 itself: `make_trl_logs.py` here made them.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from ablate.errors import UserError
from ablate.runs.alarms import ALARMS
from ablate.runs.metrics import BY_NAME
from analysis.audit.__main__ import SOURCES, main
from analysis.audit.judge import blind, judge
from analysis.audit.names import TRAINERS, name_tables
from analysis.audit.read import Log, read_logs
from analysis.audit.show import trend
from analysis.audit.translate import Run, translate
from analysis.load.frames import load

HERE = Path(__file__).parent
HOWTO = HERE.parents[1] / "docs" / "howto" / "audit.md"

# Two updates of each trainer as its code logs them, and what the second one is in our names.
LOGGED = {
    "verl": (
        [
            {"training/global_step": 1, "critic/score/mean": 0.5, "actor/reward_kl_penalty": 0.0, "response_length/mean": 100.0},
            {
                "training/global_step": 2, "critic/score/mean": 0.75, "critic/rewards/mean": 0.25, "actor/reward_kl_penalty": 0.02,
                "response_length/mean": 150.0, "response_length/clip_ratio": 0.125, "actor/entropy": 0.5, "actor/ppo_kl": -0.001,
                "actor/pg_clipfrac": 0.01, "actor/kl_loss": 0.4, "critic/vf_explained_var": 0.5, "rollout_corr/k3_kl": 0.002,
            },
        ],
        {
            "reward/proxy_mean": 0.75, "reward/shaped_mean": 0.25, "monitor/kl_per_token": 0.02, "monitor/kl_to_sft": 3.0,
            "monitor/response_length": 150.0, "monitor/truncated": 0.125, "monitor/entropy": 0.5, "ppo/approx_kl": -0.001,
            "ppo/clip_fraction": 0.01, "actor/kl_loss": 0.4, "ppo/explained_variance": 0.5, "monitor/mismatch_kl": 0.002,
        },
    ),
    "openrlhf": (
        [
            {"train/global_step": 1, "train/rollout/reward_mean": 1.0, "train/reward": 9.0, "train/rollout/response_length_mean": 10.0},
            {
                "train/global_step": 2, "train/rollout/reward_mean": 2.0, "train/reward": 9.0, "train/return": 1.5, "train/kl": 0.5,
                "train/logprobs_diff": 0.25, "train/rollout/response_length_mean": 20.0, "train/response_length": 9.0,
                "train/rollout/truncated_rate": 0.0, "train/ppo_clip_ratio": 0.1, "train/entropy_loss": 0.3,
            },
        ],
        {
            "reward/proxy_mean": 2.0, "reward/shaped_mean": 1.5, "monitor/kl_per_token": 0.25, "monitor/kl_to_sft": 5.0,
            "monitor/response_length": 20.0, "monitor/truncated": 0.0, "ppo/clip_fraction": 0.1, "entropy_loss": 0.3,
        },
    ),
    "nemo_rl": (
        [
            {"_step": 1, "train/reward": 0.1, "train/kl_penalty": 0.0, "train/mean_gen_tokens_per_sample": 8.0},
            {
                "_step": 2, "train/reward": 0.2, "train/kl_penalty": 0.5, "train/mean_gen_tokens_per_sample": 16.0,
                "train/approx_entropy": 1.5, "train/truncation_rate": 0.25, "train/gen_kl_error": 0.001, "train/probs_ratio_max": 3.0,
            },
        ],
        {
            "reward/proxy_mean": 0.2, "monitor/kl_per_token": 0.5, "monitor/kl_to_sft": 8.0, "monitor/response_length": 16.0,
            "monitor/entropy": 1.5, "monitor/truncated": 0.25, "monitor/mismatch_kl": 0.001, "ppo/ratio_max": 3.0,
        },
    ),
    "roll": (
        [
            {"system/step": 0, "critic/score/mean": 0.5, "critic/kl": 0.0, "token/response_length/mean": 10.0},
            {
                "system/step": 1, "critic/score/mean": 0.25, "critic/rewards/mean": 0.2, "critic/kl": 0.1, "critic/entropy/mean": 0.4,
                "token/response_length/mean": 30.0, "actor/ppo_ratio_clipfrac": 0.05, "actor/kl_loss": 0.7, "actor_train/grad_norm": 2.0,
            },
        ],
        {
            "reward/proxy_mean": 0.25, "reward/shaped_mean": 0.2, "monitor/kl_per_token": 0.1, "monitor/kl_to_sft": 3.0,
            "monitor/entropy": 0.4, "monitor/response_length": 30.0, "ppo/clip_fraction": 0.05, "actor/kl_loss": 0.7,
            "ppo/actor_grad_norm": 2.0,
        },
    ),
    "prime_rl": (
        [
            {"step": 1, "train/agg/effective/solver/reward/mean": 0.5, "train/agg/all/solver/reward/mean": 9.0},
            {"step": 2, "train/agg/effective/solver/reward/mean": 0.75, "train/agg/effective/solver/num_output_tokens/mean": 50.0},
            {"step": 2, "optim/grad_norm": 0.5},
            {"step": 2, "entropy/all/mean": 0.3, "mismatch_kl/all/mean": 0.01, "train/agg/effective/solver/is_truncated/mean": 0.1},
        ],
        {
            "reward/proxy_mean": 0.75, "monitor/response_length": 50.0, "ppo/actor_grad_norm": 0.5, "monitor/entropy": 0.3,
            "monitor/mismatch_kl": 0.01, "monitor/truncated": 0.1,
        },
    ),
}  # fmt: skip


def run_of(path: Path, source: str) -> Run:
    (log,) = read_logs(path)
    return translate(log, TRAINERS[source])


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("source", LOGGED)
def test_what_a_trainer_logs_is_read_under_our_names(source, tmp_path):
    rows, expected = LOGGED[source]
    run = run_of(lines(tmp_path / "log.jsonl", rows), source)
    last = dict(run.rows[-1])
    assert (len(run.rows), last.pop("update") - run.rows[0]["update"]) == (2, 1)
    assert last == pytest.approx(expected)


def test_every_monitor_of_the_table_is_ours_and_every_choice_has_a_table():
    assert tuple(TRAINERS) == SOURCES
    for trainer in (trainer for trainers in TRAINERS.values() for trainer in trainers):
        for column in trainer.columns:
            assert column.ours is None or column.ours in BY_NAME, column
            assert column.note or column.judged, column  # what alarms may not read says why


def test_the_howto_has_the_table_as_it_is():
    assert name_tables() in HOWTO.read_text()


def test_kl_per_token_times_length_is_kl_per_response():
    """In committed runs of vanilla, at every update: k1 per response, to the digits that are kept, and near the KL over the vocabulary."""
    curves = load(HERE.parents[1] / "results" / "reference" / "policy_constraints").curves
    curves = curves[(curves["arm"] == "vanilla") & (curves["monitor/kl_k1"] > 0.1)]
    product = curves["monitor/kl_per_token"] * curves["monitor/response_length"]
    assert len(curves) > 500
    assert product.to_numpy() == pytest.approx(curves["monitor/kl_k1"].to_numpy(), rel=2e-3)
    assert (product / curves["monitor/kl_to_sft"]).quantile([0.05, 0.95]).to_numpy() == pytest.approx([1, 1], abs=0.1)


def test_a_log_that_trl_wrote_for_grpo_is_read():
    """Its KL is per token: 0.0559… nats at update 12, and responses have 10.6875 tokens."""
    run = run_of(HERE / "trl_grpo.json", "trl")
    assert run.trainer == "TRL's GRPOTrainer or RLOOTrainer"
    assert [row["update"] for row in run.rows] == list(range(1, 13))
    assert run.rows[0]["monitor/kl_to_sft"] == 0
    last = run.rows[-1]
    assert last["monitor/kl_per_token"] == pytest.approx(0.05595659)
    assert last["monitor/kl_to_sft"] == pytest.approx(0.05595659 * 10.6875)
    assert (last["monitor/response_length"], last["monitor/truncated"], last["reward/proxy_mean"]) == (10.6875, 0.75, 0.125)
    assert {column.theirs for column in run.missing} == set()


def test_a_log_that_trl_wrote_for_rloo_has_the_same_names_and_another_estimator():
    run = run_of(HERE / "trl_rloo.json", "trl")
    assert run.rows[-1]["monitor/kl_to_sft"] == pytest.approx(0.06265094 * 10.6875)
    assert "k1 in RLOOTrainer" in run.columns["monitor/kl_per_token"].note


def test_a_log_that_trl_wrote_for_ppo_is_read():
    """Its KL is per response already. Its entropy per response cannot be made one per token, since it logs no length."""
    run = run_of(HERE / "trl_ppo.json", "trl")
    assert run.trainer == "TRL's PPOTrainer"
    assert run.rows[-1]["monitor/kl_to_sft"] == pytest.approx(1.88827872)
    assert run.rows[-1]["reward/shaped_mean"] == pytest.approx(0.78021836 - 0.05 * 1.88827872, abs=1e-6)
    assert run.rows[-1]["objective/entropy"] == pytest.approx(16.40041733)
    assert "monitor/response_length" not in run.columns


def test_a_folder_of_a_checkpoint_is_read_by_its_trainer_state(tmp_path):
    (tmp_path / "trainer_state.json").write_text((HERE / "trl_ppo.json").read_text())
    assert len(run_of(tmp_path, "trl").rows) == 12


def test_the_row_of_verls_file_logger_holds_its_metrics_under_data(tmp_path):
    rows = [{"step": 7, "data": {"critic/score/mean": 0.5, "training/global_step": 7}}]
    assert run_of(lines(tmp_path / "verl.jsonl", rows), "verl").rows == [{"update": 7, "reward/proxy_mean": 0.5}]


def test_a_json_history_is_a_list_of_rows_or_columns_as_pandas_writes_them(tmp_path):
    rows, columns = tmp_path / "rows.json", tmp_path / "columns.json"
    rows.write_text(json.dumps([{"_step": 0, "train/global_step": 5, "train/reward": 0.5}]))
    columns.write_text(json.dumps({"_step": {"0": 0}, "train/global_step": {"0": 5}, "train/reward": {"0": 0.5}}))
    assert run_of(rows, "trl").rows == run_of(columns, "trl").rows == [{"update": 5, "reward/proxy_mean": 0.5}]


def test_a_csv_history_of_wandb_is_read(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("_step,_timestamp,train/global_step,train/reward,train/kl,note\n0,1e9,1,0.5,,text\n1,1e9,2,0.75,NaN,text\n")
    run = run_of(path, "trl")
    assert run.rows == [{"update": 1, "reward/proxy_mean": 0.5}, {"update": 2, "reward/proxy_mean": 0.75}]
    assert run.notes == ["train/kl is not finite at 1 of the updates, first at 2: left out there."]


def test_a_chart_exported_from_wandb_gives_a_run_for_each_of_its_runs(tmp_path):
    path = tmp_path / "chart.csv"
    path.write_text('"train/global_step","a - b - train/kl","a - b - train/kl__MIN","other - train/kl"\n1,0.5,9,2\n2,0.75,9,\n')
    first, second = read_logs(path)
    assert (first.name, second.name) == (f"{path}: a - b", f"{path}: other")
    read = [translate(log, TRAINERS["trl"]).rows for log in (first, second)]
    assert read == [[{"update": 1, "monitor/kl_per_token": 0.5}, {"update": 2, "monitor/kl_per_token": 0.75}], [
        {"update": 1, "monitor/kl_per_token": 2.0}]]  # fmt: skip


def test_a_table_with_our_own_names_is_read_as_it_is(tmp_path):
    path = tmp_path / "own.csv"
    with path.open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerows([["update", "eval/gold", "monitor/kl_to_sft", "else"], [0, 1.5, 0, 7], [1, 1.25, 0.5, 7]])
    run = run_of(path, "csv")
    assert run.rows == [{"update": 0, "eval/gold": 1.5, "monitor/kl_to_sft": 0}, {"update": 1, "eval/gold": 1.25, "monitor/kl_to_sft": 0.5}]


def test_an_offline_run_of_wandb_is_read(tmp_path):
    wandb = pytest.importorskip("wandb")
    run = wandb.init(mode="offline", project="p", name="grpo", dir=tmp_path)
    for step in (1, 2):
        run.log({"train/global_step": 10 * step, "train/kl": 0.25 * step, "train/completions/mean_length": 8.0})
    run.finish()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert run_of(folder, "trl").rows[-1] == pytest.approx(
        {"update": 20, "monitor/kl_per_token": 0.5, "monitor/kl_to_sft": 4.0, "monitor/response_length": 8.0}
    )
    (file,) = folder.glob("*.wandb")
    newer = tmp_path / "newer.wandb"
    newer.write_bytes(file.read_bytes()[:6] + b"\x09" + file.read_bytes()[7:])
    with pytest.raises(UserError, match=r"newer\.wandb: wandb cannot read it: .*newer wandb version"):
        read_logs(newer)


def test_event_files_of_tensorboard_are_read(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step in (1, 2):
        values = [Summary.Value(tag="critic/score/mean", simple_value=0.5 * step), Summary.Value(tag="perf/x", simple_value=1)]
        writer.add_event(Event(step=step, summary=Summary(value=values), wall_time=step))
    writer.close()
    (file,) = tmp_path.iterdir()
    expected = [{"update": 1, "reward/proxy_mean": 0.5}, {"update": 2, "reward/proxy_mean": 1.0}]
    assert run_of(tmp_path, "verl").rows == run_of(file, "verl").rows == expected
    file.write_bytes(b"no events")
    with pytest.raises(UserError, match="holds no scalar of TensorBoard"):
        read_logs(file)


def test_event_files_without_tensorboard_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.backend.event_processing.event_accumulator", None)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    with pytest.raises(UserError, match="needs tensorboard: pip install tensorboard"):
        read_logs(tmp_path)


def test_a_torn_line_is_left_out_with_a_note(tmp_path):
    path = tmp_path / "torn.jsonl"
    path.write_text('{"step": 1, "reward": 0.5}\n\n7\n{"step": 2, "reward": 0.75}\n{"step": 3, "rew')
    run = run_of(path, "trl")
    assert [row["update"] for row in run.rows] == [1, 2]
    assert run.notes == ["Left out as no row of JSON: lines 3, 5."]


def test_what_is_logged_last_at_an_update_counts_and_rows_without_one_are_left_out(tmp_path):
    """A run that went on from update 2: the rows of updates 2 and 3 stand twice."""
    steps = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.4), (3, 0.5), (None, 9.0), (2.5, 9.0), (float("inf"), 9.0)]
    run = run_of(lines(tmp_path / "resumed.jsonl", [{"step": step, "reward": reward} for step, reward in steps]), "trl")
    assert [row["reward/proxy_mean"] for row in run.rows] == [0.1, 0.4, 0.5]
    assert run.notes == [
        "3 rows without a whole number as step are left out.",
        "step goes back from 3 to 2, as in a resumed run: what was logged last at an update counts.",
    ]


def test_rows_without_any_step_are_numbered(tmp_path):
    run = run_of(lines(tmp_path / "bare.jsonl", [{"reward": 0.5}, {"reward": 0.25}]), "trl")
    assert [row["update"] for row in run.rows] == [1, 2]
    assert run.notes == ["No column global_step or step or _step or Step: rows are numbered from 1."]


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path):
    path = tmp_path / "nan.jsonl"
    path.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": NaN}\n{"step": 3, "reward": "Infinity"}\n')
    run = run_of(path, "trl")
    assert run.rows == [{"update": 1, "reward/proxy_mean": 0.5}]
    assert run.notes == ["reward is not finite at 2 of the updates, first at 2: left out there."]
    path.write_text('{"step": 1, "reward": NaN}\n')
    with pytest.raises(UserError, match="no value of reward is a finite number"):
        run_of(path, "trl")


def test_a_log_with_none_of_the_names_says_which_were_looked_for_and_which_are_there(tmp_path):
    path = lines(tmp_path / "sft.jsonl", [{"step": 1, "loss": 2.0, "lr": 0.1}])
    with pytest.raises(
        UserError, match=r"no metric of verl is in it. Looked for critic/score/mean, .* and \d+ more; it has step, loss, lr\."
    ):
        run_of(path, "verl")


def test_several_agents_are_not_mixed(tmp_path):
    rows = [{"step": 1, "entropy/all/mean": 0.5, **{f"train/agg/effective/{agent}/reward/mean": 1.0 for agent in ("a", "b")}}]
    run = run_of(lines(tmp_path / "two.jsonl", rows), "prime_rl")
    assert run.rows == [{"update": 1, "monitor/entropy": 0.5}]
    assert run.notes[0].startswith("train/agg/effective/*/reward/mean stands for 2 agents here, and none of them is read: ")


BAD = {
    "empty.jsonl": ("", "is empty"),
    "blank.csv": ("\n\n", "is empty"),
    "header.csv": ("step,reward\n", "holds no row with a number"),
    "words.jsonl": ("no json\nat all\n", "has no line that is a row of JSON"),
    "cut.json": ('{"log_history": [{"step": 1', "is not JSON"),
    "list.json": ("[1, 2]", "is not a history"),
    "text.json": ('[{"a": "b"}]', "holds no row with a number"),
    "deep.json": ("[" * 100_000, "is not JSON"),
    "log.txt": ("step 1", "has no suffix"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_log_is_one_sentence(name, tmp_path):
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_logs(tmp_path / name)


def test_a_missing_file_an_empty_folder_and_bytes_are_one_sentence(tmp_path):
    for name in ("none.json", "none.wandb", "events.out.tfevents.0"):
        with pytest.raises(UserError, match="does not exist"):
            read_logs(tmp_path / name)
    with pytest.raises(UserError, match=r"holds no trainer_state\.json, no \.wandb file and no event file"):
        read_logs(tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_logs(tmp_path / "bytes.csv")


@pytest.mark.parametrize("name", ["trl_ppo.json", "history.csv", "log.jsonl"])
def test_a_log_cut_anywhere_is_read_or_refused_in_one_sentence(name, tmp_path):
    texts = {
        "trl_ppo.json": (HERE / "trl_ppo.json").read_text()[:1500],
        "history.csv": 'step,reward,"a ""quoted"" name"\n1,0.5,"text\nover lines"\n2,0.75,"x"\n',
        "log.jsonl": '{"step": 1, "reward": 0.5}\n{"step": 2, "data": {"reward": 0.75}}\n',
    }
    path = tmp_path / name
    for length in range(len(texts[name])):
        path.write_text(texts[name][:length])
        try:
            assert all(log.rows for log in read_logs(path))
        except UserError as error:
            assert name in str(error)


def test_a_trend_is_the_rank_correlation_with_the_update():
    """Values 1, 3, 2, 4: squared differences of ranks 0, 1, 1, 0, so 1 − 6 · 2 / (4 · 15) = 0.8."""
    assert trend([(1, 1.0), (2, 3.0), (3, 2.0), (4, 4.0)]) == "rises 0.80"
    assert trend([(1, 3.0), (2, 2.0), (5, 1.0)]) == "falls -1.00"
    assert trend([(1, 1.0), (2, 2.0)]) == "–"


def early(rows):
    """A rule for the tests: KL to SFT above 0.5 nats per response."""
    found = [int(row["update"]) for row in rows if row.get("monitor/kl_to_sft", 0) > 0.5]
    return {"kl": found[0]} if found else {}


def test_alarms_are_a_sentence_and_none_is_none():
    rows = [{"update": 1, "monitor/kl_to_sft": 0.1}, {"update": 2, "monitor/kl_to_sft": 0.6}]
    assert judge(rows, early) == "Alarms: kl at update 2; 1 of 5, of which 2 are a collapse."
    assert judge(rows[:1], early) is None
    assert judge(rows, lambda rows: {"kl": 9, "entropy": 4}) == "Alarms: entropy at update 4, kl at update 9; 2 of 5, which is a collapse."


def test_the_rule_is_that_of_the_runs_of_this_project():
    """TRL's log of a policy whose entropy falls from 2 to 0.1 nats at update 4 and whose KL per token rises to 5 there."""
    far = [{"step": step, "kl": 5.0 if step > 3 else 0.0, "entropy": 0.1 if step > 3 else 2.0} for step in range(1, 10)]
    run = translate(Log("log", far), TRAINERS["trl"])
    assert judge(run.judged()) == "Alarms: kl at update 8, entropy at update 8; 2 of 5, which is a collapse."
    assert blind(run.judged()) is None


def test_which_trainers_log_enough_for_a_verdict_is_as_the_guide_says():
    able = {}
    for trainer in (trainer for trainers in TRAINERS.values() for trainer in trainers):
        row = {"update": 1, **{column.ours: 1.5 for column in trainer.columns if column.ours and column.judged}}
        able[trainer.title] = [alarm.name for alarm in ALARMS if not math.isnan(alarm.statistic(row, row))]
    assert able == {
        "TRL's GRPOTrainer or RLOOTrainer": ["kl", "entropy"], "verl": ["kl", "entropy"], "prime-rl": ["entropy"],
        "TRL's PPOTrainer": [], "OpenRLHF": [], "NeMo RL": [], "ROLL": [], "this project": [alarm.name for alarm in ALARMS],
    }  # fmt: skip


def test_a_log_in_which_no_alarm_can_sound_says_why(capsys):
    assert blind([{"update": update, "monitor/entropy": 1.0} for update in range(9)]) == (
        "Of the 5 alarms this log has the monitors of entropy alone: a verdict takes 2."
    )
    assert blind([{"update": update} for update in range(9)]) == "Of the 5 alarms this log has the monitors of none: a verdict takes 2."
    assert blind([{"update": 1, "monitor/entropy": 1.0}]) == "Too short for an alarm, which takes 5 updates after the first."


def test_the_command_ends_with_1_where_an_alarm_fires(capsys):
    """The KL of the GRPO log is above 0.5 at its last update; that of the PPO log stays above from update 2 on."""
    assert main([str(HERE / "trl_grpo.json"), "--from", "trl"], lambda rows: {}) == 0
    assert main([str(HERE / "trl_grpo.json"), "--from", "trl"], early) == 1
    printed = capsys.readouterr().out
    assert "Alarms: kl at update " in printed
    assert "monitor/kl_to_sft ~" in printed


def test_alarms_read_only_what_lies_where_ours_does():
    """NeMo RL sums its KL over the gradient steps of an update, and TRL's clip fraction leaves tokens out."""
    given = []
    run = translate(read_logs(HERE / "trl_grpo.json")[0], TRAINERS["trl"])
    judge(run.judged(), lambda rows: given.extend(rows) or {})
    assert set(given[0]) == {"update", "reward/proxy_mean", "monitor/kl_per_token", "monitor/kl_to_sft", "monitor/entropy",
                             "monitor/response_length", "monitor/truncated", "ppo/actor_grad_norm"}  # fmt: skip


def test_the_table_names_what_was_logged_and_what_was_not(tmp_path, capsys):
    path = lines(tmp_path / "short.jsonl", [{"step": step, "reward": 0.5 * step, "kl": 0.1} for step in (1, 2, 3)])
    assert main([str(path), "--from", "trl"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{path}: TRL's GRPOTrainer or RLOOTrainer, 3 updates, 1 to 3"
    assert printed[2].split() == ["reward/proxy_mean", "~", "0.5", "1.5", "rises", "1.00", "reward"]
    missing = " ".join(" ".join(printed).partition("not in this log: ")[2].split())
    assert "monitor/kl_to_sft (kl × length)" in missing
    assert "monitor/response_length (completions/mean_length)" in missing


def test_a_figure_shows_arms_with_their_runs_as_seeds(tmp_path, capsys):
    picture = tmp_path / "audit.png"
    arm = f"grouped={HERE / 'trl_grpo.json'},{HERE / 'trl_rloo.json'}"
    assert main(["--from", "trl", "--arm", arm, str(HERE / "trl_ppo.json"), "--figure", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.endswith(f"wrote {picture}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a log, or arms with --arm NAME=LOG,LOG"),
        (["--arm", "kl"], "--arm kl: write an arm and its logs as --arm NAME=LOG,LOG"),
        (["--arm", "kl=a.json,"], "--arm kl=a.json,: write an arm"),
        (["a.json", "--figure", "a.gif"], "--figure a.gif: end its name in .png, .pdf, .svg"),
        (["a.json", "--figure", "no/a.png"], "--figure no/a.png: there is no folder no"),
        (["a.json"], "a.json does not exist"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--from", "trl"])
    assert str(ended.value).startswith(f"error: {message}")


def test_what_a_log_quotes_cannot_act_on_the_terminal(tmp_path, capsys):
    agents = {f"train/agg/effective/{agent}/reward/mean": 1.0 for agent in ("\x1b[31m", "b")}
    path = lines(tmp_path / "colour.jsonl", [{"step": 1, "entropy/all/mean": 0.5, **agents}])
    main([str(path), "--from", "prime_rl"])
    printed = capsys.readouterr().out
    assert r"\x1b[31m" in printed and "\x1b" not in printed
