"""Several processes that train one model: the same run as one process makes, and one clear end when something fails."""

import collections
import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

if not hasattr(os, "fork"):
    pytest.skip("Windows lacks what this needs: runs of several processes are forked here", allow_module_level=True)
import torch

from vt_course import CourseError, cli
from vt_course.files import alone
from vt_course.training import ranks
from vt_course.training.checkpoint import read_state
from vt_course.training.evaluate import evaluate_run
from vt_course.training.recipes import Recipe

from test_training import clips, weights  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow

MINIS = ("video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini")

# Every plan is a run in some processes, forked after the slow imports and set up as torchrun sets up its own.
DRIVER = textwrap.dedent("""
    import dataclasses, json, multiprocessing, os, resource, signal, sys, traceback
    sys.path.insert(0, TESTS)
    import torch
    import test_training as t
    from torch.distributed.run import main
    from vt_course import CourseError, cli
    from vt_course.training import fit, folder, ranks
    from vt_course.training.recipes import Recipe

    def build(name, **settings):
        model = create(name, **settings) if name != "tiny" else t.Tiny(**settings)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0                       # its draws differ from rank to rank, and from those of one process
        return model

    def watch_steps(rank, out, act):
        real = fit.Run.train_step
        def step(run, batch, good, clips, lr):
            with open(f"{out}_seen.txt", "a") as file:                   # one write each, so that lines stay whole
                file.write(f"{run.progress.epoch} {rank} {batch['index'].tolist() if good else []}\\n")
            real(run, batch, good, clips, lr)
            if act[0] == "signal" and act[2:] == [rank, run.step]:
                os.kill(os.getpid(), act[1])
            if act[0] == "loader" and act[1:] == [rank, run.step]:
                for each in multiprocessing.active_children():
                    each.kill()
        fit.Run.train_step = step

    def child(rank, world, port, recipe, out, act, settings):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        watch_steps(rank, out, act)
        if act[0] == "absent":
            ranks.MEETING = 3.0
            if rank == 1:                            # it comes to the place, and no further
                torch.distributed.TCPStore("127.0.0.1", port, 2, False)
                os._exit(0)
        elif act[1:2] == [signal.SIGSTOP]:
            ranks.PATIENCE = 6.0
        if act[0] == "disk" and rank == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (act[1], act[1]))
        elif act[0] == "data" and rank == act[1]:
            recipe = dataclasses.replace(recipe, data=act[2])
        cli.parser = lambda: Parser(lambda args: t.train(recipe, t.Path(out), **settings) and 0)
        try:
            os._exit(cli.main([]))                   # the command line's treatment of errors
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    class Parser:
        def __init__(self, verb):
            self.verb = verb
        def parse_args(self, argv):
            return self

    torch.set_num_threads(1)
    create, t.checkpoint.create = t.checkpoint.create, build
    folder.curves = lambda *rows_classes_title: t.Figure(figsize=(1, 1))       # the real one takes longer than a run
    recipe = Recipe.from_json(RECIPE)
    t.train(dataclasses.replace(recipe, epochs=1), WARM)
    results = []
    for number, (out, world, act, settings, changes, port) in enumerate(PLANS):
        sys.stdout.flush()
        children = []
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(f"{out}_{number}_{rank}.txt", os.O_WRONLY | os.O_CREAT), 2)
                child(rank, world, port, dataclasses.replace(recipe, **changes), out, act, settings)
            children.append(pid)
        results.append([os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])])
        if act[1:2] == [signal.SIGSTOP]:
            os.kill(children[1], signal.SIGKILL)
        results[-1] += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children[1:]]

    pid = os.fork()                                  # torchrun itself; its ranks are forked as well
    if pid == 0:
        t.evaluate.create = create
        for stream, name in (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(f"{TORCHRUN[0]}/{name}.txt", os.O_WRONLY | os.O_CREAT), stream)
        try:
            main(["--start-method", "fork", "--run-path", *TORCHRUN[1:]])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print("RESULTS", json.dumps(results), flush=True)
""")


