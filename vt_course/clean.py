"""`vt-course clean`: what the course has left on the disk, how large it is, and what can go.

Only what the course makes again by itself is removed. Downloads, trained runs and everything that a person may have
written stay: for them the table says where they lie and what brings them back.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vt_course import own_data, own_root

CACHES = ("__pycache__", ".pytest_cache", ".hypothesis", ".ruff_cache")
KEPT_BUILDS = {  # of the folders in build/
    "wheelhouse": "`make wheelhouse` downloads it again",
    "student": "handouts, in which somebody may have written",
}
STAYS = {  # below the user's folder, which may be the checkout: (what, why it stays)
    "work": ("your notebooks", "nothing brings them back"),
    "solutions": ("a copy of the notebooks with solutions", "somebody may have written in it"),
    "edited": ("notebooks that were edited by hand", "nothing brings them back"),
    "runs": ("trained runs", "hours of computing; delete those that you do not need"),
    ".venv": ("installed packages", "`make setup` downloads them again"),
    ".uv": ("the installer of packages", "`make setup` downloads it again"),
}
DATA = {  # below the folder of data
    "synthetic": ("rendered clips", "`vt-course data synthetic` renders them again"),
    "bench": ("clips to train on in a benchmark", "`vt-course bench train` draws them again"),
    "weights": ("published weights", "`vt-course weights get` downloads them again"),
    "kinetics": ("clips of Kinetics", "`vt-course data kinetics` downloads them again"),
}
OLD = 24 * 3600.0  # seconds after which nobody works on an unfinished file any more


def clean(dry_run: bool = False) -> list[dict]:
    """dict(what, where, mb, state) for everything that the course keeps on this disk, the removable things first.

    state is "removed" ("can go" with `dry_run`), or says why a thing stays. mb: the size of its files in MB. Raises
    OSError if something cannot be removed.
    """
    root, data = own_root(), own_data()
    gone = [row(what, path, "can go" if dry_run else "removed") for what, path in removable(root, data)]
    if not dry_run:
        for each in gone:
            remove(Path(each["where"]))
    stays = [row("made by the course", root / "build" / name, why) for name, why in KEPT_BUILDS.items()]
    stays += [row(what, root / name, why) for name, (what, why) in STAYS.items()]
    stays += [row(what, data / name, why) for name, (what, why) in DATA.items()]
    named = {"README.md", "kinetics_subset.csv", *DATA}
    others = sorted(path for path in data.iterdir() if path.name not in named) if data.is_dir() else []
    stays += [row("other data", path, "not made by the course, or made on request") for path in others]
    return gone + [each for each in stays if os.path.lexists(each["where"])]


def row(what: str, path: Path, state: str) -> dict:
    return dict(what=what, where=str(path), mb=size(path) / 1e6, state=state)


def removable(root: Path, data: Path) -> Iterator[tuple[str, Path]]:
    """(what, path) of all that the course makes again by itself."""
    build = root / "build"
    for path in sorted(build.iterdir()) if build.is_dir() else ():
        if path.name not in KEPT_BUILDS:
            yield "results of commands", path
    for name in ("", "vt_course", "tests", "notebooks"):
        for folder, folders, _ in os.walk(root / name) if name else [next(os.walk(root), (root, [], []))]:
            for cache in sorted(set(folders) & set(CACHES)):
                yield "a cache", Path(folder, cache)
    for top in dict.fromkeys((data, root / "runs", root / "results")):
        for folder, _, files in os.walk(top):
            for name in sorted(files):
                path = Path(folder, name)
                if name.startswith(".") and name.endswith(".part") and time.time() - path.lstat().st_mtime > OLD:
                    yield "left by a command that was killed", path


def size(path: Path) -> int:
    """The bytes of a file, or of all files below a folder. Links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _, files in os.walk(path) for name in files)


def remove(path: Path) -> None:
    """Remove a file, a folder, or a link (not what it names)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
