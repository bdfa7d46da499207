"""What is refused, and which settings decide what a run is."""

import ast
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import run_folder
from ablate.runs.store import RunStore
from ablate.settings import validation
from ablate.settings.identity import HUMAN_ONLY, config_hash, identity, inert
from ablate.settings.validation import validate


def setting(config: Config, name: str, value: object) -> Config:
    """`config` with one setting changed in place, by its dotted name."""
    *path, last = name.split(".")
    node = config
    for part in path:
        node = getattr(node, part)
    setattr(node, last, value)
    return config


def settings(node: object = None, prefix: str = "") -> list[tuple[str, object, typing.Any]]:
    """(dotted name, field, its type) of every setting."""
    node, found = Config() if node is None else node, []
    hints = typing.get_type_hints(type(node))
    for f in fields(node):
        value = getattr(node, f.name)
        found += settings(value, f"{prefix}{f.name}.") if is_dataclass(value) else [(prefix + f.name, f, hints[f.name])]
    return found


MISMATCH = {"sampling.match_training_distribution": False}
HUMAN = {"data.source": "jsonl", "data.path": "x"}
STALE = {"sampling.staleness": 1}
WARM = {"reward_model.ensemble": 3, "reward_model.ensemble_varies": "order", "reward_model.average": True}
REFUSALS = {
    "norm and scaling": ({"ppo.reward_norm": True, "ppo.reward_scaling": True}, "set ppo.reward_norm=false"),
    "adaptive KL without KL": ({"ppo.kl_penalty": False, "ppo.kl_adaptive": True}, "set ppo.kl_penalty=true"),
    "entropy clip without bonus": ({"ppo.entropy_clip": 1.0}, "set ppo.entropy_bonus=true or ppo.entropy_clip=null"),
    "moss without threshold": ({"ppo.entropy_bonus": True, "ppo.entropy_clip_form": "moss"}, "set ppo.entropy_clip"),
    "bootstrap and missing end": ({"ppo.bootstrap_truncated": True, "ppo.missing_eos_penalty": 1.0}, "switch one off"),
    "KL of nothing": ({"ppo.kl_coef": 0.0}, "set ppo.kl_penalty=false"),
    "bonus of nothing": ({"ppo.entropy_bonus": True, "ppo.entropy_coef": 0.0}, "set ppo.entropy_bonus=false"),
    "policy KL of nothing": ({"ppo.policy_kl": True, "ppo.policy_kl_coef": 0.0}, "set ppo.policy_kl=false"),
    "ptx of nothing": ({"ppo.ptx": True, "ppo.ptx_coef": 0.0}, "set ppo.ptx=false"),
    "no pre-training updates": ({"ppo.critic_pretrain_updates": 0}, "set ppo.critic_pretrain=false"),
    "batch and minibatch": ({"ppo.batch_size": 100}, "ppo.batch_size=100 is not a multiple of ppo.minibatch_size=32"),
    "no tracker": ({"tracker": None}, "set tracker=none"),
    "none and a tracker": ({"tracker": ["none", "wandb"]}, "leave none out"),
    "a tracker twice": ({"tracker": ["wandb", "wandb"]}, "names wandb twice: leave one out"),
    "one beta": ({"ppo.adam_betas": [0.9]}, "ppo.adam_betas"),
    "a beta of one": ({"ppo.adam_betas": [0.9, 1.0]}, "ppo.adam_betas"),
    "top-p alone": ({"sampling.top_p": 0.9}, "set sampling.match_training_distribution=false .* or sampling.top_p=1"),
    "penalty alone": ({"sampling.repetition_penalty": 1.1}, "or sampling.repetition_penalty=1"),
    "a mismatch of nothing": (MISMATCH, "sampling.match_training_distribution=false changes nothing"),
    "nested norm without norm": ({"bugs.nested_reward_norm": True, "ppo.reward_norm": False}, "set ppo.reward_norm=true"),
    "wrong sign without KL": ({"bugs.kl_wrong_sign": True, "ppo.kl_penalty": False}, "set ppo.kl_penalty=true"),
    "whitening bug without norm": ({"bugs.unmasked_whitening": True, "ppo.advantage_norm": False}, "set ppo.advantage_norm=true"),
    "odd head width": ({"model.hidden_size": 60}, "model.hidden_size=60 must be a multiple of 2 × model.heads=4"),
    "a path of human data for the world": ({"data.path": "x"}, r"data.path=x is not read by data.source=world"),
    "a gold model for the world": ({"gold.path": "x"}, r"gold.path judges human data"),
    "half of the world's pairs": ({"preferences.half": "first"}, r"preferences.half divides human pairs"),
    "human data without a path": ({"data.source": "hh_rlhf"}, r"data.source=hh_rlhf needs its file, folder or name: set data.path"),
    "label noise on human pairs": ({**HUMAN, "preferences.noise": 1.0}, r"human pairs come labelled: use preferences=default"),
    "a verdict on gold without gold": ({**HUMAN, "collapse.by": "gold"}, r"collapse.by=gold needs a gold reward.* set gold.path, or"),
    "an adapter's amount without adapters": ({"model.lora_alpha": 8.0}, "model.lora_alpha and model.lora_targets .* set model.lora_rank"),
    "an adapter nowhere": ({"model.lora_rank": 8, "model.lora_targets": []}, "model.lora_targets is empty"),
    "an adapter over another policy": ({"model.lora_rank": 8, "ppo.policy_init": "pretrained"}, "set ppo.policy_init=sft or"),
    "an adapter over noise": ({"model.lora_rank": 8, "ppo.critic_init": "random"}, "set ppo.critic_init=reward or sft"),
    "an adapter over rounded weights": ({"model.lora_rank": 8, "model.frozen_dtype": "bf16"}, "set model.frozen_dtype=fp32 or"),
    "offload of what is shared": ({"model.lora_rank": 8, "offload": True}, "offload has nothing to move, .*: set offload=false"),
    "a study elsewhere": ({"study": "../x"}, "study=../x is not the name of one folder: leave out separators"),
    "an arm of several folders": ({"arm": "a/b"}, "arm=a/b is not the name of one folder"),
    "a path too long for any file": ({"results": "x" * 10_000}, "results=x{59}… is too long for a path"),
    "a clip of another unit": (
        {"ppo.loss_aggregation": "constant", "ppo.entropy_bonus": True, "ppo.entropy_clip": 1.0},
        "gives the bonus another unit: set one",
    ),
    "a filter and a cost of what it leaves out": (
        {"ppo.overlong_filter": True, "ppo.missing_eos_penalty": 1.0},
        "would charge: switch one",
    ),
    "a filter and values of what it leaves out": (
        {"ppo.overlong_filter": True, "ppo.bootstrap_truncated": True},
        "would learn: switch one",
    ),
    "KL loss of nothing": ({"ppo.kl_loss": True, "ppo.kl_loss_coef": 0.0}, "set ppo.kl_loss=false"),
    "a clamp of no KL loss": ({"bugs.kl_loss_clamped": True, "ppo.kl_loss": True}, "set ppo.kl_loss=true ppo.kl_loss_estimator=k3"),
    "a mean of no value loss": (
        {"bugs.micro_batch_mean": True, "ppo.micro_batch_size": 4, "ppo.advantage_estimator": "reinforce"},
        "has no critic: leave it out",
    ),
    "a mean of one micro-batch": ({"bugs.micro_batch_mean": True}, "lower ppo.micro_batch_size"),
    "offload of a reference that steps need": (
        {"offload": True, "ppo.kl_loss": True, "ppo.kl_loss_estimator": "full"},
        "set offload=false or another estimator",
    ),
    "a bootstrap without a critic": (
        {"ppo.bootstrap_truncated": True, "ppo.advantage_estimator": "reinforce"},
        "has no critic: set ppo.bootstrap_truncated=false",
    ),
    "a group of one": ({"ppo.advantage_estimator": "rloo"}, "set ppo.samples_per_prompt to 2 or more"),
    "groups that do not divide the batch": (
        {"ppo.samples_per_prompt": 3},
        "is not a multiple of ppo.samples_per_prompt=3",
    ),
    "a greedy answer and several scores": (
        {"reward_model.ensemble": 2, "ppo.advantage_estimator": "remax"},
        "set reward_model.ensemble=1 or another estimator",
    ),
    "a critic's start without a critic": (
        {"critic.path": "x", "ppo.advantage_estimator": "reinforce"},
        "critic.path starts a critic, and .* has none: leave it out",
    ),
    "an average of one": ({"reward_model.average": True}, "need several reward models: set reward_model.ensemble"),
    "an ensemble of one": ({"reward_model.ensemble_varies": "data"}, "need several reward models: set reward_model.ensemble"),
    "an ensemble of a given model": ({"reward_model.ensemble": 3, "reward_model.path": "x"}, "leave one of them out"),
    "an average of strangers": (
        {"reward_model.ensemble": 3, "reward_model.average": True},
        "set reward_model.ensemble_varies=order or data",
    ),
    "the worst of one": ({"ppo.ensemble_score": "worst"}, "ppo.ensemble_score=worst joins .*: set reward_model.ensemble"),
    "the worst of an average": ({**WARM, "ppo.ensemble_score": "worst"}, "ppo.ensemble_score=worst joins"),
    "an amount of uncertainty without it": ({"ppo.ensemble_coef": 0.1}, "acts only with ppo.ensemble_score=uncertainty"),
    "references of minmax": ({"ppo.reward_shape": "minmax", "ppo.reward_shape_references": 4}, "leave ppo.reward_shape_references out"),
    "references of an ensemble": (
        {"reward_model.ensemble": 3, "ppo.reward_shape": "tanh"},
        "set ppo.reward_shape_references=0 or reward_model.ensemble=1",
    ),
    "a free length of a linear penalty": (
        {"ppo.length_penalty": "linear", "ppo.length_penalty_free": 8},
        "acts only with ppo.length_penalty=overlong",
    ),
    "a free length that is all": (
        {"ppo.length_penalty": "overlong", "ppo.length_penalty_free": 48},
        "must be below sampling.max_new_tokens=48",
    ),
    "a length bias of people": ({**HUMAN, "preferences.length_bias": 0.4}, "preferences.length_bias is of the world's annotator"),
    "a moving reference that nothing reads": (
        {"ppo.kl_penalty": False, "ppo.reference_update": "ema"},
        "moves a reference that nothing reads: set ppo.kl_penalty=true, ppo.kl_loss=true or",
    ),
    "a rate of a reset": ({"ppo.reference_update": "reset", "ppo.reference_update_rate": 0.1}, "acts only with ppo.reference_update=ema"),
    "an adapter under a head that is rescaled": ({"model.lora_rank": 8, "ppo.value_norm": True}, "set one of them off"),
    "an adapter over a moving reference": ({"model.lora_rank": 8, "ppo.reference_update": "ema"}, "set ppo.reference_update=none or"),
    "an adapter in a rounded sampler": ({"model.lora_rank": 8, "sampling.sampler_precision": "int8"}, "set sampler_precision=fp32 or"),
    "a correction of nothing": ({"ppo.mismatch_correction": "tis"}, "set sampling.staleness or sampling.sampler_precision, or"),
    "a bound that is not read": (
        {**STALE, "ppo.mismatch_correction": "tis", "ppo.mismatch_low": 0.1},
        "ppo.mismatch_low is not read by ppo.mismatch_correction=tis",
    ),
    "bounds the wrong way round": (
        {**STALE, "ppo.mismatch_correction": "icepop", "ppo.mismatch_low": 3.0},
        "ppo.mismatch_low=3.0 must be below ppo.mismatch_high=2.0",
    ),
    "a ratio to two": (
        {**STALE, "ppo.mismatch_correction": "bypass", "ppo.importance_sampling": "reference"},
        "set one of them back",
    ),
    "an empty path": ({"model.path": ""}, r"model.path is empty: name a folder, a file or a hub name"),
}


