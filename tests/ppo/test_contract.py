"""Toggling is composing: every toggle has a function that says what it is, is read once, and flipped alone changes its stage alone."""

import ast
import inspect
import json
import re
import typing
from collections import defaultdict
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from synthetic import loss_of, random_rollout, random_targets, with_pads

import ablate
from ablate import trainer
from ablate.config import PPOConfig, PPOSettings
from ablate.models import load
from ablate.ppo import update as ppo_update
from ablate.ppo.shaping import (
    critic_pretrain_loss,
    estimate_targets,
    explained_variance,
    initial_state,
    minibatch_advantages,
    shape_rewards,
)
from ablate.ppo.tricks import advantage, policy, reward, running, value
from ablate.ppo.types import Rollout, Targets
from ablate.ppo.update import new_optimizer, update
from ablate.runs.folder import run_folder
from ablate.session import execute
from ablate.settings import identity
from ablate.system.seeding import torch_generator

SOURCE = Path(ablate.__file__).parent
VANILLA = PPOConfig(**yaml.safe_load((SOURCE / "conf/ppo/vanilla.yaml").read_text())["ppo"])
PURE = ("shape_rewards", "estimate_targets", "minibatch_advantages", "ppo_loss")


@dataclass(frozen=True)
class Flip:
    """A setting's other value, its stage (one trick has two), and what must be on for it to mean anything.

    `function`: where it has not the setting's name.
    """

    to: object
    stage: str
    needs: dict = field(default_factory=dict)
    function: object = None


