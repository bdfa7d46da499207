"""`python -m ablate.settings`, and the walkers of the tree of settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ablate.config import Config
from ablate.settings.__main__ import main
from ablate.settings.fields import flat, setting_names, spelled, walk
from ablate.settings.identity import first_difference

ROOT = Path(__file__).parents[2]


def test_the_reference_has_a_row_per_setting(capsys):
    main([])
    rows = [line.split("`")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(setting_names())


def test_a_word_chooses_the_settings_that_have_it_in_their_name_or_meaning(capsys):
    main(["KL_coef"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "## ppo"
    assert any(line.startswith("| `ppo.kl_coef` | 0.1 | score per nat | ≥ 0 |") for line in lines)
    assert not any("`ppo.gamma`" in line for line in lines)


@pytest.mark.parametrize(("word", "nearest"), [("kl_ceof", "ppo.kl_coef"), ("ppo.minibatchsize", "ppo.minibatch_size")])
def test_a_word_that_no_setting_has_is_refused_with_the_nearest_name(word, nearest):
    done = subprocess.run([sys.executable, "-m", "ablate.settings", word], cwd=ROOT, capture_output=True, text=True)
    said = f"error: no setting has {word!r} in its name or meaning; the nearest name is {nearest}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_config_and_its_dict_have_the_same_leaves():
    config = Config()
    assert list(flat(asdict(config))) == [(setting.name, setting.value) for setting in walk(config)]


@pytest.mark.parametrize(("value", "text"), [(None, "null"), (True, "true"), (False, "false"), (0.1, "0.1"), ("k1", "k1")])
def test_a_value_is_spelled_as_an_override_has_it(value, text):
    assert spelled(value) == text


def test_the_first_difference_is_named_whichever_side_lacks_the_setting():
    assert first_difference({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}) == "b.c is 2 there and 3 here"
    assert first_difference({"a": 1}, {"a": 1, "b": {"c": 3}}) == "b.c is None there and 3 here"
    assert first_difference({"a": 1}, {"a": 1}) == ""
