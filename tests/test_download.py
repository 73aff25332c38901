"""Downloading over a network that misbehaves, and official weights published by a server of our own."""

import argparse
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from vt_course import CourseError, cli
from vt_course.fetch import download, weights
from vt_course.fetch.download import fetch
from vt_course.files import atomic_write, replacing, sha256_of
from vt_course.models import create, mini_weights
from vt_course.models.official import to_official

from server import serving
from videos import write_video

BODY = bytes(range(256)) * 4096  # 1 MB
OTHER = BODY[::-1]


@pytest.fixture
def server():
    with serving({"/a.bin": BODY}) as server:
        server.url = server.root + "/a.bin"
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.01)
    monkeypatch.delenv("VT_COURSE_WEIGHTS_URL", raising=False)
    for proxy in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


# ---------------------------------------------------------------- fetch


def test_a_good_network_leaves_the_file_and_nothing_else(server, tmp_path):
    path = tmp_path / "new" / "a.bin"
    assert fetch(server.url, path, sha256=sha(BODY), size=len(BODY)) == path
    assert path.read_bytes() == BODY and names(path.parent) == ["a.bin"] and server.log == [None]
    fetch(server.url, path, sha256=sha(BODY)[:8])  # there: checked, not fetched
    assert server.log == [None]


def sha(body):
    return hashlib.sha256(body).hexdigest()


def test_dropped_connection_continues_where_it_broke(server, tmp_path):
    server.faults += [dict(cut=300_000), dict(cut=1), dict(cut=200_000)]
    path = fetch(server.url, tmp_path / "a.bin")
    assert path.read_bytes() == BODY and names(tmp_path) == ["a.bin"]
    assert server.log == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_continues_by_date_where_the_server_has_no_strong_etag(server, tmp_path):
    server.mark = lambda body: "Tue, 24 Nov 2026 17:00:00 GMT"
    server.faults += [dict(cut=300_000)]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY and server.log == [None, "bytes=300000-"]


def test_without_a_version_mark_only_a_checksum_allows_to_continue(server, tmp_path):
    server.mark = lambda body: ""
    server.faults += [dict(cut=300_000)]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY and server.log == [None, None]
    server.faults += [dict(cut=300_000)]
    assert fetch(server.url, tmp_path / "b.bin", sha256=sha(BODY)).read_bytes() == BODY
    assert server.log[2:] == [None, "bytes=300000-"]


def test_a_server_that_ignores_ranges_starts_over(server, tmp_path):
    server.faults += [dict(cut=300_000), dict(no_range=True)]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY
    assert server.log == [None, "bytes=300000-"]


@pytest.mark.parametrize("second", [{}, {"no_if_range": True}], ids=["If-Range", "If-Range ignored"])
def test_a_file_that_changed_is_not_spliced(server, tmp_path, second):
    server.faults += [dict(cut=300_000, then=lambda: server.files.update({"/a.bin": OTHER})), second]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == OTHER
    assert server.log[1] == "bytes=300000-"


def test_another_length_is_another_file(server, tmp_path):
    """A mark that does not change with the file, as a date of one second's precision may not."""
    server.mark = lambda body: '"same"'
    longer = OTHER + OTHER
    server.faults += [dict(cut=300_000, then=lambda: server.files.update({"/a.bin": longer}))]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == longer
    assert server.log == [None, "bytes=300000-", None]


def test_another_address_does_not_continue_the_part_of_the_first(server, tmp_path):
    server.faults += [dict(cut=300_000)]
    server.files["/b.bin"] = OTHER
    with pytest.raises(CourseError, match="300,000 bytes are kept"):
        fetch(server.url, tmp_path / "a.bin", retries=0)
    assert fetch(server.root + "/b.bin", tmp_path / "a.bin").read_bytes() == OTHER and server.log == [None, None]


