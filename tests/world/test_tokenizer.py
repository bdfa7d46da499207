"""The tokenizer is lossless, needs no network, and its chat template is the documented string."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from ablate.world.grammar import corpus, demonstrations, grammar
from ablate.world.tokenizer import build_tokenizer


@pytest.fixture(scope="module", params=("en", "zh"))
def world(request):
    return grammar(request.param)


@pytest.fixture(scope="module")
def tokenizer(world):
    return build_tokenizer(world)


def chat(prompt, response=None):
    answer = [] if response is None else [{"role": "assistant", "content": response}]
    return [{"role": "user", "content": prompt}, *answer]


def test_the_chat_template_renders_the_documented_strings(tokenizer):
    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    assert render(chat("p q"), add_generation_prompt=True) == "<user> p q <assistant>"
    assert render(chat("p q")) == "<user> p q"
    assert render(chat("p q", "r s")) == "<user> p q <assistant> r s <eos>"
    two_turns = [*chat("p", "r"), *chat("q")]
    assert render(two_turns, add_generation_prompt=True) == "<user> p <assistant> r <eos> <user> q <assistant>"


def test_an_unknown_role_is_an_error(tokenizer):
    with pytest.raises(Exception, match="roles are user and assistant, not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_words_and_tokens_are_one_to_one(world, tokenizer):
    texts = [text for prompt, response in demonstrations(world, 200, np.random.default_rng(0))
             for text in (prompt.text, response)] + corpus(world, 100, np.random.default_rng(1))  # fmt: skip
    for text in texts:
        ids = tokenizer(text).input_ids
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text


def test_special_tokens_are_distinct_and_come_first(world, tokenizer):
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<eos>", "<user>", "<assistant>"]) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert len(tokenizer) == len(world.words) + 4


def test_decoding_skips_special_tokens_and_pads_stand_left(tokenizer, world):
    short, long = world.words[0], " ".join(world.words[:3])
    batch = tokenizer([f"<user> {short} <eos>", f"<user> {long} <eos>"], padding=True)
    assert batch.input_ids[0][:2] == [0, 0]
    assert batch.attention_mask[0] == [0, 0, 1, 1, 1]
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == [short, long]


def test_rendered_chats_tokenize_to_the_special_tokens(tokenizer, world):
    word = world.words[5]
    ids = tokenizer.apply_chat_template(chat(word, word)).input_ids
    assert ids == [2, 9, 3, 9, 1]


def test_a_word_outside_the_grammar_is_an_error(tokenizer):
    with pytest.raises(Exception, match="Missing \\[UNK\\]"):
        tokenizer("zebra")


def test_a_saved_tokenizer_comes_back_equal(tokenizer, world, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.padding_side, loaded.pad_token, loaded.eos_token) == ("left", "<pad>", "<eos>")
    text = " ".join(world.words)
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.decode(loaded(text).input_ids) == text