SCRIPT = textwrap.dedent("""
    import os, sys
    from vt_course import cli
    from vt_course.data.clips import VideoFolder
    from vt_course.training import fit
    def log(*words):
        with open(LOG, "a") as file:
            file.write(" ".join(map(str, words)) + "\\n")
    read, step = VideoFolder.__getitem__, fit.Run.train_step
    def reading(self, key):
        if isinstance(key, tuple):                   # for training
            log("read", os.environ["RANK"], os.getpid())
        return read(self, key)
    def stepping(run, batch, good, *rest):
        log("step", os.environ["RANK"], run.progress.epoch, *(batch["index"].tolist() if good else ()))
        return step(run, batch, good, *rest)
    VideoFolder.__getitem__, fit.Run.train_step = reading, stepping
    for more in ["--max-steps", "2"], []:
        sys.stdout.flush()
        pid = os.fork()                              # what is slow to import is imported once
        if pid == 0:
            code = cli.main(sys.argv[1:] + more)
            print("END" if os.environ["RANK"] == "0" else "", end="", flush=True)
            os._exit(code)
        if os.waitpid(pid, 0)[1]:
            sys.exit(1)
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="False", MASTER_PORT=PORT)      # a fresh place to meet
""")


def torchrun(folder, clips) -> list[str]:  # noqa: F811
    """A folder with a script, and the arguments of the torchrun that runs it."""
    folder.mkdir()
    (folder / "script.py").write_text(
        f"LOG, PORT = {str(folder / 'log.txt')!r}, '{free_port()}'\n" + SCRIPT, encoding="utf-8"
    )
    return [
        str(folder),
        "--nproc-per-node",
        "3",
        str(folder / "script.py"),
        "train",
        "video_swin_mini",
        "--data",
        f"csv:{clips / 'train.csv'},{clips / 'val.csv'}",
        "--out",
        str(folder / "run"),
        "--device",
        "cpu",
        "--workers",
        "2",
        "--json",
        "--set",
        "frames=8",
        "stride=1",
        "size=32",
        "keep=0",
        "batch_size=5",
        "epochs=2",
    ]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def runs(clips, tmp_path_factory):  # noqa: F811
    """All plans, made by one process: name -> (run folder, exit codes of the ranks, what each wrote to stderr).

    And "torchrun" -> (folder, its exit code).
    """
    folder = tmp_path_factory.mktemp("ranks")
    manifests = {split: (clips / f"{split}.csv").read_text(encoding="utf-8") for split in ("train", "val")}
    for split, text in manifests.items():
        whole = re.sub(r"^(?=(train|val)\d)", f"{clips}/", text, flags=re.M)
        (folder / f"bad_{split}.csv").write_text(whole.replace(f"{clips}/train1.mp4", "gone.mp4"), encoding="utf-8")
    bad = {"data": f"csv:{folder / 'bad_train.csv'},{folder / 'bad_val.csv'}"}
    other = f"csv:{clips / 'val.csv'},{clips / 'val.csv'}"
    # 12 clips in batches of 5: of the last one, two clips, rank 2 of 3 gets none.
    recipe = Recipe(
        model="tiny",
        data=f"csv:{clips / 'train.csv'},{clips / 'val.csv'}",
        frames=2,
        stride=2,
        size=16,
        batch_size=5,
        epochs=3,
        lr=0.01,
        drop_path=0.0,
    )
    mini = dict(frames=8, stride=1, size=32, epochs=1, lr=1e-4, grad_clip=0.0)
    plans = {  # run folder, ranks, what happens, arguments of `fit`, changes to the recipe
        "one": ("one", 1, [None], {}, {}),
        "three": ("three", 3, [None], {}, {}),
        # Ctrl-C in one rank alone, after step 2 of epoch 2
        "ctrl-c": ("cut", 3, ["signal", int(signal.SIGINT), 1, 4], {}, {}),
        "two go on": ("cut", 2, [None], {"max_steps": 7}, {}),
        "one goes on": ("cut", 1, [None], {}, {}),
        "bad clip, one": ("bad1", 1, [None], {}, bad),
        "bad clip, three": ("bad3", 3, [None], {}, bad),
        "average, one": ("average1", 1, [None], {}, {"ema": 0.5}),
        # Of the last batch, two clips, each rank has one: fewer than the parts.
        "average in parts, two": ("average2", 2, [None], {}, {"ema": 0.5, "accumulate": 2}),
        "data": ("data", 3, ["data", 2, other], {}, {}),
        "disk": ("disk", 2, ["disk", 5_000], {}, {}),
        "dead": ("dead", 3, ["signal", int(signal.SIGKILL), 1, 4], {}, {}),
        "alone": ("alone", 3, ["loader", 1, 4], {"workers": 1}, {}),  # what only one rank knows is told by all
        "term": ("term", 2, ["signal", int(signal.SIGTERM), 1, 4], {}, {}),  # as Slurm and torchrun end a process
        "hung": ("hung", 2, ["signal", int(signal.SIGSTOP), 1, 4], {}, {}),
        "absent": ("absent", 2, ["absent"], {}, {}),
        "few": ("few", 6, [None], {}, {}),
        "held": ("held", 2, [None], {}, {}),  # by another run, see below
        **{
            f"{model}, {ranks}": (f"{model}{ranks}", ranks, [None], {}, {**mini, "model": model})
            for model in MINIS
            for ranks in (1, 2)
        },
    }
    jobs = [(str(folder / plan[0]), *plan[1:], free_port()) for plan in plans.values()]
    head = (
        f"TESTS = {str(Path(__file__).parent)!r}\nRECIPE = {recipe.to_json()!r}\nWARM = {str(folder / 'warm')!r}\n"
        f"PLANS = {jobs!r}\nTORCHRUN = {torchrun(folder / 'torchrun', clips)!r}\n"
    )
    (folder / "held").mkdir()
    with alone(folder / "held" / ".lock"):
        done = subprocess.run([sys.executable, "-c", head + DRIVER], capture_output=True, encoding="utf-8", timeout=550)
    assert "RESULTS" in done.stdout, done.stderr
    *codes, torchruns = json.loads(done.stdout.split("RESULTS")[1])
    return {"torchrun": (folder / "torchrun", torchruns)} | {
        name: (
            Path(job[0]),
            code,
            [Path(f"{job[0]}_{number}_{rank}.txt").read_text(encoding="utf-8") for rank in range(job[1])],
        )
        for number, (name, job, code) in enumerate(zip(plans, jobs, codes))
    }


