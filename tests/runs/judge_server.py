"""A real HTTP server on loopback that speaks /v1/chat/completions as a judge with a rule, and misbehaves on demand."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHOWN = re.compile(r"\[Answer A\]\n(.*)\n\[End of answer A\]\n\n\[Answer B\]\n(.*)\n\[End of answer B\]", re.DOTALL)


def longer(a: str, b: str) -> str:
    """The longer answer is better."""
    return "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"


class Judge:
    """The rule (answer A, answer B) → reply, the faults that come before the next replies, and every request that was seen."""

    def __init__(self, rule: Callable[[str, str], str | None]):
        self.rule, self.usage = rule, {"prompt_tokens": 100, "completion_tokens": 10}
        self.faults: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.seen: list[dict] = []  # time, path, authorization, body of each request
        self.lock = threading.Lock()
        self.url = ""


def status(code: int, headers: dict[str, str] | None = None, body: bytes = b'{"error": "no"}'):
    """A fault: this status instead of a reply."""
    return lambda handler: send(handler, code, body, headers or {})


def hang(seconds: float):
    """A fault: silence, and then nothing."""
    return lambda handler: time.sleep(seconds)


def cut(handler: BaseHTTPRequestHandler) -> None:
    """A fault: the connection ends within the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')


def send(handler: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(rule: Callable[[str, str], str | None]) -> Iterator[Judge]:
    judge = Judge(rule)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with judge.lock:
                seen = dict(time=time.monotonic(), path=self.path, authorization=self.headers.get("Authorization"), body=body)
                judge.seen.append(seen)
                fault = judge.faults.pop(0) if judge.faults else None
            if fault is not None:
                return fault(self)
            text = judge.rule(*SHOWN.search(body["messages"][-1]["content"]).groups())
            reply = {"choices": [{"message": {"role": "assistant", "content": text}}]} | ({"usage": judge.usage} if judge.usage else {})
            send(self, 200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, address: None  # a client that stopped waiting has closed the connection
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
