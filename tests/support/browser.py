"""A real browser without a window, spoken to by its own protocol: pages as people see them, scripts included."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the pages with")


class Browser:
    """One page, or several of which one is spoken to. A context manager: the browser ends with it.

    problems: what scripts raised, or the browser refused.
    """

    def __init__(self, folder: Path):
        assert CHROMIUM is not None
        self.problems: list[str] = []
        self._number = 0
        self._process = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run",
                "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",  # camera and microphone
                "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        told = folder / "DevToolsActivePort"
        deadline = time.monotonic() + 120
        while not (told.is_file() and len(told.read_text().splitlines()) == 2):
            assert time.monotonic() < deadline and self._process.poll() is None, "the browser does not start"
            time.sleep(0.1)
        port, path = told.read_text().splitlines()
        self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None)
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.tab = self._attached(page)

    tab: str | None = None
    """The page that is spoken to; set to turn to another one."""

    def _attached(self, page: str) -> str:
        self.tab = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")
        return self.tab

    def new_tab(self) -> str:
        """Another page, in a window of its own, so that neither is in the background; it is turned to."""
        self.tab = None  # the browser's own commands
        return self._attached(self.ask("Target.createTarget", url="about:blank", newWindow=True)["targetId"])

    def ask(self, method: str, **parameters) -> dict:
        """One command and its answer; what comes meanwhile is looked through for problems."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.tab is not None:
            message["sessionId"] = self.tab
        self._socket.send(json.dumps(message))
        while True:
            said = json.loads(self._socket.recv(timeout=120))
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            self._look_at(said)

    def _look_at(self, said: dict) -> None:
        if said.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(said["params"]["exceptionDetails"])[:500])
        if said.get("method") == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
            self.problems.append(said["params"]["entry"]["text"])

    def run(self, script: str):
        """The value of a JavaScript expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str) -> None:
        """As a person does it, who alone may begin a film with sound."""
        script = f"document.querySelector({json.dumps(selector)}).click()"
        self.ask("Runtime.evaluate", expression=script, userGesture=True)

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait until the expression is true; a page that is just being left is none yet."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.run(script):
                    return
            except AssertionError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds} s: {script}; {self.problems}")

    def go(self, address: str) -> None:
        self.ask("Page.navigate", url=address)
        self.until(
            f"document.readyState == 'complete' && location.href != 'about:blank' && {json.dumps(address)} != ''"
        )

    def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else key
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if kind == "keyDown" else {}
            code = 13 if key == "Enter" else ord(key)
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def type(self, text: str) -> None:
        """A line, and Enter, into what has the focus."""
        self.ask("Input.insertText", text=text)
        self.press("Enter")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