KL, ADAPTIVE, ENTROPY = {"kl_penalty": True}, {"kl_penalty": True, "kl_adaptive": True}, {"entropy_bonus": True}
TOGGLES = {
    "kl_penalty": Flip(True, "shape_rewards"),
    "kl_adaptive": Flip(True, "shape_rewards", KL),
    "reward_scaling": Flip(True, "shape_rewards"),
    "reward_norm": Flip(True, "shape_rewards"),
    "reward_clip": Flip(0.3, "shape_rewards"),
    "missing_eos_penalty": Flip(1.0, "shape_rewards"),
    "bootstrap_truncated": Flip(True, "shape_rewards estimate_targets"),
    "advantage_norm": Flip(True, "minibatch_advantages"),
    "advantage_clip": Flip(0.5, "minibatch_advantages"),
    "ratio_clip": Flip(False, "ppo_loss"),
    "clip_range_high": Flip(0.01, "ppo_loss"),
    "policy_kl": Flip(True, "ppo_loss"),
    "entropy_bonus": Flip(True, "ppo_loss"),
    "entropy_clip": Flip(0.5, "ppo_loss", ENTROPY),
    "value_clip": Flip(True, "ppo_loss"),
    "kl_loss": Flip(True, "ppo_loss"),
    "dual_clip": Flip(1.01, "ppo_loss"),
    "divergence_mask": Flip(0.01, "ppo_loss"),
    "overlong_filter": Flip(True, "ppo_loss"),
    "gae_lambda_critic": Flip(1.0, "estimate_targets"),
    "gae_length_adaptive": Flip(0.5, "estimate_targets"),
    "value_norm": Flip(True, "start"),
    "chi2_penalty": Flip(0.5, "shape_rewards"),
    "entropy_adaptive": Flip(5.0, "shape_rewards", ENTROPY),
    "ratio_guard": Flip(1e-9, "update"),
    "target_kl": Flip(1e-9, "update"),
    "ptx": Flip(True, "update"),
    "grad_clip": Flip(True, "update"),
    "critic_pretrain": Flip(True, "start"),
}
CHOICES = {
    "kl_estimator": Flip("k3", "shape_rewards", KL, reward.kl_estimate),
    "reward_norm_over": Flip("batch", "shape_rewards", {"reward_norm": True}, reward.reward_norm),
    "importance_sampling": Flip("reference", "ppo_loss", function=policy.importance_sampling),
    "missing_eos_form": Flip("replace", "shape_rewards", {"missing_eos_penalty": 1.0}, reward.missing_eos_penalty),
    "entropy_clip_form": Flip("moss", "ppo_loss", ENTROPY | {"entropy_clip": 0.5}, policy.entropy_clip),
    "critic_init": Flip("sft", "start", function=load.new_critic),
    "policy_init": Flip("pretrained", "start", function=trainer.load_models),
    "kl_loss_estimator": Flip("k3", "ppo_loss", {"kl_loss": True}, policy.kl_loss),
    "loss_aggregation": Flip("sequence", "ppo_loss", function=policy.loss_aggregation),
    "advantage_estimator": Flip("rloo", "estimate_targets", {"samples_per_prompt": 2}, advantage.advantage_estimator),
    "reward_shape": Flip("log_sigmoid", "shape_rewards", function=reward.reward_shape),
    "ensemble_score": Flip("worst", "shape_rewards", function=reward.ensemble_score),
    "length_penalty": Flip("linear", "shape_rewards", function=reward.length_penalty),
    "lr_schedule": Flip("inverse_sqrt", "update", function=ppo_update.rate_factor),
    "reference_update": Flip("reset", "run", KL | {"reference_update_every": 1}, policy.reference_update),
    "mismatch_correction": Flip("tis", "ppo_loss", function=policy.mismatch_correction),
}
AMOUNTS = {
    "kl_coef": Flip(0.3, "shape_rewards", KL),
    "kl_target": Flip(0.5, "shape_rewards", ADAPTIVE | {"kl_estimator": "full"}),
    "kl_horizon": Flip(100.0, "shape_rewards", ADAPTIVE),
    "gae_lambda": Flip(0.5, "estimate_targets"),
    "gamma": Flip(0.9, "estimate_targets"),
    "clip_range": Flip(0.05, "ppo_loss"),
    "policy_kl_coef": Flip(0.5, "ppo_loss", {"policy_kl": True}),
    "entropy_coef": Flip(0.5, "ppo_loss", ENTROPY),
    "value_coef": Flip(0.5, "ppo_loss"),
    "value_clip_range": Flip(0.05, "ppo_loss", {"value_clip": True}),
    "ptx_coef": Flip(3.0, "update", {"ptx": True}),
    "max_grad_norm": Flip(0.01, "update", {"grad_clip": True}),
    "epochs": Flip(2, "update"),
    "minibatch_size": Flip(8, "update"),
    "learning_rate": Flip(1e-2, "update"),
    "critic_learning_rate": Flip(1e-2, "update"),
    "warmup_ratio": Flip(0.5, "update"),
    "adam_betas": Flip([0.5, 0.5], "update"),
    "adam_eps": Flip(1e-2, "update"),
    "critic_adam_eps": Flip(1e-2, "update"),
    "critic_pretrain_updates": Flip(2, "start", {"critic_pretrain": True}),
    "reference_update_rate": Flip(0.3, "run", KL | {"reference_update": "ema", "reference_update_every": 1}),
    "reference_update_every": Flip(1, "run", KL | {"reference_update": "ema"}),
    "samples_per_prompt": Flip(3, "estimate_targets", {"advantage_estimator": "rloo", "samples_per_prompt": 2}),
    "kl_loss_coef": Flip(0.3, "ppo_loss", {"kl_loss": True}),
    "entropy_adaptive_step": Flip(0.1, "shape_rewards", ENTROPY | {"entropy_adaptive": 5.0}),
    "reward_shape_references": Flip(0, "start", {"reward_shape": "sigmoid"}),
    "ensemble_coef": Flip(2.0, "shape_rewards", {"ensemble_score": "uncertainty"}),
    "length_penalty_coef": Flip(0.3, "shape_rewards", {"length_penalty": "linear"}),
    "length_penalty_free": Flip(1, "shape_rewards", {"length_penalty": "overlong"}),
    "mismatch_low": Flip(0.9, "ppo_loss", {"mismatch_correction": "icepop"}),
    "mismatch_high": Flip(1.1, "ppo_loss", {"mismatch_correction": "tis"}),
}
# What a setting that acts before or around the first update changes in its row, where that is not the critic's values.
CHANGES = {"policy_init": "monitor/kl_to_sft", "value_norm": "ppo/value_loss", "reward_shape_references": "reward/shaped_mean"}
SIZES = {"updates", "batch_size", "micro_batch_size"}  # the run's length, its buffer, and what may change nothing at all
FLIPS = TOGGLES | CHOICES | AMOUNTS

