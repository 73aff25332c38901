"""Figures of notebooks: one in each cell that promises one, with a text for who cannot see it, and as drawn before.

Whether a committed figure is still the one that the notebook draws is decided when the notebook is run again (stage
`outputs` of `vt-course test`; stage `unsolved` for the student edition). The witness is the figure that is drawn then:
no file could vouch for the committed picture, because whoever replaces the picture can replace the file. Both pictures
are reduced to 64 × 64 cells of mean colour; `unlike` says what the comparison can and cannot see.
"""

import base64
import io
import re

import numpy as np
from PIL import Image

from vt_course.lab.show.style import page_size, png_width
from vt_course.publish.tags import alt, tags

GRID = 64  # cells a side
COLOUR = 64  # of 255: the difference of a cell that counts
CELLS = 4  # so many of the 4096 cells may differ
FRAMES = 4  # of an animation
SIDE = 0.1  # sides may differ by this share


def pictures(outputs) -> list[bytes]:
    """The PNG and JPEG images among the outputs of a cell."""
    return [
        base64.b64decode(output["data"][kind])
        for output in outputs
        for kind in ("image/png", "image/jpeg")
        if kind in _data(output)
    ]


def _data(output) -> dict:
    return output.get("data", {})


def figure_bytes(nb) -> int:
    return sum(len(picture) for cell in nb.cells for picture in pictures(cell.get("outputs", [])))


def keep_sizes(nb) -> None:
    """Let every PNG of a notebook say how wide a page shows it, also on a phone (`page_size`)."""
    for output, size in sizes(nb):
        output.metadata["image/png"] = size


def without_size(nb) -> int:
    """The number of PNGs of which a notebook does not say this."""
    return sum(output.metadata.get("image/png") != size for output, size in sizes(nb))


def sizes(nb) -> list[tuple]:
    """(output, the size that a page should give it) of every PNG. One that is shown at another width keeps that."""
    found = []
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if "image/png" in _data(output):
            pixels = png_width(base64.b64decode(output["data"]["image/png"]))
            found.append((output, page_size(output.metadata.get("image/png", {}).get("width", pixels))))
    return found


# ---------------------------------------------------------------- the text for who cannot see it


def alt_problems(text: str) -> list[str]:
    """Why a text is no sentence that says what is seen."""
    found = []
    if not (re.match(r"[A-Z0-9]", text) and text.endswith(".")):
        found.append(f"the alt text {text[:40]!r} is no sentence: begin with a capital letter, end with a full stop.")
    if len(text.split()) < 8:
        found.append(f"the alt text {text[:40]!r} has fewer than 8 words; say what is seen.")
    if "\n" in text:
        found.append(f"the alt text {text[:40]!r} has more than one line.")
    return found


def source_problems(cell) -> list[str]:
    """What is wrong with the promise of a figure, before the cell is executed."""
    text = alt(cell)
    if text is None:
        return ['is tagged figure and has no alt text; write alt="..." on its first line.'] if _promised(cell) else []
    return alt_problems(text)


def run_problems(cell) -> list[str]:
    """What is wrong with the pictures that a cell has drawn."""
    outputs = cell.get("outputs", [])
    other = [f"{data.get('text/html', '')}{data.get('image/svg+xml', '')}" for data in map(_data, outputs)]
    if any(re.search("<(img|svg|video)", text) for text in other):
        return ["shows a picture that is no PNG and no JPEG; only these are compared."]
    count = len(pictures(outputs))
    if count and alt(cell) is None:
        return ['shows a picture and has no alt text; write alt="..." on its first line.']
    if (_promised(cell) or alt(cell) is not None) and count != 1:
        return [f"promises one figure and shows {count} pictures."]
    return []


def same_text(cells) -> list[str]:
    """Sentences on alt texts that stand for more than one figure. cells: (name of the cell, cell)."""
    seen, found = {}, []
    for name, cell in cells:
        if text := alt(cell):
            if text in seen:
                found.append(f"{name}: has the alt text of {seen[text]}: {text[:40]!r}.")
            seen.setdefault(text, name)
    return found


