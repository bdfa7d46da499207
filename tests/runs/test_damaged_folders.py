"""Run folders that were harmed by hand: one sentence that names the file, and nothing outside of the folder is written or removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ablate.errors import UserError
from ablate.runs.folder import checkpoints, read_config, read_rows, run_folder
from ablate.runs.store import RunStore
from ablate.runs.summary import read_summary
from ablate.session import execute
from ablate.sweeps.reuse import finished_runs
from ablate.system.reading import plain_bytes


@pytest.fixture(scope="module")
def finished(make_config, tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("run"), "ppo.updates=2")
    execute(config)
    (run_folder(config) / "summary.json").unlink()
    return config


@pytest.fixture
def run(finished):
    """(settings, folder) of a run that can go on after update 2; the folder is put back as it was."""
    folder = run_folder(finished)
    shutil.copytree(folder, folder.with_name("kept"))
    yield finished, folder
    shutil.rmtree(folder)
    folder.with_name("kept").rename(folder)


def other_shape(tensors):
    return tensors | {"0.exp_avg": torch.zeros(3)}


def other_name(tensors):
    return tensors | {"0.momentum": torch.zeros(3)}


def no_number(tensors):
    return tensors | {"x": torch.zeros(3)}


def unknown_parameter(tensors):
    return tensors | {"999.step": torch.zeros(())}


def other_type(tensors):
    return tensors | {"0.exp_avg": tensors["0.exp_avg"].double()}


def lacking(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "1.exp_avg_sq"}


def negative_steps(tensors):
    return tensors | {"0.step": torch.tensor(-1.0)}


@pytest.mark.parametrize("change", [other_shape, other_name, no_number, unknown_parameter, other_type, lacking, negative_steps])
def test_moments_that_do_not_fit_the_weights_are_refused_before_adam_reads_them(change, run):
    config, folder = run
    path = folder / "checkpoints/2/optimizer.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(UserError, match=r"checkpoints/2 is corrupt \(optimizer.safetensors: .*remove it to go on from the one before"):
        execute(config)


def test_a_policy_of_other_sizes_is_refused_before_it_is_built(run):
    config, folder = run
    path = folder / "checkpoints/2/policy/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="its policy does not load: its num_hidden_layers is 3, not "):
        execute(config)


@pytest.mark.parametrize(
    ("keys", "value"),
    [(("progress", "update"), 7), (("progress", "update"), -1), (("progress", "update"), True), (("progress", "update"), "2"),
     (("progress", "shaping", "kl_coef"), float("nan")), (("progress", "shaping", "moments", "count"), -1.0), (("progress", "watch"), []),
     (("progress", "watch", "below"), ["x"]), (("offsets", "metrics.jsonl"), -5), (("offsets",), {}), (("progress", "odd"), 1)],
)  # fmt: skip
def test_a_state_that_cannot_be_is_refused(keys, value, run):
    config, folder = run
    path = folder / "checkpoints/2/state.json"
    state = json.loads(path.read_text())
    holder = state
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="checkpoints/2 is corrupt"):
        execute(config)


def test_a_checkpoint_of_a_later_update_than_the_last_is_refused_and_not_called_completed(run):
    config, folder = run
    (folder / "checkpoints/2").rename(folder / "checkpoints/9")
    path = folder / "checkpoints/9/state.json"
    state = json.loads(path.read_text())
    state["progress"]["update"] = 9
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="it is of update 9, but the run ends at 2"):
        execute(config)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "[" * 100_000, '{"status": ["completed"]}', '{"status": "completed", "final": {"x": "1"}}',
     '{"status": "completed", "updates": ' + "9" * 5000 + "}", '{"status": "completed", "updates": 1e999}'],
)  # fmt: skip
def test_a_summary_of_another_form_is_named_and_stops_no_other_run(text, tmp_path):
    folder = tmp_path / "s/a/seed=0"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary.json is not readable .*: remove it"):
        read_summary(folder)
    found, left_out = finished_runs(tmp_path)
    assert found == {} and len(left_out) == 1 and str(folder) in left_out[0]


def test_pipes_folders_loops_and_huge_files_are_named_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "summary.json")
    (tmp_path / "config.yaml").symlink_to(tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "big.jsonl").touch()
    os.truncate(tmp_path / "big.jsonl", 5 << 30)
    with pytest.raises(UserError, match="no plain file"):
        read_summary(tmp_path)
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        read_config(tmp_path)
    with pytest.raises(UserError, match="no plain file"):
        read_rows(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="larger than 2048 MiB"):
        read_rows(tmp_path / "big.jsonl")


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="needs Linux's /proc, whose files state a size of 0")
def test_a_file_that_holds_more_than_it_stated_is_read_whole_within_the_bound():
    path = Path("/proc/version")
    whole = path.read_bytes()
    assert path.stat().st_size == 0 and plain_bytes(path) == whole and plain_bytes(path, len(whole)) == whole
    with pytest.raises(ValueError, match="larger than 0 MiB"):
        plain_bytes(path, len(whole) - 1)


def test_aliases_that_multiply_are_refused_before_anything_is_built(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(9 * ['*' + chr(97 + i)])}]\n" for i in range(12))
    (tmp_path / "config.yaml").write_text(f"hash: x\nidentity: {{}}\n{bomb}")
    with pytest.raises(UserError, match="more values than a file of settings holds"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "scores.jsonl", "checkpoints", "checkpoints/1", "checkpoints/.3.partial", "reward_model"]
)
def test_a_run_writes_and_prunes_through_no_link(name, run, tmp_path):
    config, folder = run
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("whole\n")
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(outside / "kept" if name.endswith(".jsonl") else outside)
    with pytest.raises(UserError, match="is a link, which a run does not write through"):
        RunStore(config)
    assert {file.name: file.read_text() for file in outside.iterdir()} == {"kept": "whole\n"}


def test_only_folders_of_an_updates_name_are_checkpoints(tmp_path):
    for name in ("3", "03", "²", "٣", "x", "12"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints/5").touch()
    assert checkpoints(tmp_path) == [3, 12]
