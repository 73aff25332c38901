"""The repository around the code: doors that must stay in step, and rules for what is committed."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vt_course import __version__, doctor, repo_root
from vt_course.cli import main
from vt_course.publish import suite

ROOT = repo_root()
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]


def tracked() -> list[Path]:
    """The committed files, as paths relative to the root."""
    names = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    ).stdout
    return [Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()]


TRACKED = tracked()


# ---------------------------------------------------------------- one version of Python


def test_conda_is_a_thin_doorway():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, package = conda["dependencies"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    extras = ",".join(PROJECT["optional-dependencies"])
    assert package == {"pip": [f"-e .[{extras}]"]}
    assert conda["name"] == PROJECT["name"]


def test_one_range_of_pythons_is_named_everywhere():
    oldest, newest = re.fullmatch(r">=(3\.\d+),<(3\.\d+)", PROJECT["requires-python"]).groups()
    minors = [f"3.{minor}" for minor in range(int(oldest[2:]), int(newest[2:]))]
    assert [c.removeprefix("Programming Language :: Python :: ") for c in PROJECT["classifiers"]] == minors
    assert set(re.findall(r"Python (3\.\d+) to (3\.\d+)", README)) == {(minors[0], minors[-1])}
    setup = (ROOT / ".ci" / "setup").read_text(encoding="utf-8")
    assert set(re.findall(r"\b3\.\d+", setup)) == {oldest, newest}
    assert f"({oldest.replace('.', ', ')}) <= sys.version_info < ({newest.replace('.', ', ')})" in setup
    assert {python["python_version"] for python in MACHINES} == set(minors)


def test_readme_names_the_doors():
    for text in ("make course", "make test", "make lab", "make help", "requirements.lock", "vt-course doctor"):
        assert text in README, text
    assert "environment.yml" in (ROOT / "docs" / "students.md").read_text(encoding="utf-8")


# ---------------------------------------------------------------- the lock

DIRECT = "vt-course (pyproject.toml)"
MACHINES = [
    dict(
        sys_platform=system,
        platform_machine=machine,
        os_name="nt" if system == "win32" else "posix",
        extra="",
        python_version=python,
        python_full_version=f"{python}.7",
        platform_system={"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
        implementation_name="cpython",
        platform_python_implementation="CPython",
    )
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))
    for python in ("3.11", "3.12", "3.13", "3.14")
]


def requirements(pyproject: str) -> list[Requirement]:
    """What pyproject.toml asks for, all extras included."""
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(text) for texts in (project["dependencies"], *extras) for text in texts]


def pins(lock: str) -> list[tuple[Requirement, int, bool]]:
    """(pin, number of hashes, is it asked for by pyproject.toml) of each entry of a lock."""
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    return [
        (
            Requirement(re.split(r"\s*\\?\n|\s+--", entry)[0]),
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)),
            bool(re.search(rf"^ +#(?: via)? +{re.escape(DIRECT)}$", entry, re.MULTILINE)),
        )
        for entry in entries
    ]


def lock_problems(pyproject: str, lock: str) -> list[str]:
    """How a lock is out of step with pyproject.toml. Needs no network and no resolver.

    uv notes under each pin who asked for it; that set must be pyproject's. Each pin must lie
    within pyproject's bounds, and on each machine each requirement must have one pin.
    """
    wanted, locked = requirements(pyproject), pins(lock)
    problems = []
    asked = {canonicalize_name(need.name) for need in wanted}
    recorded = {canonicalize_name(pin.name) for pin, _, direct in locked if direct}
    problems += [f"{name} is in pyproject.toml, not in the lock" for name in asked - recorded]
    problems += [f"{name} is in the lock, not in pyproject.toml" for name in recorded - asked]
    for need in wanted:
        found = [
            pin for pin, _, _ in locked if canonicalize_name(pin.name) == canonicalize_name(need.name) and not pin.url
        ]
        for pin in found:
            (version,) = pin.specifier
            if not need.specifier.contains(version.version):
                problems.append(f"{pin.name}=={version.version} does not satisfy {need}")
        for machine in MACHINES:
            fitting = [pin for pin in found if not pin.marker or pin.marker.evaluate(machine)]
            if (not need.marker or need.marker.evaluate(machine)) and len(fitting) != 1:
                problems.append(f"{need} has {len(fitting)} pins for {machine}")
    names = Counter(canonicalize_name(pin.name) for pin, _, _ in locked)
    problems += [f"{name} has {count} versions" for name, count in names.items() if count > 1]
    for pin, hashes, _ in locked:
        if pin.url or [each.operator for each in pin.specifier] != ["=="]:
            problems.append(f"{pin} is not a version")
        if not hashes:
            problems.append(f"{pin.name} has no hash")
    for text in ("://", "--index-url", "--extra-index-url", "--find-links"):
        if text in lock:
            problems.append(f"the lock holds {text}")
    return problems


def test_doctor_knows_what_was_tried():
    """From the lower bound, which `--resolution lowest-direct` installs, to the lock's version or a newer one."""

    def minor(version):
        return [int(number) for number in re.findall(r"\d+", version)[:2]]

    oldest, end = re.findall(r"3\.\d+", PROJECT["requires-python"])
    tried = {**doctor.TRIED}
    assert tried.pop("python") == (oldest, f"3.{int(end[2:]) - 1}")
    lows = {need.name: next(iter(need.specifier)).version for need in requirements(PYPROJECT)}
    locked = {pin.name: next(iter(pin.specifier)).version for pin, _, _ in pins(LOCK)}
    for name, (low, high) in tried.items():
        assert minor(low) == minor(lows[name]) and minor(high) >= minor(locked[name]), name


