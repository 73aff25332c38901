"""Slides -> one HTML page for reveal.js. It names no address: everything it needs lies in its own folder."""

from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from vt_course.lab.show.style import png_width
from vt_course.publish.slides.cut import cut_picture
from vt_course.publish.slides.deck import ROOM, Figure, Section, Slide, block_height, counted, sentence_height
from vt_course.publish.slides.markup import html, inline, plain

WIDTH, HEIGHT = 1280, 720
ENLARGED = 1.6  # a figure is enlarged at most so much beyond its own pixels
SHRUNK = 0.75  # a figure that would shrink below this is cut in parts if it can be
BESIDE = (800, 592)  # room for a figure beside its sentence
BELOW = 1200  # the width of the room below a sentence

CSS = Path(__file__).with_name("slides.css").read_text(encoding="utf-8")

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="reveal/reset.css">
<link rel="stylesheet" href="reveal/reveal.css">
<style>{css}</style>
</head>
<body>
<div class="reveal"><div class="slides">
{sections}
</div></div>
<script src="reveal/reveal.js"></script>
<script src="reveal/notes.js"></script>
<script>
// Formulas are set before reveal.js hides the slides that are not shown.
const begin = () => Reveal.initialize({{
  width: {width}, height: {height}, margin: 0, minScale: 0.1, maxScale: 4, center: false,
  hash: true, transition: "none", controls: false,
  slideNumber: "c/t", pdfSeparateFragments: false, pdfMaxPagesPerSlide: 1, plugins: [RevealNotes],
}});
Reveal.on("pdf-ready", () => {{ window.ready = true; }});  // laid out for printing
window.MathJax = {{
  tex: {{ inlineMath: [["\\\\(", "\\\\)"]], displayMath: [["\\\\[", "\\\\]"]] }},
  svg: {{ fontCache: "none" }},
  options: {{ enableMenu: false }},
  startup: {{ pageReady: () => MathJax.startup.defaultPageReady().then(begin) }},
}};
</script>
<script src="mathjax/tex-svg.js"></script>
</body>
</html>
"""


def page(sections: list[Section], folder: str) -> tuple[str, dict[str, bytes]]:
    """(the page, its pictures by name) of a deck. `folder`: the name of the folder in which its pictures will lie."""
    pictures: dict[str, bytes] = {}
    name = plain(sections[0].title)
    parts = []
    for section in sections:
        slides = [one for slide in section.slides for one in with_room(slide)]
        inner = "\n".join(section_html(slide, name, folder, pictures) for slide in slides)
        parts.append(f"<section>\n{inner}\n</section>")
    colours = HtmlFormatter(style="xcode").get_style_defs(".code")
    text = TEMPLATE.format(title=escape(name), css=CSS + colours, sections="\n".join(parts), width=WIDTH, height=HEIGHT)
    return text, pictures


def with_room(slide: Slide) -> list[Slide]:
    """The slide, or several if its figure is so tall that it would become too small, and can be cut."""
    made = [slide]
    for count in (2, 3, 4):
        if not slide.figure or min(fitted(one)[2] for one in made) >= SHRUNK:
            break
        if cut := cut_picture(slide.figure.png, count):
            made = [
                Slide(
                    "figure",
                    slide.title + counted(i, count),
                    slide.sentence,
                    figure=Figure(png, slide.figure.alt, slide.figure.width),
                    notes=slide.notes if i == 1 else [],
                )
                for i, png in enumerate(cut, start=1)
            ]
    return made


def fitted(slide: Slide) -> tuple[int, int, float, bool]:
    """(width, height, share of its own pixels, whether beside the sentence) at which a slide's figure is largest."""
    wide, high = png_width(slide.figure.png), int.from_bytes(slide.figure.png[20:24], "big")
    title = 40 * -(-len(plain(slide.title)) // 64) + 25
    below = (BELOW, HEIGHT - 26 - 44 - title - sentence_height(slide.sentence))
    most = max(ENLARGED, ENLARGED * slide.figure.width / wide)
    rooms = [(below, False)] + ([(BESIDE, True)] if slide.sentence else [])
    scale, beside = max((min(room[0] / wide, room[1] / high, most), beside) for room, beside in rooms)
    if beside and scale < 1.1 * min(below[0] / wide, below[1] / high):  # a little larger is not worth a narrow column
        scale, beside = min(below[0] / wide, below[1] / high, most), False
    return round(wide * scale), round(high * scale), scale, beside


def section_html(slide: Slide, name: str, folder: str, pictures: dict[str, bytes]) -> str:
    """A slide as a `<section>`; its picture is added to `pictures`."""
    foot = f'<div class="foot">{escape(name)}</div>'
    if slide.kind in ("title", "section"):
        level = "h1" if slide.kind == "title" else "h2"
        label = f'<p class="more">{escape(slide.label)}</p>' if slide.label else ""
        more = "".join(f'<p class="more">{inline(text)}</p>' for text in slide.texts)
        body = f"<{level}>{inline(slide.title)}</{level}><p>{inline(slide.sentence)}</p>{more}{label}"
        return wrapped_slide(slide, f'<div class="page big">{body}{foot if slide.kind != "title" else ""}</div>')
    label = f'<span class="label">{escape(slide.label)}</span>' if slide.label else ""
    head = f'<div class="head"><h2>{inline(slide.title)}</h2>{label}</div>'
    kind = "sentence meta" if slide.kind == "exercise" else "sentence"
    sentence = f'<p class="{kind}">{inline(slide.sentence)}</p>' if slide.sentence else ""
    if slide.figure:
        width, height, _, beside = fitted(slide)
        file = f"{folder}/figure-{len(pictures) + 1:02}.png"
        pictures[file] = slide.figure.png
        image = f'<img src="{file}" width="{width}" height="{height}" alt="{escape(slide.figure.alt)}">'
        figure = f'<div class="figure">{image}</div>'
        body = (
            f'<div class="body side">{figure}{sentence}</div>'
            if beside
            else f'{sentence}<div class="body">{figure}</div>'
        )
    elif slide.kind == "question":
        body = f'<div class="question"><p>{inline(slide.texts[0])}</p></div>'
    else:
        small = "" if slide.kind == "formula" else " small"
        parts = [
            f'<div class="{"formula" if text.startswith("$$") else "text"}">{html(text)}</div>' for text in slide.texts
        ]
        if slide.code:
            parts.append(f'<pre class="code" style="font-size: {type_size(slide)}px">{coloured(slide.code)}</pre>')
        if slide.output:
            parts.append(f'<pre class="output" style="font-size: {type_size(slide)}px">{escape(slide.output)}</pre>')
        body = f'{sentence}<div class="body{small}">{"".join(parts)}</div>'
    return wrapped_slide(slide, f'<div class="page">{head}{body}{foot}</div>')


def type_size(slide: Slide) -> int:
    """The pixels of the type of a slide's code and output: the largest of three that fits; 21 always does."""
    taken = sentence_height(slide.sentence) + sum(sentence_height(text) + 20 for text in slide.texts)
    widest = max(map(len, slide.code.split("\n")))
    for pixels in (28, 24):
        if widest * 0.602 * pixels <= BELOW - 40 and taken + block_height(slide.code, slide.output, pixels) <= ROOM:
            return pixels
    return 21


def wrapped_slide(slide: Slide, page: str) -> str:
    notes = "".join(html(note) for note in slide.notes)
    return f'<section data-kind="{slide.kind}">{page}<aside class="notes">{notes}</aside></section>'


def coloured(code: str) -> str:
    return highlight(code, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip("\n")


def index(decks: list[tuple[str, str]]) -> str:
    """The page that lists the decks: (file, title) of each."""
    rows = "\n".join(f'<li><a href="{file}">{escape(title)}</a></li>' for file, title in decks)
    style = "body { font: 24px/1.6 sans-serif; margin: 3em auto; max-width: 40em }"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Slides</title>\n<style>{style}</style>\n'
        f"<h1>Slides</h1>\n<ul>\n{rows}\n</ul>\n"
        "<p>Space goes on, Esc shows all slides, S opens the notes.</p>\n</html>\n"
    )
