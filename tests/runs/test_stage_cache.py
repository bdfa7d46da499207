"""The cache of stages: built once whoever asks first, never half-written, damage named, and cleared up by a command."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from processes import ask, run, spawn, wait_for

from ablate import stages
from ablate.config import Config
from ablate.errors import UserError
from ablate.pipeline import build as pipeline
from ablate.pipeline.cache import cached, check_entry, entries, leftovers, lock_path, remove, stage_key
from ablate.system.closure import EXCLUDED, ROOT, closure, module_path
from ablate.system.files import partial_path
from ablate.system.locks import open_lock

NAMES = ("pretrain", "sft", "preferences", "reward_model")
TRAINED = (
    "model.path=null", "sft.path=null", "preferences.path=null", "reward_model.path=null",
    "model.hidden_size=16", "model.layers=1", "model.heads=2", "model.intermediate_size=32",
    "pretrain.examples=100", "pretrain.steps=30", "pretrain.batch_size=8", "sft.examples=100", "sft.steps=30", "sft.batch_size=8",
    "preferences.pairs=48", "preferences.held_out_pairs=16", "reward_model.steps=20", "reward_model.batch_size=8",
)  # fmt: skip


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"0123")


@pytest.fixture(scope="module")
def built(make_config, tmp_path_factory):
    """A config that trains every stage, with its cache filled."""
    config = make_config(tmp_path_factory.mktemp("built"), *TRAINED)
    pipeline.build(config)
    return config


# -- who builds --------------------------------------------------------------------------------------------------------------


def test_of_four_processes_that_ask_at_once_one_builds_and_the_others_wait_and_get_the_same_folder(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    processes = [spawn(ask, cache, "k", 0.5, out) for _ in range(4)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(answers) == 4
    assert {answer["entry"] for answer in answers} == {str(cache / "sft-k")}
    assert len({answer["builder"] for answer in answers}) == 1
    assert "waiting for another run to build sft-k" in (tmp_path / "out.said").read_text()
    assert [path.name for path in cache.iterdir()] == ["sft-k"]


def test_a_killed_builder_leaves_no_half_entry_and_the_one_that_waits_builds(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    first = spawn(ask, cache, "k", 600, out)
    wait_for(partial_path(cache / "sft-k") / "half")
    second = spawn(ask, cache, "k", 0, out)
    wait_for(tmp_path / "out.said")
    first.kill()
    first.join(60)
    second.join(60)
    assert second.exitcode == 0
    assert [json.loads(line)["builder"] for line in out.read_text().splitlines()] == [str(second.pid)]
    assert [path.name for path in cache.iterdir()] == ["sft-k"]


@pytest.mark.parametrize(("function", "left"), [("language_model_loss", set()), ("write_report", {"pretrain", "sft", "preferences"})])
def test_a_run_killed_while_it_builds_leaves_only_whole_entries_and_the_next_ends_the_same(
    function, left, make_config, built, tmp_path, same_numbers
):
    killed, whole = (make_config(tmp_path / name, *TRAINED, "ppo.updates=2") for name in ("killed", "whole"))
    assert run(killed, function) == -signal.SIGKILL
    found = entries(Path(killed.cache))
    assert {entry.name.rpartition("-")[0] for entry in found} == left
    for entry in found:
        check_entry(entry)
    assert run(killed) == 0
    whole.cache = built.cache
    assert run(whole) == 0
    same_numbers(*(Path(config.results) / "s/a/seed=0" for config in (killed, whole)))
    assert not leftovers(Path(killed.cache))


def test_a_builder_that_fails_leaves_nothing_and_its_error_passes_through(tmp_path):
    def fail(folder: Path) -> None:
        write(folder)
        raise UserError("not today")

    with pytest.raises(UserError, match=r"^not today$"):
        cached(tmp_path, "sft", "k", {}, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_let_go_with_its_file_gone_is_not_taken_for_the_one_that_counts(tmp_path):
    path = tmp_path / "lock"
    with open(path, "w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        path.unlink()
        with open_lock(path, wait=False) as ours:
            assert os.fstat(ours.fileno()).st_ino == path.stat().st_ino
            assert open_lock(path, wait=False) is None


def test_a_second_build_of_the_same_stage_has_the_same_bytes(built, make_config, tmp_path):
    again = make_config(tmp_path, *TRAINED)
    pipeline.build(again)
    ours, theirs = ({entry.name: entry for entry in entries(Path(config.cache))} for config in (again, built))
    assert ours.keys() == theirs.keys() and len(ours) == 4
    for name, entry in ours.items():
        for path in entry.rglob("*"):
            if path.is_file():
                assert path.read_bytes() == (theirs[name] / path.relative_to(entry)).read_bytes(), path


# -- what an entry is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a flipped bit", "a missing file", "a torn stamp", "no stamp"])
def test_damage_is_named_and_never_rebuilt(damage, built, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(built.cache, cache)
    entry = next(cache.glob("sft-*"))
    weights, stamp = entry / "model.safetensors", entry / "stage.json"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    {
        "a flipped bit": lambda: weights.write_bytes(content),
        "a missing file": weights.unlink,
        "a torn stamp": lambda: stamp.write_text(stamp.read_text()[:40]),
        "no stamp": stamp.unlink,
    }[damage]()
    before = {path: path.read_bytes() for path in entry.iterdir()}
    with pytest.raises(UserError, match=rf"^the cache entry {entry} .*: remove the folder to build it again$"):
        pipeline.build(replace(built, cache=str(cache)))
    assert {path: path.read_bytes() for path in entry.iterdir()} == before


def keys(config: Config) -> dict[str, str]:
    """stage → key of each entry that building `config` adds to an empty cache."""
    pipeline.build(config)
    return dict(entry.name.rsplit("-", 1) for entry in entries(Path(config.cache)))


CHANGES = {
    "model.intermediate_size=48": NAMES,
    "pretrain.steps=31": NAMES,
    "pipeline_seed=1": NAMES,
    "sft.learning_rate=1e-3": NAMES[1:],
    "preferences.noise=0.7": NAMES[2:],
    "sampling.max_new_tokens=9": NAMES[2:],
    "reward_model.lm_coef=0.5": NAMES[3:],
}


@pytest.mark.parametrize("override", CHANGES)
def test_a_setting_changes_the_keys_of_its_stage_and_of_those_built_on_it(override, built, make_config, tmp_path):
    other = keys(make_config(tmp_path, *TRAINED, override))
    known = keys(built)
    assert {name for name in NAMES if other[name] != known[name]} == set(CHANGES[override])


@pytest.mark.parametrize(
    "override",
    ["seed=5", "ppo.kl_coef=0.7", "ppo.updates=3", "sampling.temperature=0.5", "evaluation.prompts=4", "collapse.stop=true",
     "bugs.reward_on_pad=true", "checkpoint.every=1", "study=other", "jobs=1", "results=elsewhere"],
)  # fmt: skip
def test_a_setting_that_no_stage_reads_builds_nothing(override, built, make_config, tmp_path):
    config = make_config(tmp_path, *TRAINED, override)
    config.cache = built.cache
    before = sorted(Path(built.cache).iterdir())
    pipeline.build(config)
    assert sorted(Path(built.cache).iterdir()) == before


def test_a_key_holds_the_stage_its_settings_and_what_it_is_built_on():
    key = stage_key("sft", {"steps": 1}, ["up"])
    assert key == stage_key("sft", {"steps": 1}, ["up"])
    others = [stage_key("sft", {"steps": 2}, ["up"]), stage_key("sft", {"steps": 1}, ["on"]), stage_key("pretrain", {"steps": 1}, ["up"])]
    assert len({key, *others}) == 4


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A copy of the package's source, to be changed."""
    root = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "ablate", root / "ablate", ignore=shutil.ignore_patterns("__pycache__", "conf"))
    return root


