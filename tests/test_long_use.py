"""Long use: what grows in a kernel is found, and what does not grow is not blamed."""

import gc
import json
import re
import weakref

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure

from vt_course import CourseError, repo_root
from vt_course.lab.show import style
from vt_course.publish import long_use


def rounds(**grows):
    """Six rounds in which the named things grow by so much each time, after a first round that fills caches."""
    names = ("kernel_mb", "server_mb", "kernel_descriptors", "kernel_children", "server_descriptors")
    flat = {"kernel_mb": 1500, "server_mb": 120, "kernel_descriptors": 70, "kernel_children": 0}
    start = flat | {"server_descriptors": 26}
    rows = [{name: start[name] + number * grows.get(name, 0) for name in names} for number in range(6)]
    rows[0]["kernel_mb"] -= 700
    return {"rounds": rows, "left": {"processes": 0, "temporary": []}}


def test_what_levels_off_is_no_fault():
    assert long_use.faults(rounds()) == []
    assert long_use.faults(rounds(kernel_mb=3.0)) == []  # an allocator breathes
    with pytest.raises(CourseError, match="choose --rounds 3 or more"):
        long_use.faults({**rounds(), "rounds": rounds()["rounds"][:2]})


@pytest.mark.parametrize(
    "grows, words",
    [
        ({"kernel_mb": 40.0}, "kernel_mb grows by 40.0 a round"),
        ({"server_mb": 12.0}, "server_mb grows by 12.0 a round"),
        ({"kernel_descriptors": 1}, "kernel_descriptors grew from 72 to 75"),
        ({"server_descriptors": 2}, "server_descriptors grew from 30 to 36"),
        ({"kernel_children": 1}, "5 child processes of the kernel are left"),
    ],
)
def test_what_grows_is_a_fault(grows, words):
    assert any(words in sentence for sentence in long_use.faults(rounds(**grows)))


def test_what_is_left_is_a_fault():
    found = rounds() | {"left": {"processes": 1, "temporary": ["tmpabc"]}}
    assert [sentence.split(" are left")[0] for sentence in long_use.faults(found)] == ["1 processes", "temporary files"]


def test_a_notebook_keeps_only_its_last_figures():
    shell, alive = InteractiveShell(), weakref.WeakSet()
    style.forget_figures(shell)
    shell.user_ns["alive"] = alive
    for _ in range(9):
        text = "from matplotlib.figure import Figure; figure = Figure(); alive.add(figure); figure"
        shell.run_cell(text, store_history=True, silent=False)
        shell.run_cell("6 * 7", store_history=True)
    gc.collect()
    assert len(alive) <= 3
    assert set(shell.user_ns["_oh"].values()) == {42} and len(shell.user_ns["_oh"]) == 9
    assert not any(isinstance(value, Figure) for name, value in shell.user_ns.items() if re.fullmatch(r"_\d+", name))


def test_the_record_levels_off_and_the_page_quotes_it():
    record = json.loads((repo_root() / long_use.RESULT).read_text(encoding="utf-8"))
    page = (repo_root() / "docs" / "contributors.md").read_text(encoding="utf-8")
    fourth, last = record["rounds"][3], record["rounds"][-1]
    assert long_use.faults(record) == record["faults"] == [] and record["notebooks"] == ["04_video_swin", "08_training"]
    said = re.search(r"After\s+([\d,]+) executions the kernel had ([\d,]+) MB \(([\d,]+) after ([\d,]+)\)", page)
    numbers = [int(text.replace(",", "")) for text in said.groups()]
    assert numbers == [last["executions"], round(last["kernel_mb"]), round(fourth["kernel_mb"]), fourth["executions"]]


@pytest.mark.dear
@pytest.mark.posix("descriptors are counted")
def test_a_leak_is_found_in_a_real_server(tmp_path):
    def found(*cells, rounds=4):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
        nbformat.write(book, tmp_path / "book.ipynb")
        return long_use.measure([tmp_path / "book.ipynb"], rounds, lambda line: None)

    good = found(
        "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()", "print('well')", "bytes(30_000_000)[:9]"
    )
    assert long_use.faults(good) == [] and good["executions"] == 4 * 3
    leak = "kept += [open(os.devnull), tempfile.mkdtemp(), bytearray(os.urandom(30_000_000))]"
    bad = " ".join(long_use.faults(found("import os, tempfile; kept = globals().get('kept', [])", leak)))
    assert "kernel_mb grows by 3" in bad and "kernel_descriptors grew" in bad and "temporary files are left" in bad
    with pytest.raises(CourseError, match="a cell of book.ipynb failed .ZeroDivisionError: division by zero"):
        found("1 / 0")
