"""`vt-course release`: what a class gets, as a folder and a zip: a notebook, its glossary, and a first page."""

import io
import zipfile
from pathlib import Path

from vt_course import __version__, repo_root
from vt_course.files import atomic_write
from vt_course.publish.source import select_sources
from vt_course.publish.student import out_folder, read, student, told

DATE = (1980, 1, 1, 0, 0, 0)  # of every file in the zip, so that the same release gives the same bytes
README = """# {title}

Release {version}, edition {edition}. Your notebook is `{notebook}.ipynb`; it has {count}.

## Start

You need the course, release {version}, on the machine where the notebook runs. If your class has a JupyterHub with the
course, open the notebook there. Otherwise install it once, with the address that your teacher gives you:

    git clone --branch v{version} ADDRESS vt_course
    cd vt_course
    make setup data
    .venv/bin/python -m jupyterlab --notebook-dir=FOLDER

FOLDER is the folder of this page. Windows and Conda have commands of their own: `docs/students.md` in the course.

## Work

- Write into the cells of the exercises. The cell below each of them checks it and says what is wrong.
- Keep the names of the functions, and do not delete, copy or retag the cells of exercises.
- A function of yours may use the functions above it, PyTorch, NumPy, einops and Python. It may not use `vt_course`.
- It may use helpers that you write in its own cell, or in further cells.

## Hand in

Save the notebook and hand in `{notebook}.ipynb`, nothing else. Its outputs do not count. Each function is run by
itself, on arguments of other sizes and numbers than those in the notebook. You get a page with the sentences of the
checks.
"""


def release(names: list[str], *, out: Path | None = None, root: Path | None = None) -> list[dict]:
    """Write the student edition of notebooks as folders to hand out, and a zip of each beside its folder.

    names: stems ("04_video_swin") or numbers ("04"). out: where the folders go (build/release of `own_root`).
    Returns a row for each: notebook, release, edition, exercises, folder, zip.
    Raises CourseError as `student` does: for an unknown name, and for a folder whose notebook somebody has changed.
    """
    root = root or repo_root()
    out = out_folder(out, "release", root)
    rows = []
    for source in select_sources(root, names):
        folder = out / f"{source.stem}-{__version__}"
        (row,) = student([source.stem], out=folder, root=root)
        notebook = Path(row["output"])
        edition = told(read(notebook))["sha256"][:8]
        count = "1 exercise" if row["exercises"] == 1 else f"{row['exercises']} exercises"
        first = README.format(
            title=source.stem.replace("_", " "), version=__version__, edition=edition, notebook=source.stem, count=count
        )
        atomic_write(folder / "README.md", first.encode())
        files = [path for path in (folder / "README.md", notebook, folder / "glossary.md") if path.is_file()]
        atomic_write(folder.with_name(f"{folder.name}.zip"), zipped(folder.name, files))
        rows.append(
            dict(
                notebook=source.stem,
                release=__version__,
                edition=edition,
                exercises=row["exercises"],
                folder=str(folder),
                zip=str(folder.with_name(f"{folder.name}.zip")),
            )
        )
    return rows


def zipped(name: str, files: list[Path]) -> bytes:
    """A zip with the files in one folder."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(f"{name}/{path.name}", DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return data.getvalue()