def test_the_lock_is_in_step():
    assert lock_problems(PYPROJECT, LOCK) == [], "run `make lock`"
    assert len(pins(LOCK)) > 100 and all(hashes for _, hashes, _ in pins(LOCK))


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            '    "einops>=0.8",\n',
            '    "einops>=0.8",\n    "scipy>=1.11",\n',
            "scipy is in pyproject.toml, not in the lock",
        ),
        (
            '    "pytest>=8.2,<10",\n',
            '    "pytest>=8.2,<10",\n    "Flake8",\n',
            "flake8 is in pyproject.toml, not in the lock",
        ),
        ('    "einops>=0.8",\n', "", "einops is in the lock, not in pyproject.toml"),
        ('"torch>=2.6"', '"torch>=99"', "torch==[0-9.]+ does not satisfy torch>=99"),
        ("pytest>=8.2,<10", "pytest>=8.2,<8.3", "pytest==[0-9.]+ does not satisfy pytest<8.3,>=8.2"),
        (
            "; platform_machine == 'x86_64' or platform_machine == 'AMD64'",
            "",
            r"decord>=0.6.0 has 0 pins for .*aarch64",
        ),
        ('"jupytext>=', '"nbdime>=', "jupytext is in the lock, not in pyproject.toml"),
    ],
)
def test_a_stale_lock_is_found(old, new, message):
    assert PYPROJECT.count(old) == 1
    found = lock_problems(PYPROJECT.replace(old, new), LOCK)
    assert any(re.fullmatch(message + ".*", text) for text in found), found


@pytest.mark.parametrize(
    "pattern, new, message",
    [
        (r"^einops==.*\n(    --hash.*\n)+", "einops==0.8.2\n", "einops has no hash"),
        (r"^einops==\S+", "einops @ https://example.org/einops.whl", "the lock holds ://"),
        (r"^einops==", "einops>=", "einops>=.* is not a version"),
        (r"\A", "--index-url internal\n", "the lock holds --index-url"),
        (r"^einops==(.*\n)+?(?=entrypoints)", "", "einops is in pyproject.toml, not in the lock"),
        (
            r"^(?=einops==)",
            "einops==0.8.0 \\\\\n    --hash=sha256:" + 64 * "0" + "\n",
            "einops>=0.8 has 2 pins for .*3.12",
        ),
        (
            r"^(?=einops==)",
            "einops==0.8.0 ; python_full_version < '3.11' \\\\\n    --hash=sha256:" + 64 * "0" + "\n",
            "einops has 2 versions",
        ),
    ],
)
def test_a_damaged_lock_is_found(pattern, new, message):
    damaged, count = re.subn(pattern, new, LOCK, count=1, flags=re.MULTILINE)
    assert count == 1
    found = lock_problems(PYPROJECT, damaged)
    assert any(re.fullmatch(message + ".*", text) for text in found), found


