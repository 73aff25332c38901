"""Sheets as they are printed: two pages of A4 for the handout on Swin, nothing cut off, nothing asked of a network."""

import re

import pytest

from vt_course.fetch.assets import assets
from vt_course.publish.printing import print_pdf
from vt_course.publish.teaching.sheets import handouts

from chromium import browser  # noqa: F401 (a fixture)

pytestmark = pytest.mark.dear

# How far the contents of each sheet reach beyond its box (less its padding of 8 mm at the foot), in pixels.
MEASURE = """
[...document.querySelectorAll('.sheet')].map(sheet => {
  const box = sheet.getBoundingClientRect(), foot = sheet.matches('.page') ? 30 : 0, wrong = [];
  for (const e of sheet.querySelectorAll('*')) {
    if (e.closest('mjx-assistive-mml, defs')) continue;
    const r = e.getBoundingClientRect();
    if (r.width && r.height && (r.right > box.right - 50 || r.left < box.left || r.bottom > box.bottom - foot))
      wrong.push(`${e.tagName} ${(e.textContent || '').slice(0, 20)}`);
    if (parseFloat(getComputedStyle(e).fontSize) < 11.9) wrong.push(`small: ${e.tagName}`);
  }
  return wrong;
})
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("handout")
    return out, handouts(None, assets(), out=out)


def test_nothing_is_cut_off_and_nothing_asked_of_a_network(folder, browser):  # noqa: F811
    out, rows = folder
    for row in rows:
        browser.open(f"file://{row['output']}", "window.ready === true")
        assert browser.value(MEASURE) == [[]] * (row["pages"] or 1), row["output"]
        assert all(url.startswith((f"file://{out}", "data:")) for url in browser.requests) and not browser.errors


def test_the_handout_on_swin_has_two_pages_of_a4(folder):
    out, _ = folder
    assert print_pdf(out / "swin_two_pages.html", out / "a.pdf", 2) == 2
    sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", (out / "a.pdf").read_bytes())
    assert sizes and all(abs(float(w) - 595) < 2 and abs(float(h) - 842) < 2 for w, h in sizes)
