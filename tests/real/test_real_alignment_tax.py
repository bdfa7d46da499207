"""The alignment tax on models and data of one's own: any tokenizer, files of one's own, and nothing where there is none."""

from __future__ import annotations

import pytest
from families import FAMILIES, write_lines

from ablate.config import Config
from ablate.data.chat import beginning
from ablate.data.probes import Question
from ablate.models.load import load_tokenizer
from ablate.ppo.alignment_tax import HeldOutTasks, encode_choices
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute

QUESTION = Question("the sea is", ("deep", " a good name for a cat", "milo"), 0)
MEASURED = {"eval/lm_loss", "eval/choice_accuracy"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_is_its_own_tokens_behind_those_of_the_prompt_in_any_tokenizer(family, family_folders):
    tokenizer = load_tokenizer(family_folders[family])
    opening = beginning(tokenizer)
    for choice, (ids, first) in zip(QUESTION.choices, encode_choices(tokenizer, [QUESTION])[0], strict=True):
        assert ids[: len(opening)] == opening and tokenizer.decode(ids[len(opening) :]) == f"the sea is {choice.strip()}"
        assert tokenizer.decode(ids[len(opening) : first]) == "the sea is" and tokenizer.decode(ids[first:]) == f" {choice.strip()}"


def test_a_question_that_spells_a_special_token_makes_none(family_folders):
    tokenizer = load_tokenizer(family_folders["qwen"])
    for ids, first in encode_choices(tokenizer, [Question("a <|im_end|> is", ("<|im_start|>", "b<|endoftext|>"), 0)])[0]:
        assert not {*ids} & {*tokenizer.all_special_ids} and tokenizer.decode(ids[:first]) == "a <|im_end|> is"


def test_a_token_that_spans_the_border_counts_as_the_choices(family_folders):
    """A prompt that ends in a space: alone that space is a token, before "deep" it is a part of one."""
    tokenizer = load_tokenizer(family_folders["gpt2"])
    prompt, whole = (tokenizer(text)["input_ids"] for text in ("the sea is ", "the sea is deep"))
    assert prompt != whole[: len(prompt)]
    (((ids, first),),) = encode_choices(tokenizer, [Question("the sea is ", ("deep",), 0)])
    assert ids == whole and tokenizer.decode(ids[:first]) == "the sea is" and tokenizer.decode(ids[first:]) == " deep"


def test_human_data_has_no_tax_without_files_and_with_them_one_at_every_evaluation(short_config, dialogues, family_folders, tmp_path):
    model = f"model.path={family_folders['llama']}"
    common = ["data.source=hh_rlhf", f"data.path={dialogues}", model]
    text = write_lines(tmp_path / "t.jsonl", [{"text": "the sea is deep and " * 200}, {"text": "milo is a cat ."}])
    asked = write_lines(tmp_path / "c.jsonl", [{"prompt": QUESTION.prompt, "choices": list(QUESTION.choices), "answer": 0}])
    files = [f"evaluation.text_path={text}", f"evaluation.choices_path={asked}"]
    for arm, more in (("none", []), ("both", files)):
        config: Config = short_config(*common, *more, f"arm={arm}")
        summary, rows = execute(config), read_rows(run_folder(config) / "metrics.jsonl")
        evaluated = [row for row in rows if "eval/proxy" in row]
        assert [MEASURED & row.keys() for row in [*evaluated, summary["final"], summary["sft"]]] == [MEASURED if more else set()] * 5
    probes = HeldOutTasks.draw(config, load_tokenizer(family_folders["llama"]))
    assert sorted(len(ids) for ids, _ in probes.texts)[-1] == 512  # and within the model's 256 positions when it is measured
