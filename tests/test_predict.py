"""Predictions for videos that nobody has labelled, as Python, as command, and for files that are none."""

import csv
import io
import json
import math
import re

import pytest
import torch
from PIL import Image
from test_cli import refused, run, run_json

from vt_course import CourseError
from vt_course.data.reader import BadClip, ClipReader
from vt_course.models import mini_weights
from vt_course.training import predict
from vt_course.training.predict import Predictor, videos_at

from videos import rotate_tag, write_audio, write_video


@pytest.fixture(scope="module")
def predictor():
    return Predictor("video_swin_mini", device="cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with videos of all kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "clip.mp4", frames=30)
    write_video(folder / "high.mp4", frames=30, size=(70, 48))
    write_video(folder / "two.mp4", frames=2)
    rotate_tag(folder / "clip.mp4", folder / "turned.mp4")
    (folder / "pictures").mkdir()
    for i, frame in enumerate(ClipReader(folder / "clip.mp4").read(range(24))):
        Image.fromarray(frame).save(folder / "pictures" / f"img_{i:03}.png")
    bad = folder / "bad"
    bad.mkdir()
    (bad / "text.mp4").write_text("no video at all", encoding="utf-8")
    (bad / "empty.mp4").touch()
    (bad / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:900])
    write_audio(bad / "sound.mp4")
    (folder / "notes.txt").write_text("not asked for", encoding="utf-8")
    return folder


def test_a_prediction(predictor, videos):
    found = predictor(videos / "clip.mp4", top=3)
    assert found["frames"] == 30 and found["views"] == "1x1" and found["note"] is None
    classes = found["classes"]
    assert (
        len(classes) == 3 and [c["probability"] for c in classes] == sorted((c["probability"] for c in classes))[::-1]
    )
    everything = predictor(videos / "clip.mp4", top=100)["classes"]
    assert sum(c["probability"] for c in everything) == pytest.approx(1) and len(everything) == 8
    assert everything[:3] == classes and Predictor(mini_weights("video_swin_mini"))(videos / "clip.mp4", 3) == found
    assert "trained on synthetic:motion" in predictor.caution and "anything else also gets one" in predictor.caution


def test_views_are_averaged(predictor, videos):
    many = Predictor(predictor.trained, protocol="2x3", device="cpu", batch_size=4)
    found = many(videos / "clip.mp4", top=8)
    assert found["views"] == "2x3" and found["classes"] != predictor(videos / "clip.mp4", top=8)["classes"]
    with pytest.raises(CourseError, match="did you mean mvit?"):
        Predictor(predictor.trained, protocol="mvitt")


def test_two_frames_are_answered_and_it_is_said(predictor, videos):
    found = predictor(videos / "two.mp4")
    assert found["note"] == "it has 2 frames and a clip of this model spans 22, so frames are repeated"


def test_a_turned_video_is_seen_as_a_player_shows_it(predictor, videos):
    """A rotation by the file's tag is the rotation of the pixels."""
    seen = []
    hook = predictor.trained.model.register_forward_pre_hook(lambda model, x: seen.append(x[0]))
    for name in ("clip", "turned"):
        predictor(videos / f"{name}.mp4")
    hook.remove()
    assert torch.allclose(torch.rot90(seen[0], -1, (3, 4)), seen[1], atol=0.06)


# ---------------------------------------------------------------- windows


def test_windows_tile_the_video(predictor, videos, tmp_path):
    rows = list(predictor.windows(videos / "clip.mp4", 0.5, top=8))  # 30 frames at 24 a second: 1.25 s
    assert [(row["start"], row["end"]) for row in rows] == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.25)]
    reader = ClipReader(videos / "clip.mp4")
    for row, (first, stop) in zip(rows, [(0, 12), (12, 24), (24, 30)]):
        wanted = predictor.probabilities(reader, first, stop).max().item()
        assert row["classes"][0]["probability"] == wanted
    [row] = predictor.windows(videos / "clip.mp4", 100)
    assert row["end"] == 1.25 and row["classes"] == predictor(videos / "clip.mp4")["classes"]
    pictures = list(predictor.windows(videos / "pictures", 0.5))
    assert [row["start"] for row in pictures] == [0.0, 0.5]  # 24 pictures count as 25 a second
    path = predict.draw_time_line(rows, tmp_path / "out")
    assert path.name == "clip.mp4.png" and path.read_bytes().startswith(b"\x89PNG")
    assert predict.draw_time_line([], tmp_path) is None


def test_a_gap_in_the_time_stamps_has_no_answer(predictor, tmp_path):
    times = [*range(24), *range(96, 120)]  # nothing is shown from 1 s to 4 s, but for the frame before
    write_video(tmp_path / "gap.mp4", frames=48, times=times)
    rows = list(predictor.windows(tmp_path / "gap.mp4", 1.0, top=8))
    assert [row["start"] for row in rows] == [0.0, 4.0]
    drawn = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "time_line", lambda *told: drawn.update(told=told))
        patch.setattr(predict, "figure_bytes", lambda figure: b"")
        predict.draw_time_line(rows, tmp_path, most=2)
    edges, values, title = drawn["told"]
    assert edges == [0.0, 1.0, 4.0, 5.0] and len(values) == 2 and title == "gap.mp4"
    assert all(len(v) == 3 and math.isnan(v[1]) and not math.isnan(v[0] + v[2]) for v in values.values())


