"""Sheets of paper (A4) for a class: a lab sheet for each notebook, and a handout of two pages on Swin."""

import re
from functools import cache
from html import escape
from pathlib import Path

import torch

from vt_course import repo_root
from vt_course.models import create
from vt_course.models.cost import count_macs, count_parameters
from vt_course.publish.slides import put
from vt_course.publish.slides.markup import html, inline
from vt_course.publish.student import out_folder
from vt_course.publish.teaching.outline import Outline
from vt_course.publish.teaching.pages import outlines

CSS = Path(__file__).with_name("sheets.css").read_text(encoding="utf-8")
HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><link rel="icon" href="data:,"><style>{css}</style>
<script>window.MathJax = {{ svg: {{ fontCache: "none" }}, options: {{ enableMenu: false }},
  startup: {{ pageReady: () => MathJax.startup.defaultPageReady().then(() => {{ window.ready = true }}) }} }}</script>
<script src="mathjax/tex-svg.js"></script></head><body>
"""
FORMULAS = (
    ("Attention in a window (equation 4)", r"\mathrm{SoftMax}\!\left(QK^\top/\sqrt d + B\right)V"),
    (
        "Two blocks in a row (equation 3)",
        r"\hat z = \text{(S)W-MSA}(\mathrm{LN}(z)) + z, \qquad z' = \mathrm{MLP}(\mathrm{LN}(\hat z)) + \hat z",
    ),
    ("Cost, all tokens (equation 1)", r"\Omega(\text{MSA}) = 4hwC^2 + 2(hw)^2C"),
    ("Cost, windows (equation 2)", r"\Omega(\text{W-MSA}) = 4hwC^2 + 2M^2hwC"),
)
TERMS = (
    "window",
    "shifted window",
    "cyclic shift",
    "mask",
    "relative position bias",
    "bias table",
    "patch merging",
    "stage",
)
VARIANTS = ("swin_tiny", "swin_small", "swin_base", "swin_large")


def handouts(
    names: list[str] | None, assets: dict[str, bytes], *, out: Path | None = None, root: Path | None = None
) -> list[dict]:
    """Write the sheets of notebooks to `out` (build/handout of `own_root`), as pages to print. The handout on Swin
    belongs to 03.

    Returns a row for each sheet: notebook, sheet, pages of paper (None: as many as it needs), output. Raises
    CourseError for an unknown name, for an `out` inside notebooks/, and for a full disk.
    """
    root = root or repo_root()
    out = out_folder(out, "handout", root)
    rows = []
    for name, data in assets.items():
        if name.startswith("mathjax/"):
            put(out / name, data)
    for plan in outlines(root, names):
        sheets = {f"lab_{plan.stem}": ("lab sheet", None, lab_sheet(plan))}
        if plan.stem == "03_swin":
            text, pictures = swin_handout(plan, root)
            sheets["swin_two_pages"] = ("two pages on Swin", 2, text)
            for name, data in pictures.items():
                put(out / name, data)
        for name, (what, pages, text) in sheets.items():
            put(out / f"{name}.html", text.encode())
            rows.append(dict(notebook=plan.stem, sheet=what, pages=pages, output=str(out / f"{name}.html")))
    return rows


def lab_sheet(plan: Outline) -> str:
    """What a student fills in beside the notebook: predictions, exercises, and which goals are reached."""
    text = HEAD.format(title=escape(f"Lab sheet: {plan.title}"), css=CSS)
    text += (
        f'<div class="sheet"><h1>{inline(plan.title)}</h1><p>Name: ______________________ &nbsp; Date: ____________</p>'
    )
    text += '<h2>Before: I will be able to …</h2><ul class="boxes">'
    text += "".join(f"<li>{inline(goal)}</li>" for goal in plan.goals) + "</ul>"
    if plan.predictions:
        text += "<h2>Predictions</h2><p>Write a guess before you run the cell.</p><ol>"
        for section, question in plan.predictions:
            where = f' <span class="small">(section {section})</span>' if section else ""
            text += f'<li>{inline(question)}{where}<div class="line"></div></li>'
        text += "</ol>"
    text += "<h2>Exercises</h2><table><tr><th>exercise</th><th>difficulty</th><th>minutes</th><th>passed</th>"
    text += "<th>what went wrong first</th></tr>"
    for one in plan.exercises:
        cells = (f"{one.number} · {one.title}", f"{one.difficulty} of 5", str(one.minutes), "☐", "")
        text += "<tr>" + "".join(f"<td>{inline(cell)}</td>" for cell in cells) + "</tr>"
    text += "</table><h2>After: questionnaire</h2><ol>"
    text += "".join(f'<li>{inline(question)}<div class="line"></div></li>' for question in plan.questions)
    return text + "</ol></div></body></html>\n"


def swin_handout(plan: Outline, root: Path) -> tuple[str, dict[str, bytes]]:
    """(page, its pictures) of the handout: shapes, roll and mask, formulas, sizes, terms."""
    shapes = "".join(
        row_of(i, c, f"{h} × {w}", f"{h // 7} × {w // 7}", heads, blocks)
        for i, (c, h, w, heads, blocks) in enumerate(swin_shapes(), start=1)
    )
    roll, mask = (figure_of(plan, words) for words in ("before and after a roll", "Four masks"))
    formulas = "".join(f"<p>{escape(name)}</p><p>\\[{escape(tex)}\\]</p>" for name, tex in FORMULAS)
    sizes = "".join(
        row_of(name, f"{parameters / 1e6:.1f} M", f"{macs / 1e9:.1f} G") for name, parameters, macs in swin_sizes()
    )
    glossary = (root / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    terms = "".join(f"<li><b>{term}</b>: {inline(meaning(glossary, term))}</li>" for term in TERMS)
    steps = (
        "**Roll** the map by minus the shift. **Cut** it into regular windows. **Attend** in each, with −100 added "
        "where query and key belong to different shifted windows. **Put together** and **roll back**. The result is "
        "that of attention in each shifted window by itself: same outputs, same gradients (notebook 03, section 6)."
    )
    first = f"""<h1>Swin on two pages</h1>
