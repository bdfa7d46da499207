"""The tuner with real processes: what it asks, records, survives and goes on with. The runs are planted, or real and tiny."""

from __future__ import annotations

import json
import os
import signal
import sys

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from tune_bench import recorded, run_tuner, start_tuner, starts, wait_for
from tune_planted import COLLAPSES, DIES, DIVERGES, REFUSES, UNJUDGED, gold

from ablate.config import Config
from ablate.sweeps.table import Job
from ablate.tune.__main__ import main
from ablate.tune.report import NO_FANOVA, importance_table, importances
from ablate.tune.study import outcome

KL, CLIP = "ppo.kl_coef=tag(log, interval(0.01,1))", "ppo.clip_range=interval(0.1,0.4)"
HELD, PRUNED, FAILED = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
EVALUATIONS = [5, 10, 15]


def fates(*values: float) -> str:
    return "ppo.value_coef=" + ",".join(str(value) for value in values)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """(folder, result, trials) of a search in which runs end in every way."""
    root = tmp_path_factory.mktemp("mixed")
    result = run_tuner(root, KL, fates(1, COLLAPSES, DIVERGES, DIES, REFUSES, UNJUDGED), "n_trials=20", "workers=3")
    return root, result, recorded(root)


def test_every_end_of_a_run_is_recorded_as_what_it_is_and_none_ends_the_search(mixed):
    _, result, trials = mixed
    assert result.returncode == 0, result.stderr
    assert len(trials) == 20
    told = {
        1: (HELD, "held", ""),
        COLLAPSES: (PRUNED, "collapsed", "seed=0"),
        DIVERGES: (PRUNED, "diverged", "seed=0: a loss is not finite"),
        DIES: (FAILED, "failed", "seed=0: ended by SIGKILL, perhaps for want of memory"),
        REFUSES: (FAILED, "failed", "seed=0: error: these settings go against the grain: change one"),
        UNJUDGED: (FAILED, "failed", "a run has no gold reward, which the objective needs"),
    }
    seen = {float(trial.params["ppo.value_coef"]) for trial in trials}
    assert {1.0, COLLAPSES, DIES} <= seen
    for trial in trials:
        attrs = trial.user_attrs
        assert (trial.state, attrs["outcome"], attrs["reason"]) == told[float(trial.params["ppo.value_coef"])]


def test_a_trial_that_held_has_its_final_gold_and_one_that_collapsed_keeps_its_values_beside(mixed):
    root, _, trials = mixed
    for trial in trials:
        true, fate = gold(trial.params["ppo.kl_coef"], 0.2), float(trial.params["ppo.value_coef"])
        assert list(trial.intermediate_values) == EVALUATIONS
        assert trial.intermediate_values[10] == pytest.approx(true * 2 / 3)
        if fate == 1:
            assert trial.value == pytest.approx(true)
        if fate in (1, COLLAPSES, DIVERGES):
            assert trial.user_attrs["gold"] == pytest.approx(true)
            assert trial.user_attrs["kl"] == pytest.approx(1 / trial.params["ppo.kl_coef"])
        assert (root / trial.user_attrs["folder"] / "seed=0" / "run.log").exists()


def test_the_end_names_the_best_trial_its_settings_and_folder(mixed):
    _, result, trials = mixed
    best = max((trial for trial in trials if trial.state is HELD), key=lambda trial: trial.value)
    assert (
        f"best: trial {best.number}, gold {best.value:.2f}, KL {1 / best.params['ppo.kl_coef']:.1f}, results/tune/trial={best.number}"
        in result.stdout
    )
    assert f"  ppo.kl_coef={best.params['ppo.kl_coef']:.4g} ppo.value_coef=1" in result.stdout
    assert result.stdout.count("[20/20]") == 1


def test_the_same_command_does_nothing_more_and_a_larger_n_trials_only_what_is_missing(mixed):
    root, _, trials = mixed
    command = (KL, fates(1, COLLAPSES, DIVERGES, DIES, REFUSES, UNJUDGED), "workers=3")
    again = run_tuner(root, *command, "n_trials=20")
    assert again.returncode == 0 and "] trial " not in again.stdout and "20 trials of tune" in again.stdout
    assert run_tuner(root, *command, "n_trials=22").returncode == 0
    more = recorded(root)
    assert len(more) == 22 and [trial.params for trial in more[:20]] == [trial.params for trial in trials]
    assert [starts(root, number) for number in range(22)] == [1] * 22


def refusal(*arguments: str) -> str:
    """What the tuner says as it ends before anything has started."""
    with pytest.raises(SystemExit) as ended:
        main(arguments, task="tune_planted.task", prepare=None, preload=())
    assert isinstance(ended.value.code, str)  # Python prints it and exits with status 1
    return ended.value.code


