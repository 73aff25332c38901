"""Verbs for those who teach: slides, plans, sheets."""

import importlib.util
from pathlib import Path

from vt_course import need
from vt_course.cli.common import option, print_json, print_table, verb

PDF = option("--pdf", action="store_true", help="print them, too, through an installed Chromium")


def print_page(row: dict, pages: int | None, **settings) -> int:
    """Print the page of a row beside it, and name the PDF in the row. See `print_pdf`."""
    need(
        importlib.util.find_spec("websocket"),
        "printing needs the package websocket-client, which is not installed: pip install websocket-client",
    )
    from vt_course.publish.printing import print_pdf

    page = Path(row["output"])
    pdf = page.with_suffix(".pdf")
    row["pdf"] = str(pdf)
    return print_pdf(page, pdf, pages, **settings)


@verb(
    "slides",
    "Make slides of notebooks: pages that need no network, with notes for the speaker.",
    "vt-course slides 03 --pdf",
    option("names", nargs="*", help="notebooks, for instance 03_swin, or 3"),
    option("--all", action="store_true", help="of all notebooks"),
    PDF,
    option("--out", type=Path, help="default: build/slides"),
)
def slides(args) -> int:
    from vt_course.fetch.assets import assets
    from vt_course.publish.slides import slides

    need(bool(args.names) != args.all, "name the notebooks whose slides you want, for instance 03, or say --all")
    rows = slides(args.names or None, assets(progress=not args.json), out=args.out)
    for row in rows:
        if args.pdf:
            print_page(row, row["slides"], query="print-pdf")
    columns = {"notebook": "notebook", "slides": "slides", "figures": "figures", "output": "page"}
    print_json(rows) if args.json else print_table(rows, columns | ({"pdf": "PDF"} if args.pdf else {}))
    return 0


@verb(
    "pages",
    "Write the pages of docs/ that are made from the notebooks: plans of lessons, misconceptions, questions.",
    "vt-course pages",
)
def pages(args) -> int:
    from vt_course.publish.teaching.pages import write_pages

    rows = write_pages()
    print_json(rows) if args.json else print_table(rows, {"page": "page", "state": "state"})
    return 0


@verb(
    "handout",
    "Make sheets of paper for a class: lab sheets to fill in, and two pages on Swin.",
    "vt-course handout 03 --pdf",
    option("names", nargs="*", help="notebooks, for instance 03_swin, or 3 (default: all)"),
    PDF,
    option("--out", type=Path, help="default: build/handout"),
)
def handout(args) -> int:
    from vt_course.fetch.assets import assets
    from vt_course.publish.teaching.sheets import handouts

    rows = handouts(args.names or None, assets(progress=not args.json), out=args.out)
    for row in rows:
        if args.pdf:
            row["pages"] = print_page(row, row["pages"])
    columns = {"notebook": "notebook", "sheet": "sheet", "output": "page"}
    print_json(rows) if args.json else print_table(
        rows, columns | ({"pages": "pages", "pdf": "PDF"} if args.pdf else {})
    )
    return 0
