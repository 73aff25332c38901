"""The bench of models compares the same weights on the same input, and its counts are what they are called."""

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from vt_course import CourseError
from vt_course.claims import bench_models as bench
from vt_course.claims.bench_models import (
    Pair,
    bench_growth,
    bench_minis,
    bench_models,
    geometric_mean,
    in_own_process,
    peak_bytes,
    with_literal,
)
from vt_course.cli import main
from vt_course.models import create
from vt_course.models.official import to_official

pytestmark = pytest.mark.dear

CPU = torch.device("cpu")


def twin(slow_and_wrong=False):
    """A peer that is our own mini model under torchvision's names, or one that wastes time and shifts the tokens."""
    model = create("video_swin_mini")
    names = to_official(model, layout="torchvision")
    model.state_dict = lambda *args, **kwargs: names
    if slow_and_wrong:
        work = torch.zeros(1000, 1000)
        model.patch_embed.register_forward_hook(lambda m, args, out: out.roll(1, 1) + (work @ work)[0, 0])
    return model


@pytest.fixture
def pairs(monkeypatch):
    """One small pair, measured in this process, because starting another takes seconds, in few turns."""
    monkeypatch.setattr(bench, "PAIRS", {"mini": Pair("video_swin_mini", "torchvision", twin, (3, 8, 48, 48), 2)})
    monkeypatch.setattr(bench, "in_own_process", lambda work, *args: work(*args))
    monkeypatch.setattr(bench, "LEAST", 3)
    monkeypatch.setattr(bench, "matmul_rate", lambda *args: 1.0)
    return bench.PAIRS


def test_a_row_for_each_pass_and_mode(pairs, monkeypatch):
    monkeypatch.setattr(bench, "in_own_process", in_own_process)
    said = []
    rows = bench_models(["mini"], seconds=0, progress=said.append)
    assert [(r["pass"], r["mode"]) for r in rows] == [("forward", "eager"), ("forward+backward", "eager")] and len(
        said
    ) == 2
    for r in rows:
        assert r["max_difference"] == 0 and r["ratio"] > 0 and r["turns"] == 7
        assert r["clips_per_second"] == pytest.approx(2e3 / r["ours_ms"]) and 0 < r["matmul_share"] < 2
        assert r["peak_mb"] == pytest.approx(r["peer_peak_mb"], rel=0.02)  # the same network
    assert rows[1]["ours_ms"] > rows[0]["ours_ms"] and rows[1]["peak_mb"] > rows[0]["peak_mb"]
    assert geometric_mean([{"ratio": 2.0}, {"ratio": 8.0}]) == pytest.approx(4)


def test_the_ratio_is_the_median_of_the_turns_ratios(pairs, monkeypatch):
    """A machine that slows down from turn to turn slows both; who comes first changes with every turn."""
    clocks = iter([2, 3, 30, 20, 4, 8] + [5] * 6)  # ours, peer; peer, ours; ours, peer; the other pass
    monkeypatch.setattr(bench, "clock", lambda work, device: next(clocks))
    rows = bench_models(["mini"], seconds=0)
    assert rows[0]["ratio"] == 1.5 and (rows[0]["ours_ms"], rows[0]["peer_ms"]) == (4000, 8000)
    assert rows[0]["ratio_error"] == pytest.approx(1.25 * (1 / 12) ** 0.5 / 3**0.5)  # of 1.5, 1.5 and 2
    clocks = iter([2, 3] * 3 + [1] * 12)
    assert [row["turns"] for row in bench_models(["mini"], seconds=12)] == [3, 6]  # 15 seconds, 12 seconds


def test_a_slow_peer_makes_a_large_ratio_and_a_wrong_one_a_difference(pairs):
    pairs["mini"] = Pair("video_swin_mini", "torchvision", partial(twin, True), (3, 8, 48, 48))
    row = bench_models(["mini"], seconds=0)[0]
    assert row["ratio"] > 1.5 and row["max_difference"] > 1e-4


