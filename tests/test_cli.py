"""The command line: what it prints, where, and with which exit code."""

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from vt_course import cli, doctor, repo_root
from vt_course.claims import bench_data, bench_models, bench_train
from vt_course.cli import common, main, training
from vt_course.cli import course as cli_course
from vt_course.data import synthetic
from vt_course.models import cost, mini_weights, zoo
from vt_course.publish import build, course, work
from vt_course.publish.source import from_source
from vt_course.training import fit
from vt_course.training.pretrained import save_pretrained

from videos import write_audio, write_video

TINY = [
    "--set",
    "size=32",
    "frames=4",
    "stride=1",
    "batch_size=4",
    "epochs=1",
    "warmup_epochs=0",
    "keep=0",
    "--device",
    "cpu",
    "--workers",
    "0",
]


GOLDEN = "inflate_swin_to_video_swin_mini"


def run(*argv) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = cli.main([str(word) for word in argv])
        except SystemExit as stop:  # argparse
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def run_json(*argv):
    """The value that a command prints with --json: strict JSON, nothing else, nothing amiss."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    code, out, err = run(*argv, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=refuse)


def refused(*argv) -> str:
    """The one line on stderr of a command that the user can mend."""
    code, out, err = run(*argv)
    assert code == 2 and out == "" and err.count("\n") == 1 and err.endswith("\n"), err
    assert err.startswith("vt-course: ") and "Traceback" not in err
    return err


def verbs(parser=None, name=()) -> dict:
    """("data", "synthetic") -> its parser, for every verb and group of verbs."""
    found = {}
    for action in (parser or cli.parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                found[*name, word] = child
                found |= verbs(child, (*name, word))
    return found


# ---------------------------------------------------------------- help


def test_the_verbs():
    assert {" ".join(name) for name in verbs()} == {
        "gpu-report",
        "doctor",
        "clean",
        "data",
        "data synthetic",
        "data kinetics",
        "data prepare",
        "data shard",
        "data verify",
        "data stats",
        "bench",
        "bench decode",
        "bench loader",
        "bench models",
        "bench growth",
        "bench minis",
        "bench train",
        "models",
        "verify",
        "claims",
        "weights",
        "weights list",
        "weights get",
        "export",
        "recipes",
        "train",
        "evaluate",
        "predict",
        "explain",
        "experiments",
        "build",
        "course",
        "test",
        "lab",
        "open",
        "student",
        "release",
        "grade",
        "progress",
        "slides",
        "handout",
        "pages",
    }


@pytest.mark.parametrize("name", verbs(), ids=" ".join)
def test_every_verb_has_an_example_that_parses(name):
    code, out, err = run(*name, "--help")
    assert code == 0 and err == "" and "example: vt-course " in out
    epilog = verbs()[name].epilog
    program, *words = shlex.split(epilog.removeprefix("example: "))
    assert program == "vt-course" and words[: len(name)] == list(name)
    assert callable(cli.parser().parse_args(words).verb)


@pytest.mark.parametrize(
    "name", [name for name in verbs() if len(name) > 1 or name[0] not in ("data", "bench", "weights")], ids=" ".join
)
def test_every_verb_has_json(name):
    assert "--json" in verbs()[name].format_help()


@pytest.mark.parametrize(
    "document", ["data/README.md", *(f"docs/{name}.md" for name in ("students", "teachers", "researchers"))]
)
def test_commands_in_documents_parse(document):
    text = (repo_root() / document).read_text(encoding="utf-8").replace("$SLURM_ARRAY_TASK_ID", "7")
    commands = re.findall(
        r"vt-course ((?:%s) [^`\n#]*|models|doctor|build|course)(?=[`\n#])" % "|".join({name[0] for name in verbs()}),
        text,
    )
    assert commands
    for command in commands:
        cli.parser().parse_args(shlex.split(command))


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["data"],
        ["bench"],
        ["nonsense"],
        ["train", "video_swin_mini"],
        ["data", "synthetic", "--clips", "many"],
        ["data", "synthetic", "--clips", "8,8,8"],
        ["data", "synthetic", "--frames", "0"],
        ["bench", "decode", "x.mp4", "--repeats", "0"],
        ["train", "video_swin_mini", "--out", "x", "--workers", "-1"],
        ["train", "video_swin_mini", "--out", "x", "--max-steps", "2.5"],
        ["evaluate", "x", "--order", "backwards"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_parsed(argv):
    code, out, err = run(*argv)
    assert code == 2 and out == "" and err.startswith("usage: vt-course")
    assert "Traceback" not in err and re.search(r"\nvt-course.*: error: ", err)


@pytest.mark.parametrize("argv", [[], ["data"], ["weights"]], ids=" ".join)
def test_a_missing_verb_is_answered_with_help(argv):
    code, out, err = run(*argv)
    assert code == 2 and out == "" and run(*argv, "--help")[1] == err[: err.rindex("\n\n") + 1]
    assert err.splitlines()[-1] == f"vt-course{''.join(' ' + word for word in argv)}: error: name one of those above"


@pytest.mark.parametrize(
    "typed, hint",
    [
        ("trian video_swin_mini --out x", "there is no verb 'trian'; did you mean train?"),
        ("evalute runs/a", "did you mean evaluate?"),
        ("Models", "did you mean models?"),
        ("data verfy x", "there is no verb 'data verfy'; did you mean data verify?"),
        ("data_stats x", "did you mean data stats?"),
        ("synthetic", "did you mean data synthetic?"),
        ("weights train", "did you mean train?"),
        ("verfy x", "did you mean verify or data verify?"),
        ("qqq", "there is no verb 'qqq'; see `vt-course --help`"),
    ],
)
def test_a_misspelled_verb_is_answered_with_the_right_one(typed, hint):
    code, out, err = run(*typed.split())
    assert (code, out) == (2, "") and err.startswith("usage: vt-course") and err.splitlines()[-1].count("error") == 1
    assert hint in err


def test_help_lists_every_verb_once_in_its_section(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    out = run("--help")[1]
    top = [name[0] for name in verbs() if len(name) == 1]
    assert re.findall(r"^(\w+):$", out, re.MULTILINE)[:5] == ["Learn", "Train", "Models", "Teach", "Authors"]
    assert sorted(re.findall(r"^  ([\w-]+)  ", out.partition("\npositional")[0], re.MULTILINE)) == sorted(top)
    assert max(map(len, out.splitlines()[1:])) <= 100
    assert out.index("\nAuthors:") < out.index("\n  build ") < out.index("\n  test ")


def test_messages_name_the_command_that_can_be_typed(tmp_path, monkeypatch):
    """In an activated environment `vt-course`; else the path of the command, seen from the current folder."""
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    start = ["train", "video_swin_mini", "--out", tmp_path / "x", *TINY]
    assert "run `vt-course data synthetic`" in refused(*start)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv" / "bin" / "python"))
    assert "run `vt-course data synthetic`" in refused(*start)  # there is no such command: nothing better to say
    name = "vt-course.exe" if os.name == "nt" else "vt-course"
    script = tmp_path / "my venv" / "bin" / name
    script.parent.mkdir(parents=True)
    script.touch()
    typed = common.shell(script)
    for file in (tmp_path / name, tmp_path / "vt-course"):  # on the PATH, but that of another environment
        file.touch()
        file.chmod(0o755)
    assert shutil.which("vt-course")
    assert f"run `{typed} data synthetic`" in refused(*start)
    assert f": {typed} data synthetic\n" in run("doctor")[1]
    monkeypatch.chdir(tmp_path)
    typed = common.shell(script.relative_to(tmp_path))
    assert f"run `{typed} data synthetic`" in refused(*start) and f"`{typed} VERB --help`" in run("--help")[1]


@pytest.mark.parametrize(
    "text, typed",
    [
        ("run `vt-course build 04`.", "run `X build 04`."),
        ("train first with vt-course train M", "train first with X train M"),
        ("vt-course: no", "vt-course: no"),
        (".venv/bin/vt-course train", ".venv/bin/vt-course train"),
        ("~/.cache/my-vt-course data", "~/.cache/my-vt-course data"),
    ],
)
def test_commands_in_messages_are_recognised(text, typed, monkeypatch):
    monkeypatch.setattr(common, "command", lambda: "X")
    assert common.as_typed(text) == typed


# ---------------------------------------------------------------- results


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny embedded data set, where the commands of this module look for theirs."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VT_COURSE_DATA", str(root))
        yield root, run_json("data", "synthetic", "--clips", "8,8", "--frames", "4", "--size", "32")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    return out, run_json("train", "video_swin_mini", "--out", out, "--max-steps", "1", *TINY)


def test_data_synthetic(data):
    root, summary = data
    assert summary["out"] == str(root / "synthetic") and summary["rendered"] == 16
    assert summary["clips"] == {"train": 8, "val": 8}
    same = ["data", "synthetic", "--clips", "8,8", "--frames", "4", "--size", "32"]
    code, out, err = run(*same)
    assert (code, err) == (0, "") and re.fullmatch(r".*synthetic: 16 clips, \d+ MB, 0 rendered now in \d+ s\n", out)
    assert run(*same, "--quiet-if-complete") == (0, "", "")


@pytest.mark.parametrize("words, count", [((), 16), (("--test",), 24)])
def test_data_synthetic_without_numbers(words, count, tmp_path, monkeypatch):
    """What `make data` runs: how many clips is the renderer's default, and the last line counts them."""
    monkeypatch.setattr(synthetic, "CLIPS", {"train": 8, "val": 8, "test": 24})
    code, out, err = run("data", "synthetic", *words, "--frames", "4", "--size", "32", "--out", tmp_path)
    assert code == 0 and f": {count} clips, " in out and f"{count} rendered now" in out


