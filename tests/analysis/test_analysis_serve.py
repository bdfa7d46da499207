"""The live view: what its list says, which requests it refuses, and when it builds a page again."""

import http.client
import json
import os
import socket
import threading
from dataclasses import replace
from http import HTTPStatus

import pytest
from report_study import small_study, unfinish
from simulate import Arm

from ablate.errors import UserError
from analysis.serve import studies as studies_module
from analysis.serve.__main__ import main
from analysis.serve.server import ADDRESS, ago, answer, is_loopback, new_server, study_row
from analysis.serve.studies import Progress, RunState, Studies, last_update, run_state

PORT = 8642
HERE = [f"127.0.0.1:{PORT}"]
HOSTILE = '<img src=x onerror="hurt">'


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two studies; in the first a run of two arms with one seed each goes on."""
    root = tmp_path_factory.mktemp("served") / "results"
    unfinish(small_study(root, seeds=1, study="one") / "vanilla" / "seed=0", 21)
    small_study(root, seeds=1, study=HOSTILE, arms={"only": Arm()})
    return root


@pytest.fixture
def studies(results, monkeypatch):
    """Their pages are their folders' names, with the number of times that any was built."""
    built = []

    def render(root, *, reload_seconds, home):
        built.append(root)
        return f"page of {root.name}, {len(built)}, {reload_seconds} s", 1

    monkeypatch.setattr(studies_module, "render", render)
    return Studies(results)


def asked(studies, path="/", method="GET", hosts=HERE):
    return answer(studies, method, hosts, path, PORT)


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:8642", "LOCALHOST:8642", "[::1]:8642"])
def test_a_loopback_name_with_the_port_is_answered(studies, host):
    assert asked(studies, hosts=[host]).status == HTTPStatus.OK


@pytest.mark.parametrize("hosts", [
    [], ["evil.example"], ["evil.example:8642"], ["127.0.0.1"], ["127.0.0.1:80"], ["localhost:8642.evil.example"], ["127.0.0.1:8642@evil"],
    ["127.0.0.1.evil.example:8642"], ["0.0.0.0:8642"], ["127.0.0.1:8642", "evil.example"], ["127.0.0.1:8642", "127.0.0.1:8642"],
])  # fmt: skip
def test_any_other_host_is_refused_and_learns_nothing(studies, hosts):
    refused = asked(studies, hosts=hosts)
    assert refused.status == HTTPStatus.FORBIDDEN and "one" not in refused.text.split("<body>")[1].split()


def test_without_a_port_a_host_names_port_80():
    assert is_loopback("localhost", 80) and not is_loopback("localhost", PORT)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_is_no_reading_is_refused(studies, method):
    assert asked(studies, method=method).status == HTTPStatus.METHOD_NOT_ALLOWED


@pytest.mark.parametrize("path", [
    "/studies/", "/studies/three", "/studies/one/", "/studies/one/vanilla", "/studies/one/vanilla/seed=0/config.yaml", "/studies/..",
    "/studies/../../etc/passwd", "/studies/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/studies//etc/passwd", "/studies/%00", "/studies/%ff",
    "/one", "//", "/etc/passwd", "/favicon.ico", "http://127.0.0.1:8642/", "*", "", "/studies/one%2fvanilla", "/studies/.",
])  # fmt: skip
def test_nothing_but_the_list_and_the_studies_is_there(studies, path):
    assert asked(studies, path).status == HTTPStatus.NOT_FOUND


def test_the_list_has_every_study_with_its_runs_and_hostile_names_as_text(studies):
    text = asked(studies).text
    assert '<a href="/studies/one">one</a>' in text and "1 completed, 1 unfinished" in text
    assert HOSTILE not in text and "%3Cimg%20src%3Dx%20onerror%3D%22hurt%22%3E" in text and "&lt;img" in text
    assert asked(studies, "/studies/%3Cimg%20src%3Dx%20onerror%3D%22hurt%22%3E").text.startswith(f"page of {HOSTILE}")
    assert asked(studies, "/?x=1").status == HTTPStatus.OK


def test_a_page_is_built_when_first_asked_for_and_again_once_runs_have_changed_and_can_spare_the_time(studies, results):
    assert studies.page("one") == "page of one, 1, 10 s" and studies.page("one") == "page of one, 1, 10 s"
    with open(results / "one" / "kl_penalty" / "seed=0" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"update": 81}\n')
    assert studies.page("one") == "page of one, 1, 10 s"  # not yet due
    studies._pages["one"] = replace(studies._pages["one"], due=0.0)
    assert studies.page("one") == "page of one, 2, 10 s"
    assert studies.page(HOSTILE) == f"page of {HOSTILE}, 3, 60 s"  # no run of it goes on


def test_while_a_page_is_being_built_the_last_one_is_shown(studies, results):
    assert studies.page("one") == "page of one, 1, 10 s"
    studies._pages["one"] = replace(studies._pages["one"], marks={}, due=0.0)
    with studies._building:
        assert studies.page("one") == "page of one, 1, 10 s"
    assert studies.page("one") == "page of one, 2, 10 s"


