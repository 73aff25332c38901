"""The setting `decoder`: the frames of PyAV by decord or torchcodec, or a refusal; and where the setting goes."""

import json
import sys
import types
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vt_course import CourseError
from vt_course.cli import main
from vt_course.data import decoders, verify
from vt_course.data.decoders import CLOSE, decoder_fault
from vt_course.data.loading import KeptFrames, in_order, make_loader
from vt_course.data.reader import BadClip, ClipReader
from vt_course.training.evaluate import open_clips, open_data
from vt_course.training.fit import fit
from vt_course.training.folder import with_defaults
from vt_course.training.protocols import PROTOCOLS
from vt_course.training.recipes import Recipe
from vt_course.training.trained import open_model

from videos import cut_without_encoding, rotate_tag, write_interlaced, write_video


def there(*values, decoder):
    """A parameter of pytest that is skipped, with the reason, where a decoder is not there."""
    fault = decoder_fault(decoder)
    return pytest.param(*values, marks=pytest.mark.skip(reason=fault) if fault else ())


OTHERS = [there(name, decoder=name) for name in ("decord", "torchcodec")]

# What a decoder cannot show as PyAV does, and what the refusal says: by decord, by torchcodec ("": it reads the file).
FAULTS = {
    "narrow.mp4": ("pixels wide", ""),
    "av1.mp4": ("may not know its codec", ""),
    "guessed.avi": ("of other times", "of other times"),
    "open.mp4": ("open groups", ""),
    "open.mkv": ("open groups", ""),
    "ten bits.mp4": ("another first picture", "another first picture"),
    "interlaced.mp4": ("interlaced", "interlaced"),
    "cut.mp4": ("counts 24 frames, but the video shows 19", ""),
    "edited.mp4": ("but the video shows", ""),
}
GOOD = {
    "plain.mp4": dict(bframes=2, faststart=True),
    "odd size.mp4": dict(size=(51, 67), pixels="yuv444p"),
    "variable rate.mp4": dict(frames=12, times=[0, 1, 2, 3, 12, 13, 14, 30, 31, 60, 61, 62]),
    "one frame.mp4": dict(frames=1),
    "ünï 视频 'q' #1 a:b.mkv": {},
    "vp9.webm": dict(codec="libvpx-vp9"),
    "old.avi": dict(codec="mpeg4"),
    "wide pixels.mp4": dict(aspect=Fraction(2)),
    "upright.mp4": dict(frames=8, size=(120, 54), aspect=Fraction(2)),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    at = tmp_path_factory.mktemp("zoo")
    for name, how in GOOD.items():
        write_video(at / name, **how)
    rotate_tag(at / "upright.mp4", at / "turned.mp4")
    write_video(at / "narrow.mp4", size=(64, 48))
    write_video(at / "av1.mp4", codec="libsvtav1", size=(64, 64))
    write_video(at / "guessed.avi", bframes=2)
    write_video(at / "ten bits.mp4", pixels="yuv420p10le")
    write_interlaced(at / "interlaced.mp4")
    cut_without_encoding(at / "plain.mp4", at / "cut.mp4", 0.2)
    edited = bytearray((at / "plain.mp4").read_bytes())
    place = edited.index(b"elst") + 12  # the edit's duration, halved
    edited[place : place + 4] = (int.from_bytes(edited[place : place + 4], "big") // 2).to_bytes(4, "big")
    (at / "edited.mp4").write_bytes(edited)
    for ending in ("mp4", "mkv"):
        open_groups(at / f"open.{ending}")
    return at


def open_groups(path, frames=36):
    """H.264 in which frames that are shown before a key frame follow it in the file, and need the group before it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.options = {"x264-params": "open-gop=1:keyint=12:scenecut=0:bframes=3:b-adapt=0"}
        for t in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * t, np.uint8), format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("name", [*GOOD, "turned.mp4"])
@pytest.mark.parametrize("decoder", OTHERS)
def test_another_decoder_gives_the_same_frames(zoo, decoder, name, monkeypatch):
    ours, other = ClipReader(zoo / name), ClipReader(zoo / name, decoder=decoder)
    wanted = np.random.default_rng(0).integers(0, ours.num_frames, 7)  # unsorted, with repeats
    expected, clip = ours.read(wanted), other.read(wanted)
    assert clip.dtype == np.uint8 and clip.shape == expected.shape and other.size == ours.size
    if "wide pixels" in name or name in ("upright.mp4", "turned.mp4"):  # stretched from RGB, not from YUV
        assert abs(clip.astype(int) - expected).mean() < 6
    else:
        assert abs(clip.astype(int) - expected).max() <= CLOSE
    monkeypatch.setattr("vt_course.data.reader.BLOCK", 3 * 48 * 64 * 3)  # a few pictures at a time
    np.testing.assert_array_equal(ClipReader(zoo / name, decoder=decoder).read(wanted), clip)
    small = ClipReader(zoo / name, 24, decoder=decoder).read(wanted)
    near = ClipReader(zoo / name, 24).read(wanted)
    assert small.shape == near.shape and abs(small.astype(int) - near).mean() < 6


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize(
    "number, decoder", [there(0, "decord", decoder="decord"), there(1, "torchcodec", decoder="torchcodec")]
)
def test_a_file_is_equal_or_refused_in_one_sentence(zoo, number, decoder, name, capfd):
    reader = ClipReader(zoo / name, decoder=decoder)
    wanted = [reader.num_frames - 1, 0, reader.num_frames // 2]
    if words := FAULTS[name][number]:
        for _ in range(2):  # a second read is refused, too
            with pytest.raises(BadClip) as caught:
                reader.read(wanted)
            message = str(caught.value)
            assert words in message and f"decoder={decoder}" in message and "decoder=pyav" in message
            assert str(zoo / name) in message and "\n" not in message and message.endswith(".")
        assert capfd.readouterr() == ("", "")
    else:
        assert abs(reader.read(wanted).astype(int) - ClipReader(zoo / name).read(wanted)).max() <= CLOSE


@pytest.mark.parametrize("decoder", OTHERS)
def test_damage_is_refused_and_a_cut_file_never_reaches_the_decoder(zoo, decoder, tmp_path):
    whole = (zoo / "plain.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[:-40])
    with pytest.raises(BadClip, match="is truncated"):
        ClipReader(tmp_path / "cut.mp4", decoder=decoder)
    (tmp_path / "zeros.mp4").write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    reader = ClipReader(tmp_path / "zeros.mp4", decoder=decoder)
    with pytest.raises(BadClip, match=f"zeros.mp4 .*decoder={decoder}|zeros.mp4 is damaged"):
        reader.read(range(reader.num_frames))


def fake(monkeypatch, **changes):
    """A decoder that shows what PyAV does, but for `changes` to what it says of a file."""

    def opened(source):
        reader = ClipReader(source.removeprefix("file:"))

        def read(indices):
            pictures, times = reader.read(indices), reader._times[indices]
            return changes.get("pictures", lambda p, i: p)(pictures, indices), times + changes.get("late", 0)

        return decoders.Other(reader.num_frames + changes.get("more", 0), read)

    monkeypatch.setitem(decoders.OPEN, "decord", opened)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(more=1), "counts 25 frames, but the video shows 24"),
        (dict(late=1 / 24), "frames of other times"),
        (dict(pictures=lambda p, i: p[:, :, ::-1]), "another first picture"),
        (dict(pictures=lambda p, i: p[:, 1:]), "another first picture"),
        (dict(pictures=lambda p, i: p[..., :2]), "another first picture"),
        (dict(pictures=lambda p, i: 1 / 0), "fails on it"),
    ],
)
def test_each_fault_of_a_decoder_is_noticed(zoo, monkeypatch, changes, words):
    fake(monkeypatch, **changes)
    with pytest.raises(BadClip, match=words):
        ClipReader(zoo / "plain.mp4", decoder="decord").read([5])


def test_verify_compares_every_frame(zoo, monkeypatch, tmp_path, capsys):
    """What a reader cannot notice without decoding twice: other frames in the middle, as where damage is concealed."""
    fake(monkeypatch, pictures=lambda p, i: np.where((i == 7)[:, None, None, None], 255 - p, p))
    ClipReader(zoo / "plain.mp4", decoder="decord").read([7])
    assert "another picture 7 than PyAV" in verify.decode_all(str(zoo / "plain.mp4"), "decord")["error"]
    monkeypatch.undo()
    assert verify.decode_all(str(zoo / "turned.mp4"), "decord")["error"] is None
    for name in ("plain.mp4", "interlaced.mp4"):
        (tmp_path / name).write_bytes((zoo / name).read_bytes())
    assert main(["data", "verify", str(tmp_path), "--workers", "1", "--decoder", "decord", "--json"]) == 1
    status = {row["path"]: (row["status"], row["reason"]) for row in json.loads(capsys.readouterr().out)}
    assert status["plain.mp4"] == ("ok", "") and "decord, which does not" in status["interlaced.mp4"][1]


def test_a_video_in_a_tar_and_a_folder_of_pictures(zoo, tmp_path):
    data = (zoo / "plain.mp4").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 512 + data + b"y" * 512)
    expected = ClipReader(zoo / "plain.mp4").read([9, 2])
    clip = ClipReader(tmp_path / "a.tar", span=(512, len(data)), decoder="decord").read([9, 2])
    assert abs(clip.astype(int) - expected).max() <= CLOSE
    for number, picture in enumerate(expected):
        Image.fromarray(picture).save(tmp_path / f"img_{number}.png")
    np.testing.assert_array_equal(ClipReader(tmp_path, decoder="decord").read([0, 1]), expected)


# ------------------------------------------------------------------------- where the setting goes


@pytest.fixture(scope="module")
def data(zoo):
    """A manifest of healthy clips, and of one that decord would show otherwise."""
    rows = [f"{name},{label},," for name in ("plain.mp4", "vp9.webm", "old.avi") for label in "ab"]
    (zoo / "good.csv").write_text("\n".join(["path,label,start,end", *rows, ""]), encoding="utf-8")
    (zoo / "all.csv").write_text("\n".join(["path,label,start,end", *rows, "cut.mp4,a,,", ""]), encoding="utf-8")
    return zoo


def recipe(data, **settings):
    small = dict(frames=4, stride=2, size=32, batch_size=4, epochs=2, warmup_epochs=0.0, drop_path=0.0)
    lists = f"csv:{data / 'all.csv'},{data / 'good.csv'}"
    return Recipe("mvit_mini", data=lists, **small | settings)


def samples(recipe):
    return [sample for clips in open_data(recipe) for sample in map(clips.__getitem__, range(len(clips)))]


@pytest.mark.parametrize("keep", [0, 40])
def test_a_data_set_is_the_same_by_another_decoder_but_for_what_it_refuses(data, keep):
    ours, other = samples(recipe(data, keep=keep)), samples(recipe(data, keep=keep, decoder="decord"))
    for number, (one, two) in enumerate(zip(ours, other, strict=True)):
        if number == 6:
            assert "decoder=decord" in two["error"] and "clip" in one
        else:
            assert abs(one["clip"] - two["clip"]).max() <= CLOSE / 255 / 0.22


def test_frames_that_are_kept_are_kept_by_decoder(data, monkeypatch):
    monkeypatch.setattr(KeptFrames, "shared", {})
    for decoder in ("pyav", "decord"):
        samples(recipe(data, keep=40, decoder=decoder))
    assert [key[-1] for key in KeptFrames.shared] == ["pyav", "pyav", "decord", "decord"]


@pytest.mark.posix("fork")
@pytest.mark.parametrize("decoder", OTHERS)
def test_loader_processes_read_by_another_decoder(data, decoder):
    """Also forked ones, after this process has used the decoder: each opens its own files."""
    _, clips = open_data(recipe(data, decoder=decoder))
    alone = [clips[k]["clip"] for k in range(len(clips))]
    loader = make_loader(clips, in_order(clips, 2), 2, torch.device("cpu"))
    found = torch.cat([batch["clip"] for batch in loader])
    assert torch.equal(found, torch.stack(alone))


def test_a_run_keeps_its_decoder_and_its_refusals_are_listed(data, tmp_path):
    by_decord = recipe(data, decoder="decord")
    fit(by_decord, tmp_path, max_steps=1, workers=0, progress=False)
    with pytest.raises(CourseError, match="decoder was 'decord' and is now 'pyav'"):
        fit(recipe(data), tmp_path, workers=0, progress=False)
    summary = fit(by_decord, tmp_path, workers=0, progress=False)  # goes on
    assert summary["finished"] and summary["recipe"]["decoder"] == "decord" and summary["bad_clips"]["train"] == 1
    assert "decoder=decord, which counts 24 frames" in (tmp_path / "bad_clips.csv").read_text(encoding="utf-8")
    trained = open_model(tmp_path)
    for protocol in (None, PROTOCOLS["centre"]):
        assert open_clips(trained, protocol=protocol).decoder == "decord"


def test_an_older_run_was_made_by_pyav():
    assert with_defaults({"model": "mvit_mini"})["decoder"] == "pyav"


# ------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_a_missing_package_says_what_to_install_before_anything_is_read(data, tmp_path, decoder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, decoder, None)  # import raises
    for refused in (
        lambda: ClipReader("nowhere.mp4", decoder=decoder),
        lambda: open_data(recipe(data, decoder=decoder)),
        lambda: fit(recipe(data, decoder=decoder), tmp_path / "run", progress=False),
        lambda: list(verify.verify([data / "plain.mp4"], decoder=decoder)),
    ):
        with pytest.raises(CourseError, match=f"{decoder} needs the package {decoder}.*pip install"):
            refused()
    assert main(["data", "verify", str(data), "--decoder", decoder]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "run" / "state.pt").exists()


def test_a_package_that_does_not_load_says_so(monkeypatch):
    """torchcodec 0.17 is imported without the libraries of FFmpeg, and tells it by its version of them."""
    there = types.ModuleType("torchcodec")
    there.ffmpeg_major_version = None
    monkeypatch.setitem(sys.modules, "torchcodec", there)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", types.ModuleType("torchcodec.decoders"))
    with pytest.raises(CourseError, match="torchcodec .* does not load: .*FFmpeg"):
        ClipReader("nowhere.mp4", decoder="torchcodec")


@pytest.mark.parametrize("name", ["Decord", "opencv"])
def test_an_unknown_decoder_is_named(name):
    with pytest.raises(CourseError, match=f"decoder='{name}'"):
        Recipe("mvit_mini", decoder=name)
    with pytest.raises(CourseError, match=f"decoder='{name}' is unknown: .*decord"):
        ClipReader("nowhere.mp4", decoder=name)