# A human-readable line once ended in a traceback after all work was done, because it used an argument whose default is
# None. So for each verb a test prints its result in plain words, and gives no argument that it need not give.
PLAIN = {
    "bench decode": "test_cli.test_bench_decode_with_default_arguments",
    "bench growth": "test_cli.test_bench_growth_and_minis_with_default_arguments",
    "bench loader": "test_cli.test_bench_loader_with_default_arguments",
    "bench minis": "test_cli.test_bench_growth_and_minis_with_default_arguments",
    "bench models": "test_cli.test_bench_models_with_default_arguments",
    "bench train": "test_cli.test_bench_train_with_default_arguments",
    "build": "test_cli.test_build_check",
    "claims": "test_ledger.test_the_list_and_its_filters",
    "clean": "test_clean.test_the_command_with_default_arguments",
    "course": "test_cli.test_course_with_default_arguments",
    "data kinetics": "test_kinetics.test_the_command_with_default_arguments",
    "data prepare": "test_cli.test_data_prepare_verify_and_stats_with_default_arguments",
    "data shard": "test_shards.test_the_command",
    "data stats": "test_cli.test_data_prepare_verify_and_stats_with_default_arguments",
    "data synthetic": "test_cli.test_data_synthetic_without_numbers",
    "data verify": "test_cli.test_data_prepare_verify_and_stats_with_default_arguments",
    "doctor": "test_cli.test_doctor",
    "evaluate": "test_cli.test_train_and_evaluate",
    "experiments": "test_experiments.test_the_command",
    "explain": "test_cli.test_explain",
    "export": "test_export.test_the_verb",
    "grade": "test_grading.test_grade_on_the_command_line",
    "handout": "test_teaching.test_the_handout",
    "pages": "test_teaching.test_the_pages_are_in_step",
    "gpu-report": "test_gpu_report.test_the_command_with_default_arguments",
    "lab": "test_cli.test_lab_with_default_arguments",
    "models": "test_cli.test_models",
    "open": "test_work.test_open_copies_and_renders_and_never_overwrites",
    "predict": "test_predict.test_bad_files_cost_no_other",
    "progress": "test_cli.test_progress_is_a_table_and_json",
    "recipes": "test_official_recipes.test_recipes_on_the_command_line",
    "release": "test_grading.test_a_release_is_a_folder_and_a_zip",
    "slides": "test_slides.test_the_command_with_default_arguments",
    "student": "test_student.test_the_verb_writes_all_and_writes_again",
    "test": "test_project.test_all_stages_run_whatever_fails_and_the_exit_code_says_so",
    "train": "test_cli.test_train_goes_on_and_says_how_it_went",
    "verify": "test_cli.test_verify_has_heads_over_its_columns",
    "weights get": "test_download.test_the_command_with_default_arguments",
    "weights list": "test_cli.test_models_and_weights_take_a_filter",
}