def test_a_complete_part_is_only_renamed(server, tmp_path):
    """Killed between the last byte and the rename: the server answers 416."""
    server.faults += [dict(cut=len(BODY) - 1)]
    with pytest.raises(CourseError):
        fetch(server.url, tmp_path / "a.bin", retries=0)
    with open(tmp_path / "a.bin.part", "ab") as part:
        part.write(BODY[-1:])
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY
    assert server.log[1:] == [f"bytes={len(BODY)}-"] and names(tmp_path) == ["a.bin"]


def test_a_part_that_is_too_long_starts_over(server, tmp_path):
    server.faults += [dict(cut=300_000)]
    with pytest.raises(CourseError):
        fetch(server.url, tmp_path / "a.bin", retries=0)
    server.mark(BODY)
    with open(tmp_path / "a.bin.part", "ab") as part:
        part.write(BODY)
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY
    assert server.log[1:] == [f"bytes={300_000 + len(BODY)}-", None]


def test_500_twice_then_fine(server, tmp_path):
    server.faults += [dict(status=500), dict(status=503)]
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY and len(server.log) == 3


def test_500_for_ever_gives_up(server, tmp_path):
    server.always = dict(status=500)
    with pytest.raises(CourseError, match="500.*3 attempts in a row.*by hand, put it at") as error:
        fetch(server.url, tmp_path / "a.bin", retries=2)
    assert str(tmp_path / "a.bin") in one_sentence(error) and len(server.log) == 3 and names(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_not_repeated(server, tmp_path, status):
    server.always = dict(status=status)
    with pytest.raises(CourseError, match=f"answered {status}.*by hand") as error:
        fetch(server.url, tmp_path / "a.bin")
    assert server.url in one_sentence(error) and len(server.log) == 1 and names(tmp_path) == []


@pytest.mark.parametrize("wanted", ["0" * 64, "0" * 8])
def test_wrong_checksum_deletes_the_part(server, tmp_path, wanted):
    with pytest.raises(CourseError, match="has the sha256") as error:
        fetch(server.url, tmp_path / "a.bin", sha256=wanted)
    text = one_sentence(error)
    assert server.url in text and "a.bin" in text and sha(BODY) in text and wanted in text and names(tmp_path) == []


def test_wrong_size_is_noticed_before_the_body(server, tmp_path):
    with pytest.raises(CourseError, match="1,048,576 bytes instead of the 5 of a.bin") as error:
        fetch(server.url, tmp_path / "a.bin", size=5)
    assert server.url in one_sentence(error) and names(tmp_path) == []


def test_a_file_that_is_there_but_wrong_is_left_alone(server, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"mine")
    for wanted in (dict(sha256=sha(BODY)), dict(size=len(BODY))):
        with pytest.raises(CourseError, match="there already but.*delete it"):
            fetch(server.url, path, **wanted)
    assert path.read_bytes() == b"mine" and names(tmp_path) == ["a.bin"] and server.log == []


def test_a_stall_ends_in_a_new_attempt(server, tmp_path):
    server.faults += [dict(cut=300_000, stall=True)]
    assert fetch(server.url, tmp_path / "a.bin", timeout=1).read_bytes() == BODY
    assert server.log == [None, "bytes=300000-"]


def test_slow_is_not_stalled(server, tmp_path):
    """A machine of CI was once silent for longer than 0.3 s by itself, so the timeout leaves room for that."""
    server.faults += [dict(piece=len(BODY) // 20, pause=0.15)]  # 3 s in all
    assert fetch(server.url, tmp_path / "a.bin", timeout=2).read_bytes() == BODY
    assert server.log == [None]


def test_a_length_that_never_comes_true_gives_up(server, tmp_path):
    server.always = dict(lie=10)
    with pytest.raises(CourseError, match="attempts in a row"):
        fetch(server.url, tmp_path / "a.bin", retries=3)
    assert "a.bin" not in names(tmp_path) and len(server.log) <= 8


def test_a_web_page_is_not_weights(server, tmp_path):
    server.always = dict(type="text/html; charset=utf-8")
    with pytest.raises(CourseError, match="a web page instead of a.bin"):
        fetch(server.url, tmp_path / "a.bin")
    assert names(tmp_path) == []
    fetch(server.url, tmp_path / "a.html")  # unless it was asked for


def test_offline(tmp_path, server):
    port = server.server_port
    server.shutdown()
    server.server_close()
    for url in (f"http://127.0.0.1:{port}/a.bin", "https://nowhere.invalid/a.bin"):
        began = time.monotonic()
        with pytest.raises(CourseError, match="cannot reach.*seems to be offline.*by hand, put it at") as error:
            fetch(url, tmp_path / "a.bin")
        assert url in one_sentence(error) and names(tmp_path) == []
        assert time.monotonic() - began < 5  # no further attempts without a network


def test_offline_in_the_middle_keeps_what_came(server, tmp_path):
    server.faults += [dict(cut=300_000, then=server.server_close)]
    with pytest.raises(CourseError, match="300,000 bytes are kept"):
        fetch(server.url, tmp_path / "a.bin", retries=2)
    assert (tmp_path / "a.bin.part").read_bytes() == BODY[:300_000]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "a.bin"])
def test_only_http(url, tmp_path):
    with pytest.raises(CourseError, match="only http and https"):
        fetch(url, tmp_path / "a.bin")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(CourseError, match="cannot write"):
        fetch(server.url, tmp_path / "file" / "a.bin")


# ---------------------------------------------------------------- servers and folders of others


def test_a_redirect_is_followed_to_where_it_is_as_safe(server, tmp_path):
    server.faults += [dict(redirect=server.url)]
    assert fetch(server.root + "/b", tmp_path / "b.bin").read_bytes() == BODY
    follow = download.SameSafety().redirect_request
    assert follow(Request("https://host/a"), None, 302, "", {}, "https://other/b").full_url == "https://other/b"
    assert follow(Request("http://host/a"), None, 302, "", {}, "https://other/b").full_url == "https://other/b"
    for before, after in (("https", "http"), ("https", "ftp"), ("http", "file"), ("https", "data")):
        with pytest.raises(CourseError, match=f"redirects from {before} to {after}://other/b, which is not followed"):
            follow(Request(f"{before}://host/a"), None, 302, "", {}, f"{after}://other/b")


@pytest.mark.parametrize(
    "address", ["ftp://host/a", "file:///etc/passwd", "data:text/plain,x", "http://[host/a", "\x1b[2J:"]
)
def test_a_redirect_to_elsewhere_is_one_sentence(server, tmp_path, address):
    server.always = dict(redirect=address)
    with pytest.raises(CourseError) as error:
        fetch(server.url, tmp_path / "a.bin", retries=1)
    assert server.url in one_sentence(error) and one_sentence(error).isprintable() and names(tmp_path) == []


@pytest.fixture
def written(monkeypatch):
    """The bytes that were written to disk so far."""
    pieces, real = [], download.Download.write
    monkeypatch.setattr(download.Download, "write", lambda self, chunk: pieces.append(len(chunk)) or real(self, chunk))
    return pieces


@pytest.mark.parametrize("faults", [[{}], [dict(open_end=True)], [dict(cut=300_000), dict(open_end=True)]], ids=str)
def test_no_more_is_stored_than_a_file_can_have(server, tmp_path, faults, written):
    server.faults += faults
    with pytest.raises(CourseError, match="sends more than the 500,000 bytes that a.bin can have.*nothing was kept"):
        fetch(server.url, tmp_path / "a.bin", most=500_000)
    assert sum(written) <= 500_000 and names(tmp_path) == []


@pytest.mark.parametrize("total", [len(BODY), "*"])
def test_no_more_is_stored_than_was_announced(server, tmp_path, written, total):
    """A server that says how long the file is, and then goes on sending."""
    server.mark = lambda body: '"same"'
    server.faults += [dict(cut=300_000), dict(body=BODY + BODY, total=total, open_end=True)]
    with pytest.raises(CourseError, match="sends more than the 1,048,576 bytes that a.bin can have"):
        fetch(server.url, tmp_path / "a.bin")
    assert 300_000 <= sum(written) <= len(BODY) and names(tmp_path) == []


@pytest.mark.parametrize("text", ["9" * 5000, "-1", "1e3", ""])
def test_numbers_of_a_server(text):
    assert download.whole_number(text) is None and download.content_range(
        {"Content-Range": f"bytes {text}-{text}/{text}"}
    ) == (None, None)
    assert download.whole_number("12") == 12


def test_what_a_server_says_does_not_steer_the_terminal(server, tmp_path):
    for status in (404, 503):
        server.always = dict(status=status, reason="\x1b[2J\x1b]0;title\x07" + "a" * 5000)
        with pytest.raises(CourseError, match=rf"answered {status} \\x1b\[2J\\x1b\]0;title\\x07aa") as error:
            fetch(server.url, tmp_path / "a.bin", retries=0)
        assert one_sentence(error).isprintable()
    assert str(CourseError("a\nb \u202ec ü 视频 \ud800")) == r"a\nb \u202ec ü 视频 \ud800"


@pytest.mark.posix("links")
@pytest.mark.parametrize(
    "plant", [os.symlink, os.link, lambda victim, at: os.mkfifo(at)], ids=["link", "hard link", "pipe"]
)
def test_nothing_is_written_through_a_planted_link(server, tmp_path, plant):
    folder, victims = tmp_path / "out", [tmp_path / name for name in ("a", "b", "c")]
    folder.mkdir()
    for victim, name in zip(victims, ("a.bin.part", "a.bin.part.from", ".note.part")):
        victim.write_bytes(b"of somebody else")
        plant(victim, folder / name)
    assert fetch(server.url, folder / "a.bin").read_bytes() == BODY
    atomic_write(folder / "note", b"ours")
    with replacing(folder / "note") as part:
        shutil.copyfile(folder / "a.bin", part)
    assert (folder / "note").read_bytes() == BODY and names(folder) == ["a.bin", "note"]
    assert {victim.read_bytes() for victim in victims} == {b"of somebody else"}
    assert not any((folder / name).is_symlink() for name in names(folder))


FAULT = st.one_of(
    st.just({"status": 503}),
    st.just({"no_range": True}),
    st.fixed_dictionaries({"cut": st.integers(0, 5000)}),
    st.fixed_dictionaries({"cut": st.integers(0, 5000), "no_if_range": st.just(True)}),
    st.fixed_dictionaries({"cut": st.integers(0, 5000), "change": st.binary(min_size=1, max_size=5000)}),
)


@settings(max_examples=60)
@given(body=st.binary(min_size=1, max_size=5000), faults=st.lists(FAULT, max_size=6), checked=st.booleans())
def test_whatever_happens_the_file_is_whole_or_absent(body, faults, checked, tmp_path_factory):
    """Any sequence of faults, with calls that give up at once between them: the end is some version, entire."""
    with serving({"/a": body}) as server:
        path, versions = tmp_path_factory.mktemp("any") / "a", {body}
        for fault in faults:
            if "change" in fault:
                versions.add(fault["change"])
                fault = {**fault, "then": lambda new=fault["change"]: server.files.update({"/a": new})}
            server.faults.append(fault)
        url, tries = f"{server.root}/a", 0
        while not path.exists():
            tries += 1
            assert tries < 20
            try:
                fetch(url, path, sha256=sha(server.files["/a"]) if checked else None, retries=tries % 3)
            except CourseError:
                assert not path.exists()
        assert path.read_bytes() in versions
        assert not checked or sha(path.read_bytes()) in {sha(v) for v in versions}
        assert names(path.parent) == ["a"]


# ---------------------------------------------------------------- processes

# A shell that puts the tests into the background makes them, and so their children, deaf to Ctrl-C: undone here.
FETCH = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from vt_course.fetch.download import fetch; from vt_course import CourseError\n"
    "try: fetch(sys.argv[1], sys.argv[2])\n"
    "except CourseError as e: sys.exit(str(e))"
)


