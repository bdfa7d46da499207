"""The alignment tax: held-out loss and multiple choice against slow loops, by hand, from files; and that measuring them changes nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ablate.config import Config, PPOConfig
from ablate.data.chat import beginning
from ablate.data.probes import QUESTIONS, TEXTS, Question, held_out_texts, questions, read_questions, read_texts
from ablate.errors import UserError
from ablate.ppo.alignment_tax import HeldOutTasks, encode_choices, log_likelihoods
from ablate.runs.folder import read_rows, run_folder
from ablate.session import execute
from ablate.settings.identity import config_hash
from ablate.system.seeding import numpy_generator
from ablate.world.grammar import corpus, grammar
from ablate.world.tokenizer import build_tokenizer

MEASURED = ("eval/lm_loss", "eval/choice_accuracy")


def texts_of(config: Config) -> list[str]:
    return held_out_texts(config, numpy_generator(config.pipeline_seed, "corpus"), numpy_generator(config.pipeline_seed, "held-out text"))


def slow_log_likelihood(policy, ids: list[int], first: int) -> float:
    """Σ_{t ≥ first} log π(ids_t | ids_<t), a forward pass a token."""
    total = 0.0
    for t in range(first, len(ids)):
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([ids[:t]])).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[ids[t]])
    return total


def test_log_likelihoods_are_those_of_a_loop_over_tokens_whatever_rows_are_shared(tiny_models):
    items = [([5, 9, 7], 1), ([5, 9, 8], 2), ([5, 9, 8], 1), ([4, 4, 4, 6, 2, 9], 3), ([7, 3], 1), ([5, 9, 7, 7], 2)]
    found = log_likelihoods(tiny_models.policy, items).tolist()
    assert found == pytest.approx([slow_log_likelihood(tiny_models.policy, *item) for item in items], abs=1e-5)


def test_the_loss_and_the_accuracy_of_the_worlds_probes_are_those_of_a_slow_loop(tiny_config, tiny_models, tokenizer):
    probes = HeldOutTasks.draw(tiny_config(), tokenizer)
    measured = probes.alignment_tax(tiny_models.policy)
    sums = [slow_log_likelihood(tiny_models.policy, *item) for item in probes.texts]
    assert measured["eval/lm_loss"] == pytest.approx(-sum(sums) / sum(len(ids) - 1 for ids, _ in probes.texts), abs=1e-5)
    right = 0
    for choices, answer in zip(probes.choices, probes.answers, strict=True):
        scores = [slow_log_likelihood(tiny_models.policy, ids, first) / (len(ids) - first) for ids, first in choices]
        right += scores.index(max(scores)) == answer
    assert measured["eval/choice_accuracy"] == right / QUESTIONS


def uniform_but_for(tokenizer, favoured: int) -> AutoModelForCausalLM:
    """A policy that gives `favoured` log-odds of 2 and every other token 0, whatever came before."""
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0)  # fmt: skip
    policy = AutoModelForCausalLM.from_config(shape).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        policy.get_input_embeddings().weight[:, 0] = 1.0
        policy.model.norm.weight[0] = 1.0
        policy.get_output_embeddings().weight[favoured, 0] = 2.0 / 8**0.5  # the norm makes √8 of the one dimension that is on
    return policy


def test_a_choice_is_judged_by_its_mean_log_likelihood_a_token(tokenizer):
    """Favoured `f`, other `o`: a token of f is worth log(e²/Z), one of o log(1/Z). By sums "o" beats "f f f o"; by means it loses."""
    f, o = tokenizer.convert_tokens_to_ids(["flour", "oven"])
    policy = uniform_but_for(tokenizer, f)
    z = np.log(np.exp(2) + len(tokenizer) - 1)
    assert log_likelihoods(policy, [([o, o], 1), ([o, f, f, f, o], 1)]).tolist() == pytest.approx([-z, 6 - 4 * z], abs=1e-4)
    probes = HeldOutTasks([], encode_choices(tokenizer, [Question("the", ("oven", "flour flour flour oven"), 1)]), [1])
    assert probes.alignment_tax(policy) == {"eval/choice_accuracy": 1.0}


def test_questions_encoded_together_have_the_items_of_each_alone(tokenizer):
    answers = {"the": ("oven", "flour flour oven"), "the oven": ("the", "flour", "oven"), "flour": ("the",)}
    asked = [Question(prompt, choices, 0) for prompt, choices in answers.items()]
    together, opening = encode_choices(tokenizer, asked), beginning(tokenizer)
    assert [len(items) for items in together] == [2, 3, 1] and encode_choices(tokenizer, []) == []
    assert together == [items for question in asked for items in encode_choices(tokenizer, [question])]
    words = tokenizer.convert_tokens_to_ids(["the", "flour", "flour", "oven"])
    assert together[0][1] == (opening + words, len(opening) + 1)


def test_a_uniform_policy_loses_the_logarithm_of_the_vocabulary_a_token(tiny_config, tokenizer):
    policy = uniform_but_for(tokenizer, 5)
    policy.get_output_embeddings().weight.data.zero_()
    assert HeldOutTasks.draw(tiny_config(), tokenizer).alignment_tax(policy)["eval/lm_loss"] == pytest.approx(
        np.log(len(tokenizer)), abs=1e-6
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_text_of_the_world_is_one_that_pre_training_has_learned(language):
    config = Config()
    config.data.language = language
    found = texts_of(config)
    learned = corpus(grammar(language), config.pretrain.examples, numpy_generator(0, "corpus"))
    assert len(found) == len(set(found)) == TEXTS and not set(found) & set(learned)
    tokens = build_tokenizer(grammar(language))(found)["input_ids"]  # every word is one of the world's
    assert min(map(len, tokens)) > 10


def test_probes_belong_to_the_pipelines_seed_and_not_to_the_runs(tiny_config, tokenizer):
    one, same, other = (HeldOutTasks.draw(tiny_config(*words), tokenizer) for words in ((), ("seed=3",), ("pipeline_seed=3",)))
    assert one == same and one.texts != other.texts and one.choices != other.choices


def test_a_question_of_the_world_has_its_right_option_at_the_answer(tiny_config):
    known = " ".join(corpus(grammar("en"), 4000, np.random.default_rng(1)))
    for question in questions(tiny_config(), np.random.default_rng(0)):
        said = [f"{question.prompt} {choice} ." in known for choice in question.choices]
        assert said[question.answer] and sum(said) == 1, question


def write(path, rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_files_take_the_place_of_the_worlds_and_are_all_read_where_they_are_short(tiny_config, tokenizer, tmp_path):
    text = write(tmp_path / "t.jsonl", [{"text": "the flour is light ."}, "", {"text": "the oven is warm ."}])
    asked = write(tmp_path / "c.jsonl", [{"prompt": "the flour is", "choices": ["light", "warm"], "answer": 0}])
    probes = HeldOutTasks.draw(tiny_config(f"evaluation.text_path={text}", f"evaluation.choices_path={asked}"), tokenizer)
    light, end = tokenizer.convert_tokens_to_ids(["light", "<eos>"])
    assert sorted(tokenizer.decode(ids) for ids, _ in probes.texts) == ["the flour is light . <eos>", "the oven is warm . <eos>"]
    assert {first for _, first in probes.texts} == {1} and all(ids[-1] == end for ids, _ in probes.texts)
    assert probes.choices[0][0] == ([*tokenizer("the flour is")["input_ids"], light], 3) and probes.answers == [0]


def test_a_long_file_is_drawn_from(tiny_config, tmp_path):
    text = write(tmp_path / "t.jsonl", [{"text": f"text {i}"} for i in range(3 * TEXTS)])
    found = texts_of(tiny_config(f"evaluation.text_path={text}"))
    assert len(found) == len(set(found)) == TEXTS and found != sorted(found, key=lambda line: int(line.split()[1]))


@pytest.mark.parametrize("rows, said", [
    ([], "holds no rows"), (["{"], "line 1 is not JSON"), ([{"text": "a"}, {"words": "b"}], "line 2 has no `text`"),
    ([["a"]], "line 1 has no `text`"), ([{"text": " "}], "line 1 has no `text`"),
])  # fmt: skip
def test_a_file_of_texts_that_is_none_is_refused_by_its_line(tmp_path, rows, said):
    with pytest.raises(UserError, match=said):
        read_texts(Path(write(tmp_path / "t.jsonl", rows)))


GOOD = {"prompt": "a", "choices": ["b", "c"], "answer": 1}


@pytest.mark.parametrize("change, said", [
    ({"answer": 2}, "an index from 0 to 1"), ({"answer": -1}, "an index"), ({"answer": "1"}, "an index"), ({"answer": True}, "an index"),
    ({"choices": ["b"]}, "two or more"), ({"choices": "bc"}, "two or more"), ({"choices": ["b", ""]}, "two or more"),
    ({"prompt": ""}, "`prompt`"),
])  # fmt: skip
def test_a_question_that_is_none_is_refused_by_its_line(tmp_path, change, said):
    path = tmp_path / "c.jsonl"
    write(path, [GOOD, GOOD | change])
    with pytest.raises(UserError, match=said) as refused:
        read_questions(path)
    assert "line 2" in str(refused.value)


def test_a_file_that_is_not_there_is_refused_before_anything_is_built(tiny_config):
    config = tiny_config("evaluation.text_path=nowhere.jsonl")
    with pytest.raises(UserError, match=r"evaluation\.text_path=nowhere\.jsonl cannot be read"):
        execute(config)
    assert not run_folder(config).exists()


def test_a_word_that_the_tokenizer_does_not_know_is_one_sentence(tiny_config, tokenizer, tmp_path):
    text = write(tmp_path / "t.jsonl", [{"text": "quantum chromodynamics"}])
    with pytest.raises(UserError, match="cannot encode"):
        HeldOutTasks.draw(tiny_config(f"evaluation.text_path={text}"), tokenizer)


def test_a_run_logs_both_at_every_evaluation_and_they_change_no_other_bit(tiny_config, tmp_path):
    """Only the questions differ between the two runs; loss, samples and everything else are equal bit for bit."""
    asked = write(tmp_path / "c.jsonl", [{"prompt": "the flour is", "choices": ["light", "warm", "old"], "answer": 0}])
    configs = [tiny_config("arm=world"), tiny_config("arm=file", f"evaluation.choices_path={asked}")]
    rows, summaries = [], []
    for config in configs:
        summaries.append(execute(config))
        rows.append(read_rows(run_folder(config) / "metrics.jsonl"))
    assert [row["update"] for row in rows[0] if "eval/lm_loss" in row] == [0, 2, 4]
    assert [set(MEASURED) <= row.keys() for row in rows[0]] == ["eval/proxy" in row for row in rows[0]]
    for summary, found in zip(summaries, rows, strict=True):
        for name in MEASURED:
            assert summary["final"][name] == found[-1][name] and summary["sft"][name] == found[0][name]  # the policy starts as SFT
    apart = ("time/", "responses_per_second", "eval/choice_accuracy")
    kept = [[{key: value for key, value in row.items() if not key.startswith(apart)} for row in found] for found in rows]
    assert kept[0] == kept[1]
    for name in ("scores.jsonl", "samples.jsonl"):
        assert len({(run_folder(config) / name).read_bytes() for config in configs}) == 1


def test_a_run_is_known_by_its_files_but_without_them_by_the_hash_it_always_had(tiny_config):
    plain = tiny_config()
    assert config_hash(plain) != config_hash(tiny_config("evaluation.text_path=t.jsonl"))
    assert config_hash(Config(ppo=PPOConfig(updates=150))) == "d733d614431a"  # of runs made before there was an alignment tax
