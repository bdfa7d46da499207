"""A headless Chromium, driven over its own pipe (--remote-debugging-pipe): no driver, no package, no port.

Messages are the DevTools protocol's JSON, each ended by a NUL byte, to Chromium's file descriptor 3 and from its 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXECUTABLE = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
# axe-core's script, from `npm install axe-core` here or in the folder above; ABLATE_AXE names another place.
AXE = next((path for path in (Path(os.environ.get("ABLATE_AXE", "")), *(folder / "node_modules" / "axe-core" / "axe.min.js"
            for folder in (Path.cwd(), Path.cwd().parent))) if path.is_file()), None)  # fmt: skip
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe")  # fmt: skip
SECONDS = 60.0  # a machine may be busy with a sweep
LAUNCH = """
import fcntl, os, sys
take, give = (fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3])
os.dup2(take, 3)
os.dup2(give, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # a process of its own: code between fork and exec is unsafe where pytest has threads


class Browser:
    """One page without a network. `complaints`: console errors, exceptions, violations of policy; `requests`: all addresses asked for."""

    def __enter__(self) -> Browser:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._count, self._loads, self._rest, self._session = 0, 0, b"", ""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (commands, self._send), (self._receive, answers) = os.pipe(), os.pipe()
        chromium = [str(EXECUTABLE), *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen([sys.executable, "-c", LAUNCH, str(commands), str(answers), *chromium],
                                         pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(commands)
        os.close(answers)
        page = next(target for target in self.ask("Target.getTargets")["targetInfos"] if target["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        self.ask("Browser.close")
        self._process.wait(SECONDS)
        os.close(self._send)
        os.close(self._receive)
        self._profile.cleanup()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol and wait for its answer, noting the events that come before it."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._send, data) :]
        while (answer := self._next()).get("id") != self._count:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._receive], [], [], SECONDS)[0]:
                raise TimeoutError(f"Chromium said nothing for {SECONDS:g} s")
            received = os.read(self._receive, 1 << 16)
            if not received:
                raise RuntimeError("Chromium has ended")
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        name, told = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"])[:600])
        elif name == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"])[:600])
        elif name == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(told["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif name == "Page.loadEventFired":
            self._loads += 1

    def go_online(self) -> None:
        """Let pages reach this machine, for those of a server here."""
        self.ask("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    def open(self, page: Path | str) -> None:
        """Load a local page, or the page of an address, and wait until it has."""
        before = self._loads
        self.ask("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.wait_for_load(before)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:600])
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = SECONDS) -> Any:
        """The value of a JavaScript expression once it is true. Raises TimeoutError."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                if value := self.run(script):
                    return value
            except RuntimeError:  # between two loads a page has nothing to run a script in
                pass
            time.sleep(0.2)
        raise TimeoutError(f"{script} did not become true in {seconds:g} s")

    def violations(self, axe: Path) -> list[str]:
        """What axe-core calls a serious or critical violation of WCAG in the page, each with the first element that has it."""
        self.run(axe.read_text(encoding="utf-8") + ";0")
        found = self.run("axe.run(document, {resultTypes: ['violations']}).then(result => result.violations)")
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")]

    def wait_for_load(self, loads: int | None = None) -> None:
        """Wait until the page has loaded again since there were `loads`, by default since now."""
        loads = self._loads if loads is None else loads
        while self._loads == loads:
            self._note(self._next())

    def press(self, key: str) -> None:
        """Press and release a key, by its name in JavaScript."""
        text = {"text": key} if len(key) == 1 else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def look(self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False) -> None:
        """Set the window's width, and the reader's preference for light or dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def mouse(self, kind: str, x: float, y: float) -> None:
        """mouseMoved, mousePressed or mouseReleased at a point of the window."""
        button = "none" if kind == "mouseMoved" else "left"
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def screenshot(self, path: Path, *, top: float, height: float, width: float) -> None:
        """A PNG of a strip of the page."""
        clip = dict(x=0, y=top, width=width, height=height, scale=1)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]))
