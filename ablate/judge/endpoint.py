"""An OpenAI-compatible /v1/chat/completions endpoint, called by httpx: rate limited, retried within bounds, and paid for within a limit.

The API key comes from an environment variable and goes into the Authorization header alone. It is neither written to a file nor shown,
it is not sent unencrypted to another machine, and redirects are not followed, because they would carry it to another address.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import httpx
from anyio.from_thread import start_blocking_portal

from ablate.errors import UserError
from ablate.judge.reply import Received, RetryableError, Usage, completion, error_text, receive, retry_after
from ablate.system.secrets import masked

RETRIED = (408, 409, 425, 429)  # and every 5xx
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"(?=.{1,253}$)[^.\s]{1,63}(\.[^.\s]{1,63})*\.?")  # longer names and labels cannot be looked up


class CostLimitReached(Exception):
    """The next request could cost more than is left."""


class Cancelled(Exception):
    """Another request has failed for good, so this one is not made."""


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask. Times are in seconds, prices per million tokens; `attempts` counts the first request too."""

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
        """Refuse settings that cannot work, before anything is sent. Raises UserError."""
        address = read_address(self.url)
        if self.key and address.scheme == "http" and address.host not in LOOPBACK:
            raise UserError(f"--url {self.url} would send the API key unencrypted: use https, or unset the variable that --key-from names")
        if not self.model.isprintable():
            raise UserError("--model has a character that cannot be printed: correct the name")
        if self.key and not (self.key.isascii() and self.key.isprintable()):
            raise UserError("the API key has a character that no header may hold, such as a line break: correct the variable of --key-from")
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
        """The price of these tokens; None without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


def read_address(url: str) -> httpx.URL:
    """The address. Raises UserError where it is none, or where it holds what may be a secret, which is not shown."""
    if any(mark in url for mark in "@?#"):
        raise UserError(
            "--url holds a user name, a password or a query, which other programs could see: write the address alone, and put the key into "
            "the variable that --key-from names"
        )
    try:
        address = httpx.URL(url)
        host = address.raw_host.decode()
    except (httpx.InvalidURL, UnicodeError):
        address, host = httpx.URL(), ""
    named = ":" in host or HOST.fullmatch(host)
    if address.scheme not in ("http", "https") or not named or not 0 < (address.port or 443) < 1 << 16:
        raise UserError(f"--url {url} is no address: write it like http://localhost:8000/v1")
    return address


@dataclass
class Meter:
    """What all threads together have asked and paid so far."""

    endpoint: Endpoint
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    highest_cost: float = 0.0  # of one request so far
    in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def cost(self) -> float | None:
        return self.endpoint.cost(self.prompt_tokens, self.completion_tokens)

    def begin(self) -> None:
        """Count a request that starts.

        Raises CostLimitReached if it and those in flight could pass the limit, where each costs as much as the most expensive so far.
        """
        with self.lock:
            limit = self.endpoint.max_cost
            if limit is not None and self.cost is not None and self.cost + (self.in_flight + 1) * self.highest_cost > limit:
                raise CostLimitReached
            self.in_flight += 1

    def end(self, replied: bool, usage: Usage | None) -> None:
        """Count a request that has ended, with what its reply was billed for. Raises UserError where a limit cannot be kept."""
        with self.lock:
            self.in_flight -= 1
            if not replied:
                return
            self.requests += 1
            if usage is None:
                self.without_usage += 1
                if self.endpoint.max_cost is not None:
                    raise UserError(
                        "the endpoint reports no token usage that could be, so --max-cost cannot be kept: leave it out, or ask another "
                        "endpoint"
                    )
                return
            self.prompt_tokens += usage.prompt
            self.completion_tokens += usage.completion
            self.highest_cost = max(self.highest_cost, self.endpoint.cost(*usage) or 0.0)

    def count_retry(self) -> None:
        with self.lock:
            self.retries += 1

    def record(self) -> dict:
        """The counts and the cost, for the file of the judgement."""
        names = ("requests", "retries", "prompt_tokens", "completion_tokens", "without_usage")
        return {name: getattr(self, name) for name in names} | {"cost": self.cost}


@dataclass
class RateLimiter:
    """When the next request of any thread may start: after the rate limit's interval, and after what a server asked to wait."""

    interval: float  # seconds between the starts of two requests
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    free: float = 0.0  # time.monotonic() at which the next request may start
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wait(self) -> None:
        """Return when it is this caller's turn. Raises Cancelled."""
        while True:
            with self.lock:
                now = time.monotonic()
                if now >= self.free:
                    self.free = now + self.interval
                    break
                left = self.free - now
            if self.stop.wait(left):
                raise Cancelled
        if self.stop.is_set():
            raise Cancelled

    def delay(self, seconds: float) -> None:
        """Let no request start for this many seconds."""
        with self.lock:
            self.free = max(self.free, time.monotonic() + seconds)