def start(url, path, before=""):
    return subprocess.Popen(
        [sys.executable, "-c", before + FETCH, url, str(path)], stderr=subprocess.PIPE, encoding="utf-8"
    )


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.posix("kill -9")
@pytest.mark.parametrize("how", [getattr(signal, "SIGKILL", None), signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_killed_download_continues(server, tmp_path, how):
    path, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    server.faults += [dict(cut=400_000, stall=True)]
    process = start(server.url, path)
    wait_for(lambda: part.exists() and part.stat().st_size > 200_000)
    process.send_signal(how)
    process.wait()
    process.stderr.close()
    had = part.stat().st_size
    assert not path.exists() and 200_000 < had < len(BODY)
    assert fetch(server.url, path).read_bytes() == BODY
    assert server.log == [None, f"bytes={had}-"] and names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(
    os.environ.get("OTHER_OS") == "windows",
    reason="played on Linux: there a lock file that another process holds can be removed, which Windows refuses",
)
def test_one_at_a_time(tmp_path):
    """Locks belong to open files, not to processes, so threads will do."""
    inside, most = [], []

    def work(i):
        for _ in range(10):
            with download.alone(tmp_path / "lock"):
                inside.append(i)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert set(most) == {1} and len(most) == 80 and names(tmp_path) == []


def test_two_processes_fetch_once(server, tmp_path):
    server.always = dict(piece=50_000, pause=0.02)
    both = [start(server.url, tmp_path / "a.bin") for _ in range(2)]
    assert [(p.communicate()[1], p.returncode) for p in both] == [("", 0)] * 2
    assert (tmp_path / "a.bin").read_bytes() == BODY and names(tmp_path) == ["a.bin"] and len(server.log) == 1


@pytest.mark.posix("a limit on the size of files")
def test_full_disk_keeps_the_part(server, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))\n"
    process = start(server.url, tmp_path / "a.bin", before=limit)
    text = process.communicate()[1].strip()
    assert process.returncode == 1 and "\n" not in text
    assert "the disk is too full" in text and "300,000 bytes are kept" in text and "free space" in text
    assert fetch(server.url, tmp_path / "a.bin").read_bytes() == BODY and server.log == [None, "bytes=300000-"]


@pytest.mark.posix("a limit on the size of files")
def test_full_disk_keeps_nothing_that_could_not_be_continued(server, tmp_path):
    server.mark = lambda body: ""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))\n"
    process = start(server.url, tmp_path / "a.bin", before=limit)
    assert "nothing was kept" in process.communicate()[1] and names(tmp_path) == []


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0
    or not shutil.which("unshare")
    or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="cannot mount",
)
def test_a_disk_too_small_is_noticed_before_the_body(server, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=500k tmpfs "$1" && "$2" -c "$3" "$4" "$1/a.bin"; code=$?; ls "$1"; exit $code'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", disk, sys.executable, FETCH, server.url],
        capture_output=True,
        encoding="utf-8",
    )
    if "mount:" in done.stderr:
        pytest.skip("cannot mount")
    assert (
        done.returncode == 1 and "too full" in done.stderr and "1 MB are to come" in done.stderr and done.stdout == ""
    )


