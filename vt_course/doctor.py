"""`vt-course doctor`: the facts that a bug report needs, and what is missing, with the way to get it."""

import importlib
import platform
import re
import shutil
from pathlib import Path

from vt_course import __version__, carried, data_root, own_data, own_root, progress_file, repo_root
from vt_course.machine import cores, gpus, memory_limit, threads, version

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "einops",
    "av",
    "decord",
    "decord2",
    "torchcodec",
    "safetensors",
    "jupyterlab",
    "papermill",
    "nbval",
    "jupytext",
)
# For each package: the lower bound and the newest version; the unit tests were run with both. docs/students.md says
# on which versions of Python.
TRIED = {
    "python": ("3.11", "3.14"),
    "torch": ("2.6", "2.15"),
    "torchvision": ("0.21", "0.29"),
    "numpy": ("1.26", "2.5"),
    "av": ("17.0", "19.0"),
    "einops": ("0.8", "0.8"),
    "matplotlib": ("3.11", "3.11"),
    "safetensors": ("0.4", "0.8"),
}
OPTIONAL = {"decord": "decord2", "decord2": "decord", "torchcodec": None}
# What only a checkout needs: it tests notebooks and runs the course. To open notebooks, any Jupyter will do.
CHECKOUT = ("jupyterlab", "papermill", "nbval")


def works(module: str) -> str | None:
    """None if the module can be imported, else the first line of the error."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken native library raises OSError, RuntimeError or worse
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def untried(versions: dict[str, str | None]) -> list[dict]:
    """dict(what, how) for each package with a version outside the range that was tried. Patch versions do not count."""

    def minor(version):
        return [int(number) for number in re.findall(r"\d+", version)[:2]]

    return [
        {"what": f"{name} {versions[name]}", "how": f"{low} to {high} were tried; if something fails, try one of these"}
        for name, (low, high) in TRIED.items()
        if versions.get(name) and not minor(low) <= minor(versions[name]) <= minor(high)
    ]


def system_notes() -> list[str]:
    """Sentences that a user of this operating system should know."""
    found = []
    system, machine = platform.system(), platform.machine()
    if system == "Darwin" and machine == "x86_64":
        found.append("PyTorch has no wheels for Macs with Intel processors: use a machine with another processor")
    if system == "Darwin" and int(platform.mac_ver()[0].partition(".")[0] or 14) < 14:
        found.append("PyAV has wheels for macOS 14 and newer: update macOS")
    if system == "Windows" and len(str(repo_root())) > 100:
        found.append("Windows allows paths of 260 characters: move the checkout to a shorter one, or allow long paths")
    return found


def report() -> dict:
    """The facts of this installation: versions, hardware, decoder, data, and `missing` (what, and how to get it)."""
    install = 'pip install --upgrade "vt-course[notebooks]"' if carried() else "make setup"
    broken = {name: fault for name in ("torch", "psutil", "av", "decord") if (fault := works(name))}
    facts = {
        "vt_course": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": cores(),
        "torch_threads": None if "torch" in broken else threads(),
        "memory_gb": None if "psutil" in broken else round(memory_limit() / 2**30, 1),
        "disk_free_gb": round(shutil.disk_usage(existing(own_root())).free / 2**30, 1),
        "gpu": [] if "torch" in broken else gpus(),
        "packages": {p: version(p) for p in dict.fromkeys((*PACKAGES, *TRIED)) if p != "python"},
        "decord_imports": broken.get("decord", "yes"),
        "course": str(repo_root()),
        "course_from": "a wheel" if carried() else "a checkout",
        "yours": str(own_root()),
        "data": str(own_data()),
        "clips": str(data_root() / "synthetic"),
        "synthetic_data": (data_root() / "synthetic" / "config.json").is_file(),
        "progress": str(progress_file()),
    }
    missing = [
        {"what": f"package {p}", "how": install}
        for p, v in facts["packages"].items()
        if v is None
        and (p not in OPTIONAL or OPTIONAL[p] and version(OPTIONAL[p]) is None)
        and not (carried() and p in CHECKOUT)
    ]
    missing += [{"what": f"a working {name} ({fault})", "how": install} for name, fault in broken.items()]
    if facts["packages"]["decord"] and facts["packages"]["decord2"]:
        missing.append(
            {
                "what": "one decoder: decord and decord2 overwrite each other",
                "how": f"pip uninstall decord decord2, then {install}",
            }
        )
    if not facts["synthetic_data"]:
        missing.append({"what": "the embedded data set", "how": "vt-course data synthetic"})
    if facts["disk_free_gb"] < 1:
        missing.append({"what": "free disk space (1 GB for data and runs)", "how": "free some, or set VT_COURSE_DATA"})
    facts["missing"] = missing
    facts["untried"] = untried({"python": facts["python"], **facts["packages"]})
    facts["notes"] = system_notes()
    return facts


def existing(path: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    return path if path.exists() else existing(path.parent)


def render(facts: dict) -> str:
    lines = [
        f"{k:16s}{', '.join(v) or 'none' if isinstance(v, list) else v}"
        for k, v in facts.items()
        if k not in ("packages", "missing", "untried", "notes")
    ]
    lines.insert(3, "packages        " + "  ".join(f"{k} {v}" for k, v in facts["packages"].items() if v))
    lines += [f"MISSING         {m['what']}: {m['how']}" for m in facts["missing"]] or ["nothing is missing"]
    lines += [f"UNTRIED         {u['what']}: {u['how']}" for u in facts["untried"]] + [
        f"NOTE            {note}" for note in facts["notes"]
    ]
    return "\n".join(lines)
