"""The doors from elsewhere: editions for Colab, Kaggle and Binder, links to them, Binder's and Codespaces' files."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from vt_course import CourseError, __version__, repo_root
from vt_course.lab import hosts
from vt_course.publish import hosted, links
from vt_course.publish.source import select_sources

ROOT = repo_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHERE = hosted.published(ROOT)
SOURCES = select_sources(ROOT, None)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INDEX = "https://download.pytorch.org/whl/cpu"


def test_editions_and_pages_are_in_step():
    assert hosted.drifted(ROOT, SOURCES) == []
    there = {path.name for path in (ROOT / hosted.FOLDER).iterdir()}
    assert there == {f"{source.stem}.ipynb" for source in SOURCES}


def test_repository_and_tag_are_named_in_one_place():
    assert WHERE["tag"] == f"v{__version__}"
    assert f" {sum(hosts.SMALLEST)} clips" in (ROOT / "docs" / "doors.md").read_text(encoding="utf-8")
    owner = re.fullmatch(r"https://github\.com/([\w.-]+)/[\w.-]+", WHERE["repository"])[1]
    named = [path for path in ROOT.glob("*.*") if path.is_file() and owner in path.read_text(encoding="utf-8")]
    assert {path.name for path in named} == {"pyproject.toml", "README.md"}  # README's stand in the block


def test_every_link_of_every_badge_exists():
    """The addresses of the three hosts, taken apart as these hosts do it."""
    hosts_of = re.compile(
        r"https://(?:colab\.research\.google\.com/github|kaggle\.com/kernels|mybinder\.org/v2)[^)\s]*"
    )
    tree = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8").stdout.split()
    if not tree:  # not a repository, such as the archive of a tag
        tree = [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").rglob("*")]
    found = [address for page in PAGES for address in hosts_of.findall(page.read_text(encoding="utf-8"))]
    made = {to for source in SOURCES for to, _ in hosted.links(source.stem, WHERE).values()}
    assert set(found) == made and len(made) == 3 * len(SOURCES)
    for address in made:
        owner_and_name, tag, path = re.search(
            r"(?:github(?:\.com)?|gh)/([^/]+/[^/]+)/(?:blob/)?([^/?]+)(?:/|\?urlpath=lab/tree/)(.+)", address
        ).groups()
        assert (owner_and_name, tag) == (WHERE["name"], WHERE["tag"]) and path in tree, address


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_an_edition_needs_nothing_beside_it(source):
    """Its links lead to the repository, where the files are; it begins with the cell that makes the host ready."""
    nb = nbformat.read(ROOT / hosted.FOLDER / f"{source.stem}.ipynb", as_version=4)
    first = next(cell for cell in nb.cells if cell.cell_type == "code")
    assert first.source == hosted.FIRST.format(**WHERE) and not any(cell.get("outputs") for cell in nb.cells)
    text = "\n".join(links.prose(cell.source) for cell in nb.cells if cell.cell_type == "markdown")
    targets = [next(filter(None, match)) for match in links.TARGET.findall(text)]
    assert not [target for target in targets if not target.startswith(("http", "#", "mailto:"))]
    for path in re.findall(rf"{re.escape(WHERE['repository'])}/(?:raw|blob)/{WHERE['tag']}/([^#)\s]+)", text):
        assert (ROOT / path).is_file(), path


def test_links_become_those_of_the_repository():
    text = "[a](glossary.md#roll) ![b](img/x.png) [c](../docs/doors.md) [d](#here) [e](https://e.org)"
    made = hosted.RELATIVE.sub(lambda link: hosted.absolute(*link.groups(), {"repository": "R", "tag": "v1"}), text)
    assert made == (
        "[a](R/blob/v1/notebooks/glossary.md#roll) ![b](R/raw/v1/notebooks/img/x.png) [c](R/blob/v1/docs/doors.md) "
        "[d](#here) [e](https://e.org)"
    )


def test_a_changed_tag_changes_editions_and_pages(tmp_path):
    for name in ("README.md", "pyproject.toml", "docs/doors.md", f"notebooks/src/{SOURCES[0].name}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    project = tmp_path / "pyproject.toml"
    text = project.read_text(encoding="utf-8").replace(f'tag = "{WHERE["tag"]}"', 'tag = "v9.9"')
    project.write_text(text, encoding="utf-8")
    sources = select_sources(tmp_path, None)
    assert len(hosted.drifted(tmp_path, sources)) == 3
    hosted.write_hosted(tmp_path, sources)
    assert hosted.drifted(tmp_path, sources) == []
    for path in ("README.md", "docs/doors.md", f"{hosted.FOLDER}/{SOURCES[0].stem}.ipynb"):
        assert "v9.9" in (tmp_path / path).read_text(encoding="utf-8"), path


# ---------------------------------------------------------------- the first cell


def first_cell(monkeypatch, installed: bool) -> list[list[str]]:
    """Run the first cell, and return the commands that it would run."""
    asked, real = [], hosted.FIRST.format(**WHERE)
    monkeypatch.setattr(subprocess, "run", lambda words, check: asked.append(words))
    monkeypatch.setattr(hosts, "ready", lambda tag: asked.append(tag))
    found = "importlib.util.find_spec"
    missing = lambda name: None if name == "vt_course" and not installed else name  # noqa: E731
    monkeypatch.setattr(found, missing)
    exec(compile(real, "first cell", "exec"), {})
    return asked


def test_the_first_cell_installs_once_and_keeps_the_torch_of_the_host(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert first_cell(monkeypatch, installed=True) == [WHERE["tag"]] and not list(tmp_path.iterdir())
    command, tag = first_cell(monkeypatch, installed=False)
    archive = f"vt-course @ {WHERE['repository']}/archive/refs/tags/{WHERE['tag']}.zip"
    assert command == [sys.executable, *"-m pip install -q -c stays.txt".split(), archive] and tag == WHERE["tag"]
    stays = (tmp_path / "stays.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition("==")[0] for line in stays] == ["torch", "torchvision", "numpy"]
    assert max(map(len, hosted.FIRST.format(**WHERE).splitlines())) <= 72


COLAB = {  # what a host has, by name: the torch of its GPU, and the kernel that its page talks to
    "torch": "2.8.0+cu126",
    "torchvision": "0.23.0+cu126",
    "numpy": "2.0.2",
    "ipykernel": "6.17.1",
    "ipython": "7.34.0",
    "jupyter-client": "7.4.9",
    "jupyter-core": "5.8.1",
    "tornado": "6.5.1",
    "matplotlib": "3.10.0",
}


@pytest.mark.dear
@pytest.mark.parametrize("torch, kept", [("2.8.0+cu126", True), ("2.4.0", False)])
def test_an_installation_never_replaces_the_torch_of_a_host(torch, kept, tmp_path):
    """As pip would do it: uv resolves against PyPI, and installs nothing. An older torch than the course takes is no
    reason to replace it: the installation fails instead."""
    uv = shutil.which("uv") or ROOT / ".uv" / "bin" / "uv"
    env = tmp_path / "host"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, env], check=True)
    [site] = env.glob("lib/python*/site-packages")
    for name, version in (COLAB | {"torch": torch}).items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
        (info / "RECORD").write_text("", encoding="utf-8")
    stays = [f"{name}=={(COLAB | {'torch': torch})[name]}\n" for name in ("torch", "torchvision", "numpy")]
    (tmp_path / "stays.txt").write_text("".join(stays), encoding="utf-8")
    words = [uv, "pip", "install", "--dry-run", "--python", env / "bin" / "python", "-c", tmp_path / "stays.txt", ROOT]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", env=os.environ | {"NO_COLOR": "1"})
    if not kept:
        assert done.returncode and "torch" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    changed = set(re.findall(r"^ [-+~] ([\w.-]+)==", done.stderr, re.MULTILINE))
    assert "einops" in changed and not changed & {*COLAB} - {"matplotlib"}
    assert not [name for name in changed if name.startswith(("nvidia", "triton", "jupyter-"))]


def test_ready_says_what_is_there_and_how_to_keep_the_work(monkeypatch, capsys, tmp_path):
    made = []
    monkeypatch.setattr(hosts, "rendered", lambda split: tmp_path if made else None)
    monkeypatch.setattr(hosts, "render", lambda **how: made.append(how))
    for variable in hosts.HOSTS:
        monkeypatch.delenv(variable, raising=False)
    for _ in range(2):  # the second time everything is there
        hosts.ready(f"v{__version__}")
    assert made == [{"clips": hosts.SMALLEST, "progress": False}]
    out = capsys.readouterr().out
    assert f"✓ vt_course {__version__}, torch " in out and "where you save" in out
    for variable, (host, how) in hosts.HOSTS.items():
        monkeypatch.setenv(variable, "1")
        hosts.ready(f"v{__version__}")
        assert f"To keep your work on {host}: {how}. " in capsys.readouterr().out
        monkeypatch.delenv(variable)


def test_ready_refuses_another_edition_and_an_older_package_in_memory(monkeypatch):
    with pytest.raises(CourseError, match=rf"is of v0\.0\.1, and vt_course {re.escape(__version__)} is installed: "):
        hosts.ready("v0.0.1")
    monkeypatch.setattr(sys.modules["numpy"], "__version__", "1.0")
    with pytest.raises(CourseError, match="runs an older numpy than the one that is installed now: restart"):
        hosts.ready(f"v{__version__}")


# ---------------------------------------------------------------- Binder, development containers


def test_binder_and_the_container_are_in_step_with_the_project():
    """Both install PyTorch without CUDA first, with the extras and the Pythons of pyproject.toml."""
    oldest, newest = map(int, re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups())
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    pythons = [
        re.fullmatch(r"python-3\.(\d+)\n", (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8"))[1],
        re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:3\.(\d+)", container["image"])[1],
    ]
    assert len(set(pythons)) == 1 and oldest <= int(pythons[0]) < newest
    post = (ROOT / "binder" / "postBuild").read_text(encoding="utf-8").splitlines()
    torch, course = [line for line in post if line.startswith("pip install")]
    needed = {re.match(r"[\w-]+", need)[0] for need in PROJECT["project"]["dependencies"]}
    assert torch.endswith(f"torch torchvision --index-url {INDEX}") and {"torch", "torchvision"} <= needed
    assert re.fullmatch(r"pip install --no-cache-dir --editable '\.\[notebooks\]'", course)
    assert "notebooks" in PROJECT["project"]["optional-dependencies"] and post.index(torch) < post.index(course)
    assert container["postCreateCommand"].startswith("make setup TORCH=cpu && .venv/bin/vt-course open")
    assert os.access(ROOT / "binder" / "postBuild", os.X_OK)
    assert INDEX in (ROOT / ".ci" / "wheelhouse").read_text(encoding="utf-8")  # the same index everywhere


# ---------------------------------------------------------------- the wheel


def test_a_wheel_carries_what_is_read_and_no_tests():
    hook = PROJECT["tool"]["hatch"]["build"]["hooks"]["custom"]
    assert (ROOT / hook["path"]).is_file() and all((ROOT / name).exists() for name in hook["carried"])
    assert [name for name in hook["carried"] if name.startswith("tests")] == ["tests/golden"]
    read = set()
    for path in [*(ROOT / "vt_course").rglob("*.py"), *SOURCES]:
        text = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"""(?:repo_root\(\)|home\(\)) / "([\w./-]+)\"""", text))
    read -= {"runs", "data", "notebooks", "README.md"}  # README's line of the ledger is only written, in a checkout
    outside = {name for name in read if not any(Path(name).is_relative_to(top) for top in hook["carried"])}
    assert outside == {".ci"}  # the settings of IPython, which are carried, too
