"""Counts, win rates and intervals of a judgement, by hand and against slow bootstraps; file names."""

import numpy as np
import pytest

from ablate.judge.table import as_text, file_name, table

KINDS = ["helpful", "helpful", "harmful", "helpful", "harmful"]
OUTCOMES = ["win", "tie", "lose", "win", "unreadable"]


def rows_of(kinds, outcomes):
    return {row["kind"]: row for row in table(kinds, outcomes, np.random.default_rng(0))}


def test_counts_are_over_all_prompts_and_by_kind_and_ties_count_half():
    rows = rows_of(KINDS, OUTCOMES)
    assert list(rows) == ["all", "harmful", "helpful"]
    assert {name: rows["all"][name] for name in ("prompts", "win", "tie", "lose", "unreadable")} == {
        "prompts": 5, "win": 2, "tie": 1, "lose": 1, "unreadable": 1,
    }  # fmt: skip
    assert rows["all"]["win_rate"] == 2.5 / 4 and rows["helpful"]["win_rate"] == 2.5 / 3 and rows["harmful"]["win_rate"] == 0.0
    assert rows["all"]["decided_rate"] == 2 / 3 and rows["harmful"]["decided_rate"] == 0.0


def test_one_kind_is_one_row():
    assert list(rows_of(["any"] * 3, ["win"] * 3)) == ["all"]


def test_the_interval_is_the_bootstrap_over_prompts():
    outcomes = ["win"] * 30 + ["tie"] * 12 + ["lose"] * 18
    values = np.array([1.0] * 30 + [0.5] * 12 + [0.0] * 18)
    generator = np.random.default_rng(1)
    slow = [generator.choice(values, len(values)).mean() for _ in range(20_000)]
    found = rows_of(["any"] * 60, outcomes)["all"]
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)
    assert found["low"] < found["win_rate"] == 0.6 < found["high"]


def test_the_interval_of_decided_prompts_is_exact_and_holds_where_all_were_won():
    """8 of 8: Clopper and Pearson's lower end is (α/2)^(1/8)."""
    found = rows_of(["any"] * 10, ["win"] * 8 + ["tie"] * 2)["all"]
    assert (found["decided_low"], found["decided_high"]) == pytest.approx((0.025 ** (1 / 8), 1.0))


def test_where_nothing_could_be_read_there_is_no_rate():
    found = rows_of(["any"] * 2, ["unreadable"] * 2)["all"]
    assert found["win_rate"] is found["low"] is found["decided_rate"] is None and "–" in as_text([found])


def test_the_text_is_aligned_and_says_every_count():
    lines = as_text(table(KINDS, OUTCOMES, np.random.default_rng(0))).splitlines()
    assert len(lines) == 4 and lines[1].split()[:6] == ["all", "5", "2", "1", "1", "1"]
    assert len({line.index(word) for line, word in zip(lines, ("n ", "5 ", "2 ", "3 "), strict=True)}) == 1


def test_a_files_name_holds_nothing_that_leads_elsewhere():
    assert file_name("policy", "a/../b c", "gpt:4/x") == "policy-vs-a_.._b_c.gpt_4_x.json"