def test_every_verb_is_printed_for_people_by_a_test():
    assert set(PLAIN) == set(common.VERBS)
    for verb, place in PLAIN.items():
        module, test = place.split(".")
        text = (repo_root() / "tests" / f"{module}.py").read_text(encoding="utf-8")
        assert f"\ndef {test}(" in text and all(f'"{word}"' in text for word in verb.split()), (verb, place)


@pytest.fixture
def folder_of_clips(data, tmp_path):
    """Three clips of two classes."""
    for name, place in (("00000", "train/a"), ("00001", "train/b"), ("00002", "val/a")):
        (tmp_path / "clips" / place).mkdir(parents=True, exist_ok=True)
        clip = data[0] / "synthetic" / "clips" / "val" / f"{name}.mp4"
        shutil.copy(clip, tmp_path / "clips" / place / f"{name}.mp4")
    return tmp_path / "clips"


def test_data_prepare_verify_and_stats_with_default_arguments(folder_of_clips, tmp_path):
    out = tmp_path / "small"
    code, text, err = run("data", "prepare", folder_of_clips, "--out", out)
    assert code == 0 and re.search(rf"^{out}: 3 of 3 clips, 0 MB, 3 encoded now in \d+ s$", text, re.MULTILINE)
    code, text, err = run("data", "verify", out)
    assert code == 0 and text == f"3 ok, 0 corrupt, 0 short, 0 missing, 0 timeout; {out / 'report.csv'}\n"
    (folder_of_clips / "train" / "b" / "bad \x1b[2J.mp4").write_bytes(b"no video")
    (folder_of_clips / "train" / "b" / "notes.xyz").touch()
    code, text, err = run("data", "verify", folder_of_clips)
    assert code == 1 and "train/b/bad \\x1b[2J.mp4  corrupt" in text and "\x1b" not in text
    code, text, err = run("data", "prepare", folder_of_clips, "--out", out)
    assert code == 0 and f"1 failed; {out / 'quarantine.csv'} says why" in text and "left_out.csv names them" in text
    code, text, err = run("data", "stats", out)
    assert code == 0 and text.splitlines()[0].split()[:3] == ["class", "train", "val"] and len(text.splitlines()) == 3


def test_bench_decode_with_default_arguments(data):
    code, out, err = run("bench", "decode", data[0] / "synthetic" / "clips" / "val" / "00000.mp4")
    assert (code, err) == (0, "") and len(out.splitlines()) > 4


def first_of(row):
    """A measurement that is not made: its arguments, and one row."""
    asked = []
    return asked, lambda *args, **settings: asked.append((*args, *settings.values())) or [row]


def test_bench_loader_with_default_arguments(monkeypatch):
    asked, measure = first_of(dict(frames=8, stride=8, peer="PyAV", clips_per_second=2.0, max_difference=None))
    monkeypatch.setattr(bench_data, "bench_loader", measure)
    code, out, err = run("bench", "loader", "a.mp4")
    assert (code, err) == (0, "") and out.splitlines()[1].split() == ["8", "8", "PyAV", "2.00"]
    assert asked == [([Path("a.mp4")], [8, 16, 32], 64, 224, 5)]


