"""`vt-course bench train`: all sides train the same on the same clips, the search finds the fastest, parts are kept."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from vt_course import CourseError, repo_root
from vt_course.claims import bench_train as bench
from vt_course.claims import bench_train_sides as sides
from vt_course.claims.bench_train import Kind, Task, axes, bench_train, compare, goals, search, summary, table
from vt_course.claims.parts import in_parts
from vt_course.claims.phone_clips import phone_clips, turned
from vt_course.cli import main
from vt_course.data.reader import ClipReader
from vt_course.training.fit import lr_at
from vt_course.training.recipes import recipe_for

from videos import decode, write_video

# A peer that is not installed cannot be tried; `bench train` itself says so (see below).
HERE = [name for name, (_, _, needs) in bench.PEERS.items() if all(map(importlib.util.find_spec, needs))]
ALONE = {"clips": 4, "workers": 0, "threads": 1, "decoder": "PyAV", "decoder_threads": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    at = tmp_path_factory.mktemp("train")
    return phone_clips(at / "phone", 1, seconds=1, size=(144, 256))[0], write_video(at / "b.mp4", frames=20, gop=5)


def train(side: str, task: Task, settings: dict, epochs: int = 1) -> list[dict]:
    """The reports of a side's epochs, in this process."""
    watch, reports = sides.Watch(), []

    def turn() -> bool:
        if watch.began is not None:
            reports.append(watch.report())
        watch.start()
        return len(reports) < epochs

    sides.SIDES[side](task, settings, turn, watch)
    return reports


def test_a_stand_in_is_what_a_phone_writes(files):
    reader = ClipReader(files[0])
    assert (reader.num_frames, reader.fps, reader.stored, reader.size) == (30, 30, (144, 256), (256, 144))
    pixels = decode(files[0]).astype(float)  # not turned
    assert pixels.shape == (30, 144, 256, 3) and np.abs(np.diff(pixels, axis=0)).mean() > 1
    again = phone_clips(files[0].parent, 1, seconds=9)  # what is there is not rendered again
    assert again == [files[0]] and ClipReader(again[0]).num_frames == 30


@pytest.mark.parametrize("letters", [b"tkhd", b"moov", b"trak"])
def test_a_stand_in_is_turned_whatever_its_pictures_contain(files, letters):
    """The tag stands in the header. In 43 MB of pictures, any four letters are found once in a hundred files."""
    video = files[1].read_bytes()
    pictures, place = video.index(b"mdat") + 50, video.index(b"tkhd") + 44
    assert pictures < place
    for one in (video + letters * 5, video[:pictures] + letters + video[pictures + 4 :]):
        matrix = turned(one)[place : place + 36]
        assert turned(one) == one[:place] + matrix + one[place + 36 :] and matrix != one[place : place + 36]


