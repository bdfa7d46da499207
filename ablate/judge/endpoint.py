"""An OpenAI-compatible /v1/chat/completions endpoint: paced, retried within bounds, paid for within a limit. Standard library only.

The API key comes from an environment variable and goes into the Authorization header alone: it is neither written nor shown, is not sent
unencrypted to another machine, and no redirect is followed, which would carry it elsewhere.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import urlsplit

from ablate.errors import UserError

RETRIED = (408, 409, 425, 429)  # and every 5xx
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class CostReached(Exception):
    """The next request could cost more than is left."""


class Stopped(Exception):
    """Another request has failed for good, so this one is not made."""


class Failed(Exception):
    """An attempt failed in a way that another may not; `wait` is what the server asked for, seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. Times in seconds; prices for a million tokens; `attempts` includes the first."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    attempts: int = 6
    first_wait: float = 1.0  # before the second attempt; doubled for each that follows
    longest_wait: float = 120.0
    requests_per_minute: float | None = None
    max_tokens: int = 512
    prompt_price: float | None = None
    completion_price: float | None = None
    max_cost: float | None = None

    def check(self) -> None:
        """Raises UserError for settings that cannot work, before anything is asked."""
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError(f"--url {self.url} is no address: write it like http://localhost:8000/v1")
        if self.key and address.scheme == "http" and address.hostname not in LOOPBACK:
            raise UserError(f"--url {self.url} would send the API key unencrypted: use https, or unset the variable that --key-from names")
        if self.max_cost is not None and (self.prompt_price is None or self.completion_price is None):
            raise UserError("--max-cost needs prices to count by: set --prompt-price and --completion-price")

    @property
    def address(self) -> str:
        """…/v1/chat/completions, whether or not --url ends with /v1 or with the whole path."""
        base = self.url.rstrip("/")
        if base.endswith("/chat/completions"):
            return base
        return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Price of so many tokens; null without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


@dataclass
class Meter:
    """What has been asked and paid so far, over all threads."""

    endpoint: Endpoint
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    dearest: float = 0.0  # cost of the most expensive reply yet
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def cost(self) -> float | None:
        return self.endpoint.cost(self.prompt_tokens, self.completion_tokens)

    def begin(self) -> None:
        """Count a request in. Raises CostReached if it and those under way could pass the limit, each as dear as the dearest yet."""
        with self.lock:
            limit = self.endpoint.max_cost
            if limit is not None and self.cost + (self.under_way + 1) * self.dearest > limit:
                raise CostReached
            self.under_way += 1

    def end(self, usage: dict | None) -> None:
        """Count a request out; `usage` is null where it brought no reply. Raises UserError where a limit cannot be kept."""
        with self.lock:
            self.under_way -= 1
            if usage is None:
                return
            self.requests += 1
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            if not all(isinstance(count, int) for count in tokens):
                self.without_usage += 1
                if self.endpoint.max_cost is not None:
                    raise UserError(
                        "the endpoint reports no token usage, so --max-cost cannot be kept: leave it out, or ask another endpoint"
                    )
                return
            self.prompt_tokens += tokens[0]
            self.completion_tokens += tokens[1]
            self.dearest = max(self.dearest, self.endpoint.cost(*tokens) or 0.0)

    def retried(self) -> None:
        with self.lock:
            self.retries += 1

    def record(self) -> dict:
        """For the file of the judgement."""
        names = ("requests", "retries", "prompt_tokens", "completion_tokens", "without_usage")
        return {name: getattr(self, name) for name in names} | {"cost": self.cost}


@dataclass
class Pace:
    """When the next request may start, over all threads: the rate limit, and what a server asked to wait."""

    interval: float  # seconds between starts
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    free: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wait(self) -> None:
        """Return when it is this caller's turn. Raises Stopped."""
        while True:
            with self.lock:
                now = time.monotonic()
                if now >= self.free:
                    self.free = now + self.interval
                    break
                left = self.free - now
            if self.stop.wait(left):
                raise Stopped
        if self.stop.is_set():
            raise Stopped

    def hold(self, seconds: float) -> None:
        """Nobody starts for so long."""
        with self.lock:
            self.free = max(self.free, time.monotonic() + seconds)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: following it would take the key to another address."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


def chat(endpoint: Endpoint, messages: list[dict], pace: Pace, meter: Meter) -> str | None:
    """The reply to `messages`; null where the model said nothing.

    Tried up to `attempts` times on timeouts, lost connections, 429, 5xx and bodies that are no chat completion, with doubled waits that
    are never shorter than Retry-After. Raises UserError for good, CostReached or Stopped.
    """
    reason = ""
    for attempt in range(endpoint.attempts):
        pace.wait()
        meter.begin()
        usage = None
        try:
            text, usage = ask(endpoint, messages)
            return text
        except Failed as failure:
            reason = str(failure)
            if failure.wait > endpoint.longest_wait:
                give_up(endpoint, f"it asks to wait {failure.wait:.0f} s, longer than --longest-wait {endpoint.longest_wait:g}")
            pace.hold(failure.wait)
        finally:
            meter.end(usage)
        if attempt + 1 < endpoint.attempts:
            meter.retried()
            if pace.stop.wait(min(endpoint.first_wait * 2**attempt, endpoint.longest_wait)):
                raise Stopped
    give_up(endpoint, f"{endpoint.attempts} attempts failed, the last: {reason}")


def give_up(endpoint: Endpoint, reason: str) -> NoReturn:
    raise UserError(
        f"the judge at {endpoint.address} gives no verdict ({reason}): mend it and run the same command, which asks only what is missing"
    )


def ask(endpoint: Endpoint, messages: list[dict]) -> tuple[str | None, dict]:
    """One attempt: (text of the first choice, usage). Raises Failed where another may do better, UserError where none will."""
    body = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": endpoint.max_tokens}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {})
    request = urllib.request.Request(endpoint.address, json.dumps(body).encode(), headers)
    proxies = urllib.request.ProxyHandler({} if urlsplit(endpoint.url).hostname in LOOPBACK else None)
    try:
        with urllib.request.build_opener(NoRedirect, proxies).open(request, timeout=endpoint.timeout) as reply:
            data = reply.read()
    except urllib.error.HTTPError as error:
        with error:
            refused(endpoint, error.code, error.headers, error.read(2000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{type(error).__name__}: {getattr(error, 'reason', None) or error}") from error
    try:
        answer = json.loads(data)
        content, usage = answer["choices"][0]["message"].get("content"), answer.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Failed("a body that is no chat completion") from error
    return content if isinstance(content, str) else None, usage if isinstance(usage, dict) else {}


def refused(endpoint: Endpoint, code: int, headers: http.client.HTTPMessage, text: str) -> NoReturn:
    """Raise what an HTTP status means."""
    said = " ".join(text.split())[:200]
    if endpoint.key:
        said = said.replace(endpoint.key, "…")
    if code in RETRIED or code >= 500:
        raise Failed(f"HTTP {code} {said}", retry_after(headers.get("Retry-After")))
    remedy = "put the key into the variable that --key-from names" if code in (401, 403) else "correct --url or --model"
    raise UserError(f"the judge at {endpoint.address} refuses (HTTP {code} {said}): {remedy}")


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 without one, or with one that cannot be read."""
    if value is None:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0