# ---------------------------------------------------------------- official weights


@pytest.fixture
def published(server, tmp_path_factory, monkeypatch):
    """publish(checkpoint): a server that has it as the official file of `video_swin_mini/test`."""
    model = create("video_swin_mini")
    model.load_state_dict(load_file(mini_weights("video_swin_mini")))
    release = weights.Release(
        "video_swin_mini/test",
        "video_swin_mini",
        {"num_classes": 8},
        "https://host.invalid/v1/mini.pth?dl=0",
        "MIT",
        "a test",
    )

    monkeypatch.setenv("VT_COURSE_WEIGHTS_URL", server.root + "/mirror/")
    path = tmp_path_factory.mktemp("published") / "mini.pth"

    def publish(checkpoint, **facts):
        torch.save(checkpoint, path, **facts.pop("save", {}))
        server.files["/mirror/v1/mini.pth"] = path.read_bytes()
        monkeypatch.setitem(weights.releases(), release.name, weights.Release(**{**vars(release), **facts}))

    publish.model = model
    publish.official = {"meta": {"epoch": 30, "config": "x = 1"}, "state_dict": to_official(model)}
    return publish


NAME = "video_swin_mini/test"


def get(tmp_path, **settings):
    return weights.get(NAME, tmp_path, progress=False, **settings)


