"""work/: the reader's own notebooks. They are the student edition; a newer edition takes over what the reader wrote.

Three marks tell what a reader wrote. The tag of an exercise names its stub in every edition. The id of a cell comes
from the text that the course gave it, and stays when the reader changes the text. The metadata of the notebook name its
edition, and hold the ids of its cells with a hash of each text. So a cell without a record was added by the reader, and
one whose text has another hash was changed.
"""

import ast
import copy
from contextlib import suppress
from pathlib import Path

import nbformat

from vt_course import CourseError, own_root, repo_root
from vt_course.files import atomic_write, parsing
from vt_course.publish.source import select_sources
from vt_course.publish.student import (
    as_written,
    copy_glossary,
    digest,
    read,
    refuse_notebooks,
    student,
    student_edition,
    text_hash,
    told,
)
from vt_course.publish.tags import parts


def work_folder(root: Path | None = None) -> Path:
    return own_root(root or repo_root()) / "work"


def solutions_folder(root: Path | None = None) -> Path:
    """The folder of the notebooks with solutions: in a checkout of one's own notebooks/, elsewhere a copy of them."""
    root = root or repo_root()
    return root / "notebooks" if own_root(root) == root else own_root(root) / "solutions"


def first_use(
    root: Path | None = None, names: list[str] | None = None, *, out: Path | None = None, solutions: bool = False
) -> list[dict]:
    """Write the notebooks that are not in `out` (work/) yet; one that is there is never touched.

    names: as of `student`. solutions: those with solutions and outputs, into `out` (`solutions_folder`), in place of
    the student edition. Returns a row for each notebook: notebook, state ("written" or "kept"), output.
    """
    root = root or repo_root()
    sources = select_sources(root, names)
    out = Path(out or (solutions_folder(root) if solutions else work_folder(root)))
    there = solutions and out == root / "notebooks"
    out = out if there else refuse_notebooks(out, root)
    rows = [
        dict(
            notebook=source.stem,
            state="kept" if there or notebook(out, source).exists() else "written",
            output=str(notebook(out, source)),
        )
        for source in sources
    ]
    absent = [row["notebook"] for row in rows if row["state"] == "written"]
    if absent and solutions:
        out.mkdir(parents=True, exist_ok=True)
        copy_glossary(root, out)
        for stem in absent:
            atomic_write(out / f"{stem}.ipynb", (root / "notebooks" / f"{stem}.ipynb").read_bytes())
    elif absent:
        student(absent, out=out, root=root)
    return rows


def outdated(root: Path | None = None) -> list[str]:
    """The notebooks in work/ that are not of the newest edition. A file that is no notebook is left out."""
    root = root or repo_root()
    found = []
    for source in select_sources(root, None):
        with suppress(CourseError):
            if edition(read(notebook(work_folder(root), source))) != digest(student_edition(source)):
                found.append(source.stem)
    return found


def update(names: list[str] | None = None, *, out: Path | None = None, root: Path | None = None) -> list[dict]:
    """Bring the notebooks in `out` (work/) to the newest student edition, with everything in it that the reader wrote.

    names: stems ("04_video_swin") or numbers ("04" or "4"); None: all. One that is not there is written.
    Returns a row for each notebook: notebook; state ("written", "replaced": nobody had changed it, "up to date" or
    "updated"); exercises (numbers of those whose cells were carried over); moved (old number -> new number of those
    among them that were renumbered); cells (how many other cells were);
    kept (where the old file is now, or None); left (sentences on what does not fit); output.
    Nothing is executed, and outputs are not carried over. Raises CourseError, and then no file has changed: for an
    unknown name, for an `out` inside notebooks/, and for a file that is not an edition of its notebook. Raises
    CourseError for a disk that is full; then files before that one may be updated already, and none is damaged.
    """
    root = root or repo_root()
    sources = select_sources(root, names)
    out = refuse_notebooks(Path(out or work_folder(root)), root)
    plans = [plan(source, notebook(out, source)) for source in sources]
    out.mkdir(parents=True, exist_ok=True)
    copy_glossary(root, out)
    for row, nb in plans:
        if nb is not None:
            write(nb, Path(row["output"]), row)
    return [row for row, _ in plans]