def test_bench_models_with_default_arguments(monkeypatch):
    asked, measure = first_of(dict(model="m", mode="eager", ratio=0.5, ours_ms=1.0, peak_mb=None))
    monkeypatch.setattr(bench_models, "bench_models", measure)
    code, out, err = run("bench", "models")
    assert (code, err) == (0, "") and out.splitlines()[-1] == "geometric mean of the ratios, eager: 0.50"
    assert asked[0][:4] == ([], "cpu", False, 60)


def test_bench_growth_and_minis_with_default_arguments(monkeypatch):
    asked, measure = first_of(dict(attention="joint", T=8, ms=1.5))
    monkeypatch.setattr(bench_models, "bench_growth", measure)
    monkeypatch.setattr(bench_models, "bench_minis", measure)
    for verb in ("growth", "minis"):
        code, out, err = run("bench", verb)
        assert (code, err) == (0, "") and out.split() == ["attention", "T", "ms", "joint", "8", "1.50"]
    assert asked == [("cpu", 3), ("cpu", 15)]


def test_bench_train_with_default_arguments(monkeypatch):
    settings = {"workers": 1, "threads": 1, "pipeline": "files", "decoder": "PyAV", "decoder_threads": 0}
    side = {"clips_per_second": 2.0, "peak_mb": 300.0, "waiting_share": 0.25, "settings": settings}
    result = {"sides": {"ours": side, "torchvision": side}, "ratio": 1.5, "ratio_error": 0.1, "target": 2}
    asked = []
    report = {"parts": {"torchvision, phone clips": {"result": result}}}
    monkeypatch.setattr(bench_train, "bench_train", lambda *args, **settings: asked.append(args) or report)
    code, out, err = run("bench", "train")
    assert (code, err, asked) == (0, "", [([],)])
    assert out.splitlines()[-1] == "phone clips: 1.50 ± 0.10 times torchvision"


