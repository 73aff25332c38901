"""A headless Chromium for tests, over its own protocol (CDP): pages, their requests, measures, screenshots."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import websocket

from vt_course.publish.printing import chromium_command


class Chromium:
    """A browser with one page. `requests`: the addresses that pages have asked for since `open`."""

    def __init__(self, width: int = 1280, height: int = 720):
        self.profile = tempfile.mkdtemp()
        size = ["--remote-debugging-port=0", f"--window-size={width},{height}", "--hide-scrollbars"]
        command = chromium_command(Path(self.profile), *size, "about:blank")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, path = self.door()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=60, suppress_origin=True)
        self.number, self.session, self.requests, self.errors = 0, None, [], []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def door(self) -> list[str]:
        file, end = Path(self.profile, "DevToolsActivePort"), time.monotonic() + 60
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"Chromium ended with {self.process.returncode}")
            if file.exists() and len(lines := file.read_text(encoding="utf-8").split("\n")) == 2:
                return lines
            time.sleep(0.05)
        raise RuntimeError("Chromium did not open its door in 60 seconds")

    def ask(self, method: str, **params):
        """The result of a method. Events that arrive meanwhile are noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.event(answer)

    def event(self, answer) -> None:
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"]["url"])
        elif answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(answer["params"]["exceptionDetails"].get("text", ""))

    def open(self, url: str, ready: str) -> None:
        """Open a page and wait until the JavaScript expression `ready` is true."""
        self.requests, self.errors = [], []
        self.ask("Page.navigate", url=url)
        end = time.monotonic() + 60
        while not self.value(ready):
            if time.monotonic() > end:
                raise RuntimeError(f"{url} is not ready after 60 seconds: {self.errors}")
            time.sleep(0.05)

    def value(self, expression: str):
        """The value of a JavaScript expression."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"])[:500])
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.profile, ignore_errors=True)


@pytest.fixture(scope="module")
def browser():
    """A Chromium of this module; where there is none, its tests are skipped, but not on a server (CI)."""
    try:
        one = Chromium()
    except Exception as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Chromium: {error}")
    yield one
    one.close()
