"""The page of tricks says what the code does: its sections, settings, files and measured effects."""

import re
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from ablate.config import PPOConfig
from analysis.load.frames import load
from analysis.load.packed import REFERENCE
from analysis.tricks.__main__ import main
from analysis.tricks.code import function_of, readers_of
from analysis.tricks.equations import SIZES, sections
from analysis.tricks.measured import effects, measured_arms
from analysis.tricks.page import belonging, page
from analysis.tricks.prose import as_markdown

ROOT = REFERENCE.parents[1]
PAGE = ROOT / "docs" / "explanation" / "tricks.md"


@pytest.fixture(scope="module")
def arms() -> dict[str, pd.DataFrame]:
    return measured_arms(load(REFERENCE))


def test_the_page_is_the_one_that_the_command_prints(arms):
    assert PAGE.read_text() == page(arms)


def test_every_setting_of_ppo_has_one_place_on_the_page():
    """Each switch, each amount that null switches off, and each choice has a section, or is named in that of what it needs."""
    places = [*sections(), *(name for trick in sections() for name in belonging(trick)), *SIZES]
    assert sorted(places) == sorted(entry.name for entry in fields(PPOConfig))
    needed = {entry.name for entry in fields(PPOConfig) if entry.metadata["needs"]}
    switches = {entry.name for entry in fields(PPOConfig) if isinstance(entry.default, bool) or str(entry.type).startswith("Optional")}
    assert switches <= sections().keys()
    assert {entry.name for entry in fields(PPOConfig) if entry.metadata["choices"]} - needed <= sections().keys()


@pytest.mark.parametrize("trick", sections())
def test_a_section_names_a_setting_that_is_read_where_it_says(trick):
    assert function_of(trick).docstring
    places = readers_of(trick)
    assert places
    for file, function in places:
        assert f"def {function}(" in (ROOT / file).read_text()


def test_a_setting_is_found_where_it_is_read_itself_or_through_a_property_of_the_settings():
    assert readers_of("reward_clip") == [("ablate/ppo/shaping.py", "normed_score")]
    assert ("ablate/ppo/reference.py", "move_reference") in readers_of("reference_update")  # as ppo.moves_reference
    assert function_of("gae_lambda").file == "ablate/ppo/tricks/advantage.py" and function_of("critic_init").file == "ablate/models/load.py"


@pytest.mark.parametrize("trick", sections())
def test_an_equation_has_as_many_brackets_opened_as_closed(trick):
    equation = sections()[trick].equation
    assert equation.count("{") == equation.count("}")
    assert equation.count(r"\left") - equation.count(r"\leftarrow") == equation.count(r"\right")


def test_the_effect_of_a_trick_is_that_of_its_arm_beside_the_preset_of_its_study(arms):
    """By hand, from docs/findings.md: 0 of 5 with the penalty and 5 of 5 without."""
    added, left_out = effects("kl_penalty", arms)
    assert added.startswith("Added alone to vanilla PPO: collapsed in 0 of 5 runs, gold over SFT +0.63 [0.32, 0.95] for 5.4 nats; vanilla")
    assert "vanilla itself: collapsed in 5 of 5 runs, gold over SFT −2.81 [−3.97, −1.64] for 46 nats." in added
    assert left_out.startswith("Taken out of PPO-max alone: collapsed in 5 of 5 runs")
    assert effects("kl_penalty", {}) == [] and effects("chi2_penalty", arms) == []
    assert effects("critic_init", arms)[1].startswith("Taken out of PPO-max alone: collapsed in 0 of 5 runs")  # no_critic_from_reward


def test_a_docstring_keeps_every_sign():
    assert as_markdown("r_t * A_t of <study>, `a_b` too.") == r"r\_t \* A\_t of &lt;study>, `a_b` too."
    assert as_markdown("where\n    rloo  x_i\nand") == "where\n\n    rloo  x_i\n\nand"


def test_the_command_prints_the_sections_that_are_named_and_refuses_a_name_that_has_none(arms, capsys, monkeypatch):
    monkeypatch.setattr("analysis.tricks.measured.measured_arms", lambda loaded: arms)
    main(["ppo.grad_clip"])
    printed = capsys.readouterr().out
    assert re.findall(r"^### (.*)$", printed, re.MULTILINE) == ["Gradient clip"] and "`ppo.max_grad_norm`" in printed
    with pytest.raises(SystemExit, match="error: grad_clp has no section: did you mean grad_clip"):
        main(["grad_clp"])
    with pytest.raises(SystemExit, match="error: nowhere is not a folder"):
        main(["--results", str(Path("nowhere"))])