# ---------------------------------------------------------------- bad input

PREDICT = ["predict", "video_swin_mini", "--device", "cpu"]


@pytest.mark.parametrize(
    "name, words",
    [
        ("bad/text.mp4", "is no MP4"),
        ("bad/empty.mp4", "is empty"),
        ("bad/cut.mp4", "is truncated|damaged"),
        ("bad/sound.mp4", "no video stream"),
        ("notes.txt", "is no MP4"),
    ],
)
def test_what_is_no_video_is_one_sentence(name, words, predictor, videos):
    with pytest.raises(BadClip, match=words) as error:
        predictor(videos / name)
    assert name in str(error.value) and str(error.value).count(". ") == 0


def test_videos_at(videos, tmp_path):
    below = [path.replace(str(videos), "") for path in videos_at(videos)]
    assert sorted(below) == sorted(
        ["/clip.mp4", "/high.mp4", "/turned.mp4", "/two.mp4", "/pictures"]
        + [f"/bad/{name}.mp4" for name in ("cut", "empty", "sound", "text")]
    )
    assert videos_at(videos / "pictures") == [str(videos / "pictures")]
    with pytest.raises(CourseError, match="has no videos"):
        videos_at(tmp_path)
    with pytest.raises(CourseError, match="there is no file or folder"):
        videos_at(tmp_path / "gone.mp4")


def test_bad_files_cost_no_other(videos, tmp_path):
    given = [tmp_path / "gone.mp4", videos, tmp_path]
    code, out, err = run(*PREDICT, *given, "--top", "2")
    lines = err.splitlines()
    assert code == 2 and len(lines) == 6 and all(line.startswith("vt-course: ") for line in lines)
    assert {name for name in ("gone", "text", "empty", "cut", "sound", "has no videos") if name in err} >= {
        "gone",
        "cut",
    }
    table = [line.split()[0].rpartition("/")[2] for line in out.splitlines()[1:6]]
    assert table == ["clip.mp4", "high.mp4", "pictures", "turned.mp4", "two.mp4"]
    assert "two.mp4: it has 2 frames" in out and "anything else also gets one of them" in out.splitlines()[-1]
    code, out, err = run(*PREDICT, *given, "--json")
    found = json.loads(out)
    assert code == 2 and len(found["videos"]) == 11 and len([v for v in found["videos"] if "error" in v]) == 6
    assert "no file or folder" in refused(*PREDICT, tmp_path / "gone.mp4")


def test_a_film_that_is_damaged_or_cut_off_keeps_its_first_answers(videos, monkeypatch):
    real, film = Predictor.probabilities, [*PREDICT, videos / "clip.mp4", "--window", "0.5s"]
    for error, expected in ((BadClip("Clip x is damaged."), 2), (KeyboardInterrupt(), 130)):

        def damaged(self, reader, first=0, stop=None, error=error):
            if first:
                raise error
            return real(self, reader, first, stop)

        monkeypatch.setattr(Predictor, "probabilities", damaged)
        code, out, err = run(*film)
        assert code == expected and out.splitlines()[1].split()[1:3] == ["0:00:00", "0:00:00.5"], (out, err)
        assert ("is damaged" if expected == 2 else "interrupted") in err and "Traceback" not in err


# ---------------------------------------------------------------- the command


def test_predict_json(videos, predictor):
    found = run_json(*PREDICT, videos / "clip.mp4", "--top", "3")
    assert found["videos"] == json.loads(json.dumps([predictor(videos / "clip.mp4", 3)]))
    assert found["trained_on"] == "synthetic:motion" and found["caution"] == predictor.caution
    [film] = run_json(*PREDICT, videos / "clip.mp4", "--window", "0.5s", "--top", "1")["videos"]
    assert [len(row["classes"]) for row in film["windows"]] == [1, 1, 1]


def test_predict_csv_and_time_line(videos, tmp_path):
    code, out, err = run(*PREDICT, videos / "clip.mp4", "--csv", "--top", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["place"] for row in rows] == ["1", "2"] and "anything else" in err
    film = [*PREDICT, videos / "clip.mp4", "--window", "0.5", "--out", tmp_path]
    code, out, err = run(*film)
    assert code == 0 and [line.split()[1:3] for line in out.splitlines()[1:4]] == [
        ["0:00:00", "0:00:00.5"],
        ["0:00:00.5", "0:00:01"],
        ["0:00:01", "0:00:01.2"],
    ]
    assert (tmp_path / "clip.mp4.png").is_file()
    assert "give both" in refused(*PREDICT, videos / "clip.mp4", "--out", tmp_path)
    for length in ("0s", "ten", "-1m", "s"):
        code, out, err = run(*PREDICT, videos / "clip.mp4", f"--window={length}")
        assert code == 2 and "is no length of at least 0.1 seconds" in err


@pytest.mark.parametrize(
    "name, words",
    [
        ("video_swin_mni", "does not exist: .* did you mean video_swin_mini"),
        ("vit_frames_mini", "no weights of vit_frames_mini are published; train it"),
        ("video_swin_base", "has the published weights video_swin_base/k400, video_swin_base/k400_in22k"),
        ("runs/x.safetensors", "does not exist"),
    ],
)
def test_names_without_weights(name, words, videos):
    assert re.search(words, refused("predict", name, videos / "clip.mp4"))
