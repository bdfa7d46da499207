"""What lies behind a path is part of a run: other content is told in a sentence, and neither finished, gone on with nor taken over."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from ablate.config import (
    Config,
    CriticConfig,
    DataConfig,
    EvaluationConfig,
    GoldConfig,
    ModelConfig,
    PPOConfig,
    PreferencesConfig,
    RewardModelConfig,
    StageConfig,
)
from ablate.errors import UserError
from ablate.runs.content import content, digest, named
from ablate.runs.folder import config_of, is_finished, read_content, run_folder, without_digest
from ablate.runs.fork import check_forked_content
from ablate.runs.store import RunStore
from ablate.session import execute
from ablate.settings.fields import flat
from ablate.settings.identity import config_hash, identity
from ablate.sweeps.reuse import take_over
from ablate.system import digests

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Setting → the file whose change is another content of what the setting names."""
    lines = {
        "data.path": "data.jsonl", "sft.path": "sft/model.safetensors", "reward_model.path": "reward/config.json",
        "gold.path": "gold/chat_template.jinja", "critic.path": "critic/model.safetensors",
        "preferences.path": "pairs/held_out.jsonl", "evaluation.text_path": "texts.jsonl",
        "evaluation.choices_path": "choices.jsonl", "fork": "fork/policy/model.safetensors",
    }  # fmt: skip
    for name in lines.values():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}, as it was\n")
    return {setting: tmp_path / name for setting, name in lines.items()}


def config(root: Path, study: str = "s", arm: str = "a", **settings) -> Config:
    outside = {
        "data": DataConfig(source="jsonl", path=str(root / "data.jsonl")), "sft": StageConfig(path=str(root / "sft")),
        "reward_model": RewardModelConfig(path=str(root / "reward")), "gold": GoldConfig(path=str(root / "gold")),
        "critic": CriticConfig(path=str(root / "critic")),
        "preferences": PreferencesConfig(path=str(root / "pairs")), "fork": str(root / "fork"),
        "evaluation": EvaluationConfig(text_path=str(root / "texts.jsonl"), choices_path=str(root / "choices.jsonl")),
    }  # fmt: skip
    return replace(Config(), results=str(root / "results"), study=study, arm=arm, **{**outside, **settings})


def finished(made: Config) -> Path:
    store = RunStore(made)
    store.append("metrics.jsonl", [{"update": 0}])
    store.finish({"status": "completed", "reason": "", "collapsed": False, "study": made.study, "arm": made.arm, "seed": made.seed})
    return store.folder


SETTINGS = ("data.path", "sft.path", "reward_model.path", "gold.path", "critic.path", "preferences.path", "evaluation.text_path",
            "evaluation.choices_path", "fork")  # fmt: skip


def test_every_path_among_the_settings_is_compared(tmp_path, files):
    paths = {name for name, _ in flat(asdict(Config())) if name.endswith("path")}
    assert paths | {"fork"} == named(config(tmp_path, model=ModelConfig(path="m"), pretrain=StageConfig(path="p"))).keys()


@pytest.mark.parametrize("setting", SETTINGS)
def test_other_content_behind_a_path_is_not_called_finished_and_not_taken_over(tmp_path, files, setting):
    made, other = config(tmp_path), config(tmp_path, study="t")
    finished(made)
    assert is_finished(made) and read_content(run_folder(made)).keys() == set(SETTINGS)
    files[setting].write_text("as it is now\n")
    with pytest.raises(UserError) as error:
        is_finished(made)
    assert f"other content behind {setting}={named(made)[setting][:20]}" in str(error.value)
    assert "set study=<name> or arm=<name> for a new run, restore that content, or remove the folder" in str(error.value)
    assert take_over([other]) == 0
    files[setting].write_text(f"{files[setting].relative_to(tmp_path)}, as it was\n")
    assert is_finished(made)
    assert take_over([other]) == 1
    assert read_content(run_folder(other)) == read_content(run_folder(made))


def test_of_equal_settings_the_run_of_equal_content_is_taken_over(tmp_path, files):
    finished(config(tmp_path, study="first"))
    files["data.path"].write_text("as it is now\n")
    second = finished(config(tmp_path, study="second"))
    wanted = config(tmp_path, study="third")
    assert take_over([wanted]) == 1
    assert read_content(run_folder(wanted)) == read_content(second)


