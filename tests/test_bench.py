"""The bench compares the same frames, in turns, and says when a decoder cannot take part."""

import importlib.util
import sys

import numpy as np
import pytest

from vt_course import CourseError
from vt_course.claims import bench_data as bench
from vt_course.data.decoders import decoder_fault

from videos import rotate_tag, write_video


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    at = tmp_path_factory.mktemp("bench")
    return [write_video(at / "a.mp4", frames=40, bframes=2), write_video(at / "b.mp4", frames=9, size=(80, 64), gop=1)]


@pytest.fixture
def no_torchcodec(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # import raises
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


def test_rows_agree_to_the_pixel(files):
    rows = bench.bench_decode(files, frames=8, stride=2, repeats=2)
    assert [(row["access"], row["decoder"]) for row in rows] == [
        (access, decoder) for access in ("random", "sequential") for decoder in ("ours", "decord", "pyav", "torchcodec")
    ]
    for row in rows:
        if row["error"] is None:
            assert row["max_difference"] == 0 and row["frames_per_second"] > 0
        else:
            assert row["decoder"] == "torchcodec" and row["frames_per_second"] is None
    assert [row["ratio"] for row in rows if row["decoder"] == "decord"] == [1.0, 1.0]
    assert rows[0]["version"].count(".") >= 1


def test_a_difference_between_decoders_is_found(files, monkeypatch, no_torchcodec):
    def late(path, indices, short_side=None):  # one pixel 7 too bright
        clip = bench.read_ours(path, indices, short_side).copy()
        clip[-1, 0, 0, 0] ^= 7
        return clip

    monkeypatch.setattr(bench, "read_pyav", late)
    rows = bench.bench_decode(files, frames=4, stride=1, repeats=1)
    found = {row["decoder"]: row["max_difference"] for row in rows if row["error"] is None}
    assert found["ours"] == found["decord"] == 0 and 0 < found["pyav"] <= 7


def test_shapes_that_differ_have_no_difference(files, tmp_path):
    turned = rotate_tag(write_video(tmp_path / "x.mp4", frames=4, size=(64, 80)), tmp_path / "turned.mp4")
    rows = bench.bench_decode([turned, files[0]], frames=2, stride=1, repeats=1)
    assert [row["max_difference"] for row in rows[:3:2]] == [0, None]  # ours, pyav
    assert "shape" in bench.decode_table(rows)


def test_every_decoder_reads_the_frames_it_is_asked_for(files):
    readers = [bench.read_ours, bench.read_decord, bench.read_pyav]
    if decoder_fault("torchcodec") is None:
        readers.append(bench.read_torchcodec)
    for read in readers:
        whole = read(files[0], np.arange(40))
        assert whole.shape == (40, 48, 64, 3) and whole.dtype == np.uint8
        for wanted in ([0, 39], [13], [25, 26, 30]):
            np.testing.assert_array_equal(read(files[0], np.array(wanted)), whole[wanted])
        assert read(files[0], np.array([3]), 24).shape == (1, 24, 32, 3)


def test_decoders_take_turns_and_no_one_is_always_first():
    calls = []
    readers = {name: lambda path, indices, short_side, name=name: calls.append((path, name)) for name in "xyz"}
    seconds = bench._take_turns(readers, [("a", None), ("b", None)], None, repeats=3)
    assert len(calls) == 18 and [len(seconds[name]) for name in "xyz"] == [3, 3, 3]
    rounds = [calls[k : k + 3] for k in range(0, 18, 3)]
    assert all(len({path for path, _ in one}) == 1 for one in rounds)  # file by file
    assert all({name for _, name in one} == set("xyz") for one in rounds)
    assert [one[0][1] for one in rounds] == ["x", "y", "y", "z", "z", "x"]


def test_without_torchcodec_a_row_says_why(files, no_torchcodec):
    rows = bench.bench_decode(files[1:], frames=2, stride=1, repeats=1)
    assert [row["error"] is None for row in rows] == [True, True, True, False] * 2
    assert "not installed" in rows[3]["error"] and "not installed" in bench.decode_table(rows)


def test_a_torchcodec_that_does_not_load_says_why(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torchcodec":
                return importlib.util.spec_from_loader(name, self)

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            raise RuntimeError("Could not load libtorchcodec.\nFFmpeg version 8: ...")

    for name in [n for n in sys.modules if n.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    fault = decoder_fault("torchcodec")
    assert "does not load" in fault and "\n" not in fault


def test_the_table_has_one_aligned_line_a_row(files, no_torchcodec):
    rows = bench.bench_decode(files[1:], frames=2, stride=1, repeats=1)
    lines = bench.decode_table(rows).splitlines()
    assert len(lines) == 9 and lines[0].split()[0] == "access"
    assert lines[2].split()[:2] == ["random", "decord"]
    assert lines[2].split()[-2:] == ["1.00", "0"]
    assert len({len(line) for line in (lines[0], lines[1], lines[3], lines[5])}) == 1


def test_no_files_and_bad_files_are_explained(tmp_path):
    with pytest.raises(CourseError, match="no files"):
        bench.bench_decode([])
    with pytest.raises(CourseError, match="missing.mp4"):
        bench.bench_decode([tmp_path / "missing.mp4"])


# ------------------------------------------------------------------------- whole samples


def test_every_loader_feeds_the_model_the_same_clip(files):
    rows = bench.bench_loader(files, frames=(4, 8), span=8, size=32, repeats=1)
    peers = [name for name in bench.PEERS if name != "torchcodec" or decoder_fault("torchcodec") is None]
    assert [(row["frames"], row["stride"], row["peer"]) for row in rows] == [
        (T, 8 // T, peer) for T in (4, 8) for peer in peers
    ]
    for row in rows:
        assert row["max_difference"] < 1.1  # of 255: torchvision may round once more
        assert row["ratio"] == pytest.approx(row["clips_per_second"] / row["peer_clips_per_second"])


def test_a_loader_that_picks_other_frames_is_found(files, monkeypatch):
    monkeypatch.setitem(bench.PEERS, "PyAV", lambda path, indices, short_side=None: bench.read_ours(path, indices // 2))
    gaps = {
        row["peer"]: row["max_difference"] for row in bench.bench_loader(files, frames=(4,), span=8, size=32, repeats=1)
    }
    assert gaps["PyAV"] > 10 > gaps["decord, get_batch"]


def test_a_loader_bench_without_files_is_explained():
    with pytest.raises(CourseError, match="no files"):
        bench.bench_loader([])


def test_memory_is_flat_over_many_opens(files):
    """1,000 opens, each with a read, as an epoch does; the first 250 warm the allocators. Files close at once.

    Files that the garbage collector closes cost 8 MB and some handles here; 1.3 MB is less than 1.8 kB an open.
    """
    import psutil

    from vt_course.data.reader import ClipReader

    process = psutil.Process()
    handles = process.num_fds()
    for k in range(1000):
        if k == 250:
            before = process.memory_info().rss
        ClipReader(files[k % 2]).read([1, 5])
    assert process.num_fds() == handles
    assert process.memory_info().rss - before < 1.3e6
