"""Human data: formats by hand-made rows, malformed ones counted and refused, a stable split, and runs from scratch on dialogues."""

from __future__ import annotations

import gzip
import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from families import QUESTIONS, hh_rows, write_lines
from scipy.stats import binomtest

from ablate import stages
from ablate.config import Config, DataConfig
from ablate.data.dialogues import Example, HumanPrompt, Malformed, parse_generic, parse_hh, parse_hub, parse_moss
from ablate.data.files import content_key, read_table
from ablate.data.human import HumanSource, is_held_out, train_bpe
from ablate.errors import UserError
from ablate.pipeline.preferences import read
from ablate.pipeline.reward_model import wilson
from ablate.runs.folder import run_folder
from ablate.session import execute
from ablate.settings.identity import config_hash

HH = os.environ.get("HH_RLHF")
ONE = HumanPrompt((("user", "a ?"),), "any")
THREE = HumanPrompt((("user", "a ?"), ("assistant", "b"), ("user", "c ?")), "any")


def test_hh_dialogues_are_split_at_the_last_assistant_turn():
    row = {"chosen": "\n\nHuman: a ?\n\nAssistant: b\n\nHuman: c ?\n\nAssistant: yes.\n\nmore", "rejected": "\n\nHuman: a ?\n\nAssistant: b\n\nHuman: c ?\n\nAssistant: no"}  # fmt: skip # noqa: E501
    assert parse_hh(row, "any") == Example(THREE, "yes.\n\nmore", "no")
    assert THREE.turns == [
        {"role": "user", "content": "a ?"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c ?"}
    ]  # fmt: skip
    assert (ONE.turns, ONE.text) == ("a ?", "a ?")
    assert THREE.text == "Human:\na ?\n\nAssistant:\nb\n\nHuman:\nc ?"


def test_turns_of_one_side_in_a_row_become_one():
    row = {side: f"\n\nHuman: a\n\nHuman: b\n\nAssistant: {side}" for side in ("chosen", "rejected")}
    assert parse_hh(row, "any").prompt.messages == (("user", "a\n\nb"),)


HH_MISTAKES = {
    "different prompts": {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"},
    "an answer is empty": {"chosen": "\n\nHuman: a\n\nAssistant: ", "rejected": "\n\nHuman: a\n\nAssistant: y"},
    "are the same": {"chosen": "\n\nHuman: a\n\nAssistant: y", "rejected": "\n\nHuman: a\n\nAssistant: y"},
    "no Assistant turn": {"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a\n\nAssistant: y"},
    "does not end with an Assistant turn": {
        "chosen": "\n\nHuman: a\n\nAssistant: x\n\nHuman: b", "rejected": "\n\nHuman: a\n\nAssistant: y"
    },
    "a turn is empty": {"chosen": "\n\nHuman: \n\nAssistant: x", "rejected": "\n\nHuman: \n\nAssistant: y"},
    "does not begin with the human's turn": {"chosen": "\n\nAssistant: x", "rejected": "\n\nAssistant: y"},
    "no text `rejected`": {"chosen": "\n\nHuman: a\n\nAssistant: x"},
    "no text `chosen`": {"chosen": 3, "rejected": "\n\nHuman: a\n\nAssistant: x"},
}  # fmt: skip


@pytest.mark.parametrize("reason", HH_MISTAKES)
def test_each_malformed_hh_row_has_its_reason(reason):
    with pytest.raises(Malformed, match=re.escape(reason)):
        parse_hh(HH_MISTAKES[reason], "any")


def test_moss_lists_of_turns_are_prompts_demonstrations_and_pairs():
    assert parse_moss(["a ?"], "any") == Example(ONE)
    assert parse_moss(["a ?", "b", "c ?"], "any") == Example(THREE)
    assert parse_moss(["a ?", "b"], "any") == Example(ONE, "b")
    assert parse_moss({"chosen": ["a ?", "b", "c ?", "d"], "rejected": ["a ?", "b", "c ?", "e"]}, "any") == Example(THREE, "d", "e")
    for row in ([], "a", ["a", 1], {"chosen": ["a", "b"], "rejected": ["c", "d"]}, {"chosen": ["a", "b"]}, ["a", ""], {}, None):
        with pytest.raises(Malformed):
            parse_moss(row, "any")


def test_generic_rows_take_texts_or_messages():
    messages = THREE.turns
    answer = [{"role": "assistant", "content": "d"}]
    other = [{"role": "assistant", "content": "e"}]
    assert parse_generic({"prompt": "a ?", "chosen": "x", "rejected": "y"}, "any") == Example(ONE, "x", "y")
    assert parse_generic({"prompt": messages, "chosen": "d", "rejected": "e"}, "any") == Example(THREE, "d", "e")
    assert parse_generic({"prompt": messages, "chosen": answer, "rejected": other}, "any") == Example(THREE, "d", "e")
    assert parse_generic({"chosen": messages + answer, "rejected": messages + other}, "any") == Example(THREE, "d", "e")
    assert parse_generic({"messages": messages + answer}, "any") == Example(THREE, "d")
    assert parse_generic({"messages": messages}, "any") == Example(THREE)
    assert parse_generic({"prompt": "a ?"}, "any") == Example(ONE)
    assert parse_generic({"prompt": "a ?", "chosen": "x", "kind": "helpful"}, "any") == Example(HumanPrompt(ONE.messages, "helpful"), "x")
    system = parse_generic({"messages": [{"role": "system", "content": "be kind"}, *messages]}, "any").prompt
    assert system.messages[0] == ("system", "be kind")
    assert parse_hub(hh_rows(1)[0], "any") == parse_hh(hh_rows(1)[0], "any")
    bad = (
        {}, [], {"chosen": "x", "rejected": "y"}, {"prompt": "a", "rejected": "y"}, {"prompt": 3, "chosen": "x"}, {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]}, {"messages": answer}, {"prompt": "b", "chosen": messages + answer},
        {"prompt": "a ?", "chosen": "x", "rejected": " x "}, {"prompt": " ", "chosen": "x"},
    )  # fmt: skip
    for row in bad:
        with pytest.raises(Malformed):
            parse_generic(row, "any")


def settings(path: Path, **changed) -> DataConfig:
    return DataConfig(**{"source": "hh_rlhf", "path": str(path), "held_out_share": 0.3, **changed})


def test_a_dialogue_far_beyond_the_limits_is_not_what_a_tokenizer_is_trained_on(tmp_path):
    """BPE takes time by the square of such a run of blanks: minutes for this one."""
    rows = [{"prompt": f"how {i} ?", "chosen": "mix flour", "rejected": "no"} for i in range(40)]
    long = {
        "prompt": next(f"long {i} ?" for i in range(99) if not is_held_out(HumanPrompt((("user", f"long {i} ?"),), "any"), 0.3)),
        "chosen": "mix" + " " * 400_000 + "zz zz zz zz",
        "rejected": "no",
    }
    limits = {"source": "jsonl", "max_prompt_tokens": 16, "max_response_tokens": 16, "vocabulary": 270}
    sources = [HumanSource(settings(write_lines(tmp_path / f"{i}.jsonl", more), **limits)) for i, more in enumerate((rows, [*rows, long]))]
    assert sources[1].report["rows"] == 41 and sources[1].train.examples[-1].chosen == long["chosen"]
    assert sources[0].tokenizer().get_vocab() == sources[1].tokenizer().get_vocab()


def test_malformed_rows_are_counted_shown_and_skipped_up_to_the_share_and_refused_beyond_it(tmp_path):
    rows = [*hh_rows(38), "not json", json.dumps(HH_MISTAKES["different prompts"])]
    path = write_lines(tmp_path / "pairs.jsonl.gz", rows)
    table = read_table(settings(path))
    assert (table.rows, len(table.examples)) == (40, 38)
    assert table.malformed == [
        ("pairs.jsonl.gz, line 39", "not JSON"), ("pairs.jsonl.gz, line 40", "chosen and rejected have different prompts")
    ]  # fmt: skip
    assert str(table) == (
        "40 rows, 2 malformed (pairs.jsonl.gz, line 39: not JSON; pairs.jsonl.gz, line 40: chosen and rejected have different prompts)"
    )
    with pytest.raises(UserError, match=r"40 rows, 2 malformed .*more than data.max_malformed=0.04 of them: mend the file"):
        read_table(settings(path, max_malformed=0.04))
    with pytest.raises(UserError, match=r"is it of another format than data.source=moss"):
        read_table(settings(path, source="moss"))


def test_files_that_cannot_be_read_are_one_sentence_each(tmp_path):
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20])
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "torn.json").write_text("[[")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    sentences = {
        "torn.jsonl.gz": "cannot read", "latin.jsonl": "cannot read", "object.json": "is not a JSON array of rows",
        "torn.json": "is not JSON", "notes.txt": "is no data file", "empty.jsonl": "holds no rows", "folder": "holds none",
        "none.jsonl": "does not exist",
    }  # fmt: skip
    for name, sentence in sentences.items():
        with pytest.raises(UserError, match=sentence) as caught:
            read_table(settings(tmp_path / name))
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_read_whole_and_its_names_give_the_kinds(tmp_path):
    write_lines(tmp_path / "harmless-base/train.jsonl.gz", hh_rows(3))
    write_lines(tmp_path / "helpful-base/train.jsonl", hh_rows(2, seed=1))
    (tmp_path / "moss").mkdir()
    (tmp_path / "moss/train.json").write_text(json.dumps([["a ?"], ["a ?", "b"]]))
    examples = read_table(settings(tmp_path / "harmless-base")).examples + read_table(settings(tmp_path / "helpful-base")).examples
    assert [example.prompt.kind for example in examples] == ["harmful"] * 3 + ["helpful"] * 2
    assert read_table(settings(tmp_path / "moss", source="moss")).rows == 2