def test_lab_with_default_arguments(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(cli_course, "need_data", lambda: None)
    monkeypatch.setattr(cli_course.subprocess, "call", lambda words: called.append(words) or 0)
    monkeypatch.setattr(work, "work_folder", lambda: tmp_path)
    monkeypatch.setattr(work, "first_use", lambda **_: [{"notebook": "05_toy", "state": "written"}])
    monkeypatch.setattr(work, "outdated", lambda: ["04_toy", "03_toy"])
    code, out, err = run("lab")
    assert (code, out) == (0, "") and called == [[sys.executable, "-m", "jupyterlab", f"--notebook-dir={tmp_path}"]]
    assert f"wrote into {tmp_path}: 05_toy; " in err and "04_toy, 03_toy in" in err


def test_bench_decode(data):
    clip = data[0] / "synthetic" / "clips" / "val" / "00000.mp4"
    small = ["--frames", "2", "--stride", "1", "--repeats", "1", "--short-side", "20"]
    rows = run_json("bench", "decode", clip, *small)
    assert {"decord", "pyav"} <= {row["decoder"] for row in rows}
    assert {row["access"] for row in rows} == {"random", "sequential"}
    code, out, err = run("bench", "decode", clip, *small)
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 + len(rows)
    code, out, err = run("bench", "decode", clip, *small[:-1], "16")  # a fault of decord's
    assert code == 2 and out == "" and err.count("\n") == 1 and "decord cannot read" in err and "00000.mp4" in err


def test_bench_loader(data):
    clip = data[0] / "synthetic" / "clips" / "val" / "00000.mp4"
    few = ["--frames", "2", "--span", "4", "--size", "16", "--repeats", "1"]
    rows = run_json("bench", "loader", clip, *few)
    assert {"decord, frame by frame", "PyAV", "torchvision style"} <= {row["peer"] for row in rows}
    code, out, err = run("bench", "loader", clip, *few)
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 + len(rows)


def test_models(monkeypatch):
    few = {name: zoo.ZOO[name] for name in ("swin_tiny", "video_swin_mini")}
    monkeypatch.setattr(zoo, "ZOO", few)
    monkeypatch.setattr(cost, "count_macs", lambda model, shape: 4.5e9)  # counting is slow
    rows = run_json("models")
    assert [row["name"] for row in rows] == list(few) and rows[1]["gmacs_stated"] is None
    code, out, err = run("models")
    assert (code, err) == (0, "")
    heading, tiny, mini = out.splitlines()
    assert heading.split()[:2] == ["model", "input"] and tiny.startswith("swin_tiny ")
    assert f"{rows[0]['params']:.2f}" in tiny.split() and "None" not in mini


def test_models_and_weights_take_a_filter(monkeypatch):
    counted = []
    monkeypatch.setattr(cost, "count_macs", lambda model, shape: 4.5e9)
    monkeypatch.setattr(zoo, "count_parameters", lambda model: counted.append(model) or 1)
    names = [row["name"] for row in run_json("models", "Swin", "mini")]
    assert names == ["swin_mini", "video_swin_mini"] and len(counted) == 2  # the others are not even built
    names = [row["name"] for row in run_json("weights", "list", "uniformer", "k600")]
    assert names and all("uniformer" in name and "k600" in name for name in names)
    everything = len(run_json("weights", "list"))
    assert len(names) < everything and len(run("weights", "list")[1].splitlines()) == 1 + everything
    for verb in (["models"], ["weights", "list"]):
        assert "No name contains swin and k999; run the command without words" in refused(*verb, "swin", "k999")


def test_doctor(data, tmp_path, monkeypatch):
    facts = run_json("doctor")
    assert facts["synthetic_data"] is True and facts["packages"]["torch"]
    assert facts["decord_imports"] == "yes" and facts["data"] == str(data[0])
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert "MISSING         the embedded data set: vt-course data synthetic\n" in out
    assert f"data            {tmp_path}\n" in out and "\ngpu             " in out


def test_doctor_of_a_broken_installation(monkeypatch):
    """What it is for: it reports a package that does not load, and goes on without it."""

    def load(name):
        raise OSError(f"lib{name}.so: cannot open shared object file\nand so on")

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    monkeypatch.setattr(doctor, "version", lambda package: None)
    facts = run_json("doctor")
    how = {each["what"]: each["how"] for each in facts["missing"]}
    assert facts["torch_threads"] is None and facts["gpu"] == []
    for name in ("torch", "psutil", "decord"):
        fault = f"a working {name} (OSError: lib{name}.so: cannot open shared object file)"
        assert how[fault] == "make setup"
    assert how["package papermill"] == "make setup" and "package torchcodec" not in how
    assert "MISSING         package torch: make setup\n" in run("doctor")[1]


def test_doctor_names_versions_that_nobody_tried(monkeypatch):
    found = {"torch": "2.99.1+cpu", "av": "18.1.0", "numpy": "1.25.2", "einops": None}
    monkeypatch.setattr(doctor, "version", lambda package: found.get(package, "0"))
    monkeypatch.setattr(doctor, "TRIED", {name: doctor.TRIED[name] for name in ("python", *found)})
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.15.0")
    (low, high), (first, last) = doctor.TRIED["torch"], doctor.TRIED["python"]
    assert [row["what"] for row in run_json("doctor")["untried"]] == [
        "python 3.15.0",
        "torch 2.99.1+cpu",
        "numpy 1.25.2",
    ]
    out = run("doctor")[1]
    assert (
        f"UNTRIED         torch 2.99.1+cpu: {low} to {high} were tried; if something fails, try one of these\n" in out
    )
    assert f"UNTRIED         python 3.15.0: {first} to {last} were tried" in out


@pytest.mark.parametrize(
    "system, machine, macos, root, words",
    [
        ("Darwin", "x86_64", "15.1", "/r", ["no wheels for Macs with Intel"]),
        ("Darwin", "arm64", "13.6", "/r", ["macOS 14"]),
        ("Darwin", "arm64", "14.0", "/r", []),
        ("Windows", "AMD64", "", "/" + "r" * 120, ["260 characters"]),
        ("Windows", "AMD64", "", "/r", []),
        ("Linux", "x86_64", "", "/" + "r" * 120, []),
    ],
)
def test_doctor_says_what_a_system_needs(monkeypatch, system, machine, macos, root, words):
    monkeypatch.setattr(doctor.platform, "system", lambda: system)
    monkeypatch.setattr(doctor.platform, "machine", lambda: machine)
    monkeypatch.setattr(doctor.platform, "mac_ver", lambda: (macos, ("", "", ""), machine))
    monkeypatch.setattr(doctor, "repo_root", lambda: Path(root))
    notes = doctor.system_notes()
    assert len(notes) == len(words) and all(word in note for word, note in zip(words, notes))


def test_train_and_evaluate(trained):
    out, summary = trained
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rows = run_json("evaluate", out, "--order", "normal", "single", "--device", "cpu")
    assert [(row["order"], row["n"]) for row in rows] == [("normal", 8), ("single", 8)]
    code, text, err = run("evaluate", out, "--device", "cpu")
    heading, row, _, classes, *each = text.splitlines()
    assert code == 0 and "evaluate: " in err  # the bar
    assert re.split("  +", heading)[:4] == ["frames", "views", "clips", "top-1 %, 95 % interval"]
    low, high = rows[0]["top1_interval"]
    shown = f"{100 * rows[0]['top1']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    assert re.split("  +", row)[:4] == ["normal", "1x1", "8", shown] and row.split()[-1] == "12.5"
    assert classes.split()[0] == "class" and len(each) == 8


def test_evaluate_with_views_into_a_folder(trained, tmp_path):
    same = ["evaluate", trained[0], "--protocol", "2x3", "--device", "cpu", "--workers", "0", "--out", tmp_path / "a"]
    [row] = run_json(*same)
    assert (row["protocol"], row["views"], row["average"]) == ("swin 2x3", "2x3", "softmax") and len(row["growth"]) == 4
    code, text, err = run(*same)  # nothing is left to do
    assert code == 0 and "top-1 % with so many views" in text and text.splitlines()[-1].endswith(str(tmp_path / "a"))
    assert "holds another evaluation (protocol was 'swin 2x3'" in refused(*same[:2], "--protocol", "mvit", *same[4:])
    assert "give one --order" in refused(*same, "--order", "normal", "single")
    assert "no test split" in refused(*same, "--split", "test", "--data", "folder:x")
    assert "did you mean timesformer?" in refused(*same[:2], "--protocol", "timesfomer")


def test_explain(data, tmp_path):
    """A picture, and its numbers with --json; a name stands for the weights that ship."""
    video, picture = data[0] / "synthetic" / "clips" / "val" / "00000.mp4", tmp_path / "a.PNG"
    found = run_json("explain", "video_swin_mini", video, "--out", picture, "--class", "left")
    assert found["class"] == "left" and found["out"] == str(picture) and 0 <= found["probability"] <= 1
    assert sum(map(sum, map(lambda step: map(sum, step), found["map"]))) == pytest.approx(1, abs=1e-4)
    assert picture.read_bytes().startswith(b"\x89PNG")
    weights = mini_weights("timesformer_mini")
    code, out, err = run("explain", weights, video, "--out", picture, "--method", "attention", "--head", "3")
    assert (code, err) == (0, "") and "attention, blocks.2.attn, head 3; the picture is" in out
    assert "knows no classes" in out and out.count("\n") == 2
    folder, names = save_pretrained(weights, tmp_path / "kept"), tmp_path / "names.txt"
    names.write_text("\n".join("abcdefgh"), encoding="utf-8")
    told = ("--method", "gradcam", "--classes", names, "--class", "c")
    assert run_json("explain", folder, video, "--out", picture, *told)["class"] == "c"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--class", "lefft"], "video_swin_mini has no class 'lefft': did you mean left?"),
        (["--method", "attention", "--layer", "9"], "there is no attention layer 9: they are 0 (layers.0.blocks.0"),
        (["--method", "rolout"], "there is no method 'rolout': did you mean rollout?"),
        (["--method", "rollout", "--head", "1"], "rollout takes no head; leave it out"),
        (["--out", "x.jpg"], "x.jpg is no name of a picture that we write; name a .png file"),
        (["--out", "no/x.png"], "there is no folder no for the picture"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_explain_refuses(words, message, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = data[0] / "synthetic" / "clips" / "val" / "00000.mp4"
    assert message in refused("explain", "video_swin_mini", video, "--out", "x.png", *words)
    assert list(tmp_path.iterdir()) == []


def test_explain_refuses_what_is_no_video_or_no_run(tmp_path, monkeypatch):
    text, out = tmp_path / "notes.mp4", ("--out", tmp_path / "x.png")
    text.write_text("no video", encoding="utf-8")
    assert "notes.mp4" in refused("explain", "video_swin_mini", text, *out)
    assert "sound.mp4" in refused("explain", "video_swin_mini", write_audio(tmp_path / "sound.mp4"), *out)
    short = write_video(tmp_path / "short.mp4", frames=2, size=(96, 48))  # and upright: its frames are repeated
    assert run("explain", "mvit_mini", short, *out, "--method", "gradcam", "--json")[0] == 0
    assert "missing.mp4" in refused("explain", "video_swin_mini", tmp_path / "missing.mp4", *out)
    assert "runs/a does not exist" in refused("explain", "runs/a", text, *out)
    assert "swin_tiny has the published weights swin_tiny/in1k, " in refused("explain", "swin_tiny", text, *out)
    assert "did you mean mvit_mini" in refused("explain", "mvit_mimi", text, *out)
    monkeypatch.setitem(sys.modules, "vt_course.lab.show", None)  # an installation without IPython
    assert "is not installed: pip install -e .[notebooks]" in refused("explain", "mvit_mini", short, *out)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({}, "m: 50.0 ± 10.0 % of the validation set are right after 2 epochs (chance: 25.0 %); weights "),
        ({"finished": False}, "m: 50.0 ± 10.0 % of the validation set are right after 2 epochs of 9 (chance: 25.0 %);"),
        ({"finished": False, "last": None}, "m stopped after step 7, before the end of an epoch; the run is in "),
    ],
)
def test_the_last_line_of_train(changes, line, tmp_path):
    out = tmp_path / "my run"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"classes": ["a", "b", "c", "d"]}), encoding="utf-8")
    last = {"val_top1": 0.5, "val_top1_stderr": 0.1, "epoch": 2}
    summary = {"model": "m", "last": last, "steps": 7, "finished": True, "recipe": {"epochs": 9}} | changes
    text = training.last_line(summary, out)
    assert text.startswith(line) and str(out) in text
    if summary["last"]:
        assert text.endswith(f"vt-course evaluate {common.shell(out / 'last.safetensors')}")
    else:
        assert text.endswith("; next: the same command without --max-steps")


