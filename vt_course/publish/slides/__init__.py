"""Slides of notebooks: rules choose what stands on them (deck.py), a page for reveal.js shows it (page.py)."""

from pathlib import Path

from vt_course import repo_root
from vt_course.files import atomic_write
from vt_course.publish.slides.deck import deck
from vt_course.publish.slides.page import index, page
from vt_course.publish.source import select
from vt_course.publish.student import out_folder, read


def slides(
    names: list[str] | None, assets: dict[str, bytes], *, out: Path | None = None, root: Path | None = None
) -> list[dict]:
    """Write the slides of notebooks to `out` (build/slides of `own_root`): a page and its pictures for each, and an
    index.

    names: stems or numbers; None: all. assets: the files of reveal.js and MathJax, by their path in the folder
    (`fetch.assets`). root: the course, whose executed notebooks are read. Returns a row for each notebook: notebook,
    sections, slides, figures, output. Raises CourseError for an unknown name, a damaged notebook, a full disk, and an
    `out` inside notebooks/.
    """
    root = root or repo_root()
    out = out_folder(out, "slides", root)
    notebooks = select(root / "notebooks", "[0-9][0-9]_*.ipynb", names)
    for name, data in assets.items():
        put(out / name, data)
    rows = []
    for path in notebooks:
        sections = deck(read(path))
        text, pictures = page(sections, path.stem)
        for old in (out / path.stem).glob("figure-*.png"):  # of an older edition
            old.unlink()
        for name, data in pictures.items():
            put(out / name, data)
        file = out / f"{path.stem}.html"
        put(file, text.encode())
        count = text.count("<section data-kind=")
        rows.append(
            dict(notebook=path.stem, sections=len(sections), slides=count, figures=len(pictures), output=str(file))
        )
    there = [(path.name, path.stem) for path in sorted(out.glob("[0-9][0-9]_*.html"))]
    put(out / "index.html", index(there).encode())
    return rows


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