def test_a_run_that_has_begun_does_not_go_on_with_other_content_but_one_without_a_checkpoint_begins_again(tmp_path, files):
    made = config(tmp_path)
    store = RunStore(made)
    store.close()
    files["data.path"].write_text("as it is now\n")
    assert not is_finished(made)
    store.checkpoint_folder(2).mkdir(parents=True)
    with pytest.raises(UserError, match=r"other content behind data\.path"):
        is_finished(made)


def test_a_run_with_its_weights_changed_is_refused_before_anything_is_built(tmp_path, make_config, stage_folders):
    shutil.copytree(stage_folders["sft"], tmp_path / "sft")
    overrides = [f"sft.path={tmp_path / 'sft'}", "ppo.updates=2", "evaluation.samples=1"]
    made = make_config(tmp_path, *overrides)
    execute(made)
    summary = run_folder(made) / "summary.json"
    before = summary.read_bytes()
    assert execute(made)["status"] == "completed"
    template = tmp_path / "sft/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    for state in ("finished", "killed"):
        with pytest.raises(UserError, match=r"other content behind sft\.path"):
            execute(made)
        assert state == "killed" or summary.read_bytes() == before
        summary.unlink(missing_ok=True)


def test_a_run_of_an_older_version_stays_finished_and_is_called_by_what_it_lacks(tmp_path, files, capsys):
    made = config(tmp_path)
    folder = finished(made)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    del tree["content"]
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    assert is_finished(made) and config_of(folder) == made
    assert set(without_digest(made)) == set(SETTINGS)
    assert take_over([config(tmp_path, study="t")]) == 0
    plain = replace(made, fork=None)
    finished(replace(plain, study="u"))
    assert without_digest(replace(plain, study="u")) == []


def test_a_fork_does_not_mix_the_content_of_its_run_with_another(tmp_path, files):
    made = config(tmp_path, fork=None)
    folder = finished(made)
    checkpoint = folder / "checkpoints/2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    branch = config(tmp_path, arm="branch", fork=str(checkpoint))
    check_forked_content(branch)
    files["sft.path"].write_text("as it is now\n")
    with pytest.raises(UserError, match=r"is of a run with other content behind sft\.path=.*: restore that, or start a new run"):
        check_forked_content(branch)
    shutil.copytree(tmp_path / "sft", tmp_path / "another")
    check_forked_content(replace(branch, sft=StageConfig(path=str(tmp_path / "another"))))


def test_what_is_gone_is_not_compared(tmp_path, files):
    made = config(tmp_path)
    finished(made)
    files["data.path"].unlink()
    assert is_finished(made)
    assert take_over([config(tmp_path, study="t")]) == 0


def test_a_run_that_names_nothing_outside_keeps_no_digests_and_its_identity(tmp_path):
    made = replace(Config(), results=str(tmp_path), arm="a")
    assert (named(made), content(made), config_hash(Config(ppo=PPOConfig(updates=150)))) == ({}, {}, "d733d614431a")
    assert "content" not in yaml.safe_load((finished(made) / "config.yaml").read_text())
    assert "content" not in identity(config(tmp_path))


def test_notes_beside_a_model_are_no_content_and_a_hub_snapshot_is_its_commit(tmp_path, files):
    before = content(config(tmp_path))
    (tmp_path / "sft/README.md").write_text("a note")
    (tmp_path / "pairs/report.json").write_text("{}")
    assert content(config(tmp_path)) == before
    snapshot = tmp_path / "models--a--b/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert digest(Config(), "gold.path", str(snapshot)) == f"commit {COMMIT}"


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(digests, "read_digest", lambda path: read.append(path) or str(len(read)))
    monkeypatch.setattr(digests, "SETTLED", 0.0)
    path = tmp_path / "weights"
    path.write_text("a")
    assert [digests.file_digest(path), digests.file_digest(path)] == ["1", "1"]
    path.write_text("another")
    assert [digests.file_digest(path), digests.file_digest(path)] == ["2", "2"]
    monkeypatch.setattr(digests, "SETTLED", 1e9)
    assert [digests.file_digest(path), digests.file_digest(path)] == ["3", "4"]
