"""What an endpoint sent, within bounds of time, bytes, depth and types → the text of a chat completion and its token usage."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import anyio
import httpx

from ablate.system.jsonl import decoded

LARGEST_BODY = 1 << 22  # bytes
MOST_TOKENS = 10**8  # that the usage of one reply can honestly report
NO_COMPLETION = "a body that is no chat completion"


class RetryableError(Exception):
    """A request failed in a way that may pass; `wait` is the number of seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Usage(NamedTuple):
    """Tokens that one reply was billed for."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class Received:
    """The answer to one request, as it came."""

    status: int
    retry_after: str | None  # the header
    body: bytes | None  # None where it has more than LARGEST_BODY bytes


async def receive(http: httpx.AsyncClient, address: str, body: dict, headers: dict[str, str], seconds: float) -> Received:
    """Post `body` as JSON and read the whole answer. Raises RetryableError where it is not whole after `seconds`.

    The deadline is one for connecting, the headers and the body together: a timeout of each read would let a server that sends one byte at
    a time go on forever. The body is read as it was sent, since unpacking could make gigabytes of it.
    """
    data = bytearray()
    try:
        with anyio.fail_after(seconds):
            async with http.stream("POST", address, json=body, headers={**headers, "Accept-Encoding": "identity"}) as response:
                async for piece in response.aiter_raw():
                    data += piece
                    if len(data) > LARGEST_BODY:
                        return Received(response.status_code, response.headers.get("Retry-After"), None)
    except TimeoutError as error:
        raise RetryableError(f"no whole reply within {seconds:g} s") from error
    except httpx.HTTPError as error:
        raise RetryableError(f"{type(error).__name__}: {innermost(error)}") from error
    return Received(response.status_code, response.headers.get("Retry-After"), bytes(data))


def innermost(error: BaseException) -> str:
    """What the error says that caused the others: the system's own words where it has a number."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return os.strerror(error.errno) if isinstance(error, OSError) and type(error.errno) is int and error.errno > 0 else str(error)


def completion(body: bytes | None) -> tuple[str | None, Usage | None]:
    """(text of the first choice or None, usage or None where none is credible). Raises RetryableError for what is no chat completion."""
    if body is None:
        raise RetryableError(f"a body of more than {LARGEST_BODY >> 20} MiB")
    try:
        answer = decoded(body)
    except ValueError as error:
        raise RetryableError(NO_COMPLETION) from error
    match answer:
        case {"choices": [{"message": dict() as message}, *_]}:
            content = message.get("content")
            text = content if isinstance(content, str) else None
            return text, usage_of(answer.get("usage"), text)
    raise RetryableError(NO_COMPLETION)


def usage_of(usage: Any, text: str | None) -> Usage | None:
    """The tokens that a reply reports. None where they are no counts, or cannot be: a prompt of none, a text of none, or too many."""
    match usage:
        case {"prompt_tokens": int(prompt), "completion_tokens": int(written)} if bool not in (type(prompt), type(written)):
            return Usage(prompt, written) if 1 <= prompt <= MOST_TOKENS and bool(text) <= written <= MOST_TOKENS else None
    return None


def error_text(body: bytes | None) -> str:
    """The body of an error on one line. JSON is written anew, so that whatever it holds has one spelling."""
    text = "" if body is None else body.decode(errors="replace")
    try:
        text = json.dumps(decoded(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        pass  # an error need not be JSON
    return " ".join(text.split())


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 without one, or with one that cannot be read."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError, OSError):  # what a date that is none raises depends on how it is none
            return 0.0
    return 0.0 if math.isnan(seconds) else max(seconds, 0.0)