def test_the_split_is_by_the_prompt_alone(tmp_path):
    """It is the same in another order, beside other rows and under another draw; a prompt is never on both sides."""
    rows = hh_rows(90)
    more = [{**row, "chosen": row["chosen"] + " too"} for row in rows[:20]]
    one = HumanSource(settings(write_lines(tmp_path / "a.jsonl", rows)))
    other = HumanSource(settings(write_lines(tmp_path / "b.jsonl", [*more, *reversed(rows[:60])])))
    assert set(other.held_out.prompts) <= set(one.held_out.prompts) and set(other.train.prompts) <= set(one.train.prompts)
    assert not set(one.train.prompts) & set(one.held_out.prompts)
    assert len(one.train.prompts) + len(one.held_out.prompts) == 90 and 15 <= len(one.held_out.prompts) <= 39
    assert len(other.train.examples) + len(other.held_out.examples) == 80
    assert is_held_out(ONE, 0.999999) and not is_held_out(ONE, 1e-9)
    rng = np.random.default_rng
    halves = [{p.messages for p, _, _ in one.pairs(1000, rng(0), half=half)} for half in ("first", "second")]
    assert halves[0] and halves[1] and not halves[0] & halves[1]
    assert halves[0] | halves[1] == {p.messages for p, _, _ in one.pairs(1000, rng(0))}