def test_a_clip_that_is_skipped_ends_the_comparison(files, tmp_path):
    """A side that trained on fewer clips would look faster."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(files[1].read_bytes()[:2000])
    task = Task("video_swin_mini", (str(files[1]), str(cut)), frames=4, stride=2, size=16, batch=2)
    with pytest.raises(CourseError, match="cut.mp4"):
        train("ours", task, ALONE | {"pipeline": "reference"})
    task = Task("video_swin_mini", (str(files[1]),), 4, 2, 16, 2, val=((str(files[1]), "a"), (str(cut), "b")))
    with pytest.raises(CourseError, match="cut.mp4"):
        train("ours", task, ALONE | {"pipeline": "kept"})


@pytest.mark.parametrize("pipeline", ["reference", "kept"])
@pytest.mark.parametrize("peer", HERE)
def test_a_peer_trains_the_same_model_on_as_many_clips(files, peer, pipeline):
    model = bench.PEERS[peer][0]
    task = Task(model, tuple(map(str, files)), frames=4, stride=2, size=16, batch=2)
    settings = ALONE | {"pipeline": pipeline}
    reports = {side: train(side, task, settings, 2) for side in ("ours", peer)}
    assert len({report["parameters"] for each in reports.values() for report in each}) == 1
    for each in reports.values():
        assert [report["steps"] for report in each] == [2, 2]
        for report in each:
            assert set(report["stages"]) == set(sides.STAGES) and 0 <= report["waiting_share"] < 1
            work = dict(report["stages"])
            assert 0 < sum(work.values()) <= report["seconds"] and work.pop("decode") >= 0 and min(work.values()) > 0
        if pipeline == "kept":  # the second epoch decodes nothing
            assert each[1]["stages"]["decode"] < each[0]["stages"]["decode"] / 2


@pytest.mark.parametrize(
    "decoder", [name for name in ("decord", "PyAV") if name == "PyAV" or importlib.util.find_spec(name)]
)
def test_the_peers_read_the_frames_that_they_draw(files, decoder, monkeypatch):
    """Those of a full decode, from any start, turned as the tag says; scaled by hand only where that is asked for."""
    task = Task("video_swin_mini", (), frames=4, stride=3, size=16)
    for path in files:
        whole = np.rot90(decode(path), 1 if path == files[0] else 0, (2, 1))
        monkeypatch.setattr(sides, "positions", lambda count, task: np.arange(4) * 3 + count - 12)
        found = sides.READERS[decoder](str(path), task, 1, None)
        np.testing.assert_array_equal(found, whole[len(whole) - 12 :: 3])
        monkeypatch.undo()
        starts = {int(sides.positions(len(whole), task)[0]) for _ in range(300)}
        assert min(starts) == 0 and max(starts) == len(whole) - 10
    assert sides.read_pyav(str(files[0]), task, 1, 36).shape == (4, 64, 36, 3)
    assert sides.every_frame(str(files[0]), 36).shape == (30, 64, 36, 3)


def test_both_loaders_show_the_same_scene(files):
    """A view of the reference scripts' loader and one made by hand: shape, range and, on average, colours agree."""
    task, clips = Task("video_swin_mini", (str(files[0]),), frames=4, stride=2, size=32), {}
    for pipeline in ("reference", "by hand"):
        torch.manual_seed(0)
        watch = sides.Watch()
        watch.start()
        data = sides.PeerClips(task, ALONE | {"pipeline": pipeline}, watch)
        clips[pipeline] = torch.stack([data[k][0] for k in range(4)])
    a, b = clips.values()
    assert a.shape == b.shape == (4, 4, 3, 32, 32) and a.dtype == b.dtype == torch.float32
    assert (a.mean((0, 1, 3, 4)) - b.mean((0, 1, 3, 4))).abs().max() < 0.2


@pytest.mark.parametrize("peer", HERE)
def test_an_epoch_is_closed_by_the_clips_of_validation(files, peer):
    """All sides answer with a share of them, whose seconds do not count; with another seed they train otherwise."""
    paths = tuple(map(str, files))
    val = tuple((path, label) for path in paths for label in "abc")
    task = Task(
        bench.PEERS[peer][0],
        paths,
        4,
        2,
        16,
        batch=2,
        labels=("c", "a", "b", "a"),
        val=val,
        epochs=2,
        warmup_epochs=0.5,
    )
    assert task.classes == ["a", "b", "c"]
    for side in ("ours", peer):
        settings = ALONE | {"pipeline": "kept"}
        reports = train(side, task, settings, 2)
        # The same two videos stand under each class, so whatever a model answers, a third of it is right.
        assert [report["val_top1"] for report in reports] == pytest.approx([1 / 3, 1 / 3])
        assert all(report["steps"] == 2 for report in reports)


def test_the_middle_of_a_clip_is_what_closes_an_epoch(files):
    path = str(files[1])  # 20 frames
    task = Task("video_swin_mini", (path,), frames=4, stride=3, size=16, val=((path, "a"),), short_side=16)
    data = sides.PeerClips(task, ALONE | {"pipeline": "kept"}, sides.Watch(), train=False)
    whole = sides.every_frame(path, 16)
    np.testing.assert_array_equal(data.read(path), whole[[5, 8, 11, 14]])
    assert torch.equal(data[0][0], data[0][0]) and data[0][0].shape == (4, 3, 16, 16)


