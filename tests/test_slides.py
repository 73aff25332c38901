"""Slides: what the rules put on them, for every notebook, and that the result names no address.

How they look in a browser is tested in test_slides_in_chromium.py.
"""

import base64
import hashlib
import html
import re
import subprocess
import sys
import tempfile

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vt_course import CourseError, repo_root
from vt_course.cli import main, teaching
from vt_course.fetch import assets
from vt_course.publish import printing
from vt_course.publish.slides import slides
from vt_course.publish.slides.cut import MOST, _png, cut_code, cut_picture
from vt_course.publish.slides.deck import LONGEST, deck, pages
from vt_course.publish.slides.markup import html as as_html
from vt_course.publish.slides.markup import plain, sentences
from vt_course.publish.slides.page import page
from vt_course.publish.tags import parts, tags

FOLDER = repo_root() / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
FAKE = {
    inside: f"/* {inside} */".encode() for package in assets.PACKAGES for inside in package.files.values()
}  # of reveal.js and MathJax


# ---------------------------------------------------------------- every notebook


@each_notebook
def test_what_stands_on_the_slides_of_a_notebook(path):
    nb = nbformat.read(path, as_version=4)
    sections = deck(nb)
    made = [slide for section in sections for slide in section.slides]
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    headings = re.findall("^## (.*)$", text, re.MULTILINE)
    assert [section.title for section in sections[1:]] == headings and all(section.slides for section in sections)
    assert made[0].kind == "title" and made[1].kind == "list" and made[1].title.startswith("You will be able to")
    shown = [output for cell in nb.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert [slide.figure.png for slide in made if slide.figure] == [
        base64.b64decode(output["data"]["image/png"]) for output in shown
    ]
    assert [slide.figure.alt for slide in made if slide.figure and not slide.sentence] == []
    for slide in made:
        assert len(list(filter(None, slide.code.split("\n")))) <= MOST and len(plain(slide.sentence)) <= LONGEST
        assert (slide.kind in ("code", "exercise")) == bool(slide.code or slide.output)
    for cell in nb.cells:  # each exercise has a slide with its stub, whose notes hold the solution
        if number := parts(cell).get("exercise"):
            mine = [slide for slide in made if slide.title.startswith(f"Exercise {number} · ")]
            assert "\n".join(slide.code for slide in mine).replace("\n", "") in cell.source.replace("\n", "")
            assert "**Solution.**" in "".join(mine[-1].notes)
    questions = [cell for cell in nb.cells if "<summary>Answers" in cell.source and "answer" in tags(cell)]
    assert questions and "**Answer.**" in "".join(sections[-1].slides[-1].notes)


@each_notebook
def test_nothing_is_lost_and_nothing_given_away(path):
    """Every sentence of the notebook is on a slide or in the notes; no solution and no answer is on a slide."""
    nb = nbformat.read(path, as_version=4)
    made = [slide for section in deck(nb) for slide in section.slides]
    notes = "\n".join(note for slide in made for note in slide.notes)
    seen = "\n".join([*(f"{s.title}\n{s.sentence}\n{s.code}\n" + "\n".join(s.texts) for s in made)])
    flat = " ".join(seen.split())
    for cell in nb.cells:
        if cell.cell_type == "markdown" and "hints" not in parts(cell):
            for line in cell.source.splitlines():
                words = re.sub(r"^([#>*-]+|\d+\.|\|[ :|-]*\|) *", "", line).strip()
                if words and not words.startswith(("<", "You will be able to")):
                    assert any(words in text for text in (notes, seen, flat)), line
        if "solution" in parts(cell):
            body = cell.source.split('"""')[-1].rsplit("\n\n", 1)[0].strip("\n")
            assert body in notes and body not in seen
        elif "answer" in tags(cell) and cell.cell_type == "markdown":
            for said in re.findall("^[^<].{60,}", cell.source, re.MULTILINE):
                assert said not in seen


@each_notebook
def test_the_page_names_no_address_and_all_that_it_names_is_there(path):
    text, pictures = page(deck(nbformat.read(path, as_version=4)), path.stem)
    named = {html.unescape(name) for name in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", text)}
    assert named - pictures.keys() - FAKE.keys() == {"data:,"} and pictures.keys() <= named
    assert not re.search(r"url\(|@import", text)
    assert text.count("<section data-kind=") >= 20 and "<details" not in text
    assert not re.search(
        r"\[[^\]\n]*\]\(|\*\*|\x00", re.sub("<pre.*?</pre>|<code.*?</code>", "", text, flags=re.DOTALL)
    )


# ---------------------------------------------------------------- the rules


def toy(*cells):
    first = new_markdown_cell("# 42 · Toy\n\nIt promises. And more.\n\n**You will be able to**\n\n1. see (section 1);")
    return new_notebook(cells=[first, *cells])


def md(source, *tags):
    return new_markdown_cell(source, metadata={"tags": list(tags)})


def code(source, *tags, prints=""):
    outputs = [new_output("stream", name="stdout", text=prints)] if prints else []
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=outputs)


def kinds(nb) -> list[str]:
    return [slide.kind for section in deck(nb)[1:] for slide in section.slides]


def test_tags_overrule_the_rules():
    heading = md("## 1 · One\n\nFirst. Second.", "core")
    plain_code = "a = 1"
    assert kinds(toy(heading, code(plain_code))) == ["section"]  # prints nothing, defines no class
    assert kinds(toy(heading, code(plain_code, "slide"))) == ["section", "code"]
    assert kinds(toy(heading, code(plain_code, prints="1\n"))) == ["section", "code"]
    assert kinds(toy(heading, code(plain_code, "notes", prints="1\n"))) == ["section"]
    assert "a = 1" in "".join(deck(toy(heading, code(plain_code, "notes")))[1].slides[0].notes)
    skipped = deck(toy(heading, code(plain_code, "skip"), md("No.", "skip")))[1].slides
    assert [slide.kind for slide in skipped] == ["section"] and "No." not in str(skipped)
    second = md("## 1 · One\n\nFirst.", "deep-dive")
    assert kinds(toy(second, code("class A: pass", "definition"))) == ["section"]
    assert kinds(toy(second, code("class A: pass", "slide"))) == ["section", "code"]


def test_the_sentence_of_a_slide_is_the_one_that_leads_to_it():
    nb = toy(
        md("## 1 · One\n\nFirst.\n\nIt prints e.g. a 1. Here it is:"),
        code("a", prints="1"),
        md("That was it.\n\nAnother one."),
        code("b", prints="2"),
        md("**Predict.** What comes? Say it."),
        md("Two.", "answer"),
        md("It ends."),
    )
    section, a, b, question = deck(nb)[1].slides
    assert (section.sentence, a.sentence, b.sentence) == ("First.", "Here it is:", "Another one.")
    assert question.kind == "question" and question.texts == ["**Predict.** What comes? Say it."]
    assert a.notes == ["That was it."] and question.notes[1:] == ["**Answer.** Two.", "It ends."]


@pytest.mark.parametrize(
    "text, parts",
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("See e.g. Table 3. It says 1.5 of 2.", ["See e.g. Table 3.", "It says 1.5 of 2."]),
        ("`a. B` is code. $x. Y$ is not.", ["`a. B` is code.", "$x. Y$ is not."]),
        ("**Bold. Here** it ends.", ["Bold.", "Here it ends."]),
        ("Liu et al. Say so: in small letters.", ["Liu et al. Say so: in small letters."]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_markdown_becomes_html_without_addresses():
    text = as_html("A [link](https://example.org) ![image](https://example.org/x.png) $a<b$ <script src=x>")
    assert "https" not in text and "<script" not in text and r"\(a&lt;b\)" in text and "A link image" in text


@pytest.mark.parametrize("lines", [1, 12, 13, 30])
def test_code_is_cut_into_few_parts_without_a_loss(lines):
    source = "def f():\n" + "\n".join(f"    a{i} = {i}" for i in range(lines - 1)) if lines > 1 else "a = 1"
    cut = cut_code(source)
    assert "\n".join(cut) == source and len(cut) == -(-lines // MOST)
    assert max(part.count("\n") + 1 for part in cut) <= MOST


def test_code_is_cut_between_functions_and_not_behind_a_def():
    one = "def f():\n" + "\n".join(f"    a{i} = {i}" for i in range(8))
    two = "# a comment\n@wrap\ndef g():\n    return 1"
    assert cut_code(f"{one}\n\n\n{two}") == [one, two]
    assert len(cut_code("x = [\n" + "\n".join("    1," for _ in range(20)) + "\n]")) == 2
    body = "\n".join(f"    a{i} = {i}" for i in range(11))
    first, second = cut_code(f"b = 1\ndef f():\n{body}")
    assert first == "b = 1" and second.startswith("def f():\n    a0")


def test_a_tall_picture_is_cut_in_its_empty_rows_and_only_there():
    from PIL import Image

    rows = np.full((90, 10, 3), 255, np.uint8)
    for top in (2, 32, 62):
        rows[top : top + 26, 2:8] = np.arange(26)[:, None, None]
        rows[top : top + 26, 3] = 200
    three = cut_picture(_png(Image.fromarray(rows)), 3)
    heights = [int.from_bytes(png[20:24], "big") for png in three]
    assert sum(heights) == 90 and all(28 <= height <= 32 for height in heights)
    rows[:, 4] = 0
    assert cut_picture(_png(Image.fromarray(rows)), 2) == []


def test_pages_are_few_and_about_equally_full():
    assert [len(group) for *_, group in pages(list("abcdef"), lambda _: 10, 50)] == [3, 3]
    assert list(pages(["a"], lambda _: 99, 50)) == [(1, 1, ["a"])]


# ---------------------------------------------------------------- the command


def test_the_command_with_default_arguments(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(assets, "assets", lambda progress: FAKE)
    printed = []
    monkeypatch.setattr(printing, "print_pdf", lambda *args, **settings: printed.append((args, settings)))
    assert main(["slides", "0", "--out", str(tmp_path), "--pdf"]) == 0
    out, err = capsys.readouterr()
    head, row = out.splitlines()
    assert head.split() == ["notebook", "slides", "figures", "page", "PDF"] and err == ""
    name, count, figures, file, pdf = row.split()
    assert (name, file, pdf) == ("00_start_here", str(tmp_path / f"{name}.html"), str(tmp_path / f"{name}.pdf"))
    assert printed == [((tmp_path / f"{name}.html", tmp_path / f"{name}.pdf", int(count)), dict(query="print-pdf"))]
    there = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert FAKE.keys() | {"index.html", f"{name}.html", f"{name}/figure-{int(figures):02}.png"} <= there
    assert "https" not in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name the notebooks whose slides you want"),
        (["03", "--all"], "name the notebooks whose slides you want"),
        (["77"], "There is no notebook '77'; choose from 00_start_here"),
        (["00", "--out", str(FOLDER / "x")], "lies inside notebooks/"),
    ],
)
def test_what_it_refuses(words, message, monkeypatch, capsys):
    monkeypatch.setattr(assets, "assets", lambda progress: FAKE)
    assert main(["slides", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_without_a_browser_nothing_is_printed(monkeypatch, tmp_path):
    monkeypatch.setattr(printing.shutil, "which", lambda name: None)
    (tmp_path / "a.pdf").write_bytes(b"old")
    with pytest.raises(CourseError, match="none is installed; install one"):
        printing.print_pdf(tmp_path / "a.html", tmp_path / "a.pdf", 1)
    assert (tmp_path / "a.pdf").read_bytes() == b"old"


OPENS_NO_DOOR = "import sys; sys.exit(3)"
DOOR_WITHOUT_A_SERVER = """
import pathlib, sys, time
pathlib.Path(sys.argv[1], "DevToolsActivePort").write_text("1\\n/devtools")
time.sleep(60)
"""


@pytest.mark.parametrize(
    "script, why",
    [(OPENS_NO_DOOR, "Chromium ended with 3"), (DOOR_WITHOUT_A_SERVER, "the connection to Chromium broke: ")],
)
def test_a_browser_that_does_not_start_is_one_sentence_and_leaves_nothing(script, why, monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(printing, "chromium_command", lambda profile, *_: [sys.executable, "-c", script, str(profile)])
    monkeypatch.setattr(
        printing.subprocess, "Popen", lambda *args, **how: started.append(popen(*args, **how)) or started[0]
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(CourseError, match=f"a.html could not be printed .{why}.*; try again, or another browser"):
        printing.print_pdf(tmp_path / "a.html", tmp_path / "a.pdf", 1)
    assert started[0].poll() is not None and list(tmp_path.iterdir()) == []


def test_without_the_package_that_talks_to_it_one_sentence_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(assets, "assets", lambda progress: FAKE)
    monkeypatch.setattr(teaching.importlib.util, "find_spec", lambda name: None)
    assert main(["slides", "0", "--out", str(tmp_path), "--pdf"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "printing needs the package websocket-client" in err and err.count("\n") == 1


# ---------------------------------------------------------------- reveal.js and MathJax


def package(tmp_path, files) -> assets.Package:
    """A small package of npm in a folder, as if somebody had put it there by hand."""
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    (tmp_path / "toy-1.0.tgz").write_bytes(data.getvalue())
    sha512 = base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode()
    return assets.Package("toy", "1.0", len(data.getvalue()), sha512, {"dist/a.js": "toy/a.js"})


def test_a_package_put_there_by_hand_is_as_good(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "PACKAGES", [package(tmp_path, {"dist/a.js": b"a", "dist/b.js": b"b"})])
    assert assets.assets(tmp_path) == {"toy/a.js": b"a"}


def test_other_bytes_are_refused_and_deleted(tmp_path, monkeypatch):
    wanted = package(tmp_path, {"dist/a.js": b"a"})
    monkeypatch.setattr(assets, "PACKAGES", [wanted])
    data = bytearray((tmp_path / wanted.file).read_bytes())
    data[-1] ^= 1
    (tmp_path / wanted.file).write_bytes(data)
    with pytest.raises(CourseError, match="has not the sha512 that npm states for toy-1.0.tgz, so it was deleted"):
        assets.assets(tmp_path)
    assert not (tmp_path / wanted.file).exists()


def test_a_package_without_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "PACKAGES", [package(tmp_path, {"dist/b.js": b"b"})])
    with pytest.raises(CourseError, match="lacks toy/a.js; delete it"):
        assets.assets(tmp_path)


def test_without_a_network_one_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(assets, "REGISTRY", "http://127.0.0.1:1")
    monkeypatch.setattr(assets, "cache_folder", lambda: tmp_path)
    assert main(["slides", "00"]) == 2
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1
        and "seems to be offline; download http://127.0.0.1:1/reveal.js/-/reveal.js-6.0.2.tgz" in err
    )
    assert f"put it at {tmp_path / 'reveal.js-6.0.2.tgz'} and run the same command again" in err


def test_an_older_edition_leaves_no_pictures(tmp_path):
    (tmp_path / "00_start_here").mkdir()
    (tmp_path / "00_start_here" / "figure-99.png").touch()
    slides(["00"], {}, out=tmp_path)
    assert not (tmp_path / "00_start_here" / "figure-99.png").exists()