<p class="small">Liu et al., arXiv 2103.14030. The numbers are those of the course's model.</p>
<h2>Shapes: Swin-T, 224 × 224 pixels, windows of 7 × 7 tokens</h2>
<table><tr><th>stage</th><th>channels</th><th>tokens</th><th>windows</th><th>heads</th><th>blocks</th></tr>{shapes}</table>
<p>A token of stage 1 is a patch of 4 × 4 pixels, 48 numbers. Between stages four neighbours are laid side by side
(4C) and mapped to 2C. Every second block shifts the windows by ⌊M/2⌋.</p>
<h2>The shift: roll and mask</h2>{html(steps)}
<div class="figure"><img src="swin_roll.png" style="width: 112mm" alt="{escape(roll.alt)}"></div>
<p class="small">8 × 8 tokens, windows of 4 × 4, a shift of (2, 2): 9 shifted windows become 4.</p>
<div class="figure"><img src="swin_mask.png" style="width: 74mm" alt="{escape(mask.alt)}"></div>"""
    second = f"""<h2>Formulas</h2>{formulas}
<p>The bias B has a row for each offset of query minus key, (2M−1)² of them, and a column for each head: row
(Δh + M − 1)(2M − 1) + (Δw + M − 1).</p>
<h2>Sizes, at 224 × 224 pixels</h2>
<table><tr><th>model</th><th>parameters</th><th>multiply-accumulates</th></tr>{sizes}</table>
<h2>Terms</h2><ul class="two">{terms}</ul>"""
    body = "".join(f'<div class="sheet page">{page}</div>' for page in (first, second))
    text = HEAD.format(title="Swin on two pages", css=CSS) + body + "</body></html>\n"
    return text, {"swin_roll.png": roll.png, "swin_mask.png": mask.png}


def swin_shapes() -> list[tuple[int, int, int, int, int]]:
    """(channels, height, width, heads, blocks) of the stages of Swin-T at 224 pixels, seen in a forward pass."""
    with torch.device("meta"):
        model = create("swin_tiny", features_only=True).eval()
        maps = model(torch.zeros(1, 3, 224, 224))  # of each stage: (1, C, H, W)
    heads = [m.num_heads for m in model.modules() if hasattr(m, "num_heads")]
    widths = [m.qkv.in_features for m in model.modules() if hasattr(m, "qkv")]
    rows = []
    for stage in maps:
        c, h, w = stage.shape[1:]
        mine = [head for head, width in zip(heads, widths) if width == c]
        rows.append((c, h, w, mine[0], len(mine)))
    return rows


@cache
def swin_sizes() -> list[tuple[str, int, int]]:
    """(name, parameters, multiply-accumulates at 224 pixels) of the variants, counted on the models."""
    rows = []
    for name in VARIANTS:
        with torch.device("meta"):
            model = create(name)
        rows.append((name, count_parameters(model), count_macs(model, (1, 3, 224, 224))))
    return rows


def row_of(*cells) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def figure_of(plan: Outline, words: str):
    """The figure of a notebook whose alt text has these words."""
    found = [slide.figure for part in plan.parts for slide in part.slides if slide.figure]
    return next(figure for figure in found if words in figure.alt)


def meaning(glossary: str, term: str) -> str:
    """What the glossary says of a term, in English."""
    entry = re.search(rf"^### {re.escape(term)}\n\n(.*)$", glossary, re.MULTILINE | re.IGNORECASE)
    return entry[1].partition(" · ")[2]
