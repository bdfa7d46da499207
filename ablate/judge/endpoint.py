"""An OpenAI-compatible /v1/chat/completions endpoint, called by httpx: rate limited, retried within bounds, and paid for within a limit.

The API key comes from an environment variable and goes into the Authorization header alone. It is neither written to a file nor shown,
it is not sent unencrypted to another machine, and redirects are not followed, because they would carry it to another address.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeGuard

import httpx

from ablate.errors import UserError
from ablate.system.jsonl import decoded

RETRIED = (408, 409, 425, 429)  # and every 5xx
MOST_BYTES = 2**20  # of a reply; a verdict with its reason has a few kilobytes
MOST_TOKENS = 10**9  # that a reply may report; more is no report
LONGEST_ASKED = 1e9  # seconds that Retry-After may ask for; more is as good as for ever
SHOWN = 200  # characters of an endpoint's own error text in a message
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class CostLimitReached(Exception):
    """The next request could cost more than is left."""


class Cancelled(Exception):
    """Another request has failed for good, so this one is not made."""


class RetryableError(Exception):
    """A request failed in a way that may pass; `wait` is the number of seconds that the server asks to wait."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


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
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError("--url is no address: write it like http://localhost:8000/v1")
        if address.userinfo:
            raise UserError("--url holds a user name or password, which files and messages would show: put the key where --key-from names")
        if self.key and address.scheme == "http" and address.host not in LOOPBACK:
            raise UserError(f"--url {self.url} would send the API key unencrypted: use https, or unset the variable that --key-from names")
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

    def end(self, usage: dict | None) -> None:
        """Count a request that has ended; `usage` is None where it brought no reply. Raises UserError where a limit cannot be kept."""
        with self.lock:
            self.in_flight -= 1
            if usage is None:
                return
            self.requests += 1
            prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if not (is_count(prompt) and is_count(completion)):
                self.without_usage += 1
                if self.endpoint.max_cost is not None:
                    raise UserError(
                        "the endpoint reports no token usage, so --max-cost cannot be kept: leave it out, or ask another endpoint"
                    )
                return
            self.prompt_tokens += prompt
            self.completion_tokens += completion
            self.highest_cost = max(self.highest_cost, self.endpoint.cost(prompt, completion) or 0.0)

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


def open_client(endpoint: Endpoint) -> httpx.Client:
    """An HTTP client that all threads share. Proxies of the environment apply to other machines, never to this one.

    Certificates are checked against the system's own, as OpenSSL finds them. Raises UserError for a proxy that cannot be used.
    """
    try:
        return httpx.Client(
            verify=ssl.create_default_context(), timeout=endpoint.timeout, follow_redirects=False,
            limits=httpx.Limits(max_connections=None), trust_env=httpx.URL(endpoint.url).host not in LOOPBACK,
        )  # fmt: skip
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise UserError(
            f"the proxy that the environment names cannot be used ({type(error).__name__}): correct HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
        ) from error


@dataclass(frozen=True)
class ChatClient:
    """Everything that a request needs: where to ask, by which connection, when, and what it may cost. Threads share it."""

    endpoint: Endpoint
    http: httpx.Client
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
            usage = None
            try:
                text, usage = self.request(messages)
                return text
            except RetryableError as error:
                reason = str(error)
                if error.wait > endpoint.longest_wait:
                    self.give_up(f"it asks to wait {error.wait:.0f} s, longer than --longest-wait {endpoint.longest_wait:g}")
                self.limiter.delay(error.wait)
            finally:
                self.meter.end(usage)
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

    def request(self, messages: list[dict]) -> tuple[str | None, dict]:
        """One request: (text of the first choice or None, usage as the server reports it, {} where it does not).

        A key that the text repeats is left out of it. Raises RetryableError where another attempt may succeed, UserError where none will.
        """
        endpoint = self.endpoint
        body = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": endpoint.max_tokens}
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        headers["Accept-Encoding"] = "identity"  # so that the bound on bytes is one on what is read
        try:
            with self.http.stream("POST", endpoint.address, json=body, headers=headers) as response:
                if not response.is_success:
                    self.raise_for_status(response)
                answer = decoded(read_body(response, time.monotonic() + endpoint.timeout))
                content, usage = answer["choices"][0]["message"].get("content"), answer.get("usage")
        except httpx.HTTPError as error:
            raise RetryableError(f"{type(error).__name__}: {self.without_key(str(error))}") from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise RetryableError("a body that is no chat completion") from error
        return self.without_key(content) if isinstance(content, str) else None, usage if isinstance(usage, dict) else {}

    def without_key(self, text: str) -> str:
        """A text from outside, in which the key is replaced where it is repeated."""
        return text.replace(self.endpoint.key, "…") if self.endpoint.key else text

    def raise_for_status(self, response: httpx.Response) -> NoReturn:
        """Raises RetryableError for a status that may pass, with what Retry-After asks for, and UserError for any other."""
        code, body = response.status_code, b""
        try:
            body = read_body(response, time.monotonic() + self.endpoint.timeout)
        except (RetryableError, httpx.HTTPError):  # the status says enough
            pass
        text = self.without_key(" ".join(body.decode(errors="replace").split()))[:SHOWN]
        if code in RETRIED or code >= 500:
            raise RetryableError(f"HTTP {code} {text}", retry_after(response.headers.get("Retry-After")))
        remedy = "put the key into the variable that --key-from names" if code in (401, 403) else "correct --url or --model"
        raise UserError(f"the judge at {self.endpoint.address} refuses (HTTP {code} {text}): {remedy}")


def read_body(response: httpx.Response, deadline: float) -> bytes:
    """The body of a reply. Raises RetryableError where it is not whole by `deadline`, of time.monotonic(), or longer than MOST_BYTES."""
    parts, size = [], 0
    for part in response.iter_raw():
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise RetryableError(f"a reply of more than {MOST_BYTES // 2**20} MiB")
        if time.monotonic() > deadline:
            raise RetryableError("a reply that came too slowly to be whole within --timeout")
    return b"".join(parts)


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a number of tokens: whole, not negative, and one that a reply can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 without one, or with one that cannot be read."""
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, OSError):
            return 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_ASKED)