def plan(source: Path, path: Path) -> tuple[dict, object]:
    """(the row of `update`, the notebook to write or None) for one notebook. Nothing is written."""
    new = student_edition(source)
    row = dict(
        notebook=source.stem, state="written", exercises=[], moved={}, cells=0, kept=None, left=[], output=str(path)
    )
    if not path.exists():
        return row, new
    old = read(path)
    if edition(old) == digest(new):
        return row | {"state": "up to date"}, None
    if as_written(old):
        return row | {"state": "replaced"}, new
    merged = Merge(old, new, path)
    with parsing(path, "no valid notebook", "move it away and run the same command again."):
        nbformat.validate(merged.notebook)
    return row | {"state": "updated", **merged.told}, merged.notebook


def write(nb, path: Path, row: dict) -> None:
    """Write a notebook. Of one that is updated, the old file is kept first; its new name becomes `row["kept"]`."""
    kept, made = None, False
    if row["state"] == "updated":
        data = path.read_bytes()
        kept, made = free_name(path, data)
        row["kept"] = str(kept)
        if made:
            atomic_write(kept, data)
    try:
        atomic_write(path, nbformat.writes(nb).encode())
    except CourseError:
        if made:
            kept.unlink()  # it is the same as `path`, which is unchanged
        raise


def free_name(path: Path, data: bytes) -> tuple[Path, bool]:
    """(04_x.old.ipynb, or .old-2 and so on, whether it must be written): the first that is free or holds `data`."""
    number = 1
    while True:
        kept = path.with_name(f"{path.stem}.old{f'-{number}' if number > 1 else ''}.ipynb")
        if not kept.exists():
            return kept, True
        if kept.is_file() and kept.read_bytes() == data:
            return kept, False
        number += 1


def notebook(folder: Path, source: Path) -> Path:
    return folder / f"{source.stem}.ipynb"


def edition(nb) -> str | None:
    """Which student edition a notebook was when it was handed out: the digest that its metadata hold."""
    return told(nb).get("sha256")


def record(nb) -> dict[str, str]:
    """Id of a cell -> hash of its text, for the cells that the course gave this notebook; {} if that is not known."""
    cells = told(nb).get("cells")
    return cells if isinstance(cells, dict) else {}


