"""Faults that somebody could commit: each is put into a copy of a real notebook, and exactly its gate turns red.

The faults stand in rows of (what is done to the notebook, what the gate says). Faults that only another run can tell
(a figure that was exchanged) are compared with the committed figures themselves, which is what nbval draws.
"""

import base64
import copy
import io
import json
import math
import re

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from vt_course import repo_root
from vt_course.lab import show
from vt_course.publish import figures, hygiene
from vt_course.publish.course import unlike
from vt_course.publish.source import from_source
from vt_course.publish.tags import alt, parts, tags

pytestmark = pytest.mark.slow

FOLDER = repo_root() / "notebooks"
LIMITS = json.loads((FOLDER / "limits.json").read_text(encoding="utf-8"))
PATHS = {path.stem[:2]: path for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))}
NOTEBOOKS = {
    number: nbformat.v4.reads(path.read_text(encoding="utf-8")) for number, path in PATHS.items() if number != "08"
}


def faults(number: str, edit) -> list[str]:
    """What the gates say about a copy of a notebook after `edit`."""
    nb = copy.deepcopy(NOTEBOOKS[number])
    edit(nb)
    return hygiene.all_problems(nb, PATHS[number])


def red(number: str, edit, message: str) -> None:
    found = faults(number, edit)
    assert found and all(re.search(message, text) for text in found), found


def drawn(nb) -> list:
    """The cells that show a figure."""
    return [cell for cell in nb.cells if figures.pictures(cell.get("outputs", []))]


def of(nb, exercise: str, part: str):
    return next(cell for cell in nb.cells if parts(cell).get(part) == exercise)


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_without_a_fault_no_gate_is_red(number):
    assert faults(number, lambda nb: None) == []


# ---------------------------------------------------------------- figures and their texts


def set_picture(cell, image: Image.Image) -> None:
    out = io.BytesIO()
    image.save(out, "png")
    output = next(output for output in cell.outputs if "image/png" in output.get("data", {}))
    output["data"]["image/png"] = base64.b64encode(out.getvalue()).decode()


def picture(cell) -> Image.Image:
    return Image.open(io.BytesIO(figures.pictures(cell.outputs)[0]))


def no_output(nb):
    drawn(nb)[3].outputs = []


def no_picture(nb):
    for output in drawn(nb)[3].outputs:
        output.get("data", {}).pop("image/png", None)


def another_picture(nb):
    drawn(nb)[3].outputs.append(drawn(nb)[5].outputs[0])


def in_a_cell_without_figure(nb):
    next(cell for cell in nb.cells if cell.cell_type == "code" and not tags(cell)).outputs = drawn(nb)[0].outputs


def text(change):
    def edit(nb):
        cells = drawn(nb)
        cells[3].metadata["mystnb"]["image"]["alt"] = change(*(alt(cell) for cell in cells[3:5]))

    return edit


def as_html(nb):
    for output in drawn(nb)[3].outputs:
        if png := output.get("data", {}).pop("image/png", None):
            output["data"]["text/html"] = f'<img src="data:image/png;base64,{png}">'


def no_text(nb):
    del drawn(nb)[3].metadata["mystnb"]


@pytest.mark.parametrize(
    "edit, message",
    [
        (no_output, "promises one figure and shows 0 pictures"),
        (no_picture, "promises one figure and shows 0 pictures"),
        (as_html, "shows a picture that is no PNG and no JPEG"),
        (another_picture, "promises one figure and shows 2 pictures"),
        (in_a_cell_without_figure, "shows a picture and has no alt text"),
        (no_text, "is tagged figure and has no alt text|shows a picture and has no alt text"),
        (text(lambda a, b: b), r"has the alt text of 04_video_swin, cell \d+"),
        (text(lambda a, b: "figure 4"), "is no sentence|has fewer than 8 words"),
        (text(lambda a, b: a.rstrip(".")), "is no sentence"),
        (text(lambda a, b: a[0].lower() + a[1:]), "is no sentence"),
        (text(lambda a, b: "A plot of the cost."), "has fewer than 8 words"),
    ],
)
def test_a_figure_is_there_and_has_a_text(edit, message):
    red("04", edit, message)