EQUATION = re.compile(r"[=−·²/]|max\(|clip\(")
CITATION = re.compile(r"\d{4}\.\d{5}|Secrets of RLHF|lm-human-preferences|Schulman")


def is_toggle(f) -> bool:
    """A switch, or an amount that null switches off."""
    kind = typing.get_type_hints(PPOConfig)[f.name]
    return kind is bool or type(None) in typing.get_args(kind)


def function_of(name: str):
    found = [getattr(module, name) for module in (reward, advantage, policy, value, running) if hasattr(module, name)]
    assert len(found) == 1, f"{name} needs one function of its name in ablate.tricks"
    return found[0]


def test_every_field_is_a_toggle_a_choice_an_amount_or_a_size():
    assert {f.name for f in fields(PPOConfig) if is_toggle(f)} == TOGGLES.keys()
    assert {f.name for f in fields(PPOConfig) if f.metadata["choices"]} == CHOICES.keys()
    assert {f.name for f in fields(PPOConfig)} == FLIPS.keys() | SIZES


@pytest.mark.parametrize("name", TOGGLES)
def test_a_toggles_function_states_equation_source_and_what_off_means(name):
    text = inspect.getdoc(function_of(name))
    assert "Off:" in text
    assert CITATION.search(text)
    assert EQUATION.search(text.split("Off:")[0])


@pytest.mark.parametrize("name", CHOICES)
def test_a_choices_function_names_its_choices_and_its_source(name):
    (metadata,) = (f.metadata for f in fields(PPOConfig) if f.name == name)
    text = inspect.getdoc(CHOICES[name].function)
    for choice in metadata["choices"]:
        assert re.search(rf"\b{choice}\b", text), choice
    assert CITATION.search(text) or name == "lr_schedule"


def complete(rollout: Rollout) -> Rollout:
    """With the fields that are measured for one trick alone."""
    members = rollout.score[:, None] + torch.tensor([[0.0, 1.0, -2.0]]) * rollout.values[:, :1]
    return replace(rollout, chi2=rollout.kl**2, member_scores=members)


def pure_stages(ppo: PPOConfig, fill: float | None = None) -> dict[str, list[torch.Tensor]]:
    """Every stage on fixed inputs, none on another's output, so that a setting read in the wrong stage shows."""
    rollout, before = complete(random_rollout()), complete(random_rollout(seed=9))
    targets = random_targets(rollout, seed=7)
    new = {name: values + 0.3 * noise for (name, values), noise in zip(
        {"logprobs": rollout.logprobs, "entropy": rollout.entropy, "values": rollout.values}.items(),
        torch.randn(3, *rollout.mask.shape, generator=torch.Generator().manual_seed(8)), strict=True)}  # fmt: skip
    given = rollout.kl
    if fill is not None:
        rollout = with_pads(rollout, fill)
        given = torch.where(rollout.mask, given, fill)
        targets = Targets(*(torch.where(rollout.mask, x, fill) for x in (targets.advantages, targets.returns)))
        new = {name: torch.where(rollout.mask, x, fill) for name, x in new.items()}
    state = initial_state(ppo)
    _, state = shape_rewards(before, PPOSettings(ppo), state)  # a history, so that moments over it are not this batch's
    rewards, state = shape_rewards(rollout, PPOSettings(ppo), state)
    estimated = estimate_targets(rollout, given, ppo)
    leaves = [x.clone().requires_grad_() for x in new.values()]
    tokens = int(rollout.mask.sum())
    drift = torch.where(rollout.mask, leaves[0] - rollout.ref_logprobs, 0.0) ** 2  # stands for the full KL, with a gradient
    loss = loss_of(*leaves, rollout, targets, ppo, full_kl=drift)
    gradients = torch.autograd.grad(loss.total, leaves, allow_unused=True)
    slopes = [torch.zeros(()) if g is None else g[rollout.mask] for g in gradients]
    terms = [getattr(loss, f.name).detach() for f in fields(loss)]
    return {
        "shape_rewards": [rewards, torch.tensor([state.kl_coef, state.entropy_coef, state.moments.mean, state.moments.std])],
        "estimate_targets": [estimated.advantages, estimated.returns, torch.tensor(explained_variance(rollout, estimated))],
        "minibatch_advantages": [minibatch_advantages(targets.advantages, rollout.mask, PPOSettings(ppo))],
        "ppo_loss": [*terms, *slopes, critic_pretrain_loss(new["values"], rollout, targets, tokens)],
    }


