"""A user's mistake is one sentence that names the remedy: exit code not 0, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from processes import CONTEXT, command_line, limited

from ablate.errors import UserError
from ablate.run import main
from ablate.runs.folder import run_folder
from ablate.runs.summary import read_summary
from ablate.session import execute


def tiny_arguments(stage_folders: dict[str, Path], root: Path) -> list[str]:
    """The command line of a tiny run that keeps everything under `root`."""
    paths = [f"{name}.path={path}" for name, path in stage_folders.items() if name != "pretrained"]
    return [
        f"model.path={stage_folders['pretrained']}", *paths, f"results={root / 'results'}", f"cache={root / 'cache'}", "study=s",
        "arm=a", "tracker=none", "device=cpu", "ppo.updates=2", "ppo.batch_size=8", "ppo.minibatch_size=4", "ppo.micro_batch_size=4",
        "ppo.critic_pretrain=false", "sampling.max_new_tokens=6", "evaluation.every=2", "evaluation.prompts=4", "checkpoint.every=1",
    ]  # fmt: skip


@pytest.fixture
def arguments(stage_folders, tmp_path) -> list[str]:
    return tiny_arguments(stage_folders, tmp_path)


@pytest.fixture
def refused(monkeypatch, arguments) -> Callable[..., str]:
    """refused(*overrides) → the one sentence with which the command refuses them."""

    def run(*overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ablate", *arguments, *overrides])
        with pytest.raises(SystemExit) as caught:
            main()
        message = caught.value.code
        assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message
        return message

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


MISTAKES = {
    "ppo.kl_penlty=true": "ppo.kl_penlty is not a setting: did you mean ppo.kl_penalty?",
    "kl_penalty=true": "kl_penalty is not a setting: did you mean ppo.kl_penalty?",
    "sed=1": "sed is not a setting: did you mean seed?",
    "pp=vanilla": "pp is not a setting: did you mean ppo?",
    "ppo=vanila": "ppo=vanila is not a preset: did you mean vanilla?",
    "preferences=hrad": "preferences=hrad is not a preset: did you mean hard?",
    "sweep=policy_constrains": "did you mean policy_constraints?",
    "ppo.kl_coef=-1": "ppo.kl_coef=-1.0 is too small: the least value is 0",
    "ppo.gae_lambda=1.5": "ppo.gae_lambda=1.5 is too large: the greatest value is 1",
    "ppo.clip_range=0": "ppo.clip_range=0.0 must be greater than 0",
    "ppo.learning_rate=nan": "ppo.learning_rate=nan is not a finite number",
    "ppo.learning_rate=inf": "ppo.learning_rate=inf is not a finite number",
    "ppo.kl_estimator=k4": "ppo.kl_estimator=k4 is not one of k1, k2, k3, full",
    "ppo.updates=many": "correct the value of ppo.updates",
    "ppo.kl_penalty=maybe": "correct the value of ppo.kl_penalty",
    "ppo.updates=1.5": "correct the value of ppo.updates",
    "ppo.batch_size=9": "ppo.batch_size=9 is not a multiple of ppo.minibatch_size=4",
    "ppo.updates": "is not an override",
    "ppo.adam_betas=[0.9]": "ppo.adam_betas=[0.9] must be two numbers in [0, 1)",
    "seed=-1": "seed=-1 is too small",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistaken_setting_is_refused_by_name_before_anything_is_made(mistake, refused, tmp_path):
    assert MISTAKES[mistake] in refused(mistake)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("submitit") is not None, reason="the extra cluster is installed")
def test_slurm_without_its_extra_names_the_extra(refused):
    assert "needs submitit, which the extra `cluster` installs" in refused("-m", "hydra/launcher=submitit_slurm")


@pytest.mark.parametrize("name", ["model", "pretrain", "sft", "preferences", "reward_model"])
def test_a_missing_path_is_named_before_anything_is_made(name, refused, tmp_path):
    others = ["model.path=null"] if name == "pretrain" else []
    assert f"{name}.path={tmp_path / 'none'} does not exist" in refused(*others, f"{name}.path={tmp_path / 'none'}")
    assert list(tmp_path.iterdir()) == []


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def torn_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def torn_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ')


def pickled(folder: Path) -> None:
    """Only a pickle is there, and it would write a file if anything opened it."""

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'executed'}",)

    (folder / "model.safetensors").unlink()
    torch.save(Payload(), folder / "pytorch_model.bin")


def remote_code(folder: Path) -> None:
    """The folder asks for code of its own."""
    config = json.loads((folder / "config.json").read_text())
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    config |= {"model_type": "unheard_of", "auto_map": dict.fromkeys(classes, "code.Model")}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(folder / 'executed')!r}, 'w')\nclass Model: pass\n")


DAMAGES = (truncated, empty, without_weights, without_config, torn_config, pickled, remote_code)


@pytest.mark.parametrize("name", ["sft", "reward_model"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_folder_is_named_and_left_as_it_is(damage, name, refused, stage_folders, tmp_path):
    folder = copied(stage_folders[name], tmp_path / "model")
    damage(folder)
    before = contents(folder)
    message = refused(f"{name}.path={folder}")
    assert str(folder) in message
    assert message.endswith(("restore the folder or name another", "correct the path"))
    assert contents(folder) == before  # no file that pickle or remote code would have made


def test_a_damaged_tokenizer_is_named(refused, stage_folders, tmp_path):
    folder = copied(stage_folders["sft"], tmp_path / "model")
    torn_tokenizer(folder)
    assert f"cannot load the tokenizer in {folder}" in refused(f"sft.path={folder}")


def test_a_damaged_model_leaves_a_whole_summary_that_says_failed(refused, stage_folders, tmp_path):
    folder = copied(stage_folders["sft"], tmp_path / "model")
    truncated(folder)
    message = refused(f"sft.path={folder}")
    summary = read_summary(tmp_path / "results/s/a/seed=0")
    assert (summary["status"], f"error: {summary['reason']}") == ("failed", message)


@pytest.mark.parametrize(
    ("file", "line"), [("train.jsonl", '{"prompt": "x"}'), ("held_out.jsonl", "not json")], ids=["a row that is no pair", "not JSON"]
)
def test_a_pairs_file_that_is_none_is_named_with_its_line_and_leaves_no_cache_entry(file, line, refused, stage_folders, tmp_path):
    folder = copied(stage_folders["preferences"], tmp_path / "pairs")
    with open(folder / file, "a") as handle:
        handle.write(line + "\n")
    assert f"{folder / file}, line 2, is not a pair" in refused(f"preferences.path={folder}", "reward_model.path=null")
    assert not (tmp_path / "cache").exists()


@pytest.fixture(scope="module")
def done_once(stage_folders, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ablate", *tiny_arguments(stage_folders, root)])
        main()
    return root / "results"


@pytest.fixture
def finished(done_once, tmp_path) -> Path:
    """A finished run of the arguments, in a folder that has lost its summary: the same command would go on."""
    folder = copied(done_once, tmp_path / "results") / "s/a/seed=0"
    (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize(
    "part", ["state.json", "optimizer.safetensors", "policy/model.safetensors", "critic/model.safetensors", "policy/config.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_named_with_the_way_out_and_that_way_works(part, damage, refused, finished, arguments, monkeypatch):
    newest = finished / "checkpoints/2"
    if damage == "missing":
        (newest / part).unlink()
    else:
        (newest / part).write_bytes((newest / part).read_bytes()[: -((newest / part).stat().st_size // 2)])
    before = contents(finished / "checkpoints")
    message = refused()
    assert str(newest) in message
    if part != "state.json" or damage != "missing":
        assert message.startswith(f"error: the checkpoint {newest} is corrupt (")
        assert message.endswith("): remove it to go on from the one before")
    assert contents(finished / "checkpoints") == before
    shutil.rmtree(newest)
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments])
    main()
    assert read_summary(finished)["status"] == "completed"


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_an_unreadable_record_of_a_run_is_named(name, refused, finished):
    (finished / name).write_text('{"torn": [')
    assert f"{finished / name} is not readable" in refused()


def test_streams_shorter_than_at_the_checkpoint_are_named(refused, finished):
    os.truncate(finished / "scores.jsonl", 10)
    assert f"{finished / 'scores.jsonl'} is shorter than at the last checkpoint" in refused()


def test_a_run_folder_of_other_settings_is_left_as_it_is_and_the_setting_named(refused, finished):
    before = contents(finished)
    message = refused("ppo.kl_coef=0.25")
    assert f"{finished} belongs to other settings (ppo.kl_coef is 0.1 there and 0.25 here): set study=<name> or remove it" in message
    assert contents(finished) == before


def test_settings_that_change_no_number_do_not_make_other_settings(finished, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments, "checkpoint.every=2", "jobs=1"])
    main()
    assert read_summary(finished)["status"] == "completed"


@pytest.mark.parametrize("setting", ["results", "cache"])
def test_a_folder_that_cannot_be_made_is_named(setting, refused, tmp_path):
    (tmp_path / "file").write_text("in the way")
    unbuilt = ["reward_model.path=null"] if setting == "cache" else []
    message = refused(*unbuilt, f"{setting}={tmp_path / 'file'}")
    assert message.startswith("error: cannot write ") and message.endswith(f"or set {setting}=<folder>")


@pytest.mark.parametrize(
    ("size", "overrides", "setting"),
    [(4_000, [], "results"), (7_000, [], "results"), (30_000, [], "results"), (15_000, ["reward_model.path=null"], "cache")],
    ids=["in the config", "in a stream", "in a checkpoint", "in a stage"],
)
def test_a_full_disk_is_one_sentence_and_leaves_no_half_entry(size, overrides, setting, make_config, tmp_path):
    config = make_config(tmp_path, "reward_model.steps=1", "evaluation.prompts=64", *overrides)
    log = tmp_path / "output.log"
    process = CONTEXT.Process(target=limited, args=(config, size, log))
    process.start()
    process.join(60)
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert process.exitcode == 1 and "Traceback" not in log.read_text()
    assert len(said) == 1 and said[0].startswith("error: cannot write ") and said[0].endswith(f"free space or set {setting}=<folder>")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("overrides", "update", "tensor"),
    [(["ppo.learning_rate=1e30"], 2, "loss"), (["ppo.critic_learning_rate=1e30"], 2, "loss"),
     (["ppo.critic_pretrain=true", "ppo.critic_pretrain_updates=2", "ppo.critic_learning_rate=1e30"], 1, "")],
    ids=["policy", "critic", "critic pre-training"],
)  # fmt: skip
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged_naming_update_and_tensor(overrides, update, tensor, make_config, tmp_path):
    config = make_config(tmp_path, "ppo.micro_batch_size=4", "ppo.minibatch_size=16", "ppo.critic_pretrain=false", *overrides)
    summary = execute(config)
    assert summary["status"] == "diverged"
    assert summary["reason"].startswith(f"update {update}: the ") and summary["reason"].endswith(" is not finite")
    assert tensor in summary["reason"]
    written = json.loads((run_folder(config) / "summary.json").read_text(), parse_constant=pytest.fail)
    assert written["status"] == "diverged"
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (run_folder(config) / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(update if update > 1 else 0))
    assert execute(config) == written


def test_a_score_that_is_not_finite_ends_the_run_as_diverged(make_config, stage_folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(stage_folders["reward_model"], tmp_path / "reward_model")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], 3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = make_config(tmp_path, f"reward_model.path={folder}", "ppo.critic_init=sft", "ppo.critic_pretrain=false")
    summary = execute(config)
    assert (summary["status"], summary["reason"]) == ("diverged", "update 1: the reward model's score is not finite")


@pytest.mark.parametrize(("first", "update"), [(0, 1), (1, 3)], ids=["of SFT", "of the policy"])
def test_gold_that_is_not_finite_ends_the_run_as_diverged_and_never_as_held(first, update, make_config, tmp_path, monkeypatch):
    """The `first` evaluations have gold; then one answer's is NaN, which no comparison tells from a run that held."""
    calls = []

    def gold(prompts, responses, ended):
        calls.append(len(responses))
        return [1.0] * (len(responses) - 1) + [float("nan") if len(calls) > first + bool(first) else 2.0]

    monkeypatch.setattr("ablate.trainer.open_gold", lambda *_: gold)
    config = make_config(tmp_path, "ppo.critic_pretrain=false")
    summary = execute(config)
    assert (summary["status"], summary["collapsed"]) == ("diverged", None)
    assert summary["reason"] == f"update {update}: gold is not finite for 1 of 8 held-out answers"
    json.loads((run_folder(config) / "summary.json").read_text(), parse_constant=pytest.fail)


def test_weights_that_are_not_finite_are_refused_by_the_folder_and_the_name_of_the_weight(make_config, stage_folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(stage_folders["reward_model"], tmp_path / "reward_model")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"][0, 0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = make_config(tmp_path, f"reward_model.path={folder}", "ppo.critic_init=sft", "ppo.critic_pretrain=false")
    with pytest.raises(UserError, match=r"reward_model are not finite \(score.weight\): restore the folder or name another"):
        execute(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused(make_config, tmp_path):
    with pytest.raises(UserError, match="device=cuda, and torch finds no such device here: set device=auto or cpu"):
        execute(make_config(tmp_path, "device=cuda"))


def test_the_command_itself_says_one_sentence_on_stderr_and_exits_with_1(arguments, tmp_path):
    done = command_line(*arguments, "ppo.kl_penlty=true", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ppo.kl_penlty is not a setting: did you mean ppo.kl_penalty?")
    assert len(done.stderr.splitlines()) == 1


def test_a_diverged_run_is_no_error_so_that_a_sweep_goes_on(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ablate", *arguments, "ppo.learning_rate=1e30"])
    main()
    assert "diverged" in capsys.readouterr().out