def test_the_picture_of_a_check_counts_as_a_figure():
    """The check in 00 draws what is wrong; its cell has no tag, only a text."""
    red("00", lambda nb: drawn(nb)[2].outputs.pop(), "promises one figure and shows 0 pictures")


def compared(nb) -> list[str]:
    """What nbval would say about the pictures of a notebook if it drew those that are committed."""
    committed = NOTEBOOKS["04"]
    return [text for cell, new in zip(drawn(nb), drawn(committed)) for text in figures.compare_cell(cell, new.outputs)]


def exchanged(a: int, b: int):
    def edit(nb):
        cells = drawn(nb)
        cells[a].outputs, cells[b].outputs = cells[b].outputs, cells[a].outputs

    return edit


def painted(cell: int, paint):
    def edit(nb):
        target = drawn(nb)[cell]
        image = picture(target).convert("RGB")
        set_picture(target, paint(image) or image)

    return edit


def blank(image):
    return Image.new("RGB", image.size, "white")


def box(*corners, fill="white"):
    """Paint over a rectangle; corners as shares of width and height."""

    def paint(image):
        x, y = image.size
        scaled = [corner * side for corner, side in zip(corners, (x, y, x, y))]
        ImageDraw.Draw(image).rectangle(scaled, fill=fill)

    return paint


def from_notebook(number: str, cell: int):
    return lambda image: picture(drawn(NOTEBOOKS[number])[cell]).convert("RGB")


@pytest.mark.parametrize(
    "edit, count",
    [
        (exchanged(7, 8), 2),  # two curves of the same size, with the same legend
        (exchanged(3, 4), 2),
        (painted(8, from_notebook("02", 8)), 1),  # curves of another notebook
        (painted(7, blank), 1),
        (painted(10, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), 1),
        (painted(2, lambda image: image.transpose(Image.Transpose.ROTATE_180)), 1),
        (painted(11, box(0.1, 0.55, 0.35, 0.95)), 1),  # two bars removed
        (painted(7, box(0.09, 0.1, 0.4, 0.2)), 1),  # the legend removed
        (painted(4, box(0.75, 0.05, 1.0, 0.5)), 1),  # one mask of eight removed
        (painted(0, lambda image: Image.merge("RGB", image.split()[::-1])), 1),  # other colours
    ],
)
def test_a_figure_that_is_not_what_the_notebook_draws(edit, count):
    nb = copy.deepcopy(NOTEBOOKS["04"])
    edit(nb)
    found = compared(nb)
    assert len(found) == count and all("pictures differ in" in text or "pixels" in text for text in found), found


def test_the_run_of_a_student_edition_must_draw_the_same_figures():
    committed, ran = NOTEBOOKS["00"], copy.deepcopy(NOTEBOOKS["00"])
    assert unlike(ran, committed, "00") == []
    painted(1, blank)(ran)
    (text,) = unlike(ran, committed, "00")
    assert re.match(r"00, unsolved, cell \d+ \(In \[8\]\): the pictures differ in", text)


def test_all_figures_of_the_course_differ_for_the_comparison():
    """No two of 03 and 04 are alike, although both draw windows, groups and masks."""
    shown = {
        f"{number}, {k}": figures.pictures(cell.outputs)[0]
        for number in ("03", "04")
        for k, cell in enumerate(drawn(NOTEBOOKS[number]))
    }
    names = list(shown)
    same = [
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if Image.open(io.BytesIO(shown[a])).size == Image.open(io.BytesIO(shown[b])).size
        and figures.unlike(shown[a], shown[b]) is None
    ]
    assert same == []


