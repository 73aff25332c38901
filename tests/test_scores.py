"""Scores of all views: kept, resumed, shared between processes, and turned into accuracies with intervals."""

import csv
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import nn

from vt_course import CourseError
from vt_course.data.clips import Rows
from vt_course.training import curves, scores
from vt_course.training.evaluate import calibration, open_clips
from vt_course.training.experiments.statistics import wilson
from vt_course.training.protocols import PROTOCOLS, Shown, Views, protocol_named, video_scores
from vt_course.training.trained import Trained

from videos import write_video

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")
TWO = protocol_named("2x3")


class Colours(nn.Module):
    """Logits from the mean of each colour, and from how it changes. `calls` are the numbers of views it has seen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.calls, self.stop_at = [], None

    def forward(self, x):  # (B, C, T, H, W)
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(len(x))
        return self.weight * (x.mean((2, 3, 4)) + x[:, :, -1].mean((2, 3)) - x[:, :, 0].mean((2, 3)))


@pytest.fixture(autouse=True)
def small_picture(monkeypatch):
    """The picture of the confusions is blank: drawing it takes longer than an evaluation. It has a test of its own."""
    monkeypatch.setattr(scores, "confusion_picture", lambda *confusion_classes_title: Figure(figsize=(1, 1)))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Nine clips of three classes. The sixth is no video."""
    folder = tmp_path_factory.mktemp("rows")
    found = []
    for i in range(9):
        path = folder / f"{i}.mp4"
        if i == 5:
            path.write_text("no video", encoding="utf-8")
        else:
            write_video(path, frames=6 + i, size=(32, 36 + 2 * i))
        found.append(dict(path=str(path), label=CLASSES[i % 3], start=None, end=None))
    return Rows(found, "rows")


def built(**changes) -> Trained:
    model = Trained("colours", Colours(), CLASSES, Shown(2, 2, 32), PROTOCOLS["centre"], "swin", "colours", "abc")
    return dataclasses.replace(model, **changes)


def measure(trained, rows, protocol=TWO, **settings):
    clips = Views(rows, classes=CLASSES, protocol=protocol, shown=trained.shown)
    told = dict(device=CPU, batch_size=12, workers=0, progress=False, every=0.0) | settings
    return scores.measure(trained, clips, protocol, **told)


def table(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_keeps_all_it_says(rows, tmp_path):
    result = measure(built(), rows, out=tmp_path / "a")
    assert result == measure(built(), rows)  # a folder changes nothing
    assert result["n"] == 8 and [i for i, _ in result["bad"]] == [5] and result["views"] == "2x3"
    assert result["counts"] == {"red": 3, "green": 3, "blue": 2}
    assert result["top1_interval"] == wilson(result["top1"], 8)
    told = json.loads((tmp_path / "a" / "evaluation.json").read_text(encoding="utf-8"))
    assert told["result"] == json.loads(json.dumps(result)) and told["evaluated"]["weights"] == "abc"
    predictions = table(tmp_path / "a" / "predictions.csv")
    assert [row["path"] for row in predictions] == [row["path"] for row in rows]
    assert [row["class"] for row in predictions] == [row["label"] for row in rows]
    right = [row["predicted"] == row["class"] for row in predictions]
    assert sum(right) == round(8 * result["top1"]) == sum(row["place of the class"] == "1" for row in predictions)
    assert "5.mp4" in predictions[5]["error"] and predictions[5]["predicted"] == ""
    confusion = table(tmp_path / "a" / "confusion.csv")
    assert [[int(row[name]) for name in CLASSES] for row in confusion] == result["confusion"]
    assert [row["class"] for row in table(tmp_path / "a" / "classes.csv")] == list(CLASSES)
    assert len(table(tmp_path / "a" / "growth.csv")) == 4
    assert (tmp_path / "a" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "a").glob(".lock"))