NO_FOLDERS = ["", ".", "..", "../x", "/abs", "a/b", "a/", "a\\b", "a\nb", "a\0", "a\x1b[31m", "\ud800", "\u2028", "ä" * 128]


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_study_and_an_arm_are_the_name_of_one_folder(name):
    for which in ("study", "arm"):
        with pytest.raises(UserError, match=f"^{which}=.* is not the name of one folder") as caught:
            validate(setting(Config(), which, name))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a", "...", ".hidden", "vanilla,kl_coef=0.2", "fork=y@40", "ünï 1", "研究", "ä" * 127])
def test_other_names_of_folders_are_accepted_and_can_be_made(name, tmp_path):
    validate(Config(study=name, arm=name))
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("path", ["a\0b", "a\nb", "\udcff", "x/" * 2048, f"a/{'ä' * 128}/b"])
def test_a_path_that_no_file_can_have_is_refused_by_its_setting(path):
    for name in ("results", "cache", "fork", "data.path", "model.path", "evaluation.text_path"):
        with pytest.raises(UserError, match=f"^{name}=.* is too long for a path or has control characters") as caught:
            validate(setting(Config(), name, path))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", REFUSALS)
def test_an_inert_or_contradictory_combination_is_refused_naming_the_setting_to_change(name):
    changes, message = REFUSALS[name]
    config = Config()
    for key, value in changes.items():
        setting(config, key, value)
    with pytest.raises(UserError, match=message) as caught:
        validate(config)
    assert "\n" not in str(caught.value)