@pytest.mark.parametrize("broken", [b"", b"no picture", "cut", "flipped"])
def test_a_broken_picture(broken):
    whole = figures.pictures(drawn(NOTEBOOKS["04"])[0].outputs)[0]
    if isinstance(broken, str):
        broken = whole[:3000] if broken == "cut" else whole[:12] + b"\xff" * 30 + whole[42:]
    assert figures.unlike(broken, whole).startswith("the picture cannot be read")


def jpeg(image):
    out = io.BytesIO()
    image.save(out, "jpeg", quality=60)
    return Image.open(out).convert("RGB")


def moved(image):
    paper = Image.new("RGB", (image.width + 3, image.height + 3), "white")
    paper.paste(image, (2, 1))
    return paper


def other_rasteriser(image):
    """Edges without antialiasing: all that is not paper becomes ink or paper."""
    grey = np.asarray(image.convert("L").filter(ImageFilter.BoxBlur(1)), dtype=float)
    near = np.asarray(image, dtype=float)
    return Image.fromarray(np.where(grey[..., None] > 245, 255.0, near).astype(np.uint8))


@pytest.mark.parametrize("change", [jpeg, moved, other_rasteriser])
def test_another_rasteriser_changes_no_figure(change):
    nb = copy.deepcopy(NOTEBOOKS["04"])
    for cell in drawn(nb)[::3]:
        set_picture(cell, change(picture(cell).convert("RGB")))
    assert compared(nb) == []


def curves(y=100, title="A title of some words", label="window", more=()):
    series = {label: (10, 20, y, 200), "global": (10, 40, 160, 640), **dict(more)}
    x = [1, 2, 4, 8]
    return show.cost_curves({name: dict(x=x, y=list(ys)) for name, ys in series.items()}, "frames", "GMACs", title)


def bars(share=0.91):
    return show.ceilings({"in order": (share, 0.01), "shuffled": (0.19, 0.02)}, {"one frame": 0.125}, "Top-1")


def counts(wrong=0):
    matrix = 50 * np.eye(8, dtype=int)
    matrix[2, 2:4] += [-wrong, wrong]
    return show.confusion(matrix, list("abcdefgh"), "c")


@pytest.mark.parametrize(
    "draw, change, seen",
    [
        (curves, dict(y=160), True),
        (curves, dict(title=""), True),
        (curves, dict(more=[("third", (5, 6, 7, 8))]), True),
        (bars, dict(share=0.87), True),
        (counts, dict(wrong=20), True),
        (curves, dict(y=110), False),
        (curves, dict(title="B title of some wards"), False),
        (curves, dict(label="windaw"), False),
        (bars, dict(share=0.9), False),
        (counts, dict(wrong=5), False),
    ],
)
def test_what_the_comparison_sees_and_what_it_does_not(draw, change, seen):
    pngs = []
    for figure in (draw(), draw(**change)):
        out = io.BytesIO()
        figure.savefig(out, format="png", bbox_inches="tight")
        pngs.append(out.getvalue())
    assert (figures.unlike(*pngs) is not None) == seen


def test_an_animation_that_runs_backwards():
    cell = drawn(NOTEBOOKS["01"])[0]
    image, frames = picture(cell), []
    for number in range(image.n_frames):
        image.seek(number)
        frames.append(image.convert("RGB"))
    same, backwards = copy.deepcopy(cell), copy.deepcopy(cell)
    for target, order in ((same, frames), (backwards, frames[::-1])):
        out = io.BytesIO()
        order[0].save(out, "png", save_all=True, append_images=order[1:])
        target.outputs[0]["data"]["image/png"] = base64.b64encode(out.getvalue()).decode()
    assert figures.compare_cell(cell, same.outputs) == []
    assert len(figures.compare_cell(cell, backwards.outputs)) == 1
    still = copy.deepcopy(cell)
    set_picture(still, frames[0])
    assert "has 4 of 4 frames, the other 1" in figures.compare_cell(cell, still.outputs)[0]


# ---------------------------------------------------------------- exercises and their tags


