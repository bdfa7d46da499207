"""Every file of ablate/conf composes through Hydra, says what it should, and is valid."""

import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import ablate
import ablate.run
from ablate.config import Config, PPOConfig
from ablate.settings.fields import flat
from ablate.settings.groups import LAUNCHER
from ablate.settings.identity import config_hash
from ablate.settings.validation import validate

CONF = Path(ablate.__file__).parent / "conf"
FILES = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name != LAUNCHER)
PRESETS = [name for group, name in FILES if group == "ppo"]
SHARED = ("learning_rate", "critic_learning_rate", "lr_schedule", "warmup_ratio", "batch_size", "minibatch_size", "micro_batch_size",
          "epochs", "updates", "adam_betas", "adam_eps", "critic_adam_eps", "gamma")  # fmt: skip


def composed(*overrides: str) -> Config:
    """What the command line would run."""
    assert ConfigStore.instance().repo["schema.yaml"].provider == ablate.run.__package__
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose("config", list(overrides)))


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_config_file_composes_and_is_valid(group, name):
    """Presets for a model or data of the user's need its path."""
    needs_path = (group == "data" and name != "world") or (group, name) == ("model", "path")
    config = composed(f"{group}={name}", *[f"{group}.path=folder"] * needs_path)
    assert isinstance(config, Config)
    validate(config)


OTHERS = {"verl", "openrlhf", "nemo_rl", "grpo_trl", "dapo", "vapo"}  # what other repositories run by default


def test_there_are_the_presets_of_the_contract():
    assert set(PRESETS) == {"vanilla", "ppo_max", "instructgpt", "n_details", "moss_script"} | OTHERS


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_preset_of_another_repository_names_its_file_and_commit_and_what_it_cannot_say(name):
    text = (CONF / "ppo" / f"{name}.yaml").read_text()
    assert re.search(r"[\w-]+/[\w-]+, [\w/.]+\.(yaml|py|sh), commit [0-9a-f]{8}", text.replace("\n# ", " "))
    assert "Not expressed:" in text


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_lists_every_setting_of_ppo_and_cites_its_source(name):
    """In the order of the dataclass; a trick that came later may be left out where it is off."""
    text = (CONF / "ppo" / f"{name}.yaml").read_text()
    listed = list(yaml.safe_load(text)["ppo"])
    assert listed == [f.name for f in fields(PPOConfig) if f.name in listed or not f.metadata["later"]]
    assert name in OTHERS or "2307.04964" in text or "2203.02155" in text or "2403.17031" in text or "MOSS-RLHF" in text


def test_ppo_max_is_the_default_and_equals_the_dataclass_but_for_the_worlds_own_settings():
    default = composed()
    assert asdict(composed("ppo=ppo_max")) == asdict(default)
    assert (default.preferences.length_bias, default.sampling.max_new_tokens) == (0.1, 96)
    default.preferences.length_bias, default.sampling.max_new_tokens = 0.0, 48
    assert asdict(default) == asdict(Config())


def test_the_unbiased_world_differs_from_the_default_one_in_bias_and_room_alone():
    default, unbiased = (dict(flat(asdict(composed(*group)))) for group in ((), ("preferences=unbiased",)))
    assert config_hash(composed("preferences=unbiased")) == config_hash(Config()) != config_hash(composed())
    assert {name for name in default if default[name] != unbiased[name]} == {"preferences.length_bias", "sampling.max_new_tokens"}
    assert composed("preferences=unbiased", "sampling.max_new_tokens=64").sampling.max_new_tokens == 64


def test_the_bias_and_room_of_the_world_are_no_settings_of_human_data():
    """They stand in data=world, so that its preset may change them without changing runs on people's dialogues."""
    human = composed("data=jsonl", "data.path=folder")
    assert (human.preferences, human.sampling) == (Config().preferences, Config().sampling)
    assert {"preferences", "sampling"} <= set(yaml.safe_load((CONF / "data" / "world.yaml").read_text()))


def test_vanilla_and_ppo_max_share_rates_sizes_and_sampling_and_differ_only_in_tricks():
    vanilla, ppo_max = composed("ppo=vanilla"), composed("ppo=ppo_max")
    for name in SHARED:
        assert getattr(vanilla.ppo, name) == getattr(ppo_max.ppo, name), name
    assert asdict(vanilla) | {"ppo": None} == asdict(ppo_max) | {"ppo": None}
    differing = {f.name for f in fields(PPOConfig) if getattr(vanilla.ppo, f.name) != getattr(ppo_max.ppo, f.name)}
    assert differing == {"kl_penalty", "reward_norm", "reward_clip", "advantage_norm", "value_clip", "grad_clip", "critic_pretrain"}


def test_vanilla_has_the_ratio_clip_and_gae_and_nothing_else_of_the_tricks():
    ppo = composed("ppo=vanilla").ppo
    on = {f.name for f in fields(PPOConfig) if getattr(ppo, f.name) is True}
    assert on == {"ratio_clip"}
    assert {ppo.reward_clip, ppo.advantage_clip, ppo.entropy_clip, ppo.missing_eos_penalty} == {None}
    assert ppo.gae_lambda == 0.95 and ppo.importance_sampling == "behaviour"


def test_presets_whose_source_halves_the_squared_error_have_half_its_coefficient():
    """lm-human-preferences has 0.1 · ½ (V − R)², MOSS-RLHF, verl and OpenRLHF 1 · ½ (V − R)², NeMo-RL 0.4 · ½; eq. 16 has no half."""
    coefficients = {name: composed(f"ppo={name}").ppo.value_coef for name in PRESETS if composed(f"ppo={name}").ppo.has_critic}
    expected = {"n_details": 0.05, "moss_script": 0.5, "vanilla": 1.0, "ppo_max": 1.0, "instructgpt": 1.0}
    assert coefficients == expected | {"verl": 0.5, "openrlhf": 0.5, "nemo_rl": 0.2, "vapo": 0.5}


def test_n_details_anneals_its_rate_and_replaces_the_score_of_an_answer_without_its_end():
    ppo = composed("ppo=n_details").ppo
    assert (ppo.lr_schedule, ppo.warmup_ratio) == ("linear", 0.0)
    assert (ppo.missing_eos_form, ppo.missing_eos_penalty) == ("replace", 1.0)


def test_only_the_moss_script_samples_from_another_distribution_than_it_trains_on():
    mismatched = {name for name in PRESETS if not composed(f"ppo={name}").sampling.match_training_distribution}
    assert mismatched == {"moss_script"}


def test_no_preset_switches_a_bug_on():
    assert not any(any(asdict(composed(f"ppo={name}").bugs).values()) for name in PRESETS)


def test_an_override_beats_its_preset():
    assert composed("ppo=vanilla", "ppo.kl_penalty=true").ppo.kl_penalty is True


def test_a_model_brings_its_learning_rates_whatever_the_ppo_preset_and_an_override_beats_them():
    for preset in ("vanilla", "ppo_max"):
        ppo = composed(f"ppo={preset}", "model=gpt2").ppo
        assert (ppo.learning_rate, ppo.critic_learning_rate) == (1e-5, 3e-5)
    assert composed("model=gpt2", "ppo.learning_rate=1e-4").ppo.learning_rate == 1e-4
