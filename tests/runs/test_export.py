"""Exported models: the same numbers through transformers alone, by the card's own Python, and a card that says what is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ablate.data.chat import encode_dialogues, encode_turns
from ablate.errors import UserError
from ablate.export.__main__ import main
from ablate.export.folder import export
from ablate.models.forward import response_logits, sequence_score
from ablate.models.load import load_policy, load_scorer
from ablate.models.lora import add_adapter, restore_adapter
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute
from ablate.system.seeding import torch_generator

CPU = torch.device("cpu")
REFUSED = """
import runpy, sys
try:
    runpy.run_module("ablate.export", run_name="__main__", alter_sys=True)
except SystemExit as ended:
    print(ended.code)
print(*sorted({"torch", "transformers"} & sys.modules.keys()))
"""
ALONE = "import sys; sys.modules['ablate'] = None; sys.modules['analysis'] = None\n"  # an import of either now fails


def alone(code: str, folder: Path) -> str:
    """Output of Python that has transformers but not this package, in the exported folder, on the instruction set of this process."""
    done = subprocess.run([sys.executable, "-I", "-c", ALONE + code], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def python_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    return code


def example(run: Path) -> tuple[str, str]:
    """The question and answer that the card shows: of the world, whose tokenizer knows no other words."""
    row = read_rows(run / "samples.jsonl")[0]
    return row["prompt"], row["response"]


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory) -> Path:
    """A finished run whose reward model the pipeline trained, with every checkpoint."""
    config = make_config(
        tmp_path_factory.mktemp("run"), "reward_model.path=null", "reward_model.steps=2", "reward_model.batch_size=1", "checkpoint.keep=0",
        "ppo.kl_coef=0.3", "ppo.updates=4",
    )  # fmt: skip
    execute(config)
    return run_folder(config)


@torch.no_grad()
def test_an_exported_policy_gives_the_runs_logits_bit_for_bit_without_this_package(run, tmp_path):
    folder = export(run, tmp_path / "policy")
    card = (folder / "README.md").read_text()
    code = python_of(card) + (
        "import torch\nfrom safetensors.torch import save_file\nwith torch.no_grad():\n"
        "    save_file({'tokens': tokens.input_ids, 'logits': model(tokens.input_ids).logits}, 'seen.safetensors')"
    )
    alone(code, folder)
    seen = load_file(folder / "seen.safetensors")
    own = run / "checkpoints/4/policy"
    question, _ = example(run)
    assert seen["tokens"][0].tolist() == encode_turns(AutoTokenizer.from_pretrained(own), [question])[0]
    assert torch.equal(seen["logits"], AutoModelForCausalLM.from_pretrained(own)(seen["tokens"]).logits)
    real = torch.ones_like(seen["tokens"], dtype=torch.bool)
    inside = response_logits(load_policy(own, CPU), seen["tokens"], real, real[:, 1:])
    torch.testing.assert_close(inside, seen["logits"][0, :-1], rtol=0, atol=5e-6)


@torch.no_grad()
@pytest.mark.parametrize("what", ["reward_model", "critic"])
def test_an_exported_scorer_gives_the_runs_score_by_the_cards_own_python(run, tmp_path, what):
    """The logit is the run's uncentred one bit for bit, and the card subtracts the shift that centred it."""
    folder = export(run, tmp_path / "scorer", what)
    own = Path(json.loads((run / "stages.json").read_text())["reward_model"]) if what == "reward_model" else run / "checkpoints/4/critic"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question, answer = example(run)
    ((ids, _),) = encode_dialogues(tokenizer, [question], [answer], [True])
    tokens = torch.tensor([ids])
    model = AutoModelForSequenceClassification.from_pretrained(own)
    assert model.config.score_shift != 0
    plain = (model(tokens).logits[0, 0] - model.config.score_shift).item()
    score = float(alone(python_of((folder / "README.md").read_text()), folder))
    assert score == plain
    assert score == pytest.approx(float(sequence_score(load_scorer(own, CPU), tokens, torch.ones_like(tokens, dtype=torch.bool))), abs=5e-6)


