"""Slips on the command line: each is one sentence that says what to write instead."""

import sys
from dataclasses import fields

import pytest

import ablate.run
from ablate.config import Config, PPOConfig
from ablate.settings.__main__ import plain
from ablate.settings.fields import setting_names
from ablate.settings.identity import inert

SENTENCES = {
    "several values without -m": (["ppo.kl_penalty=true,false"], "ppo.kl_penalty=true,false has several values: add -m"),
    "several seeds without -m": (["seed=1,2"], "seed=1,2 has several values: add -m"),
    "a pattern without -m": (["ppo=glob(*)"], "ppo=glob(*) has several values: add -m"),
    "a pattern that nothing has": (["-m", "ppo=glob(z*)"], "ppo=glob(z*) holds no value"),
    "a split of the world": (["data.split=test"], "data.split acts only with data=hub: set that too, or leave data.split out"),
    "a plus": (["+seed=1"], "+seed=1: all settings are there already: write seed=value"),
    "a tilde": (["~seed"], "~seed removes a setting"),
    "an unknown reference": (["seed=${nope}"], "Interpolation key 'nope' not found: correct the setting that has ${…}"),
    "an unset variable": (["offload=${oc.env:NOPE_X}"], "KeyError raised while resolving interpolation"),
    "a missing value": (["sft.path=???"], "sft.path=??? says that a value is missing: give sft.path one"),
    "a setting as a flag": (["--kl_penalty", "true"], "--kl_penalty is not a flag: write ppo.kl_penalty=true"),
    "a setting as a flag with its value": (
        ["seed=1", "--kl-penalty=false"],
        "--kl-penalty=false is not a flag: write ppo.kl_penalty=false",
    ),
    "a launcher that is not there": (["hydra/launcher=joblib"], "hydra/launcher/joblib is not installed; there are ablate, basic"),
    "a range without an end": (["-m", "seed=range(0,9,0)"], "seed=range(0,9,0) is not a range"),
    "a range without a bound": (["-m", "seed=range(0,1000000000)"], "seed=range(0,1000000000) has more than 100000 values"),
    "nesting": (["ppo.adam_betas=" + "[" * 3000 + "]" * 3000], "ppo.adam_betas=[["),
    "a number of many digits": (["seed=" + "9" * 5000], "seed=999"),
    "another configuration": (["--config-name", "x"], "--config-name names another configuration than ablate's: leave it out"),
    "an amount whose toggle is off": (["ppo=vanilla", "ppo.kl_coef=0.2"], "ppo.kl_coef acts only with ppo.kl_penalty=true: set that too"),
    "an amount of two toggles": (
        ["ppo.kl_penalty=false", "ppo.kl_target=3"],
        "ppo.kl_target acts only with ppo.kl_penalty=true and ppo.kl_adaptive=true: set that too",
    ),
    "a form whose amount is off": (["ppo.missing_eos_form=replace"], "ppo.missing_eos_form acts only with ppo.missing_eos_penalty=<value>"),
    "two flags": (["--run", "-m"], "--run and --multirun exclude each other"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_slip_is_one_sentence_with_its_remedy(name, monkeypatch, tmp_path, capsys):
    arguments, beginning = SENTENCES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
    with pytest.raises(SystemExit) as ended:
        ablate.run.main()
    assert str(ended.value.code).startswith(f"error: {beginning}") and len(str(ended.value.code).splitlines()) == 1
    assert len(ended.value.code) < 500 and capsys.readouterr().err == "" and list(tmp_path.iterdir()) == []


def test_a_pattern_chooses_presets_and_studies_of_a_sweep(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for pattern, arms in (
        ("ppo=glob(van*)", ["vanilla,kl_coef=-1"]),
        ("sweep=glob(kl_c*)", ["kl_0.05,kl_coef=-1", "kl_0.1,kl_coef=-1", "kl_0.2,kl_coef=-1"]),
    ):
        monkeypatch.setattr(sys, "argv", ["ablate", "-m", pattern, "ppo.kl_coef=-1"])
        with pytest.raises(SystemExit, match="nothing was started") as ended:
            ablate.run.main()
        assert [line.split(":")[0].strip() for line in str(ended.value.code).splitlines()[1:]] == arms


def test_every_amount_whose_toggle_is_off_is_inert_by_name_and_none_whose_toggles_are_on():
    needs = {f"ppo.{f.name}": f.metadata["needs"] for f in fields(PPOConfig)}
    toggles = {toggle for names in needs.values() for toggle in names}
    on, off = (
        PPOConfig(**{name: state if isinstance(getattr(PPOConfig, name), bool) else amount for name in toggles})
        for state, amount in ((True, 1.0), (False, None))
    )
    assert inert(Config(ppo=on), needs) == {}
    assert set(inert(Config(ppo=off), needs)) == {name for name, names in needs.items() if names}
    assert inert(Config(ppo=PPOConfig(ratio_clip=False)), ["seed", "ppo.clip_range"]) == {
        "ppo.clip_range": "ppo.clip_range acts only with ppo.ratio_clip=true"
    }


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_the_settings_are_narrow_plain_text(width):
    lines = plain("", width).splitlines()
    names = [line.split(" = ")[0] for line in lines if not line.startswith(" ")]
    assert sorted(names) == sorted(setting_names())
    assert max(len(line) for line in lines if line.startswith(" ")) <= width and "|---" not in "".join(lines)
    assert plain("kl_horizon", width).splitlines()[0].startswith("ppo.kl_horizon = 10000")