def test_a_study_that_cannot_be_shown_says_why(studies, monkeypatch):
    def refuse(root, **_):
        raise UserError("its runs are <odd>")

    monkeypatch.setattr(studies_module, "render", refuse)
    said = asked(studies, "/studies/one")
    assert said.status == HTTPStatus.SERVICE_UNAVAILABLE and "one cannot be shown: its runs are &lt;odd&gt;" in said.text


def test_a_study_and_a_run_may_be_the_root_and_are_named_by_it(results):
    assert set(Studies(results / "one").folders()) == {"one"}
    assert set(Studies(results / "one" / "vanilla" / "seed=0").folders()) == {"seed=0"}
    assert set(Studies(results.parent).folders()) == {f"{results.name}/one", f"{results.name}/{HOSTILE}"}


def test_a_run_without_a_summary_is_told_from_its_last_whole_row(results):
    state = run_state(results / "one" / "vanilla" / "seed=0")
    assert (state.status, state.update, state.updates) == ("unfinished", 20, 80)
    assert run_state(results / "one" / "kl_penalty" / "seed=0").status == "completed"


def test_the_last_update_is_found_at_the_end_of_a_long_file_and_torn_rows_are_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"update": n, "x": "y" * 100}) + "\n" for n in range(2000)) + '{"update": 2000, "x"')
    assert last_update(path) == 1999
    path.write_text('{"update": 3')
    assert last_update(path) == 0 and last_update(tmp_path / "none") == 0
    path.write_text('{"update": 3}\n[4]\n{"update": "5"}\n')
    assert last_update(path) == 3


def test_a_damaged_run_is_a_run_of_unknown_length(tmp_path):
    (tmp_path / "config.yaml").write_text("ppo: [1]\n")
    (tmp_path / "summary.json").write_text("{")
    state = run_state(tmp_path)
    assert (state.status, state.update, state.updates) == ("unfinished", 0, None)


def test_progress_is_the_share_of_updates_done():
    """One of two is through, the other at 20 of 80; a run of unknown length has done nothing."""
    runs = [RunState("diverged", 7, 80, 50.0), RunState("unfinished", 20, 80, 100.0)]
    progress = Progress("s", tuple(runs))
    assert progress.share == 0.625 and progress.counts == {"diverged": 1, "unfinished": 1} and progress.changed == 100.0
    assert Progress("s", (RunState("unfinished", 20, None, 0.0),)).share == 0
    row = study_row(progress, now=100.0 + 120)
    assert (row["changed"], row["counts"], row["runs"]) == ("2 min ago", "1 diverged, 1 unfinished", 2)


def test_ago_says_the_largest_unit():
    assert [ago(s) for s in (-1, 59, 60, 3599, 3600, 86_400)] == ["just now", "just now", "1 min ago", "59 min ago", "1 h ago", "1 d ago"]


@pytest.fixture
def server(studies):
    server = new_server(studies, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_it_listens_on_the_loopback_address_alone_and_forbids_what_a_page_does_not_need(server):
    assert server.server_address[0] == ADDRESS == "127.0.0.1"
    connection = http.client.HTTPConnection(ADDRESS, server.server_port, timeout=20)
    connection.request("GET", "/studies/one")
    response = connection.getresponse()
    assert response.status == 200 and response.read().startswith(b"page of one")
    given = {name: response.headers[name] for name in ("X-Content-Type-Options", "X-Frame-Options", "Cache-Control", "Referrer-Policy")}
    assert list(given.values()) == ["nosniff", "DENY", "no-store", "no-referrer"]
    assert "Access-Control-Allow-Origin" not in response.headers and response.headers["Server"].strip() == "ablate"
    for method, status in (("HEAD", 200), ("POST", 405)):
        connection.request(method, "/studies/one")
        response = connection.getresponse()
        assert response.status == status and (method == "POST") == bool(response.read())
    assert response.headers["Allow"] == "GET, HEAD"
    connection.close()


@pytest.mark.parametrize(("sent", "status"), [
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"), (b"GET / HTTP/1.0\r\n\r\n", b"403"),
    (b"GET /studies/../../../etc/passwd HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", b"404"), (b"BREW / HTTP/1.1\r\n\r\n", b"501"),
])  # fmt: skip
def test_a_request_as_no_browser_sends_it_is_refused(server, sent, status):
    with socket.create_connection((ADDRESS, server.server_port), timeout=20) as connection:
        connection.sendall(sent % server.server_port if b"%d" in sent else sent)
        received = connection.makefile("rb").readline()
    assert received.split()[1] == status


def test_a_folder_that_is_not_there_or_a_port_that_is_taken_is_refused_in_a_sentence(server, results, capsys):
    assert main([str(results / "none")]) == 1
    assert capsys.readouterr().err == f"error: {results / 'none'} is not a folder: name a study or results folder\n"
    assert main([str(results), "--port", str(server.server_port)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: port {server.server_port} cannot be used (")
    assert main([str(results), "--port", "70000"]) == 1
    assert "is no port" in capsys.readouterr().err


def test_nothing_is_written_and_the_page_of_a_study_leads_back_to_the_list(results):
    before = {path: os.stat(path).st_mtime_ns for path in results.rglob("*")}
    text = Studies(results).page("one")
    assert '<a href="/">All studies</a>' in text and 'data-reload="10"' in text and "1 of 2 runs have not ended" in text
    assert {path: os.stat(path).st_mtime_ns for path in results.rglob("*")} == before
