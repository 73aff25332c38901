"""The embedded data set: its files, its labels, and the proof that its two ceilings hold.

The ceilings (1/8 from one frame, 1/2 from frames without order) follow from two facts that are
tested exactly: every pose is uniform, and a motion's path is its partner's path backwards.
Probes on decoded .mp4 files then look for what a proof may have missed, above all in the
encoding. A probe may exceed its ceiling by four standard deviations of a binomial, and leaks
planted on purpose show that it would.
"""

import csv
import errno
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import psutil
import pytest

from vt_course import CourseError
from vt_course.data import open_spec, synthetic
from vt_course.data.synthetic import APPEARANCES, MOTIONS, clip_array, draw_path, encode, render

TINY = dict(clips=(16, 8), frames=4, size=32, seed=3, workers=1, progress=False)
PARTNER = dict(zip(MOTIONS, np.array(MOTIONS).reshape(4, 2)[:, ::-1].ravel()))


def tree(folder):
    """Every file below a folder that is not hidden: {relative path: bytes}."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def read(source):
    """Frames (T, S, S, 3), bytes of each frame, key-frame flags, from a file or from bytes."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        stream = container.streams.video[0]
        frames = [frame for packet in [*packets, None] for frame in stream.decode(packet)]
        return (
            np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
            np.array([p.size for p in packets]),
            [frame.key_frame for frame in frames],
        )


# ---------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    return SimpleNamespace(out=out, summary=render(out, **TINY), files=tree(out))


def test_same_seed_gives_the_same_bytes(tiny, tmp_path):
    render(tmp_path / "again", **TINY)
    assert tree(tmp_path / "again") == tiny.files
    render(tmp_path / "other", **{**TINY, "seed": 4})
    other = tree(tmp_path / "other")
    assert other.keys() == tiny.files.keys()
    clips = [name for name in other if name.endswith("mp4")]
    assert clips and not any(other[name] == tiny.files[name] for name in clips)
    assert other["motion_train.csv"] != tiny.files["motion_train.csv"]


def test_the_number_of_workers_does_not_matter(tmp_path):
    settings = {**TINY, "clips": (24, 8)}
    render(tmp_path / "one", **settings)
    render(tmp_path / "two", **{**settings, "workers": 2})
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_summary_and_manifests(tiny):
    assert tiny.summary["clips"] == {"train": 16, "val": 8} and tiny.summary["rendered"] == 24
    sizes = [len(data) for name, data in tiny.files.items() if name.endswith(".mp4")]
    assert tiny.summary["bytes"] == sum(sizes) and len(sizes) == 24
    assert json.loads(tiny.files["config.json"])["seed"] == 3
    for name, path in tiny.summary["manifests"].items():
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["path", "label", "start", "end"]
        assert len(rows) == tiny.summary["clips"][name.split("_")[1]]
        assert {r["label"] for r in rows} == set(MOTIONS if "motion" in name else APPEARANCES)
        assert all((tiny.out / r["path"]).is_file() for r in rows)
    assert b"\r" not in tiny.files["motion_train.csv"]


def test_files_are_h264_key_frames_only(tiny):
    for name in ("clips/train/00000.mp4", "clips/val/00007.mp4"):
        with av.open(str(tiny.out / name)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
            assert (stream.frames, stream.average_rate, len(container.streams)) == (4, 16, 1)
        frames, _, keys = read(tiny.out / name)
        assert frames.shape == (4, 32, 32, 3) and keys == [True] * 4


def test_the_default_set_fits_in_150_megabytes():
    clips = [clip_array(MOTIONS[i % 8], APPEARANCES[i % 8], key=(0, 0, i)) for i in range(12)]
    assert clips[0].shape == (32, 112, 112, 3)
    sizes = np.array([len(encode(clip)) for clip in clips])
    assert 2000 * (sizes.mean() + 4 * sizes.std() / math.sqrt(len(sizes))) < 150e6


# ---------------------------------------------------------------- interruptions and mistakes


def test_a_second_run_renders_only_what_is_missing(tiny, tmp_path):
    out = tmp_path / "set"
    render(out, **TINY)
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("*.mp4")}
    assert render(out, **TINY)["rendered"] == 0
    lost = [out / "clips/train/00003.mp4", out / "clips/val/00000.mp4"]
    for file in (*lost, out / "motion_val.csv"):
        file.unlink()
    (out / "config.json").rename(out / "rendering.json")  # as if killed before the end
    (out / "clips/train/00003.mp4.99.part").write_bytes(b"half a clip")
    assert render(out, **TINY)["rendered"] == 2
    assert tree(out) == tiny.files
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items() if file not in lost)


