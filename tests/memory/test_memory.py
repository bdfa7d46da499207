"""The memory table: parameters, activations and peaks that it predicts against those of real models."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ablate.config import ModelConfig
from ablate.errors import UserError
from ablate.memory import __main__ as memory
from ablate.memory.__main__ import settings
from ablate.memory.estimate import ACTIVATIONS, FROZEN_NORMS, Run, estimate, run_of, weights_and_optimizer
from ablate.memory.report import LORA_RANK, PHASES, bytes_text, savings
from ablate.memory.shapes import SHAPES, Shape, folder_shape, model_shapes, shape_of
from ablate.models.attention import use_grouped_attention
from ablate.models.forward import packed_states
from ablate.models.linear import use_onednn
from ablate.models.load import freeze
from ablate.models.lora import add_adapter
from ablate.system.seeding import torch_generator
from tests.models.architectures import tiny_config

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from memory_peaks import CASES, config_of, measured

TINY = Shape("llama", 2048, 128, 4, 4, 4, 320)
FAMILIES = {
    "llama": Shape("llama", 300, 64, 2, 4, 2, 160),
    "tied": Shape("llama", 300, 64, 2, 4, 4, 160, tied=True),
    "gpt2": Shape("gpt2", 300, 64, 2, 4, 4, 224, tied=True, positions=128),
    "gpt_neox": Shape("gpt_neox", 300, 64, 2, 4, 4, 224),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_of_the_model_that_transformers_builds(name):
    shape = FAMILIES[name]
    policy = AutoModelForCausalLM.from_config(config_of(shape))
    assert shape.parameters == sum(p.numel() for p in policy.parameters())
    assert shape.trunk == sum(p.numel() for p in policy.base_model.parameters())
    assert shape_of(policy.config) == replace(shape, head_width=shape_of(policy.config).head_width)
    pytest.importorskip("peft")
    for targets in (None, [next(iter(shape.linear)).rpartition(".")[2]]):
        model = add_adapter(policy, ModelConfig(lora_rank=3, lora_targets=targets), torch_generator(0, "a"))
        assert shape.adapter(3, targets) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_qwen_has_biases_and_its_shape_is_read_from_its_folder(architecture_folders):
    folder = architecture_folders("qwen2")[0]
    policy = AutoModelForCausalLM.from_pretrained(folder)
    shape = folder_shape(str(folder), "model.path")
    assert shape.qkv_bias and shape.parameters == sum(p.numel() for p in policy.parameters())


PUBLISHED = {
    "GPT-2 124M": 124_439_808, "SmolLM2 135M": 134_515_008, "Qwen2.5 0.5B": 494_032_768, "Pythia 1.4B": 1_414_647_808,
    "Qwen2.5 1.5B": 1_543_714_304, "Llama 2 7B": 6_738_415_616, "Llama 3 8B": 8_030_261_248, "Llama 2 13B": 13_015_864_320,
    "Llama 3 70B": 70_553_706_496,
}  # fmt: skip


def test_the_public_shapes_have_the_published_numbers_of_parameters():
    assert {name: shape.parameters for name, shape in SHAPES.items()} == PUBLISHED


def kept_by_graph(shape: Shape, bf16: bool, lora: bool, rows: int) -> float:
    """Bytes that the graph of a packed pass keeps, weights left out: `rows` dialogues of 96 or 64 tokens."""
    model = use_onednn(use_grouped_attention(AutoModelForCausalLM.from_config(config_of(shape)).eval()))
    if lora:
        model = add_adapter(model, ModelConfig(lora_rank=1), torch_generator(0, "a"))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, alive = {}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # so that no address is used twice
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(2, shape.vocabulary, (rows, 96), generator=torch.Generator().manual_seed(0))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False),
    ):
        real = torch.ones_like(tokens, dtype=torch.bool)
        real[::2, 64:] = False  # two groups of slots, as unequal lengths make
        packed_states(model, tokens, real)
    return sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize(("family", "precision"), ACTIVATIONS)
def test_a_layer_keeps_what_the_constants_say(family, precision, lora):
    """From two depths and two numbers of rows: what is left is one layer's, per token."""
    if lora:
        pytest.importorskip("peft")
    kept = {}
    for layers, rows in product((2, 4), (4, 12)):
        shape = replace(FAMILIES[family], layers=layers, hidden=128, inner=384, kv_heads=4)
        kept[layers, rows] = kept_by_graph(shape, precision == "bf16", lora, rows)
    grown = [kept[layers, 12] - kept[layers, 4] for layers in (2, 4)]
    hidden, inner = ACTIVATIONS[family, precision]
    predicted = (hidden - FROZEN_NORMS[family] * lora) * 128 + inner * 384
    assert (grown[1] - grown[0]) / 2 / (4 * 96 + 4 * 64) == pytest.approx(predicted, rel=0.05)