def test_the_card_states_settings_monitors_verdict_versions_and_how_to_load(run, tmp_path):
    text = (export(run, tmp_path / "policy") / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["rlhf", "ppo", "policy"]}
    assert "\nppo=ppo_max\n" in body and "\nppo.kl_coef=0.3\n" in body and "\nppo.updates=4\n" in body
    assert "ppo.gae_lambda" not in body and "evaluation.prompts=8" in body
    assert f"| `monitor/entropy` | {summary['final']['monitor/entropy']:.4g} | {summary['sft']['monitor/entropy']:.4g} |" in body
    assert summary["collapsed"] is None, "three evaluations cannot be a collapse: the patience is three"
    collapsed = "The run was too short to collapse"
    assert collapsed in body and f"wins {summary['final']['eval/win']:.0%}" in body
    assert f"torch {summary['versions']['torch']}" in body and "MIT" in body and "embedded world" in body
    scorer = (export(run, tmp_path / "scorer", "reward_model") / "README.md").read_text()
    report = json.loads((run / "reward_model/report.json").read_text())
    assert f"agrees with {report['held_out_accuracy']:.1%} (95 % interval {report['held_out_interval'][0]:.1%} to" in scorer
    assert "text-classification" in scorer and "score_shift" in scorer


def test_no_file_of_an_export_names_a_folder_of_this_machine(run, tmp_path):
    secret = str(run.parents[3]).encode()
    for what in ("policy", "reward_model", "critic"):
        for path in export(run, tmp_path / what, what).rglob("*"):
            content = path.read_bytes()
            assert secret not in content and str(Path.home()).encode() + b"/" not in content, path
            assert path.suffix in (".safetensors", ".json", ".jinja", ".md"), path


def test_the_sampler_of_the_run_is_the_generation_config(run, tmp_path):
    folder = export(run, tmp_path / "policy")
    found = json.loads((folder / "generation_config.json").read_text())
    assert (found["do_sample"], found["top_k"], found["top_p"], found["temperature"], found["max_new_tokens"]) == (True, 0, 1.0, 1.0, 10)


def test_an_earlier_checkpoint_has_its_own_weights_and_monitors(run, tmp_path):
    early, late = export(run, tmp_path / "early", checkpoint=2), export(run, tmp_path / "late")
    assert load_file(early / "model.safetensors").keys() == load_file(late / "model.safetensors").keys()
    first = load_file(run / "checkpoints/2/policy/model.safetensors")
    assert all(torch.equal(value, first[name]) for name, value in load_file(early / "model.safetensors").items())
    assert "after update 2 of 4" in (early / "README.md").read_text() and "after update 4 of 4" in (late / "README.md").read_text()
    judged = json.loads((run / "checkpoints/2/state.json").read_text())["progress"]["judged"]
    assert f"| `monitor/entropy` | {judged['monitor/entropy']:.4g} |" in (early / "README.md").read_text()


def test_an_unfinished_run_can_be_exported_and_its_card_says_so(run, tmp_path):
    copy = tmp_path / "seed=0"
    copy.mkdir()
    for name in ("config.yaml", "stages.json", "checkpoints", "reward_model"):
        (copy / name).symlink_to(run / name)
    text = (export(copy, tmp_path / "policy", checkpoint=2) / "README.md").read_text()
    assert "**The run is not finished**: this is at update 2 of 4, and there is no verdict yet." in text
    assert "did not collapse" not in text and "collapsed**" not in text and "These are of the export" in text