def test_every_line_that_refuses_a_combination_is_reached_by_a_test():
    """Values out of their range, which `check_values` refuses, have tests of their own below."""
    functions = [node for node in ast.parse(Path(validation.__file__).read_text()).body if isinstance(node, ast.FunctionDef)]
    written = {n.lineno for f in functions if f.name != "check_values" for n in ast.walk(f) if isinstance(n, ast.Raise)}
    reached = set()
    for changes, _ in REFUSALS.values():
        config = Config()
        for key, value in changes.items():
            setting(config, key, value)
        with pytest.raises(UserError) as caught:
            validate(config)
        reached.add(caught.traceback[-1].lineno + 1)
    assert reached == written


def test_the_defaults_are_valid_and_so_are_the_refused_settings_with_what_they_ask_for():
    validate(Config())
    for changes in (
        {"ppo.entropy_bonus": True, "ppo.entropy_clip": 1.0, "ppo.entropy_clip_form": "moss"},
        {"ppo.reward_norm": False, "ppo.reward_scaling": True},
        {**MISMATCH, "sampling.top_p": 0.9}, {"sampling.temperature": 0.7}, {"ppo.kl_penalty": False, "ppo.kl_coef": 0.0},
    ):  # fmt: skip
        config = Config()
        for key, value in changes.items():
            setting(config, key, value)
        validate(config)


