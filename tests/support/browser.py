"""A headless browser, driven by the WebDriver protocol of chromedriver: no package is needed."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Name of the protocol for the reference of an element.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
#: Keys of the protocol.
KEYS = {"left": "\ue012", "right": "\ue014", "home": "\ue011"}
SECONDS = 10.0


def missing() -> str:
    """Return what this machine lacks to drive a browser, "" if nothing."""
    if shutil.which("chromedriver") is None:
        return "no chromedriver"
    return "" if any(map(shutil.which, BROWSERS)) else "no Chromium"


class Browser:
    """One page of a headless Chromium.

    Parameters
    ----------
    address
        Address of chromedriver.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        binary = next(filter(None, map(shutil.which, BROWSERS)))
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": binary, "args": flags}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{session['sessionId']}"

    def _send(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, file: Path, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        """Open a file in a window of some size, with the light or the dark scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self._send("POST", "/url", {"url": file.absolute().as_uri()})

    def command(self, name: str, **params: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._send("POST", "/goog/cdp/execute", {"cmd": name, "params": params})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return the value of a script's ``return``."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str) -> Any:
        """Run a script until it returns something true."""
        end = time.monotonic() + SECONDS
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)
        return found

    def element(self, selector: str) -> str:
        """Return the path of an element in the protocol, by a CSS selector."""
        found = self._send("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._send("POST", f"{self.element(selector)}/click", {})

    def type(self, selector: str, *keys: str) -> None:
        """Type keys, by the names of `KEYS` or as they are, into an element."""
        text = "".join(KEYS.get(key, key) for key in keys)
        self._send("POST", f"{self.element(selector)}/value", {"text": text})

    def errors(self) -> list[str]:
        """Return the messages of errors in the console since the last call."""
        rows = self._send("POST", "/se/log", {"type": "browser"})
        return [row["message"] for row in rows if row["level"] == "SEVERE"]

    def picture(self, *, whole: bool = False) -> bytes:
        """Return a screenshot as PNG, of the window or of the whole page."""
        found = self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def close(self) -> None:
        """End the browser."""
        self._send("DELETE", "")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start chromedriver and a browser, and end both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, "chromedriver does not answer"
                time.sleep(0.05)
        page = Browser(f"http://127.0.0.1:{port}")
        try:
            yield page
        finally:
            page.close()
    finally:
        driver.terminate()
        driver.wait(SECONDS)
