"""The registry of metrics holds what runs log, no more and no less, and the documentation's table is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.runs.folder import read_rows, run_folder
from ablate.runs.metrics import BY_NAME, METRICS, metric_table
from ablate.session import execute

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {  # toggles that might add a metric or leave one out
    "ppo_max": [],
    "all_tricks": ["ppo.kl_adaptive=true", "ppo.ptx=true", "ppo.entropy_bonus=true", "ppo.policy_kl=true", "ppo.missing_eos_penalty=1.0"],
    "nothing": ["ppo.kl_penalty=false", "ppo.ratio_clip=false", "ppo.grad_clip=false", "ppo.value_clip=false"],
    "weights_beside": ["ppo.reference_update=ema", "ppo.reference_update_every=1", "sampling.staleness=1"],
    "adaptive_entropy": ["ppo.entropy_bonus=true", "ppo.entropy_adaptive=1.0"],
}
ONLY = {  # metrics that only runs with some setting log, by the settings above that have it
    "weights_beside": {"monitor/kl_to_reference", "monitor/mismatch_kl", "monitor/mismatch_ess"},
    "adaptive_entropy": {"ppo/entropy_coef"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_registry_holds_every_metric_that_runs_log_and_runs_log_every_metric_of_the_registry(name, tiny_config):
    """Of a tiny run on the world, which has gold, texts and questions."""
    config = tiny_config(*SETTINGS[name])
    execute(config)
    rows = read_rows(run_folder(config) / "metrics.jsonl")
    absent = set().union(*ONLY.values()) - ONLY.get(name, set())
    assert {name for row in rows for name in row} == BY_NAME.keys() - absent


def test_names_are_unique_and_no_field_is_empty():
    assert len(BY_NAME) == len(METRICS)
    assert all(metric.name and metric.unit and metric.meaning and metric.panel for metric in METRICS)
    assert len({metric.panel for metric in METRICS}) == len(METRICS)  # two panels of one title could not be told apart


def test_the_table_of_the_documentation_is_made_from_the_registry():
    (document,) = (ROOT / "docs").rglob("run_folder.md")
    assert f"\n\n{metric_table()}\n" in document.read_text()


def test_every_metric_has_a_row_and_neighbours_that_mean_the_same_share_one():
    names = [line.split(" | ")[0] for line in metric_table().splitlines()[2:]]
    assert [f"`{metric.name}`" for metric in METRICS] == [name for row in names for name in row.removeprefix("| ").split(", ")]
    assert "| `ppo/policy_loss`, `ppo/value_loss` | – |" in metric_table()