def seen(out):
    """How often each (epoch, clip) was trained on, and the ranks that saw any."""
    lines = [
        re.fullmatch(r"(\d+) (\d+) \[(.*)\]", line).groups()
        for line in Path(f"{out}_seen.txt").read_text(encoding="utf-8").splitlines()
    ]
    counts = collections.Counter((int(epoch), int(i)) for epoch, _, indices in lines for i in indices.split(",") if i)
    return counts, {int(rank) for _, rank, indices in lines if indices}


def metrics(out):
    with open(out / "metrics.csv", newline="", encoding="utf-8") as file:
        return [
            {name: float(value) for name, value in row.items() if name not in ("seconds", "clips_per_second")}
            for row in csv.DictReader(file)
        ]


def assert_nearly_same(a, b, atol=2e-5):
    assert [pytest.approx(row, rel=1e-4, abs=1e-6) for row in metrics(a)] == metrics(b) and metrics(a)
    one, two = weights(a), weights(b)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")


def test_three_ranks_make_the_run_of_one_process(runs):
    (one, code, _), (three, codes, said) = runs["one"], runs["three"]
    assert code == [0] and codes == [0] * 3, said
    assert_nearly_same(one, three)
    assert seen(three) == ({(epoch, i): 1 for epoch in range(3) for i in range(12)}, {0, 1, 2})
    summaries = [json.loads((out / "summary.json").read_text(encoding="utf-8")) for out in (one, three)]
    assert [s["ranks"] for s in summaries] == [1, 3] and summaries[0]["steps"] == summaries[1]["steps"] == 9


def test_a_run_goes_on_with_another_number_of_ranks(runs):
    out, codes, said = runs["ctrl-c"]
    assert codes == [130] * 3, said
    assert said[0].count("stopped after step 5, in epoch 2 of 3; run the same command again") == 1
    assert said[1:] == ["", ""]
    assert runs["two go on"][1] == [0] * 2 and runs["one goes on"][1] == [0]
    assert_nearly_same(runs["one"][0], out)
    assert seen(out) == ({(epoch, i): 1 for epoch in range(3) for i in range(12)}, {0, 1, 2})


def test_a_request_to_end_saves_the_run(runs):
    out, codes, said = runs["term"]
    assert (
        codes == [130] * 2 and said[0].count("stopped after step 5, in epoch 2 of 3; run the same command again") == 1
    )
    assert len(read_state(out)["progress"]["rows"]) == 1 and read_state(out)["progress"]["batch"] == 2


def test_an_unreadable_clip_of_any_rank_is_told(runs):
    (one, *_), (three, codes, said) = runs["bad clip, one"], runs["bad clip, three"]
    assert codes == [0] * 3, said
    assert_nearly_same(one, three)
    assert "gone.mp4" in (three / "bad_clips.csv").read_text(encoding="utf-8")
    assert "gone.mp4" in said[0] and said[1:] == ["", ""]


def test_parts_of_a_batch_and_a_moving_average_in_two_ranks(runs):
    (one, *_), (two, codes, said) = runs["average, one"], runs["average in parts, two"]
    assert codes == [0] * 2, said
    assert_nearly_same(one, two)