def test_verify_has_heads_over_its_columns(tmp_path):
    for suffix in (".json", ".npz"):
        shutil.copy(repo_root() / "tests" / "golden" / f"{GOLDEN}{suffix}", tmp_path)
    code, out, err = run("verify", tmp_path)
    head, row, last = out.splitlines()
    assert (code, err) == (0, "") and head.split() == ["case", "float32", "float64", "problem"]
    assert head.index("case") == row.index(GOLDEN)
    number = re.search(r"\d\.\de-\d\d", row)
    assert head.index("float32") + len("float32") == number.end() and last.startswith("1 cases, 0 failed")


def test_train_goes_on_and_says_how_it_went(trained):
    out, _ = trained
    again = ["train", "video_swin_mini", "--out", out, *TINY]
    code, text, err = run(*again)
    assert code == 0 and "epoch   1/1  train loss " in text and "Traceback" not in err
    last = json.loads((out / "summary.json").read_text(encoding="utf-8"))["last"]
    found = f"{100 * last['val_top1']:.1f} ± {100 * last['val_top1_stderr']:.1f} %"
    end = (
        f"video_swin_mini: {found} of the validation set are right after 1 epoch (chance: 12.5 %); weights and curves "
        f"are in {out}; next: vt-course evaluate {out / 'last.safetensors'}"
    )
    assert text.splitlines()[-1] == end
    code, text, err = run(*again)  # the run is finished: nothing is trained, and the line is the same
    assert (code, text) == (0, end + "\n")
    cli.parser().parse_args(shlex.split(end.partition("next: vt-course ")[2]))
    assert "already holds a run; resume it or choose another --out" in refused(*again, "--no-resume")
    assert "epochs was 1 and is now 2" in refused(*["epochs=2" if word == "epochs=1" else word for word in again])