def test_a_study_is_not_gone_on_with_under_other_settings(mixed, monkeypatch):
    monkeypatch.chdir(mixed[0])
    said = refusal(KL, fates(1, COLLAPSES, DIVERGES, DIES, REFUSES, UNJUDGED), "ppo.gamma=0.9")
    reason = "settings.ppo.gamma is 1.0 there and 0.9 here"
    assert said == f"error: study=tune was begun otherwise ({reason}): set study=<name> for a new one"


def test_two_tuners_share_one_journal_and_do_each_trial_once(tmp_path):
    both = [start_tuner(tmp_path, KL, CLIP, "n_trials=8", "workers=1") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trials = recorded(tmp_path)
    assert [trial.state for trial in trials] == [HELD] * 8
    assert [starts(tmp_path, number) for number in range(8)] == [1] * 8
    assert len({trial.params["ppo.kl_coef"] for trial in trials}) == 8
    assert sum(out.count("] trial ") for out, _ in said) == 8


def test_a_killed_tuner_leaves_its_trial_to_the_next_which_asks_what_an_uninterrupted_one_would(tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    gate = tmp_path / "gate"
    for folder in (whole, torn):
        folder.mkdir()
    gate.touch()
    command = (KL, CLIP, "n_trials=4", "workers=1")
    tuner = start_tuner(torn, *command, HOLD_SECOND=str(gate))
    wait_for(lambda: starts(torn, 1) == 1)
    tuner.kill()
    tuner.communicate(timeout=30)
    assert [trial.state for trial in recorded(torn)] == [HELD, TrialState.RUNNING]
    assert run_tuner(torn, *command).returncode == 0 and run_tuner(whole, *command).returncode == 0
    assert [starts(torn, number) for number in range(4)] == [1, 2, 1, 1]
    assert [(trial.params, trial.value) for trial in recorded(torn)] == [(trial.params, trial.value) for trial in recorded(whole)]


def test_an_interrupt_ends_the_search_and_the_same_command_continues_it(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    tuner = start_tuner(tmp_path, KL, "n_trials=3", "workers=1", HOLD=str(gate))
    wait_for(lambda: starts(tmp_path, 0) == 1)
    os.kill(tuner.pid, signal.SIGINT)
    _, err = tuner.communicate(timeout=60)
    assert tuner.returncode == 130 and "the same command continues it" in err and "Traceback" not in err
    assert [trial.state for trial in recorded(tmp_path)] == [TrialState.RUNNING]
    gate.unlink()
    assert run_tuner(tmp_path, KL, "n_trials=3", "workers=1").returncode == 0
    assert [trial.state for trial in recorded(tmp_path)] == [HELD] * 3 and starts(tmp_path, 0) == 2


def test_a_trial_of_several_seeds_is_judged_by_their_mean_and_gold_kl_keeps_the_front(tmp_path):
    result = run_tuner(tmp_path, KL, "seeds=range(2)", "objective=gold_kl", "n_trials=4", "workers=2", "study=front")
    assert result.returncode == 0, result.stderr
    trials = recorded(tmp_path, "front")
    for trial in trials:
        coefficient = trial.params["ppo.kl_coef"]
        mean = (gold(coefficient, 0.2, 0) + gold(coefficient, 0.2, 1)) / 2
        assert trial.values == pytest.approx([mean, 1 / coefficient])
        assert [starts(tmp_path, trial.number, seed, "front") for seed in (0, 1)] == [1, 1]
    front = [t for t in trials if not any(o.values[0] > t.values[0] and o.values[1] < t.values[1] for o in trials)]
    named = [int(line.split(",")[0].split()[-1]) for line in result.stdout.splitlines() if line.startswith("best: ")]
    assert named == [trial.number for trial in sorted(front, key=lambda trial: -trial.values[0])]
    assert "KL PED-ANOVA" in result.stdout


def test_settings_that_contradict_each_other_fail_their_trial_alone_and_no_run_starts(tmp_path):
    space = ("ppo.reward_norm=true,false", "ppo.reward_scaling=true,false")
    assert run_tuner(tmp_path, *space, "n_trials=8", "workers=2").returncode == 0
    trials = recorded(tmp_path)
    refused = [trial for trial in trials if trial.params == {"ppo.reward_norm": "true", "ppo.reward_scaling": "true"}]
    assert 0 < len(refused) < 8
    for trial in trials:
        assert (trial.state is FAILED, starts(tmp_path, trial.number)) == ((True, 0) if trial in refused else (False, 1))
    assert "refused: ppo.reward_norm and ppo.reward_scaling" in refused[0].user_attrs["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo.kl_coeff=interval(0,1)"], "error: ppo.kl_coeff is not a setting: did you mean ppo.kl_coef?"),
        ([KL, "ppo.updates=0"], "error: ppo.updates=0 is too small: the least value is 1"),
        ([KL, "storage=mysqql://x/y"], "error: storage=mysqql://x/y cannot be used"),
        ([KL, "study=torn"], "error: results/torn/optuna.journal is not readable"),
    ],
)
def test_the_user_is_told_one_sentence_where_no_search_can_start(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "torn").mkdir(parents=True)
    (tmp_path / "results" / "torn" / "optuna.journal").write_text('{"op_code": 0, "wor\n{"op_code"\n{}\n')
    said = refusal(*arguments)
    assert said.startswith(words) and "\n" not in said