class Merge:
    """A new edition that takes over what a reader wrote into an old one.

    notebook: the new edition with the reader's cells. told: what `update` says of it.
    """

    def __init__(self, old, new, path: Path):
        self.notebook, self.record = new, record(old)
        self.twins = {}
        for cell in new.cells:  # the first of each key: two cells may have the same text
            for key in (("id", cell.id), ("text", cell.cell_type, cell.source), *parts(cell).items()):
                self.twins.setdefault(key, cell)
        self.filled, self.cells, self.left, self.unknown = {}, 0, [], 0
        self.homeless, self.moved = [], {}  # solutions that do not fit their number: (number, cell, why not)
        self.added = {None: []}  # id of a cell of the new edition (None: of none) -> the reader's cells that follow it
        anchor, known = None, 0
        for index, cell in enumerate(old.cells):
            twin = self.twin(cell)
            if twin is not None:
                anchor, known = anchor if self.is_added(cell) else twin.id, known + 1
                self.take(cell, twin, index, anchor)
            elif cell.source.strip() and not self.is_the_courses(cell):
                self.lonely(cell, index, anchor)
        if not known and old.cells:
            raise CourseError(
                f"{path} has no cell of this notebook of the course; move it away and run the same command again."
            )
        for number, cell, fault in self.homeless:  # now all others have their place
            self.move(number, cell, fault)
        new.cells = [*self.added[None], *(one for cell in new.cells for one in (cell, *self.added.get(cell.id, ())))]
        if self.unknown:
            self.left.append(
                f"the new edition does not have the texts of {self.unknown} cells, and nothing says who wrote them"
            )
        order = [number for cell in new.cells if (number := parts(cell).get("exercise")) in self.filled]
        self.told = dict(exercises=order, moved=self.moved, cells=self.cells, left=self.left)

    def is_the_courses(self, cell) -> bool:
        """Whether a cell has the text that the course gave it."""
        if "id" in cell:
            return self.record.get(cell.id) == text_hash(cell)
        return text_hash(cell) in self.record.values()

    def is_added(self, cell) -> bool:
        return bool(self.record) and "id" in cell and cell.id not in self.record

    def twin(self, cell):
        """The cell of the new edition that is this one, by its tag, its id or its text; None if there is none."""
        keys = (*parts(cell).items(), ("id", cell.get("id")), ("text", cell.cell_type, cell.source))
        if self.is_added(cell):  # a copy of a cell has its tag and its text; a copied stub may hold the solution
            keys = [key for key in keys if key[0] == "exercise"]
        return next((self.twins[key] for key in keys if key in self.twins), None)

    def take(self, cell, twin, index: int, anchor: str) -> None:
        """Put what the reader wrote into a cell of the course into the cell that the new edition has for it."""
        number = parts(twin).get("exercise")
        if cell.source == twin.source or self.is_the_courses(cell):
            return
        if number in self.filled:  # a second cell with the same tag, or one that was copied
            self.add(cell, anchor)
        elif number:
            fault = "its cell is no code cell" if cell.cell_type != "code" else misfit(cell.source, twin.source)
            if fault:
                self.homeless.append((number, cell, fault))
            else:
                twin.source = self.filled[number] = cell.source
        elif cell.get("id") in self.record and cell.id == twin.id and cell.cell_type == twin.cell_type:
            twin.source, self.cells = cell.source, self.cells + 1
            if "attachments" in cell:  # pictures in a text
                twin["attachments"] = cell["attachments"]
        elif cell.get("id") in self.record:
            self.left.append(f"{quoted(cell, index)}: you changed it, and so did the course")
        else:
            self.unknown += 1

    def lonely(self, cell, index: int, anchor: str | None) -> None:
        """Keep a cell of the reader's that the new edition does not have, or say why not."""
        number = parts(cell).get("exercise")
        if number and cell.cell_type == "code":
            self.homeless.append((number, cell, "the new edition has no such exercise"))
        elif cell.get("id") in self.record:
            self.left.append(f"{quoted(cell, index)}: you changed it, and the course changed or removed it")
        elif self.is_added(cell):
            self.add(cell, anchor)
        else:
            self.unknown += 1

    def move(self, number: str, cell, fault: str) -> None:
        """Put a solution into the only free exercise whose stub it fits: the course has renumbered it."""
        stubs = {key[1]: twin for key, twin in self.twins.items() if key[0] == "exercise" and key[1] not in self.filled}
        homes = [new for new, twin in stubs.items() if cell.cell_type == "code" and solves(cell.source, twin.source)]
        if len(homes) == 1:
            self.moved[number] = homes[0]
            stubs[homes[0]].source = self.filled[homes[0]] = cell.source
        else:
            self.left.append(f"exercise {number}: {fault}")

    def add(self, cell, anchor: str | None) -> None:
        cell = copy.deepcopy(cell)
        cell.metadata.pop("tags", None)  # a copy of a cell has its tags, too
        taken = {one.id for one in self.notebook.cells} | {one.id for cells in self.added.values() for one in cells}
        if "id" not in cell or cell.id in taken:
            cell.id = nbformat.v4.new_raw_cell().id
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        self.added.setdefault(anchor, []).append(cell)
        self.cells += 1


def quoted(cell, index: int) -> str:
    line = next(line.strip() for line in cell.source.splitlines() if line.strip()) if cell.source.strip() else ""
    return f"cell {index + 1} ({line[:50]!r})"