Post = Callable[[dict], Received]  # raises RetryableError


@contextmanager
def open_client(endpoint: Endpoint) -> Iterator[Post]:
    """How to post a body to the endpoint, from any thread. Proxies of the environment apply to other machines, never to this one.

    Requests run in one event loop beside the threads, because only there can a deadline end a request at whatever it waits for.
    Certificates are checked against the system's own, as OpenSSL finds them. Raises UserError for a proxy that cannot be used.
    """
    try:
        http = httpx.AsyncClient(
            verify=ssl.create_default_context(), timeout=endpoint.timeout, follow_redirects=False,
            limits=httpx.Limits(max_connections=None), trust_env=httpx.URL(endpoint.url).host not in LOOPBACK,
        )  # fmt: skip
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # its text may hold the proxy's password
        raise UserError("the proxy that the environment names cannot be used: correct HTTPS_PROXY, HTTP_PROXY and ALL_PROXY") from error
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(http):
        yield lambda body: portal.call(receive, http, endpoint.address, body, headers, endpoint.timeout)


@dataclass(frozen=True)
class ChatClient:
    """Everything that a request needs: where to ask, how, when, and what it may cost. Threads share it."""

    endpoint: Endpoint
    post: Post
    limiter: RateLimiter
    meter: Meter

    def reply(self, messages: list[dict]) -> str | None:
        """The model's reply to `messages`; None where it has no text.

        Timeouts, lost connections, statuses 408, 409, 425, 429 and 5xx, and bodies that are no chat completion are tried again, up to
        `attempts` requests in all. Waits double, and are never shorter than Retry-After. Raises UserError where no further attempt
        will help, CostLimitReached and Cancelled.
        """
        endpoint, reason = self.endpoint, ""
        for attempt in range(endpoint.attempts):
            self.limiter.wait()
            self.meter.begin()
            replied, usage = False, None
            try:
                text, usage = self.request(messages)
                replied = True
                return text
            except RetryableError as error:
                reason = masked(str(error), endpoint.key)
                if error.wait > endpoint.longest_wait:
                    self.give_up(f"it asks to wait {error.wait:g} s, longer than --longest-wait {endpoint.longest_wait:g}")
                self.limiter.delay(error.wait)
            finally:
                self.meter.end(replied, usage)
            if attempt + 1 < endpoint.attempts:
                self.meter.count_retry()
                if self.limiter.stop.wait(min(endpoint.first_wait * 2**attempt, endpoint.longest_wait)):
                    raise Cancelled
        self.give_up(f"{endpoint.attempts} attempts failed, the last: {reason}")

    def give_up(self, reason: str) -> NoReturn:
        """Raises UserError with the reason and the remedy."""
        raise UserError(
            f"the judge at {self.endpoint.address} gives no verdict ({reason}): mend it and run the same command, "
            "which asks only what is missing"
        )

    def request(self, messages: list[dict]) -> tuple[str | None, Usage | None]:
        """One request: (text of the first choice or None, usage or None where no credible one is reported).

        Raises RetryableError where another attempt may succeed, UserError where none will.
        """
        endpoint = self.endpoint
        received = self.post({"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": endpoint.max_tokens})
        if not 200 <= received.status < 300:
            self.raise_for_status(received)
        return completion(received.body)

    def raise_for_status(self, received: Received) -> NoReturn:
        """Raises RetryableError for a status that may pass, with what Retry-After asks for, and UserError for any other."""
        code = received.status
        text = masked(error_text(received.body), self.endpoint.key)[:200]
        if code in RETRIED or code >= 500:
            raise RetryableError(f"HTTP {code} {text}", retry_after(received.retry_after))
        remedy = "put the key into the variable that --key-from names" if code in (401, 403) else "correct --url or --model"
        raise UserError(f"the judge at {self.endpoint.address} refuses (HTTP {code} {text}): {remedy}")
