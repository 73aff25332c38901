"""The report of a GPU: parts that are written one by one, made once, and tried again after a failure."""

import json
import os
import time

import pytest
import torch

from vt_course import CourseError, cli
from vt_course.claims import gpu_report as module
from vt_course.claims.bench_models import in_own_process
from vt_course.claims.gpu_report import Part, gpu_report, parts

pytestmark = pytest.mark.dear


@pytest.fixture
def made(monkeypatch):
    """Parts are done in this process. The list of those that were asked for; "bad" fails."""
    asked = []

    def work(name):
        asked.append(name)
        if name == "bad":
            raise CourseError("it is bad")
        return {"name": name}

    monkeypatch.setattr(module, "in_own_process", lambda work, *arguments, limit: work(*arguments))
    monkeypatch.setattr(module, "parts", lambda *settings: [Part(name, work, (name,), 1) for name in ("a", "bad", "c")])
    return asked


def test_each_part_is_made_once_and_a_failed_one_again(made, tmp_path):
    out, told = tmp_path / "new" / "gpu.json", []
    report = gpu_report(out, device="cpu", tiny=True, tell=told.append)
    assert made == ["a", "bad", "c"] and list(report["parts"]) == made
    assert report["parts"]["a"]["result"] == {"name": "a"} and report["parts"]["bad"]["error"] == "it is bad"
    assert json.loads(out.read_text(encoding="utf-8")) == report and report["device"] == "cpu" and report["tiny"]
    assert [line.split("  ")[0] for line in told] == ["1/3", "2/3", "3/3"] and "FAILED: it is bad" in told[1]
    again = gpu_report(out, device="cpu", tiny=True, tell=told.append)
    assert made == ["a", "bad", "c", "bad"] and again["parts"]["c"] == report["parts"]["c"]


def test_what_is_done_is_kept_when_it_is_cut_off(made, tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"

    def stop(work, name, *, limit):
        if name == "c":
            raise KeyboardInterrupt
        return work(name) if name != "bad" else {}

    monkeypatch.setattr(module, "in_own_process", stop)
    with pytest.raises(KeyboardInterrupt):
        gpu_report(out, device="cpu", tiny=True, tell=lambda line: None)
    assert list(json.loads(out.read_text(encoding="utf-8"))["parts"]) == ["a", "bad"]


def test_a_report_of_another_device_or_size_is_not_continued(made, tmp_path):
    out = tmp_path / "gpu.json"
    gpu_report(out, device="cpu", tiny=True, tell=lambda line: None)
    with pytest.raises(CourseError, match="gpu.json is no report of cpu; name another file with --out, or delete it"):
        gpu_report(out, device="cpu", tiny=False)
    out.write_text("[]", encoding="utf-8")
    with pytest.raises(CourseError, match="gpu.json"):
        gpu_report(out, device="cpu", tiny=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so(tmp_path, capsys):
    assert cli.main(["gpu-report", "--out", str(tmp_path / "gpu.json")]) == 2
    assert "there is no CUDA device on this machine; --device cpu --tiny tries" in capsys.readouterr().err
    assert not (tmp_path / "gpu.json").exists()


def test_the_command_with_default_arguments(monkeypatch, tmp_path, capsys):
    report = {"parts": {"a": {"seconds": 1.5}, "b": {"seconds": 2, "error": "it is bad"}}}
    asked = []
    monkeypatch.setattr(module, "gpu_report", lambda *args, **settings: asked.append((args, settings)) or report)
    monkeypatch.setattr("vt_course.cli.claims.need_data", lambda: None)
    monkeypatch.delenv("VT_COURSE_CLIPS", raising=False)
    assert cli.main(["gpu-report", "--out", str(tmp_path / "gpu.json")]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["a        1.50", "b           2  it is bad"]
    assert asked[0][1]["device"] == "cuda" and asked[0][1]["clips"] is None


def test_a_part_that_takes_too_long_is_stopped():
    began = time.monotonic()
    with pytest.raises(CourseError, match="60 had no result after 0.5 seconds"):
        in_own_process(time.sleep, 60, limit=0.5)
    assert time.monotonic() - began < 30


def test_the_whole_fits_into_its_time():
    """The limits are for what goes wrong; the parts that every report has are the first ones."""
    whole = parts("cuda", False, "clips")
    names = [part.name for part in whole]
    assert len(names) == len(set(names)) == 8 + 5 + 2 + 1 + 1 + 5
    assert names[0].startswith("speed: ") and names[8] == "training to 85%: video_swin_mini"
    assert all(part.arguments[4] <= 4 for part in whole if part.work is module.bench_pair)  # two passes: 8 s a case
    assert [part.arguments[0] for part in whole if part.arguments[-1] == ("forward",)] == [
        "video_swin_tiny", "mvit_v2_small_16x4"
    ]  # fmt: skip
    assert len(parts("cpu", True, None)) == 6


@pytest.mark.slow
def test_the_command_on_a_cpu(tmp_path, capsys):
    """All parts for real, in processes of their own, as small as they get."""
    out, clips = tmp_path / "gpu.json", os.environ.get("VT_COURSE_CLIPS")
    code = cli.main(["gpu-report", "--out", str(out), "--device", "cpu", "--tiny", "--json"])
    report = json.loads(capsys.readouterr().out)
    failed = {name: part["error"] for name, part in report["parts"].items() if "error" in part}
    assert code == (0 if clips else 1) and list(failed) == ([] if clips else ["real clips"]), failed
    result = {name: part.get("result") for name, part in report["parts"].items()}
    assert [row["pass"] for row in result["speed: vit_frames_mini"]] == ["forward", "forward+backward"]
    assert {row["mode"] for row in result["compiled: vit_frames_mini"]} == {"eager", "compiled", "peer compiled"}
    assert {row["pass"] for row in result["compiled: vit_frames_mini"]} == {"forward"}
    assert result["training to 85%: video_swin_mini"]["steps"] == 1
    assert all(0 <= row["waiting_share"] <= 1 and row["steps"] == 4 for row in result["waiting for the loader"])
    seeds = result["swin-shift-early: seed 0"]
    assert [run["seed"] for run in seeds.values()] == [0]
    if clips:
        assert result["real clips"]["steps"] == 2 and result["real clips"]["train"] > result["real clips"]["val"] > 0
