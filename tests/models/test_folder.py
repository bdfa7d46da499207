"""What a model folder must be before its weights are used: each fault is one sentence, before anything is built from it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ablate.errors import UserError
from ablate.models.load import load_policy, load_scorer, load_tokenizer
from ablate.models.weights import INDEX, SINGLE
from ablate.pipeline.checks import resolve_provided
from ablate.ppo.scoring import load_scorer_tokenizer
from tests.models.architectures import tiny_model
from tests.real.families import family_shape, family_tokenizer, random_model

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A Llama with its tokenizer, in shards."""
    tokenizer = family_tokenizer("llama")
    random_model(AutoModelForCausalLM, family_shape("llama", tokenizer), 0).save_pretrained(tmp_path / "model", max_shard_size="5KB")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edited(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path, load: Callable = lambda folder: load_policy(folder, CPU)) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_shards_load_as_they_are(folder):
    stored = {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    assert len(list(folder.glob("*.safetensors"))) > 1 and len(stored) == 20
    loaded = load_policy(folder, CPU).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("shard.bin", "names 'shard.bin': only safetensors files are read"),
        ("../outside.safetensors", "which lies outside of the folder"),
        ("/etc/outside.safetensors", "which lies outside of the folder"),
        ("gone.safetensors", "lacks 'gone.safetensors', which its index names"),
        (3, "maps no tensors to files"),
    ],
)
def test_an_index_names_safetensors_files_within_the_folder_alone(name, sentence, folder, tmp_path):
    """The pickle would make a folder, and the file outside is a right one."""
    marker = tmp_path / "foreign code ran"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save(Payload(), folder / "shard.bin")
    shutil.copy(next(folder.glob("*.safetensors")), tmp_path / "outside.safetensors")
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    edited(folder / INDEX, weight_map=index | {"lm_head.weight": name})
    assert sentence in refusal(folder) and not marker.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_hidden_layers": 10**6}, "sets num_hidden_layers=1000000, beyond 1024"),
        ({"num_hidden_layers": 1e400}, "sets num_hidden_layers=inf, beyond 1024"),
        ({"num_hidden_layers": 1000}, "sets num_hidden_layers=1000, and its weights hold 20 tensors"),
        ({"vocab_size": 10**9}, "describes a model of 16000.* numbers, and its weights hold"),
        ({"intermediate_size": 10**9}, "describes a model of .* numbers, and its weights hold"),
        ({"num_hidden_layers": 1}, "hold model.layers.1.* which config.json leaves out"),
        ({"_attn_implementation": "owner/kernel"}, "sets _attn_implementation='owner/kernel'"),
        ({"attn_implementation": "flash_attention_2"}, "sets attn_implementation='flash_attention_2'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "sets quantization_config: name a model with plain weights"),
        ({"transformers_weights": "shard.bin"}, "sets transformers_weights"),
        ({"rms_norm_eps": float("nan")}, "are not finite"),
    ],
)
def test_a_config_that_the_weights_or_this_product_cannot_follow_is_refused_at_once(changes, sentence, folder):
    edited(folder / "config.json", **changes)
    before = time.perf_counter()
    said = refusal(folder)
    assert time.perf_counter() - before < 2
    with pytest.raises(UserError, match=sentence):
        raise UserError(said)


def test_biases_that_the_config_forgets_are_told(folder):
    """Loaded without them, the model would be another one."""
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if "model.layers.0.self_attn.q_proj.weight" in tensors:
            save_file(tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}, shard, metadata={"format": "pt"})
    assert "hold model.layers.0.self_attn.q_proj.bias, which config.json leaves out" in refusal(folder)


def test_remote_code_that_a_folder_asks_for_never_runs(folder, tmp_path):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    edited(folder / "config.json", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    edited(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    load_tokenizer(folder)
    load_policy(folder, CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", SINGLE])
def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(name, folder):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    sentence = "no config.json" if name == "config.json" else "is no plain file: remove it"
    assert sentence in refusal(folder) and sentence in refusal(folder, load_tokenizer)


def test_an_adapter_is_no_model(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"}))
    assert "holds an adapter over another model" in refusal(folder)


@pytest.mark.parametrize("stage", ["sft", "model"])
def test_a_folder_without_tokenizer_files_is_refused_before_anything_is_built(stage, folder, tiny_config, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    others = ["sft.path=null", "reward_model.path=null", "preferences.path=null", f"{stage}.path={folder}"]
    with pytest.raises(UserError, match=f"{folder} holds no tokenizer"):
        resolve_provided(tiny_config(*others))


def test_tokenizer_settings_without_a_vocabulary_are_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    edited(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    assert "has no vocabulary but its special tokens" in refusal(folder, load_tokenizer)


def test_tokenizer_settings_of_wrong_types_are_told_at_load(folder):
    edited(folder / "tokenizer_config.json", model_max_length="many")
    assert "cannot load the tokenizer" in refusal(folder, load_tokenizer)


@pytest.mark.parametrize("setting", ["reward_model", "gold"])
def test_a_policy_named_as_a_reward_model_is_told_before_sft(setting, stage_folders, tiny_config):
    config = tiny_config("sft.path=null", "preferences.path=null", "ppo.critic_init=sft", f"{setting}.path={stage_folders['sft']}")
    with pytest.raises(UserError, match=f"{stage_folders['sft']} has no score head"):
        resolve_provided(config)


def test_an_architecture_without_a_sequence_classifier_is_told_before_sft(tokenizer, tiny_config, tmp_path):
    model = tiny_model("cohere")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "cohere")
    tokenizer.save_pretrained(tmp_path / "cohere")
    config = tiny_config("sft.path=null", "reward_model.path=null", "preferences.path=null", f"model.path={tmp_path / 'cohere'}")
    with pytest.raises(UserError, match="the architecture cohere has no sequence classifier"):
        resolve_provided(config)
    with pytest.raises(UserError, match="the architecture cohere has no sequence classifier"):
        load_scorer(tmp_path / "cohere", CPU, new_head=True)


def test_a_reward_models_own_tokenizer_is_read_from_the_headers_alone(stage_folders):
    assert len(load_scorer_tokenizer(stage_folders["reward_model"])) == len(load_tokenizer(stage_folders["sft"]))
