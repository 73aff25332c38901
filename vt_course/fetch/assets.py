"""What slides need of others: reveal.js and MathJax from npm's registry, with the bytes that are named here."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from vt_course import CourseError
from vt_course.fetch.download import fetch
from vt_course.files import read_tar

REGISTRY = "https://registry.npmjs.org"


@dataclass(frozen=True)
class Package:
    """A package of npm. `sha512`: as the registry states it. `files`: path in the package -> path beside the slides."""

    name: str
    version: str
    size: int
    sha512: str
    files: dict[str, str]

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.tgz"


PACKAGES = (
    Package(
        "reveal.js",
        "6.0.2",
        3_214_517,
        "JYIg5D9aoxoaLeb84O+OvAwsKWdIavVgEDScxtYEXFCT6t6TQrhNtSgogcjdCpdLsWglhJn3zyE3fUOwiH5KEg==",
        {
            "dist/reset.css": "reveal/reset.css",
            "dist/reveal.css": "reveal/reveal.css",
            "dist/reveal.js": "reveal/reveal.js",
            "dist/plugin/notes.js": "reveal/notes.js",
            "LICENSE": "reveal/LICENSE",
        },
    ),
    Package(
        "mathjax",
        "3.2.2",
        6_132_118,
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        {"es5/tex-svg.js": "mathjax/tex-svg.js", "LICENSE": "mathjax/LICENSE"},
    ),
)


def cache_folder() -> Path:
    """Where the packages are kept: a folder of this user, so that many checkouts download them once."""
    return platformdirs.user_cache_path("vt_course") / "npm"


def assets(folder: Path | None = None, progress: bool = False) -> dict[str, bytes]:
    """path beside the slides -> bytes, of all files that slides need; downloaded on first use (9 MB), then kept.

    Raises CourseError if npm's registry cannot be reached, if a package has other bytes than the pinned ones, and if
    the disk is full. A package that was put into `folder` (`cache_folder()`) by hand is as good.
    """
    folder = folder or cache_folder()
    found = {}
    for package in PACKAGES:
        url = f"{REGISTRY}/{package.name}/-/{package.file}"
        path = fetch(url, folder / package.file, size=package.size, progress=progress)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha512").digest()
        if base64.b64encode(digest).decode() != package.sha512:
            path.unlink()
            raise CourseError(
                f"{path} has not the sha512 that npm states for {package.file}, so it was deleted; run the same "
                "command again, and if that does not help, another program changes what you download."
            )
        found |= members(path, package)
    return found


def members(path: Path, package: Package) -> dict[str, bytes]:
    """The files of a package that slides need."""
    found = {}
    for member, file in read_tar(path, "delete it and run the same command again.", zipped=True):
        if inside := package.files.get(member.name.partition("/")[2]):
            found[inside] = file.read()
    if missing := package.files.values() - found.keys():
        raise CourseError(f"{path} lacks {', '.join(sorted(missing))}; delete it and run the same command again.")
    return found