SMALL = Run(TINY, TINY, prompt=48, response=12, batch=16, minibatch=8, micro=4)
OPTIONS = {
    "plain": SMALL,
    "one micro-batch": replace(SMALL, micro=8),
    "checkpointing": replace(SMALL, micro=8, checkpointing=True),
    "bf16": replace(SMALL, precision="bf16"),
    "LoRA": replace(SMALL, micro=8, lora_rank=4),
    "frozen bf16": replace(SMALL, frozen="bf16"),
}


def ratios(run: Run) -> dict[str, float]:
    """Predicted / measured, by phase."""
    found = estimate(run)
    return {phase: found.peak(phase) / peak for phase, peak in measured(run).items()}


def test_the_peak_of_every_phase_is_predicted_within_15_percent():
    assert ratios(SMALL) == pytest.approx({"rollout": 1, "measure": 1, "update": 1}, abs=0.15)


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("micro", [4, 8])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_update_is_predicted_within_2_percent_where_the_vocabulary_decides(family, micro, bonus):
    """With one micro-batch and with two, during whose second the graph of the first one's entropy is still there."""
    shape = Shape(family, 20000, 32, 2, 4, 4, 128, tied=True, positions=128)
    run = Run(shape, shape, prompt=32, response=32, batch=8, minibatch=8, micro=micro, lora_rank=2, entropy_bonus=bonus)
    assert ratios(run)["update"] == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("run", [*OPTIONS.values(), *CASES.values()], ids=[*OPTIONS, *CASES])
def test_the_peaks_of_other_settings_and_larger_models_are_predicted_within_15_percent(run):
    assert ratios(run) == pytest.approx({"rollout": 1, "measure": 1, "update": 1}, abs=0.15)


@pytest.mark.parametrize("name", FAMILIES)
def test_frozen_models_in_bf16_weigh_what_they_are_predicted_to(name):
    shape = FAMILIES[name]
    policy = AutoModelForCausalLM.from_config(config_of(shape))
    scorer = AutoModelForSequenceClassification.from_config(config_of(shape, num_labels=1))
    found = estimate(Run(shape, shape, prompt=48, response=12, batch=16, minibatch=8, micro=4, frozen="bf16")).phases["measure"]
    for item, model in (("reference", policy), ("reward model", scorer)):
        frozen = freeze(use_onednn(model), "bf16")
        assert found[item] == sum(p.numel() * p.element_size() for p in frozen.parameters())
    assert found["policy"] == 4 * shape.parameters


def test_a_moving_reference_stays_float32_beside_sft_in_bf16():
    plain, held = (weights_and_optimizer(replace(SMALL, sft_copy=True, frozen=frozen)) for frozen in ("fp32", "bf16"))
    assert held["reference"] == plain["reference"] and held["SFT"] < 0.51 * plain["SFT"]


def test_offload_takes_the_frozen_models_out_of_rollout_and_update_alone():
    plain, away = estimate(SMALL), estimate(replace(SMALL, offload=True))
    frozen = 4.0 * (TINY.parameters + TINY.trunk + TINY.hidden)
    assert plain.peak("rollout") - away.peak("rollout") == plain.peak("update") - away.peak("update") == frozen
    assert plain.peak("measure") == away.peak("measure")


def test_an_evaluation_is_a_rollout_of_its_own_size_beside_the_updates_distributions():
    found = estimate(replace(SMALL, held_out=64))
    larger = estimate(replace(SMALL, batch=64))
    kept = estimate(SMALL).phases["rollout"]["kept distributions"]
    assert found.peak("evaluate") == max(larger.peak("rollout"), larger.peak("measure")) + kept
    assert found.peak("update") == estimate(SMALL).peak("update")