@pytest.mark.parametrize("stage", NAMES)
def test_one_byte_of_any_module_that_a_stage_runs_through_gives_it_another_key(stage, package):
    before = stage_key(stage, {}, [], package)
    assert before == stage_key(stage, {}, [])
    modules = closure(f"ablate.pipeline.{stage}")
    assert {"ablate.models.attention", "ablate.models.linear", "ablate.system.seeding", f"ablate.pipeline.{stage}"} <= set(modules)
    for module in modules:
        path = module_path(module, package)
        source = path.read_bytes()
        path.write_bytes(source + b"#")
        assert stage_key(stage, {}, [], package) != before, module
        path.write_bytes(source)
    for module in (*EXCLUDED, "ablate.ppo.shaping", "ablate.trainer"):
        path = module_path(module, package)
        path.write_bytes(path.read_bytes() + b"#")
    assert stage_key(stage, {}, [], package) == before


LOADED = """
import sys
before = set(sys.modules)
import ablate.pipeline.{stage}
print(*sorted(name for name in sys.modules if name.startswith("ablate") and sys.modules[name].__file__))
"""


@pytest.mark.parametrize("stage", NAMES)
def test_every_module_that_python_loads_for_a_stage_is_in_its_closure_or_excluded_by_name(stage):
    done = subprocess.run([sys.executable, "-c", LOADED.format(stage=stage)], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if module_path(name).name != "__init__.py"}
    assert loaded <= {*closure(f"ablate.pipeline.{stage}"), *EXCLUDED}


