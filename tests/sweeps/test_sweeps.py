"""Every study file composes; how studies and choices are expanded, merged and refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from sweep_bench import run_sweep

import ablate
from ablate.config import Config, PPOConfig
from ablate.errors import UserError
from ablate.settings import groups
from ablate.settings.groups import sweep_folder, sweep_names
from ablate.settings.identity import config_hash
from ablate.settings.overrides import spelled_values
from ablate.sweeps import study as sweeps_study
from ablate.sweeps.__main__ import listing, main
from ablate.sweeps.expand import distinct, expand, pipeline_key, refuse_invalid
from ablate.sweeps.speed import plan
from ablate.sweeps.study import Study, check_sweep_choice, load_study, register

STUDY = Study(
    name="study", question="?", figure="0", claim="!", base=("ppo=vanilla", "ppo.updates=5"),
    arms={"plain": (), "kl": ("ppo.kl_penalty=true",)}, grid={"ppo.gamma": (1, 0.9), "ppo.reward_clip": (None,)},
)  # fmt: skip
ISSUE = """rm_training vanilla score_reparameterisation policy_constraints initialisation ppo_max_long kl_coef joint_clipping entropy_clip
surrogate_clip grad_clip gae_lambda buffer_size ptx win_rate add_one_in leave_one_out five_factors rm_quality sampler_mismatch kl_frontier
bug_arms""".split()


def compose_all(jobs) -> list[Config]:
    ConfigStore.instance().store(name="schema", node=Config, provider="ablate")
    with initialize_config_dir(version_base="1.3", config_dir=str(Path(ablate.__file__).parent / "conf")):
        return [OmegaConf.to_object(compose("config", overrides=list(job))) for job in jobs]


def test_every_study_of_the_list_is_there():
    assert set(ISSUE) <= set(sweep_names())


@pytest.mark.parametrize("name", [name for name in sweep_names() if not name.startswith("tune")])
def test_a_study_is_short_and_its_arms_compose_validate_and_differ(name):
    assert len((sweep_folder() / f"{name}.yaml").read_text().splitlines()) <= 40
    # at seed 0 an arm whose pipeline_seed is the seed equals an arm whose pipeline_seed is 0
    configs = compose_all(expand(load_study(name), {"seed": ["seed=1"]}, "ppo_max"))
    refuse_invalid(configs)
    assert distinct(configs) == (list(range(len(configs))), [])
    assert {config.study for config in configs} == {name}
    assert len({config.arm for config in configs}) == len(configs)


def test_policy_constraints_are_figure_7s_arms_on_vanilla():
    vanilla, kl, entropy, sampling, both = compose_all(expand(load_study("policy_constraints"), {}, "ppo_max"))
    base = vanilla.ppo
    assert not (base.kl_penalty or base.entropy_bonus or base.reward_norm or base.advantage_norm or base.value_clip or base.grad_clip)
    assert kl.ppo == replace(base, kl_penalty=True, kl_coef=0.05)
    assert entropy.ppo == replace(base, entropy_bonus=True, entropy_coef=0.01)
    assert sampling.ppo == replace(base, importance_sampling="reference")
    assert both.ppo == replace(base, kl_penalty=True, kl_coef=0.05, importance_sampling="reference")


def test_leave_one_out_switches_each_trick_of_ppo_max_off_alone():
    base, *others = (config.ppo for config in compose_all(expand(load_study("leave_one_out"), {}, "ppo_max")))
    changed = [{key for key in vars(base) if getattr(base, key) != getattr(ppo, key)} for ppo in others]
    assert all(len(keys) == 1 for keys in changed)
    switched_on = {key for key, value in vars(base).items() if value is True}
    assert set.union(*changed) == switched_on | {"reward_clip", "critic_init"}


def test_buffer_sizes_take_equal_gradient_steps():
    configs = [config.ppo for config in compose_all(expand(load_study("buffer_size"), {}, "ppo_max"))]
    assert {ppo.updates * ppo.batch_size // ppo.minibatch_size * ppo.epochs for ppo in configs} == {600}


def test_five_factors_is_the_full_factorial():
    jobs = expand(load_study("five_factors"), {}, "ppo_max")
    keys = ("ppo.reward_scaling", "ppo.kl_penalty", "ppo.gae_lambda", "ppo.critic_init", "ppo.entropy_bonus")
    assert {tuple(override.split("=")[0] for override in job[1:6]) for job in jobs} == {keys}
    assert len({job[1:6] for job in jobs}) == len(jobs) == 32


def test_studies_of_the_reward_model_move_the_pipeline_with_the_seed():
    jobs = expand(load_study("rm_quality"), {"seed": ["seed=3"]}, "ppo_max")
    assert {(config.seed, config.pipeline_seed) for config in compose_all(jobs[:2])} == {(3, 3)}


def test_a_study_expands_to_base_arm_grid_and_the_users_choices():
    jobs = expand(STUDY, {"seed": ["seed=0", "seed=1"]}, "ppo_max")
    base, rest = ("ppo=vanilla", "ppo.updates=5"), ("ppo.reward_clip=null", "seed=0", "study=study")
    assert jobs[:3] == [
        (*base, "ppo.gamma=1", *rest, "arm='plain,gamma=1,reward_clip=null'"),
        (*base, "ppo.gamma=0.9", *rest, "arm='plain,gamma=0.9,reward_clip=null'"),
        (*base, "ppo.kl_penalty=true", "ppo.gamma=1", *rest, "arm='kl,gamma=1,reward_clip=null'"),
    ]
    assert len(jobs) == 8 and [job[-3] for job in jobs[::4]] == ["seed=0", "seed=1"]


def test_the_users_overrides_win_over_base_arm_and_grid():
    mine = {
        "ppo.updates": ["ppo.updates=7"],
        "ppo.kl_penalty": ["ppo.kl_penalty=false"],
        "ppo.gamma": ["ppo.gamma=0.5"],
        "study": ["study=s"],
    }
    jobs = expand(STUDY, mine, "ppo_max")
    assert jobs[1] == (
        "ppo=vanilla", "ppo.updates=7", "ppo.kl_penalty=false", "ppo.reward_clip=null", "ppo.gamma=0.5", "study=s",
        "arm='kl,gamma=0.5,kl_penalty=false,reward_clip=null,updates=7'",
    )  # fmt: skip
    assert len(jobs) == 2


def test_plain_choices_expand_as_hydras_basic_sweeper_does():
    choices = {"ppo.kl_penalty": ["ppo.kl_penalty=true", "ppo.kl_penalty=false"], "seed": ["seed=0", "seed=1"]}
    assert [job[:2] for job in expand(None, choices, "ppo_max")] == [
        ("ppo.kl_penalty=true", "seed=0"), ("ppo.kl_penalty=true", "seed=1"),
        ("ppo.kl_penalty=false", "seed=0"), ("ppo.kl_penalty=false", "seed=1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "spelled", "meant"),
    [
        ("a=True,FALSE", ["true", "false"], [True, False]),
        ("a=null,1.0,1e-6", ["null", "1.0", "1e-06"], [None, 1.0, 1e-6]),
        ("a='True',b", ["'True'", "b"], ["True", "b"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"], [[1, 2], [3]]),
        ("a=range(3)", ["0", "1", "2"], [0, 1, 2]),
        ("a=choice(x,true)", ["x", "true"], ["x", True]),
    ],
)
def test_the_values_of_a_sweep_are_spelled_so_that_hydra_reads_them_again(argument, spelled, meant):
    parser = OverridesParser.create()
    assert spelled_values(parser.parse_override(argument)) == spelled
    assert [parser.parse_override(f"a={value}").value() for value in spelled] == meant


def arm(name: str, seed: int = 0, **ppo) -> Config:
    return Config(arm=name, seed=seed, ppo=PPOConfig(**ppo))


def test_arms_that_are_one_run_are_kept_once_and_named():
    off = [arm("a", kl_penalty=False, kl_coef=0.1), arm("b", kl_penalty=False, kl_coef=0.2), arm("c")]
    assert config_hash(off[0]) == config_hash(off[1])
    seeds = [*off, *(replace(config, seed=1) for config in off)]
    assert distinct(seeds) == (
        [0, 2, 3, 5],
        ["b is a under these settings, since ppo.kl_coef acts only with ppo.kl_penalty=true: run once"],
    )


def test_two_different_runs_never_share_a_folder():
    with pytest.raises(UserError, match="arm=a seed=0"):
        distinct([arm("a", updates=1), arm("a", updates=2)])


def test_all_invalid_arms_are_named_at_once():
    with pytest.raises(UserError) as caught:
        refuse_invalid([arm("fine"), arm("low", kl_coef=-1.0), arm("both", reward_norm=True, reward_scaling=True)])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "nothing was started, because of these arms",
        "  low",
        "  both",
    ]


def test_runs_share_stages_unless_a_setting_of_the_stages_differs():
    base, other = Config(), Config(seed=5, arm="x", ppo=PPOConfig(updates=3))
    assert pipeline_key(base) == pipeline_key(other) != pipeline_key(Config(pipeline_seed=1))


def test_a_mistyped_study_is_told_the_nearest_and_all_names():
    with pytest.raises(UserError, match=r"did you mean vanilla\? The studies are add_one_in, .*win_rate"):
        check_sweep_choice(["seed=1", "sweep=vanila"], multirun=True)


def test_a_study_without_m_is_refused_and_with_it_accepted():
    with pytest.raises(UserError, match="sweep=vanilla is a study of several arms: add -m"):
        check_sweep_choice(["sweep=vanilla"], multirun=False)
    check_sweep_choice(["sweep=vanilla,kl_coef", "seed=1"], multirun=True)
    check_sweep_choice(["sweep=null"], multirun=False)


def test_studies_are_found_beside_the_checkout_and_inside_an_installed_package(tmp_path, monkeypatch):
    assert sweep_folder() == Path(ablate.__file__).parents[1] / "sweeps"
    (tmp_path / "ablate" / "sweep_files").mkdir(parents=True)
    monkeypatch.setattr(groups, "PACKAGE", tmp_path / "ablate")
    assert sweep_folder() == tmp_path / "ablate" / "sweep_files"


def test_the_study_folder_is_no_package():
    assert not (sweep_folder() / "__init__.py").exists()


BROKEN = {
    "figure: b\nclaim: c\n": "lacks the key question: add what the study asks",
    "question: a\narm: {}\n": "has the unknown key arm: it may hold question, figure, claim, base, arms, grid",
    "question: a\nbase: ppo=vanilla\n": ": base must be a list of overrides, arms and grid mappings to lists",
    "question: a\narms: [a, b]\n": ": base must be a list of overrides",
    "question: a\ngrid: {ppo.gamma: 1}\n": r": ppo.gamma must be a list: write \[1\]",
    "question: [a\n": r"is not readable \(while parsing a flow sequence\): correct or remove it",
    "- question\n": "is no mapping of keys",
    "": "is no mapping of keys",
}


@pytest.fixture
def study_files(tmp_path, monkeypatch):
    for module in (groups, sweeps_study):
        monkeypatch.setattr(module, "sweep_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("content", BROKEN)
def test_a_study_of_another_form_is_refused_and_disturbs_no_other(content, study_files):
    (study_files / "odd.yaml").write_text(content)
    (study_files / "plain.yaml").write_text("question: does it hold?\narms: {a: , b: [ppo=vanilla]}\n")
    with pytest.raises(UserError, match=r"^sweeps/odd\.yaml ?" + BROKEN[content]) as caught:
        load_study("odd")
    register()
    lines = listing(study_files / "results", at_a_time=1).splitlines()
    assert lines[:3] == [f"odd  ({caught.value})", "plain  (2 runs per seed, about 73 s per seed)", "    does it hold?"]
    assert load_study("plain") == Study("plain", "does it hold?", "", "", arms={"a": (), "b": ("ppo=vanilla",)})


def test_the_list_estimates_time_from_measured_speed_and_before_that_says_what_it_assumes(tmp_path):
    unmeasured = listing(tmp_path, at_a_time=2).splitlines()
    assert "vanilla  (Fig. 4, 13; 1 runs per seed, about 37 s per seed)" in unmeasured  # 100 × 128 responses at 350 per second
    assert f"no run in {tmp_path} is complete, so these times assume 350 responses per second" in unmeasured[-1]
    known = {"hash": "", "identity": {}, "data": {"source": "world"}, "ppo": {"batch_size": 64}}
    for seed, wall in enumerate((40, 20, 2)):
        folder = tmp_path / "study" / "arm" / f"seed={seed}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(json.dumps(known))
        (folder / "summary.json").write_text(json.dumps({"status": "completed", "updates": 20, "wall_seconds": wall}))
    lines = listing(tmp_path, at_a_time=2).splitlines()
    assert "vanilla  (Fig. 4, 13; 1 runs per seed, about 3 min per seed)" in lines  # one run of 100 × 128 responses, 20 × 64 in 20 s
    assert "kl_coef  (Fig. 15; 3 runs per seed, about 5 min per seed)" in lines  # three such runs, two at a time
    (folder / "config.yaml").write_text(json.dumps(known | {"data": {"source": "hh_rlhf"}}))
    assert "vanilla  (Fig. 4, 13; 1 runs per seed, about 4 min per seed)" in listing(tmp_path, at_a_time=2)  # median of 32 and 64: 48
    assert lines[-1].startswith("all on the world: ") and lines[-1].endswith(" for 8 seeds")


@pytest.mark.parametrize(("arguments", "beginning"), [(["--help"], "usage: python -m ablate.sweeps "), ([], "add_one_in  (")])
def test_the_list_of_studies_is_a_command_with_a_help(arguments, beginning, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):
        main(arguments)
    assert capsys.readouterr().out.startswith(beginning)


@pytest.mark.parametrize(("path", "remedy"), [("vanilla", "python -m ablate.run -m sweep=vanilla"), ("nowhere", "is no folder")])
def test_the_list_of_studies_refuses_what_is_no_folder_of_runs(path, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=remedy):
        main([path])


def test_a_sweep_says_first_what_it_will_do_and_a_damaged_run_keeps_it_from_nothing(tmp_path):
    configs = [replace(arm("a", seed), results=str(tmp_path), jobs=2) for seed in range(3)]
    where = f"results in {tmp_path / configs[0].study}"
    guess = "about 55 s after the shared stages (a guess, no run is measured yet)"
    assert plan(configs, configs) == f"{configs[0].study}: 1 arm × 3 seeds = 3 runs, 2 at a time, {guess}, {where}"
    assert plan(configs, configs[:1]).startswith(f"{configs[0].study}: 1 arm × 3 seeds = 3 runs, 1 to do, 1 at a time, about 37 s")
    assert plan(configs, []) == f"{configs[0].study}: 1 arm × 3 seeds = 3 runs, all of them done, {where}"
    damaged = tmp_path / "study" / "arm" / "seed=0"
    damaged.mkdir(parents=True)
    (damaged / "summary.json").write_text("{}")
    assert plan(configs, configs).endswith(f"{guess}, {where}")


def test_a_sweep_tells_of_equal_arms_and_runs_them_once(tmp_path):
    result = run_sweep(tmp_path, "sweep=kl_coef", "ppo.kl_penalty=false", "seed=0,8")
    same = "is kl_0.05,kl_penalty=false under these settings, since ppo.kl_coef acts only with ppo.kl_penalty=true: run once"
    assert result.returncode == 0
    assert result.stdout.splitlines()[:2] == [f"kl_0.1,kl_penalty=false {same}", f"kl_0.2,kl_penalty=false {same}"]
    assert [path.name for path in (tmp_path / "results" / "kl_coef").iterdir()] == ["kl_0.05,kl_penalty=false"]


def test_nothing_starts_when_one_arm_is_invalid(tmp_path):
    result = run_sweep(tmp_path, "sweep=kl_frontier", "ppo.kl_coef=0")
    assert result.returncode == 1 and result.stderr.count("ppo.kl_coef=0 does nothing") == 6
    assert "Traceback" not in result.stderr and list(tmp_path.iterdir()) == []


def test_two_studies_run_side_by_side(tmp_path):
    result = run_sweep(tmp_path, "sweep=vanilla,kl_coef", "seed=0")
    assert result.returncode == 0
    assert sorted(str(path.relative_to(tmp_path / "results")) for path in (tmp_path / "results").glob("*/*")) == [
        "kl_coef/kl_0.05", "kl_coef/kl_0.1", "kl_coef/kl_0.2", "vanilla/vanilla",
    ]  # fmt: skip