def weights_after_update(tiny_models, tiny_config, ppo: PPOConfig) -> list[torch.Tensor]:
    """All weights after two updates on fixed records, from the same start."""
    rollout = random_rollout(lengths=(5, 2, 7, 1, 7, 4, 3, 6))
    optimizer = new_optimizer(tiny_models, ppo)
    text = torch.arange(2, 26).view(2, 12)

    def ptx_loss(step: int) -> torch.Tensor:
        return tiny_models.policy(input_ids=text, labels=text).loss

    for first_step in (0, 2):
        update(
            tiny_models, optimizer, rollout, random_targets(rollout), PPOSettings(ppo, tiny_config().sampling),
            torch_generator(0, "order", first_step), first_step, ptx_loss, 0.01,
        )  # fmt: skip
    return [p.detach().clone() for model in (tiny_models.policy, tiny_models.critic) for p in model.parameters()]


def rows_of(config) -> list[dict[str, float]]:
    """The rows of a run's updates. The first one's rollout and values are those of policy and critic as they start."""
    execute(config)
    rows = [json.loads(line) for line in (run_folder(config) / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["update"] >= 1]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


SMALL = dict(batch_size=8, minibatch_size=4, micro_batch_size=4, critic_pretrain_updates=1)


@pytest.mark.parametrize("name", FLIPS)
def test_flipping_a_setting_alone_changes_its_stage_and_no_other(name, tiny_config, tiny_models, stage_folders):
    flip = FLIPS[name]
    off = replace(VANILLA, **SMALL, **flip.needs)
    assert getattr(off, name) != flip.to
    on = replace(off, **{name: flip.to})
    before, after = pure_stages(off), pure_stages(on)
    changed = {stage for stage in PURE if not same(before[stage], after[stage])}
    assert changed == (set(flip.stage.split()) & set(PURE))
    if flip.stage == "update":
        first = weights_after_update(tiny_models, tiny_config, off)
        assert not same(first, weights_after_update(fresh(tiny_models, stage_folders), tiny_config, on))
    if flip.stage == "start":
        rows = []
        for arm, ppo in (("off", off), ("on", on)):
            config = tiny_config(f"arm={arm}")
            config.ppo = replace(ppo, updates=1)
            rows.append(rows_of(config)[0])
        changes = CHANGES.get(name, "ppo/value_mean")
        assert rows[0][changes] != rows[1][changes]
    if flip.stage == "run":  # acts between updates: the first is the same, the next is not
        runs = []
        for arm, ppo in (("off", off), ("on", on)):
            config = tiny_config(f"arm={arm}")
            config.ppo = replace(ppo, updates=2)
            runs.append([row["reward/shaped_mean"] for row in rows_of(config)])
        assert runs[0][0] == runs[1][0] and runs[0][1] != runs[1][1]


def fresh(tiny_models, stage_folders):
    """The same models before any update."""
    return replace(
        tiny_models,
        policy=load.load_policy(stage_folders["sft"], torch.device("cpu")),
        critic=load.load_scorer(stage_folders["reward_model"], torch.device("cpu")),
    )


def test_an_update_is_repeatable_so_that_a_change_of_weights_means_a_change_of_setting(tiny_models, tiny_config, stage_folders):
    ppo = replace(VANILLA, **SMALL)
    first = weights_after_update(tiny_models, tiny_config, ppo)
    assert same(first, weights_after_update(fresh(tiny_models, stage_folders), tiny_config, ppo))


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("name", [None, *FLIPS])
def test_pads_never_change_any_output(name, fill):
    """Outputs and the gradients at real tokens are equal bit for bit whatever the pads of the [B, T] inputs hold."""
    flips = {} if name is None else {**FLIPS[name].needs, name: FLIPS[name].to}
    ppo = replace(VANILLA, **flips)
    clean, filled = pure_stages(ppo), pure_stages(ppo, fill)
    for stage in PURE:
        assert same(clean[stage], filled[stage]), stage


BELONGS = [(toggle, amount) for toggle, amounts in identity.AMOUNTS.items() for amount in amounts]


@pytest.mark.parametrize(("toggle", "amount"), BELONGS)
def test_the_amount_of_a_trick_that_is_off_changes_no_number(toggle, amount, tiny_models, tiny_config, stage_folders):
    """What lets two configs that differ only there be one run."""
    flip = FLIPS[amount]
    off = replace(VANILLA, **SMALL, ratio_clip=False)
    assert getattr(off, toggle) in (False, None, "none")
    changed = replace(off, **{amount: flip.to})
    before, after = pure_stages(off), pure_stages(changed)
    if amount in ("kl_coef", "entropy_coef"):  # the state carries them whether or not they are used
        before["shape_rewards"].pop(), after["shape_rewards"].pop()
    assert all(same(before[stage], after[stage]) for stage in PURE)
    if flip.stage == "update":
        first = weights_after_update(tiny_models, tiny_config, off)
        assert same(first, weights_after_update(fresh(tiny_models, stage_folders), tiny_config, changed))


def readings() -> dict[str, set[str]]:
    """Setting → functions of the package that read `ppo.<setting>`; config, validation, checks and memory declare, refuse and predict."""
    names, found = {f.name for f in fields(PPOConfig)}, defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        if path.name in ("config.py", "validation.py", "checks.py") or path.parent.name == "memory":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value).rpartition(".")[2] == "ppo":
                    found[node.attr].add(f"{path.stem}.{function.name}")
    return found