def test_draws_belong_to_the_generator_and_are_without_replacement_where_there_are_enough(tmp_path):
    source = HumanSource(settings(write_lines(tmp_path / "a.jsonl", hh_rows(60))))
    rng = np.random.default_rng
    assert source.prompts(9, rng(1)) == source.prompts(9, rng(1)) != source.prompts(9, rng(2))
    assert len(set(source.prompts(9, rng(1)))) == 9 and len(source.prompts(500, rng(1))) == 500
    demonstrations = source.demonstrations(1000, rng(0))
    assert len(demonstrations) == len(source.train.examples)
    prompt, answer = demonstrations[0]
    assert Example(prompt, answer) in [Example(e.prompt, e.chosen) for e in source.train.examples]
    text = source.corpus(1, rng(0))[0]
    assert text.startswith("Human:\n") and "\n\nAssistant:\n" in text and text.endswith(" yes")
    assert source.gold(prompt, answer, True) is None
    with pytest.raises(UserError, match=r"evaluation.prompts=50, but data.path=.* has \d+ held-out prompts"):
        source.held_out_prompts(50, rng(0))


def test_data_without_demonstrations_or_pairs_says_what_to_set(tmp_path):
    source = HumanSource(settings(write_lines(tmp_path / "a.jsonl", [[f"question {i}"] for i in range(30)]), source="moss"))
    with pytest.raises(UserError, match=r"holds no demonstrations: set sft.path"):
        source.demonstrations(1, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"holds no training pairs: set preferences.path or reward_model.path"):
        source.pairs(1, np.random.default_rng(0))


