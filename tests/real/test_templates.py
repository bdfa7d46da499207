"""Chat templates that people's models bring: those that read the clock, fail by a mistake of their own, or never end."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from families import CHAT_ML, byte_bpe, family_tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from ablate.data import templates
from ablate.data.chat import encode_turns, prepare
from ablate.data.templates import frozen
from ablate.errors import UserError

LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now(\"%d %b %Y\") %}"
    "{%- else %}{%- set date_string = \"26 Jul 2024\" %}{%- endif %}{%- endif %}"
    "{{- '<|im_start|>system\nToday Date: ' + date_string + '<|im_end|>\n' }}"
)  # fmt: skip
GRANITE = "{%- set today = strftime_now( format='%B %d, %Y' ) %}{{ 'Today\\'s Date: ' + today + '.\n' }}"


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = family_tokenizer("qwen")
    tokenizer.chat_template = template
    return prepare(tokenizer, "a test")


@pytest.mark.parametrize(("opening", "date"), [(LLAMA, "Today Date: 26 Jul 2024"), (GRANITE, "Today's Date: July 26, 2024.")])
def test_a_template_that_asks_for_the_date_gets_the_same_one_every_day_also_where_it_is_saved(opening, date, tmp_path, monkeypatch):
    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 2, 3)

    tokenizer = with_template(opening + CHAT_ML)
    prompt = encode_turns(tokenizer, ["hi"])
    assert date in tokenizer.decode(prompt[0])
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    chat_template_utils._compile_jinja_template.cache_clear()
    assert encode_turns(tokenizer, ["hi"]) == encode_turns(with_template(opening + CHAT_ML), ["hi"]) == prompt
    tokenizer.save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "hi"}]
    assert date in saved.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


@pytest.mark.parametrize("call", ["{{ strftime_now(form) }}", "{% set now = strftime_now %}", "{{ strftime_now('%d' ~ ' %b') }}"])
def test_a_clock_that_is_read_in_another_way_is_refused_by_name(call):
    with pytest.raises(UserError, match=r"chat template in a test reads the clock \(strftime_now\).*write a date"):
        with_template(call + CHAT_ML)


@pytest.mark.parametrize("draw", ["{{ ['a', 'b'] | random }}", "{{ lipsum() }}"])
def test_a_template_that_draws_at_random_is_refused(draw):
    with pytest.raises(UserError, match="chat template in a test draws at random"):
        with_template(draw + CHAT_ML)


def test_a_template_without_a_clock_stays_as_it_is():
    for template in (
        CHAT_ML,
        "{{ '<|random|>' }}",
        "{# strftime_now(x) #}" + CHAT_ML,
        "{% if strftime_now is defined %}{% endif %}" + CHAT_ML,
    ):
        assert frozen(template, "a test") == template


MISTAKES = {
    "division": "{{ 1 // 0 }}", "type": "{{ 1 + 'a' }}", "lookup": "{{ messages[7].content }}", "attribute": "{{ none.append(1) }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "memory": "{{ 'x' * 10 ** 18 }}", "syntax": "{% if %}",
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_of_a_template_is_one_sentence(kind):
    with pytest.raises(UserError, match="chat template refuses a prompt of the data") as error:
        encode_turns(with_template(MISTAKES[kind] + CHAT_ML), ["hi"])
    assert "\n" not in str(error.value) and "()" not in str(error.value)


ENDLESS = {
    "ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "output": "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' }}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_does_not_end_is_stopped(kind, monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    tokenizer, started = with_template(ENDLESS[kind] + CHAT_ML), time.monotonic()
    with pytest.raises(UserError, match=r"does not end within 0\.2 seconds"):
        encode_turns(tokenizer, ["hi"])
    assert time.monotonic() - started < 10


def test_a_template_that_writes_without_measure_is_refused():
    with pytest.raises(UserError, match=r"makes 2,000,0.. characters of one dialogue"):
        encode_turns(with_template("{{ 'x' * 2000000 }}" + CHAT_ML), ["hi"])


def test_a_template_whose_marks_are_looked_for_does_not_hang_either(monkeypatch):
    """Tokens that are not special are looked for in a rendering of their own."""
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    backend = byte_bpe(["<|endoftext|>"], 305)
    backend.add_tokens(["<mark>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", chat_template=ENDLESS["ranges"])
    with pytest.raises(UserError, match="does not end"):
        encode_turns(prepare(tokenizer, "a test"), ["hi"])


def test_many_dialogues_are_rendered_as_each_by_itself():
    tokenizer = with_template(CHAT_ML)
    prompts = [f"hi {i}" for i in range(600)]
    assert encode_turns(tokenizer, prompts) == [encode_turns(tokenizer, [prompt])[0] for prompt in prompts]