def test_the_settings_reach_the_prediction():
    config = settings([
        "data=hh_rlhf", "data.path=x", "data.max_prompt_tokens=100", "sampling.max_new_tokens=50", "ppo.batch_size=64",
        "ppo.micro_batch_size=2", "precision=bf16", "model.gradient_checkpointing=true", "model.lora_rank=4",
        "model.lora_targets=[q_proj]", "ppo.critic_init=sft",
    ])  # fmt: skip
    expected = Run(
        SHAPES["Llama 2 7B"], SHAPES["Llama 2 7B"], prompt=100, response=50, batch=64, minibatch=32, micro=2, precision="bf16",
        checkpointing=True, lora_rank=4, lora_targets=["q_proj"], shared_critic=False, held_out=256,
    )  # fmt: skip
    assert run_of(config, *model_shapes(config, 7e9)) == expected
    assert run_of(settings(["model.frozen_dtype=bf16"]), SMALL.policy, SMALL.reward).frozen == "bf16"


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"model.path=.*/none is not a folder, and its config.json cannot be fetched .*: name a folder, or"):
        folder_shape(str(tmp_path / "none"), "model.path")


def test_the_command_reads_a_folder_and_refuses_a_mistyped_setting(architecture_folders, tmp_path, monkeypatch, capsys):
    folder = architecture_folders("gpt2")[0]
    monkeypatch.setattr(sys, "argv", ["memory", "model=path", f"model.path={folder}", "data=hh_rlhf", f"data.path={tmp_path}"])
    memory.main()
    lines = capsys.readouterr().out.splitlines()
    peaks = next(line for line in lines if line.startswith("| peak"))
    run = run_of(config := settings(sys.argv[1:]), *model_shapes(config, None))
    assert [cell.strip() for cell in peaks.split("|")[2:6]] == [bytes_text(estimate(run).peak(phase)) for phase in PHASES]
    assert "\n".join(lines).endswith(savings(run))
    monkeypatch.setattr(sys, "argv", ["memory", "ppo.bach_size=64"])
    with pytest.raises(SystemExit, match=r"error: ppo.bach_size is not a setting: did you mean ppo.batch_size\?"):
        memory.main()


def test_the_table_has_a_line_a_public_shape_and_every_saving_lowers_the_peak(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["memory", "--table", "ppo.micro_batch_size=4", "sampling.max_new_tokens=256"])
    memory.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[4:]] == list(SHAPES)
    large = Run(SHAPES["Llama 2 7B"], SHAPES["Llama 2 7B"], prompt=256, response=256, batch=64, minibatch=32, micro=16)
    for change in ({"checkpointing": True}, {"micro": 1}, {"lora_rank": 16}, {"frozen": "bf16"}, {"offload": True}):
        assert estimate(replace(large, **change)).peak() < estimate(large).peak()


def test_every_change_offered_instead_lowers_the_peak():
    large = Run(SHAPES["Llama 2 7B"], SHAPES["Llama 2 7B"], prompt=256, response=256, batch=64, minibatch=32, micro=1)
    assert estimate(replace(large, precision="bf16")).peak() > estimate(large).peak()  # copies of weights outweigh the activations
    assert "precision=bf16" not in savings(large) and "offload=true" in savings(large)
    assert "precision=bf16" in savings(replace(large, micro=16))
    lean = replace(large, batch=1, minibatch=1, checkpointing=True, lora_rank=LORA_RANK, precision="bf16")
    assert savings(lean).startswith("none of ") and savings(lean).endswith(" lowers the peak")


def test_a_reward_models_shape_counts_for_critic_and_reward_model():
    large = AutoModelForSequenceClassification.from_config(config_of(FAMILIES["gpt2"], num_labels=1))
    assert FAMILIES["gpt2"].trunk + FAMILIES["gpt2"].hidden == sum(p.numel() for p in large.parameters())
    found = estimate(replace(SMALL, reward=FAMILIES["gpt2"]))
    assert found.phases["update"]["critic"] == 4 * sum(p.numel() for p in large.parameters())


@pytest.mark.parametrize("model_type", ["mamba", "gemma4_text"])
def test_an_architecture_whose_sizes_cannot_be_counted_is_named(model_type, tmp_path):
    """One has no attention heads, and the heads of the other differ from layer to layer."""
    tiny_config(model_type).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"the sizes of .* .{model_type}. cannot be counted .*: name --parameters"):
        folder_shape(str(tmp_path), "model.path")
