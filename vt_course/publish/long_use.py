"""Long use: whether a day in JupyterLab leaves anything behind.

    python -m vt_course.publish.long_use          # writes results/long_use.json

A real JupyterLab server starts a kernel. The cells of some notebooks are executed in it over a websocket, as the
browser does, round after round, and after each notebook it is saved by the server with its outputs. After each round we
read what kernel and server hold: memory, descriptors, child processes, and what lies in their temporary folder. What a
program leaks grows by the same amount each round. What it keeps on purpose (imports, buffers of the allocator, caches
with a limit) grows in the first rounds only.
"""

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import nbformat
import psutil
import tornado.websocket

from vt_course import CourseError, need, repo_root
from vt_course.files import atomic_write, parse_json, read_json
from vt_course.machine import provenance
from vt_course.publish.kernel import kernel_env
from vt_course.publish.source import select

RESULT = "results/long_use.json"
AGAIN = "run the same command again"
# glibc keeps freed memory for later, hundreds of MB after large models. That is no leak: this call gives it back.
TRIM = "import ctypes, sys\nif sys.platform == 'linux': ctypes.CDLL(None).malloc_trim(0)"
START_SECONDS, CELL_SECONDS = 120, 600
# How much a process may grow from one of the last rounds to the next, in MB. A leaked figure of a notebook has 1 to 4
# MB and a leaked model or set of clips more, and a round draws dozens of figures.
GROWTH_MB = 10.0


def measure(notebooks: list[Path], rounds: int, say=print) -> dict:
    """Execute the notebooks `rounds` times in one kernel of one server.

    Returns dict(executions, rounds=[held(...) after each], left=what is there when the kernel was shut down). Raises
    `CourseError` if the server does not start, or a cell fails.
    """
    with tempfile.TemporaryDirectory(prefix="vt-course-") as folder:
        return asyncio.run(_measure(Path(folder), notebooks, rounds, say))


async def _measure(folder: Path, notebooks: list[Path], rounds: int, say) -> dict:
    work, temporary = folder / "work", folder / "tmp"
    work.mkdir()
    temporary.mkdir()
    (work / "img").symlink_to(repo_root() / "notebooks" / "img")
    books = [nbformat.read(path, as_version=4) for path in notebooks]
    for path, book in zip(notebooks, books):
        nbformat.write(book, work / path.name)
    server = Server(work, temporary)
    try:
        await server.start()
        kernel = await server.new_kernel()
        rows, executions = [], 0
        for number in range(1, rounds + 1):
            began = time.perf_counter()
            for path, book in zip(notebooks, books):
                for cell in book.cells:
                    if cell.cell_type == "code":
                        cell.outputs = await kernel.execute(cell.source, path.name)
                        executions += 1
                await server.save(path.name, book)
            seconds = time.perf_counter() - began
            await kernel.execute("import gc; gc.collect()", "the collection of garbage")
            untrimmed = server.held()["kernel_mb"]
            await kernel.execute(TRIM, "the return of free memory")
            row = {"round": number, "executions": executions, "seconds": round(seconds, 1)}
            rows.append(row | server.held() | {"kernel_mb_untrimmed": untrimmed})
            say(json.dumps(rows[-1]))
        await server.shut_down(kernel)
        left = {"processes": len(server.process.children(recursive=True)), "temporary": server.temporary_files()}
    finally:
        server.stop()
    return {"executions": executions, "rounds": rows, "left": left}


