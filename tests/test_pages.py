"""The pages for readers: README's first screen, a page for each kind of reader, the changelog."""

import json
import re
import subprocess
from collections import Counter

import pytest
import yaml

from vt_course import __version__, repo_root
from vt_course.cli import main
from vt_course.publish.links import prose

ROOT = repo_root()
READERS = ("students", "teachers", "researchers", "contributors")
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CHANGELOG.md", *(f"docs/{reader}.md" for reader in READERS))
}
FIRST_SCREEN = 30  # lines


def test_the_first_screen_says_what_it_is_how_it_looks_how_to_begin_and_where_to_go_on():
    lines = PAGES["README.md"].splitlines()
    screen = "\n".join(lines[:FIRST_SCREEN])
    title, sentence, picture, command, *_ = re.split(r"\n\n+", screen)
    assert title.startswith("# ") and re.fullmatch(r"[^.]*\.", sentence)
    assert picture.startswith("![") and picture.endswith("(notebooks/img/windows_27.png)")
    assert re.fullmatch(r"```sh\ngit clone ADDRESS (\w+) && cd \1 && make lab\n```", command)
    assert "`00_start_here.ipynb`" in screen and re.search(r"five to ten minutes.*\d+ hours", screen, re.DOTALL)
    assert re.findall(r"\(docs/(\w+)\.md\)", screen) == list(READERS)


def test_the_map_of_notebook_00_has_the_hours_of_the_readme():
    """And names each notebook that there is, as ready."""
    rows = re.compile(r"\| \**\[?(\d\d) [^|]+\|[^|]+\| ([\d.]+) \|")
    source = (repo_root() / "notebooks" / "src" / "00_start_here.py").read_text(encoding="utf-8")
    assert rows.findall(source) == rows.findall(PAGES["README.md"]) and len(rows.findall(source)) == 11
    assert "not written yet" not in source


def test_the_hours_of_the_course_are_those_of_its_ready_notebooks():
    hours = re.findall(r"\| ([\d.]+) \| \*\*ready\*\* \|", PAGES["README.md"])
    (said,) = re.findall(r"whole course takes about (\d+) hours", PAGES["README.md"])
    assert len(hours) >= 9 and round(sum(map(float, hours))) == int(said)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_finished_and_what_it_links_to_is_committed(page):
    assert not re.search("@@|TODO|TIMES|DEVIATIONS", PAGES[page])
    local = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "://" not in link]
    here = (ROOT / page).parent
    files = {(here / link).resolve().relative_to(ROOT).as_posix() for link in local if link}
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, encoding="utf-8").stdout
    assert local and files - set(listed.split("\0")) == set()


def test_nothing_is_said_twice():
    said = Counter()
    for text in (*PAGES.values(), (ROOT / "data" / "README.md").read_text(encoding="utf-8")):
        flat = re.sub(r"\s+", " ", re.sub(r"^[|#>*-] ?", " ", prose(text), flags=re.MULTILINE))
        said.update(part.strip() for part in re.split(r"(?<=[.:;]) | \| ", flat) if len(part) >= 60)
    assert len(said) > 150 and [part for part, times in said.items() if times > 1] == []


# ---------------------------------------------------------------- the register of what did not come out


def test_the_register_has_the_numbers_of_the_memory_of_fused_attention():
    (row,) = re.findall(r"^\| TimeSformer figure 3 .*$", PAGES["docs/researchers.md"], re.MULTILINE)
    rows = json.loads((ROOT / "results" / "bench_growth_cpu.json").read_text(encoding="utf-8"))["rows"]
    of = {r["attention"]: r for r in rows if r["grows"] == "side" and r["tokens"] == 25088}
    joint, divided = of["joint"], of["divided"]
    assert joint["peak_mb"] < divided["peak_mb"]
    assert f"{joint['peak_mb']:.0f} against {divided['peak_mb']:.0f} MB for one layer and 25,088 patches" in row
    assert f"{joint['ms'] / 1000:.1f} against {divided['ms'] / 1000:.1f} s" in row


# ---------------------------------------------------------------- releases

RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", re.MULTILINE)


def test_the_newest_entry_of_the_changelog_is_the_version(capsys):
    releases = RELEASE.findall(PAGES["CHANGELOG.md"])
    assert len(releases) == len(re.findall("^## ", PAGES["CHANGELOG.md"], re.MULTILINE))
    assert releases == sorted(releases, key=lambda release: [int(n) for n in release[0].split(".")], reverse=True)
    assert [date for _, date in releases] == sorted((date for _, date in releases), reverse=True)
    number, date = releases[0]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert number == __version__ and citation["date-released"] == date
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"vt-course {number}\n"


def test_the_kinds_of_changes_are_few():
    kinds = re.findall("^### (.*)$", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Mended", "Removed"}


@pytest.mark.parametrize("page", ["docs/teachers.md", "docs/contributors.md"])
def test_a_release_that_a_page_names_is_the_newest(page):
    named = re.findall(r"\bv?(\d+\.\d+\.\d+)\b", PAGES[page])
    assert named and set(named) == {__version__}


def test_the_version_stands_in_one_place():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in pyproject and not re.search("^version *=", pyproject, re.MULTILINE)
    assert '[tool.hatch.version]\npath = "vt_course/__init__.py"' in pyproject
