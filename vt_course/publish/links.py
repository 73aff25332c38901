"""Links and references of notebooks and of markdown files: each must lead somewhere.

Checked are links and images to files of the checkout, with their anchors, and what the text names without a link:
"section 7", "notebook 04, section 9", "exercise 4.3". An image also needs a text that stands for it. Addresses in the
web are not asked. A number with a dot, such as "section 3.1", is one of a paper. A paper's "section 3" cannot be told
from the notebook's own section 3.
"""

import re
from pathlib import Path
from urllib.parse import unquote

import nbformat

from vt_course.publish.tags import exercises

TARGET = re.compile(
    r"\[[^\]]*\]\(\s*<?([^)\s>]+)"  # [text](target), ![alt](target)
    r"|<(?:a|img)\b[^>]*?\b(?:href|src)\s*=\s*[\"']([^\"']+)"
    r"|^\[[^\]]+\]:\s*(\S+)",  # [name]: target
    re.MULTILINE,
)
SECTION = re.compile(r"(?:[Nn]otebook (\d\d)[,:]? \(?)?\bsections? (\d+(?:(?:, | and | to | or )\d+)*)(?!\.?\d)")
EXERCISE = re.compile(r"\bexercises? (\d+\.\d+)")


def problems(path: Path, nb=None) -> list[str]:
    """Dead links and references of a notebook or markdown file at `path`: one sentence for each.

    nb: the notebook, if it shall not be read from the file. Notebooks that are named are looked for beside the file
    and in notebooks/ beside the file or its folder.
    """
    if path.suffix == ".ipynb":
        nb = nb or _notebook(path)
        texts = [prose(cell.source) for cell in nb.cells if cell.cell_type == "markdown"]
        return _dead_links(path, texts, _anchors(nb)) + _dead_references(path, texts, nb)
    texts = [prose(path.read_text(encoding="utf-8"))]
    return _dead_links(path, texts, anchors(path)) + _dead_references(path, texts, None)


def prose(markdown: str) -> str:
    """Markdown without its code and formulas."""
    return re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$", " ", markdown, flags=re.DOTALL)


def _dead_links(path: Path, texts: list[str], own: set[str]) -> list[str]:
    """own: the anchors of the file itself."""
    bare = [image for text in texts for image in re.findall(r"!\[\s*\]\([^)]*\)|<img(?![^>]*\balt=.\w)[^>]*>", text)]
    found = [f"{path.stem}: the image {image} has no alt text." for image in bare]
    for target in [next(filter(None, match)) for text in texts for match in TARGET.findall(text)]:
        if re.match(r"(?:https?|mailto):", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = path.parent / name
        where = f"{path.stem}: the link to {target}"
        if re.match(r"\w+:|/", target):
            found.append(f"{where} leads to a place outside the checkout.")
        elif name and not file.exists():
            found.append(f"{where} is dead: there is no {name}.")
        elif anchor and anchor not in (anchors(file) if name else own):
            found.append(f"{where} is dead: nothing there has the heading {anchor!r}.")
    return found


def _dead_references(path: Path, texts: list[str], nb) -> list[str]:
    """nb: the notebook that "section 7" means; None: such references are not checked."""
    found = []
    for text in texts:
        for number, sections in SECTION.findall(text):
            there, of = _named(path, nb, number) if number else (nb, "")
            for section in re.findall(r"\d+", sections) if there or number else ():
                if not there or int(section) not in _sections(there):
                    found.append(f"{path.stem}: names section {section}{of}, which does not exist.")
        for exercise in EXERCISE.findall(text):
            there, _ = _named(path, nb, f"{int(exercise.partition('.')[0]):02}")
            if not there or exercise not in exercises(there):
                found.append(f"{path.stem}: names exercise {exercise}, which does not exist.")
    return found


def _named(path: Path, nb, number: str):
    """(the notebook of that number or None, words that name it)."""
    if path.name.startswith(f"{number}_"):
        return nb, ""
    files = [
        file
        for folder in (".", "notebooks", "../notebooks")
        for file in (path.parent / folder).glob(f"{number}_*.ipynb")
    ]
    return (_notebook(files[0]) if files else None), f" of notebook {number}"


def anchors(file: Path) -> set[str]:
    """The anchors of a notebook or markdown file; none for other files."""
    if file.suffix == ".ipynb":
        return _anchors(_notebook(file))
    if file.suffix == ".md":
        return {_slug(heading) for heading in headings(file.read_text(encoding="utf-8"))}
    return set()


def headings(markdown: str) -> list[str]:
    return re.findall(r"^#+ +(.+?) *$", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL), re.MULTILINE)


def _anchors(nb) -> set[str]:
    """JupyterLab makes anchors of a notebook from headings, with hyphens for spaces."""
    return {
        heading.replace(" ", "-")
        for cell in nb.cells
        if cell.cell_type == "markdown"
        for heading in headings(cell.source)
    }


def _slug(heading: str) -> str:
    """GitHub makes anchors of a markdown file from headings: small letters, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _sections(nb) -> set[int]:
    cells = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    return {int(number) for text in cells for number in re.findall(r"^## (\d+) · ", text, re.MULTILINE)}


def _notebook(path: Path):
    return nbformat.v4.reads(path.read_text(encoding="utf-8"))