def test_too_long_prompts_and_answers_are_dropped_and_counted(tmp_path):
    tokenizer = train_bpe(QUESTIONS, 264)
    rows = [
        {"prompt": "a" * n, "chosen": "b" * m, "rejected": "c"} for n, m in ((1, 1), (2, 9), (2, 10), (30, 1), (31, 1), (3, 1), (4, 1))
    ]  # fmt: skip
    path = write_lines(tmp_path / "rows.jsonl", rows)
    around = len(tokenizer("Human:\n\n\nAssistant:\n", add_special_tokens=False)["input_ids"])
    limits = dict(source="jsonl", max_prompt_tokens=30 + around, max_response_tokens=10, held_out_share=0.4)
    source = HumanSource(settings(path, **limits), tokenizer)
    kept = {(len(e.prompt.text), len(e.chosen)) for e in source.train.examples + source.held_out.examples}
    assert kept == {(1, 1), (2, 9), (30, 1), (3, 1), (4, 1)} and source.report["too_long"] == 2


def test_the_byte_level_tokenizer_takes_any_text_back_and_forth():
    tokenizer = train_bpe([*QUESTIONS, "how how how"] * 5, 280)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 280)
    for text in ("how do i ?\n\n  naïve 不要 🙂\t<x>", " how", "\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("how")["input_ids"]) < 3
    assert train_bpe(QUESTIONS * 5, 280).get_vocab() == train_bpe(QUESTIONS * 5, 280).get_vocab()


def test_a_run_from_scratch_trains_its_tokenizer_and_two_reward_models_on_other_halves(dialogues, short_config):
    """The reward model of the second half judges the run whose own is of the first."""
    common = ("data.source=hh_rlhf", f"data.path={dialogues}", "data.vocabulary=300", "model.hidden_size=16", "model.layers=1",
              "model.heads=2", "model.intermediate_size=16", "ppo.updates=1")  # fmt: skip
    second = short_config(*common, "preferences.half=second", "arm=judge")
    execute(second)
    cache = Path(second.cache)
    (judge,) = cache.glob("reward_model-*")
    summary = execute(short_config(*common, "preferences.half=first", f"gold.path={judge}"))
    assert summary["status"] == "completed" and summary["final"]["eval/gold"] != summary["final"]["eval/proxy"]
    assert len(list(cache.glob("pretrain-*"))) == len(list(cache.glob("sft-*"))) == 1
    prompts = [{json.dumps(row["prompt"]) for row in read(folder / "train.jsonl")} for folder in cache.glob("preferences-*")]
    assert len(prompts) == 2 and not prompts[0] & prompts[1]
    report = json.loads((run_folder(second) / "reward_model/report.json").read_text())
    for name in ("held_out", "longer_wins"):
        low, high = report[f"{name}_interval"]
        assert 0 <= low <= report[f"{name}_accuracy"] <= high <= 1


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (96, 168), (1, 2000)])
def test_the_interval_of_an_accuracy_is_wilsons(right, count):
    oracle = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx([oracle.low, oracle.high], abs=1e-12)


