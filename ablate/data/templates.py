"""Chat templates as programs that come with a model: they read no clock and draw nothing, and a rendering has an end. No torch here."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ablate.data.dialogues import Messages
from ablate.errors import UserError

# The date of every template that asks for today's, so that equal settings give equal prompts on every day: Llama 3's own default.
TODAY = datetime(2024, 7, 26)
CLOCK = re.compile(r"""\bstrftime_now\s*\(\s*(?:format\s*=\s*)?(["'])((?:(?!\1)[^\\])*)\1\s*\)""")
OTHER_CLOCK = re.compile(r"\bstrftime_now\b(?!\s+is\b)")
CHANCE = re.compile(r"(?<!<)\|\s*random\b(?!\|)|\blipsum\s*\(")
COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# What a template raises for a dialogue that it does not take, or by a mistake of its own.
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
AT_ONCE, SECONDS = 256, 10.0  # dialogues rendered together, and the processor's time that they have: a thousand times what they need
LONGEST, REPEATED = 1_000_000, 16  # characters that a template may add to a dialogue, and how often it may repeat it


class TooLong(Exception):
    """A rendering has used up its time."""


def frozen(template: str, where: object) -> str:
    """The template with the date of TODAY wherever it asks for today's.

    Raises UserError where the format of that date is not written out, and for a template that draws at random.
    """
    fixed = CLOCK.sub(lambda call: f"{call[1]}{TODAY.strftime(call[2])}{call[1]}", template)
    program = COMMENT.sub("", fixed)
    if CHANCE.search(program):
        raise UserError(f"the chat template in {where} draws at random, so equal settings would give other prompts: write a choice there")
    if OTHER_CLOCK.search(program):
        raise UserError(
            f"the chat template in {where} reads the clock (strftime_now), so equal settings would give other prompts on another day: "
            "write a date in its place"
        )
    return fixed


def rendered(tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Messages], **how) -> list[str]:
    """The text of each dialogue in the tokenizer's chat template.

    Raises UserError for a template that does not end or writes without measure, and what TEMPLATE_ERRORS names.
    """
    texts: list[str] = []
    for first in range(0, len(dialogues), AT_ONCE):
        some = list(dialogues[first : first + AT_ONCE])
        try:
            with time_limit(SECONDS):
                found = tokenizer.apply_chat_template(some, tokenize=False, **how)
        except TooLong as error:
            raise UserError(f"the tokenizer's chat template does not end within {SECONDS:g} seconds: mend its loops") from error
        for messages, text in zip(some, found, strict=True):
            if len(text) > LONGEST + REPEATED * sum(len(message["content"]) for message in messages):
                raise UserError(f"the tokenizer's chat template makes {len(text):,} characters of one dialogue: mend its loops")
        texts += found
    return texts


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooLong in the block after so many seconds of the processor's time. In another thread than the main one there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, lambda *_: stop())
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def stop() -> None:
    """Raises TooLong."""
    raise TooLong