def _promised(cell) -> bool:
    return "figure" in tags(cell)


# ---------------------------------------------------------------- the same figure, drawn again


def unlike(committed: bytes, drawn: bytes) -> str | None:
    """How two pictures differ, as a sentence; None if they show the same as far as this comparison can see.

    It sees: another size or number of frames; a picture that was replaced or exchanged with another of the course; a
    panel, a curve, bars, a legend or a title that came or went; a bar whose end moved by a thirtieth of the width, a
    point of a curve that moved by a tenth of the height; a colour that changed by a quarter of its range.
    It does not see: fonts, hinting and antialiasing, and edges that moved by a few pixels, so pictures from another
    rasteriser pass; but also a wrong digit, a title or label of the same length, a smaller move of a point or change of
    a colour. Two figures that differ only in small numbers count as the same (the maps of groups in 03 and 04 are such
    a pair). Of an animation it sees four frames.
    """
    if committed == drawn:
        return None
    try:
        a, b = _frames(committed), _frames(drawn)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # of a broken picture
        return f"the picture cannot be read: {error}"
    if len(a) != len(b):
        return f"one of the pictures has {len(a)} of {FRAMES} frames, the other {len(b)}"
    if any(abs(x / y - 1) > SIDE for x, y in zip(a[0].size, b[0].size)):
        return "the committed picture has {} × {} pixels, the new one {} × {}".format(*a[0].size, *b[0].size)
    cells = max(int((_difference(_reduced(x), _reduced(y)) > COLOUR).sum()) for x, y in zip(a, b))
    if cells > CELLS:
        return f"the pictures differ in {cells} of {GRID**2} cells (at most {CELLS} may)"
    return None


def _frames(picture: bytes) -> list[Image.Image]:
    with Image.open(io.BytesIO(picture)) as image:
        count, frames = getattr(image, "n_frames", 1), []
        for number in sorted({k * count // FRAMES for k in range(FRAMES)}):
            image.seek(number)
            frame = image.convert("RGBA")
            paper = Image.new("RGBA", frame.size, "white")
            paper.alpha_composite(frame)
            frames.append(paper.convert("RGB"))
    return frames


def _reduced(image: Image.Image) -> np.ndarray:
    """(GRID, GRID, 3): the mean colours."""
    return np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX), dtype=float)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(GRID, GRID): by how much a cell of one lies outside of what the other has there and in the cells around it."""
    outside = []
    for one, other in ((a, b), (b, a)):
        padded = np.pad(other, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = [padded[i : i + GRID, j : j + GRID] for i in range(3) for j in range(3)]
        outside.append(np.maximum(one - np.max(around, axis=0), np.min(around, axis=0) - one))
    return np.maximum(*outside).max(axis=-1)


def compare_cell(cell, outputs) -> list[str]:
    """How the pictures of a run differ from those of the committed cell: one sentence for each."""
    committed, drawn = pictures(cell.get("outputs", [])), pictures(outputs)
    if len(committed) != len(drawn):
        return [f"the committed cell shows {len(committed)} pictures, the new run {len(drawn)}"]
    if "measured" in tags(cell):  # then it never is the same
        return []
    return [text for pair in zip(committed, drawn) if (text := unlike(*pair))]


def pytest_itemcollected(item) -> None:
    """pytest's hook: let the cells of nbval, which ignores pictures, compare them, too."""
    if not hasattr(item, "cell"):
        return
    of_nbval = item.compare_outputs

    def compare_outputs(test, ref, skip_compare=None) -> bool:
        same = of_nbval(test, ref, skip_compare)
        texts = compare_cell(item.cell, test)
        item.comparison_traceback += [f"figures: {text}" for text in texts]
        return same and not texts

    item.compare_outputs = compare_outputs