RANGED = [(name, f, kind) for name, f, kind in settings() if any(f.metadata[key] is not None for key in ("low", "high", "above"))]


@pytest.mark.parametrize(("name", "field", "kind"), RANGED, ids=[name for name, _, _ in RANGED])
def test_a_value_outside_its_range_is_refused_by_name(name, field, kind):
    whole = int in (kind, *typing.get_args(kind))
    beyond = {
        "low": None if field.metadata["low"] is None else field.metadata["low"] - (1 if whole else 1e-6),
        "above": field.metadata["above"],
        "high": None if field.metadata["high"] is None else field.metadata["high"] + (1 if whole else 1e-6),
        "finite": None if whole else float("nan"),
        "bounded": None if whole else float("inf"),
    }
    for value in (value for value in beyond.values() if value is not None):
        with pytest.raises(UserError, match=f"^{name}="):
            validate(setting(Config(), name, value))


CHOSEN = [(name, f) for name, f, _ in settings() if f.metadata["choices"]]


@pytest.mark.parametrize(("name", "field"), CHOSEN, ids=[name for name, _ in CHOSEN])
def test_a_choice_that_there_is_not_is_refused_with_the_choices_there_are(name, field):
    with pytest.raises(UserError, match=f"{name}=nonsense is not one of {', '.join(field.metadata['choices'])}"):
        validate(setting(Config(), name, "nonsense"))


def test_every_setting_says_what_it_means():
    for name, f, _ in settings():
        assert f.metadata["meaning"].strip(), name


def test_a_default_has_the_type_that_hydra_gives_it():
    """An int where a float is declared would hash differently in Python than on the command line."""
    assert [name for name, f, kind in settings() if kind is float and not isinstance(f.default, float)] == []