@pytest.mark.parametrize("warmup", [0, 3])
def test_the_peers_learn_at_our_rate(warmup):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 8e-4)
    schedule, rates = sides.planned(optimizer, 20, warmup), []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([lr_at(step, 20, warmup, 8e-4) for step in range(20)])


def test_motion_is_trained_by_the_recipe(monkeypatch, tmp_path):
    for split, count in (("train", 6), ("val", 3)):
        rows = [f"clips/{k}.mp4,{'left' if k % 2 else 'right'},," for k in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["path,label,start,end", *rows]), encoding="utf-8")
    spec = SimpleNamespace(train=tmp_path / "train.csv", val=tmp_path / "val.csv")
    monkeypatch.setattr(bench, "open_spec", lambda data: spec)
    task, recipe = bench.motion_task("timesformer_mini"), recipe_for("timesformer_mini")
    assert (task.batch, task.lr, task.keep, task.flip) == (recipe.batch_size, recipe.lr, recipe.keep, 0.0)
    assert (task.smallest, task.ratio, task.epochs) == (recipe.crop_scale[0], recipe.crop_ratio, recipe.epochs)
    assert len(task.files) == len(task.labels) == 6 and len(task.val) == 3 and task.classes == ["left", "right"]
    assert sides.chosen(task, 6)[1] == (str(tmp_path / "clips" / "1.mp4"), "left")


class Learner:
    """A side that gets 10 % better in each epoch, ours from 50 % on; it notes whose turn it was."""

    turns: list = []

    def __init__(self, name, task):
        self.name, self.top1 = name, 0.5 if name == "ours" else 0.0

    __enter__, __exit__ = lambda self: self, lambda self, *_: None

    def epoch(self, settings, warm=False):
        if "seed" not in settings:  # the search
            return {"clips_per_second": 1.0 + settings["workers"], "waiting_share": 0.0}
        self.turns.append(self.name)
        self.top1 += 0.1
        return {"parameters": 7, "seconds": 2.0, "val_top1": self.top1}


@pytest.mark.parametrize("epochs, reached, last", [(20, True, 9), (6, False, 6)])
def test_a_side_trains_until_it_has_the_goal(monkeypatch, epochs, reached, last):
    monkeypatch.setattr(bench, "Side", Learner)
    monkeypatch.setattr(Learner, "turns", [])
    result = bench.to_goal("torchvision", bench.TO_GOAL, Task("video_swin_mini", (), epochs=epochs), 2)
    ours, peer = result["sides"].values()
    assert (ours["reached"], ours["epochs"], ours["seconds"]) == (True, 4, 8.0)
    assert (peer["reached"], peer["epochs"], peer["seconds_per_epoch"]) == (reached, last, 2.0)
    assert ours["settings"]["seed"] == 2 and ours["settings"]["workers"] == 1 and len(peer["val_top1"]) == last
    assert Learner.turns[:4] == ["ours", "torchvision", "torchvision", "ours"]
    name = f"torchvision, {bench.TO_GOAL.name}, seed 2"
    report = {"parts": {name: {"result": result}}}
    assert [row["epochs"] for row in goals(report)] == [4, last] and table(report) == []
    assert summary(report) == (
        "seconds to 85% of motion, seed by seed: ours 8 (beside torchvision), "
        f"torchvision {'18' if reached else 'not reached'}"
    )


class Fake:
    """A side that is fastest with 2 threads and "decord", and cannot use torchcodec."""

    name, asked = "torchvision", None

    def epoch(self, settings, warm):
        self.asked = [*(self.asked or []), settings]
        if settings["decoder"] == "torchcodec":
            raise CourseError("it does not load")
        return {"clips_per_second": settings["threads"] + 3.0 * (settings["decoder"] == "decord"), "waiting_share": 0.5}