def test_an_evaluation_that_was_stopped_goes_on(rows, tmp_path):
    whole, broken = built(), built()
    result = measure(whole, rows, out=tmp_path / "whole")
    broken.model.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        measure(broken, rows, out=tmp_path / "broken")
    assert not (tmp_path / "broken" / "predictions.csv").exists()
    kept = sorted((tmp_path / "broken" / "views").iterdir())
    assert len(kept) == 2
    broken.model.stop_at = None
    assert measure(broken, rows, out=tmp_path / "broken") == result
    assert sum(broken.model.calls) == 8 * 6 == sum(whole.model.calls)  # no view was computed twice
    measure(broken, rows, out=tmp_path / "broken")
    assert sum(broken.model.calls) == 8 * 6  # nothing is left to do
    for name in ("predictions.csv", "confusion.csv", "classes.csv", "growth.csv", "confusion.png"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize(
    "changes, settings, words",
    [
        ({}, {"order": "reversed"}, "order was 'normal' and is now 'reversed'"),
        ({}, {"protocol": protocol_named("1x3")}, "views was '2x3' and is now '1x3'"),
        ({"identity": "abd"}, {}, "weights was 'abc' and is now 'abd'"),
    ],
)
def test_a_folder_holds_one_evaluation(changes, settings, words, rows, tmp_path):
    few = Rows(rows[:2], "rows")
    measure(built(), few, out=tmp_path)
    with pytest.raises(CourseError, match=f"another evaluation .*{words}.*another --out"):
        measure(built(**changes), few, out=tmp_path, **settings)


def test_damage_is_found(rows, tmp_path):
    few = Rows(rows[:2], "rows")
    measure(built(), few, out=tmp_path)
    [part] = (tmp_path / "views").iterdir()
    data = bytearray(part.read_bytes())
    data[-3] ^= 1
    part.write_bytes(data)
    with pytest.raises(CourseError, match=f"{part.name} is damaged; delete it and run the same command again"):
        measure(built(), few, out=tmp_path)
    part.unlink()
    assert measure(built(), few, out=tmp_path)["n"] == 2
    (tmp_path / "evaluation.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CourseError, match="evaluation.json .*delete it"):
        measure(built(), few, out=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="cannot make the folder"):
        measure(built(), few, out=tmp_path / "file" / "x")
    with pytest.raises(CourseError, match="none of the clips could be read .*5.mp4"):
        measure(built(), Rows(rows[5:6], "rows"))


def test_the_size_of_a_batch_is_that_of_the_views(rows):
    model = built()
    few = Rows(rows[:3], "rows")
    result = measure(model, few, batch_size=4)  # 6 views of a video: 4 and 2
    assert model.model.calls == [4, 2] * 3
    assert measure(model, few, batch_size=64)["confusion"] == result["confusion"]


def test_frames_in_another_order_are_those_of_evaluate(rows, tmp_path):
    """`order` moves the frames of all views of a video alike."""
    logits = {}
    for order in ("normal", "reversed", "shuffled"):
        measure(built(), Rows(rows[:2], "rows"), order=order, out=tmp_path / order)
        [part] = (tmp_path / order / "views").iterdir()
        logits[order] = load_file(part)["logits"]  # (2, V, K)
    change = (logits["normal"] - logits["reversed"]).abs()
    assert change.min() > 1e-3  # the model sees how colours change
    for video in range(2):  # of two frames, shuffled is one of both
        assert any(torch.equal(logits["shuffled"][video], logits[o][video]) for o in ("normal", "reversed"))


# ---------------------------------------------------------------- from scores to results


def test_softmax_and_logits_are_combined_differently():
    """One view is sure of class 0, two lean to class 1: the mean probability says 1, the mean logit says 0."""
    logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 2.0, -9.0], [0.0, 2.0, -9.0]]])  # (1, 3 views, K)
    soft, plain = video_scores(logits, "softmax"), video_scores(logits, "logits")
    assert torch.allclose(soft.exp(), logits.double().softmax(-1).mean(1)) and soft.argmax() == 1
    assert torch.allclose(plain, logits.double().mean(1).log_softmax(-1)) and plain.argmax() == 0
    assert soft[0, 1] == pytest.approx(math.log((2 * 0.880785 + 0.000123) / 3), abs=1e-5)
    far = video_scores(torch.tensor([[[0.0, -2000.0]]]), "softmax")
    assert far[0, 1] == -2000  # nothing underflows


def test_the_mean_over_classes():
    mean, (low, high) = scores.mean_with_interval([(1.0, 10), (0.5, 10)])
    (l1, h1), (l2, h2) = wilson(1.0, 10), wilson(0.5, 10)
    assert mean == 0.75  # by hand: sqrt((1 - 0.7225)² + (0.5 - 0.2366)²) / 2 below
    assert low == pytest.approx(0.75 - ((1 - l1) ** 2 + (0.5 - l2) ** 2) ** 0.5 / 2) == pytest.approx(0.5587, abs=1e-4)
    assert high == pytest.approx(0.75 + ((h1 - 1) ** 2 + (h2 - 0.5) ** 2) ** 0.5 / 2)
    assert scores.mean_with_interval([(1.0, 10)] * 4)[1][0] < 0.9  # not a point


def test_the_interval_of_the_mean_over_classes_covers():
    """Of 400 drawn results, about 95 % of the intervals hold the true mean."""
    g, true, sizes = torch.Generator().manual_seed(0), [0.95, 0.6, 0.8, 0.3], [20, 40, 15, 60]
    inside = 0
    for _ in range(400):
        shares = [((torch.rand(n, generator=g) < p).double().mean().item(), n) for p, n in zip(true, sizes)]
        _, (low, high) = scores.mean_with_interval(shares)
        inside += low <= sum(true) / 4 <= high
    assert 0.925 <= inside / 400 <= 0.98