def test_official_file_becomes_ours(server, published, tmp_path):
    published(published.official)
    path = get(tmp_path)
    assert path == tmp_path / "video_swin_mini" / "test.safetensors"
    state, want = load_file(path), published.model.state_dict()
    create("video_swin_mini").load_state_dict(state, strict=True)
    assert state.keys() == want.keys() and all(torch.equal(state[k], want[k]) for k in want)
    assert names(path.parent) == ["test.safetensors", "test.sha256"]  # the original is gone
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["sha256 of original"] == sha(server.files["/mirror/v1/mini.pth"])
    assert metadata["url"] == "https://host.invalid/v1/mini.pth?dl=0" and metadata["licence"] == "MIT"
    assert get(tmp_path) == path and len(server.log) == 1  # the second time: no request


def test_published_weights_evaluate_and_predict(server, published, tmp_path, monkeypatch, capsys):
    """By their name, from the server to the accuracy; without the names of their classes, which nobody knows here."""
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    published(published.official)
    clip = write_video(tmp_path / "clip.mp4", frames=30)
    (tmp_path / "list.csv").write_text(f"path,label\n{clip},5\n", encoding="utf-8")
    (tmp_path / "named.csv").write_text(f"path,label\n{clip},F\n", encoding="utf-8")
    (tmp_path / "names.txt").write_text("\n".join("abcdefgh"), encoding="utf-8")
    quiet = ["--device", "cpu", "--json"]
    assert cli.main(["predict", NAME, str(clip), *quiet]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == NAME and found["protocol"] == "swin" and found["classes"] == [*"01234567"]
    evaluate = ["evaluate", NAME, *quiet, "--workers", "0", "--data"]
    assert cli.main([*evaluate, f"csv:{tmp_path / 'list.csv'}"]) == 0
    [numbered] = json.loads(capsys.readouterr().out)
    assert numbered["views"] == "4x3" and numbered["counts"]["5"] == 1 == numbered["n"]
    assert cli.main([*evaluate, f"csv:{tmp_path / 'named.csv'}"]) == 2
    assert "has the classes F, but" in (err := capsys.readouterr().err) and "with --classes FILE" in err
    assert cli.main([*evaluate, f"csv:{tmp_path / 'named.csv'}", "--classes", str(tmp_path / "names.txt")]) == 0
    [named] = json.loads(capsys.readouterr().out)
    assert named["confusion"] == numbered["confusion"] and len(server.log) == 1  # it was fetched once
    assert cli.main([*evaluate[:-1]]) == 2 and "with --data" in capsys.readouterr().err


def test_the_command_with_default_arguments(server, published, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    published(published.official)
    assert cli.main(["weights", "get", NAME]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'weights' / NAME}.safetensors\n"
    assert err.startswith(f"{NAME}: https://host.invalid/v1/mini.pth?dl=0\nlicence of the weights: MIT; ")


def test_default_folder_is_that_of_the_data(server, published, tmp_path, monkeypatch):
    monkeypatch.setenv("VT_COURSE_DATA", str(tmp_path))
    published(published.official)
    assert weights.get(NAME, progress=False) == tmp_path / "weights" / f"{NAME}.safetensors"


def test_the_record_is_what_sha256sum_reads(published, tmp_path):
    published(published.official)
    path = get(tmp_path, keep_original=True)
    assert names(path.parent) == ["test.pth", "test.safetensors", "test.sha256"]
    record = weights.read_record(path.with_suffix(".sha256"))
    assert record == {p: sha256_of(path.parent / p) for p in ("test.pth", "test.safetensors")}
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--check", "--strict", "test.sha256"], cwd=path.parent, check=True, capture_output=True
        )


def test_damaged_weights_are_made_again(server, published, tmp_path):
    published(published.official)
    path = get(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # in the last tensor
    get(tmp_path)
    assert path.read_bytes()[-1] == good[-1] and len(server.log) == 2


def test_a_replaced_original_is_refused_until_its_record_is_deleted(published, tmp_path):
    published(published.official)
    path = get(tmp_path)
    path.unlink()
    published({"state_dict": {k: v + 1 for k, v in published.official["state_dict"].items()}})
    for _ in range(2):
        with pytest.raises(CourseError, match="the first download of video_swin_mini/test had") as error:
            get(tmp_path)
        assert str(path.with_suffix(".sha256")) in one_sentence(error) and not path.exists()
    path.with_suffix(".sha256").unlink()
    get(tmp_path)


def test_stated_checksum_is_checked(published, tmp_path):
    published(published.official, sha256="01234567")
    with pytest.raises(CourseError, match="instead of the 01234567"):
        get(tmp_path)
    assert names(tmp_path / "video_swin_mini") == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(published, tmp_path, value):
    state = {key: tensor.clone() for key, tensor in published.official["state_dict"].items()}
    name = next(key for key, tensor in reversed(state.items()) if tensor.is_floating_point())
    state[name].view(-1)[-1] = value
    published({"state_dict": state})
    with pytest.raises(CourseError, match=r"has numbers in [\w.]+ that are not finite \(NaN or infinity\)") as error:
        get(tmp_path)
    one_sentence(error)
    assert names(tmp_path / "video_swin_mini") == ["test.pth"]  # to look at; nothing that a model would load


def test_a_file_many_times_too_large_is_not_stored(server, published, tmp_path, written):
    published(published.official)
    most = weights.most_bytes("video_swin_mini")
    assert len(server.files["/mirror/v1/mini.pth"]) < most < 100_000_000
    server.files["/mirror/v1/mini.pth"] = bytes(most + 1)
    server.always = dict(open_end=True)
    with pytest.raises(CourseError, match=f"sends more than the {most:,} bytes that test.pth can have"):
        get(tmp_path)
    assert sum(written) <= most and names(tmp_path / "video_swin_mini") == []
    server.always = {}
    with pytest.raises(CourseError, match=f"sends more than the {most:,} bytes"):
        get(tmp_path)


def test_put_there_by_hand(server, published, tmp_path):
    """What every message about a network recommends works: the original at NAME.pth, no network."""
    published(published.official)
    original = tmp_path / f"{NAME}.pth"
    original.parent.mkdir()
    original.write_bytes(server.files.pop("/mirror/v1/mini.pth"))
    assert get(tmp_path).is_file() and server.log == [] and not original.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_file_that_would_run_code_is_refused_and_does_not(published, tmp_path, zipped):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    published({**published.official, "meta": Evil()}, save=dict(_use_new_zipfile_serialization=zipped))
    with pytest.raises(
        CourseError, match=r"holds a \w+\.system beside its weights, and loading that could run code"
    ) as error:
        get(tmp_path)
    one_sentence(error)
    assert not (tmp_path / "ran").exists() and names(tmp_path / "video_swin_mini") == ["test.pth"]
    pickle.loads(pickle.dumps(Evil()))  # the trap works
    assert (tmp_path / "ran").exists()


def test_a_namespace_beside_the_weights_is_let_through(published, tmp_path):
    published({"model": published.official["state_dict"], "args": argparse.Namespace(lr=1e-3, name="x")})
    assert get(tmp_path).is_file()


def test_files_that_do_not_fit_or_are_none(server, published, tmp_path):
    state = published.official["state_dict"]
    published({"state_dict": {k: v for k, v in state.items() if k != "backbone.norm.weight"}})
    with pytest.raises(CourseError, match="is not the video_swin_mini of this version.*missing backbone.norm.weight"):
        get(tmp_path)
    original = tmp_path / f"{NAME}.pth"
    for content in (b"Not Found", original.read_bytes()[:-1000], b""):
        original.write_bytes(content)
        with pytest.raises(CourseError, match="not a PyTorch checkpoint or is damaged.*delete it") as error:
            get(tmp_path)
        one_sentence(error)
    torch.save(torch.zeros(2), original)
    with pytest.raises(CourseError, match="holds a Tensor instead of named weights"):
        get(tmp_path)
    assert names(tmp_path / "video_swin_mini") == ["test.pth"]


def test_two_at_once_get_once(server, published, tmp_path):
    published(published.official)
    server.always = dict(piece=1_000_000, pause=0.05)
    with ThreadPoolExecutor() as pool:
        paths = {future.result() for future in [pool.submit(get, tmp_path) for _ in range(3)]}
    path = tmp_path / f"{NAME}.safetensors"
    assert paths == {path} and len(server.log) == 1 and names(path.parent) == ["test.safetensors", "test.sha256"]


def test_unknown_name():
    with pytest.raises(CourseError, match="did you mean.*video_swin_tiny/k400.*weights list"):
        weights.get("video_swin_tny/k400")
    with pytest.raises(CourseError, match="see `vt-course weights list`"):
        weights.row("zzz")


def test_addresses(monkeypatch):
    drive = "https://drive.google.com/file/d/174muWZJcZHieABDZMKiJ0tNeFLoEkJLx/view?usp=sharing"
    assert weights.address(drive) == (
        "https://drive.usercontent.google.com/download?id=174muWZJcZHieABDZMKiJ0tNeFLoEkJLx&export=download&confirm=t"
    )
    assert weights.address("https://www.dropbox.com/s/x/a.pyth?dl=0") == "https://www.dropbox.com/s/x/a.pyth?dl=1"
    assert weights.address("https://h/a.pth") == "https://h/a.pth"
    monkeypatch.setenv("VT_COURSE_WEIGHTS_URL", "http://mirror:8000/w/")
    assert weights.address(drive) == "http://mirror:8000/w/file/d/174muWZJcZHieABDZMKiJ0tNeFLoEkJLx/view"
    assert weights.address("https://h/x/a.pth") == "http://mirror:8000/w/x/a.pth"


@pytest.mark.slow
def test_the_table_is_sound():
    rows = weights.release_table()
    assert len({r["name"] for r in rows}) == len({r["url"] for r in rows}) == len(rows)
    for r in rows:
        assert r["url"].startswith("https://") and "baidu" not in r["url"] and r["source"] and r["licence"], r
        assert "." not in r["name"] and r["name"].count("/") == 1, r  # it becomes a path, a suffix is appended
    sizes = {r["name"]: r["weights_mb"] for r in rows}
    assert sizes["swin_tiny/in1k"] == pytest.approx(113.15, abs=0.01) and min(sizes.values()) > 80
    hashed = [r for r in rows if r["sha256"]]
    assert {r["name"].split("/")[0] for r in hashed} == {"torchvision"} and len(hashed) == 9
    assert all("no commercial" in r["licence"] for r in rows if "timesformer" in r["name"])


@pytest.mark.slow
def test_every_file_has_its_variant():
    with torch.device("meta"):
        built = {}  # many releases are of one variant and one number of classes
        for name, release in weights.releases().items():
            key = release.variant, *release.settings.items()
            if key not in built:
                built[key] = create(release.variant, **release.settings).state_dict()
            heads = [v for k, v in built[key].items() if k.startswith(("head.", "aux_head.")) and v.ndim == 2]
            assert heads and all(h.shape[0] == release.settings["num_classes"] for h in heads), name
