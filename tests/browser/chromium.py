"""A headless Chromium, driven over its debugging pipe with the DevTools protocol: nothing but the
browser itself and the standard library.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--lang=en-GB",
    "--metrics-recording-only",
    "--mute-audio",
)
PIECE = 1 << 16


def find() -> str | None:
    """Return the path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class BrowserFailed(RuntimeError):
    """The browser answered with an error, ended, or did not answer in time."""


class Browser:
    """One process of Chromium with a profile of its own, which goes with it."""

    def __init__(self, program: str) -> None:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        switches = [*SWITCHES, f"--user-data-dir={self._home.name}/profile"]
        if os.geteuid() == 0:
            switches.append("--no-sandbox")
        # The browser reads its commands from descriptor 3 and answers on 4.
        redirect = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, program, *switches, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(to_browser, from_browser),
            env={**os.environ, "HOME": self._home.name},
        )
        os.close(to_browser)
        os.close(from_browser)
        self._received = b""
        self._last_id = 0
        self.events: list[dict[str, Any]] = []
        """What the browser reported since it was last emptied."""

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self.command("Browser.close", timeout_s=10)
            self._process.wait(timeout=20)
        except (BrowserFailed, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._home.cleanup()

    def command(
        self, method: str, *, session: str | None = None, timeout_s: float = 60, **parameters: Any
    ) -> dict[str, Any]:
        """Send a command and return its result; events that come meanwhile are kept."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._out, data[:PIECE]) :]
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._next_message(deadline, method)
            if answer.get("id") != self._last_id:
                self.events.append(answer)
            elif "error" in answer:
                raise BrowserFailed(f"{method}: {answer['error']['message']}")
            else:
                return dict(answer["result"])

    def _next_message(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise BrowserFailed(f"{what}: no answer in time")
            piece = os.read(self._in, 1 << 20)
            if not piece:
                raise BrowserFailed(f"{what}: the browser has ended")
            self._received += piece
        message, self._received = self._received.split(b"\0", 1)
        return dict(json.loads(message))

    def open(self, address: str) -> Page:
        """Open a page in a tab of its own and return it when it is loaded."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, target, attached["sessionId"])
        for domain in ("Page", "Runtime", "Network", "DOM", "Log"):
            page.command(f"{domain}.enable")
        page.go(address)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser = browser
        self._target = target
        self._session = session

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.command(method, session=self._session, **parameters)

    def go(self, address: str) -> None:
        """Load an address and wait until it is complete."""
        self.events("Page.loadEventFired", forget=True)
        self.command("Page.navigate", url=address)
        deadline = time.monotonic() + 30
        while not self.events("Page.loadEventFired"):
            if time.monotonic() > deadline:
                raise BrowserFailed(f"{address} was not loaded in time")
            self.run("1")
            time.sleep(0.02)

    def run(self, script: str, *, timeout_s: float = 120) -> Any:
        """Evaluate an expression in the page, wait for its promise, and return its value as JSON
        has it; what it throws is raised.
        """
        answer = self.command(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
            timeout_s=timeout_s,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            thrown = details.get("exception", {}).get("description") or details["text"]
            raise BrowserFailed(str(thrown))
        return answer["result"].get("value")

    def wait(self, condition: str, *, timeout_s: float = 30) -> None:
        """Return as soon as an expression is true in the page."""
        deadline = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > deadline:
                raise BrowserFailed(f"never true: {condition}")
            time.sleep(0.02)

    def choose(self, selector: str, *files: Path) -> None:
        """Choose files in a file input, as its dialogue would."""
        document = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def click(self, selector: str) -> None:
        """Press the mouse on an element, which is scrolled into view."""
        x, y = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def press(self, key: str) -> None:
        """Press and release a key without a character, such as Tab."""
        codes = {"Tab": 9, "Enter": 13, "Space": 32}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text = {"Enter": {"text": "\r"}, "Space": {"text": " "}}.get(key, {})
        self.command("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, selector: str, text: str) -> None:
        """Focus a field and type into it."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.command("Input.insertText", text=text)

    def events(self, method: str, *, forget: bool = False) -> list[dict[str, Any]]:
        """Return the parameters of this page's events of a kind, those that came so far."""
        mine = [
            event
            for event in self.browser.events
            if event.get("sessionId") == self._session and event["method"] == method
        ]
        if forget:
            self.browser.events = [one for one in self.browser.events if one not in mine]
        return [event["params"] for event in mine]

    def emulate(self, *, media: str = "", scheme: str = "light") -> None:
        """Show the page as ``print`` or on screen, in a light or dark scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, *, width: int = 1100) -> None:
        """Write a PNG of the whole page."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        data = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(data["data"]))

    def close(self) -> None:
        self.browser.command("Target.closeTarget", targetId=self._target)
