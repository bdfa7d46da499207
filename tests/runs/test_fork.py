"""`fork=<checkpoint>` branches a run: everything of it stays, but for the settings on the command line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from processes import run
from safetensors.torch import load_file

from ablate.config import Config
from ablate.errors import UserError
from ablate.runs.folder import run_folder
from ablate.runs.fork import forked
from ablate.session import execute

INHERITED = ("ppo.kl_penalty=false", "ppo.reward_clip=2.5", "sampling.max_new_tokens=7", "checkpoint.keep=0", "seed=3")
ADAPTIVE = ("ppo.kl_adaptive=true", "ppo.kl_horizon=50", "checkpoint.keep=0")


def rows(config: Config) -> list[dict]:
    return [json.loads(line) for line in (run_folder(config) / "metrics.jsonl").read_text().splitlines()]


def fork(folder: Path, checkpoint: Path, *overrides: str) -> Config:
    """What the command line `fork=<checkpoint> …` gives, its results under `folder`."""
    given = [f"fork={checkpoint}", f"results={folder}", "tracker=none", "arm=branch", *overrides]
    composed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(given)))
    return forked(composed, given)


@pytest.fixture(scope="module")
def original(make_config, tmp_path_factory) -> Config:
    config = make_config(tmp_path_factory.mktemp("original"), *INHERITED)
    execute(config)
    return config


@pytest.fixture(scope="module")
def adaptive(make_config, tmp_path_factory) -> Config:
    config = make_config(tmp_path_factory.mktemp("adaptive"), *ADAPTIVE)
    execute(config)
    return config


def test_a_fork_inherits_every_setting_that_its_command_line_does_not_name(original, tmp_path):
    config = fork(tmp_path, run_folder(original) / "checkpoints/4", "ppo.kl_penalty=true", "ppo.kl_coef=0.5")
    named = {"fork": config.fork, "results": str(tmp_path), "arm": "branch", "study": "default", "cache": Config().cache}
    expected = asdict(original) | named | {"checkpoint": asdict(Config())["checkpoint"]}
    expected["ppo"] |= {"kl_penalty": True, "kl_coef": 0.5}
    assert asdict(config) == expected


def test_a_fork_that_would_have_no_update_to_do_is_refused(original, tmp_path):
    with pytest.raises(UserError, match=r"ppo.updates=4 leaves nothing to do after update 4 of the fork: raise ppo.updates"):
        fork(tmp_path, run_folder(original) / "checkpoints/4", "ppo.updates=4")
    assert fork(tmp_path, run_folder(original) / "checkpoints/4", "ppo.updates=5").ppo.updates == 5


@pytest.mark.parametrize("override", ["ppo.critic_init=sft", "ppo.policy_init=pretrained", "ppo.critic_pretrain=false",
                                      "ppo.critic_pretrain_updates=7"])  # fmt: skip
def test_a_fork_refuses_what_acts_before_the_first_update_unless_it_says_what_its_run_says(override, original, tmp_path):
    """Else two arms would be equal bit for bit under two names."""
    checkpoint, name = run_folder(original) / "checkpoints/4", override.partition("=")[0]
    with pytest.raises(UserError, match=f"^{override} would do nothing: fork=.* leave it out, or start a new run$"):
        fork(tmp_path, checkpoint, override)
    same = str(getattr(original.ppo, name.removeprefix("ppo."))).lower()
    assert fork(tmp_path, checkpoint, f"{name}={same}").ppo == original.ppo


def test_a_forks_first_rollout_is_that_of_the_next_update_of_the_run_it_branches(original, tmp_path):
    config = fork(tmp_path, run_folder(original) / "checkpoints/4", "ppo.kl_penalty=true")
    execute(config)
    known = {row["update"]: row for row in rows(original)}
    start, first, last = rows(config)
    assert [start["update"], first["update"], last["update"]] == [4, 5, 6]
    same = [name for name in known[5] if name.startswith(("monitor/", "reward/proxy"))]
    assert len(same) == 19
    assert {name: first[name] for name in same} == {name: known[5][name] for name in same}
    assert first["ppo/policy_loss"] != known[5]["ppo/policy_loss"]
    judged = [name for name in start if name.startswith("eval/")]
    assert {name: start[name] for name in judged} == {name: known[4][name] for name in judged}


def test_a_fork_that_changes_nothing_ends_with_the_weights_of_the_run_it_branches(adaptive, tmp_path):
    config = fork(tmp_path, run_folder(adaptive) / "checkpoints/4")
    execute(config)
    for part in ("policy/model", "critic/model", "optimizer"):
        ours, theirs = (load_file(run_folder(c) / f"checkpoints/6/{part}.safetensors") for c in (config, adaptive))
        assert ours.keys() == theirs.keys()
        assert all((ours[name] == theirs[name]).all() for name in ours)
    assert [row["ppo/kl_coef"] for row in rows(config)[1:]] == [row["ppo/kl_coef"] for row in rows(adaptive)[5:]]


def test_a_fork_that_sets_the_kl_coefficient_starts_the_controller_there(adaptive, tmp_path):
    config = fork(tmp_path, run_folder(adaptive) / "checkpoints/4", "ppo.kl_coef=7.0", "ppo.kl_horizon=1e9", "ppo.updates=5")
    execute(config)
    assert rows(config)[-1]["ppo/kl_coef"] == pytest.approx(7.0, rel=1e-6)


def test_a_killed_fork_goes_on_from_its_own_checkpoint(original, tmp_path, same_numbers):
    checkpoint = run_folder(original) / "checkpoints/2"
    whole, killed = (fork(tmp_path / name, checkpoint, "ppo.kl_penalty=true", "checkpoint.every=2") for name in ("whole", "killed"))
    execute(whole)
    assert run(killed, "backward_minibatch", 2 * 2 + 1) < 0
    assert (run_folder(killed) / "checkpoints/4").is_dir()
    assert run(killed) == 0
    same_numbers(run_folder(killed), run_folder(whole))


@pytest.mark.parametrize("group", ["ppo=vanilla", "model=world", "data=world", "preferences=hard"])
def test_a_fork_refuses_a_preset(group, original):
    given = [f"fork={run_folder(original) / 'checkpoints/4'}", group]
    with pytest.raises(UserError, match=f"^{group.partition('=')[0]}=… would replace .* name single settings instead$"):
        forked(Config(fork=given[0].removeprefix("fork=")), given)


@pytest.mark.parametrize("place", ["checkpoints/5", "checkpoints", "nowhere/checkpoints/4"])
def test_a_fork_names_a_checkpoint_that_is_not_there(place, original, tmp_path):
    with pytest.raises(UserError, match=r"is not a checkpoint of a run: name a folder results/…/checkpoints/<update>$"):
        fork(tmp_path, run_folder(original) / place)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/", ".", "..", "x" * 10_000, "a\nb", "/proc/1/fd", "loop"])
def test_a_fork_of_what_is_no_checkpoint_is_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"^fork=.* is not a checkpoint of a run") as caught:
        forked(Config(fork=name), [])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200