def test_the_search_finds_the_fastest_and_records_what_it_tried(monkeypatch):
    monkeypatch.setattr(bench, "cores", lambda: 2)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: True)
    best, rows = search(Fake(), bench.PHONE)
    assert (best["decoder"], best["threads"], best["workers"], best["decoder_threads"]) == ("decord", 2, 2, 1)
    assert [row["workers"] for row in rows] == [2, 2, 2, 1, 4, 2, 2] and len(rows) == len({str(row) for row in rows})
    assert [row.get("error") for row in rows if row["decoder"] == "torchcodec"] == ["it does not load"]
    assert axes("ours", bench.PHONE) == {"workers": [2, 1], "threads": [1, 2]}
    broken = Fake()
    broken.epoch = lambda settings, warm: (_ for _ in ()).throw(CourseError("damaged"))
    with pytest.raises(CourseError, match="^damaged.$"):
        search(broken, bench.PHONE)


@pytest.mark.dear
def test_a_comparison_in_processes_of_their_own(files, monkeypatch, tmp_path, capsys):
    """The whole command, small: a report that is continued, a table and a figure; a file that cannot be used."""
    tiny = Kind("your files", 2, 2)
    monkeypatch.setattr(bench, "YOURS", tiny)
    start = {"workers": [1], "threads": [1]}
    monkeypatch.setattr(bench, "axes", lambda side, kind: start if side == "ours" else {"decoder": ["PyAV"], **start})
    out, picture = tmp_path / "new" / "train.json", tmp_path / "a.svg"
    words = [str(files[0]), "--out", str(out), "--peers", "torchvision", "--turns", "1"]
    words += ["--frames", "4", "--size", "16", "--batch", "1", "--json"]
    assert main(["bench", "train", *words, "--figure", str(picture)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text(encoding="utf-8")) == report and {"processor", "commit", "versions"} <= set(report)
    result = report["parts"]["torchvision, your files"]["result"]
    assert list(result["sides"]) == ["ours", "torchvision", "by hand"] and result["ratio"] > 0 < result["ratio_by_hand"]
    assert all(side["peak_mb"] > 50 for side in result["sides"].values())
    rows = table(report)
    assert [row["side"] for row in rows] == ["ours", "torchvision", "by hand"] and rows[1]["ratio"] == result["ratio"]
    assert all(word in picture.read_text(encoding="utf-8") for word in ("decode", "backward", "by hand"))
    monkeypatch.setattr(bench, "compare", None)  # nothing is measured again
    assert main(["bench", "train", *words]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["bench", "train", *words, "--stride", "3"]) == 2
    assert "is no report of this machine with these settings; name another file" in capsys.readouterr().err


def test_what_cannot_be_compared(files, monkeypatch, tmp_path):
    with pytest.raises(CourseError, match="has 20 frames, too few for 16, 2 apart"):
        bench_train([files[1]])
    with pytest.raises(CourseError, match="nothing.mp4"):
        bench_train([tmp_path / "nothing.mp4"])
    with pytest.raises(CourseError, match="no peer 'torchvison'; choose from torchvision, transformers"):
        bench_train(peers=["torchvison"])
    find = importlib.util.find_spec
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name == "accelerate" else find(name))
    with pytest.raises(CourseError, match="not measured without accelerate: pip install accelerate.$"):
        bench_train(peers=["torchvision", "transformers"])
    told = []
    assert bench.chosen_peers(None, told.append) == ["torchvision"] and "pip install accelerate" in told[0]


def test_a_side_that_fails_or_dies_says_so_and_another_epoch_can_follow(monkeypatch):
    """`serve` in this process: an error of any library is an answer, and settings can change after it."""

    class Pipe:
        def __init__(self, *asked):
            self.asked, self.sent = list(asked), []

        def recv(self):
            return self.asked.pop(0)

        def send(self, report):
            self.sent.append(report)

    def side(task, settings, turn, watch):
        if settings["clips"] == 0:
            raise ZeroDivisionError("no clips\nat all")
        while turn():
            watch.waits += [0.0, 0.0]

    monkeypatch.setitem(sides.SIDES, "ours", side)
    monkeypatch.setattr(sides.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sides.multiprocessing, "set_start_method", lambda *_, **more: None)
    threads = torch.get_num_threads()
    good, bad = {"clips": 2, "threads": threads}, {"clips": 0, "threads": threads}
    pipe = Pipe("rest", good, "again", bad, "rest", good, "end")
    sides.serve(pipe, "ours", Task("video_swin_mini", ()))
    said = [report.get("steps", report.get("error", "rested")) for report in pipe.sent]
    assert said == ["rested", 2, 2, "ZeroDivisionError: at all", "rested", 2]


