"""HTTP on the loopback address: the list of studies, and the page of each.

The standard library's server is enough: two routes, GET and HEAD alone, no file that is opened by a name from a request, one reader on the
same machine. What a library would add (routing, templates, TLS, many clients) is not needed, and what such a server must refuse is short:

- it listens on 127.0.0.1 only, and there is no setting for another address;
- a request whose Host is not a loopback name with this port is refused: a page of another site whose name has been made to resolve to
  127.0.0.1 (DNS rebinding) would otherwise be read by that site's scripts;
- a study is looked up among those that were found, so no path is ever made from a request.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import NamedTuple
from urllib.parse import quote, unquote

import jinja2

from ablate.errors import UserError
from analysis.claims.answer import question_of
from analysis.report.watch import SECONDS
from analysis.serve.studies import Progress, Studies

ADDRESS = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost", "[::1]")  # that a browser may have asked for this address by
PREFIX = "/studies/"
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Answer(NamedTuple):
    """A status and a page."""

    status: HTTPStatus
    text: str


def new_server(studies: Studies, port: int) -> ThreadingHTTPServer:
    """A server of the studies on the loopback address, not yet serving; port 0: a free one. Raises OSError for a port that is taken."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version, timeout = "ablate", "", 30

        def answer(self) -> None:
            hosts = self.headers.get_all("Host") or []
            status, text = answer(studies, self.command, hosts, self.path, self.server.server_port)
            body = text.encode()
            self.send_response(status)
            for name, value in {**HEADERS, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

        def log_request(self, *_: object) -> None:
            """Say nothing of a request that was answered: an open page asks every few seconds."""

    return ThreadingHTTPServer((ADDRESS, port), Handler)


def answer(studies: Studies, method: str, hosts: Sequence[str], path: str, port: int) -> Answer:
    """The answer to one request. hosts: its Host headers. path: its target as it was sent. port: that the server listens on."""
    if len(hosts) != 1 or not is_loopback(hosts[0], port):
        return Answer(HTTPStatus.FORBIDDEN, message("This server answers to the names of the loopback address alone."))
    if method not in ("GET", "HEAD"):
        return Answer(HTTPStatus.METHOD_NOT_ALLOWED, message("This server only shows, and takes nothing."))
    path = path.partition("?")[0]
    if path == "/":
        return Answer(HTTPStatus.OK, index(studies))
    if path.startswith(PREFIX):
        name = unquote(path.removeprefix(PREFIX), errors="replace")
        try:
            text = studies.page(name)
        except UserError as error:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, message(f"{name} cannot be shown: {error}"))
        if text is not None:
            return Answer(HTTPStatus.OK, text)
    return Answer(HTTPStatus.NOT_FOUND, message("There is no such study here."))


def is_loopback(host: str, port: int) -> bool:
    """Whether a Host header is a name of the loopback address, with this port."""
    allowed = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())
    return host.strip().lower() in allowed


def index(studies: Studies) -> str:
    """The list of studies as HTML text."""
    rows = [study_row(progress, time.time()) for progress in studies.progress()]
    return _render("index.html", title=studies.title, rows=rows, reload=SECONDS)


def study_row(progress: Progress, now: float) -> dict[str, object]:
    """What the list says of one study. now: in seconds since 1970."""
    counts = ", ".join(f"{number} {state}" for state, number in progress.counts.items())
    return {
        "name": progress.name,
        "address": PREFIX + quote(progress.name, safe=""),
        "question": question_of(progress.name),
        "runs": len(progress.runs),
        "share": progress.share,
        "counts": counts,
        "changed": ago(now - progress.changed),
    }


def ago(seconds: float) -> str:
    """A time before now in words.

    >>> ago(5), ago(61), ago(7300), ago(200_000)
    ('just now', '1 min ago', '2 h ago', '2 d ago')
    """
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"


def message(sentence: str) -> str:
    """A page that says one sentence."""
    return _render("message.html", sentence=sentence)


def _render(name: str, **values: object) -> str:
    style, script = _file("analysis.report", "page.css") + _file("analysis.serve", "index.css"), _file("analysis.serve", "index.js")
    policy = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; base-uri 'none'; form-action 'none'"
    policy = f"default-src 'none'; img-src data:; {policy}"
    return _templates().get_template(name).render(policy=policy, style=style, script=script, **values)


@lru_cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.PackageLoader("analysis.serve", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                              undefined=jinja2.StrictUndefined)  # fmt: skip


@lru_cache
def _file(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