def test_a_stage_can_be_built_into_a_folder_without_a_run(dialogues, tmp_path, capsys):
    """What a run of these settings then finds in the cache; asked for again it is there, and nothing else is overwritten."""
    to = tmp_path / "gold" / "reward_model"
    command = [
        "--cache", str(tmp_path / "cache"), "build", "reward_model", str(to), "data=hh_rlhf", f"data.path={dialogues}",
        "preferences.half=second", "data.vocabulary=300", "data.held_out_share=0.3", "model.hidden_size=16", "model.layers=1",
        "model.heads=2", "model.intermediate_size=16", "pretrain.steps=1", "sft.steps=1", "reward_model.steps=1", "device=cpu",
    ]  # fmt: skip
    stages.main(command)
    (built,) = (tmp_path / "cache").glob("reward_model-*")
    assert stages.content(to) == stages.content(built) and (to / "model.safetensors").is_file()
    report = json.loads((to / "report.json").read_text())
    captured = capsys.readouterr()
    assert captured.out == f"wrote {to}\n"
    assert f"reward model: right on {report['held_out_accuracy']:.1%} ({report['held_out_interval'][0]:.1%}–" in captured.err
    stages.main(command)
    assert capsys.readouterr().out == f"{to} holds this reward_model already\n"
    stages.main([*command, "sampling.max_new_tokens=7"])  # people wrote the answers of the pairs
    assert capsys.readouterr().out == f"{to} holds this reward_model already\n"
    (to / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(SystemExit, match="holds something else: remove it, or name another folder"):
        stages.main(command)
    assert (to / "model.safetensors").read_bytes() == b"mine" and [path.name for path in to.parent.iterdir()] == ["reward_model"]


def test_an_arm_with_lora_shares_the_stages_of_the_study():
    assert stages.settings(["sweep=smollm2", "preferences.half=second"]).preferences.half == "second"


def test_a_study_whose_arms_differ_in_their_stages_names_none_to_build(tmp_path):
    with pytest.raises(SystemExit, match="the arms of sweep=rm_training do not share their stages: leave sweep= out"):
        stages.main(["build", "reward_model", str(tmp_path / "to"), "sweep=rm_training"])
    with pytest.raises(SystemExit, match=r"data.pth is not a setting: did you mean data.path"):
        stages.main(["build", "reward_model", str(tmp_path / "to"), "data.pth=x"])
    assert list(tmp_path.iterdir()) == []


def test_settings_of_human_data_are_no_part_of_what_a_run_on_the_world_is():
    world = Config()
    assert config_hash(world) == config_hash(Config(data=DataConfig(vocabulary=300, max_prompt_tokens=7)))
    human = Config(data=DataConfig(source="jsonl", path="x"))
    assert config_hash(human) != config_hash(Config(data=DataConfig(source="jsonl", path="x", max_prompt_tokens=7)))
    assert config_hash(human) == config_hash(Config(data=DataConfig(source="jsonl", path="x", language="zh")))


def test_stages_know_human_data_by_its_content(tmp_path):
    paths = [write_lines(tmp_path / name / "data.jsonl", hh_rows(3, seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    keys = [content_key(settings(path)) for path in paths]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.skipif(find_spec("datasets") is not None, reason="the extra hub is installed")
def test_a_hub_data_set_without_its_package_names_the_extra():
    with pytest.raises(UserError, match="needs the package datasets, which the extra `hub` installs"):
        read_table(settings(Path("some/name"), source="hub"))


@pytest.mark.skipif(find_spec("datasets") is None, reason="the extra hub is not installed")
def test_a_hub_data_set_is_read_by_its_package(tmp_path):
    """`datasets` takes a folder of files for a data set's name, so this needs no network."""
    write_lines(tmp_path / "set/train.jsonl", hh_rows(12))
    table = read_table(settings(tmp_path / "set", source="hub"))
    assert table.rows == 12 and [e.chosen for e in table.examples] == [parse_hh(row, "any").chosen for row in hh_rows(12)]
    with pytest.raises(UserError, match="cannot be loaded"):
        read_table(settings(tmp_path / "set", source="hub", split="nowhere"))


@pytest.mark.skipif(HH is None, reason="HH_RLHF names no file")
def test_2000_real_pairs_of_hh_rlhf_are_read():
    """Counts by an independent look at the file: 4 rows with an empty answer, 4 whose prompts differ."""
    data = DataConfig(source="hh_rlhf", path=HH)
    source = HumanSource(data)
    assert source.report["rows"] == 2000 and source.report["malformed"] == 8
    reasons = [row.rpartition(": ")[2] for row in source.report["malformed_rows"]]
    assert sorted(reasons) == ["an answer is empty"] * 4 + ["chosen and rejected have different prompts"] * 4
    assert source.report["train_examples"] + source.report["held_out_examples"] == 1992
    assert source.report["train_prompts"] + source.report["held_out_prompts"] == 1990
    assert 150 <= source.report["held_out_prompts"] <= 250
    raw = [json.loads(line) for line in gzip.open(HH, "rt")]
    example = source.train.examples[0]
    (row,) = [r for r in raw if r["chosen"].endswith(example.chosen) and example.prompt.messages[0][1] in r["chosen"]][:1]
    assert row["rejected"].endswith(example.rejected)
    assert example.prompt.kind == "harmful"
    assert [role for role, _ in example.prompt.messages] == ["user", "assistant"] * (len(example.prompt.messages) // 2) + ["user"]
