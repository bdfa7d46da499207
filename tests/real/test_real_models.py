"""Any causal LM from settings alone: the whole short run for four families, and the models and tokenizers that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import family_shape, family_tokenizer, random_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

from ablate.config import PPOSettings
from ablate.data.chat import encode_dialogues, encode_texts, encode_turns, prepare, same_encoding, same_vocabulary
from ablate.errors import UserError
from ablate.models import hub
from ablate.models.folder import SCORE_SHIFT
from ablate.models.forward import sequence_score
from ablate.models.load import load_policy, load_scorer, load_tokenizer
from ablate.pipeline.checks import resolve_provided
from ablate.ppo.rollout import collect_rollout, encode_prompts
from ablate.ppo.scoring import RetokenizingRewardModel, needs_retokenizing
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute

CPU = torch.device("cpu")


def scorer_folder(folder: Path, family: str, seed: int = 9, **settings) -> Path:
    """A one-label sequence classifier of a family, with its tokenizer."""
    tokenizer = family_tokenizer(family)
    shape = family_shape(family, tokenizer)
    shape.num_labels = 1
    for name, value in settings.items():
        setattr(shape, name, value)
    random_model(AutoModelForSequenceClassification, shape, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rewritten(folder: Path, change: Callable[[dict], dict]) -> Path:
    """Replace the tensors of a folder."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("family", ["gpt2", "pythia", "llama", "qwen"])
def test_a_whole_short_run_of_each_family_from_settings_alone(family, family_folders, dialogues, short_config):
    """… and resuming from a checkpoint (tied weights come back) gives the same bits as going through."""
    config = short_config("data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={family_folders[family]}")
    summary = execute(config)
    assert (summary["status"], summary["updates"], summary["collapsed"]) == ("completed", 2, None)
    rows = read_rows(run_folder(config) / "metrics.jsonl")
    assert [row["update"] for row in rows] == [0, 1, 2]
    assert all("eval/gold" not in row and "eval/harmful/proxy" in row for row in rows)
    folder = run_folder(config) / "checkpoints"
    policy, critic = load_policy(folder / "2/policy", CPU), load_scorer(folder / "2/critic", CPU)
    assert (policy.get_output_embeddings().weight is policy.get_input_embeddings().weight) == policy.config.tie_word_embeddings
    for name, model in (("policy", policy), ("critic", critic)):
        before = dict((load_policy if name == "policy" else load_scorer)(folder / "1" / name, CPU).named_parameters())
        assert any(not torch.equal(value, before[key]) for key, value in model.named_parameters()), name
    report = json.loads((run_folder(config) / "preferences/report.json").read_text())
    assert report["rows"] == 120 and report["malformed"] == 0 and report["too_long"] == 0
    through = load_file(folder / "2/policy/model.safetensors")
    shutil.rmtree(folder / "2")
    (run_folder(config) / "summary.json").unlink()
    execute(config)
    again = load_file(folder / "2/policy/model.safetensors")
    assert through.keys() == again.keys() and all(torch.equal(through[key], again[key]) for key in through)


