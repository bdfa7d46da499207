"""A word-level tokenizer for a grammar, as an ordinary Hugging Face tokenizer with a chat template."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from ablate.world.structure import Grammar

PAD, EOS, USER, ASSISTANT = "<pad>", "<eos>", "<user>", "<assistant>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first %} {% endif -%}"
    "{%- if message.role == 'user' -%}<user> {{ message.content }}"
    "{%- elif message.role == 'assistant' -%}<assistant> {{ message.content }} <eos>"
    "{%- else -%}{{ raise_exception('roles are user and assistant, not ' + message.role) }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt %} <assistant>{% endif -%}"
)


def build_tokenizer(grammar: Grammar) -> PreTrainedTokenizerFast:
    """One token a word of ``grammar.words``, and <pad>, <eos>, <user>, <assistant> as tokens 0 to 3.

    The chat template renders "<user> p <assistant> r <eos>". Pads go to the left, where generation needs them. A word
    outside the grammar is an error, since there is no unknown token to hide it.
    """
    special = (PAD, EOS, USER, ASSISTANT)
    vocabulary = {word: index for index, word in enumerate((*special, *grammar.words))}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
