"""Where things are: a course that many use and only its owner may write to, as a checkout and as a wheel.

Under root, its users are two system users. Elsewhere they are two homes of the user who runs the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import platformdirs
import pytest

import vt_course
from vt_course import CourseError, repo_root
from vt_course.data.synthetic import SMALLEST, render
from vt_course.publish.build import build
from vt_course.publish.release import release
from vt_course.publish.slides import slides
from vt_course.publish.student import student
from vt_course.publish.suite import run_suite
from vt_course.publish.teaching.pages import write_pages
from vt_course.publish.teaching.sheets import handouts

ROOT = repo_root()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CARRIED = PYPROJECT["tool"]["hatch"]["build"]["hooks"]["custom"]["carried"]
# They may read everything, as the Python of the tests may lie in root's home, and write only what is theirs.
MAY_READ = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
USERS = (23456, 23457)


class Shared:
    """An installation for many, in `package` (beside vt_course/) and `course`, its own files."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.package = folder, folder / "opt"
        shutil.copytree(ROOT / "vt_course", self.package / "vt_course", ignore=shutil.ignore_patterns("__pycache__"))
        self.course = self.package / "vt_course" / "_course" if kind == "wheel" else self.package
        for name in (*CARRIED, *(["pyproject.toml"] if kind == "checkout" else [])):
            (self.course / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, self.course / name)

    def publish(self) -> dict:
        """Take away every right to write, as far as that binds the users. Returns what is there, to compare."""
        self.homes = []
        for user in USERS:
            home = self.folder / str(user)
            home.mkdir()
            self.homes.append(home)
            if os.getuid() == 0:
                os.chown(home, user, user)
        if os.getuid() != 0:
            subprocess.run(["chmod", "-R", "a-w", self.package], check=True)
        return self.there()

    def there(self) -> dict:
        files = (path for path in self.package.rglob("*") if path.is_file())
        return {str(path): path.stat().st_mtime_ns for path in files}

    def start(self, n: int, *words: str, script: str = "") -> subprocess.Popen:
        """Start `vt-course WORDS`, or a script, as user n."""
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("VT_COURSE", "XDG", "JUPYTER"))
        }
        env |= {"HOME": str(self.homes[n]), "PYTHONPATH": str(self.package), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *(["-c", script] if script else ["-m", "vt_course.cli"]), *words]
        if os.getuid() == 0:
            ids = [f"--reuid={USERS[n]}", f"--regid={USERS[n]}", "--clear-groups"]
            command = ["setpriv", *ids, *MAY_READ, *command]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        return subprocess.Popen(command, cwd=self.homes[n], env=env, **pipes)

    def both(self, *words: str, script: str = "") -> list[str]:
        """What the same command prints for both users, who start it at the same time."""
        running = [self.start(n, *words, script=script) for n in range(2)]
        told = [each.communicate(timeout=900) for each in running]
        assert [each.returncode for each in running] == [0, 0], told
        return [out for out, _ in told]


@pytest.fixture
def shared(request):
    """Not below `tmp_path`, whose parents only the user of the tests may enter."""
    folder = Path(tempfile.mkdtemp(prefix="vt_course-"))
    folder.chmod(0o755)
    yield Shared(folder, request.param)
    subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    shutil.rmtree(folder)


TINY = ["--clips", "8,8", "--frames", "4", "--size", "32", "--json"]
SCRIPT = """
import contextlib, io, json, os, sys
from pathlib import Path
import vt_course
from vt_course import cli
from vt_course.lab import progress

def run(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(list(words)) == 0, words
    return json.loads(out.getvalue())

tiny = sys.argv[1:]
found = {"own": str(vt_course.own_root()), "course": str(vt_course.repo_root())}
found["student"] = run("student", "04", "--json")[0]["output"]
found["theirs"] = run("data", "synthetic", *tiny)
found["read"] = str(vt_course.data_root())
found["mine"] = run("data", "synthetic", *tiny, "--seed", "1")
found["read_then"] = str(vt_course.data_root())
progress.record("0.1")
progress.record(Path.home().name)
found["passed"] = sorted(progress.passed(progress.progress_file()))
print(json.dumps(found))
"""
RESULTS = """
import json
from vt_course.training.experiments import results

name = "families-motion"
found = [str(results.result_file(name))]
results.write_result(results.read_result(name))
print(json.dumps([*found, str(results.result_file(name))]))
"""