# ---------------------------------------------------------------- notebooks

TOY = """# %% tags=["parameters"]
PROFILE = "smoke"

# %%
raise KeyError("broken on purpose")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A checkout with one notebook, in step with its source, whose second cell fails."""
    source = tmp_path / "notebooks" / "src" / "05_toy.py"
    source.parent.mkdir(parents=True)
    source.write_text(TOY, encoding="utf-8")
    nbformat.write(from_source(source), tmp_path / "notebooks" / "05_toy.ipynb")
    monkeypatch.setattr(build, "repo_root", lambda: tmp_path)
    monkeypatch.setattr(course, "repo_root", lambda: tmp_path)
    return tmp_path / "notebooks"


def test_build_check(toy):
    assert run_json("build", "--check") == [{"notebook": "05_toy", "status": "in step"}]
    assert run("build", "--check") == (0, "notebook  status\n05_toy    in step\n", "")
    for name in ("05_toy", "05", "5", "005"):
        assert run_json("build", name, "--check") == [{"notebook": "05_toy", "status": "in step"}]
    (toy / "src" / "05_toy.py").write_text(TOY.replace("on purpose", "otherwise"), encoding="utf-8")
    code, out, err = run("build", "--check", "--json")
    assert code == 1 and json.loads(out) == [{"notebook": "05_toy", "status": "drifted"}]
    assert err.startswith("05_toy, cell 2") and ": differs from its source; run `vt-course build 05_toy`." in err


def test_course_with_default_arguments(toy, monkeypatch):
    """The failure, printed for people, and then a success."""
    monkeypatch.setattr(cli_course, "need_data", lambda: None)
    source = toy / "src" / "05_toy.py"
    source.write_text(TOY.replace('raise KeyError("broken on purpose")', "1 + 1"), encoding="utf-8")
    nbformat.write(from_source(source), toy / "05_toy.ipynb")
    code, out, err = run("course")
    assert code == 0 and re.search(r"^05_toy .* ok", out, re.MULTILINE) and (toy.parent / "build/notebooks").is_dir()


def test_a_failing_notebook(toy):
    code, out, err = run("course", "--json")
    (row,) = json.loads(out)
    assert code == 1 and row["status"] == "failed" and row["notebook"] == "05_toy"
    assert "05_toy, cell 2" in err and "KeyError: 'broken on purpose'" in err
    assert "Error" not in out and (toy.parent / "build" / "notebooks" / "05_toy.ipynb").is_file()


# ---------------------------------------------------------------- what goes wrong


def test_unknown_model(data, tmp_path):
    err = refused("train", "video_swim_mini", "--out", tmp_path / "x")
    assert "'video_swim_mini': did you mean video_swin_mini?" in err
    err = refused("train", "video_swin_mini", "--out", tmp_path / "x", "--set", "model=video_swin_mni")
    assert "'video_swin_mni': did you mean video_swin_mini?" in err
    assert not (tmp_path / "x").exists()


def test_missing_data(tmp_path, monkeypatch):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    start = ["train", "video_swin_mini", "--out", tmp_path / "x", *TINY]
    assert "vt-course data synthetic" in refused(*start)
    assert f"no manifest {tmp_path}" in refused(*start, "--data", f"csv:{tmp_path}/a.csv,{tmp_path}/b.csv")
    assert "Unknown data spec 'kinetics'" in refused(*start, "--data", "kinetics")
    assert not (tmp_path / "x").exists()
    assert "nothing.mp4" in refused("bench", "decode", tmp_path / "nothing.mp4")


@pytest.mark.parametrize(
    "setting, message",
    [
        ("learning_rate=1", "unknown recipe setting 'learning_rate'"),
        ("epoch=3", "did you mean epochs?"),
        ("epochs", "write a setting as name=value"),
        ("lr=fast", "must be of type float"),
        ("epochs=0", "epochs=0 must be at least 1"),
    ],
)
def test_wrong_settings(data, tmp_path, setting, message):
    err = refused("train", "video_swin_mini", "--out", tmp_path / "x", "--set", setting)
    assert message in err and not (tmp_path / "x").exists()


def test_missing_run(tmp_path):
    assert "does not exist" in refused("evaluate", tmp_path / "no_run")
    assert "holds no checkpoint" in refused("evaluate", tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"text")
    assert "is not a readable safetensors file" in refused("evaluate", tmp_path / "x.safetensors")


