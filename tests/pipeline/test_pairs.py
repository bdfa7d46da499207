"""Pairs made by hand: every documented form is read, and each mistake is named with its line; stages that nothing needs are not built."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ablate.errors import UserError
from ablate.pipeline.build import build
from ablate.pipeline.preferences import read, write
from ablate.pipeline.reward_model import encode_pairs
from ablate.world import grammar as world
from ablate.world.tokenizer import build_tokenizer

USER = {"role": "user", "content": "a ?"}
WRITTEN = {"prompt": "a ?", "kind": "any", "chosen": {"response": "yes"}, "rejected": {"response": "no"}}
SAMPLED = {
    "prompt": "a ?", "kind": "any", "chosen": {"response": "yes", "ended": True, "gold": 1.5},
    "rejected": {"response": "", "ended": False, "gold": -1},
}  # fmt: skip


def answer(text: str) -> list[dict]:
    return [USER, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    "row",
    [{"prompt": "a ?", "chosen": "yes", "rejected": "no"}, {"prompt": "a ?", "chosen": answer("yes"), "rejected": answer("no")},
     {"chosen": answer("yes"), "rejected": answer("no"), "score_chosen": 1},
     {"instruction": "a ?", "input": "", "chosen": "yes", "rejected": "no"},
     {"chosen": "\n\nHuman: a ?\n\nAssistant: yes", "rejected": "\n\nHuman: a ?\n\nAssistant: no"}],
)  # fmt: skip
def test_pairs_in_any_documented_form_become_the_form_that_the_stage_writes(row, tmp_path):
    (tmp_path / "train.jsonl").write_text("\ufeff" + json.dumps(row) + "\n\n \n", encoding="utf-8")
    assert read(tmp_path / "train.jsonl") == [WRITTEN]


def test_what_the_stage_writes_comes_back_whatever_its_texts_hold(tmp_path):
    odd = "a\u2028b\u2029c\x85d\r\n\x1e <eos> ü\U0001f600"
    turns = [USER, {"role": "assistant", "content": odd}, USER]
    rows = [SAMPLED, {**WRITTEN, "prompt": turns, "chosen": {"response": odd}}, {**WRITTEN, "prompt": '[{"role": "user"}]'}]
    write(tmp_path / "train.jsonl", rows)
    assert read(tmp_path / "train.jsonl") == rows


MISTAKES = {
    "an answer is empty": {**WRITTEN, "chosen": {"response": " "}},
    "are the same": {**WRITTEN, "chosen": {"response": "no"}},
    "`response` is no text": {**WRITTEN, "chosen": {"response": None}},
    "`ended` is neither": {**WRITTEN, "chosen": {"response": "x", "ended": None}},
    "`gold` is no finite number": {**WRITTEN, "chosen": {"response": "x", "gold": float("nan")}},
    "a turn is empty": {**WRITTEN, "prompt": ""},
    "neither a text nor a list": {**WRITTEN, "prompt": []},
    "does not end with the human's turn": {**WRITTEN, "prompt": answer("b")},
    "role is ['user']": {**WRITTEN, "prompt": [{"role": ["user"], "content": "a"}]},
    "chosen or rejected is missing": {"prompt": "a ?", "chosen": "yes"},
    "`label` says": {"prompt": "a ?", "chosen": "yes", "label": False},
    "1,000,003 characters": {**WRITTEN, "chosen": {"response": "x" * 999_998}},
    "nested too deeply": '{"prompt": ' + "[" * 3000 + "]" * 3000 + "}",
    "half of a surrogate pair": '{"prompt": "\\udc00", "chosen": "a", "rejected": "b"}',
    "not JSON": "{",
    "no JSON object": "[1]",
}  # fmt: skip


@pytest.mark.parametrize("reason", MISTAKES)
def test_each_mistake_is_named_with_its_line(reason, tmp_path):
    line = MISTAKES[reason] if isinstance(MISTAKES[reason], str) else json.dumps(MISTAKES[reason])
    (tmp_path / "train.jsonl").write_text(json.dumps(WRITTEN) + "\n\n" + line + "\n")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "train.jsonl")
    assert str(caught.value).startswith(f"{tmp_path}/train.jsonl, line 3, is not a pair") and reason in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe{"])
def test_a_file_without_pairs_is_one_sentence(content, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"holds no pairs|cannot read"):
        read(tmp_path / "train.jsonl")


def test_the_worlds_tokenizer_refuses_special_tokens_of_people_and_keeps_those_that_were_sampled():
    """A word outside the world is one sentence too."""
    tokenizer, word = build_tokenizer(world.grammar("en")), world.grammar("en").words[0]
    pair = {"prompt": word, "chosen": {"response": f"{word} <pad>"}, "rejected": {"response": word}}
    with pytest.raises(UserError, match="a preference pair spells <pad>, which the tokenizer cannot write as text"):
        encode_pairs(tokenizer, [pair])
    sampled = {**pair, "chosen": {"response": f"{word} <pad>", "gold": 1.0}}
    (((ids, at), _),) = encode_pairs(tokenizer, [sampled])
    assert ids[at:] == [4, 0, 1]
    with pytest.raises(UserError, match="the tokenizer cannot encode a text of the data, 'unheard'"):
        encode_pairs(tokenizer, [{**pair, "chosen": {"response": "unheard of"}}])


def test_data_without_pairs_serves_a_run_that_brings_its_reward_model(tiny_config, stage_folders, tmp_path):
    """Neither pretraining nor pairs are built. Without the reward model the sentence says what to set."""
    config = tiny_config()
    config.cache, config.model.path = str(tmp_path / "cache"), None
    (tmp_path / "prompts.json").write_text(json.dumps([[word] for word in world.grammar("en").words[:40]]))
    limits = {"max_prompt_tokens": 16, "max_response_tokens": 16, "held_out_share": 0.3}
    config.data = replace(config.data, source="moss", path=str(tmp_path / "prompts.json"), **limits)
    config.sft.path, config.pretrain.path, config.preferences.path = str(stage_folders["sft"]), None, None
    config.reward_model.path = str(stage_folders["reward_model"])
    config.ppo.critic_init = "sft"
    built = build(config)
    assert built.pretrained is None and built.preferences is not None
    assert [path.name for path in built.preferences.iterdir() if path.suffix == ".jsonl"] == []
    assert json.loads((built.preferences / "report.json").read_text())["rows"] == 40
    config.reward_model.path = None
    with pytest.raises(UserError, match=r"holds no training pairs: set preferences.path or reward_model.path"):
        build(config)


def test_on_the_world_a_given_reward_model_needs_no_pairs(tiny_config, stage_folders, tmp_path):
    config = tiny_config()
    config.cache, config.model.path = str(tmp_path / "cache"), None
    config.sft.path, config.reward_model.path = str(stage_folders["sft"]), str(stage_folders["reward_model"])
    config.pretrain.path = config.preferences.path = None
    built = build(config)
    assert (built.pretrained, built.preferences) == (None, None) and not (tmp_path / "cache").exists()


def test_pairs_in_other_words_than_the_worlds_are_refused_before_a_stage_is_built(tiny_config, tmp_path):
    config, (one, two) = tiny_config(), world.grammar("en").words[:2]
    config.cache, config.preferences.path = str(tmp_path / "cache"), str(tmp_path)
    config.model.path = config.sft.path = config.pretrain.path = config.reward_model.path = None
    write(tmp_path / "train.jsonl", [{"prompt": one, "chosen": one, "rejected": two}])
    write(tmp_path / "held_out.jsonl", [{"prompt": one, "chosen": one, "rejected": f"{two} unheard"}])
    with pytest.raises(UserError, match=r"held_out\.jsonl, is not in the words of the embedded world: .* 'unheard'"):
        build(config)
    assert not (tmp_path / "cache").exists()
