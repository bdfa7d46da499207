"""A judge's endpoint that answers anything: each reply is a right verdict, an unreadable one, or a sentence; the key is nowhere."""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from judge_server import Judge, longer, send, serving

from ablate.errors import UserError
from ablate.judge.endpoint import Endpoint, Meter
from ablate.judge.llm import VerdictCache, judge_pairs
from ablate.judge.reply import LARGEST_BODY, retry_after

KEY = "sk-canary-4711"
PAIRS = [("p", "long answer", "short")]
FEW, MANY = 200, 5_000
Reply = Callable[[BaseHTTPRequestHandler], None]


def body_of(content: object, usage: object = None) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}], "usage": usage}).encode()


ODD = (None, True, 0, -1, 1.5, 10**30, "", "x", [], {}, [[]], {"content": 1}, "\u202e\x1b[2J", KEY)
DEEP = b"[" * 200_000
BODIES = (b"", b"null", b"[]", b"{}", b"{", DEEP, b'{"choices": ' + DEEP, b"\xff\xfe", b"<html>", KEY.encode(), b"NaN", b'"\\ud83d"')
STATUSES = (200, 200, 200, 201, 204, 301, 307, 400, 401, 403, 404, 408, 409, 418, 425, 429, 500, 502, 503, 599)
WAITS = ("0", "-5", "nan", "inf", "1e400", "soon", "", "Wed, 99 Nov 2026 99:99:99 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", KEY, "0.001")


def mutated(rng: random.Random) -> Reply:
    """One reply: a status, headers and a body, cut, dripping, huge or of wrong types."""
    code, kind = rng.choice(STATUSES), rng.randrange(7)
    body = rng.choice(BODIES)
    if kind == 0:
        body = body_of(rng.choice((*ODD, "[[A]]", "[[B]] \x1b]0;x\x07", f"{KEY} [[C]]")), rng.choice(({}, *ODD)))
    elif kind == 1:
        usage = {name: rng.choice(ODD) for name in ("prompt_tokens", "completion_tokens")}
        body = body_of("[[A]]", usage)
    elif kind == 2:
        body = json.dumps({"choices": rng.choice((*ODD, [rng.choice(ODD)], [{"message": rng.choice(ODD)}]))}).encode()
    elif kind == 3:
        whole = bytearray(body_of("because [[A]]", {"prompt_tokens": 5, "completion_tokens": 5}))
        for _ in range(rng.randrange(1, 6)):
            whole[rng.randrange(len(whole))] = rng.randrange(256)
        body = bytes(whole)
    headers = {"Retry-After": rng.choice(WAITS)} if rng.random() < 0.5 else {}
    if kind == 4:
        return lambda handler: partial(handler, code, body + b"x" * 50)
    if kind == 5 and rng.random() < 0.2:
        return lambda handler: send(handler, code, b"x" * (LARGEST_BODY + 1000), headers)
    if kind == 6 and rng.random() < 0.03:
        return drip
    return lambda handler: send(handler, code, body, headers)


def partial(handler: BaseHTTPRequestHandler, code: int, body: bytes) -> None:
    """A body shorter than its header says."""
    handler.send_response(code)
    handler.send_header("Content-Length", str(len(body) + 100))
    handler.end_headers()
    handler.wfile.write(body)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then, for much longer than the client waits."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def ask(judge: Judge, file: Path, **settings) -> tuple[list, Meter]:
    given = {"url": judge.url, "model": "m", "key": KEY, "timeout": 0.5, "first_wait": 0.0, "attempts": 2, "longest_wait": 0.01}
    endpoint = Endpoint(**given | settings)
    meter = Meter(endpoint)
    return judge_pairs(endpoint, VerdictCache.open(file), PAIRS, meter, 1).outcomes, meter