def untag(*kinds):
    def edit(nb):
        for cell in nb.cells:
            if parts(cell).keys() & set(kinds) and "4.3" in parts(cell).values():
                cell.metadata["tags"] = []

    return edit


def renumber(nb):
    for cell in nb.cells:
        cell.metadata["tags"] = [tag.replace(":4.3", ":4.99") for tag in tags(cell)]


def without_heading(nb):
    for cell in nb.cells:
        cell.source = cell.source.replace("### Exercise 4.3", "### Another one")
    untag("exercise", "check", "hints", "solution")(nb)


@pytest.mark.parametrize(
    "edit, message",
    [
        (
            untag("exercise", "check", "hints", "solution"),
            "looks like (exercise|check|hints|solution) of an exercise|exercise 4.3 has a heading|did not pass"
            "|names exercise 4.3",
        ),
        (untag("hints"), "exercise 4.3 lacks a cell tagged hints:4.3|looks like hints of an exercise"),
        (renumber, "looks like|4.3 has a heading|exercise 4.99: cell|names exercise 4.3"),
        (without_heading, "looks like (exercise|check|hints|solution) of an exercise|names exercise 4.3"),
    ],
)
def test_tags_of_an_exercise(edit, message):
    red("04", edit, message)


def left(part: str, write):
    """Put what `write` makes of the lines of the solution's body into a cell."""

    def edit(nb):
        solution = of(nb, "3.1", "solution").source
        body = re.search(r'"""\n(.*?)\n\n\n', solution, re.DOTALL)[1].splitlines()
        cell = of(nb, "3.1", part)
        cell.source = write(cell.source, body)

    return edit


def in_comments(lines):
    return ["# " + line.strip() for line in lines]


def renamed(lines):
    names = {"x": "map_", "B": "n", "H": "rows", "W": "cols", "C": "c", "M": "side"}
    return [re.sub(r"(?<![.\w])([xBHWCM])\b(?!\()", lambda m: names[m[1]], line) for line in lines]


def docstring(nb):
    """A docstring that gives it away, in stub and solution alike."""
    body = of(nb, "3.1", "solution").source.splitlines()[2:6]
    for part in ("exercise", "solution"):
        cell = of(nb, "3.1", part)
        cell.source = cell.source.replace('."""', ".\n\n" + "\n".join(body) + '\n    """', 1)


def in_the_text(nb):
    left("hints", lambda text, body: "```\n" + "\n".join(body) + "\n```")(nb)
    cell, other = of(nb, "3.1", "hints"), next(cell for cell in nb.cells if "Exercise 3.1" in cell.source)
    other.source += "\n\n" + cell.source
    cell.source = of(NOTEBOOKS["03"], "3.1", "hints").source


ONE_STATEMENT = "exercise 3.1: after its docstring, window_partition of the stub must hold one statement"
# Window partition and its way back, exercise 3.2, are written alike: a trace of one is named for both.
REPEATS = r"exercise 3\.[12]: (its cell \w+:3\.1|cell \d+) repeats \d+% of the solution"


@pytest.mark.parametrize(
    "edit, message",
    [
        (left("exercise", lambda text, body: "\n".join([text, *body])), ONE_STATEMENT),
        (left("exercise", lambda text, body: text + "\n    return x"), ONE_STATEMENT),
        (
            left("exercise", lambda text, body: text.replace("    raise", "    if False:\n        pass\n    raise")),
            ONE_STATEMENT,
        ),
        (left("exercise", lambda text, body: "\n".join([*in_comments(body), text])), REPEATS),
        (left("exercise", lambda text, body: "\n".join([text, *in_comments(body)])), REPEATS),
        (left("check", lambda text, body: "\n".join([*in_comments(body), text])), REPEATS),
        (left("hints", lambda text, body: text + "\n```python\n" + "\n".join(body) + "\n```"), REPEATS),
        (left("hints", lambda text, body: text + "\n" + "\n".join(f"`{line.strip()}`" for line in body)), REPEATS),
        (left("hints", lambda text, body: text + "\n```\n" + "\n".join(renamed(body)) + "\n```"), REPEATS),
        (docstring, REPEATS),
        (in_the_text, REPEATS),
    ],
)
def test_no_solution_is_left(edit, message):
    red("03", edit, message)