# A worker imports the script too. There it leaves its process id and takes its time, so that it is surely at work when
# a test looks.
RENDER = """
import os, time
from pathlib import Path
from vt_course.data import synthetic
if __name__ == "__main__":
    synthetic.render({out!r}, clips=(160, 32), frames=4, size=32, workers=2, progress=False)
else:
    Path({out!r}).with_name(f"worker-{{os.getpid()}}").touch()
    render_clip = synthetic._render_clip
    synthetic._render_clip = lambda *job: (time.sleep(0.05), render_clip(*job))
"""


def start(tmp_path, out):
    """A render of 192 clips with two workers, in a process of its own, once both are at work."""
    script = tmp_path / "script.py"
    script.write_text(RENDER.format(out=str(out)), encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, encoding="utf-8")
    deadline = time.monotonic() + 60
    workers = []
    while len(list(out.glob("clips/*/*.mp4"))) < 10 or len(workers) < 2:
        assert process.poll() is None, f"ended with {process.returncode}, workers {workers}: {process.stderr.read()}"
        assert time.monotonic() < deadline, f"after a minute: workers {workers}"
        time.sleep(0.01)
        workers = [int(file.name[7:]) for file in tmp_path.glob("worker-*")]
    return process, [psutil.Process(pid) for pid in workers]


@pytest.mark.slow
@pytest.mark.posix("kill -9")
def test_kill_leaves_whole_clips_and_no_workers(tmp_path):
    out = tmp_path / "set"
    process, workers = start(tmp_path, out)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "a worker outlived its main process"
    process.stderr.close()
    finished = list(out.glob("clips/*/*.mp4"))
    assert 10 <= len(finished) < 192 and not (out / "config.json").exists()
    for file in finished:
        assert len(read(file)[0]) == 4, f"{file} is not whole"
    again = render(out, clips=(160, 32), frames=4, size=32, workers=1, progress=False)
    assert again["rendered"] == 192 - len(finished)
    assert (out / "config.json").exists() and not list(out.rglob("*.part"))


@pytest.mark.slow
def test_a_dead_worker_is_an_error_not_a_hang(tmp_path):
    process, workers = start(tmp_path, tmp_path / "set")
    workers[0].kill()
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "CourseError: A rendering process was killed" in message


def test_other_settings_in_the_same_folder(tiny, tmp_path):
    with pytest.raises(CourseError, match="other settings.*another folder") as caught:
        render(tiny.out, **{**TINY, "seed": 4})
    assert str(tiny.out) in str(caught.value) and tree(tiny.out) == tiny.files
    (tmp_path / "rendering.json").write_bytes(tiny.files["config.json"])  # an unfinished set
    with pytest.raises(CourseError, match="other settings"):
        render(tmp_path, **{**TINY, "frames": 5})


def test_a_full_disk_keeps_what_is_finished(tiny, tmp_path, monkeypatch):
    def encode_three_then_fail(clip, left=[3]):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return encode(clip)

    monkeypatch.setattr(synthetic, "encode", encode_three_then_fail)
    with pytest.raises(CourseError, match="No space left.*free some space") as caught:
        render(tmp_path, **TINY)
    assert str(tmp_path) in str(caught.value)
    monkeypatch.undo()
    assert render(tmp_path, **TINY)["rendered"] == 24 - 3
    assert tree(tmp_path) == tiny.files


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(synthetic.os, "replace", fail)
    with pytest.raises(OSError):
        synthetic._write(tmp_path / "clip.mp4", b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(CourseError, match="choose another folder"):
        render(tmp_path / "file" / "set", **TINY)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(clips=(100, 20)), "multiples of 8"),
        (dict(clips=(0, 8)), "multiples of 8"),
        (dict(frames=1), "at least 2"),
        (dict(size=113), "even"),
        (dict(size=16), "32 pixels"),
        (dict(seed=-1), "negative"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, wrong, message):
    with pytest.raises(CourseError, match=message):
        render(tmp_path / "set", **{**TINY, **wrong})
    assert not (tmp_path / "set").exists()


def test_import_is_light():
    """Each worker imports this module; torch would cost seconds, a second FFmpeg may clash."""
    code = "import sys, vt_course.data.synthetic; print({'torch', 'decord', 'av'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout
    assert printed.strip() == "set()"