def test_pyproject_pins_nothing_and_other_locks_are_not_committed():
    needs = requirements(PYPROJECT)
    assert [str(n) for n in needs if any("==" in each.operator for each in n.specifier)] == []
    assert [str(n) for n in needs if n.url or not n.specifier] == []
    assert [
        path
        for path in TRACKED
        if path.name
        in ("uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "package-lock.json", "yarn.lock", "pylock.toml")
    ] == []


# ---------------------------------------------------------------- what is committed

OF_A_MACHINE = re.compile(r"(?<![\w.-])/(?:root|work|(?:home|Users)/\w+)(?![\w-])|\.\./" + "shared")
EXAMPLE = "/home/" + "ann"  # in the tests of the gate that finds such paths
PICTURE = re.compile(r"[A-Za-z0-9+/=]{200,}")  # base64 in notebooks


def machine_paths(text: str) -> list[str]:
    return [path for path in OF_A_MACHINE.findall(PICTURE.sub("", text)) if path != EXAMPLE]


def test_no_path_of_a_machine_is_committed():
    found, read = {}, 0
    for path in TRACKED:
        data = (ROOT / path).read_bytes()
        if b"\0" in data or path.parts[0] in (".ci", "Makefile"):
            continue
        read += 1
        found[str(path)] = machine_paths(data.decode("utf-8"))
    assert read > 30 and {path: texts for path, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "text, found",
    [  # ¦ is a slash: this file is searched as well
        ("open('¦root/x')", 1),
        ("see ¦home/joe/clips", 1),
        ("¦Users/joe", 1),
        ("cd ¦work/main", 1),
        ("..¦shared/clips", 1),
        ("'¦work'", 1),
        ("src¦work¦x", 0),
        ("home¦work", 0),
        ("github.com¦root¦x", 0),
        ("¦workers", 0),
        ("A" * 300 + "¦root¦" + "A" * 300, 0),
    ],
)
def test_paths_of_a_machine_are_recognised(text, found):
    assert len(machine_paths(text.replace("¦", "/"))) == found


def test_files_are_small():
    large = {str(path): (ROOT / path).stat().st_size for path in TRACKED if (ROOT / path).stat().st_size > 1_600_000}
    weights = Path("vt_course/models/weights")
    assert {
        name: size
        for name, size in large.items()
        if Path(name).parent != weights or Path(name).suffix != ".safetensors" or size > 6_000_000
    } == {}


def test_nothing_that_is_made_is_committed():
    made = (".venv", ".uv", "build", "runs", "work", "__pycache__", ".ipynb_checkpoints", "synthetic")
    assert [str(path) for path in TRACKED if set(path.parts[:-1]) & set(made)] == []
    assert [str(p) for p in TRACKED if p.suffix in (".mp4", ".pth", ".pt", ".pyc", ".part")] == []


def test_licence_and_citation():
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in licence and "CC BY 4.0" in licence.replace("\n", " ")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type"} <= citation.keys()
    assert citation["version"] == __version__ and citation["license"] == PROJECT["license"]
    arxiv = {each["value"] for paper in citation["references"] for each in paper["identifiers"]}
    assert {"arXiv:2103.14030", "arXiv:2106.13230"} <= arxiv


# ---------------------------------------------------------------- every system


def text_without_encoding(source: str) -> list[int]:
    """Lines that open a text file or a text pipe and do not name its encoding: Windows would take cp1252."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        mode = given.get("mode", call.args[1] if len(call.args) > 1 else ast.Constant("r"))
        if (
            "encoding" not in given
            and None not in given
            and (
                name in ("read_text", "write_text")
                or name == "fdopen"
                and "b" not in ast.unparse(mode)
                or name == "open"
                and isinstance(call.func, ast.Name)
                and "b" not in ast.unparse(mode)
                or {"text", "universal_newlines"} & given.keys()
                and {"stdout", "capture_output", "stdin"} & given.keys()
            )
        ):
            found.append(call.lineno)
    return found


@pytest.mark.parametrize(
    "source, lines",
    [
        ("open('a')", [1]),
        ("open('a', 'rb')", []),
        ("open('a', mode='w')", [1]),
        ("open('a', 'w', encoding='utf-8')", []),
        ("\npath.read_text()", [2]),
        ("path.write_text(text, encoding='utf-8')", []),
        ("path.read_bytes()", []),
        ("run(command, text=True, capture_output=True)", [1]),
        ("run(command, capture_output=True)", []),
        ("Popen(command, encoding='utf-8', stdin=PIPE)", []),
        ("av.open(path)", []),
        ("os.fdopen(1, 'w')", [1]),
    ],
)
def test_text_without_encoding_is_recognised(source, lines):
    assert text_without_encoding(source) == lines


def test_every_text_file_names_its_encoding():
    sources = [path for path in TRACKED if path.suffix == ".py"]
    assert len(sources) > 100
    found = {str(path): text_without_encoding((ROOT / path).read_text(encoding="utf-8")) for path in sources}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_one_hand(command):
    """Lint (imports in one style, encodings, width) and format; pyproject.toml says what of it and where."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command.split(), "--no-cache", "."],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- one door for parsers

PARSERS = {
    "json.load",
    "json.loads",
    "json.JSONDecoder",
    "csv.reader",
    "csv.DictReader",
    "numpy.load",
    "numpy.loadtxt",
    "numpy.genfromtxt",
    "torch.load",
    "torch.jit.load",
    "safetensors.safe_open",
    "safetensors.torch.load",
    "safetensors.torch.load_file",
    "safetensors.torch.load_model",
    "safetensors.deserialize",
    "tarfile.open",
    "tarfile.TarFile",
    "tarfile.TarFile.open",
    "zipfile.ZipFile",
    "gzip.open",
    "gzip.GzipFile",
    "gzip.decompress",
    "zlib.decompress",
    "zlib.decompressobj",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "yaml.load",
    "yaml.safe_load",
    "tomllib.load",
    "tomllib.loads",
    "ast.literal_eval",
    "av.open",
    "decord.VideoReader",
    "torchcodec.decoders.VideoDecoder",
    "PIL.Image.open",
}

OUTSIDE = {  # what stands outside vt_course/files.py, and why it may
    ("publish/hosted.py", "tomllib.loads"): "pyproject.toml of a checkout, which no reader makes",
    ("data/reader.py", "av.open"): "the decoders' door: every call below it is refused as BadClip",
    ("data/prepare.py", "av.open"): "writes",
    ("data/synthetic.py", "av.open"): "writes",
    ("data/shards.py", "av.open"): "writes",
    ("claims/bench_data.py", "decord.VideoReader"): "a peer, inside `parsing`",
    ("data/decoders.py", "decord.VideoReader"): "called by ClipReader, which refuses any error as BadClip",
    ("data/decoders.py", "torchcodec.decoders.VideoDecoder"): "the same",
    ("claims/bench_data.py", "torchcodec.decoders.VideoDecoder"): "a peer, inside `parsing`",
    ("claims/bench_train_sides.py", "decord.VideoReader"): "a peer, inside `parsing`",
    ("claims/bench_train_sides.py", "torchcodec.decoders.VideoDecoder"): "a peer, inside `parsing`",
    ("claims/phone_clips.py", "av.open"): "writes",
    ("fetch/kinetics.py", "tarfile.open"): "the first piece of an archive in memory, where any error means: no telling",
    ("fetch/kinetics.py", "zlib.decompressobj"): "the same",
    ("data/verify.py", "json.loads"): "lines between our own processes, over a pipe",
    ("grading/runner.py", "json.loads"): "a word of the command line that started it; it imports nothing of ours",
    ("grading/runner.py", "pickle.loads"): "requests of the judge, who trusts no answer; nobody else can write them",
    ("publish/release.py", "zipfile.ZipFile"): "writes",
    ("training/folder.py", "json.loads"): "what json.dumps has just written",
    ("training/experiments/rows.py", "json.loads"): "the same",
    ("training/pretrained.py", "json.loads"): "the same",
    ("lab/show/__main__.py", "PIL.Image.open"): "a picture that matplotlib has just drawn, in memory",
    ("lab/show/explore.py", "PIL.Image.open"): "the same",
    ("publish/printing.py", "json.loads"): "what the browser that we started says",
    ("publish/slides/cut.py", "PIL.Image.open"): "a picture of the course's own notebooks",
    ("publish/figures.py", "PIL.Image.open"): "a picture of the course's own notebooks; a broken one counts as unlike",
}


def parser_calls(source: str) -> set[str]:
    """The parsers of `PARSERS` that a module names, under whatever name it has imported them."""
    names = {}  # of the module -> in full
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            first, dot, rest = ast.unparse(node).partition(".")
            found.add(names.get(first, "") + dot + rest)
    return found & PARSERS


@pytest.mark.parametrize(
    "source, calls",
    [
        ("import json\njson.loads(text)", {"json.loads"}),
        ("import json\njson.dumps(value)", set()),
        ("from json import load as read\nread(file)", {"json.load"}),
        ("import numpy as np\nnp.load(path)", {"numpy.load"}),
        ("import safetensors.torch\nsafetensors.torch.load_file(path)", {"safetensors.torch.load_file"}),
        ("from safetensors import torch as st\nst.load(data)", {"safetensors.torch.load"}),
        ("def f():\n    import torch\n    return map(torch.load, paths)", {"torch.load"}),
        ("model.load(path)", set()),
        ("import tarfile as t\nwith t.open(path) as tar: pass", {"tarfile.open"}),
        ("from PIL import Image\nImage.open(f)", {"PIL.Image.open"}),
    ],
)
def test_parser_calls_are_recognised(source, calls):
    assert parser_calls(source) == calls


def test_no_parser_stands_outside_the_door():
    found = set()
    for path in (path for path in TRACKED if path.parts[0] == "vt_course" and path.suffix == ".py"):
        name = path.relative_to("vt_course").as_posix()
        found |= {
            (name, call) for call in parser_calls((ROOT / path).read_text(encoding="utf-8")) if name != "files.py"
        }
    assert found == set(OUTSIDE)
    inside = parser_calls((ROOT / "vt_course/files.py").read_text(encoding="utf-8"))
    assert inside == {
        "json.loads",
        "csv.reader",
        "csv.DictReader",
        "numpy.load",
        "torch.load",
        "safetensors.torch.load",
        "tarfile.open",
        "gzip.open",
        "yaml.load",
    }


REFUSED = re.compile(r'[<>:"|?*\\]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


@pytest.mark.parametrize(
    "name, refused",
    [
        ("a:b.mp4", True),
        ("aux.py", True),
        ("a.", True),
        ("Con", True),
        ("auxiliary.py", False),
        ("counter-clockwise.csv", False),
        ("00_start.ipynb", False),
    ],
)
def test_names_that_windows_refuses_are_recognised(name, refused):
    assert bool(REFUSED.search(name)) is refused


def test_windows_can_check_out_every_file():
    """Its names, their difference without case, and paths that fit 260 characters below a folder of 150."""
    assert [str(path) for path in TRACKED for part in path.parts if REFUSED.search(part)] == []
    assert len({str(path).lower() for path in TRACKED}) == len(TRACKED)
    assert max(len(str(path)) for path in TRACKED) < 100
    assert [
        str(path)
        for path in TRACKED
        if path.suffix in (".py", ".sh", ".md", ".toml", ".csv", ".ipynb", "") and b"\r\n" in (ROOT / path).read_bytes()
    ] == []
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()


# ---------------------------------------------------------------- rooms

# What each room may import of ours besides itself; "" is vt_course/__init__.py.
MAY_IMPORT = {
    "": set(),
    "models": set(),
    "machine": {""},
    "data": {"", "machine"},
    "training": {"", "machine", "data", "models"},
    "fetch": {"", "machine", "data", "models", "training"},
    "claims": {"", "machine", "data", "models", "training"},
    "lab": {"", "data", "models", "training", "claims"},
    "publish": {"", "machine", "data", "models", "training", "lab"},
    "grading": {"", "lab", "publish"},
    "doctor": {"", "machine"},
    "cli": {"", "machine", "data", "models", "training", "fetch", "claims", "lab", "publish", "grading", "doctor"},
}


def room_of(module: list[str]) -> str:
    return module[1] if len(module) > 1 and module[1] in MAY_IMPORT else ""


def imported_rooms(source: str, package: list[str]) -> set[str]:
    """The rooms that a module in `package`, for instance ["vt_course", "data"], imports."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            modules = [[*base, alias.name] for alias in node.names]
        else:
            continue
        rooms |= {room_of(module) for module in modules if module[0] == "vt_course"}
    return rooms


@pytest.mark.parametrize(
    "source, rooms",
    [
        ("import torch\nfrom numpy import data", set()),
        ("from vt_course import CourseError", {""}),
        ("from vt_course import data, CourseError", {"", "data"}),
        ("import vt_course.lab.show as show", {"lab"}),
        ("def f():\n    from vt_course.training.fit import fit", {"training"}),
        ("from . import hygiene", {"publish"}),
        ("from .kernel import select", {"publish"}),
        ("from .. import CourseError", {""}),
        ("from .. import models", {"models"}),
        ("from ..cli import main", {"cli"}),
    ],
)
def test_imports_are_recognised(source, rooms):
    assert imported_rooms(source, ["vt_course", "publish"]) == rooms


def test_rooms_import_in_one_direction():
    wrong, seen = [], set()
    for path in sorted((ROOT / "vt_course").rglob("*.py")):
        package = list(path.relative_to(ROOT).parts[:-1])
        room = room_of([*package, path.stem])
        seen.add(room)
        rooms = imported_rooms(path.read_text(encoding="utf-8"), package)
        wrong += [
            f"{path.relative_to(ROOT)} imports {other or 'vt_course'}" for other in rooms - MAY_IMPORT[room] - {room}
        ]
    assert wrong == [] and seen == set(MAY_IMPORT)


# ---------------------------------------------------------------- make


@pytest.mark.parametrize(
    "name, value", [("MAKEFLAGS", "w"), ("MAKELEVEL", "2"), ("GIT_DIR", "/nowhere"), ("MPLBACKEND", "svg")]
)
def test_nothing_of_whoever_starts_the_tests_reaches_them(name, value):
    """`make test` called from another make, or from a hook of git, is the same `make test`."""
    code = f"import os, conftest; print({name!r} in os.environ)"
    env = os.environ | {name: value, "PYTHONPATH": str(ROOT / "tests")}
    assert subprocess.check_output([sys.executable, "-c", code], env=env, encoding="utf-8") == "False\n"


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    targets = re.findall(r"^([\w-]+):(?!=)", makefile, re.MULTILINE)
    assert sorted(phony) == sorted(targets) and len(phony) == len(set(phony))
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    listed = re.findall(r"^  make (\S+) +\S", shown.stdout, re.MULTILINE)
    assert listed == phony or sorted(listed) == sorted(phony)
    assert {"setup", "course", "test", "lab", "help", "data", "build", "lock"} <= set(listed)


def test_every_target_is_one_line():
    """So whoever has no make (Windows) types the verb. What comes before there are verbs is a script of .ci."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^([\w-]+):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    assert {name: recipe.count("\n") for name, recipe in recipes.items()} == dict.fromkeys(recipes, 1)
    verbs = {name for name, recipe in recipes.items() if recipe.startswith(f"\t@$(VT) {name.partition('-')[0]}")}
    scripts = {name for name, recipe in recipes.items() if f".ci/{name}" in recipe}
    assert verbs == {"data", "course", "test", "test-quick", "lab", "lab-solutions", "build"} and scripts == {
        "setup",
        "wheelhouse",
        "lock",
    }
    assert recipes.keys() - verbs - scripts == {"help", "clean"}


def test_continuous_integration_is_make_test_and_more():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-2:] == ["make test", ".ci/more"]
    assert "set -euo pipefail" in lines
    assert suite.STAGES == ("rules", "tests", "outputs", "unsolved") == tuple(suite.RUN) == tuple(suite.DOES)
    more = (ROOT / ".ci" / "more").read_text(encoding="utf-8")
    assert "-m dear tests" in more
    assert {'stage "dear tests"', 'stage "other-os windows"', 'stage "other-os macos"', 'stage "fresh $suite"'} <= set(
        re.findall(r'^stage ".*?"', more, re.MULTILINE)
    )
    assert not any("||" in line for line in lines)
    budget = json.loads((ROOT / "tests" / "budget.json").read_text(encoding="utf-8"))
    assert budget["cpu_seconds"].keys() == set(suite.STAGES)


def more(tmp_path, stages: str, **env):
    """(exit code, last line) of .ci/more with other stages."""
    text = (ROOT / ".ci" / "more").read_text(encoding="utf-8")
    start, end = text.index('stage "dear tests"'), text.index("join() {")
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "more").write_text(text[:start] + stages + "\n" + text[end:], encoding="utf-8")
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "more"],
        capture_output=True,
        encoding="utf-8",
        env={key: value for key, value in os.environ.items() if key != "CI"} | env,
    )
    return done.returncode, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "stages, ci, code, line",
    [
        ('stage "a b" true', "", 0, r"== all stages of .ci/more passed; a b \d+ s"),
        ('stage "a b" true', "true", 0, r"== all stages of .ci/more passed; a b \d+ s"),
        ("stage a false\nstage b true", "", 1, r"== FAILED: a; a \d+ s, b \d+ s"),
        (
            "skip() { return 77; }\nstage a skip\nstage b true",
            "",
            0,
            r"== all stages .* passed; SKIPPED, not for lack of faults: a; .*",
        ),
        ("skip() { return 77; }\nstage a skip\nstage b true", "true", 1, r"== FAILED: a \(cannot run here\); .*"),
    ],
)
def test_what_cannot_run_fails_where_it_must_run(tmp_path, stages, ci, code, line):
    found = more(tmp_path, stages, CI=ci)
    assert found[0] == code and re.fullmatch(line, found[1]), found


