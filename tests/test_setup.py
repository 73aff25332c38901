""".ci/setup in a checkout of its own, with stand-ins for uv and Python that only take notes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

if not hasattr(os, "fork"):
    pytest.skip("Windows lacks what this needs: a shell and symbolic links", allow_module_level=True)

from vt_course import repo_root

TOOLS = ("sh", "cat", "cksum", "dirname", "mkdir", "rm", "chmod")  # all that the script may use
UV = """#!/bin/sh
echo "uv $*" >> "$NOTES"
case "$*" in
    *"${FAIL:-nothing}"*) echo "uv: no network" >&2; exit 7 ;;
    venv*) mkdir -p .venv/bin ;;
esac
"""
# `-c` programs: the script asks for the version, and whether it is new enough.
PYTHON = """#!/bin/sh
echo "python3 $*" >> "$NOTES"
case "$*" in
    *"<= sys.version_info <"*) exit "${TOO_OLD:-0}" ;;
    *version_info*) echo 3.12 ;;
    "-m venv"*) [ -z "${NO_VENV:-}" ] || { mkdir .uv; exit 1; }
                mkdir -p .uv/bin && cp "$0" .uv/bin/python ;;
    "-m pip install"*) [ -z "${NO_PIP:-}" ] || exit 1
                       cp "$STAND_IN" .uv/bin/uv ;;
