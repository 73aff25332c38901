"""Slides as a browser shows them: nothing overflows, nothing is asked of a network, everything can be read from afar.

Needs Chromium, which `.ci/more` installs.
"""

import re

import pytest

from vt_course import CourseError, repo_root
from vt_course.fetch.assets import assets
from vt_course.publish.printing import Chromium, print_pdf
from vt_course.publish.slides import slides

from chromium import browser  # noqa: F401 (a fixture)

pytestmark = pytest.mark.dear

NOTEBOOKS = sorted(path.stem for path in (repo_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
READY = "window.Reveal && Reveal.isReady()"

# For each slide of 1280 × 720: what reaches out of it or is too small or too pale, and how large its figure is.
MEASURE = """
(() => {
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!colour.endsWith(', 0)')) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = e => {
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  return [...document.querySelectorAll('.slides section section')].map(slide => {
    const at = Reveal.getIndices(slide);
    Reveal.slide(at.h, at.v);
    const page = slide.querySelector('.page'), box = page.getBoundingClientRect(), wrong = [];
    if (page.scrollWidth > page.clientWidth || page.scrollHeight > page.clientHeight) wrong.push('scrolls');
    for (const e of page.querySelectorAll('*')) {
      if (e.closest('mjx-assistive-mml, defs')) continue;
      const r = e.getBoundingClientRect(), foot = e.closest('.foot');
      if (!r.width || !r.height) continue;
      const name = `${e.tagName} ${(e.textContent || '').slice(0, 20)}`;
      const end = box.bottom - (foot ? 0 : 36);
      if (r.left < box.left + 39 || r.top < box.top || r.right > box.right - 39 || r.bottom > end)
        wrong.push(`outside: ${name} ${[r.left, r.top, r.right, r.bottom].map(Math.round)}`);
      if (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display == 'block') wrong.push(`wide: ${name}`);
      if ([...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) {
        const least = foot ? 18 : e.closest('pre, code') ? 20 : 24, size = parseFloat(getComputedStyle(e).fontSize);
        if (size < least) wrong.push(`small: ${name} ${size}`);
        if (contrast(e) < 4.5) wrong.push(`pale: ${name} ${contrast(e).toFixed(1)}`);
      }
    }
    for (const svg of page.querySelectorAll('mjx-container > svg')) {
      const ruler = document.createElement('span');
      ruler.style.cssText = 'display: inline-block; width: 100ex';
      svg.parentElement.append(ruler);
      const ex = ruler.getBoundingClientRect().width / 100;
      ruler.remove();
      const scale = svg.getBoundingClientRect().width / (parseFloat(svg.getAttribute('width')) * ex);
      const size = scale * parseFloat(getComputedStyle(svg.parentElement).fontSize);
      if (size < 23) wrong.push(`small formula: ${size.toFixed(1)}`);
    }
    const image = page.querySelector('img'), shown = image && image.getBoundingClientRect();
    return {
      kind: slide.dataset.kind, title: page.querySelector('h1, h2').innerText, wrong,
      scale: image && Math.min(shown.width / image.naturalWidth, shown.height / image.naturalHeight),
      share: image && shown.width * shown.height / (1280 * 720),
    };
  });
})()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All slides in one folder, as `vt-course slides --all` writes them."""
    out = tmp_path_factory.mktemp("slides")
    rows = slides(None, assets(), out=out)
    return out, {row["notebook"]: row for row in rows}


def measured(browser, page, folder) -> list[dict]:  # noqa: F811
    browser.open(page.as_uri(), READY)
    rows = browser.value(MEASURE)
    assert [url for url in browser.requests if not url.startswith((folder.as_uri() + "/", "data:"))] == []
    assert browser.errors == []
    return rows


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_all_that_stands_on_slides_fits_and_can_be_read(name, browser, folder):  # noqa: F811
    out, made = folder
    rows = measured(browser, out / f"{name}.html", out)
    assert len(rows) == made[name]["slides"]
    assert [(row["title"], row["wrong"]) for row in rows if row["wrong"]] == []
    figures = [row for row in rows if row["kind"] == "figure"]
    assert len(figures) == made[name]["figures"]
    assert [row for row in figures if row["scale"] < 0.6 or row["share"] < 0.15] == []


@pytest.mark.parametrize(
    "old, new, found",
    [
        ('class="body"', 'class="body" style="margin-top: 600px"', "outside"),
        ('<div class="page">', '<div class="page"><div style="flex: none; height: 900px">', "scrolls|outside"),
        ("<h2>", '<h2 style="font-size: 12px">', "small: H2"),
        ("<h2>", '<h2 style="color: #ccc">', "pale: H2"),
        ("<pre class", '<pre style="width: 300px" class', "wide|outside"),
        ('width="1', 'width="14', "outside"),
    ],
)
def test_the_measure_finds_what_is_wrong(old, new, found, browser, folder):  # noqa: F811
    out, _ = folder
    text = (out / "00_start_here.html").read_text(encoding="utf-8")
    assert old in text
    (out / "wrong.html").write_text(text.replace(old, new), encoding="utf-8")
    wrong = [text for row in measured(browser, out / "wrong.html", out) for text in row["wrong"]]
    assert any(re.match(found, text) for text in wrong), wrong


def test_a_request_that_leaves_the_folder_is_seen(browser, folder):  # noqa: F811
    out, _ = folder
    text = (out / "00_start_here.html").read_text(encoding="utf-8")
    away = '<link rel="stylesheet" href="https://example.org/a.css"></head>'
    (out / "wrong.html").write_text(text.replace("</head>", away), encoding="utf-8")
    with pytest.raises(AssertionError, match="example.org"):
        measured(browser, out / "wrong.html", out)


def test_slides_are_printed_one_to_a_page(folder):
    out, made = folder
    print_pdf(out / "00_start_here.html", out / "a.pdf", made["00_start_here"]["slides"], query="print-pdf")
    size = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", (out / "a.pdf").read_bytes()).groups()
    assert abs(float(size[0]) / float(size[1]) - 16 / 9) < 0.01


def test_a_browser_that_dies_is_one_sentence(folder, monkeypatch):
    out, _ = folder
    monkeypatch.setattr(Chromium, "open", lambda self, *_: self.process.kill())
    with pytest.raises(CourseError, match="could not be printed .the connection to Chromium broke: "):
        print_pdf(out / "00_start_here.html", out / "b.pdf", None)
    assert not (out / "b.pdf").exists()