# ---------------------------------------------------------------- tags


def tag(number_of_cell: int, *new):
    def edit(nb):
        nb.cells[number_of_cell].metadata["tags"] = list(new)

    return edit


def heading(nb, number: int):
    return next(cell for cell in nb.cells if cell.source.startswith(f"## {number} · "))


def level(number, *new):
    def edit(nb):
        heading(nb, number).metadata["tags"] = list(new)

    return edit


def join_sections(nb):
    cells = [heading(nb, number) for number in (1, 2)]
    cells[0].source += "\n\n" + cells[1].source
    nb.cells.remove(cells[1])


@pytest.mark.parametrize(
    "edit, message",
    [
        (tag(2, "figures"), "the tag 'figures' is not one of the course's; did you mean 'figure'"),
        (tag(2, "Core"), "the tag 'Core' is not .*; did you mean 'core'"),
        (tag(2, "deep_dive"), "did you mean 'deep-dive'"),
        (tag(2, "anwser"), "did you mean 'answer'"),
        (tag(2, "hint:4.3"), "did you mean 'hints:4.3'"),
        (tag(2, "solutions:4.3"), "did you mean 'solution:4.3'"),
        (tag(2, "claim"), "did you mean 'claim:NUMBER'"),
        (tag(2, "xyz"), "'xyz' is not one of the course's; there are parameters, definition"),
        (tag(2, "slide", "skip"), "carries slide and skip; one of them is enough"),
        (tag(2, "slide", "slide"), "carries a tag twice"),
        (tag(2, "measured"), "carries measured without figure"),
        (tag(2, "core"), "belong on the cell that begins with `## 1 · "),
        (level(5, "core", "deep-dive"), "carries core and deep-dive"),
        (level(5), "section 5 is neither core nor deep-dive"),
        (join_sections, "section 2 begins inside a cell"),
    ],
)
def test_tags(edit, message):
    red("04", edit, message)


def test_sections_of_03_and_04_are_core_or_deep_dives():
    cores = {
        number: [int(re.match(r"## (\d+)", cell.source)[1]) for cell in NOTEBOOKS[number].cells if "core" in tags(cell)]
        for number in ("03", "04")
    }
    assert cores == {"03": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "04": [3, 4, 5, 6, 9, 12]}


# ---------------------------------------------------------------- links and references


def write(markdown: str):
    def edit(nb):
        nb.cells[0].source += "\n\n" + markdown

    return edit


@pytest.mark.parametrize(
    "markdown, message",
    [
        ("![the windows](img/windows_9.png)", "link to img/windows_9.png is dead: there is no img/windows_9.png"),
        ('<img alt="x" src="img/none.png">', "link to img/none.png is dead"),
        ("![](img/windows_27.png)", r"the image !\[\]\(img/windows_27.png\) has no alt text"),
        ('<img src="img/windows_27.png" alt="">', "the image <img .* has no alt text"),
        ("[11](11_more.ipynb)", "link to 11_more.ipynb is dead"),
        ("[a][b]\n\n[b]: nowhere.md", "link to nowhere.md is dead"),
        ("[03](03_swin.ipynb#14-·-Nothing)", "nothing there has the heading '14-·-Nothing'"),
        ("[here](#5-·-The-trick)", "nothing there has the heading '5-·-The-trick'"),
        ("[token](glossary.md#tokken)", "nothing there has the heading 'tokken'"),
        ("[home](/x.png)", "leads to a place outside the checkout"),
        ("![pasted](attachment:x.png)", "leads to a place outside the checkout"),
        ("as section 13 shows", "names section 13, which does not exist"),
        ("sections 3, 4 and 14", "names section 14, which does not exist"),
        ("see notebook 03, section 14", "names section 14 of notebook 03, which does not exist"),
        ("Notebook 11 (section 2)", "names section 2 of notebook 11, which does not exist"),
        ("like exercise 4.99", "names exercise 4.99, which does not exist"),
        ("like exercise 9.9", "names exercise 9.9, which does not exist"),
    ],
)
def test_dead_links(markdown, message):
    red("04", write(markdown), message)