def test_the_json_says_where_and_how(pairs, capsys):
    assert main(["bench", "models", "mini", "--seconds", "0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"device", "cores", "threads", "torch", "commit", "command"} <= set(result) and len(result["rows"]) == 2
    assert set(result["geometric_mean"]) == {"eager"}


def test_what_cannot_be_compared(pairs, monkeypatch, capsys):
    with pytest.raises(CourseError, match="no peer for 'mni'; choose from mini"):
        bench_models(["mni"])
    pairs["other"] = Pair("swin_mini", "no_such_library", nn.Identity, (3, 64, 64))
    with pytest.raises(CourseError, match="needs no_such_library, which is not installed"):
        bench_models(["other"])
    assert {r["model"] for r in bench_models(seconds=0)} == {"mini"}  # what is not installed is left out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "models", "mini", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def refuse(name):
    raise CourseError(f"{name} cannot be measured in process {os.getpid()}")


def die(name):
    os._exit(3)


def write_pid_and_wait(name, file):
    Path(file).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(600)


def test_every_pair_has_a_process_of_its_own():
    with pytest.raises(CourseError, match=r"^mini cannot be measured in process \d+$") as error:
        in_own_process(refuse, "mini")
    assert str(os.getpid()) not in str(error.value)
    with pytest.raises(CourseError, match="measured mini ended without a result .exit code 3;"):
        in_own_process(die, "mini")


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a shell starts what it sends to the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_process_of_the_pair(tmp_path, interruptible):
    file = tmp_path / "pid"

    def interrupt():
        while not (file.exists() and file.read_text(encoding="utf-8")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        in_own_process(write_pid_and_wait, "mini", file)
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text(encoding="utf-8")), 0)


def test_peak_memory_is_what_is_held_at_once():
    def one_after_the_other():
        for _ in range(3):
            torch.zeros(250_000)  # 1 MB each

    def all_at_once():
        return [torch.zeros(250_000) for _ in range(3)]

    assert peak_bytes(one_after_the_other, CPU) == 1_000_000
    assert peak_bytes(all_at_once, CPU) == 3_000_000


@pytest.fixture(scope="module")
def growth():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "GROWTH", {"side": [(2, 14, 14), (2, 28, 28)]})
        return bench_growth(repeats=1)


@pytest.mark.parametrize("name", with_literal((2, 14, 14)))
def test_every_attention_keeps_the_map_and_costs_what_it_should(name, growth):
    with torch.device("meta"):
        module, call = with_literal((2, 14, 14))[name]
        assert call(torch.empty(1, 2, 14, 14, 192)).numel() >= 2 * 14 * 14 * 192
    small, large = [r for r in growth if r["attention"] == name]
    N, d = 2 * 14 * 14, 192
    pairs = {
        "joint": N * N,
        "joint, literal": N * N,
        "divided": N * 2 + (1 + 14 * 14) ** 2 * 2,
        "pooling, keys 1 x 4 x 4": N * 2 * 4 * 4,
        "window 8 x 7 x 7": N * 2 * 7 * 7,
        "local 5 x 5 x 5": N * 125 / 2,
    }[name]
    linear = {
        "joint": 4,
        "joint, literal": 4,
        "divided": 9,
        "pooling, keys 1 x 4 x 4": 4,
        "window 8 x 7 x 7": 4,
        "local 5 x 5 x 5": 2,
    }[name]
    assert small["gmacs"] == pytest.approx((2 * pairs * d + linear * N * d * d) / 1e9, rel=0.02)
    times = large["gmacs"] / small["gmacs"]  # four times the tokens
    assert times == pytest.approx(4, rel=0.02) if "window" in name or "local" in name else times > 4.05
    assert large["ms"] > 0 and large["peak_mb"] > small["peak_mb"]
    assert name != "joint" or small["of_joint"] == large["of_joint"] == 1


def test_only_literal_attention_stores_its_scores(growth):
    large = {r["attention"]: r for r in growth if r["H"] == 28}
    scores = 3 * large["joint"]["tokens"] ** 2 * 4 / 1e6
    assert large["joint, literal"]["peak_mb"] > 2 * scores > 4 * large["joint"]["peak_mb"]
    joint, literal = (with_literal((2, 14, 14))[name] for name in ("joint", "joint, literal"))
    literal[0].load_state_dict(joint[0].state_dict())
    x = torch.randn(2, 2, 14, 14, 192)
    torch.testing.assert_close(literal[1](x), joint[1](x))
    assert "joint, literal" not in with_literal((8, 56, 56))


def test_the_minis_take_turns_on_the_same_clips():
    rows = bench_minis(repeats=2, batch=1)
    assert [r["model"] for r in rows] == list(bench.CLIPS)
    assert rows[0]["of_first"] == 1 and all(
        r["ms"] > 0 and r["of_first"] > 0 and r["error"] >= 0 and r["peak_mb"] > 1 for r in rows
    )