# -- the command -------------------------------------------------------------------------------------------------------------


def listed(cache: Path, capsys) -> list[str]:
    stages.main(["--cache", str(cache)])
    return capsys.readouterr().out.splitlines()


def test_the_listing_shows_stage_key_size_age_and_the_settings_that_differ(built, capsys):
    lines = listed(Path(built.cache), capsys)
    assert lines[0].split("  ")[0] == "stage"
    assert lines[-1] == f"4 stages in {built.cache}"
    rows = {line.split()[0]: line for line in lines[1:-1]}
    assert set(rows) == set(NAMES)
    for name, key in keys(built).items():
        assert key in rows[name] and " MB" in rows[name] and " ago" in rows[name]
    assert "pretrain.steps=30" in rows["pretrain"] and "model.hidden_size=16" in rows["pretrain"]
    assert "sft.steps=30" in rows["sft"] and "hidden_size" not in rows["sft"]
    assert "sampling.max_new_tokens=10" in rows["preferences"]
    assert "pipeline_seed" not in "".join(rows.values())


def test_the_command_runs_as_a_program(tmp_path):
    done = subprocess.run([sys.executable, "-m", "ablate.stages", "--cache", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"no stages in {tmp_path}\n", "")


def test_an_empty_cache_and_none_at_all_are_said(tmp_path, capsys):
    assert listed(tmp_path, capsys) == [f"no stages in {tmp_path}"]
    assert listed(tmp_path / "none", capsys) == [f"no stages in {tmp_path / 'none'}"]
    stages.main(["--cache", str(tmp_path / "none"), "prune", "--all"])
    assert capsys.readouterr().out == "nothing to remove\n"


@pytest.fixture
def aged(tmp_path) -> Path:
    """A cache with entries used 0, 3 and 10 days ago, a damaged one, and what two killed builders left."""
    for name, days in (("new", 0), ("mid", 3), ("old", 10), ("bad", 0)):
        entry = cached(tmp_path, "sft", name, {"pipeline_seed": 7}, write)
        os.utime(entry, (time.time() - days * 86_400,) * 2)
    (tmp_path / "sft-bad/weights").write_bytes(b"0124")
    (tmp_path / ".sft-dead.partial").mkdir()
    (tmp_path / ".sft-dead.lock").touch()
    (tmp_path / ".sft-gone.lock").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "left"),
    [([], {"sft-new", "sft-mid", "sft-old"}), (["--older-than", "5"], {"sft-new", "sft-mid"}),
     (["--older-than", "0.5"], {"sft-new"}), (["--all"], set())],
)  # fmt: skip
def test_prune_removes_what_no_run_can_use_and_what_was_asked_for(arguments, left, aged, capsys):
    before = {path.name for path in aged.iterdir() if not path.name.startswith(".")}
    stages.main(["--cache", str(aged), "prune", *arguments])
    said = capsys.readouterr().out.splitlines()
    assert {path.name for path in aged.iterdir()} == left
    assert set(said) == {f"removed {name}" for name in (before - left) | {"sft-dead", "sft-gone"}}


def test_asking_for_an_entry_makes_it_young(aged):
    cached(aged, "sft", "old", {}, write)
    stages.prune(aged, older_than=1, everything=False)
    assert {path.name for path in aged.iterdir()} == {"sft-new", "sft-old"}


def test_prune_keeps_what_another_process_is_building(tmp_path, capsys):
    cache, out = tmp_path / "cache", tmp_path / "out"
    builder = spawn(ask, cache, "k", 1.5, out)
    wait_for(partial_path(cache / "sft-k") / "half")
    stages.main(["--cache", str(cache), "prune", "--all"])
    assert capsys.readouterr().out == "kept sft-k: it is being built\n"
    builder.join(60)
    assert builder.exitcode == 0
    check_entry(cache / "sft-k")


def test_an_entry_that_is_removed_is_built_again_by_whoever_asks_next(tmp_path):
    first = cached(tmp_path, "sft", "k", {}, write)
    assert remove(first)
    assert list(tmp_path.iterdir()) == []
    assert cached(tmp_path, "sft", "k", {}, write) == first
    assert not lock_path(first).exists()
