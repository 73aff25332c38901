"""Pages -> PDF, through a headless Chromium (or Chrome, or Edge) that is installed on this machine."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from vt_course import CourseError, need
from vt_course.files import replacing

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
ELSEWHERE = (  # where systems without a PATH of programs keep them
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
SECONDS = 300  # after which a print has failed
TRIES = 3


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


def print_pdf(page: Path, pdf: Path, pages: int | None, query: str = "") -> int:
    """Print the HTML file `page` to `pdf`, which must then have so many pages (None: any number). Returns their number.

    query: "print-pdf" for reveal.js.

    Raises CourseError without a browser, and if it fails or prints another number of pages; the old PDF then stays.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, replacing(pdf) as part:
        options = [f"--print-to-pdf={part}", "--no-pdf-header-footer", "--virtual-time-budget=60000"]
        address = page.resolve().as_uri() + (f"?{query}" if query else "")
        for _ in range(TRIES):  # on a busy machine, a page may be printed before its scripts have laid it out
            try:
                done = subprocess.run(
                    chromium_command(Path(profile), *options, address),
                    capture_output=True,
                    timeout=SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise CourseError(
                    f"{page} was not printed in {SECONDS} seconds; try again on a quiet machine."
                ) from error
            printed = count_pages(part.read_bytes())
            if printed and pages in (None, printed):
                break
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        need(printed, f"{page} could not be printed ({why or 'the browser wrote nothing'}); try another browser")
        need(pages in (None, printed), f"{page} should make {pages} pages and made {printed}; report this as a bug")
    return printed


def count_pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type */Page\b(?!s)", pdf))
