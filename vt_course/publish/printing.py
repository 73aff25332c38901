"""Pages -> PDF, through a headless Chromium (or Chrome, or Edge) that is installed on this machine."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import websocket

from vt_course import CourseError, need
from vt_course.files import atomic_write

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
ELSEWHERE = (  # where systems without a PATH of programs keep them
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
WIDTH, HEIGHT = 1280, 720  # pixels of its window


def chromium_command(profile: Path, *options: str) -> list[str]:
    """The command of a headless Chromium with a profile of its own and no network. Raises CourseError if there is none.

    As root, and so in most containers, Chromium starts only without its sandbox. It opens files of ours only.
    """
    found = next((shutil.which(name) for name in (*BROWSERS, *ELSEWHERE) if shutil.which(name)), None)
    need(
        found,
        "PDFs are printed by Chromium or Chrome, and none is installed; install one (Debian: apt install chromium)",
    )
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    quiet = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    return [found, *quiet, "--disable-dev-shm-usage", f"--user-data-dir={profile}", *root, *options]


class Chromium:
    """A browser with one page. `requests`: the addresses that pages have asked for since `open`.

    Raises RuntimeError if it does not start or answer, CourseError if there is none; then nothing of it is left.
    """

    def __init__(self):
        with ExitStack() as stack:
            self.profile = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            size = ["--remote-debugging-port=0", f"--window-size={WIDTH},{HEIGHT}", "--hide-scrollbars"]
            command = chromium_command(self.profile, *size, "about:blank")
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(stop, self.process)
            port, path = self.door()
            address = f"ws://127.0.0.1:{port}{path}"
            with connected():
                self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
            stack.callback(self.socket.close)
            self.number, self.session, self.requests, self.errors = 0, None, [], []
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Network", "Runtime"):
                self.ask(f"{domain}.enable")
            screen = dict(width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
            self.ask("Emulation.setDeviceMetricsOverride", **screen)
            self.stack = stack.pop_all()

    def door(self) -> list[str]:
        file, end = self.profile / "DevToolsActivePort", time.monotonic() + 60
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
        with connected():
            self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
            while (answer := json.loads(self.socket.recv())).get("id") != self.number:
                self.event(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

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

    def close(self) -> None:
        self.stack.close()


@contextmanager
def connected() -> Iterator[None]:
    """Turn every fault of the connection to Chromium into RuntimeError."""
    try:
        yield
    except (websocket.WebSocketException, OSError, json.JSONDecodeError) as error:  # when it closes, it sends no JSON
        raise RuntimeError(f"the connection to Chromium broke: {error}") from error


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def print_pdf(page: Path, pdf: Path, pages: int | None, query: str = "") -> int:
    """Print the HTML file `page` to `pdf`, which must then have so many pages (None: any number). Returns their number.

    The page sets `window.ready` to true as soon as it is laid out. query: "print-pdf" for reveal.js.

    Raises CourseError without a browser, and if it fails or prints another number of pages; the old PDF then stays.
    """
    address = page.resolve().as_uri() + (f"?{query}" if query else "")
    try:
        with closing(Chromium()) as browser:
            browser.open(address, "window.ready === true")
            made = browser.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
    except (RuntimeError, OSError) as error:
        raise CourseError(f"{page} could not be printed ({error}); try again, or another browser") from error
    data = base64.b64decode(made["data"])
    printed = count_pages(data)
    need(pages in (None, printed), f"{page} should make {pages} pages and made {printed}; report this as a bug")
    atomic_write(pdf, data)
    return printed


def count_pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type */Page\b(?!s)", pdf))
