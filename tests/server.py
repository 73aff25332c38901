"""A local HTTP server that misbehaves as it is told."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`; the next of `server.faults_at[path]`, else of `server.faults`, says how this goes wrong.

    status: answer that. cut: close after so many bytes. stall: be silent after `cut` bytes. piece, pause: send slowly.
    lie: promise so many bytes too many. no_range, no_if_range: ignore these headers. body: serve this instead.
    open_end: do not say the length. total: say that the whole file has so many bytes. reason: of the status.
    redirect: to this address. then: called after the answer.
    """

    def do_GET(self):
        server = self.server
        faults = server.faults_at.get(self.path) or server.faults
        fault = faults.pop(0) if faults else dict(server.always)
        body, start, status = fault.get("body", server.files.get(self.path)), 0, 200
        asked = self.headers.get("Range")
        server.log.append(asked)
        server.paths.append(self.path)
        server.busy.add(self)
        server.most_at_once = max(server.most_at_once, len(server.busy))
        try:
            if "redirect" in fault:
                self.send_response(302)
                self.send_header("Location", fault["redirect"])
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if "status" in fault or body is None:
                self.send_response(fault.get("status", 404), fault.get("reason"))
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if (
                asked
                and "no_range" not in fault
                and ("no_if_range" in fault or self.headers.get("If-Range") in (None, server.mark(body)))
            ):
                first, _, last = asked.removeprefix("bytes=").partition("-")
                start, status = int(first), 206
                body = body[: int(last) + 1] if last else body  # its length is then that of the answer: nobody minds
            if status == 206 and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{fault.get('total', len(body))}")
            if server.mark(body):
                self.send_header("ETag" if server.mark(body).startswith('"') else "Last-Modified", server.mark(body))
            self.send_header("Content-Type", fault.get("type", "application/octet-stream"))
            if "open_end" not in fault:
                self.send_header("Content-Length", str(len(body) - start + fault.get("lie", 0)))
            self.end_headers()
            data = body[start:][: fault.get("cut")]
            piece = fault.get("piece", len(data) or 1)
            for i in range(0, len(data), piece):
                self.wfile.write(data[i : i + piece])
                self.wfile.flush()
                time.sleep(fault.get("pause", 0))
            if "stall" in fault:
                server.released.wait(60)
        except (BrokenPipeError, ConnectionResetError):  # the client was killed
            pass
        finally:
            server.busy.discard(self)
            fault.get("then", lambda: None)()

    def log_message(self, *args):
        pass


@contextmanager
def serving(files: dict[str, bytes]):
    """A server of `files`. `log` and `paths`: the Range header and the path of every request so far; `most_at_once`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.faults_at, server.always = files, [], {}, {}
    server.log, server.paths, server.busy, server.most_at_once = [], [], set(), 0
    server.mark = lambda body: f'"{hash(body)}"'
    server.released = threading.Event()
    server.root = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