def rows(**cpu):
    return [
        dict(stage=stage, passed=seconds is not None, seconds=9.6, cpu_seconds=seconds, budget=100)
        for stage, seconds in cpu.items()
    ]


@pytest.mark.parametrize(
    "stages, line",
    [
        (dict(rules=10.0, tests=149.0), "== all stages passed; rules 10 s (10 CPU), tests 10 s (149 CPU)"),
        (dict(tests=None), "== FAILED: tests; tests 10 s"),
        (
            dict(tests=151.0),
            "== all stages passed; tests 10 s (151 CPU); WARNING: tests took 151 CPU seconds, 1.5 times its budget of "
            "100 "
            "(tests/budget.json)",
        ),
    ],
)
def test_a_stage_that_became_dear_is_a_warning_in_the_last_line(stages, line):
    assert suite.verdict(rows(**stages)) == line


def test_all_stages_run_whatever_fails_and_the_exit_code_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "budget.json").write_text(
        '{"cpu_seconds": {"rules": 1, "tests": 2, "outputs": 3, "unsolved": 4}}', encoding="utf-8"
    )
    ran = []
    for stage in suite.STAGES:
        monkeypatch.setitem(
            suite.RUN, stage, lambda root, quick, stage=stage: ran.append((stage, quick)) or stage != "tests"
        )
    monkeypatch.setattr(suite, "repo_root", lambda: tmp_path)
    monkeypatch.setattr("vt_course.cli.course.need_data", lambda: None)
    assert main(["test"]) == 1 and [stage for stage, _ in ran] == list(suite.STAGES)
    out = capsys.readouterr().out
    assert f"== stage 2 of 4, tests: {suite.DOES['tests']} (about 2 CPU seconds)" in out
    assert out.splitlines()[-1].startswith("== FAILED: tests; ")
    assert [
        row["stage"] for row in json.loads((tmp_path / "build/test/seconds.json").read_text(encoding="utf-8"))
    ] == list(suite.STAGES)
    ran.clear()
    assert main(["test", "unsolved", "rules"]) == 0 and ran == [("rules", False), ("unsolved", False)]
    ran.clear()
    assert main(["test", "--quick"]) == 1 and ran == [("rules", True), ("tests", True)]
    assert main(["test", "notebook"]) == 2
    assert (
        capsys.readouterr().err
        == "vt-course: there is no stage notebook; choose from rules, tests, outputs, unsolved\n"
    )


@pytest.mark.parametrize(
    "name", [".ci/setup", ".ci/wheelhouse", ".ci/lock", ".ci/run", ".ci/more", ".ci/fresh", ".ci/other-os"]
)
def test_scripts_can_be_run(name):
    mode = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-s", name],
        cwd=ROOT,
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout
    assert mode.startswith("100755 ")
    shell = (ROOT / name).read_text(encoding="utf-8").splitlines()[0].split()[-1].split("/")[-1]
    subprocess.run([shell, "-n", name], cwd=ROOT, check=True)
