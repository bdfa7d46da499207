"""What a command line asks the tuner for, by hand cases; what is refused, and in which words."""

from __future__ import annotations

import pytest
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution as Floats
from optuna.distributions import IntDistribution as Whole

from ablate.config import Config
from ablate.errors import UserError
from ablate.settings import groups
from ablate.settings.groups import sweep_names
from ablate.sweeps.__main__ import listing
from ablate.sweeps.study import check_sweep_choice
from ablate.tune import __main__ as tune
from ablate.tune import space as tune_space
from ablate.tune.space import OBJECTIVES, load_search, read_search, search_names

ANY = "ppo.kl_coef=interval(0.01,1)"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ppo.kl_coef=interval(0.01,1)", Floats(0.01, 1)),
        ("ppo.kl_coef=tag(log, interval(0.01, 1))", Floats(0.01, 1, log=True)),
        ("ppo.kl_target=interval(1,10)", Floats(1, 10)),
        ("ppo.reward_clip=interval(1,5)", Floats(1, 5)),
        ("ppo.epochs=interval(1,4)", Whole(1, 4)),
        ("ppo.updates=tag(log, interval(10,1000))", Whole(10, 1000, log=True)),
        ("ppo.epochs=range(1,5)", Whole(1, 4)),
        ("ppo.updates=range(20,101,20)", Whole(20, 100, step=20)),
        ("ppo.updates=range(100,19,-20)", Whole(20, 100, step=20)),
        ("ppo.epochs=tag(log, range(1,9))", Whole(1, 8, log=True)),
        ("ppo.gae_lambda=range(0.5,1,0.25)", Floats(0.5, 0.75, step=0.25)),
        ("ppo.kl_penalty=true,false", Choice(["true", "false"])),
        ("ppo.critic_init=choice(reward,sft)", Choice(["reward", "sft"])),
        ("ppo.reward_clip=3,null", Choice(["3", "null"])),
        ("ppo.gae_lambda=0.9,0.95,0.9", Choice(["0.9", "0.95"])),
        ("ppo.adam_betas=[0.9,0.95],[0.9,0.99]", Choice(["[0.9,0.95]", "[0.9,0.99]"])),
        ("ppo=vanilla,ppo_max", Choice(["vanilla", "ppo_max"])),
        ("preferences.noise=interval(0,1)", Floats(0, 1)),
    ],
)
def test_hydras_sweeps_become_distributions(override, expected):
    assert read_search([override]).space == {override.partition("=")[0]: expected}


def test_plain_values_are_fixed_and_a_collapsed_run_stops_unless_told_otherwise():
    search = read_search([ANY, "ppo.updates=30", "study=s"])
    assert search.fixed == ("collapse.stop=true", "study=s", "ppo.updates=30")
    assert read_search([ANY, "collapse.stop=false"]).fixed == ("collapse.stop=false", "study=tune")


def test_options_and_seeds_are_read_and_have_defaults():
    plain = read_search([ANY])
    assert (plain.n_trials, plain.workers, plain.seeds, plain.objective, plain.storage) == (50, None, (0,), "gold", None)
    url = "postgresql+psycopg2://me@/db?host=/run/pg"
    full = read_search([ANY, "n_trials=7", "workers=3", "seeds=range(1,3)", "objective=gold_kl", f"storage={url}"])
    assert (full.n_trials, full.workers, full.seeds, full.objective, full.storage) == (7, 3, (1, 2), "gold_kl", url)
    assert read_search([ANY, "seed=4"]).seeds == (4,) and read_search([ANY, "seeds=3,5"]).seeds == (3, 5)


def test_the_users_overrides_win_over_a_search_in_sweeps():
    plain = read_search(["sweep=tune_ppo_max"])
    assert "study=tune_ppo_max" in plain.fixed and plain.n_trials == 60 and plain.space["ppo.clip_range"] == Floats(0.05, 0.5, log=True)
    mine = read_search(["sweep=tune_ppo_max", "ppo.clip_range=0.3", "ppo.kl_coef=0.1,0.2", "n_trials=5", "study=s"])
    assert "ppo.clip_range" not in mine.space and "ppo.clip_range=0.3" in mine.fixed and "study=s" in mine.fixed
    assert mine.space["ppo.kl_coef"] == Choice(["0.1", "0.2"]) and mine.n_trials == 5