def test_help_shows_the_grammar_the_options_and_every_search(capsys):
    main(["--help"], task="", prepare=None, preload=())
    said = capsys.readouterr().out
    for part in ("tag(log, interval(0.01, 1))", "n_trials=", "workers=", "seeds=", "objective=", "storage=", "tune_ppo_max", "tune_tricks"):
        assert part in said


def test_real_runs_are_tuned_and_left_as_ordinary_run_folders(tiny_overrides, tmp_path):
    tiny = [override for override in tiny_overrides if not override.startswith(("arm=", "results="))]
    command = [*tiny, "ppo.kl_coef=interval(0.05,0.5)", "ppo.critic_init=reward,sft", "n_trials=3", "workers=2"]
    result = run_tuner(tmp_path, *command, module="ablate.tune")
    assert result.returncode == 0, result.stderr
    for trial in recorded(tmp_path):
        folder = tmp_path / "results" / "tune" / f"trial={trial.number}" / "seed=0"
        summary, config = json.loads((folder / "summary.json").read_text()), (folder / "config.yaml").read_text()
        assert summary["arm"] == f"trial={trial.number}" and f"kl_coef: {trial.params['ppo.kl_coef']}" in config and "stop: true" in config
        assert trial.state is (PRUNED if summary["collapsed"] else HELD)
        assert trial.user_attrs["gold"] == summary["final"]["eval/gold"] and trial.user_attrs["kl"] == summary["final"]["eval/kl_to_sft"]
        assert sorted(trial.intermediate_values) == [0, 2, 4]
    assert "3 trials of tune" in result.stdout


def planted_trials(count: int, *, kl: bool = False) -> list[optuna.trial.FrozenTrial]:
    """Trials that the sampler asked for and the planted function answered, through ask and tell."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    space = {"ppo.kl_coef": optuna.distributions.FloatDistribution(0.01, 1, log=True)}
    space["ppo.clip_range"] = optuna.distributions.FloatDistribution(0.1, 0.4)
    for _ in range(count):
        trial = study.ask(space)
        study.tell(trial, gold(trial.params["ppo.kl_coef"], trial.params["ppo.clip_range"]))
    held = study.trials
    return [create_trial(params=t.params, distributions=space, values=[t.value, -t.params["ppo.clip_range"]]) for t in held] if kl else held


def test_ped_anova_finds_the_setting_that_matters_for_each_objective():
    columns = importances(planted_trials(80, kl=True))
    assert columns["gold PED-ANOVA"]["ppo.kl_coef"] > 0.8 and columns["KL PED-ANOVA"]["ppo.clip_range"] > 0.8
    assert all(sum(column.values()) == pytest.approx(1) for column in columns.values())


def test_fanova_agrees_where_scikit_learn_is_installed():
    pytest.importorskip("sklearn")
    columns = importances(planted_trials(80))
    assert list(columns) == ["gold PED-ANOVA", "gold fANOVA"] and columns["gold fANOVA"]["ppo.kl_coef"] > 0.8
    assert NO_FANOVA not in importance_table(planted_trials(20))


def test_without_scikit_learn_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    table = importance_table(planted_trials(20))
    assert table[-1] == NO_FANOVA == "fANOVA needs scikit-learn: pip install 'ppo-ablation[tune]', and run the same command again"
    assert "fANOVA" not in table[1] and "these are hints" in table[0] and "hints" not in importance_table(planted_trials(50))[0]


def test_importance_of_one_trial_or_of_equal_ones_is_not_made_up():
    one = planted_trials(1)
    for held in (one, one * 5):
        assert importance_table(held) == ["importance: at least two trials must hold, and differ in what they reach"]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["completed", "completed"], "held"), (["completed!", "waiting"], "collapsed"), (["completed!", "diverged"], "diverged"),
        (["diverged", "failed"], "failed"), (["completed!", "interrupted"], "collapsed"),
    ],
)  # fmt: skip
def test_the_worst_seed_decides_for_its_trial(states, said, tmp_path):
    jobs = []
    for seed, state in enumerate(states):
        (tmp_path / str(seed)).mkdir()
        final = {"eval/gold": float(seed), "eval/kl_to_sft": 2.0}
        (tmp_path / str(seed) / "summary.json").write_text(json.dumps({"status": "completed", "final": final}))
        jobs.append(Job(Config(seed=seed), tmp_path / str(seed), state=state.rstrip("!"), collapsed=state.endswith("!")))
    assert outcome(jobs).status == said
    assert outcome(jobs).gold == pytest.approx(0.5 if states[1] in ("completed", "diverged") else 0.0)