def everything_on() -> Config:
    """Every toggle on, so that every amount counts (not a valid config: some toggles exclude each other).

    The critic has no λ of its own: with it and one by length, nothing would read gae_lambda.
    """
    config = Config()
    for name, f, kind in settings():
        if name.startswith("ppo.") and kind is bool:
            setting(config, name, True)
        elif name.startswith("ppo.") and f.default is None:
            setting(config, name, 1.5)
        elif name.startswith("ppo.") and f.default == "none":
            setting(config, name, next(choice for choice in f.metadata["choices"] if choice != "none"))
    return setting(config, "ppo.gae_lambda_critic", None)


def other(value: object, f, kind) -> object:
    """Another value of a setting's type."""
    if f.metadata["choices"]:
        return next(choice for choice in f.metadata["choices"] if choice != value) if len(f.metadata["choices"]) > 1 else "another"
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [0.1, 0.2]
    if isinstance(value, (int, float)):
        return value + 1
    return 3 if int in typing.get_args(kind) else "elsewhere"


INFRASTRUCTURE = {"study", "arm", "results", "cache", "jobs", "tracker", "sweep", "checkpoint.every", "checkpoint.keep",
                  "offload", "model.gradient_checkpointing"}  # fmt: skip


@pytest.mark.parametrize(("name", "field", "kind"), settings(), ids=[name for name, _, _ in settings()])
def test_the_hash_sees_every_setting_but_infrastructure(name, field, kind):
    before, after = everything_on(), everything_on()
    if name.removeprefix("data.") in HUMAN_ONLY:
        before, after = (setting(config, "data.source", "jsonl") for config in (before, after))
    if name in ("model.lora_alpha", "model.lora_targets"):
        before, after = (setting(config, "model.lora_rank", 8) for config in (before, after))
    value = before
    for part in name.split("."):
        value = getattr(value, part)
    setting(after, name, other(value, field, kind))
    assert (config_hash(before) == config_hash(after)) == (name in INFRASTRUCTURE)


OFF = {
    ("kl_penalty", False): ("kl_coef", "kl_estimator", "kl_adaptive", "kl_target", "kl_horizon"),
    ("kl_adaptive", False): ("kl_target", "kl_horizon"),
    ("entropy_bonus", False): ("entropy_coef", "entropy_clip", "entropy_clip_form", "entropy_adaptive", "entropy_adaptive_step"),
    ("entropy_clip", None): ("entropy_clip_form",),
    ("reward_norm", False): ("reward_norm_over",),
    ("value_clip", False): ("value_clip_range",),
    ("ratio_clip", False): ("clip_range", "clip_range_high", "dual_clip"),
    ("policy_kl", False): ("policy_kl_coef",),
    ("grad_clip", False): ("max_grad_norm",),
    ("critic_pretrain", False): ("critic_pretrain_updates",),
    ("ptx", False): ("ptx_coef",),
    ("missing_eos_penalty", None): ("missing_eos_form",),
    ("kl_loss", False): ("kl_loss_coef", "kl_loss_estimator"),
    ("entropy_adaptive", None): ("entropy_adaptive_step",),
    ("reward_shape", "none"): ("reward_shape_references",),
    ("length_penalty", "none"): ("length_penalty_coef", "length_penalty_free"),
    ("reference_update", "none"): ("reference_update_rate", "reference_update_every"),
    ("mismatch_correction", "none"): ("mismatch_low", "mismatch_high"),
}


@pytest.mark.parametrize(("toggle", "off"), OFF)
def test_the_amounts_of_a_trick_that_is_off_do_not_change_the_hash_and_no_others_are_left_out(toggle, off):
    known = {name: (f, kind) for name, f, kind in settings()}
    config = setting(everything_on(), f"ppo.{toggle}", off)
    ignored = set()
    for f in fields(config.ppo):
        changed = setting(everything_on(), f"ppo.{toggle}", off)
        setting(changed, f"ppo.{f.name}", other(getattr(config.ppo, f.name), *known[f"ppo.{f.name}"]))
        if config_hash(changed) == config_hash(config):
            ignored.add(f.name)
    assert ignored == set(OFF[toggle, off])


