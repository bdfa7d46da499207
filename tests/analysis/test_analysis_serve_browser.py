"""The live view in a headless Chromium while a small sweep runs: the list and a page follow the runs, and ask for nothing else."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from browser import AXE, EXECUTABLE, Browser

from analysis.serve.server import new_server
from analysis.serve.studies import Studies

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="needs Debian's chromium")]

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 400  # a machine may be busy
SWEEP = [
    "ppo=vanilla", "ppo.kl_penalty=true,false", "tracker=none", "device=cpu", "jobs=1", "study=live", "pretrain.steps=12",
    "pretrain.examples=200", "sft.steps=12", "sft.examples=200", "preferences.pairs=64", "preferences.held_out_pairs=32",
    "reward_model.steps=8", "ppo.updates=300", "ppo.batch_size=16", "ppo.minibatch_size=8", "ppo.micro_batch_size=8",
    "sampling.max_new_tokens=12", "evaluation.every=10", "evaluation.prompts=16", "evaluation.samples=4",
]  # fmt: skip
UPDATES = "Number(document.querySelector('#facts')?.textContent.match(/(\\d+) updates/)?.[1] ?? 0)"


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.fixture
def address(results):
    server = new_server(Studies(results), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sweep(results, tmp_path):
    command = [sys.executable, "-m", "ablate.run", "-m", *SWEEP, f"results={results}", f"cache={tmp_path / 'cache'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "wb") as log, subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log) as process:
        yield process
        process.terminate()


def test_the_list_and_a_page_follow_a_sweep_as_it_runs(results, address, request):
    with Browser() as browser:
        browser.go_online()
        browser.look(1280)
        browser.open(address)
        assert "No run yet" in browser.run("document.body.textContent")
        sweep = request.getfixturevalue("sweep")
        link = "document.querySelector('#studies a')"
        assert browser.wait_for(f"{link}?.textContent", SECONDS) == "live"
        browser.run(f"document.querySelector('#study-filter').value = 'live'; {link}.focus()")
        early = browser.wait_for("document.querySelector('#studies progress').value", SECONDS)
        browser.wait_for(f"document.querySelector('#studies progress').value > {early}", SECONDS)
        assert browser.run(f"document.activeElement === {link} && document.querySelector('#study-filter').value === 'live'")
        assert AXE is None or browser.violations(AXE) == []
        browser.open(browser.run(f"{link}.href"))
        first = browser.wait_for(UPDATES, SECONDS)
        browser.run("{ const box = document.querySelector('#run-filter'); box.value = 'vanilla'; box.dispatchEvent(new Event('input')); }")
        browser.wait_for(f"{UPDATES} > {first}", SECONDS)  # it has reloaded itself
        assert browser.run("document.querySelector('#run-filter').value") == "vanilla"
        assert sweep.wait(SECONDS) == 0
        browser.run("document.querySelector('nav a').click()")
        assert browser.wait_for("document.querySelector('#studies')?.textContent.includes('2 completed')")
        assert browser.complaints == []
        assert {asked for asked in browser.requests if not asked.startswith(address)} <= {"data:,", "about:blank"}
    assert not list(results.rglob("*.html"))