# ---------------------------------------------------------------- data specs


def test_open_spec_synthetic(tmp_path, monkeypatch):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    with pytest.raises(CourseError, match="vt-course data synthetic"):
        open_spec("synthetic:motion")
    render(**TINY)
    for label, classes in (("motion", MOTIONS), ("appearance", APPEARANCES)):
        spec = open_spec(f"synthetic:{label}")
        assert spec.classes == classes and spec.name == f"synthetic:{label}"
        assert spec.train == tmp_path / "synthetic" / f"{label}_train.csv"
        assert spec.val.is_file()


def test_open_spec_csv(tmp_path):
    train, val = tmp_path / "train.csv", tmp_path / "val.csv"
    spec = f"csv:{train},{val}"
    with pytest.raises(CourseError, match="no manifest.*train.csv"):
        open_spec(spec)
    train.write_text("path,label,start,end\na.mp4,dog,,\nb.mp4,cat,0,2\n", encoding="utf-8")
    val.write_text("path,label,start,end\nc.mp4,dog,,\n", encoding="utf-8")
    assert open_spec(spec).classes == ("cat", "dog") and open_spec(spec).val == val
    val.write_text("path,label,start,end\nc.mp4,cow,,\n", encoding="utf-8")
    with pytest.raises(CourseError, match="cow"):
        open_spec(spec)
    val.write_text("path,label,start,end\n", encoding="utf-8")
    with pytest.raises(CourseError, match="no clips"):
        open_spec(spec)
    val.write_text("video,class\nc.mp4,1\n", encoding="utf-8")
    with pytest.raises(CourseError, match="no columns"):
        open_spec(spec)