def test_each_toggle_and_choice_is_read_in_exactly_one_function():
    """But four: whether the whole minibatch's entropy is needed is asked before its micro-batches run, a fork keeps a steered η, a
    truncated response that goes on has no score among its rewards and a value in its targets, and the stage that a policy starts from
    is built only where one does.
    """
    once = {name: functions for name, functions in readings().items() if name in TOGGLES | CHOICES}
    assert once.keys() == TOGGLES.keys() | CHOICES.keys()
    assert once.pop("entropy_clip") == {"shaping.ppo_loss", "update.backward_minibatch"}
    assert once.pop("bootstrap_truncated") == {"shaping.shape_rewards", "shaping.estimate_targets"}
    assert once.pop("policy_init") == {"build.build", "trainer.load_models", "identity._unread"}
    assert once.pop("kl_adaptive") == {"shaping.shape_rewards", "trainer.restore"}
    assert {name: functions for name, functions in once.items() if len(functions) != 1} == {}


def test_shaping_reads_every_toggle_of_reward_advantage_and_loss():
    """The toggles that are not its own act on the gradient, on pretraining text, or before the first update."""
    elsewhere = {name for name, functions in readings().items() if name in TOGGLES and not any(f.startswith("shaping.") for f in functions)}
    assert elsewhere == {"ptx", "grad_clip", "critic_pretrain", "ratio_guard", "target_kl", "value_norm"}