@pytest.mark.parametrize(
    "markdown",
    [
        "![windows](img/windows_27.png) [03](03_swin.ipynb#13-·-Is-the-shift-worth-it?-What-three-seeds-can-decide)",
        "[here](#12-·-Does-it-use-time?) [token](glossary.md#token) [web](https://arxiv.org/abs/2106.13230#x)",
        "section 12, sections 3 to 5; section 3.1 of the paper; notebook 03, section 13; exercise 3.6",
        "`[no](link.png)` and\n\n```\n[no](link.png), section 99\n```",
    ],
)
def test_links_that_lead_somewhere(markdown):
    assert faults("04", write(markdown)) == []


# ---------------------------------------------------------------- what is of one machine, and limits


def set_metadata(*keys, value):
    def edit(nb):
        place = nb.metadata
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (set_metadata("kernelspec", "display_name", value="py313"), "one machine: kernelspec.display_name is 'py313'"),
        (set_metadata("language_info", "version", value="3.11.7"), "one machine: language_info.version is '3.11.7'"),
        (set_metadata("language_info", "codemirror_mode", value={}), "one machine: language_info.codemirror_mode"),
        (set_metadata("kernelspec", "env", value={"A": "b"}), "one machine: kernelspec.env"),
        (set_metadata("widgets", value={"state": {}}), "one machine: widgets"),
        (lambda nb: nb.metadata.kernelspec.pop("display_name"), "one machine: kernelspec.display_name is None"),
    ],
)
def test_metadata_of_one_machine(edit, message):
    red("03", edit, message)


def with_wide_lines(n):
    """The first cell of code gets n lines that are too long."""

    def edit(nb):
        code = next(cell for cell in nb.cells if cell.cell_type == "code")
        code.source += n * ("\n# " + "a" * 80)

    return edit


def heavier(nb):
    noise = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    set_picture(drawn(nb)[0], Image.fromarray(noise))


@pytest.mark.parametrize(
    "edit, message",
    [
        (with_wide_lines(3), "3 code lines have more than 72 characters; at most 2 may"),
        (with_wide_lines(1), "only 1 code lines have .*; write this number into notebooks/limits.json"),
        (heavier, r"its figures take \d+ kB; at most \d+"),
    ],
)
def test_limits(edit, message):
    nb, stem = copy.deepcopy(NOTEBOOKS["04"]), PATHS["04"].stem
    assert hygiene.limit_problems(nb, stem, LIMITS) == []
    with_wide_lines(2)(nb)
    limits = {stem: {"figure_kb": math.ceil(figures.figure_bytes(nb) / 1000), "wide_lines": 2}}
    assert hygiene.limit_problems(nb, stem, limits) == []
    nb = copy.deepcopy(NOTEBOOKS["04"])
    edit(nb)
    found = hygiene.limit_problems(nb, stem, limits)
    assert any(re.search(message, text) for text in found), found


def test_a_new_notebook_has_no_wide_lines():
    nb = copy.deepcopy(NOTEBOOKS["04"])
    with_wide_lines(1)(nb)
    (text,) = hygiene.limit_problems(nb, "11_more", LIMITS)
    assert "1 code lines have more than 72 characters; at most 0 may" in text


def test_alt_texts_come_from_the_source():
    source = FOLDER / "src" / f"{PATHS['03'].stem}.py"
    built = [alt(cell) for cell in from_source(source).cells if alt(cell)]
    assert built == [alt(cell) for cell in drawn(NOTEBOOKS["03"])] and len(built) == 14