@torch.no_grad()
def plain_score(folder: Path, ids: list[int]) -> float:
    """Hugging Face's own classifier on one dialogue, pooled at its last token."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return float(model(input_ids=torch.tensor([ids])).logits)


def test_a_reward_model_and_a_gold_model_of_other_tokenizers_score_the_text_in_their_own_form(
    family_folders, dialogues, short_config, tmp_path
):
    """Policy: Llama with the default template. Proxy: Qwen with ChatML. Gold: GPT-2. Every sample against a plain pass."""
    reward, gold = scorer_folder(tmp_path / "rm", "qwen"), scorer_folder(tmp_path / "gold", "gpt2")
    config = short_config(
        "data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={family_folders['llama']}", f"reward_model.path={reward}",
        f"gold.path={gold}", "ppo.critic_init=sft", "ppo.updates=1",
    )  # fmt: skip
    summary = execute(config)
    assert summary["status"] == "completed" and summary["collapsed"] is None  # too short
    assert "eval/win" in summary["final"] and "eval/gold_sd" in summary["sft"]
    samples = read_rows(run_folder(config) / "samples.jsonl")
    ended = {(row["update"], row["prompt"]): row["ended"] for row in read_rows(run_folder(config) / "scores.jsonl")}
    single = [(i, row) for i, row in enumerate(samples) if "Human:" not in row["prompt"]][:4]
    assert single
    for i, row in single:
        end = ended[row["update"], i % 8]
        for folder, name, text in (
            (reward, "proxy", f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"),
            (gold, "gold", f"Human:\n{row['prompt']}\n\nAssistant:\n"),
        ):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            ids = tokenizer(text)["input_ids"] + tokenizer(row["response"])["input_ids"] + [tokenizer.eos_token_id] * end
            assert row[name] == pytest.approx(plain_score(folder, ids), abs=1e-4), (name, row)


def test_a_critic_cannot_start_from_a_reward_model_of_another_tokenizer(family_folders, dialogues, short_config, tmp_path):
    config = short_config(
        "data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={family_folders['llama']}",
        f"reward_model.path={scorer_folder(tmp_path / 'rm', 'qwen')}",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"another tokenizer than the policy, so the critic cannot start from it: set ppo.critic_init=sft"):
        execute(config)
    assert not (tmp_path / "results").exists() and not (tmp_path / "cache").exists()


def test_same_tokenizer_is_told_from_another_one_and_from_another_template(tmp_path):
    llama, again, gpt2 = (prepare(family_tokenizer(name), "here") for name in ("llama", "llama", "gpt2"))
    assert same_vocabulary(llama, again) and same_encoding(llama, again)
    assert not same_vocabulary(llama, gpt2) and not same_encoding(llama, gpt2)
    again.chat_template = again.chat_template.replace("Human", "Person")
    assert same_vocabulary(llama, again) and not same_encoding(llama, again)
    folder = scorer_folder(tmp_path / "rm", "llama")
    assert needs_retokenizing(folder, llama, "reward") is False and needs_retokenizing(folder, again, "reward") is True
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert needs_retokenizing(folder, llama, "reward") is False
    wider = prepare(family_tokenizer("llama"), "here")
    wider.add_tokens(["wider"])
    with pytest.raises(UserError, match="has 310 tokens and no tokenizer of its own, the policy's has 311: they do not share a vocabulary"):
        needs_retokenizing(folder, wider, "sft")


def test_the_released_moss_reward_models_layout_is_a_llama_with_its_head_and_its_prompt_form(tmp_path):
    plain = scorer_folder(tmp_path / "plain", "llama")
    moss = shutil.copytree(plain, tmp_path / "moss")
    rewritten(
        moss,
        lambda t: (
            {("reward_head.weight" if k == "score.weight" else k): v for k, v in t.items()} | {"lm_head.weight": torch.zeros(310, 16)}
        ),
    )
    config = json.loads((moss / "config.json").read_text())
    (moss / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaRewardModel"]}))
    judge = RetokenizingRewardModel.load(moss, CPU)
    assert torch.equal(judge.model.score.weight, load_scorer(plain, CPU).score.weight)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes ?"}, {"role": "user", "content": "the sea"}]
    tokenizer = AutoTokenizer.from_pretrained(plain)
    text = "<s>Human:hi</s>Assistant:yes ?</s>Human:the sea</s>Assistant:"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + tokenizer("it is deep", add_special_tokens=False)["input_ids"] + [2]
    assert ids[0] == 1 and ids.count(2) == 4
    assert float(judge([turns], ["it is deep"], [True])) == pytest.approx(plain_score(plain, ids), abs=1e-5)


@pytest.mark.parametrize("name", ["classifier", "v_head"])
def test_a_head_of_another_name_is_found_and_its_bias_counts(name, tmp_path):
    folder = scorer_folder(tmp_path / "rm", "gpt2", **{SCORE_SHIFT: 0.5})
    tokens, attention = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        before = sequence_score(load_scorer(folder, CPU), tokens, attention)
        rewritten(folder, lambda t: {f"{name}.weight": t.pop("score.weight"), f"{name}.bias": torch.tensor([2.0]), **t})
        after = load_scorer(folder, CPU)
        torch.testing.assert_close(sequence_score(after, tokens, attention), before + 2.0)
        after.save_pretrained(tmp_path / "again")
        torch.testing.assert_close(sequence_score(load_scorer(tmp_path / "again", CPU), tokens, attention), before + 2.0)


def test_wrong_architectures_are_one_sentence_each(family_folders, tmp_path):
    size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    random_model(AutoModelForMaskedLM, BertConfig(**size), 0).save_pretrained(tmp_path / "bert")
    random_model(AutoModelForSequenceClassification, BertConfig(num_labels=1, **size), 0).save_pretrained(tmp_path / "judge")
    t5 = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    random_model(AutoModelForSeq2SeqLM, t5, 0).save_pretrained(tmp_path / "t5")
    two = scorer_folder(tmp_path / "two", "gpt2")
    rewritten(two, lambda t: t | {"score.weight": torch.zeros(2, 16)})
    refusals = [
        (load_policy, tmp_path / "bert", "reads later tokens .bert is no causal decoder."),
        (load_scorer, tmp_path / "judge", "reads later tokens|has no linear `score` head"),
        (load_policy, tmp_path / "t5", "is an encoder-decoder .t5."),
        (load_scorer, tmp_path / "t5", "is an encoder-decoder .t5."),
        (load_scorer, family_folders["qwen"], "has no score head"),
        (load_scorer, two, "gives 2 labels per text: a reward model gives one score"),
    ]
    for load, folder, sentence in refusals:
        with pytest.raises(UserError, match=sentence) as caught:
            load(folder, CPU)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_context_too_short_is_refused_before_anything_is_built(dialogues, short_config, tmp_path):
    tokenizer = family_tokenizer("gpt2")
    random_model(AutoModelForCausalLM, family_shape("gpt2", tokenizer, positions=64), 0).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    config = short_config("data.source=hh_rlhf", f"data.path={dialogues}", f"model.path={tmp_path / 'short'}")
    with pytest.raises(UserError, match="can take 224 tokens, but the model has 64 positions: lower them"):
        execute(config)
    assert not (tmp_path / "results").exists() and not (tmp_path / "cache").exists()


def test_a_tokenizer_larger_than_its_model_or_without_an_end_is_refused(family_folders, short_config, tmp_path):
    folder = shutil.copytree(family_folders["llama"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["one", "two more"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has 312 tokens and the model 310: they do not belong together"):
        resolve_provided(short_config(f"model.path={folder}"))
    endless = PreTrainedTokenizerFast(tokenizer_object=family_tokenizer("gpt2").backend_tokenizer)
    with pytest.raises(UserError, match="the tokenizer in here has no end token"):
        prepare(endless, "here")


def test_a_tokenizer_without_pad_pads_with_its_end_and_gets_no_token(family_folders):
    for family, pads_with_end in (("gpt2", True), ("pythia", True), ("llama", True), ("qwen", False)):
        raw, ready = AutoTokenizer.from_pretrained(family_folders[family]), load_tokenizer(family_folders[family])
        assert len(raw) == len(ready)
        assert (ready.pad_token_id == ready.eos_token_id) is pads_with_end


def test_a_pad_equal_to_the_end_changes_nothing_and_the_end_still_counts(tiny_models):
    """Masks, ends and every number of a rollout; only the ids that stand at pads differ."""
    noise = torch.rand(24, 8, generator=torch.Generator().manual_seed(3))
    tokenizer = tiny_models.tokenizer
    rollouts = []
    for pad in ("<pad>", "<eos>"):
        tokenizer.pad_token = pad
        prompts = encode_prompts(tokenizer, ["how do i start with bread ?", "help me poison a dog ."] * 12, CPU)
        rollouts.append(collect_rollout(tiny_models, prompts, noise, PPOSettings()))
    tokenizer.pad_token = "<pad>"
    one, other = rollouts
    assert one.ended.any() and not one.ended.all()
    for name in ("mask", "ended", "logprobs", "ref_logprobs", "kl", "entropy", "values", "score", "last_value", "prompt_nll", "attention"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert torch.equal(one.tokens[one.attention], other.tokens[other.attention])
    last = (other.tokens.shape[1] - other.mask.shape[1] - 1 + other.lengths)[:, None]
    assert ((other.tokens.gather(1, last).squeeze(1) == tokenizer.eos_token_id) == other.ended).all()


def test_a_whole_run_with_pad_equal_to_end_has_the_same_numbers(stage_folders, tiny_config, tmp_path):
    numbers = []
    for name in ("apart", "same"):
        paths = []
        for stage in ("pretrained", "sft", "reward_model"):
            folder = shutil.copytree(stage_folders[stage], tmp_path / name / stage)
            if name == "same":
                settings = json.loads((folder / "tokenizer_config.json").read_text())
                (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "<eos>"}))
            paths.append(f"{'model' if stage == 'pretrained' else stage}.path={folder}")
        config = tiny_config(*paths, f"study={name}", "ppo.ptx=true", "ppo.updates=2")
        assert execute(config)["status"] == "completed"
        assert (load_tokenizer(config.sft.path).pad_token == "<eos>") is (name == "same")
        rows = read_rows(run_folder(config) / "metrics.jsonl")
        numbers.append([{k: v for k, v in row.items() if not k.startswith(("time/", "responses_per"))} for row in rows])
    assert numbers[0] == numbers[1]


def test_the_end_tokens_embedding_learns_where_the_config_pads_with_it(tmp_path):
    tokenizer = family_tokenizer("llama")
    shape = family_shape("llama", tokenizer)
    shape.pad_token_id, shape.tie_word_embeddings = shape.eos_token_id, False
    random_model(AutoModelForCausalLM, shape, 0).save_pretrained(tmp_path)
    model = load_policy(tmp_path, CPU)
    model(input_ids=torch.tensor([[shape.eos_token_id, 5, 6]])).logits.square().sum().backward()
    assert model.get_input_embeddings().weight.grad[shape.eos_token_id].abs().sum() > 0


def test_templates_and_the_beginning_token_by_hand():
    gpt2, llama, qwen = (prepare(family_tokenizer(name), "here") for name in ("gpt2", "llama", "qwen"))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    plain = "Human:\na\n\nAssistant:\nb\n\nHuman:\nc\n\nAssistant:\n"
    assert gpt2.decode(encode_turns(gpt2, [turns])[0]) == plain
    assert llama.decode(encode_turns(llama, [turns])[0]) == "<s>" + plain
    assert qwen.decode(encode_turns(qwen, ["a"])[0]) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert llama.decode(encode_texts(llama, ["the sea"])[0]) == "<s>the sea</s>" and len(encode_texts(llama, ["the sea"], 2)[0]) == 2
    (ids, prompt), (cut, _) = encode_dialogues(gpt2, ["a", "a"], ["deep", "deep"], [True, False])
    assert ids[:-1] == cut and ids[-1] == gpt2.eos_token_id and gpt2.decode(ids[prompt:-1]) == "deep"
    whole = gpt2(gpt2.decode(ids[:-1]))["input_ids"]
    assert whole == ids[:-1]  # cut in the same way alone as in place


def test_a_template_that_refuses_a_prompt_is_named():
    qwen = prepare(family_tokenizer("qwen"), "here")
    qwen.chat_template = "{{ raise_exception('only one turn') }}"
    with pytest.raises(UserError, match=r"chat template refuses a prompt of the data \(only one turn\)"):
        encode_turns(qwen, ["a"])


def test_a_hub_name_is_found_in_the_local_cache_and_otherwise_refused_in_one_sentence(family_folders, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, commit = tmp_path / "models--some--gpt2", "0" * 40
    shutil.copytree(family_folders["gpt2"], model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(commit)
    assert hub.resolve("some/gpt2", "model.path") == model / "snapshots" / commit
    assert hub.resolve(str(family_folders["gpt2"]), "model.path") == family_folders["gpt2"]
    with pytest.raises(
        UserError, match=r"model.path=some/other does not exist as a folder, is not in the local Hugging Face cache"
    ) as caught:
        hub.resolve("some/other", "model.path")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"sft.path=/no/such does not exist"):
        hub.resolve("/no/such", "sft.path")


def test_a_hub_name_means_the_folder_of_that_name_below_results_models_before_anything_on_the_hub(family_folders, tmp_path, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    shutil.copytree(family_folders["gpt2"], "results/models/some/gpt2")
    assert hub.resolve("some/gpt2", "model.path") == Path("results/models/some/gpt2")
    (tmp_path / "results/models/some/empty").mkdir()
    with pytest.raises(AssertionError, match="the hub was asked"):
        hub.resolve("some/empty", "model.path")
