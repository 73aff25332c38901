"""Files that are none, that lead a reader in circles, that claim what they do not have, or with damage at random."""

import gc
import os
import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from vt_course import CourseError, files
from vt_course.data import prepare, reader
from vt_course.data.reader import BadClip, ClipReader, open_file
from vt_course.data.verify import decode_all

from mutate import healthy, mutate, read
from videos import write_video

LIMIT = 10.0  # seconds in which every file is read or refused


def refusal(path, **settings) -> str:
    """The sentence with which a file is refused, in time."""
    began = time.monotonic()
    with pytest.raises(BadClip) as caught:
        clip = ClipReader(path, **settings)
        clip.read([0, clip.num_frames - 1])
    said = str(caught.value)
    assert time.monotonic() - began < LIMIT and str(path) in said and said.endswith(".") and "\n" not in said
    return said


def box(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return (len(body) + 8 if size is None else size).to_bytes(4, "big") + kind + body


HEAD = box(b"ftyp", b"isom\0\0\0\0isom")


# ------------------------------------------------------------------------- no file


@pytest.fixture(params=["pipe", "device", "terminal", "standard input", "socket"])
def no_file(request, tmp_path):
    """The path of something that is there, but no file, and may never end."""
    if request.param == "pipe":
        os.mkfifo(tmp_path / "a.mp4")
        yield tmp_path / "a.mp4"
    elif request.param == "device":
        yield Path("/dev/zero")
    elif request.param == "terminal":
        ours, theirs = os.openpty()
        yield Path(os.ttyname(theirs))
        os.close(ours), os.close(theirs)
    elif request.param == "standard input":
        out, into = os.pipe()
        yield Path(f"/dev/fd/{out}")  # what /dev/stdin is to a process whose input is a pipe
        os.close(out), os.close(into)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "a.mp4"))
            yield tmp_path / "a.mp4"


@pytest.mark.posix("pipes and devices with a path")
def test_what_is_no_file_is_refused_before_it_is_opened(no_file):
    assert "cannot be read (It is a pipe, a terminal or a device, and no file)" in refusal(no_file)
    assert "and no file" in refusal(no_file, span=(0, 100))
    assert "no file" in prepare.probe(str(no_file))["error"] and "no file" in decode_all(str(no_file))["error"]
    job = dict(source=str(no_file), part="x", short_side=64, fps=None, seconds=None, start=None, end=None)
    assert "no file" in prepare.encode(job)["error"]
    with pytest.raises(OSError, match="and no file"):
        open_file(no_file)


