"""Downloads over unreliable networks: a file is either complete and checked, or it is not there.

`fetch` writes `NAME.part` and renames it when every byte has arrived and the checks have passed. An
interruption (a lost connection, Ctrl-C, kill -9, a full disk) leaves the part, and the next call asks the server for
the rest. `NAME.part.from` records which version of which file the part belongs to. So, if the file on the server has
changed in the meantime, its rest is not appended to the beginning of the old version.
"""

import json
import os
import shutil
import socket
import ssl
import time
from errno import EDQUOT, EFBIG, EHOSTUNREACH, ENETUNREACH, ENOSPC
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from vt_course import CourseError, __version__
from vt_course.files import alone, open_own, read_json, sha256_of

BACKOFF = 1.0  # seconds before the second attempt; doubled for each further one
LONGEST_WAIT = 30.0
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP errors after which another attempt may succeed
AGAIN = "run the same command again"
LARGEST = 64 << 30  # bytes of a file; the largest that we know of, an archive of Kinetics, has a few GB


class Broken(Exception):
    """This attempt failed, but another may succeed. `wait`: the seconds for which the server asked to wait."""

    def __init__(self, why: str, wait: float = 0.0):
        super().__init__(why)
        self.wait = wait


class SameSafety(HTTPRedirectHandler):
    """Follows a redirect only to http and https, and from https only to https."""

    def redirect_request(self, request, response, code, message, headers, address):
        before, after = urlsplit(request.full_url).scheme, urlsplit(address).scheme
        if after not in ("http", "https") or before == "https" and after != "https":
            raise CourseError(
                f"{request.full_url} redirects from {before} to {address:.200}, which is not followed, because what "
                "comes from there could be changed on its way; ask its publisher, or get the file by another way"
            )
        return super().redirect_request(request, response, code, message, headers, address)


def open_url(url: str, headers: dict, timeout: float):
    """The answer to a request. Raises `CourseError` for a redirect to a less safe place, else as `urlopen` does."""
    return build_opener(SameSafety).open(Request(url, headers=headers), timeout=timeout)


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    most: int = LARGEST,
    progress: bool = False,
    retries: int = 5,
    timeout: float = 30.0,
) -> Path:
    """Download `url` to the file `path` and return `path`. If the file is there already, it is only checked.

    sha256: all 64 hex digits, or the first ones if the publisher states no more. size: in bytes. `most`: the bytes that
    such a file has at most. Never more than that is stored, nor more than the server announced. `retries`: the number
    of further attempts in a row that may bring no new byte. `timeout`: the seconds without any byte after which an
    attempt has failed. If two processes fetch the same file, the second waits for the first, and then finds the file. A
    truncated file is noticed only if `size`, `sha256` or a length from the server is known.

    Raises `CourseError` for an unreachable host, a refused or missing file, a wrong size or
    checksum (the part is deleted), and a full disk (the part is kept if it can be continued).
    """
    path = Path(path)
    if urlsplit(url).scheme not in ("http", "https"):
        raise CourseError(f"cannot download {url}: only http and https addresses can be; correct the address")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.with_name(path.name + ".lock"), progress):
            if path.is_file():
                check_file(path, path, f"{path} is there already but", sha256, size, "delete it to download it again")
                return path
            Download(url, path, sha256, size, most, progress, timeout).run(retries)
    except OSError as error:  # from the disk: errors of the network are handled in `Download`
        raise CourseError(
            f"cannot write {path} ({error.strerror or error}); free space or mend permissions and {AGAIN}"
        ) from error
    return path


def check_file(file: Path, path: Path, subject: str, sha256: str | None, size: int | None, remedy: str) -> None:
    """Raise CourseError, "`subject` has ...; `remedy`", if `file` has not the size or checksum wanted for `path`."""
    if size is not None and (got := file.stat().st_size) != size:
        raise CourseError(f"{subject} has {got:,} bytes instead of the {size:,} of {path.name}; {remedy}")
    if sha256 is not None and not (got := sha256_of(file)).startswith(sha256.lower()):
        raise CourseError(f"{subject} has the sha256 {got} instead of the {sha256} of {path.name}; {remedy}")