class Server:
    """JupyterLab in a process of its own, with its own temporary folder and without the settings of this user."""

    def __init__(self, work: Path, temporary: Path):
        self.work, self.temporary, self.token = work, temporary, secrets.token_hex(16)

    async def start(self) -> None:
        own = self.work.parent / "jupyter"
        dirs = {f"JUPYTER_{name}_DIR": str(own / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
        env = kernel_env(TMPDIR=str(self.temporary), TEMP=str(self.temporary), TMP=str(self.temporary), **dirs)
        settings = {"token": self.token, "port": 0, "open_browser": False, "allow_root": True, "root_dir": self.work}
        options = [f"--ServerApp.{name}={value}" for name, value in settings.items()]
        self.log = open(self.work.parent / "server.log", "w+", encoding="utf-8")
        self.process = psutil.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=env, stdout=self.log, stderr=subprocess.STDOUT
        )
        end = time.monotonic() + START_SECONDS
        while not (found := sorted((own / "runtime").glob("jpserver-*.json"))):
            if self.process.poll() is not None or time.monotonic() > end:
                self.log.seek(0)
                last = self.log.read().strip().rpartition("\n")[2]
                raise CourseError(f"JupyterLab did not start ({last:.300}); look at `vt-course doctor`")
            await asyncio.sleep(0.2)
        self.port = read_json(found[0], AGAIN, dict)["port"]

    async def ask(self, method: str, path: str, body=None):
        """The answer of the server's REST interface, from JSON."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"token {self.token}"},
            method=method,
        )
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=60).read())
        return parse_json(text, path, AGAIN) if text else None

    async def new_kernel(self) -> "Kernel":
        self.kernel = (await self.ask("POST", "kernels", {"name": "python3"}))["id"]
        url = f"ws://127.0.0.1:{self.port}/api/kernels/{self.kernel}/channels?token={self.token}"
        return Kernel(await tornado.websocket.websocket_connect(url, max_message_size=1 << 30))

    async def save(self, name: str, book) -> None:
        await self.ask("PUT", f"contents/{name}", {"type": "notebook", "format": "json", "content": book})

    async def shut_down(self, kernel: "Kernel") -> None:
        kernel.socket.close()
        await self.ask("DELETE", f"kernels/{self.kernel}")

    def held(self) -> dict:
        """What server and kernel hold at this moment: MB, descriptors, threads, child processes, temporary files."""
        [kernel] = self.process.children()
        return {
            "kernel_mb": round(kernel.memory_info().rss / 1e6, 1),
            "kernel_descriptors": kernel.num_fds(),
            "kernel_threads": kernel.num_threads(),
            "kernel_children": len(kernel.children(recursive=True)),
            "server_mb": round(self.process.memory_info().rss / 1e6, 1),
            "server_descriptors": self.process.num_fds(),
            "temporary": self.temporary_files(),
        }

    def temporary_files(self) -> list[str]:
        """What lies in the temporary folder. torch keeps one empty folder for each user, which is not counted."""
        return sorted(name for name in os.listdir(self.temporary) if not name.startswith("torchinductor_"))

    def stop(self) -> None:
        if hasattr(self, "process"):
            children = self.process.children(recursive=True) if self.process.is_running() else []
            self.process.terminate()
            for process in psutil.wait_procs([self.process, *children], timeout=20)[1]:
                process.kill()
            self.log.close()


class Kernel:
    """A kernel at the other end of a websocket of the server."""

    def __init__(self, socket):
        self.socket, self.session = socket, uuid.uuid4().hex

    async def execute(self, source: str, name: str) -> list:
        """Execute a cell of the notebook `name`; its outputs. Raises `CourseError` if it fails."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": self.session}
        header |= {"username": "", "version": "5.3", "date": ""}
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self.socket.write_message(json.dumps(message))
        return await asyncio.wait_for(self._outputs(header["msg_id"], name), CELL_SECONDS)

    async def _outputs(self, asked: str, name: str) -> list:
        outputs = []
        while True:
            text = await self.socket.read_message()
            need(text is not None, f"the kernel ended in {name}; run the notebook alone: vt-course course")
            message = parse_json(text, "a message of the kernel", AGAIN, dict)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != asked:
                continue
            if kind == "error":
                raise CourseError(f"a cell of {name} failed ({content['ename']}: {content['evalue']:.200})")
            if kind in ("stream", "display_data", "execute_result"):
                outputs.append(
                    nbformat.v4.output_from_msg(nbformat.from_dict(message | {"header": {"msg_type": kind}}))
                )
            if kind == "status" and content["execution_state"] == "idle":
                return outputs


def faults(found: dict) -> list[str]:
    """Sentences on what grows from round to round, or was left behind, in a result of `measure`; [] if all is well."""
    rows = found["rounds"]
    need(len(rows) >= 3, "fewer than three rounds cannot show whether something levels off; choose --rounds 3 or more")
    said = []
    before, half = rows[len(rows) // 2 - 1], rows[len(rows) // 2 :]  # the first half of the rounds may fill caches
    for name in ("kernel_mb", "server_mb"):
        growth = (half[-1][name] - before[name]) / len(half)
        if growth > GROWTH_MB:
            said.append(f"{name} grows by {growth:.1f} a round")
    for name in ("kernel_descriptors", "kernel_children", "server_descriptors"):
        if rows[-1][name] > before[name]:
            said.append(f"{name} grew from {before[name]} to {rows[-1][name]}")
    if rows[-1]["kernel_children"]:
        said.append(f"{rows[-1]['kernel_children']} child processes of the kernel are left after a round")
    if found["left"]["processes"]:
        said.append(f"{found['left']['processes']} processes are left when the kernel was shut down")
    if found["left"]["temporary"]:
        said.append(f"temporary files are left: {', '.join(found['left']['temporary'][:5])}")
    return said


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--notebooks", nargs="+", default=["04", "08"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=repo_root() / RESULT)
    args = parser.parse_args()
    notebooks = select(repo_root() / "notebooks", "[0-9][0-9]_*.ipynb", args.notebooks)
    found = measure(notebooks, args.rounds, lambda line: print(line, flush=True))
    said = faults(found)
    told = {"notebooks": [path.stem for path in notebooks], "faults": said, **found}
    atomic_write(args.out, (json.dumps(provenance(torch.device("cpu")) | told, indent=1) + "\n").encode())
    print("\n".join(said) or "everything levels off")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