NOTHING_READS = {
    "data.split": ({}, "data=hub"),
    "data.max_prompt_tokens": ({}, "data=hh_rlhf, moss, jsonl or hub"),
    "data.language": (HUMAN, "data=world"),
    "preferences.noise": ({"preferences.path": "x"}, "preferences.path=null"),
    "preferences.margin": ({"reward_model.path": "x"}, "reward_model.path=null"),
    "preferences.length_bias": (HUMAN, "data=world"),
    "model.hidden_size": ({"model.path": "x"}, "model.path=null"),
    "model.layers": ({"pretrain.path": "x"}, "pretrain.path=null"),
    "model.heads": ({"sft.path": "x"}, "sft.path=null"),
    "data.vocabulary": ({**HUMAN, "model.path": "x"}, "model.path=null"),
    "pretrain.steps": ({"model.path": "x"}, "model.path=null"),
    "sft.learning_rate": ({"sft.path": "x"}, "sft.path=null"),
    "reward_model.steps": ({"reward_model.path": "x"}, "reward_model.path=null"),
}


@pytest.mark.parametrize("name", NOTHING_READS)
def test_a_setting_that_nothing_reads_is_named_with_what_would_let_it_act(name):
    others, remedy = NOTHING_READS[name]
    config = Config()
    for other_name, value in others.items():
        setting(config, other_name, value)
    assert inert(config, [name, "sft.path"]) == {name: f"{name} acts only with {remedy}"}


def test_gae_lambda_is_neither_read_nor_part_of_a_run_where_each_has_a_lambda_of_its_own():
    both = {"ppo.gae_length_adaptive": 0.4, "ppo.gae_lambda_critic": 1.0}
    remedy = "ppo.gae_length_adaptive=null or ppo.gae_lambda_critic=null"
    configs = [Config(), Config()]
    for config, value in zip(configs, (0.95, 0.5), strict=True):
        setting(config, "ppo.gae_lambda", value)
        for name, amount in both.items():
            setting(config, name, amount)
    assert config_hash(configs[0]) == config_hash(configs[1])
    assert inert(configs[1], ["ppo.gae_lambda"]) == {"ppo.gae_lambda": f"ppo.gae_lambda acts only with {remedy}"}
    for name, amount in both.items():
        one = setting(Config(), name, amount)
        assert inert(one, ["ppo.gae_lambda"]) == {} and identity(one)["ppo"]["gae_lambda"] == 0.95


def test_what_something_reads_is_not_inert():
    names = [name for name, *_ in settings() if not name.startswith("ppo.")]
    assert set(inert(Config(), names)) == {f"data.{name}" for name in HUMAN_ONLY if name != "path"}
    start = setting(setting(Config(), "sft.path", "x"), "ppo.policy_init", "pretrained")
    assert inert(start, ["model.layers", "pretrain.steps", "reward_model.steps", "preferences.pairs"]) == {}
    human = setting(setting(setting(Config(), "data.source", "hub"), "data.path", "x"), "reward_model.path", "x")
    assert inert(human, ["data.split", "data.vocabulary", "preferences.pairs", "preferences.half"]) == {}


def test_a_run_without_adapters_has_the_hash_it_had_before_there_were_any():
    assert not any(name.startswith("lora") for name in identity(Config())["model"])
    assert "lora_rank" in identity(setting(Config(), "model.lora_rank", 8))["model"]


def test_the_identity_that_is_written_into_a_run_folder_is_the_one_that_is_hashed(tiny_config):
    config = tiny_config()
    RunStore(config).close()
    written = yaml.safe_load((run_folder(config) / "config.yaml").read_text())
    assert written["identity"] == identity(config) and written["hash"] == config_hash(config)


def test_a_path_with_an_equals_sign_is_quoted_for_hydra_and_nothing_else_is():
    from ablate.settings.overrides import check_overrides, quoted

    fork = quoted("fork=results/a/b/seed=0/checkpoints/40")
    assert fork == "fork='results/a/b/seed=0/checkpoints/40'"
    assert quoted(fork) == fork
    assert quoted("ppo.kl_coef=0.1") == "ppo.kl_coef=0.1"
    check_overrides([fork, quoted("sft.path=x/seed=1/policy")])