@pytest.mark.posix("pipes and devices with a path")
@pytest.mark.parametrize(
    "parse",
    [
        files.read_json,
        files.read_yaml,
        files.csv_header,
        files.read_npz,
        files.read_safetensors,
        files.read_pt,
        lambda *args: list(files.read_tar(*args)),
        lambda *args: list(files.read_csv(*args)),
    ],
)
def test_no_parser_waits_for_a_pipe(parse, tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(CourseError, match=r"a cannot be read \(It is a pipe, .* and no file\); mend it"):
        parse(tmp_path / "a", "mend it.")


@pytest.mark.posix("pipes and devices with a path")
def test_a_pipe_among_the_pictures_of_a_folder(tmp_path):
    for name in ("1.png", "2.png"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(BadClip, match=r"Picture .*1.png cannot be read \(It is a pipe"):
        ClipReader(tmp_path)


def test_what_is_redirected_from_a_file_is_a_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=2)
    if not Path("/dev/fd").exists():
        pytest.skip("no /dev/fd")
    with open(path, "rb") as file:
        assert ClipReader(f"/dev/fd/{file.fileno()}").num_frames == 2


# ------------------------------------------------------------------------- circles


@pytest.mark.parametrize("kind, size", [(b"free", 0), (b"free", 8), (b"mdat", 1), (b"free", 16)])
def test_boxes_that_do_not_lead_on(kind, size, tmp_path):
    """0: up to the end of the file, 1: a 64-bit size follows. Millions of boxes of 8 or 16 bytes take minutes each."""
    wide = (16).to_bytes(8, "big") if size in (1, 16) else b""
    data = HEAD + box(kind, wide, 1 if wide else size) * (2_000_000 if size else 1)
    (tmp_path / "a.mp4").write_bytes(data)
    refusal(tmp_path / "a.mp4")
    refusal(tmp_path / "a.mp4", span=(0, len(data)))


@pytest.mark.parametrize("size", [0, 8])
def test_a_box_inside_itself(size, tmp_path):
    data = HEAD + box(b"moov", box(b"trak", size=size) + box(b"moov", size=size) * 100) + box(b"mdat", b"x")
    (tmp_path / "a.mp4").write_bytes(data)
    refusal(tmp_path / "a.mp4")


def test_ffmpeg_is_given_a_limited_time(tmp_path, monkeypatch):
    """Deep inside the index we do not look. The clock runs for paths as for videos inside other files."""
    monkeypatch.setattr(reader, "SECONDS", 0.2)
    boxes = box(b"moov", box(b"trak", box(b"mdia", box(b"free", size=8) * 3_000_000)))
    data = HEAD + boxes + box(b"mdat", b"x")
    (tmp_path / "a.mp4").write_bytes(data)
    began = time.monotonic()
    refusal(tmp_path / "a.mp4")
    assert "cannot be opened within 0.2 s" in refusal(tmp_path / "a.mp4", span=(0, len(data)))
    assert time.monotonic() - began < 5


def test_the_clock_stops_when_a_file_is_open(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mkv", frames=8)
    monkeypatch.setattr(reader, "KEEP", 100)  # so that it is read while frames are asked for
    monkeypatch.setattr(reader, "SECONDS", 0.5)
    for span in (None, (0, path.stat().st_size)):
        clip = ClipReader(path, span=span)
        time.sleep(0.6)
        assert clip.read([7, 0]).shape[0] == 2


class Again:
    """A container whose packets never end, as where an index names the same bytes again and again."""

    size = 100

    def __init__(self, packet):
        self.streams, self.packet = SimpleNamespace(video=[None]), packet

    def demux(self, stream):
        while True:
            yield self.packet


@pytest.mark.parametrize("size", [0, 1, 100])
def test_packets_that_never_end(size):
    with pytest.raises(BadClip, match="its index names the same bytes again and again"):
        list(reader._demux(Path("a.mp4"), Again(av.Packet(size))))


@pytest.mark.parametrize("name", ["h264.mkv", "vp8.webm"])
def test_matroska_cut_at_every_byte_of_its_beginning(name, tmp_path, videos):
    for end in range(1, 120):
        (tmp_path / "a.mkv").write_bytes(videos[name][:end])
        refusal(tmp_path / "a.mkv")


# ------------------------------------------------------------------------- claims


def wide_vp9(path: Path, side: int) -> Path:
    """A VP9 whose first picture claims side x side pixels: in its header, 32 bits after 4 of the colours."""
    data = bytearray(write_video(path, frames=4, size=(64, 64), codec="libvpx-vp9").read_bytes())
    at = data.index(b"\x49\x83\x42") + 3
    head = int.from_bytes(data[at : at + 5], "big") & ~(((1 << 32) - 1) << 4)
    data[at : at + 5] = (head | (side - 1) << 20 | (side - 1) << 4).to_bytes(5, "big")
    path.write_bytes(data)
    return path


def samples_of_one_byte(path: Path) -> Path:
    """An MP4 whose table names 16 million samples; FFmpeg would list them in 1 GB."""
    data = bytearray(write_video(path, frames=16, size=(64, 64)).read_bytes())
    at = data.index(b"stsz")
    data[at + 8 : at + 16] = (1).to_bytes(4, "big") + (1 << 24).to_bytes(4, "big")
    at = data.index(b"stsc")
    data[at + 16 : at + 20] = (1 << 24).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def wide_pixels(path: Path) -> Path:
    """Pixels that are 4000 times as wide as high: shown as a player does, a picture would have a line of 256,000."""
    data = bytearray(write_video(path, frames=2, size=(64, 64), aspect=Fraction(3, 2)).read_bytes())
    at = data.index(b"pasp") + 4
    data[at : at + 8] = (4000).to_bytes(4, "big") + (1).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def test_claims_are_refused_by_one_sentence(tmp_path):
    for ending in ("webm", "mkv", "mp4"):
        said = refusal(wide_vp9(tmp_path / f"wide.{ending}", 16_000))
        assert "has pictures of more than 8192x4320 pixels" in said
    assert "is truncated" in refusal(samples_of_one_byte(tmp_path / "table.mp4"))
    long = write_video(tmp_path / "long.mp4", frames=2, size=(2, 1000))
    assert "shows pictures of 1000x2 pixels, longer than any video's" in refusal(long)
    assert "longer than any video's" in refusal(wide_pixels(tmp_path / "aspect.mp4"), short_side=224)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the memory that was taken at most")
def test_claims_cost_no_memory(tmp_path):
    """As above, in a process whose largest memory is measured."""
    paths = [wide_vp9(tmp_path / "wide.webm", 16_000), samples_of_one_byte(tmp_path / "table.mp4")]
    paths += [wide_pixels(tmp_path / "aspect.mp4")]
    code = (
        "import sys; from mutate import peak_mb, read; said = read(sys.argv[1]); before = peak_mb()\n"
        "for path in sys.argv[2:]: assert read(path), path\n"
        "print(peak_mb() - before)"
    )
    fine = write_video(tmp_path / "fine.webm", frames=4, size=(64, 64), codec="libvpx-vp9")
    done = subprocess.run(
        [sys.executable, "-c", code, fine, *paths],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60


# ------------------------------------------------------------------------- damage at random


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return healthy(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def no_collector():
    """Without the collector of garbage, what is not closed stays open."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_mutants_are_read_or_refused_and_leave_no_descriptor(videos, tmp_path, no_collector):
    """A sample of what `python tests/mutate.py 0 5000` reads."""
    descriptors = Path("/proc/self/fd")
    ends, before = {True: 0, False: 0}, len(list(descriptors.glob("*")))
    for seed in range(120):
        name, data = mutate(videos, seed)
        path = tmp_path / f"{seed}{Path(name).suffix}"
        path.write_bytes(data)
        began = time.monotonic()
        said = read(path)
        assert time.monotonic() - began < LIMIT, (seed, name)
        assert not said or str(path) in said and said.endswith(".") and "\n" not in said, (seed, name, said)
        ends[bool(said)] += 1
        prepare.probe(str(path))
        path.unlink()
    assert min(ends.values()) > 20
    assert len(list(descriptors.glob("*"))) == before


def test_a_video_inside_another_file_leaves_no_descriptor(videos, tmp_path, no_collector, monkeypatch):
    monkeypatch.setattr(reader, "KEEP", 100)  # longer ones are read from the file, not from memory
    descriptors, (path, bad) = Path("/proc/self/fd"), (tmp_path / "a.tar", tmp_path / "b.tar")
    data = videos["h264.mkv"]
    path.write_bytes(b"x" * 512 + data + b"y" * 512)
    bad.write_bytes(b"x" * 512 + data[:300] + bytes(len(data)))
    before = len(list(descriptors.glob("*")))
    for _ in range(5):
        clip = ClipReader(path, span=(512, len(data)))
        assert clip.read([15, 3]).shape[0] == 2 and len(list(clip.every_frame())) == 16
        del clip
        for span in ((512, len(data)), (0, 100), (512, 1 << 40)):
            with pytest.raises(BadClip):
                ClipReader(bad, span=span).read([15])
    assert len(list(descriptors.glob("*"))) == before