@pytest.mark.posix("rights of users")
@pytest.mark.parametrize("shared", ["checkout"], indirect=True)
def test_two_users_of_one_installation(shared):
    """Editions, clips and progress are each user's own; what the installation has rendered is used."""
    render(shared.course / "data" / "synthetic", clips=(8, 8), frames=4, size=32, workers=0, progress=False)
    before = shared.publish()
    told = [json.loads(out) for out in shared.both(*TINY, script=SCRIPT)]
    assert shared.there() == before
    for home, found in zip(shared.homes, told):
        own = Path(found["own"])
        assert own.is_relative_to(home) and found["course"] == str(shared.course)
        assert found["student"] == str(own / "build" / "student" / "04_video_swin.ipynb")
        assert (found["theirs"]["rendered"], found["theirs"]["out"]) == (0, str(shared.course / "data" / "synthetic"))
        assert (found["mine"]["rendered"], found["mine"]["out"]) == (16, str(own / "data" / "synthetic"))
        assert (found["read"], found["read_then"]) == (str(shared.course / "data"), str(own / "data"))
        assert found["passed"] == sorted(["0.1", home.name])
    assert told[0]["own"] != told[1]["own"]


@pytest.mark.dear
@pytest.mark.posix("rights of users")
@pytest.mark.parametrize("shared", ["wheel"], indirect=True)
def test_two_users_run_a_notebook(shared):
    """As two students of a class do: each opens a notebook, runs it, asks how far they are, and experiments."""
    render(shared.course / "data" / "synthetic", clips=SMALLEST, progress=False)
    before = shared.publish()
    for out in shared.both("open", "00", "--no-start", "--json"):
        assert json.loads(out)[0]["state"] == "written"
    for out in shared.both("course", "00", "--workers", "1", "--json"):
        assert [row["status"] for row in json.loads(out)] == ["ok"]
    for home, out in zip(shared.homes, shared.both("progress")):
        assert out.splitlines()[-1].startswith("0 of ") and str(home) in out  # `course` records nothing
    for home, out in zip(shared.homes, shared.both("doctor", "--json")):
        facts, own = json.loads(out), vt_course.own_root(Path("_course")).relative_to(Path.home())
        assert (facts["course"], facts["yours"]) == (str(shared.course), str(home / own)) and not facts["missing"]
        assert (facts["data"], facts["clips"]) == (str(home / own / "data"), str(shared.course / "data" / "synthetic"))
        assert facts["progress"] == str(home / own / "progress.csv")
    for home, out in zip(shared.homes, shared.both(script=RESULTS)):
        theirs, mine = map(Path, json.loads(out))
        assert theirs.is_relative_to(shared.course) and mine.is_relative_to(home)
    assert shared.there() == before


def test_what_changes_the_course_needs_a_checkout_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "_course").mkdir()
    for changes in (build, run_suite, write_pages):
        with pytest.raises(CourseError, match="needs a checkout of your own, and .* is what a wheel carries: clone"):
            changes(root=tmp_path / "_course")
    monkeypatch.setattr(vt_course.os, "access", lambda path, how: False)
    with pytest.raises(CourseError, match="is not yours to write to: clone the course"):
        run_suite(root=tmp_path)


@pytest.mark.posix("links")
@pytest.mark.parametrize(
    "make, folder",
    [
        (student, "student"),
        (release, "release"),
        (lambda names, root: slides(names, {}, root=root), "slides"),
        (lambda names, root: handouts(names, {}, root=root), "handout"),
    ],
    ids=["student", "release", "slides", "handout"],
)
def test_what_is_made_for_a_class_goes_to_the_users_own_folder(make, folder, tmp_path, monkeypatch):
    (tmp_path / "_course").symlink_to(ROOT)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "own")
    (row,) = make(["00"], root=tmp_path / "_course")
    made = Path(row.get("output") or row["zip"])
    assert made.is_file() and made.is_relative_to((tmp_path / "own" / "build" / folder).resolve())


def test_the_folder_of_data_that_a_variable_names_stands_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    assert vt_course.data_roots() == [tmp_path] and vt_course.data_root() == tmp_path
