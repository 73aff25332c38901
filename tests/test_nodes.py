"""Several machines: two torchruns that meet over the network and share no folder but that of the clips.

The machines are network namespaces joined by a pair of virtual interfaces, where the system allows that. Elsewhere they
are two torchruns on the loopback interface, which says less: all processes reach each other by any address.
"""

import csv
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if not hasattr(os, "fork"):
    pytest.skip("Windows lacks what this needs: runs of several processes are forked here", allow_module_level=True)

from test_ranks import assert_nearly_same, free_port

from test_training import clips  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.dear]

NEW_NETWORK = 0x40000000  # CLONE_NEWNET
ADDRESSES = "10.211.7.1", "10.211.7.2"

# What torchrun starts: the command line, with limits for a test and with a rank that something happens to after a step.
SCRIPT = textwrap.dedent("""
    import os, signal, sys, time
    from vt_course import cli
    from vt_course.training import fit, ranks
    ranks.SILENCE, ranks.MEETING = 6, 60.0
    what, *where = os.environ["ACT"].split()
    step = fit.Run.train_step
    def stepping(run, *batch):
        step(run, *batch)
        if where == [os.environ["RANK"], str(run.step)]:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            open(os.environ["CUT"], "w").close()         # the driver cuts the network
            time.sleep(3)
    fit.Run.train_step = stepping
    sys.exit(cli.main(sys.argv[1:]))
""")

# Every plan runs on two machines, forked after the slow imports: (name, ranks of each machine, what happens, command).
DRIVER = textwrap.dedent("""
    import ctypes, json, logging, os, subprocess, sys, time
    from torch.distributed.run import main
    from vt_course import cli
    from vt_course.training import fit, predict, scores

    def sh(line):
        subprocess.run(line, shell=True, check=True)

    def machine(number, folder, name, ranks, command, go):
        os.chdir(f"{folder}/{number}")
        for stream, ending in (1, "out"), (2, "err"):
            os.dup2(os.open(f"{folder}/{name}.{number}.{ending}", os.O_WRONLY | os.O_CREAT), stream)
        logging.disable()                                # torchrun's own report, for which it imports a compiler
        if SEPARATE:
            assert ctypes.CDLL(None).unshare(NEW_NETWORK) == 0
        os.write(go[1], b"x")
        while SEPARATE and not os.path.exists(f"{folder}/{name}.joined"):
            time.sleep(0.02)
        try:
            main(["--nnodes", "2", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-id", name,
                  "--rdzv-endpoint", f"{ADDRESSES[0] if SEPARATE else '127.0.0.1'}:{PORTS[name]}", *LOCAL[number],
                  "--start-method", "fork", "--run-path", SCRIPT, *command])
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, file=sys.stderr)
            os._exit(1)

    def join(pids):                                      # a cable between the machines; it goes with them
        sh(f"ip link add vtc0 netns {pids[0]} type veth peer name vtc1 netns {pids[1]}")
        for number, pid in enumerate(pids):
            inside = f"nsenter -t {pid} -n ip"
            sh(f"{inside} link set lo up && {inside} addr add {ADDRESSES[number]}/24 dev vtc{number} && "
               f"{inside} link set vtc{number} up")

    if os.fork() == 0:                                   # the same run in one process
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(cli.main(ONE))
    assert os.wait()[1] == 0
    results = {}
    for name, ranks, act, command in PLANS:
        os.environ.update(ACT=act or "nothing", CUT=f"{FOLDER}/{name}.cut")
        go, pids, began = os.pipe(), [], time.monotonic()
        for number in range(2):
            pid = os.fork()
            if pid == 0:
                machine(number, FOLDER, name, ranks[number], command, go)
            pids.append(pid)
        while len(os.read(go[0], 1)) + len(os.read(go[0], 1)) != 2:
            pass
        if SEPARATE:
            join(pids)
            open(f"{FOLDER}/{name}.joined", "w").close()
        codes, cut = {}, None
        while len(codes) < 2 and time.monotonic() - began < 240:
            if cut is None and os.path.exists(f"{FOLDER}/{name}.cut"):
                sh(f"nsenter -t {pids[1]} -n ip link set vtc1 down")
                cut = time.monotonic()
            for pid in pids:
                if pid not in codes and os.waitpid(pid, os.WNOHANG)[0]:
                    codes[pid] = 1
            time.sleep(0.05)
        for pid in pids:
            if pid not in codes:
                os.kill(pid, 15)
        results[name] = [sorted(pids.index(pid) for pid in codes), time.monotonic() - (cut or began)]
    print("RESULTS", json.dumps(results), flush=True)
""")


