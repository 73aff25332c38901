"""A notebook -> its slides, by rules that need no tags.

- A section (`## `) begins with a slide of its own: its title, its first sentence, its exercises.
- A figure has a slide, with the sentence that leads to it. So has a table, a formula that stands alone, a prediction
  ("**Predict**"), and an exercise, with its stub.
- Of the other code, sections for a second reading (`deep-dive`) show nothing. The others show witnesses (`definition`,
  `fast`, `oracle`, `claim`), classes, and short cells that print something, with what they print.
- No slide has more than 12 lines of code; longer code is cut between statements, over several slides.
- The summary and the questionnaire are lists.
- All other prose, all answers and all solutions are the speaker's notes.

The tags `slide`, `notes` and `skip` overrule this for a cell: its code stands on a slide, only in the notes, nowhere.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vt_course.lab.show.style import png_width
from vt_course.publish.slides.cut import MOST, cut_code
from vt_course.publish.slides.markup import blocks, items, plain, sentences
from vt_course.publish.tags import SECTION, alt, parts, tags

WITNESSES = ("definition", "fast", "oracle", "claim")
LONGEST = 240  # characters of the one sentence of a slide
WIDE = 98  # characters of a line of output that fit
LINES = 12  # lines of output on a slide
# Heights in pixels of a slide of 1280 × 720, as page.py sets the type; below the title and above the foot.
ROOM = 560
EXERCISE = re.compile(r"Exercise (\d+\.\d+) · ")
PREDICT = re.compile(r"\bpredict\b", re.IGNORECASE)


@dataclass
class Figure:
    png: bytes
    alt: str
    width: int  # pixels that a page gives to it


@dataclass
class Slide:
    """One slide. `sentence`, `texts` and `notes` are Markdown; `code` and `output` are text."""

    kind: str  # title, section, figure, table, formula, question, exercise, list, code
    title: str
    sentence: str = ""
    texts: list[str] = field(default_factory=list)
    figure: Figure | None = None
    code: str = ""
    output: str = ""
    label: str = ""  # a word at the right of the title
    notes: list[str] = field(default_factory=list)


@dataclass
class Section:
    """The slides below one heading; the first section holds the title and the goals."""

    title: str
    slides: list[Slide]


def deck(nb) -> list[Section]:
    """The slides of an executed notebook, by section."""
    maker = Maker()
    for index, cell in enumerate(nb.cells):
        if "skip" in tags(cell):
            continue
        if cell.cell_type == "markdown":
            maker.markdown(cell)
        elif cell.cell_type == "code":
            maker.code(cell, following(nb.cells, index))
    maker.close()
    for section in maker.sections:
        asked = dict.fromkeys(m[1] for slide in section.slides if (m := EXERCISE.match(slide.title)))
        if asked:
            section.slides[0].texts.append(f"Exercise{'s' if len(asked) > 1 else ''} {', '.join(asked)}")
    return maker.sections


def following(cells, index: int) -> str:
    """The first sentence of the text directly after a cell; "" if something else follows."""
    cell = cells[index + 1] if index + 1 < len(cells) else None
    if cell is None or cell.cell_type != "markdown" or {"answer", "notes", "skip"} & {*tags(cell)}:
        return ""
    first = (blocks(cell.source) or [None])[0]
    return "" if first is None or first.kind != "text" else (sentences(first.text) or [""])[0]


class Maker:
    def __init__(self):
        self.sections: list[Section] = []
        self.topic = ""  # the title of further slides
        self.shows = False  # whether this section shows code
        self.waiting: list[str] = []  # prose that belongs to the next slide
        self.said = ""  # its last paragraph
        self.last = ""  # the sentence of the slide before
        self.task: list = []  # blocks of the exercise whose stub comes next
        self.exercise: Slide | None = None

    # ------------------------------------------------------------ slides

    def add(self, slide: Slide) -> Slide:
        slide.notes = self.waiting + slide.notes
        self.waiting = []
        self.last = slide.sentence or self.last
        self.said = ""
        self.sections[-1].slides.append(slide)
        return slide

    def note(self, text: str) -> None:
        """A note to the slide that is shown now."""
        self.close()
        self.sections[-1].slides[-1].notes.append(text)

    def close(self) -> None:
        """What waits for a next slide goes to the last one."""
        if self.waiting and self.sections:
            self.sections[-1].slides[-1].notes += self.waiting
        self.waiting = []

    def sentence(self, otherwise: str = "") -> str:
        """The sentence that leads to the next slide: the last one before it that is short enough and not yet shown."""
        for text in (*sentences(self.said)[:-3:-1], otherwise):
            if text and len(plain(text)) <= LONGEST and text != self.last and not PREDICT.match(plain(text)):
                return text
        return ""

    # ------------------------------------------------------------ text

    def markdown(self, cell) -> None:
        if "hints" in parts(cell):
            return
        found = blocks(cell.source)
        if "answer" in tags(cell):
            self.note("**Answer.** " + "\n\n".join(block.text for block in found))
            return
        if "notes" in tags(cell):
            self.note("\n\n".join(block.text for block in found))
            return
        texts = [block for block in found if block.kind == "text"]
        if not self.sections:
            self.title(found)
            return
        self.level = tags(cell)
        before = self.sections[-1]
        begun = found[0].kind != "heading" and len(texts) > 1 and not self.waiting
        for block in found:
            if self.task and block.kind != "heading":
                self.task.append(block)
            elif block.kind == "heading":
                self.heading(block, found)
            elif block.kind == "text" and PREDICT.search(plain(block.text)) and "?" in block.text:
                self.question(block.text)
            elif block.kind == "text":
                # What a cell says before its last paragraph looks back at the slide before.
                if begun and block is not texts[-1]:
                    self.note(block.text)
                else:
                    self.waiting.append(block.text)
                    self.said = block.text
            elif block.kind == "formula":
                self.add(Slide("formula", self.topic, self.sentence(), [block.text]))
            elif block.kind == "table":
                self.table(block.text)
            elif block.kind == "list" and self.topic in ("Summary", "Questionnaire"):
                self.list(block.text)
            else:
                self.waiting.append(block.text)
        if self.sections[-1] is not before:
            self.close()

    def title(self, found) -> None:
        """The first cell of a notebook: its title, what it promises, what it needs, its goals."""
        heading = found[0].text
        promise = next(b.text for b in found if b.kind == "text" and not b.text.startswith("*"))
        self.sections.append(Section(heading, []))
        self.topic = heading
        self.add(Slide("title", heading, sentences(promise)[0]))
        for block in found[1:]:
            if block.kind == "list" and self.topic == "You will be able to":
                self.list(block.text)
            elif block.text == "**You will be able to**":
                self.topic = "You will be able to"
            elif block.kind != "heading":
                self.note(block.text)

    def heading(self, block, found) -> None:
        if EXERCISE.match(block.text):
            self.task = [block]
        elif block.level == 2:
            self.close()
            self.section(block.text, found)
        else:
            self.topic = block.text
            self.said = ""
            self.waiting.append(f"**{block.text}**")

    def section(self, title: str, found) -> None:
        self.sections.append(Section(title, []))
        self.topic = title
        second = "deep-dive" in self.level
        self.shows = bool(SECTION.match(f"## {title}")) and not second
        start = next(i for i, block in enumerate(found) if block.kind == "heading" and block.text == title)
        text = found[start + 1] if start + 1 < len(found) else None
        lead = sentences(text.text)[0] if text and text.kind == "text" else ""
        if PREDICT.search(plain(lead)) or len(plain(lead)) > LONGEST:
            lead = ""
        self.add(Slide("section", title, lead, label="second reading" if second else ""))

    def question(self, text: str) -> None:
        """A prediction: from the sentence that asks for it to the end of the paragraph, as far as it fits."""
        said = sentences(text)
        first = next(i for i, each in enumerate(said) if PREDICT.search(plain(each)))
        if not any("?" in each for each in said[first:]):  # the question stands before
            first = max(i for i, each in enumerate(said) if "?" in each)
            said = said[first:] + said[:first]
            first = 0
        shown = []
        for each in said[first:]:
            if shown and len(plain(" ".join([*shown, each]))) > 420:
                break
            shown.append(each)
        self.waiting.append(text)
        self.add(Slide("question", self.topic, texts=[" ".join(shown)], label="predict"))

    def table(self, text: str) -> None:
        head, rule, *rows = text.split("\n")
        for page, of, group in pages(rows, row_height, 380):
            title = self.topic + counted(page, of)
            sentence = self.sentence() if page == 1 else ""
            self.add(Slide("table", title, sentence, ["\n".join([head, rule, *group])]))

    def list(self, text: str) -> None:
        numbered = bool(re.match(r"\d", text))
        number = 1
        for page, of, group in pages(items(text), item_height, 530):
            marks = [f"{number + i}. " if numbered else "- " for i in range(len(group))]
            number += len(group)
            shown = "\n".join(mark + item for mark, item in zip(marks, group))
            self.add(Slide("list", self.topic + counted(page, of), texts=[shown]))

    # ------------------------------------------------------------ code

    def code(self, cell, after: str) -> None:
        mine, part = tags(cell), parts(cell)
        if len(self.sections) < 2 or "parameters" in mine or {"check", "hints"} & part.keys():
            return
        shown = text_of(cell.outputs)
        if "exercise" in part:
            self.stub(cell.source)
        elif "solution" in part:
            self.note(f"**Solution.**\n\n{fence(cell.source.rsplit(chr(10) * 2, 1)[0])}")
        elif "answer" in mine or "notes" in mine:
            self.note(whole(cell, shown))
        elif found := figures_of(cell):
            for figure in found:
                # An alt text is one sentence; of a long one, what stands before a colon is enough.
                seen = figure.alt if len(figure.alt) <= LONGEST else re.split("[;:]", figure.alt)[0] + "."
                self.add(Slide("figure", self.topic, self.sentence(after) or self.sentence(seen), figure=figure))
            self.note(whole(cell, shown))
        elif self.belongs_on_a_slide(cell, shown):
            self.pieces(cell, shown)
        else:
            self.waiting.append(whole(cell, shown))

    def belongs_on_a_slide(self, cell, shown: str) -> bool:
        mine = {tag.partition(":")[0] for tag in tags(cell)}
        if "slide" in mine or not self.shows:
            return "slide" in mine
        lines = cell.source.count("\n") + 1
        return bool(mine & {*WITNESSES} or re.search(r"^class ", cell.source, re.MULTILINE) or shown and lines <= MOST)

    def pieces(self, cell, shown: str) -> None:
        """A cell of code and what it prints: one slide, or several if it is long."""
        mine = {tag.partition(":")[0] for tag in tags(cell)}
        label = next((word for word in WITNESSES if word in mine), "")
        sentence, cut, output = self.sentence(), cut_code(cell.source), clipped(shown)
        taken = sentence_height(sentence if len(cut) == 1 else "")
        alone = bool(output) and taken + block_height(cut[-1], output) > ROOM
        count = len(cut) + alone
        for i, code in enumerate(cut, start=1):
            under = output if i == count else ""
            self.add(
                Slide(
                    "code",
                    self.topic + counted(i, count),
                    sentence if i == 1 else "",
                    code=code,
                    output=under,
                    label=label,
                )
            )
        if alone:
            self.add(Slide("code", self.topic + counted(count, count), output=output, label=label))
        if output != shown:
            self.note(fence(shown, "text"))

    def stub(self, code: str) -> None:
        """The slide of an exercise: what it asks for, as far as it fits, and its stub."""
        heading, *rest = self.task
        self.task = []
        meta = rest[0].text if rest and rest[0].text.startswith("Difficulty") else ""
        rest = rest[1:] if meta else rest
        shown, room = [], 330
        for block in rest:
            text = block.text
            if block.kind == "text":
                said = sentences(text)
                while said and len(plain(" ".join(said))) > room:
                    said.pop()
                text = " ".join(said)
            if not text or block.kind not in ("text", "formula") or len(plain(text)) > room:
                break
            shown.append(text)
            room -= len(plain(text)) + 60
            if room < 60:
                break
        self.waiting += [block.text for block in rest]
        cut = cut_code(code)
        for i, piece in enumerate(cut, start=1):
            first = i == 1
            title = heading.text + counted(i, len(cut))
            self.add(
                Slide("exercise", title, meta if first else "", shown if first else [], code=piece, label="exercise")
            )


# ---------------------------------------------------------------- outputs


def figures_of(cell) -> list[Figure]:
    """The pictures that a cell shows."""
    found = []
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            png = base64.b64decode(output["data"]["image/png"])
            width = output.metadata.get("image/png", {}).get("width", png_width(png))
            found.append(Figure(png, alt(cell) or "", width))
    return found


def text_of(outputs) -> str:
    """What a cell prints."""
    texts = [output.get("text", "") for output in outputs if output.output_type == "stream"]
    return "\n".join(line.rstrip() for line in "".join(texts).strip("\n").split("\n"))


def clipped(text: str) -> str:
    """As many lines of an output as fit on a slide; three dots stand for the others."""
    kept, rows = [], 0
    for line in text.split("\n"):
        rows += wrapped(line)
        if rows > LINES:
            return "\n".join([*kept, "…"])
        kept.append(line)
    return text


def fence(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```"


def whole(cell, shown: str) -> str:
    """A note: a cell of code, and what it prints."""
    return "\n\n".join([fence(cell.source), *([fence(shown, "text")] if shown else [])])


# ---------------------------------------------------------------- what fits


def wrapped(line: str, wide: int = WIDE) -> int:
    """The lines that a line of output takes."""
    return max(1, -(-len(line) // wide))


def block_height(code: str, output: str, pixels: int = 21) -> int:
    """The height of a block of code and one of output whose type is so many pixels large."""
    line, wide = 4 * pixels / 3, WIDE * 20 // pixels
    rows = (code.count("\n") + 1 if code else 0) + sum(wrapped(row, wide) for row in output.split("\n") if output)
    return round(rows * line) + 40 * (bool(code) + bool(output))


def sentence_height(sentence: str) -> int:
    return 36 * -(-len(plain(sentence)) // 82) + 16 if sentence else 0


def row_height(row: str) -> int:
    return 34 * -(-len(plain(row)) // 75) + 16


def item_height(item: str) -> int:
    return 35 * -(-len(plain(item)) // 80) + 14


def pages(things: list[str], height: Callable[[str], int], room: int) -> Iterator[tuple[int, int, list[str]]]:
    """(page, number of pages, things on it): as few pages as fit things into `room`, and these about equally full."""

    def filled(room: float) -> list[list[str]]:
        groups, used = [[]], 0
        for thing in things:
            if groups[-1] and used + height(thing) > room:
                groups.append([])
                used = 0
            groups[-1].append(thing)
            used += height(thing)
        return groups

    groups = filled(room)
    while room > 0 and len(even := filled(room)) == len(groups):
        groups, room = even, room - 10
    for number, group in enumerate(groups, start=1):
        yield number, len(groups), group


def counted(part: int, of: int) -> str:
    return f" ({part} of {of})" if of > 1 else ""