def test_unwritable_out(data, toy, tmp_path):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    out = tmp_path / "file" / "x"
    assert str(out) in refused("train", "video_swin_mini", "--out", out, *TINY)
    assert str(out) in refused("data", "synthetic", "--out", out, "--clips", "8,8")
    assert str(tmp_path / "file") in refused("course", "--out", out)
    assert "never writes to" in refused("course", "--out", toy)


def test_other_data_in_the_folder(data):
    err = refused("data", "synthetic", "--clips", "16,8", "--frames", "4", "--size", "32")
    assert "holds clips rendered with other settings" in err
    assert "two multiples of 8" in refused("data", "synthetic", "--clips", "9,8")


def test_unknown_notebook(toy):
    for verb in ("course", "build"):
        assert "'04_swin'; choose from 05_toy" in refused(verb, "04_swin")
        assert "'4'; choose from 05_toy" in refused(verb, "4") and "'006'; choose" in refused(verb, "006")
    assert "--profile full" in refused("build", "--profile", "full")


def test_unknown_device(data, tmp_path):
    err = refused("train", "video_swin_mini", "--out", tmp_path / "x", "--device", "abacus")
    assert "device 'abacus' cannot be used here" in err


@pytest.mark.parametrize(
    "error, code, err",
    [
        (KeyboardInterrupt(), 130, "vt-course: interrupted\n"),
        (
            OSError(28, "No space left on device", "runs/a/log"),
            2,
            "vt-course: runs/a/log: No space left on device; check the path, its permissions and the free space.\n",
        ),
    ],
)
def test_exit_codes(error, code, err, monkeypatch, tmp_path):
    def stop(*args, **settings):
        raise error

    monkeypatch.setattr(fit, "fit", stop)
    assert run("train", "video_swin_mini", "--out", tmp_path / "x") == (code, "", err)


def test_a_bug_is_not_hidden(monkeypatch, tmp_path):
    def bug(*args, **settings):
        raise ZeroDivisionError

    monkeypatch.setattr(fit, "fit", bug)
    with pytest.raises(ZeroDivisionError):
        run("train", "video_swin_mini", "--out", tmp_path / "x")


# ---------------------------------------------------------------- the real thing

COMMAND = Path(sys.executable).parent / "vt-course"


def start(*argv, **settings):
    bars = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    return subprocess.run(
        [COMMAND, *map(str, argv)], env=bars, capture_output=True, encoding="utf-8", timeout=120, **settings
    )


def test_the_installed_command(tmp_path):
    assert start("--version").stdout == f"vt-course {cli.__version__}\n"
    done = start("train", "video_swin_big", "--out", tmp_path / "x")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "unknown model 'video_swin_big': did you mean video_swin_tiny?" in done.stderr


def test_progress_bars_stay_out_of_the_output(tmp_path):
    render = ["data", "synthetic", "--clips", "8,8", "--frames", "2", "--size", "32", "--out"]
    done = start(*render, tmp_path / "a")
    assert done.returncode == 0 and "rendering clips" in done.stderr
    assert re.fullmatch(r".*: 16 clips, \d+ MB, 16 rendered now in \d+ s\n", done.stdout)
    done = start(*render, tmp_path / "b", "--json")
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["rendered"] == 16


def test_a_reader_that_is_gone(data):
    """As in `vt-course data synthetic --json | head -1`."""
    read, write = os.pipe()
    os.close(read)
    same = ["data", "synthetic", "--clips", "8,8", "--frames", "4", "--size", "32", "--json"]
    done = subprocess.run([COMMAND, *same], stdout=write, stderr=subprocess.PIPE, encoding="utf-8", timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_parser_needs_no_torch_and_no_numpy():
    code = (
        "import sys; from vt_course import cli; cli.parser(); "
        "sys.exit(bool({'torch', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("words", ["models", "data stats x", "recipes"])
def test_of_several_processes_only_some_verbs_are_shared(words, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "only train, evaluate, predict share: run this command without it" in refused(*words.split())
    monkeypatch.setenv("RANK", "1")
    assert run(*words.split()) == (2, "", "")  # one sentence for all processes
    assert set(cli.SHARED) <= common.VERBS.keys()


def test_progress_is_a_table_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VT_COURSE_PROGRESS", str(tmp_path / "progress.csv"))
    (tmp_path / "progress.csv").write_text("exercise,passed\n4.3,2026-11-25 02:00\n", encoding="utf-8")
    assert main(["progress"]) == 0
    out = capsys.readouterr().out
    assert (
        "4.3       cyclic shift" in out and f"1 of {len(out.splitlines()) - 2} checks passed; kept in {tmp_path}" in out
    )
    assert main(["progress", "--json"]) == 0
    rows = {row["exercise"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["4.3"]["passed"] == "2026-11-25 02:00" and rows["4.4"]["passed"] is None
    (tmp_path / "progress.csv").write_text("nonsense", encoding="utf-8")
    assert main(["progress"]) == 2
    assert "is not a record of progress" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("bench", "train"), ("data", "stats", ".")], ids=" ".join)
def test_a_figure_of_an_unknown_format_is_refused_before_the_work(words):
    code, out, err = run(*words, "--figure", "a.svgx")
    assert (code, out) == (2, "") and "'a.svgx' is no file for a figure: its name must end in .svg, .png or .pdf" in err