def separate() -> bool:
    """Whether this process may make network namespaces, tried in a child."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    pid = os.fork()
    if pid == 0:
        os._exit(1 if ctypes.CDLL(None).unshare(NEW_NETWORK) else 0)
    allowed = os.waitpid(pid, 0)[1] == 0
    return allowed and subprocess.run(["ip", "link", "show"], capture_output=True).returncode == 0 and os.getuid() == 0


@pytest.fixture(scope="module")
def plans(clips, tmp_path_factory):  # noqa: F811
    """All plans, made by one process: name -> (folder, which machines ended, seconds, stdout and stderr of each)."""
    folder = tmp_path_factory.mktemp("nodes")
    for number in range(2):
        (folder / str(number)).mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    data = f"csv:{clips / 'train.csv'},{clips / 'val.csv'}"
    settings = "frames=8 stride=1 size=32 keep=0 batch_size=5 epochs=2 drop_path=0".split()
    common = ["--device", "cpu", "--workers", "0", "--json"]
    train = ["train", "video_swin_mini", "--data", data, *common, "--set", *settings, "--out"]
    videos = [str(clips / f"val{i}.mp4") for i in range(5)]
    lines = ["path,label", *(f"{clips}/val{i}.mp4,left" for i in range(6))]
    (folder / "left.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    test = f"csv:{folder / 'left.csv'}"
    alone = separate()
    plans = [
        ("stopped", (1, 2), None, [*train, "run", "--max-steps", "2"]),
        ("killed", (1, 2), "kill 2 3", [*train, "run"]),
        ("gone on", (1, 1), None, [*train, "run"]),
        ("not there", (1, 1), None, ["evaluate", "run", *common]),
        ("evaluated", (1, 2), None, ["evaluate", "video_swin_mini", "--data", test, *common, "--out", "result"]),
        ("predicted", (1, 2), None, ["predict", "video_swin_mini", *videos, "--device", "cpu", "--json"]),
        *([("cut", (1, 1), "cut 1 2", [*train, "cut"])] if alone else []),
    ]
    # torchrun asks the name of the machine whether it is the one where all meet. Ours have one name.
    local = [
        ["--local-addr", ADDRESSES[number] if alone else "127.0.0.1", "--rdzv-conf", f"is_host={1 - number}"]
        for number in range(2)
    ]
    head = (
        f"PLANS = {plans!r}\nFOLDER, SCRIPT, SEPARATE = {str(folder)!r}, {str(script)!r}, {alone}\n"
        f"ADDRESSES, LOCAL, NEW_NETWORK = {ADDRESSES!r}, {local!r}, {NEW_NETWORK}\n"
        f"ONE = {[*train, str(folder / 'one')]!r}\nPORTS = { {name: free_port() for name, *_ in plans}!r}\n"
    )
    env = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", head + DRIVER], capture_output=True, encoding="utf-8", timeout=550, env=env
    )
    assert "RESULTS" in done.stdout, done.stderr
    text = {
        (name, number, ending): (folder / f"{name}.{number}.{ending}").read_text(encoding="utf-8")
        for name, *_ in plans
        for number in range(2)
        for ending in ("out", "err")
    }
    return {
        name: (folder, *result, *([text[name, n, ending] for n in range(2)] for ending in ("out", "err")))
        for name, result in json.loads(done.stdout.split("RESULTS")[1]).items()
    }


def sentences(text: str) -> list[str]:
    return re.findall(r"^vt-course: (.*)$", text, re.MULTILINE)


def result(plans, name: str):
    """The JSON that the first machine printed; the second one prints nothing, and both ended well."""
    folder, ended, seconds, out, err = plans[name]
    assert ended == [0, 1] and out[1] == "" and not sentences("".join(err)), (err, seconds)
    return json.loads(out[0])


def test_a_run_goes_on_with_other_machines_and_is_the_run_of_one_process(plans):
    assert result(plans, "stopped")["steps"] == 2
    summary = result(plans, "gone on")
    assert summary["finished"] and summary["ranks"] == 2 and summary["steps"] == 6
    folder = plans["stopped"][0]
    assert_nearly_same(folder / "one", folder / "0" / "run", atol=4e-4)  # Adam makes a step of a sign
    assert not (folder / "1" / "run").exists()  # only the machine of rank 0 needs the folder


def test_a_killed_rank_ends_every_machine_with_one_sentence(plans):
    folder, ended, seconds, out, err = plans["killed"]  # within the time that the driver gives them
    assert ended == [0, 1] and not any("Traceback" in text for text in err), err
    first, second = map(sentences, err)
    assert len(first) == 1 and "ended without a word" in first[0] and "run the same command again" in first[0], err
    assert second in ([], first)  # torchrun may end the neighbours of a dead rank before they notice


def test_what_one_machine_lacks_is_told_on_the_others(plans):
    folder, ended, seconds, out, err = plans["not there"]
    assert ended == [0, 1] and out == ["", ""]
    [first], [second] = map(sentences, err)
    assert first.startswith("rank 1: run does not exist") and second == first.removeprefix("rank 1: "), err


def test_every_video_is_evaluated_once_and_one_machine_writes(plans):
    found = result(plans, "evaluated")
    folder = plans["evaluated"][0]
    with open(folder / "0" / "result" / "predictions.csv", newline="", encoding="utf-8") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert len(paths) == len(set(paths)) == found[0]["n"] == 6 and not (folder / "1" / "result").exists()


def test_every_video_is_predicted_once(plans):
    videos = result(plans, "predicted")["videos"]
    assert [Path(one["path"]).stem for one in videos] == [f"val{i}" for i in range(5)]
    assert all(one["classes"] for one in videos)


def test_a_machine_that_is_lost_is_noticed(plans):
    if "cut" not in plans:
        pytest.skip("this system lets us make no network namespaces, so no cable can be cut")
    folder, ended, seconds, out, err = plans["cut"]
    assert ended == [0, 1] and seconds < 60 and not any("Traceback" in text for text in err), err
    assert [len(sentences(text)) for text in err] == [1, 1], err
    assert all("its machine is lost" in text for text in err)