esac
"""


class Checkout:
    """A fake repository with the real .ci/setup, and a PATH that holds only stand-ins."""

    def __init__(self, folder: Path):
        self.root, self.bin = folder / "a checkout", folder / "bin"
        self.notes, self.stand_in = folder / "notes", folder / "uv"
        (self.root / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(repo_root() / ".ci" / "setup", self.root / ".ci" / "setup")
        (self.root / "pyproject.toml").write_text('[project]\nname = "toy"\n', encoding="utf-8")
        self.lock = self.root / "requirements.lock"
        self.lock.write_text("toy==1.0\n", encoding="utf-8")
        for tool in (*TOOLS, "cp"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.stand_in.write_text(UV, encoding="utf-8")
        self.stand_in.chmod(0o755)
        self.give("uv", UV)
        self.give("python3", PYTHON)

    @property
    def stamp(self):
        return self.root / ".venv" / ".vt-course-ready"

    def give(self, name: str, text: str):
        (self.bin / name).write_text(text, encoding="utf-8")
        (self.bin / name).chmod(0o755)

    def run(self, **env):
        """(exit code, stderr, what the stand-ins were asked to do)."""
        self.notes.write_text("", encoding="utf-8")
        done = subprocess.run(
            [self.root / ".ci" / "setup"],
            cwd=self.root.parent,
            capture_output=True,
            encoding="utf-8",
            env=dict(PATH=str(self.bin), NOTES=str(self.notes), STAND_IN=str(self.stand_in), **env),
        )
        assert done.stdout == ""
        return done.returncode, done.stderr, self.notes.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_setup_makes_the_venv_from_the_lock(checkout):
    code, err, notes = checkout.run()
    assert code == 0 and err.splitlines()[-1] == "setup: done; the command is .venv/bin/vt-course"
    assert [line for line in notes if line.startswith("uv ")] == [
        f"uv venv --quiet --allow-existing --python {checkout.bin / 'python3'} .venv",
        "uv pip sync --quiet --python .venv/bin/python --compile-bytecode --require-hashes requirements.lock",
        "uv pip install --quiet --python .venv/bin/python --no-deps --editable .",
    ]
    assert checkout.stamp.is_file() and not (checkout.root / ".uv").exists()


def test_the_second_run_does_nothing(checkout):
    checkout.run()
    assert checkout.run() == (0, "", [])


def test_pytorch_without_cuda_is_asked_for_once(checkout):
    code, err, notes = checkout.run(TORCH="cpu")
    assert code == 0 and "about 1 GB" in err
    assert [line for line in notes if line.startswith("uv pip")] == [
        "uv pip install --quiet --python .venv/bin/python --compile-bytecode --torch-backend cpu --no-verify-hashes "
        "--constraint requirements.lock"
        " --editable .[notebooks,test,shards,export,bench]"
    ]
    assert checkout.run(TORCH="cpu") == (0, "", []) and checkout.run() == (0, "", [])  # it stays
    checkout.lock.write_text("toy==1.1\n", encoding="utf-8")
    assert any(line.startswith("uv pip sync") for line in checkout.run()[2])  # but for another lock
    assert any("--torch-backend cpu" in line for line in checkout.run(TORCH="cpu")[2])  # and back


def test_an_unknown_torch_is_refused(checkout):
    code, err, notes = checkout.run(TORCH="gpu")
    assert (code, notes) == (2, []) and err == "setup: TORCH is 'gpu'; it can be cpu, or nothing.\n"


@pytest.mark.parametrize("with_uv", [True, False])
def test_from_a_wheelhouse_without_a_network(checkout, tmp_path, with_uv):
    wheels = tmp_path / "on a stick"
    wheels.mkdir()
    code, err, notes = checkout.run(WHEELS=str(wheels))
    assert (code, notes) == (2, []) and f"{wheels} is no wheelhouse" in err
    (wheels / "requirements.txt").write_text("toy==1.0\n", encoding="utf-8")
    if not with_uv:
        (checkout.bin / "uv").unlink()
    code, err, notes = checkout.run(WHEELS=str(wheels))
    assert code == 0 and f"from {wheels}, without a network" in err
    fetching = [line for line in notes if " install " in line or " sync " in line]
    assert len(fetching) == 2 + (not with_uv)
    assert all(f"--no-index --find-links {wheels}" in line for line in fetching)
    assert checkout.run() == (0, "", [])


def test_a_wheelhouse_needs_a_folder_and_keeps_the_lock(checkout, tmp_path):
    for name in ("wheelhouse", "lock"):
        shutil.copy(repo_root() / ".ci" / name, checkout.root / ".ci" / name)
    for tool in ("ls", "wc", "du", "cut"):
        (checkout.bin / tool).symlink_to(shutil.which(tool))
    env = dict(PATH=str(checkout.bin), NOTES=str(checkout.notes))
    assert subprocess.run([checkout.root / ".ci" / "wheelhouse"], env=env, capture_output=True).returncode != 0
    out = tmp_path / "wheels"
    subprocess.run([checkout.root / ".ci" / "wheelhouse", out], env=env, check=True, capture_output=True)
    assert (out / "requirements.txt").read_text(encoding="utf-8") == "toy==1.0\n"
    locked, tools = checkout.notes.read_text(encoding="utf-8").splitlines()
    assert locked.endswith(
        f"--only-binary :all: --dest {out} --no-deps --require-hashes --requirement {out}/requirements.txt"
    )
    assert tools.endswith(f"--dest {out} uv hatchling editables")


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml", ".ci/setup"])
def test_a_changed_file_runs_it_again(checkout, name):
    checkout.run()
    with open(checkout.root / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    code, _, notes = checkout.run()
    assert code == 0 and any(line.startswith("uv pip sync") for line in notes)
    assert checkout.run() == (0, "", [])


def test_an_old_python_is_left_to_uv(checkout):
    code, _, notes = checkout.run(TOO_OLD="1")
    assert code == 0
    assert "uv venv --quiet --allow-existing --python >=3.11,<3.15 .venv" in notes


def test_without_uv_it_is_installed_into_the_checkout(checkout):
    (checkout.bin / "uv").unlink()
    code, err, notes = checkout.run()
    assert code == 0 and err.startswith("setup: no uv on the PATH; installing it into .uv/\n")
    assert [line for line in notes if " -m " in line] == [
        "python3 -m venv .uv",
        "python3 -m pip install --quiet --disable-pip-version-check uv",
    ]
    assert any(line.startswith("uv pip sync") for line in notes) and checkout.stamp.is_file()
    checkout.lock.write_text("toy==1.1\n", encoding="utf-8")  # and found there from then on
    code, _, notes = checkout.run()
    assert code == 0 and notes and "python3 -m venv .uv" not in notes


def test_without_uv_and_venv_the_package_is_named(checkout):
    (checkout.bin / "uv").unlink()
    code, err, notes = checkout.run(NO_VENV="1")
    assert code == 2 and not any(line.startswith("uv ") for line in notes)
    announced, message = err.splitlines()
    assert announced == "setup: no uv on the PATH; installing it into .uv/"
    assert message.startswith("setup: this Python has no venv module.")
    assert "apt install python3.12-venv)" in message
    assert not checkout.stamp.exists() and not (checkout.root / ".uv").exists()
    assert checkout.run()[0] == 0  # after it was installed


def test_without_network_for_uv(checkout):
    (checkout.bin / "uv").unlink()
    code, err, _ = checkout.run(NO_PIP="1")
    assert code == 2 and "uv could not be installed from PyPI. Check the network" in err
    assert not checkout.stamp.exists()
    assert checkout.run()[0] == 0 and checkout.stamp.exists()


def test_without_python_the_way_to_get_it_is_said(checkout):
    (checkout.bin / "python3").unlink()
    code, err, notes = checkout.run()
    assert (code, notes) == (2, [])
    (message,) = err.splitlines()
    assert message.startswith("setup: no python3 found. Install Python 3.11 or newer")
    assert checkout.run(PYTHON="python4")[1].startswith("setup: no python4 found.")


@pytest.mark.parametrize("step", ["venv --quiet", "pip sync", "pip install"])
def test_a_failing_step_leaves_no_stamp(checkout, step):
    code, err, notes = checkout.run(FAIL=step)
    assert code != 0 and "uv: no network" in err and "done" not in err
    assert step in notes[-1] and not checkout.stamp.exists()
    code, _, notes = checkout.run()  # the next run starts again
    assert code == 0 and len([line for line in notes if line.startswith("uv ")]) == 3


def test_a_failing_update_does_not_look_finished(checkout):
    """The old stamp stays, but names the old lock."""
    checkout.run()
    checkout.lock.write_text("toy==2.0\n", encoding="utf-8")
    assert checkout.run(FAIL="pip sync")[0] != 0
    assert any(line.startswith("uv pip sync") for line in checkout.run()[2])
