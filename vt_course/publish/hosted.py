"""The editions for Colab, Kaggle and Binder: the student edition, with a first code cell that makes the host ready.

These hosts open notebooks of a public repository, so the editions are committed, in notebooks/hosted/. pyproject.toml
says where the repository is and which tag they are of. `vt-course build` writes the editions and the links to them.
"""

import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat

from vt_course.files import atomic_write
from vt_course.publish.source import select_sources, write
from vt_course.publish.student import digest, student_edition, text_hash

FOLDER = "notebooks/hosted"
# The archive of a tag, not git: some hosts have no git. The torch of the host fits its GPU, so pip must not replace it.
FIRST = """\
# On Colab, Kaggle and other hosts: run this cell first.
import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

course = ("vt-course @ {repository}"
          "/archive/refs/tags/{tag}.zip")
if importlib.util.find_spec("vt_course") is None:
    stays = [f"{{name}}=={{version(name)}}\\n"
             for name in ("torch", "torchvision", "numpy")
             if importlib.util.find_spec(name)]
    Path("stays.txt").write_text("".join(stays), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q",
                    "-c", "stays.txt", course], check=True)
    importlib.invalidate_caches()

from vt_course.lab.hosts import ready

ready("{tag}")"""
LINKS = {  # a host: (the address that opens an edition there, its badge)
    "Colab": (
        "https://colab.research.google.com/github/{name}/blob/{tag}/{path}",
        "https://colab.research.google.com/assets/colab-badge.svg",
    ),
    "Kaggle": (
        "https://kaggle.com/kernels/welcome?src={repository}/blob/{tag}/{path}",
        "https://kaggle.com/static/images/open-in-kaggle.svg",
    ),
    "Binder": (
        "https://mybinder.org/v2/gh/{name}/{tag}?urlpath=lab/tree/{path}",
        "https://mybinder.org/badge_logo.svg",
    ),
}
RELATIVE = re.compile(r"(!?\[[^\]]*\]\()(?!https?:|mailto:|#)([^)\s]+)(\))")
BLOCK = "<!-- links made by `vt-course build` -->\n"


def published(root: Path) -> dict[str, str] | None:
    """repository (an address), name ("owner/repository") and tag, from pyproject.toml; None where that has none."""
    path = root / "pyproject.toml"
    tools = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}) if path.is_file() else {}
    told = tools.get("vt-course")
    return told and told | {"name": told["repository"].removeprefix("https://github.com/")}


def hosted_edition(source: Path, where: dict[str, str]):
    """The edition of a source for the hosts. where: see `published`."""
    nb = student_edition(source)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = RELATIVE.sub(lambda link: absolute(*link.groups(), where), cell.source)
    nb.cells.insert(1, nbformat.v4.new_code_cell(FIRST.format(**where), id="hosted-edition"))
    ours = nb.metadata["vt_course"]  # so that `vt-course student --update` can go on with it
    ours["sha256"], ours["cells"] = digest(nb), {cell.id: text_hash(cell) for cell in nb.cells}
    return nb


def absolute(before: str, target: str, after: str, where: dict[str, str]) -> str:
    """A link of a notebook in notebooks/, as one to the repository, since a host has only the notebook."""
    name, mark, anchor = target.partition("#")
    kind = "raw" if before.startswith("!") else "blob"
    path = posixpath.normpath(f"notebooks/{name}")
    return f"{before}{where['repository']}/{kind}/{where['tag']}/{path}{mark}{anchor}{after}"


def links(stem: str, where: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Of each host: (the address that opens this notebook there, the address of its badge)."""
    path = f"{FOLDER}/{stem}.ipynb"
    return {host: (address.format(path=path, **where), badge) for host, (address, badge) in LINKS.items()}


def badges(stems: list[str], where: dict[str, str]) -> str:
    """Markdown: the badges of the first notebook."""
    return " ".join(f"[![Open in {host}]({badge})]({to})" for host, (to, badge) in links(stems[0], where).items())


def table(stems: list[str], where: dict[str, str]) -> str:
    """Markdown: a row of links for each notebook."""
    lines = ["| notebook | " + " | ".join(LINKS) + " |", "|---" * (1 + len(LINKS)) + "|"]
    for stem in stems:
        cells = [f"[open]({to})" for to, _ in links(stem, where).values()]
        lines.append(f"| {stem.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


PAGES = {"README.md": badges, "docs/doors.md": table}


def files(root: Path, sources: list[Path]) -> Iterator[tuple[Path, object]]:
    """(path, notebook or text) of all that the hosts need: the editions of `sources`, then the pages with links."""
    if where := published(root):
        for source in sources:
            yield root / FOLDER / f"{source.stem}.ipynb", hosted_edition(source, where)
        stems = [source.stem for source in select_sources(root, None)]
        for page, made in PAGES.items():
            if (root / page).is_file():
                before, _, after = (root / page).read_text(encoding="utf-8").split(BLOCK)
                yield root / page, BLOCK.join([before, made(stems, where) + "\n", after])


def write_hosted(root: Path, sources: list[Path]) -> None:
    for path, content in files(root, sources):
        path.parent.mkdir(exist_ok=True)
        write(content, path) if path.suffix == ".ipynb" else atomic_write(path, content.encode())


def drifted(root: Path, sources: list[Path]) -> list[str]:
    """Sentences on the editions and pages that are not what `write_hosted` would write."""
    found = []
    for path, content in files(root, sources):
        wanted = nbformat.writes(content) + "\n" if path.suffix == ".ipynb" else content
        if not path.is_file() or path.read_text(encoding="utf-8") != wanted:
            name = path.relative_to(root).as_posix()
            found.append(f"{name}: differs from its source or pyproject.toml; run `vt-course build --text-only`.")
    return found
