"""`vt-course doctor`: what a bug report needs, and what is missing with the way to get it."""
import importlib
import importlib.metadata
import platform
import shutil

from vt_course import __version__, data_root, repo_root
from vt_course.machine import cores, memory_limit

PACKAGES = ("torch", "torchvision", "numpy", "einops", "av", "decord", "decord2", "torchcodec", "safetensors",
            "jupyterlab", "papermill", "nbval", "jupytext")
OPTIONAL = {"decord": "decord2", "decord2": "decord", "torchcodec": None}


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def works(module: str) -> str | None:
    """None when the module imports, else the first line of what went wrong."""
    try:
        importlib.import_module(module)
    except Exception as error:              # a broken native library raises OSError, RuntimeError or worse
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def torch_threads() -> int:
    import torch
    return torch.get_num_threads()


def gpus() -> list[str]:
    import torch
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names or (["Apple MPS"] if torch.backends.mps.is_available() else [])


def report() -> dict:
    """Facts about this installation: versions, hardware, decoder, data, and `missing` (what, how to get it)."""
    broken = {name: fault for name in ("torch", "psutil", "av", "decord") if (fault := works(name))}
    facts = {
        "vt_course": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "cpu_cores": cores(), "torch_threads": None if "torch" in broken else torch_threads(),
        "memory_gb": None if "psutil" in broken else round(memory_limit() / 2**30, 1),
        "disk_free_gb": round(shutil.disk_usage(repo_root()).free / 2**30, 1),
        "gpu": [] if "torch" in broken else gpus(),
        "packages": {p: version(p) for p in PACKAGES},
        "decord_imports": broken.get("decord", "yes"),
        "repo": str(repo_root()), "data": str(data_root()),
        "synthetic_data": (data_root() / "synthetic" / "config.json").is_file(),
    }
    missing = [{"what": f"package {p}", "how": "make setup"} for p, v in facts["packages"].items()
               if v is None and (p not in OPTIONAL or OPTIONAL[p] and version(OPTIONAL[p]) is None)]
    missing += [{"what": f"a working {name} ({fault})", "how": "make setup"} for name, fault in broken.items()]
    if facts["packages"]["decord"] and facts["packages"]["decord2"]:
        missing.append({"what": "one decoder: decord and decord2 overwrite each other",
                        "how": "pip uninstall decord decord2, then make setup"})
    if not facts["synthetic_data"]:
        missing.append({"what": "the embedded data set", "how": "vt-course data synthetic"})
    if facts["disk_free_gb"] < 1:
        missing.append({"what": "free disk space (1 GB for data and runs)", "how": "free some, or set VT_COURSE_DATA"})
    facts["missing"] = missing
    return facts


def render(facts: dict) -> str:
    lines = [f"{k:16s}{', '.join(v) or 'none' if isinstance(v, list) else v}" for k, v in facts.items()
             if k not in ("packages", "missing")]
    lines.insert(3, "packages        " + "  ".join(f"{k} {v}" for k, v in facts["packages"].items() if v))
    lines += [f"MISSING         {m['what']}: {m['how']}" for m in facts["missing"]] or ["nothing is missing"]
    return "\n".join(lines)