@pytest.mark.parametrize("spec", ["synthetic", "synthetic:colour", "csv:one.csv", "videos", ""])
def test_open_spec_unknown(spec):
    with pytest.raises(CourseError, match="Unknown data spec"):
        open_spec(spec)


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("count", [8, 64, 400, 1600])
def test_labels_are_balanced_and_independent(count):
    for split in (0, 1):
        pairs = synthetic.labels(count, split, seed=0)
        table = np.zeros((8, 8), int)
        for motion, appearance in pairs:
            table[MOTIONS.index(motion), APPEARANCES.index(appearance)] += 1
        assert (table.sum(0) == count // 8).all() and (table.sum(1) == count // 8).all()
        assert table.max() - table.min() <= 1  # independent: all combinations alike
        if count >= 64:  # in random order: position tells nothing
            motions = np.array([MOTIONS.index(motion) for motion, _ in pairs])
            assert abs(np.corrcoef(motions, np.arange(count))[0, 1]) < 4 / math.sqrt(count)
    assert synthetic.labels(64, 0, 0) != synthetic.labels(64, 1, 0)


# ---------------------------------------------------------------- the facts behind the ceilings


def uniformity(poses):
    """Kolmogorov-Smirnov distance to the uniform law, in units of 1/sqrt(n), per column."""
    n = len(poses)
    steps = np.sort(poses, axis=0)
    rank = np.arange(n)[:, None] / n
    return np.maximum(steps - rank, rank + 1 / n - steps).max(axis=0) * math.sqrt(n)


def test_every_pose_is_uniform_at_every_frame():
    limit = 2.3  # exceeded with probability 5e-5; 96 comparisons are made
    for motion in MOTIONS:
        paths = np.stack([draw_path(motion, 32, (5, 0, k)) for k in range(500)])  # (n, T, 4)
        assert paths.min() >= 0 and paths.max() < 1
        for t in (0, 15, 31):
            assert uniformity(paths[:, t]).max() < limit, (motion, t)
        fixed_start = (paths - paths[:, :1]) % 1  # the leak this is to catch
        assert uniformity(fixed_start[:, 31]).max() > limit


def test_a_path_backwards_is_the_partner_s_path():
    for motion in MOTIONS:
        for k in range(20):
            path, partner = (draw_path(m, 32, (6, 0, k)) for m in (motion, PARTNER[motion]))
            assert (path[::-1] == partner).all()
            still = np.delete(path, synthetic.COORDINATE[motion], axis=1)
            assert (still == still[0]).all()


def parts(motion="grow", appearance="dots", frames=6, size=48, key=(7, 0, 0)):
    return (
        synthetic.draw_scene(appearance, size, key),
        draw_path(motion, frames, key),
        synthetic.draw_shake(frames, size, key),
    )


def reorder(shake, order):
    return replace(shake, offset=shake.offset[order], gain=shake.gain[order], noise=shake.noise[order])


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_clip_backwards_is_a_clip_of_the_partner(motion):
    scene, path, shake = parts(motion)
    backwards = synthetic.paint(scene, path, shake)[::-1]
    partner = clip_array(PARTNER[motion], "dots", frames=6, size=48, key=(7, 0, 0))
    same_noise = synthetic.paint(scene, draw_path(PARTNER[motion], 6, (7, 0, 0)), reorder(shake, np.arange(6)[::-1]))
    assert (backwards == same_noise).all()
    assert not (backwards == partner).all()  # noise is drawn per frame, so it does not match


def test_a_frame_depends_on_its_own_pose_and_noise_alone():
    scene, path, shake = parts()
    order = np.array([3, 0, 5, 1, 4, 2])
    clip = synthetic.paint(scene, path, shake)
    assert (synthetic.paint(scene, path[order], reorder(shake, order)) == clip[order]).all()
    assert all((clip[i] != clip[j]).any() for i in range(6) for j in range(i))


def test_noise_is_independent_between_frames():
    shake = synthetic.draw_shake(400, 32, (8, 0, 0))
    for series in (shake.gain, shake.offset[:, 0], shake.offset[:, 1], shake.noise[:, 5, 5]):
        for past, future in ((series[:-1], series[1:]), (series, np.arange(400))):
            assert abs(np.corrcoef(past, future)[0, 1]) < 4 / math.sqrt(399)


def test_encoding_backwards_is_the_encoding_backwards():
    """With a cut in the clip, where an encoder that looks around would do something else."""
    clip = np.concatenate(
        [
            clip_array("left", "checks", frames=4, size=64, key=(9, 0, 0)),
            clip_array("grow", "falling", frames=5, size=64, key=(9, 0, 1)),
        ]
    )
    ahead, ahead_sizes, _ = read(encode(clip))
    back, back_sizes, _ = read(encode(clip[::-1]))
    assert (back[::-1] == ahead).all()
    # Sizes: the first holds x264's banner; picture numbers alternate, so T must be odd here.
    assert (back_sizes[::-1][1:-1] == ahead_sizes[1:-1]).all() and len(clip) % 2
    assert np.abs(ahead.astype(int) - clip).mean() < 8


# ---------------------------------------------------------------- probes

PROBED = dict(clips=(320, 320), frames=8, size=48, seed=11, workers=2, progress=False)
N = 640  # each half is held out once


def bound(ceiling, n=N):
    return ceiling + 4 * math.sqrt(ceiling * (1 - ceiling) / n)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """What a model would see: clips (N, T, S, S, 3), bytes (N, T) and motions (N,)."""
    out = tmp_path_factory.mktemp("probed")
    render(out, **PROBED)
    clips, sizes, motions = [], [], []
    for split in ("train", "val"):
        with open(out / f"motion_{split}.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                frames, packet_sizes, _ = read(out / row["path"])
                clips.append(frames)
                sizes.append(packet_sizes)
                motions.append(MOTIONS.index(row["label"]))
    sizes = np.array(sizes, float)
    sizes[:, 0] -= np.median(sizes[:, 0] - sizes[:, 1])  # x264's banner
    return SimpleNamespace(clips=np.stack(clips), sizes=sizes, motions=np.array(motions))


def shrink(frames):
    """Block means: (..., 48, 48, 3) uint8 to (..., 12, 12, 3) float."""
    blocks = frames.reshape(*frames.shape[:-3], 12, 4, 12, 4, 3)
    return blocks.astype(np.float32).mean(axis=(-4, -2)) / 255


def frame_features(frames, sizes):
    """What one frame (n, S, S, 3) may give away: place, brightness, texture, edges, bytes."""
    small = shrink(frames)  # (n, 12, 12, 3)
    stands_out = np.abs(small - np.median(small, axis=(1, 2), keepdims=True)).mean(-1)
    x = frames.astype(np.float32) / 255
    across, down = np.abs(np.diff(x, axis=2)), np.abs(np.diff(x, axis=1))
    n = len(frames)
    # Steps by column and by row of an 8x8 grid: the encoder's blocks show here.
    grid = [
        np.stack([across[:, :, i::8].mean(axis=(1, 2, 3)) for i in range(8)], 1),
        np.stack([down[:, i::8].mean(axis=(1, 2, 3)) for i in range(8)], 1),
    ]
    return np.concatenate(
        [small.reshape(n, -1), stands_out.reshape(n, -1), x.mean((1, 2)), x.std((1, 2)), *grid, sizes.reshape(n, 1)],
        axis=1,
    )


def set_features(clips, sizes):
    """What a clip (n, T, S, S, 3) may give away without its order."""
    n, frames = clips.shape[:2]
    small = shrink(clips)  # (n, T, 12, 12, 3)
    grey = small.mean(-1).reshape(n, frames, -1)  # (n, T, 144)
    apart = ((grey[:, :, None] - grey[:, None]) ** 2).mean(-1)  # (n, T, T)
    apart = np.sort(apart[:, *np.triu_indices(frames, 1)], axis=1)  # (n, T(T-1)/2)
    spread = grey.std(1)  # (n, 144)
    fine = clips.astype(np.float32).mean(-1).std(1).mean((1, 2))[:, None] / 255
    skew = ((grey - grey.mean(1, keepdims=True)) ** 3).mean(1)
    shape = np.sort(spread, axis=1)
    planes = spread.reshape(n, 12, 12)
    return np.concatenate(
        [
            small.mean(1).reshape(n, -1),
            spread,
            shape,
            skew,
            np.log(apart + 1e-6),
            fine,
            planes.max(1),
            planes.max(2),
            np.sort(grey.mean(-1), axis=1),
            np.sort(sizes, axis=1),
            np.stack([motion_spread(clip) for clip in clips]),
        ],
        axis=1,
    )


def motion_spread(clip):
    """How far frames (T, S, S, 3) lie from their mean along each coordinate, order unknown."""
    x = blur(clip)
    mean = x.mean(0)
    slopes, weight = flow(mean)  # (4, S*S*3)
    change = (weight * (x - mean)).reshape(len(x), -1)  # (T, S*S*3)
    moved = np.linalg.solve(slopes @ slopes.T, slopes @ change.T)  # (4, T)
    moved = moved / moved.std(1).max()
    return np.concatenate([moved.std(1), (moved**3).mean(1), np.sort(moved, axis=1).ravel()])


def blur(clip):
    """uint8 (T, S, S, 3) to slightly smoothed float in 0..1."""
    x = clip.astype(np.float32) / 255
    for axis in (1, 2):
        x = (np.roll(x, 1, axis) + 2 * x + np.roll(x, -1, axis)) / 4
    return x


def flow(image):
    """How each pixel of an image (S, S, 3) changes with a shift right, a shift down, growth and
    a clockwise turn of the shape: (4, S*S*3), weighted; and the weight, high on the shape."""
    size = len(image)
    ring = np.exp(2j * np.pi * np.arange(size) / size)
    white = np.clip(image.min(-1) - 0.7, 0, None) + 1e-6  # rim and hub
    centre = [np.angle(white.sum(axis) @ ring) / (2 * np.pi) * size for axis in (0, 1)]
    u, v = ((np.arange(size) - c + size / 2) % size - size / 2 for c in centre)
    u, v = u[None, :, None], v[:, None, None]
    weight = np.exp(-(u**2 + v**2) / (2 * 0.28 * size) ** 2)
    gx, gy = ((np.roll(image, 1, axis) - np.roll(image, -1, axis)) / 2 for axis in (1, 0))
    arm = size / 5
    slopes = (gx, gy, (u * gx + v * gy) / arm, (u * gy - v * gx) / arm)
    return np.stack([(weight * slope).ravel() for slope in slopes]), weight


def probe(features, targets, classes):
    """Held-out accuracy of a linear and of a small non-linear probe; the better one.

    Ridge regression to one-hot targets; the non-linear one on 600 random rectified features.
    Each half of the clips is predicted by a probe that was fitted on the other half.
    """
    rng = np.random.default_rng(0)
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    mixing = rng.standard_normal((features.shape[1], 600)) / math.sqrt(features.shape[1])
    lifted = features @ mixing + rng.uniform(-1, 1, 600)
    halves = np.array_split(np.arange(len(features)), 2)
    accuracies = []
    for inputs in (features, np.maximum(lifted, 0)):
        kernel = inputs @ inputs.T / inputs.shape[1] + 1  # (n, n)
        right = 0
        for fit, test in (halves, halves[::-1]):
            goal = np.eye(classes)[targets[fit]]
            weights = np.linalg.solve(kernel[fit][:, fit] + 0.3 * np.eye(len(fit)), goal)
            right += ((kernel[test][:, fit] @ weights).argmax(1) == targets[test]).sum()
        accuracies.append(right / len(features))
    return max(accuracies)


def within_pairs(features, motions):
    """Held-out accuracy of telling a motion from its partner when the pair is known."""
    right = 0.0
    for pair in range(4):
        member = motions // 2 == pair
        right += probe(features[member], motions[member] % 2, 2) * member.sum()
    return right / len(motions)


def oracle(clip):
    """Class index from ordered frames (T, S, S, 3): the affine flow that explains them best, by
    least squares on brightness constancy over all pairs of neighbouring frames."""
    x = blur(clip)
    normal, change = np.zeros((4, 4)), np.zeros(4)
    for past, future in zip(x[:-1], x[1:]):
        slopes, weight = flow((past + future) / 2)  # (4, S*S*3)
        normal += slopes @ slopes.T
        change += slopes @ (weight * (future - past)).ravel()
    moved = np.linalg.solve(normal, change)
    best = np.abs(moved).argmax()
    positive, negative = (("right", "left"), ("down", "up"), ("grow", "shrink"), ("clockwise", "counter-clockwise"))[
        best
    ]
    return MOTIONS.index(positive if moved[best] > 0 else negative)


def accuracy(clips, motions):
    return np.mean([oracle(clip) == motion for clip, motion in zip(clips, motions)])


@pytest.mark.slow
def test_one_frame_stays_at_its_ceiling(decoded):
    for t in (0, 4, 7):
        features = frame_features(decoded.clips[:, t], decoded.sizes[:, t])
        assert probe(features, decoded.motions, 8) < bound(1 / 8), f"frame {t} tells the motion"


@pytest.mark.slow
def test_frames_without_order_stay_at_their_ceiling(decoded):
    features = set_features(decoded.clips, decoded.sizes)
    order = np.random.default_rng(0).permutation(8)
    assert np.allclose(features, set_features(decoded.clips[:, order], decoded.sizes[:, order]), atol=1e-4), (
        "the features must not know the order"
    )
    assert within_pairs(features, decoded.motions) < bound(1 / 2), "a set tells the direction"
    assert 0.4 < probe(features, decoded.motions, 8) < bound(1 / 2)  # it does see the pair


@pytest.mark.slow
def test_ordered_frames_tell_the_motion(decoded):
    clips, motions = decoded.clips[:320], decoded.motions[:320]
    assert accuracy(clips, motions) > 0.95
    assert accuracy(clips[:, ::-1], motions ^ 1) > 0.95, "backwards it is the partner"
    shuffled = np.random.default_rng(0).permuted(np.tile(np.arange(8), (320, 1)), axis=1)
    clips = np.stack([clip[order] for clip, order in zip(clips, shuffled)])
    assert accuracy(clips, motions) < bound(1 / 2, len(clips))


def test_the_frame_probe_finds_planted_leaks(decoded):
    brighter = decoded.clips[:, 4] * (0.8 + 0.05 * decoded.motions[:, None, None, None])
    features = frame_features(brighter.clip(0, 255).astype(np.uint8), decoded.sizes[:, 4])
    assert probe(features, decoded.motions, 8) > bound(1 / 8), "brightness by class"

    keys = [(PROBED["seed"], split, k) for split in (0, 1) for k in range(320)]
    starts = np.stack([draw_path(MOTIONS[m], 8, key)[0, :2] for m, key in zip(decoded.motions, keys)])  # (N, 2) x, y
    shifts = np.round((0.5 - starts) * 48).astype(int)
    centred = np.stack([np.roll(clip[7], (dy, dx), (0, 1)) for clip, (dx, dy) in zip(decoded.clips, shifts)])
    features = frame_features(centred, decoded.sizes[:, 7])
    assert probe(features, decoded.motions, 8) > bound(1 / 8), "all start at the same place"

    bytes_by_class = decoded.sizes[:, 4] * (1 + 0.5 * decoded.motions)
    features = frame_features(decoded.clips[:, 4], bytes_by_class)
    assert probe(features, decoded.motions, 8) > bound(1 / 8), "frame size by class"


@pytest.mark.slow
def test_the_set_probe_finds_planted_leaks(decoded):
    first = (decoded.motions % 2 == 0)[:, None, None, None, None]
    slow, fast = decoded.clips[:, [2, 3, 4, 5]], decoded.clips[:, [0, 2, 4, 6]]
    sizes = decoded.sizes[:, [0, 2, 4, 6]]
    features = set_features(np.where(first, slow, fast), sizes)
    assert within_pairs(features, decoded.motions) > bound(1 / 2), "one of a pair is faster"

    step = np.linspace(0.9, 1.1, 8) ** (decoded.motions[:, None] % 2)  # (N, T)
    faded = (decoded.clips * step[..., None, None, None]).clip(0, 255).astype(np.uint8)
    features = set_features(faded, decoded.sizes)
    assert within_pairs(features, decoded.motions) > bound(1 / 2), "one of a pair flickers"


# ---------------------------------------------------------------- appearance


def test_one_frame_tells_the_appearance():
    """By the strength of its waves, wherever they begin, at any place of the shape and for any of its outlines."""
    frames, labels = [], np.arange(320) % 8
    for k in range(320):
        clip = clip_array(MOTIONS[k // 8 % 8], APPEARANCES[k % 8], frames=2, key=(13, 0, k))
        frames.append(read(encode(clip))[0][0].mean(-1))
    grey = np.stack(frames)
    grey = (grey - np.median(grey, axis=(1, 2), keepdims=True)).clip(-15, 15)  # the shape differs more from the rest
    waves = np.log1p(np.abs(np.fft.rfft2(grey)))[:, np.r_[:14, -13:0], :14]  # up to 13 waves per picture
    assert probe(waves.reshape(320, -1), labels, 8) > 0.9


@pytest.mark.parametrize("kind", APPEARANCES)
def test_patterns_are_periodic_and_equally_strong(kind):
    """So a shifted background has no seam, and no pattern is told by its contrast."""
    pattern = np.stack([synthetic._pattern(np.random.default_rng(k), 112, kind) for k in range(20)])
    assert abs(pattern.mean()) < 0.1 and 0.85 < pattern.std() < 1.15
    inside, seam = (np.abs(pattern[:, i] - pattern[:, i - 1]).mean() for i in (56, 0))
    assert seam < 1.5 * inside


def test_a_motion_or_an_appearance_that_does_not_exist():
    with pytest.raises(CourseError, match="heart"):
        clip_array("left", "heart")
    with pytest.raises(CourseError, match="clockwise"):
        clip_array("clokwise", "dots")


def test_test_clips_are_a_set_of_their_own(tmp_path, monkeypatch):
    """Their random numbers are used for nothing else, and rendering them leaves the other splits alone."""
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    assert synthetic.rendered("train") is None and synthetic.rendered("test") is None
    render(**TINY)
    before = tree(tmp_path)
    small = {**TINY, "clips": (16,)}
    assert render(splits=("test",), **small)["clips"] == {"test": 16}
    assert before.items() <= tree(tmp_path).items()
    assert synthetic.rendered("train") == synthetic.rendered("test") == tmp_path / "synthetic"
    train, test = ((tmp_path / "synthetic" / "clips" / split).glob("*.mp4") for split in ("train", "test"))
    assert not {file.read_bytes() for file in train} & {file.read_bytes() for file in test}
    assert len(open_spec("synthetic:motion").test.read_text(encoding="utf-8").splitlines()) == 17
    with pytest.raises(CourseError, match="one multiple of 8"):
        render(splits=("test",), **TINY)
    with pytest.raises(CourseError, match="splits"):
        render(splits=("val",), **small)


def test_clips_of_an_older_version_are_rendered_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    out = tmp_path / "synthetic"
    render(**TINY)
    new = tree(out)
    config = json.loads(new["config.json"])
    for name in ("config.json", "rendering.json"):  # a whole set, and one that was interrupted
        for file in out.glob("*.json"):
            file.unlink()
        (out / name).write_text(json.dumps({**config, "version": 1, "clips": [16, 16]}), encoding="utf-8")
        for file in out.glob("clips/*/*.mp4"):
            file.write_bytes(b"old")
        (out / "clips" / "val" / "00008.mp4").write_bytes(b"old")
        assert synthetic.rendered("train") is None
        with pytest.raises(CourseError, match="older version"):
            open_spec("synthetic:motion")
        assert render(**TINY)["rendered"] == 24
        assert tree(out) == new