@pytest.mark.parametrize("name", search_names())
def test_a_search_is_read_and_has_valid_points(name):
    question, _ = load_search(name)
    search = read_search([f"sweep={name}"])
    assert question.endswith("?") and len(search.space) >= 2 and search.objective in OBJECTIVES
    ConfigStore.instance().store(name="schema", node=Config, provider="ablate")
    with initialize_config_dir(version_base="1.3", config_dir=str(tune_space.sweep_folder().parent / "ablate" / "conf")):
        tune.check_some_trial(search)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo.kl_coeff=interval(0,1)"], r"ppo\.kl_coeff is not a setting: did you mean ppo\.kl_coef\?"),
        (["n_trial=3", ANY], r"n_trial is not a setting: did you mean n_trials\?"),
        ([], "nothing is left to search"),
        (["sweep=tune_ppo_max", *(f"{key}=1" for key in read_search(["sweep=tune_ppo_max"]).space)], "nothing is left to search"),
        (["ppo.kl_coef=interval(1,0.1)"], "the lower end of an interval comes first"),
        (["ppo.kl_coef=tag(log, interval(0,1))"], "a logarithmic scale starts above 0"),
        (["ppo.kl_coef=tag(sci, interval(0,1))"], "sci is not a tag; the only one is log"),
        (["ppo.updates=interval(1.5,3)"], "takes whole numbers"),
        (["ppo.kl_penalty=interval(0,1)"], "is not a number; write its choices"),
        (["ppo.gae_lambda=interval(0.5,2)"], r"ppo\.gae_lambda=2\.0 is too large: the greatest value is 1"),
        (["ppo.updates=range(0,3)"], r"ppo\.updates=0 is too small"),
        (["ppo.updates=range(3,3)"], "holds no value"),
        (["ppo.updates=tag(log, range(1,9,2))"], "has steps of 1"),
        (["ppo.kl_coef=tag(log, choice(0.1,1))"], "choices have no scale"),
        (["ppo.critic_init=reward,sfd"], r"ppo\.critic_init=sfd is not one of reward, sft, random"),
        (["ppo.kl_coef=a,b"], r"correct the value of ppo\.kl_coef"),
        (["ppo=vanilla,ppo_may"], r"ppo=ppo_may is not a preset: did you mean ppo_max\?"),
        (["ppo.kl_coef=interval(0"], "is not an override"),
        (["seed=range(3)"], r"write seeds=range\(3\)"),
        ([ANY, "seed=1", "seeds=2"], "leave one out"),
        (["tracker=wandb,none"], "so there is nothing to search"),
        ([ANY, "study=a,b"], "study changes none of a run's numbers"),
        ([ANY, "arm=a"], "leave arm out"),
        ([ANY, "n_trials=0"], "n_trials=0 is not a whole number of at least 1"),
        ([ANY, "n_trials=2,3"], "must be one whole number"),
        ([ANY, "seeds=x"], "seeds=x is not a whole number of at least 0 or range"),
        ([ANY, "objective=kl"], "objective=kl is not one of gold, gold_kl"),
        ([ANY, "storage=sqlite:///t.db"], "SQLite does not bear several workers"),
        (["-m", ANY], "-m is not an option of ablate.tune"),
        (["+ppo.kl_coef=1"], "is not an override"),
        (["sweep=tune_ppo"], r"is not a search: did you mean tune_ppo_max\?"),
        (["sweep=vanilla"], "is a study: run python -m ablate.run -m sweep=vanilla"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        read_search(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["question: a?\n", "question: a?\noverrides: []\narms: {}\n", "- a\n"])
def test_a_search_of_another_form_is_refused(content, tmp_path, monkeypatch):
    (tmp_path / "tune_odd.yaml").write_text(content)
    for module in (groups, tune_space):
        monkeypatch.setattr(module, "sweep_folder", lambda: tmp_path)
    with pytest.raises(UserError, match=r"sweeps/tune_odd\.yaml must hold question and overrides"):
        load_search("tune_odd")


def test_ablate_run_sends_a_search_to_the_tuner_and_the_list_of_studies_leaves_it_out(tmp_path):
    for multirun in (False, True):
        with pytest.raises(UserError, match=r"is a search, not a study: run python -m ablate\.tune sweep=tune_ppo_max"):
            check_sweep_choice(["sweep=tune_ppo_max"], multirun)
    assert "tune_ppo_max" in sweep_names() and "tune_" not in listing(tmp_path, at_a_time=1)