# ---------------------------------------------------------------- does a solution fit a stub?


def misfit(written: str, stub: str) -> str:
    """Why the reader's cell does not fit the stub of the new edition: the end of a sentence, or "" if it fits.

    It fits if it defines what the stub defines, with the same parameters, and has the stub's other lines. More
    parameters with defaults, other docstrings and annotations, and further functions do no harm. A cell that is
    not Python (unfinished, or with a magic of IPython) fits, because nobody can tell.
    """
    try:
        mine = ast.parse(written).body
    except (SyntaxError, ValueError, RecursionError):
        return ""
    return misfit_of(mine, ast.parse(stub).body, "")


def solves(written: str, stub: str) -> bool:
    """Whether a cell without a number is plainly a solution of this stub: it defines its functions, and fits."""
    try:
        ast.parse(written)
    except (SyntaxError, ValueError, RecursionError):
        return False
    named = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.parse(stub).body)
    return named and not misfit(written, stub)


def misfit_of(mine: list[ast.stmt], wanted: list[ast.stmt], of: str) -> str:
    have = {node.name: node for node in mine if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    others = [node for node in mine if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom))]
    assigned = {name for node in others for name in names_set_by(node)}
    lines = {ast.unparse(node) for node in mine}
    for node in wanted:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found = have.get(node.name)
            if found is None and node.name not in assigned:
                return f"the new stub defines {of}{node.name}, your cell does not"
            if isinstance(found, ast.FunctionDef) and isinstance(node, ast.FunctionDef):
                if not accepts(found.args, node.args):
                    return f"the new stub is {of}{signature(node)}, yours is {of}{signature(found)}"
                if "NotImplementedError" not in ast.unparse(node) and bare(found) != bare(node):
                    return f"{of}{node.name}, which the new stub gives, is not that of your cell"
            elif isinstance(found, ast.ClassDef) and isinstance(node, ast.ClassDef):
                if fault := misfit_of(found.body, node.body, f"{node.name}."):
                    return fault
            elif found is not None:
                return f"{of}{node.name} is a {'class' if isinstance(node, ast.ClassDef) else 'function'} now"
        elif not isinstance(node, (ast.Expr, ast.Pass)) and ast.unparse(node) not in lines:
            return f"the new stub has the line `{ast.unparse(node)}`, your cell has not"
    return ""


def names_set_by(node: ast.stmt) -> list[str]:
    """The names that an assignment or an import sets."""
    found = [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]
    return found + [alias.asname or alias.name for alias in getattr(node, "names", ())]


def accepts(mine: ast.arguments, wanted: ast.arguments) -> bool:
    """Whether every call of a function with the parameters `wanted` means the same for one with `mine`."""
    (positional, named), (asked, asked_named) = parameters(mine), parameters(wanted)
    return (
        positional[: len(asked)] == asked
        and asked_named.items() <= named.items()
        and all(default for _, default in positional[len(asked) :])
        and all(default for name, default in named.items() if name not in asked_named)
        and (mine.vararg is not None or wanted.vararg is None)
        and (mine.kwarg is not None or wanted.kwarg is None)
    )


def parameters(args: ast.arguments) -> tuple[list, dict]:
    """([(name, default)] of the positional parameters, {name: default} of the others); "" is no default."""
    positional = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    defaults = [""] * (len(positional) - len(args.defaults)) + [ast.unparse(value) for value in args.defaults]
    named = [value and ast.unparse(value) or "" for value in args.kw_defaults]
    return list(zip(positional, defaults)), {arg.arg: value for arg, value in zip(args.kwonlyargs, named)}


def signature(f: ast.FunctionDef) -> str:
    args = copy.deepcopy(f.args)
    for arg in ast.walk(args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    return f"{f.name}({ast.unparse(args)})"


def bare(f: ast.FunctionDef) -> list[str]:
    """The statements of a function, without its docstring."""
    body = f.body[1:] if ast.get_docstring(f) is not None else f.body
    return [ast.unparse(node) for node in body]