def test_what_cannot_be_exported_is_one_sentence(run, tmp_path, capsys):
    with pytest.raises(UserError, match=r"is not a run folder \(no config.yaml\): name a folder"):
        export(tmp_path, tmp_path / "to")
    with pytest.raises(UserError, match="has no checkpoint of update 3: name one of 2, 4 with --checkpoint"):
        export(run, tmp_path / "to", checkpoint=3)
    with pytest.raises(UserError, match="a run has one reward model: leave it out"):
        export(run, tmp_path / "to", "reward_model", checkpoint=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("kept")
    with pytest.raises(SystemExit, match=r"error: .*full exists and is not empty: name another folder with --to"):
        main([str(run), "--to", str(tmp_path / "full")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"] and (tmp_path / "full/mine").read_text() == "kept"
    assert main([str(run), "--to", str(tmp_path / "to")]) is None and capsys.readouterr().out == f"wrote {tmp_path / 'to'}\n"


def test_a_wrong_run_folder_checkpoint_or_target_is_refused_without_loading_torch(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("kept")
    refused = {
        "is not a run folder": [tmp_path, "--to", tmp_path / "to"],
        "has no checkpoint of update 3": [run, "--to", tmp_path / "to", "--checkpoint", "3"],
        "is not empty": [run, "--to", tmp_path / "full"],
    }
    for said, words in refused.items():
        done = subprocess.run([sys.executable, "-c", REFUSED, *map(str, words)], capture_output=True, text=True)
        message, loaded = done.stdout.splitlines()
        assert message.startswith("error: ") and said in message and loaded == "", done.stderr


def test_a_run_without_checkpoint_or_reward_model_names_the_remedy(run, tmp_path):
    copy = tmp_path / "seed=0"
    copy.mkdir()
    (copy / "config.yaml").symlink_to(run / "config.yaml")
    with pytest.raises(UserError, match="has no checkpoint: wait for the first one, or run it again"):
        export(copy, tmp_path / "to")
    with pytest.raises(UserError, match=r"no readable stages.json\): run it again"):
        export(copy, tmp_path / "to", "reward_model")
    (copy / "stages.json").write_text(json.dumps({"reward_model": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match=r"is no longer in .*gone: run it again to build it"):
        export(copy, tmp_path / "to", "reward_model")
    (copy / "summary.json").write_text(json.dumps({"status": "completed", "taken_from": "s/b/seed=0"}))
    with pytest.raises(UserError, match="this run was taken over from s/b/seed=0, export that one"):
        export(copy, tmp_path / "to")


@torch.no_grad()
def test_adapters_are_merged_into_plain_weights(make_config, tmp_path):
    pytest.importorskip("peft")
    config = make_config(tmp_path, "model.lora_rank=2", "ppo.updates=2")
    with torch.enable_grad():
        execute(config)
    run, start = run_folder(config), json.loads((run_folder(config) / "stages.json").read_text())
    tokens = torch.tensor([[5, 6, 7, 8]])
    plain = AutoModelForCausalLM.from_pretrained(export(run, tmp_path / "policy"))
    reference = load_policy(start["sft"], CPU)
    policy = add_adapter(reference, config.model, torch_generator(0, "any"))
    restore_adapter(policy, run / "checkpoints/2/policy")
    torch.testing.assert_close(plain(tokens).logits, policy(tokens).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(plain(tokens).logits, reference(tokens).logits, atol=1e-4)
    critic = export(run, tmp_path / "critic", "critic")
    assert "merged into the weights" in (critic / "README.md").read_text()
    assert load_file(critic / "model.safetensors").keys() == load_file(Path(start["reward_model"]) / "model.safetensors").keys()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_run_without_a_critic_exports_its_policy_and_is_refused_its_critic(make_config, tmp_path, rank):
    if rank:
        pytest.importorskip("peft")
    config = make_config(tmp_path, f"model.lora_rank={rank}", "ppo.advantage_estimator=reinforce", "ppo.updates=2")
    execute(config)
    run = run_folder(config)
    start = json.loads((run / "stages.json").read_text())
    exported = export(run, tmp_path / "policy")
    weights = load_file(exported / "model.safetensors")
    assert weights.keys() == load_file(Path(start["sft"]) / "model.safetensors").keys()
    with pytest.raises(UserError, match=r"no critic, since its ppo.advantage_estimator=reinforce needs none: export the policy"):
        export(run, tmp_path / "critic", "critic")
    assert not (tmp_path / "critic").exists()
