"""A browser to open a page in, if there is one: driven over two pipes by its own protocol, no driver needed."""

import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")

# A program expects its pipes as the files 3 and 4; those that Python has may be anything.
_PIPES = """
import os, sys
read, write = map(int, sys.argv[1:3])
os.dup2(read, 1000); os.dup2(write, 1001); os.dup2(1000, 3); os.dup2(1001, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def find():
    """The path of a browser that speaks the DevTools protocol, or ``None``; $BROWSER_FOR_TESTS comes first."""
    return next(filter(None, map(shutil.which, (os.environ.get("BROWSER_FOR_TESTS", ""), *NAMES))), None)


class Browser:
    """One page of a headless browser.

    Attributes
    ----------
    complaints : list of str
        Errors and warnings on the console, exceptions that nothing caught, and what was asked of the network.
    """

    def __init__(self, program, folder):
        self.complaints, self._numbers, self._rest = [], itertools.count(1), b""
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", _PIPES, str(there), str(back)),
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe"),
                *(f"--user-data-dir={folder}", "about:blank"),
            ],
            pass_fds=(there, back),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        self._session = None
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self):
        try:
            self._session = None
            self.ask("Browser.close", seconds=10)
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._write)
            os.close(self._read)

    def ask(self, method, seconds=30, **parameters):
        """Ask one thing of the browser and return its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            told = self._next(end)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            self._listen(told)

    def open(self, path, fragment=""):
        """Open a file and wait until it is there."""
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=Path(path).resolve().as_uri() + fragment)
        for _ in range(200):
            if self.run("document.readyState") == "complete" and self.run("location.protocol") == "file:":
                return
            time.sleep(0.05)
        raise TimeoutError(path)

    def run(self, script):
        """The value of an expression in the page."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key, times=1):
        """Press a key, as a hand would."""
        code = {"Home": 36, "End": 35, "ArrowRight": 39, "ArrowLeft": 37, "Tab": 9, "PageUp": 33}[key]
        for kind in ("rawKeyDown", "keyUp") * times:
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def _next(self, end):
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("The browser does not answer.")
            piece = os.read(self._read, 1 << 16)
            if not piece:
                raise ConnectionError("The browser went away.")
            self._rest += piece
        one, self._rest = self._rest.split(b"\0", 1)
        return json.loads(one)

    def _listen(self, told):
        method, about = told.get("method"), told.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {about['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console: {about['args']}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"log: {about['entry']}")
        elif method == "Network.requestWillBeSent":
            url = about["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(f"network: {url}")
