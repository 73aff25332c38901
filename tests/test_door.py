"""The door for parsers: whatever stands in a file that may be a user's, it is read or refused by one sentence."""

import csv
import gzip
import io
import json
import re
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from vt_course import CourseError, cli, files
from vt_course.claims import golden
from vt_course.data import prepare, shards
from vt_course.data.clips import Rows, VideoFolder, read_manifest
from vt_course.data.folders import listed, read_folder
from vt_course.data.reader import ClipReader
from vt_course.data.synthetic import render
from vt_course.fetch import kinetics, weights
from vt_course.fetch.download import Download
from vt_course.lab import progress
from vt_course.training import checkpoint
from vt_course.training.experiments import results, rows

from videos import write_video


def tar(*members, size=None, pax=None) -> bytes:
    """A tar of (name, bytes); the last one's header claims `size` bytes, or what `pax` says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT if pax is None else tarfile.PAX_FORMAT) as file:
        for k, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), pax or {}
            if size is not None and k == len(members) - 1:
                info.size = size
                out.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
                return out.getvalue()
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def npz(shape: str) -> bytes:
    """A NumPy file whose array claims `shape`."""
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("logits.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(64))
    return out.getvalue()


def header(facts: dict, data=bytes(16)) -> bytes:
    """A safetensors file with any header."""
    text = json.dumps(facts).encode()
    return len(text).to_bytes(8, "little") + text + data


DEEP = "[" * 100_000
ABSURD = {
    "empty": b"",
    "folder": None,
    "text": b"hello\n",
    "nul": bytes(5000),
    "noise": np.random.default_rng(0).bytes(5000),
    "latin": b"path,label\n\xe4,b\n",
    "utf-16": "path,label\na,b\n".encode("utf-16"),
    "utf-16 without mark": ("path,label\n" + "a.mp4,b\n" * 200_000).encode("utf-16-le"),
    "a nul": b"path,label\na\0.mp4,b\n",
    "long field": b"path,label\n" + b"a" * 200_000 + b",b\n",
    "long line": b"a" * 3_000_000,
    "quote": b'path,label\n"a,b\n' + b"c,d\n" * 60_000,
    "columns": b"path,label\na\nb,c,d,e,f\n",
    "deep": DEEP.encode(),
    "deep object": b'{"a":' * 100_000,
    "line deep": b'{"name": "a"}\n' + DEEP.encode() + b"\n",
    "list": b"[]\n",
    "object": b"{}\n",
    "null": b"null\n",
    "number": b"1\n",
    "string": b'"a"\n',
    "infinity": b'{"a": 1e400, "version": 1e400}\n',
    "nan": b'{"a": NaN}\n',
    "digits": b'{"a": ' + b"9" * 5000 + b"}\n",
    "half": b'{"a": "\\ud800"}\n',
    "objects": b'[{"id": "\\u0000", "template": "a"}, {"id": {}, "template": []}]',
    "numbers": b'{"a": -1, "b": [1e308], "c": null}',
    "empty pickle": b"\x80\x04N.",
    "gzip": gzip.compress(b"a" * 1000)[:-4],
    "zip": b"PK\x05\x06" + bytes(18),
    "cut zip": b"PK\x03\x04" + bytes(300),
    "terabytes": tar(("a.json", b"{}"), ("b.json", b""), size=1 << 42),
    "below 0": tar(("a.mp4", b"x"), ("b.cls", b"1"), size=-512),
    "pax": tar(("a.json", b"{}"), pax={"size": "-1000000"}),
    "pax text": tar(("a.json", b"{}"), pax={"size": "many", "mtime": "1e400"}),
    "long label": tar(("a.mp4", b"x"), ("a.cls", b"9" * 5000)),
    "large label": tar(("a.mp4", b"x"), ("a.txt", b"9" * (2 << 20))),
    "label of bytes": tar(("a.mp4", b"x"), ("a.cls", b"\xff\xfe")),
    "json in tar": tar(("a.mp4", b"x"), ("a.json", DEEP.encode())),
    "npz": npz("(10000000000000,)"),
    "negative npz": npz("(-5,)"),
    "odd npz": npz("('a',)"),
    "npz of code": npz("__import__('os')"),
    "huge header": (1 << 62).to_bytes(8, "little") + b"{}",
    "tensors": header({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 16]}}),
    "negative tensor": header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
    "header": header({"__metadata__": {"recipe": DEEP, "classes": DEEP}}, b""),
    "classes": header({"__metadata__": {"recipe": '{"model": "no_such_model"}', "classes": '["a"]'}}, b""),
    "settings": header(
        {
            "__metadata__": {
                "recipe": '{"model": "swin_mini", "config": {"depths": -1}, "data": "images:shapes"}',
                "classes": '["a"]',
            }
        },
        b"",
    ),
    "media": b"\0\0\0\x18ftypmp42" + bytes(8) + b"\xff" * 200,
    "matroska": b"\x1a\x45\xdf\xa3" + b"\xff" * 400,
    "avi": b"RIFF\xff\xff\xff\x7fAVI " + b"\xff" * 600,
    **{
        f"times {value[:9]}": f"path,label,start,end,offset,bytes\na.mp4,b,{value},,,\n".encode()
        for value in ("nan", "-1", "1e400", "1e300", "9" * 5000)
    },
    **{
        f"place {value[:9]}": f"path,label,start,end,offset,bytes\na.mp4,b,,,{value},{value}\n".encode()
        for value in ("nan", "-1", "1e9", "9" * 30, "9" * 5000)
    },
    "kinetics": b"label,youtube_id,time_start,time_end\nyoga,abcdefghijk,0," + b"9" * 400 + b"\n",
    "kinetics below 0": b"label,youtube_id,time_start,time_end\nyoga,abcdefghijk,-5,5\n",
    "prepared": (",".join(prepare.RECORD) + "\na.mp4,a.avi,1,1,256 all 10,many,1.0,1e400\n").encode(),
    "shards": json.dumps(
        {"classes": ["a"], "max_bytes": 1, "clips_sha256": "", "shards": {"a.tar": {"bytes": "many"}}}
    ).encode(),
    "classes of shards": json.dumps({"classes": [[], 1], "max_bytes": 1, "clips_sha256": "", "shards": {}}).encode(),
    "golden": json.dumps({"source": {"repo": 1, "cls": ""}}).encode(),
    "golden shapes": json.dumps(
        {
            "source": {"repo": "microsoft/Swin-Transformer", "cls": "A"},
            "keys": [["a", [-1], "matrix"]],
            "weights_abs_sum": "x",
        }
    ).encode(),
}


def put(path, data) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if data is None else path.write_bytes(data)


def first(rows):
    """Of clips that can be listed, read the first: a place or a time may be absurd."""
    VideoFolder(
        Rows(rows, "rows"), classes=sorted({row["label"] for row in rows}), frames=2, stride=1, size=16, train=False
    )[0]


def note(path):
    part = path.with_name(path.name.removesuffix(".part.from"))
    told = Download("http://localhost/a", part, None, None, 1, False, 1.0).memory()
    assert told == {} or isinstance(told["url"], str)


def case(path):
    row = golden.check_case(path.with_suffix(".json"))
    assert not row["passed"]
    raise CourseError(row["problem"])  # a row of the table: the other cases go on


def experiment(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "repo_root", lambda: path.parents[2])
        results.read_result(path.stem)


READERS = {  # the file's name: what reads it
    "m.csv": lambda path: first(read_manifest(path)),
    "manifest.csv": lambda path: read_folder(path.parent),
    "train.csv": lambda path: (
        path.with_name("val.csv").write_bytes(b"path,label\na.mp4,b\n"),
        read_folder(path.parent),
    ),
    "something-something-v2-train.json": lambda path: listed(path.parent),
    "something-something-v2-labels.json": lambda path: (
        [
            path.with_name(f"something-something-v2-{name}.json").write_text(
                '[{"id": 1, "template": "a"}]', encoding="utf-8"
            )
            for name in ("train", "validation")
        ],
        read_folder(path.parent),
    ),
    "classInd.txt": lambda path: (
        [path.with_name(f"{name}list01.txt").write_text("a/b.avi 1\n", encoding="utf-8") for name in ("train", "test")],
        read_folder(path.parent),
    ),
    "jump_test_split1.txt": lambda path: read_folder(path.parent),
    "prepared.csv": lambda path: prepare.verify_folder(path.parent),
    "shards.json": lambda path: shards.read_shards(path.parent),
    "train-0.tar": lambda path: (
        path.with_name("val-0.tar").write_bytes(tar(("a.mp4", b"x"), ("a.cls", b"1"))),
        first(shards.read_shards(path.parent)[0]),
    ),
    "kinetics/annotations/train.csv": lambda path: kinetics.read_annotations(path, "train"),
    "kinetics/kinetics.json": lambda path: kinetics.Folder(path.parent, "400"),
    "kinetics/clips.jsonl": lambda path: kinetics.Folder(path.parent, "400"),
    "kinetics/parts.jsonl": lambda path: kinetics.Folder(path.parent, "400"),
    "a.bin.part.from": note,
    "w.sha256": weights.read_record,
    "w.pth": weights.read_checkpoint,
    "case.json": case,
    "other.npz": lambda path: (
        path.with_suffix(".json").write_text('{"source": {"repo": "a", "cls": "b"}}', encoding="utf-8"),
        case(path),
    ),
    "last.safetensors": lambda path: checkpoint.load_run(path),
    "state.pt": lambda path: checkpoint.read_state(path.parent),
    "progress.csv": progress.passed,
    "config.json": lambda path: render(path.parent, clips=(8, 8), frames=2, size=32, workers=0),
    "experiments.yaml": rows.read_rows,
    "results/experiments/small.json": experiment,
    "a.mp4": lambda path: ClipReader(path).read([0]),
}


@pytest.mark.parametrize("name", READERS)
def test_whatever_a_file_holds_it_is_read_or_refused_by_one_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "verify", lambda paths, *args: iter([]))  # processes, which read no lists
    refused = set()
    for kind, data in ABSURD.items():
        path = tmp_path / kind / name
        put(path, data)
        if name == "config.json" and kind == "empty":
            continue  # nothing to refuse: it would render
        try:
            READERS[name](path)
        except CourseError as error:
            said = str(error)
            assert (
                "\n" not in said
                and len(said) < 700
                and (name in ("case.json", "other.npz") or re.search("[;:] ", said))
            ), (kind, said)
            assert str(tmp_path) in said or name in ("case.json", "other.npz"), (kind, said)
            refused.add(kind)
        except OSError as error:
            assert data is None and error.filename, (kind, error)  # the command line names the folder
            refused.add(kind)
    anew = name in ("a.bin.part.from", "kinetics/kinetics.json", "kinetics/clips.jsonl", "kinetics/parts.jsonl")
    assert len(refused) > len(ABSURD) // 3 or anew, refused


SAID = [  # name, data, what the sentence says: the file, the line, the reason, the remedy
    (
        "m.csv",
        "a nul",
        "Manifest {} is no text (it has NUL bytes, as UTF-16 and damaged files have) after line 1; give a CSV file",
    ),
    ("m.csv", "utf-16 without mark", "Manifest {} is no text (it has NUL bytes"),
    (
        "m.csv",
        "long field",
        "Manifest {} is not a CSV file (field larger than field limit (131072)) after line 1; give a CSV file",
    ),
    ("m.csv", "long line", "Manifest {} is no text (a line has no end); "),
    ("m.csv", "folder", "Manifest {} cannot be read (Is a directory); give a CSV file"),
    (
        "m.csv",
        "times 1e300",
        "Line 2 of manifest {} has a bad start or end, offset or bytes (1e300 is no place in a video); give seconds",
    ),
    (
        "m.csv",
        "place -1",
        "Line 2 of manifest {} has a bad start or end, offset or bytes (-1 is no place in a file); give",
    ),
    ("something-something-v2-train.json", "deep", "{} is not valid JSON (nested too deeply)"),
    ("something-something-v2-train.json", "object", "{} is not valid JSON (it holds a dict); fetch it again."),
    (
        "something-something-v2-train.json",
        "objects",
        "{} is not valid JSON (it has the character NUL); fetch it again.",
    ),
    (
        "something-something-v2-labels.json",
        "infinity",
        "{} is not valid JSON (it has the number 1e400); fetch it again.",
    ),
    (
        "jump_test_split1.txt",
        "nul",
        "{} is no text (it has NUL bytes, as UTF-16 and damaged files have); fetch it again.",
    ),
    (
        "train-0.tar",
        "terabytes",
        "Shard {} is truncated, damaged or no plain tar (its member b.json claims 4,398,046,511,104 bytes); copy or "
        "make",
    ),
    (
        "train-0.tar",
        "below 0",
        # Newer versions of tarfile refuse the header themselves and say less.
        "Shard {} is truncated, damaged or no plain tar (",
    ),
    ("train-0.tar", "json in tar", "a.json in shard {} is not valid JSON (nested too deeply)"),
    (
        "train-0.tar",
        "large label",
        "Shard {} has a member a.txt of 2,097,152 bytes, too many for a label; make it again.",
    ),
    (
        "shards.json",
        "shards",
        "{} is not what `vt-course data shard` writes; run the `vt-course data shard` that wrote it again, which makes "
        "it anew.",
    ),
    (
        "kinetics/annotations/train.csv",
        "kinetics below 0",
        "{} lists a clip 'abcdefghijk' of class 'yoga' from -5 to 5 s, which no",
    ),
    ("w.pth", "noise", "{} is not a PyTorch checkpoint or is damaged ("),
    ("last.safetensors", "huge header", "{} is not a readable safetensors file ("),
    ("last.safetensors", "header", "the list of classes in {} is not valid JSON (nested too deeply)"),
    (
        "last.safetensors",
        "classes",
        "the recipe in {} is none that a model can be built from (unknown model 'no_such_model'",
    ),
    (
        "progress.csv",
        "nul",
        "{} is no text (it has NUL bytes, as UTF-16 and damaged files have); move it away, or set VT_COURSE_PROGRESS",
    ),
]


@pytest.mark.parametrize("name, kind, words", SAID, ids=[f"{name}, {kind}" for name, kind, _ in SAID])
def test_the_sentence_names_file_line_reason_and_remedy(name, kind, words, tmp_path):
    put(tmp_path / name, ABSURD[kind])
    with pytest.raises(CourseError) as caught:
        READERS[name](tmp_path / name)
    assert str(caught.value).startswith(words.format(tmp_path / name)), str(caught.value)


def test_a_video_that_is_said_to_lie_anywhere_is_truncated(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=2)
    size = path.stat().st_size
    assert ClipReader(path, span=(0, size)).num_frames == 2
    for span in ((0, 1 << 59), (1 << 59, 1), (size, 10), (1 << 59, 1 << 59)):
        with pytest.raises(CourseError, match="a.mp4 is truncated"):
            ClipReader(path, span=span)
    for name in ("a\0b.mp4", "\ud800.mp4", "a" * 5000):
        with pytest.raises(CourseError, match="cannot be read"):
            ClipReader(tmp_path / name)


def test_an_archive_that_claims_terabytes_is_damaged(tmp_path):
    clip = kinetics.Clip("yoga", "abcdefghijk", 0, 10, "train", "")
    name = f"a/{clip.stem}.mp4"
    for data in (tar((name, b""), size=1 << 42), tar((name, b""), size=-512)):
        for packed in (data, gzip.compress(data)):
            (tmp_path / "part.tar.gz").write_bytes(packed)
            with pytest.raises(kinetics.DamagedArchive):
                kinetics.read_archive(tmp_path / "part.tar.gz", {clip.stem: clip}, tmp_path)
    for packed in (data := tar((name, b"clip")), gzip.compress(data)):
        (tmp_path / "part.tar.gz").write_bytes(packed)
        assert kinetics.read_archive(tmp_path / "part.tar.gz", {clip.stem: clip}, tmp_path) == ({clip.stem}, [clip])
        assert (tmp_path / f"{clip.stem}.mp4").read_bytes() == b"clip"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "swin_mini", "--data", "csv:{0},{0}", "--out", "{1}/run"],
        ["data", "stats", "{1}"],
        ["data", "prepare", "{1}", "--out", "{1}-small"],
        ["evaluate", "{0}"],
        ["train", "swin_mini", "--out", "{1}/run", "--set", "config=" + DEEP],
    ],
)
def test_the_command_line_exits_with_2_and_one_line(command, tmp_path, capsys):
    at = tmp_path / "clips"
    at.mkdir()
    path = at / "manifest.csv"
    write_video(at / "a.mp4", frames=1)
    path.write_bytes(ABSURD["long field"])
    assert cli.main([word.format(path, at) for word in command]) == 2
    said = capsys.readouterr().err
    assert (
        len(said) < 700
        and said.startswith("vt-course: ")
        and said.count("\n") == 1
        and ("manifest.csv" in said or "config=" in said)
    )


# ------------------------------------------------------------------------- what is well is read as before


def test_the_door_reads_what_is_well(tmp_path):
    path = tmp_path / "a"
    path.write_text('\ufeff{"a": [1, 2.5, "\\u00e4\\ud83d\\ude00"], "b": null}', encoding="utf-8")
    assert files.read_json(path, "", dict) == {"a": [1, 2.5, "ä😀"], "b": None}
    path.write_bytes('\ufeffpath,label\r\n"a, ""b""\r\nc.mp4",ü\r\n\r\nd,e,f\r\n'.encode())
    assert list(files.read_csv(path, "")) == [
        (3, {"path": 'a, "b"\r\nc.mp4', "label": "ü"}),
        (5, {"path": "d", "label": "e", None: ["f"]}),
    ]
    assert files.csv_header(path, "") == ["path", "label"]
    with open(path, newline="", encoding="utf-8-sig") as file:
        assert [row for _, row in files.read_csv(path, "")] == list(csv.DictReader(file))
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.ones((2, 2)))
    assert {name: value.tolist() for name, value in files.read_npz(tmp_path / "a.npz", "").items()} == {
        "a": [0, 1, 2],
        "b": [[1, 1], [1, 1]],
    }
    torch.save({"a": torch.arange(3), "b": [1, "c", None]}, path)
    assert files.read_pt(path, "")["a"].tolist() == [0, 1, 2] and files.read_pt(path, "")["b"] == [1, "c", None]
    safetensors.torch.save_file({"a": torch.arange(3)}, path, {"b": "c"})
    weights, told = files.read_safetensors(path, "")
    assert weights["a"].tolist() == [0, 1, 2] and told == {"b": "c"}
    for packed in (data := tar(("a/b.txt", b"x" * 3_000_000), ("c", b"")), gzip.compress(data)):
        path.write_bytes(packed)
        assert [(member.name, stream.read()) for member, stream in files.read_tar(path, "", zipped=packed != data)] == [
            ("a/b.txt", b"x" * 3_000_000),
            ("c", b""),
        ]


def test_our_own_faults_and_an_interrupt_pass_the_door_unchanged():
    for error in (KeyboardInterrupt, SystemExit, CourseError("ours; mend it.")):
        with (
            pytest.raises(error if isinstance(error, type) else CourseError) as caught,
            files.parsing("a", "no text", "look at it."),
        ):
            raise error
        assert not isinstance(caught.value, files.Unreadable)