def campaign(count: int, seed: int, folder: Path) -> dict[str, int]:
    """Ask a judge whose next replies are mutated, `count` times; what came of it."""
    rng, seen = random.Random(seed), {"verdict": 0, "unreadable": 0, "refused": 0}
    with serving(longer) as judge:
        for trial in range(count):
            judge.faults = [mutated(rng) for _ in range(rng.randrange(1, 4))]
            prices = {"prompt_price": 1.0, "completion_price": 1.0, "max_cost": 1.0} if rng.random() < 0.3 else {}
            file, started = folder / f"{trial % 40}.jsonl", time.monotonic()
            file.unlink(missing_ok=True)
            try:
                (outcome,), meter = ask(judge, file, **prices)
                assert outcome in ("win", "lose", "tie", "unreadable", None)
                assert meter.prompt_tokens >= 0 and meter.completion_tokens >= 0 and (meter.cost or 0) >= 0
                seen["unreadable" if outcome in ("unreadable", None) else "verdict"] += 1
            except UserError as error:
                seen["refused"] += 1
                assert KEY not in str(error) and "\n" not in str(error)
            assert time.monotonic() - started < 10
            assert not file.exists() or KEY not in file.read_text()
    assert {path.suffix for path in folder.iterdir()} <= {".jsonl"}
    return seen


def test_two_hundred_mutated_replies_are_verdicts_or_sentences(tmp_path):
    seen = campaign(FEW, 1, tmp_path)
    print(seen)
    assert sum(seen.values()) == FEW and all(seen.values())


@pytest.mark.slow
def test_thousands_of_mutated_replies_are_verdicts_or_sentences(tmp_path):
    seen = campaign(MANY, 2, tmp_path)
    print(seen)
    assert sum(seen.values()) == MANY


def test_a_reply_that_drips_has_a_deadline(tmp_path):
    with serving(longer) as judge:
        judge.faults = [drip, drip]
        started = time.monotonic()
        with pytest.raises(UserError, match=r"no whole reply within 0\.5 s"):
            ask(judge, tmp_path / "v.jsonl")
        assert time.monotonic() - started < 5


def test_a_reply_that_is_too_long_is_not_read_to_its_end(tmp_path):
    with serving(longer) as judge:
        judge.faults = [lambda handler: send(handler, 200, b"x" * (2 * LARGEST_BODY), {})] * 2
        with pytest.raises(UserError, match="a body of more than 4 MiB"):
            ask(judge, tmp_path / "v.jsonl")


@pytest.mark.parametrize("tokens", [-1000, True, 10**12, 1.5, "5", None])
def test_usage_that_is_none_never_lowers_a_cost_that_is_limited(tokens, tmp_path):
    with serving(longer) as judge:
        judge.usage = {"prompt_tokens": tokens, "completion_tokens": 10}
        with pytest.raises(UserError, match="reports no token usage that could be, so --max-cost cannot be kept"):
            ask(judge, tmp_path / "v.jsonl", prompt_price=1.0, completion_price=1.0, max_cost=5.0)


def test_an_echo_of_the_key_is_not_kept(tmp_path):
    with serving(lambda a, b: f"{KEY} says [[A]]") as judge:
        ask(judge, tmp_path / "v.jsonl")
    assert KEY not in (tmp_path / "v.jsonl").read_text() and "… says [[A]]" in (tmp_path / "v.jsonl").read_text()


@pytest.mark.parametrize(
    ("value", "seconds"), [("nan", 0), ("-3", 0), ("inf", math.inf), ("1e400", math.inf), ("soon", 0), ("", 0), ("7", 7)]
)
def test_an_odd_retry_after_is_read_or_counts_as_none(value, seconds):
    assert retry_after(value) == seconds


@pytest.mark.parametrize(
    "line", ['{"key": "k", "verdict": 5}', '{"key": 1, "verdict": "A"}', '{"key": "k", "verdict": "D"}', "[1]", "[" * 5000]
)
def test_a_kept_verdict_of_another_form_is_judged_again(line, tmp_path):
    (tmp_path / "v.jsonl").write_text(line + "\n")
    assert VerdictCache.open(tmp_path / "v.jsonl").known == {}


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(UserError, match="--url holds a user name, a password or a query") as refused:
        Endpoint("https://me:hunter2@judge.example/v1", "m").check()
    assert "hunter2" not in str(refused.value)