class Download:
    """The download of one file. Everything that must survive an interruption is on disk: the part, and `origin`."""

    def __init__(self, url, path, sha256, size, most, progress, timeout):
        self.url, self.path, self.sha256, self.size, self.most = url, path, sha256, size, min(most, size or most)
        self.progress, self.timeout = progress, timeout
        self.part = path.with_name(path.name + ".part")
        self.origin = path.with_name(path.name + ".part.from")
        self.by_hand = f"download {url} by hand, put it at {path} and {AGAIN}"
        self.answered = False  # whether the host has ever answered

    def run(self, retries: int) -> None:
        worth_keeping = True
        try:
            with open_own(self.part, "ab", buffering=0) as self.file:  # in append mode nothing but truncating is needed
                try:
                    self.receive(retries)
                    os.fsync(self.file.fileno())  # else a power failure may keep the rename but lose the bytes
                    try:
                        check_file(
                            self.part,
                            self.path,
                            f"what {self.url} sent",
                            self.sha256,
                            self.size,
                            f"it was deleted: {AGAIN}, and if that does not help, the file there has changed",
                        )
                    except CourseError:
                        self.file.truncate(0)
                        raise
                finally:
                    worth_keeping = self.have > 0
            os.replace(self.part, self.path)  # after closing it: Windows cannot rename or remove an open file
            self.origin.unlink(missing_ok=True)
        finally:
            if not worth_keeping:
                self.part.unlink(missing_ok=True)
                self.origin.unlink(missing_ok=True)

    @property
    def have(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def receive(self, retries: int) -> None:
        """Try until the part is complete. At most `retries` further attempts in a row may bring no new byte."""
        furthest, failures = self.have, 0
        while True:
            try:
                return self.attempt()
            except Broken as error:
                if self.have > furthest:
                    furthest, failures = self.have, 0
                failures += 1
                if failures > retries:
                    kept = f"; {self.have:,} bytes are kept" if self.have and self.resumable() else ""
                    raise CourseError(
                        f"cannot download {self.url}: {error}, {failures} attempts in a row{kept}; try "
                        f"later with the same command, or {self.by_hand}"
                    ) from error
                time.sleep(min(max(BACKOFF * 2 ** (failures - 1), error.wait), LONGEST_WAIT))

    def memory(self) -> dict:
        """The note that was written when the part was begun: url, mark, total. Empty if it is missing or damaged."""
        try:
            note = read_json(self.origin, "", dict)
        except CourseError:
            return {}
        kinds = {"url": str, "mark": (str, type(None)), "total": (int, type(None))}
        return note if all(isinstance(note.get(name), kind) for name, kind in kinds.items()) else {}

    def promised(self) -> int | None:
        return self.memory().get("total")

    def resumable(self) -> dict:
        """The header lines that ask for the rest of the file; {} if the part may belong to another version of the file.

        The server's mark of the version (strong ETag or date) tells whether the version is the same, or, at the end,
        our checksum does. If there is neither, the download begins again.
        """
        origin = self.memory()
        if origin.get("url") != self.url or not (origin.get("mark") or self.sha256):
            return {}
        return {"Range": f"bytes={self.have}-"} | ({"If-Range": origin["mark"]} if origin.get("mark") else {})

    def attempt(self) -> None:
        """Send one request and write what arrives. Raises Broken if another attempt may succeed, else CourseError."""
        rest = self.resumable() if self.have else {}
        headers = {"User-Agent": f"vt-course/{__version__}", "Accept-Encoding": "identity"} | rest
        try:
            response = open_url(self.url, headers, self.timeout)
        except HTTPError as error:
            self.answered = True
            return self.refused(error, rest)
        except CourseError:
            raise
        except (HTTPException, OSError, ValueError) as error:  # URLError is an OSError; ValueError: a broken redirect
            self.broke(getattr(error, "reason", error))
        self.answered = True
        with response:
            self.body(response, rest)

    def body(self, response, rest: dict) -> None:
        mark = version_mark(response.headers)
        if response.status == 206:
            start, total = content_range(response.headers)
            # Some servers ignore If-Range and send the range of a file that has changed.
            marks = (None, response.headers.get("ETag"), response.headers.get("Last-Modified"))
            if start != self.have or total not in (None, self.promised()) or mark and rest.get("If-Range") not in marks:
                self.file.truncate(0)
                raise Broken("the file there changed during the download")
            total = total or self.promised()
        else:  # the whole file: no range was asked for, or the server sends none
            if response.headers.get_content_type() == "text/html" and self.path.suffix not in (".html", ".htm"):
                raise CourseError(
                    f"{self.url} answered with a web page instead of {self.path.name} (a log-in, a quota or "
                    f"a moved file); open it in a browser, {self.by_hand}"
                )
            total = whole_number(response.headers.get("Content-Length", ""))
            self.file.truncate(0)
            with open_own(self.origin, "w", encoding="utf-8") as file:
                json.dump({"url": self.url, "mark": mark, "total": total}, file)
        if self.size is not None and total not in (None, self.size):
            self.file.truncate(0)
            raise CourseError(
                f"{self.url} has {total:,} bytes instead of the {self.size:,} of {self.path.name}: the "
                f"file there is another one; {self.by_hand}"
            )
        if max(total or 0, self.have) > self.most:
            raise self.too_long(self.most)
        if total is not None and (free := shutil.disk_usage(self.path.parent).free) < total - self.have:
            raise self.full(f"{(total - self.have) / 1e6:,.0f} MB are to come, {free / 1e6:,.0f} MB are free")
        with tqdm(
            total=total, initial=self.have, unit="B", unit_scale=True, desc=self.path.name, disable=not self.progress
        ) as bar:
            while chunk := self.read(response):
                if self.have + len(chunk) > (limit := self.most if total is None else total):
                    raise self.too_long(limit)
                self.write(chunk)
                bar.update(len(chunk))
        if total is not None and self.have < total:
            raise Broken(f"the connection closed after {self.have:,} of {total:,} bytes")

    def too_long(self, limit: int) -> CourseError:
        self.file.truncate(0)
        return CourseError(
            f"{self.url} sends more than the {limit:,} bytes that {self.path.name} can have, so it is another file, of "
            f"which nothing was kept; {self.by_hand}"
        )

    def read(self, response) -> bytes:
        try:
            return response.read1(1 << 18)  # only what has arrived, so a stall loses nothing
        except (HTTPException, OSError) as error:
            self.broke(error)

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        try:
            while rest:  # an almost full disk may write only a part of it
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT, EFBIG):
                raise self.full(error.strerror) from error
            raise

    def full(self, why: str) -> CourseError:
        if not self.resumable():
            self.file.truncate(0)
        kept = f"the first {self.have:,} bytes are kept" if self.have else "nothing was kept"
        return CourseError(f"the disk is too full for {self.path} ({why}); {kept}: free space and {AGAIN}")

    def refused(self, error: HTTPError, rest: dict) -> None:
        """Raise the error for an HTTP status 4xx or 5xx. Return if the status means that the part is complete."""
        if error.code == 416 and rest:
            if content_range(error.headers)[1] == self.have and self.promised() in (None, self.have):
                return
            self.file.truncate(0)
            raise Broken("the file there has another length than it had at first")
        if error.code in PASSING:
            wait = whole_number(error.headers.get("Retry-After", "")) or 0
            raise Broken(f"the server answered {error.code} {error.reason:.100}", wait)
        raise CourseError(
            f"{self.url} answered {error.code} {error.reason:.100}; if the file has moved, {self.by_hand}"
        )

    def broke(self, reason) -> None:
        """Raise the error for a failure of the network: Broken, or CourseError if no further attempt can help."""
        host = urlsplit(self.url).netloc
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise CourseError(
                f"the certificate of {host} is not valid here ({reason.verify_message}); mend the clock or "
                f"the proxy of this machine, or {self.by_hand}"
            )
        offline = isinstance(reason, (socket.gaierror, ConnectionRefusedError)) or getattr(reason, "errno", None) in (
            ENETUNREACH,
            EHOSTUNREACH,
        )
        why = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        if offline and not self.answered:
            raise CourseError(f"cannot reach {host} ({why}): this machine seems to be offline; {self.by_hand}")
        if isinstance(reason, TimeoutError):
            why = f"nothing came for {self.timeout:g} seconds"
        raise Broken(f"the connection broke ({why})")


def version_mark(headers) -> str | None:
    """The mark of this version of a file, for If-Range: a strong ETag, else the date of its last change, else None."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def content_range(headers) -> tuple[int | None, int | None]:
    """(first byte, total length) of `bytes 5-9/10` or `bytes */10`; None for a number that is not given."""
    span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return whole_number(span.partition("-")[0]), whole_number(total)


def whole_number(text: str) -> int | None:
    """The number that a header line gives; None if there is none, or an absurd one."""
    return int(text) if text.isdecimal() and len(text) < 20 else None