@pytest.mark.parametrize(
    "name, codes, words",
    [
        ("data", [2] * 3, "lists other clips for rank 2"),
        ("disk", [2] * 2, "File too large"),
        ("dead", [2, -signal.SIGKILL, 2], "another process of torchrun ended without a word"),
        ("alone", [2] * 3, "rank 1: a loader process "),
        ("hung", [2, -signal.SIGKILL], "another process of torchrun has not answered for 0.1 minutes"),
        ("absent", [2, 0], "rank 1 of 2 has not come within 0.05 minutes"),
        ("few", [2] * 6, "batch_size=5 is of all 6 processes"),
        ("held", [2] * 2, "another run is at work in"),
    ],
)
def test_the_end_is_one_sentence_of_one_rank(name, codes, words, runs):
    out, ended, said = runs[name]
    assert ended == codes, said
    lines = [line for text in said for line in text.splitlines() if "vt-course: " in line]
    assert len(lines) == 1 and words in lines[0] and lines[0].startswith("vt-course: "), said
    assert not any("Traceback" in text for text in said), said
    if name == "dead":
        assert metrics(out)[-1]["epoch"] == 1  # the checkpoint of the first epoch is kept


@pytest.mark.parametrize("model", MINIS)
def test_every_family_trains_in_two_ranks(model, runs):
    (one, *_), (two, codes, said) = runs[f"{model}, 1"], runs[f"{model}, 2"]
    assert codes == [0] * 2, said
    if model == "uniformer_mini":  # its batch norms see the clips of one rank only
        val_loss = evaluate_run(two / "last.safetensors", device="cpu", workers=0, progress=False)["loss"]
        assert val_loss == pytest.approx(metrics(two)[0]["val_loss"], rel=1e-5)  # both ranks validated rank 0's model
    else:
        assert_nearly_same(one, two, atol=4e-4)  # Adam makes a step of a sign


def test_torchrun_with_three_ranks_and_two_workers_each(runs):
    """Stopped within an epoch and started again: each clip comes exactly once an epoch."""
    folder, code = runs["torchrun"]
    assert code == 0, (folder / "stderr.txt").read_text(encoding="utf-8")
    stopped, summary, rest = (folder / "stdout.txt").read_text(encoding="utf-8").split("END")  # each printed once
    stopped, summary = json.loads(stopped), json.loads(summary)
    assert rest == "" and stopped["steps"] == 2 and not stopped["finished"]
    assert summary["ranks"] == 3 and summary["finished"] and summary["steps"] == 6
    lines = [line.split() for line in (folder / "log.txt").read_text(encoding="utf-8").splitlines()]
    processes = {
        rank: {pid for kind, r, pid in (line for line in lines if line[0] == "read") if r == rank} for rank in "012"
    }
    assert all(len(pids) == 4 for pids in processes.values()), processes  # two loader processes in each of two runs
    trained = collections.Counter((int(line[2]), int(i)) for line in lines if line[0] == "step" for i in line[3:])
    assert trained == {(epoch, i): 1 for epoch in range(2) for i in range(12)}
    assert {line[1] for line in lines if line[0] == "step" and len(line) > 3} == {"0", "1", "2"}


@pytest.mark.parametrize("number", [0, 1])
def test_where_nobody_meets_the_first_rank_of_another_machine_says_so(number, monkeypatch, tmp_path, capsys):
    env = dict(RANK=2 + number, LOCAL_RANK=number, WORLD_SIZE=4, LOCAL_WORLD_SIZE=2, GROUP_RANK=1, GROUP_WORLD_SIZE=2)
    for name, value in (env | dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(ranks, "MEETING", 1.0)
    command = ["train", "video_swin_mini", "--data", "synthetic:motion", "--device", "cpu", "--out", str(tmp_path)]
    assert cli.main(command) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vt-course: ")]
    assert len(said) == (number == 0) and all("the 4 ranks have not met at 127.0.0.1:" in line for line in said)


def test_a_loader_process_that_ends_last_changes_no_sentence(monkeypatch):
    """torch raises its end from a handler of signals, here while the group waits for its threads."""
    env = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, LOCAL_WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    for name, value in env.items():
        monkeypatch.setenv(name, str(value))

    def tell(*_):
        told.append(1)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    told, before = [], signal.signal(signal.SIGALRM, tell)
    try:
        with pytest.raises(CourseError, match="^the first sentence$"), ranks.group(torch.device("cpu")):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            raise CourseError("the first sentence")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert told and not torch.distributed.is_initialized()
