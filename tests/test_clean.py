"""`vt-course clean`: it shows everything, and removes only what the course makes again."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from vt_course import clean as module
from vt_course import cli, repo_root

GOES = {
    "build/notebooks/04.ipynb": "results of commands",
    "build/test/log.xml": "results of commands",
    "vt_course/data/__pycache__/a.pyc": "a cache",
    ".pytest_cache/a": "a cache",
    "data/synthetic/clips/.0.mp4.part": "left by a command that was killed",
    "runs/a/.state.pt.part": "left by a command that was killed",
}
STAYS = {
    "build/wheelhouse/torch.whl": "`make wheelhouse` downloads it again",
    "build/student/04.ipynb": "handouts, in which somebody may have written",
    "work/04.ipynb": "nothing brings them back",
    "work/__pycache__/a.pyc": "nothing brings them back",
    "edited/04.ipynb": "nothing brings them back",
    "runs/a/state.pt": "hours of computing; delete those that you do not need",
    "data/synthetic/clips/0.mp4": "`vt-course data synthetic` renders them again",
    "data/kinetics/archives/part.tar.gz.part": "`vt-course data kinetics` downloads them again",
    "data/mine/a.mp4": "not made by the course, or made on request",
    "notebooks/.ipynb_checkpoints/04.ipynb": None,  # not told: JupyterLab's, and a reader's
    "data/README.md": None,
    "vt_course/__init__.py": None,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A checkout in which each file has 100,000 bytes, and all are old but one that somebody is writing now."""
    root = tmp_path / "home"
    for name in (*GOES, *STAYS, "runs/b/.last.safetensors.part"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(100_000))
        os.utime(root / name, (old := time.time() - 2 * module.OLD, old))
    os.utime(root / "runs/b/.last.safetensors.part")
    monkeypatch.setattr(module, "own_root", lambda: root)
    monkeypatch.setattr(module, "own_data", lambda: root / "data")
    return root


def there(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def run(capsys, *argv):
    code = cli.main(["clean", *argv])
    return code, capsys.readouterr().out


def test_the_command_with_default_arguments(home, capsys):
    before = there(home)
    code, out = run(capsys, "--dry-run")
    assert code == 0 and there(home) == before and out.splitlines()[-1] == "1 MB can go, 1 MB stay"
    code, out = run(capsys)
    assert code == 0 and out.splitlines()[-1] == "1 MB removed, 1 MB stay" and before - there(home) == set(GOES)
    rows = [line.split("  ") for line in out.splitlines()]
    assert rows[0][0] == "what" and sum("removed" in line for line in out.splitlines()) == len(GOES) + 1
    code, out = run(capsys)
    assert code == 0 and "removed\n" not in out and out.splitlines()[-1] == "0 MB removed, 1 MB stay"


def test_everything_is_told_with_its_size_and_its_fate(home, capsys):
    code, out = run(capsys, "--json")
    rows = {Path(row["where"]).relative_to(home).as_posix(): row for row in json.loads(out)}
    for name, what in GOES.items():
        (row,) = [row for where, row in rows.items() if name.startswith(where) and row["state"] == "removed"]
        assert row["what"] == what and row["mb"] == pytest.approx(0.1)
    for name, why in STAYS.items():
        found = [row["state"] for where, row in rows.items() if f"{name}/".startswith(f"{where}/")]
        assert found == ([why] if why else []), name
    assert rows["runs"]["mb"] == pytest.approx(0.2)  # what is left of it


def test_links_are_not_followed(home, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_bytes(bytes(100_000))
    try:
        (home / "build" / "link").symlink_to(elsewhere)
        (home / "data" / "videos").symlink_to(elsewhere)
    except OSError:
        pytest.skip("links are not allowed here")
    code, out = run(capsys, "--json")
    rows = {Path(row["where"]).name: row for row in json.loads(out)}
    assert rows["link"]["mb"] < 0.001 and rows["link"]["state"] == "removed" and rows["videos"]["mb"] < 0.001
    assert (elsewhere / "thesis.tex").is_file() and not (home / "build" / "link").exists()


def test_a_bare_checkout_has_nothing_to_tell(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "own_root", lambda: tmp_path)
    monkeypatch.setattr(module, "own_data", lambda: tmp_path / "data")
    code, out = run(capsys)
    assert code == 0 and out.splitlines()[-1] == "0 MB removed, 0 MB stay"


@pytest.mark.posix("make")
def test_make_clean_is_the_verb(tmp_path):
    """So it keeps what the verb keeps. Without an environment there is no verb, and nothing is deleted."""
    shutil.copy(repo_root() / "Makefile", tmp_path)
    (tmp_path / "build" / "student").mkdir(parents=True)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert "make setup" in done.stdout and (tmp_path / "build" / "student").is_dir()
    verb = tmp_path / ".venv" / "bin" / "vt-course"
    verb.parent.mkdir(parents=True)
    verb.write_text('#!/bin/sh\necho "called with $*"\n', encoding="utf-8")
    verb.chmod(0o755)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "called with clean\n" and (tmp_path / "build" / "student").is_dir()