@pytest.mark.dear
@pytest.mark.parametrize("name", ["ours", *HERE])
def test_workers_of_other_settings_are_gone(files, name, capfd):
    """They would count as memory of the next settings, and complain when the process ends."""
    model = bench.PEERS[name][0] if name in bench.PEERS else "video_swin_mini"
    clips = tuple(map(str, files))
    task = Task(model, clips, frames=4, size=32, batch=2, val=tuple(zip(clips, "ab")))
    with bench.Side(name, task) as side:
        alive = []
        for workers in (2, 1, 0):
            side.epoch(ALONE | {"workers": workers, "pipeline": "reference"})
            alive.append(len(psutil.Process(side.process.pid).children(recursive=True)))
    loaders = 2 if name == "ours" else 1  # ours validates with workers, too
    assert alive == [2 * loaders, loaders, 0]
    assert side.process.exitcode == 0 and capfd.readouterr().err == ""


def test_parts_stand_in_their_order_whenever_they_were_made(tmp_path):
    """One is missing before the recorded ones, one between them, and the file has one of other choices."""

    def made(*names):
        todo = [(name, lambda name=name: name) for name in names]
        return in_parts(
            tmp_path / "parts.json", {"what": "x", "commit": "c"}, ("what",), "of x", todo, lambda line: None
        )

    assert list(made("b", "z", "d")["parts"]) == ["b", "z", "d"]
    assert list(made("a", "b", "c", "d")["parts"]) == ["a", "b", "c", "d", "z"]
    assert {part["result"] for part in made("d")["parts"].values()} == set("abcdz")


def test_other_models_are_not_compared(monkeypatch):
    class Other(Fake):
        def __init__(self, name, task):
            self.name = name

        __enter__, __exit__ = lambda self: self, lambda self, *_: None

        def epoch(self, settings, warm):
            return {
                "parameters": len(self.name),
                "seconds": 1.0,
                "clips_per_second": 1.0,
                "waiting_share": 0,
                "peak_mb": 1,
            }

    monkeypatch.setattr(bench, "Side", Other)
    with pytest.raises(CourseError, match="the models of ours and torchvision differ"):
        compare("torchvision", bench.PHONE, Task("video_swin_mini", ()), 1)


def test_the_page_quotes_what_was_recorded():
    """The row of the researchers' page has the numbers of results/bench_train.json, and there is none without it."""
    path, page = repo_root() / "results" / "bench_train.json", repo_root() / "docs" / "researchers.md"
    row = [line for line in page.read_text(encoding="utf-8").splitlines() if "`vt-course bench train`" in line]
    if not path.is_file():
        assert row == []
        return
    report = json.loads(path.read_text(encoding="utf-8"))
    assert len(row) == 1 and summary(report) in row[0]
    assert {name: part["error"] for name, part in report["parts"].items() if "error" in part} == {}
    for part in report["parts"].values():  # the ratios are those of the sides beside them, but for the median
        result = part["result"]
        if "goal" in result:
            assert all(side["epochs"] == len(side["val_top1"]) for side in result["sides"].values())
            continue
        ours, peer, *_ = (side["clips_per_second"] for side in result["sides"].values())
        assert result["ratio"] == pytest.approx(ours / peer, rel=0.25) and result["turns"] >= 3


def test_the_summary_names_each_kind_once():
    def part(ratio, **more):
        return {"result": {"ratio": ratio, "ratio_error": 0.014, **more}}

    parts = {"a, phone clips": part(2.5, ratio_by_hand=1.1), "b, phone clips": part(3), "a, kept": {"error": "no"}}
    assert summary({"parts": parts | {"b, kept": part(1.25)}}) == (
        "phone clips: 2.50 ± 0.01 times a (1.10 times its loader made by hand), 3.00 ± 0.01 times b; "
        "kept: 1.25 ± 0.01 times b"
    )