def test_growth_by_hand():
    """2 clips x 3 crops of one video of class 0: the middle crops of both clips are right, all others are wrong."""
    right, wrong = [2.0, 0.0], [0.0, 1.5]
    logits = torch.tensor([[wrong, right, wrong, wrong, right, wrong], [right] * 3 + [wrong] * 3])
    rows = scores.growth(logits, torch.tensor([0, 0]), dataclasses.replace(TWO, average="logits"))
    assert rows == [
        {"clips": 1, "crops": 1, "top1": 0.75},  # video 1 is right, video 2 in one of its two clips
        {"clips": 2, "crops": 1, "top1": 1.0},  # video 2: logits 2 against 1.5
        {"clips": 1, "crops": 3, "top1": 0.25},  # video 1: 2 against 3
        {"clips": 2, "crops": 3, "top1": 0.5},  # video 1: 4 against 6; video 2: 6 against 4.5
    ]


def test_calibration_by_hand():
    """Ten answers of 80 %, of which 6 are right, and ten of 55 %, all right: (0.2 + 0.45) / 2."""
    p = torch.tensor([[0.8, 0.2]] * 10 + [[0.45, 0.55]] * 10, dtype=torch.float64).log()
    label = torch.tensor([0] * 6 + [1] * 4 + [1] * 10)
    found = calibration(p, label)
    assert found["error"] == pytest.approx((0.2 + 0.45) / 2) and found["confidence"] == pytest.approx(0.675)
    assert [(row["n"], row["accuracy"]) for row in found["bins"]] == [(10, 1.0), (10, 0.6)]
    sure = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64)
    assert calibration(sure, torch.tensor([0]))["error"] == 0.0


def test_the_picture_of_the_confusions():
    figure = curves.confusion_picture([[3, 1], [0, 0]], ("yes", "no"), "a title")
    axes = figure.axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), "3"), ((1, 0), "1")}
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]  # a class without clips has no shares
    assert [label.get_text() for label in axes.get_yticklabels()] == ["yes", "no"] and axes.get_title() == "a title"
    assert not curves.confusion_picture([[1] * 31] * 31, range(31), "").axes[0].texts  # no room for numbers


# ---------------------------------------------------------------- the clips


def test_names_of_classes_need_not_agree_in_every_letter(rows, tmp_path):
    model = built(classes=("Playing_Guitar", "green", "never seen"))
    text = "path,label\n" + "\n".join(f"{row['path']},playing guitar" for row in rows[:2])
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    clips = open_clips(model, f"csv:{tmp_path / 'list.csv'}", protocol=TWO)
    assert clips.labels == [0, 0] and clips.classes == model.classes
    assert scores.measure(model, clips, TWO, device=CPU, workers=0, progress=False)["per_class"]["green"] is None
    with pytest.raises(CourseError, match="name the clips to evaluate it on with --data"):
        open_clips(model)
    numbered = dataclasses.replace(model, classes=("0", "1"), numbered=True)
    with pytest.raises(CourseError, match="has the classes playing guitar, but .*--classes FILE"):
        open_clips(numbered, f"csv:{tmp_path / 'list.csv'}")
    with pytest.raises(CourseError, match="mvit-ssv2 takes one frame of each segment"):
        open_clips(model, f"csv:{tmp_path / 'list.csv'}", protocol=PROTOCOLS["mvit-ssv2"])
    with pytest.raises(CourseError, match="has no test split"):
        open_clips(model, f"csv:{tmp_path / 'list.csv'}", "test")


# ---------------------------------------------------------------- several processes

DRIVER = textwrap.dedent("""
    import json, os, sys, traceback
    sys.path.insert(0, TESTS)
    import torch
    import test_scores as t
    from vt_course.training import ranks

    torch.set_num_threads(1)
    rows = t.Rows(ROWS, "rows")
    def child(rank, world, out):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=PORT)
        model = t.built()
        with ranks.group(t.CPU):
            result = t.measure(model, rows, out=out)
            seen = ranks.gather(sum(model.model.calls))
        if rank == 0:
            print("RESULT", json.dumps([seen, result]), flush=True)
    children = []
    for rank in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                child(rank, 3, OUT)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    sys.exit(any([os.waitpid(pid, 0)[1] for pid in children]))
""")


@pytest.mark.slow
@pytest.mark.posix("processes are forked here")
def test_three_ranks_see_each_video_once_and_find_the_same(rows, tmp_path):
    broken = built()
    broken.model.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        measure(broken, rows, out=tmp_path)  # begun by one process
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    head = f"TESTS, OUT, PORT = {os.path.dirname(__file__)!r}, {str(tmp_path)!r}, {port!r}\nROWS = {list(rows)!r}\n"
    done = subprocess.run([sys.executable, "-c", head + DRIVER], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    seen, result = json.loads(done.stdout.partition("RESULT")[2])
    assert sum(seen) + sum(broken.model.calls) == 8 * 6 and min(seen) > 0
    assert result == json.loads(json.dumps(measure(built(), rows)))
