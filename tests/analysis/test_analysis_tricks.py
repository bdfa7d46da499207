"""The page of tricks says what the code does: its sections, settings, files and measured effects."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import Arm, write_study

from ablate.config import PPOConfig
from analysis.estimate.outcomes import SCORE_COUNTED_TWICE
from analysis.load.frames import Loaded, load
from analysis.load.packed import REFERENCE
from analysis.tricks.__main__ import main
from analysis.tricks.code import function_of, readers_of
from analysis.tricks.equations import SIZES, sections
from analysis.tricks.measured import ADDED, LEFT_OUT, effects, measured_arms
from analysis.tricks.page import belonging, page
from analysis.tricks.prose import as_markdown

ROOT = REFERENCE.parents[1]


def row(collapses: int, gold: tuple[float, float, float], kl: float) -> dict:
    low, estimate, high = gold
    return {"collapses": collapses, "n": 8, "gold_gain": estimate, "gold_gain_low": low, "gold_gain_high": high, "kl": kl,
            "basis": "8 reward models, one seed each"}  # fmt: skip


@pytest.fixture
def arms() -> dict[str, pd.DataFrame]:
    """Two studies as `measured_arms` has them."""
    added = {"vanilla": row(8, (-4.0, -2.81, -1.6), 46.0), "kl_penalty": row(0, (0.32, 0.634, 0.95), 5.44)}
    left_out = {"ppo_max": row(0, (1.35, 1.49, 1.64), 2.81), "no_kl_penalty": row(7, (np.nan, -4.43, np.nan), 57.0),
                "no_critic_from_reward": row(1, (1.4, 1.5, 1.6), 2.57)}  # fmt: skip
    return {name: pd.DataFrame.from_dict(table, orient="index") for name, table in ((ADDED, added), (LEFT_OUT, left_out))}


def test_the_page_says_what_its_measurements_rest_on_and_marks_what_has_none(arms):
    """That it is the one that stands in docs: tests/analysis/test_reference_documents.py."""
    assert "results/reference/README.md), 8 reward models, one seed each per arm of `add_one_in` and `leave_one_out`; intervals" in page(
        arms
    )
    assert "| measured | Not measured yet; asked by `sweep=add_one_in`. |" in page({})
    assert "which has none of single tricks; intervals" in page({})


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
    added, left_out = effects("kl_penalty", arms)
    assert added == (
        "Added alone to vanilla PPO: collapsed in 0 of 8 runs, gold over SFT +0.63 [0.32, 0.95] for 5.4 nats; "
        "vanilla itself: collapsed in 8 of 8 runs, gold over SFT −2.81 [−4.00, −1.60] for 46 nats."
    )
    assert left_out.startswith("Taken out of PPO-max alone: collapsed in 7 of 8 runs, gold over SFT −4.43 for 57 nats; PPO-max itself: ")
    assert effects("kl_penalty", {}) == [] and effects("chi2_penalty", arms) == []
    assert effects("critic_init", arms) == [
        "Taken out of PPO-max alone: collapsed in 1 of 8 runs, gold over SFT +1.50 [1.40, 1.60] for 2.6 nats; "
        "PPO-max itself: collapsed in 0 of 8 runs, gold over SFT +1.49 [1.35, 1.64] for 2.8 nats."
    ]  # no_critic_from_reward


def test_an_arm_that_measures_an_error_of_its_code_is_not_told_of_its_trick(tmp_path):
    arms = {"vanilla": Arm({"ppo.bootstrap_truncated": False}), "bootstrap_truncated": Arm({"ppo.bootstrap_truncated": True})}
    write_study(tmp_path, arms, 2, np.random.default_rng(0), study=ADDED)
    loaded = load(tmp_path)
    assert set(measured_arms(loaded)[ADDED].index) == {"vanilla", "bootstrap_truncated"}
    erred = Loaded(loaded.runs.assign(git_commit=SCORE_COUNTED_TWICE[1]), loaded.curves, loaded.left_out)
    assert set(measured_arms(erred)[ADDED].index) == {"vanilla"}


def test_a_docstring_keeps_every_sign():
    assert as_markdown("r_t * A_t of <study>, `a_b` too.") == r"r\_t \* A\_t of &lt;study>, `a_b` too."
    assert as_markdown("where\n    rloo  x_i\nand") == "where\n\n    rloo  x_i\n\nand"


def test_the_command_prints_the_sections_that_are_named_and_refuses_a_name_that_has_none(arms, capsys, monkeypatch):
    monkeypatch.setattr("analysis.load.frames.load", lambda folder: None)
    monkeypatch.setattr("analysis.tricks.measured.measured_arms", lambda loaded: arms)
    main(["ppo.grad_clip"])
    printed = capsys.readouterr().out
    assert re.findall(r"^### (.*)$", printed, re.MULTILINE) == ["Gradient clip"] and "`ppo.max_grad_norm`" in printed
    with pytest.raises(SystemExit, match="error: grad_clp has no section: did you mean grad_clip"):
        main(["grad_clp"])
    with pytest.raises(SystemExit, match="error: nowhere is not a folder"):
        main(["--results", str(Path("nowhere"))])
