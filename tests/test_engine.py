"""What the settings of a recipe do to the steps of a training: each against a reference."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vt_course import CourseError, machine
from vt_course.data import loading
from vt_course.data.loading import EpochBatches
from vt_course.models import create
from vt_course.training import checkpoint, engine, evaluate, fit
from vt_course.training.recipes import RECIPES, Recipe

from test_training import Tiny, assert_same_run, clips, recipe, rows, tiny, train, weights  # noqa: F401 (fixtures)

MINIS = ("video_swin_mini", "mvit_mini", "mvit_v2_mini", "timesformer_mini", "uniformer_mini")
CPU = torch.device("cpu")


class Clips:
    """As much of a data set as a run needs that is given its batches."""

    views = None

    def __len__(self):
        return 8


def batch(frames=8, size=32, clips=8, seed=0):  # noqa: F811
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(clips, 3, frames, size, size, generator=generator)
    return {"clip": clip, "label": torch.arange(clips) % 8, "index": torch.arange(clips)}


def start(model: str, **changes) -> fit.Run:
    """A run of a mini that has made no step. It has no folder and writes nothing."""
    changes = dict(batch_size=8, drop_path=0.0, optimizer="sgd") | changes
    made = dataclasses.replace(RECIPES[model], **changes)
    run = fit.Run(made, None, {"classes": list("abcdefgh")}, None, CPU, [Clips(), Clips()], 0, False)
    run.leads = False
    return run


def steps(run: fit.Run, count=1, lr=0.1) -> fit.Run:
    for k in range(count):
        run.train_step(batch(seed=k), 8, 8, lr)
        run.progress.batch += 1
    return run


def difference(one: nn.Module, two: nn.Module) -> float:
    """The largest difference of two models' weights and buffers."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


@pytest.fixture(scope="module")
def plain():
    """The run of a mini after one plain step, made once."""
    made = {}
    return lambda model: made.setdefault(model, None) or made.update({model: steps(start(model))}) or made[model]


# ---------------------------------------------------------------- parts of a batch


@pytest.mark.parametrize("model", MINIS)
def test_a_batch_in_parts_makes_the_step_of_the_whole(plain, model):
    """To 1e-6, after a step that moves weights by up to 0.1. UniFormer's BatchNorm sees the parts, so it differs."""
    whole, parts = plain(model), steps(start(model, accumulate=3))
    assert whole.progress.loss_sum > 0 and difference(whole.model, start(model).model) > 1e-3
    if model == "uniformer_mini":
        assert difference(whole.model, parts.model) > 1e-4
        return
    assert difference(whole.model, parts.model) < 1e-6
    assert parts.progress.loss_sum == pytest.approx(whole.progress.loss_sum, rel=1e-6)
    assert parts.progress.correct == whole.progress.correct and parts.progress.clips == 8


def test_the_parts_of_a_batch(monkeypatch):
    run, seen = start("timesformer_mini", accumulate=3), []
    monkeypatch.setattr(fit, "class_scores", lambda model, clip: seen.append(len(clip)) or model(clip))
    steps(run)
    run.train_step(batch(clips=2), 2, 2, 0.1)  # fewer clips than parts
    assert seen == [3, 3, 2, 1, 1]


def test_a_run_in_parts_resumes_and_skips_bad_batches(recipe, tiny, tmp_path):  # noqa: F811
    recipe = dataclasses.replace(recipe, accumulate=2)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "cut", max_steps=4)
    train(recipe, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_parts_that_batch_norm_cannot_be_trained_on_are_said_before_the_first_step():
    with pytest.raises(CourseError, match="gives a process 1 clip"):
        start("uniformer_mini", accumulate=8, frames=2)
    start("uniformer_mini", accumulate=4, frames=2)


# ---------------------------------------------------------------- moving average


def test_the_moving_average_is_that_of_torch():
    run = start("video_swin_mini", ema=0.75)
    reference = AveragedModel(copy.deepcopy(run.model), multi_avg_fn=get_ema_multi_avg_fn(0.75))
    by_hand = None
    for k in range(3):
        run.train_step(batch(seed=k), 8, 8, 0.1)
        reference.update_parameters(run.model)
        now = run.model.head.weight.detach().clone()
        by_hand = now if by_hand is None else 0.75 * by_hand + 0.25 * now
    assert difference(run.ema, reference) == 0 and int(run.ema.n_averaged) == 3
    assert torch.allclose(run.evaluated.head.weight, by_hand, atol=1e-7, rtol=0)
    assert difference(run.evaluated, run.model) > 1e-3


def test_buffers_of_the_average_are_those_of_the_model():
    run = steps(start("uniformer_mini", ema=0.9), 2)
    for (name, mine), (_, averaged) in zip(run.model.named_buffers(), run.evaluated.named_buffers(), strict=True):
        assert torch.equal(mine, averaged), name


class Killed(BaseException):
    """As kill -9 for the files of a run: nothing is written any more."""


def test_the_average_is_evaluated_kept_and_survives_a_kill(recipe, tiny, tmp_path, monkeypatch):  # noqa: F811
    averaging = dataclasses.replace(recipe, ema=0.5)
    train(averaging, tmp_path / "whole")
    step, left = fit.Run.train_step, [5]

    def dying(run, *args):
        if not left[0]:
            raise Killed
        left[0] -= 1
        step(run, *args)

    monkeypatch.setattr(fit.Run, "train_step", dying)
    with pytest.raises(Killed):
        train(averaging, tmp_path / "killed", checkpoint_minutes=0)
    monkeypatch.setattr(fit.Run, "train_step", step)
    assert checkpoint.read_state(tmp_path / "killed")["progress"]["epoch"] == 1
    train(averaging, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")

    state, kept = checkpoint.read_state(tmp_path / "whole"), weights(tmp_path / "whole")
    assert all(torch.equal(kept[key], state["ema"][f"module.{key}"]) for key in kept)
    assert not torch.equal(kept["head.weight"], state["model"]["head.weight"])
    again = evaluate.evaluate_run(tmp_path / "whole" / "last.safetensors", device="cpu", workers=0, progress=False)
    assert float(rows(tmp_path / "whole")[-1]["val_loss"]) == pytest.approx(again["loss"], rel=1e-9)
    # The average does not disturb the training.
    train(recipe, tmp_path / "plain")
    assert torch.equal(weights(tmp_path / "plain")["head.weight"], state["model"]["head.weight"])

    del state["ema"]
    checkpoint.save_state(tmp_path / "whole", state)
    with pytest.raises(CourseError, match=r"state.pt is damaged.*\(ema is a NoneType and not a dict\)"):
        train(averaging, tmp_path / "whole")


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("model", MINIS)
def test_bfloat16_on_a_cpu_if_it_is_asked_for(plain, model):
    """Loss within 3 % of the plain run's, weights in float32 and after a step within 0.05 of the plain ones."""
    run, seen = start(model, amp="bf16"), []
    run.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    steps(run)
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert run.progress.loss_sum == pytest.approx(plain(model).progress.loss_sum, rel=0.03)
    assert 0 < difference(run.model, plain(model).model) < 0.05


@pytest.mark.parametrize("amp, device", [("fp16", "cpu"), ("fp16", "mps"), ("bf16", "mps")])
def test_a_precision_that_a_device_lacks(amp, device):
    with pytest.raises(CourseError, match=f"amp={amp} cannot be used on {device}: choose amp=false, or bf16 on a cpu"):
        machine.precision(amp, SimpleNamespace(type=device))


def test_precision_that_is_not_asked_for(monkeypatch):
    for amp in (True, False):
        autocast, scaler = machine.precision(amp, CPU)
        assert not scaler.is_enabled() and not autocast()._enabled
    cuda = SimpleNamespace(type="cuda")
    kinds = []
    monkeypatch.setattr(torch, "autocast", lambda kind, dtype, enabled: kinds.append((kind, dtype, enabled)))
    monkeypatch.setattr(torch.amp, "GradScaler", lambda kind, enabled: enabled)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    for amp, dtype in [(True, torch.float16), ("bf16", torch.bfloat16), ("fp16", torch.float16), (False, None)]:
        autocast, scaler = machine.precision(amp, cuda)
        autocast()
        assert kinds.pop() == ("cuda", dtype, dtype is not None) and scaler is (dtype == torch.float16)


# ---------------------------------------------------------------- blocks computed twice, compiled steps


@pytest.mark.parametrize("model", MINIS)
def test_checkpointed_blocks_make_the_same_step(model):
    """Weights and BatchNorm's statistics, with drop path, to 1e-7."""
    runs = [steps(start(model, drop_path=0.3, checkpoint_activations=on), 2) for on in (False, True)]
    assert difference(*(run.model for run in runs)) < 1e-7
    assert runs[0].progress == runs[1].progress


def test_checkpointed_blocks_keep_their_input_only():
    kept = {}
    for on in (False, True):
        run, sizes = start("video_swin_mini", checkpoint_activations=on), {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run.model(batch()["clip"]).sum()
        kept[on] = sum(sizes.values())
        assert len(run.model.state_dict()) == len(create("video_swin_mini").state_dict())
    assert kept[True] < 0.5 * kept[False]


def test_a_model_without_blocks():
    with pytest.raises(CourseError, match="Tiny has no blocks: train it with checkpoint_activations=false"):
        engine.checkpoint_blocks(Tiny(3, 0.0))


def test_batch_norm_in_blocks_is_not_compiled_and_checkpointed():
    with pytest.raises(CourseError, match="UniFormer has BatchNorm .* compile=false or checkpoint_activations=false"):
        start("uniformer_mini", compile=True, checkpoint_activations=True)


def test_what_cannot_be_compiled_is_said_before_the_first_step(monkeypatch):
    def fail(function):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(CourseError, match=r"here \(No working C\+\+ compiler found\): train with compile=false"):
        start("video_swin_mini", compile=True)


@pytest.mark.dear
@pytest.mark.parametrize(
    "model, also", [("video_swin_mini", False), ("timesformer_mini", True), ("uniformer_mini", False)]
)  # not all pairs: a compilation takes half a minute, or several on a busy machine
def test_compiled_steps_are_the_plain_ones(model, also, monkeypatch, tmp_path):
    """To 1e-5 after two steps, also together with checkpointed blocks."""
    # Two processes in one cache read each other's half files.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    run = steps(start(model, compile=True, checkpoint_activations=also), 2)
    assert difference(run.model, steps(start(model), 2).model) < 1e-5


# ---------------------------------------------------------------- optimisers, rates, decay


def test_sgd_by_hand():
    run = start("timesformer_mini", weight_decay=0.0, grad_clip=0.0)
    before = copy.deepcopy(run.model)
    loss = nn.functional.cross_entropy(before(batch()["clip"]), batch()["label"])
    gradient = torch.autograd.grad(loss, before.head.weight)[0]
    steps(run)
    assert torch.allclose(run.model.head.weight, before.head.weight - 0.1 * gradient, atol=1e-7, rtol=0)
    assert {group["momentum"] for group in run.optimizer.param_groups} == {0.9}


def test_nesterov_by_hand():
    """After v = g, the first step is along g + 0.9 v: 1.9 times that of plain SGD."""
    plain, nesterov = (
        steps(start("timesformer_mini", optimizer=name, weight_decay=0.0, grad_clip=0.0))
        for name in ("sgd", "nesterov")
    )
    before = start("timesformer_mini").model.head.weight
    moved, moved_more = (run.model.head.weight - before for run in (plain, nesterov))
    assert torch.allclose(moved_more, 1.9 * moved, atol=1e-6, rtol=0) and moved.abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        dict(optimizer="sgd"),
        dict(optimizer="sgd", milestones=(1.0, 2.5), warmup_epochs=0.0, decays="all"),
        dict(backbone_lr=0.1, decays="biases"),
        dict(mixup=0.8, cutmix=1.0, randaugment=(2, 9), erasing=0.5, flip=0.5),
        dict(repeats=2, mixup=0.5, size=24),
        dict(optimizer="nesterov", jitter=0.4, mean=(0.45,) * 3, std=(0.225,) * 3, bgr=True),
    ],
    ids=str,
)
def test_every_setting_resumes(recipe, tiny, tmp_path, changes):  # noqa: F811
    recipe = dataclasses.replace(recipe, **changes)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "cut", max_steps=4)
    train(recipe, tmp_path / "cut", workers=1)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_damaged_momentum_is_refused(recipe, tiny, tmp_path):  # noqa: F811
    recipe = dataclasses.replace(recipe, optimizer="sgd")
    train(recipe, tmp_path, max_steps=1)
    state = checkpoint.read_state(tmp_path)
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(3)
    checkpoint.save_state(tmp_path, state)
    with pytest.raises(CourseError, match="optimizer state 0 momentum_buffer is"):
        train(recipe, tmp_path)


def test_rates_that_fall_in_steps():
    """TimeSformer (section 4 and the released configuration): 15 epochs, a tenth at 11 and at 14."""
    rates = [fit.lr_at(epoch, 15, 0, 0.005, [11, 14]) for epoch in range(15)]
    assert rates == pytest.approx([0.005] * 11 + [0.0005] * 3 + [0.00005])
    assert fit.lr_at(0, 10, 4, 1.0, [6]) == 0.25 and fit.lr_at(6, 10, 4, 1.0, [6]) == pytest.approx(0.1)


def test_what_decays():
    model = create("video_swin_mini")
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def decayed(decays):
        return {
            names[id(p)] for g in fit.parameter_groups(model, 0.1, decays) if g["weight_decay"] for p in g["params"]
        }

    matrices, biases, everything = (decayed(decays) for decays in ("matrices", "biases", "all"))
    assert everything == set(names.values())
    assert biases - matrices == {n for n in names.values() if n.endswith("bias") and "norm" not in n}
    assert everything - biases == {
        n for n in names.values() if "norm" in n or n.endswith("relative_position_bias_table")
    }


def test_the_classifier_learns_faster_than_the_rest():
    run = start("video_swin_mini", backbone_lr=0.1)
    steps(run, lr=0.5)
    rates = {id(p): group["lr"] for group in run.optimizer.param_groups for p in group["params"]}
    assert {name for name, p in run.model.named_parameters() if rates[id(p)] == 0.5} == {"head.weight", "head.bias"}
    assert {round(rate, 12) for rate in rates.values()} == {0.5, 0.05} and len(rates) == len(
        list(run.model.parameters())
    )


# ---------------------------------------------------------------- views of a clip, old folders, recipes


def test_repeated_clips_are_other_views_and_no_epoch_sees_one_again():
    keys = []
    for epoch in range(3):
        batches = EpochBatches(10, 8, 0, repeats=2)
        batches.epoch = epoch
        assert [len(each) for each in batches] == [8, 8, 4] and len(batches) == 3
        assert all(len({index for _, index in each}) == len(each) // 2 for each in batches)
        keys += [key for each in batches for key in each]
        halves = [EpochBatches(10, 8, 0, rank, 2, repeats=2) for rank in (0, 1)]
        for half in halves:
            half.epoch = epoch
        assert sorted(key for half in halves for each in half for key in each) == sorted(keys[-20:])
    assert len(set(keys)) == len(keys) == 60


OLD = """model config data frames stride size sampling order keep crop_scale crop_ratio flip batch_size epochs lr
weight_decay warmup_epochs drop_path label_smoothing grad_clip amp seed inflate""".split()


def test_a_folder_of_before_there_were_these_settings_goes_on(recipe, tiny, tmp_path):  # noqa: F811
    train(recipe, tmp_path / "new")
    out = tmp_path / "old"
    train(recipe, out, max_steps=4)
    state = checkpoint.read_state(out)
    state["config"]["recipe"] = {name: state["config"]["recipe"][name] for name in OLD}
    checkpoint.save_state(out, state)
    train(recipe, out)
    assert_same_run(tmp_path / "new", out)


def test_recipes_with_these_settings_survive_json_and_a_command_line():
    words = ["randaugment=4,7", "milestones=11,14", "amp=bf16", "ema=0.999", "accumulate=4", "repeats=2", "epochs=15"]
    made = Recipe(model="m").override([*words, "compile=true", "optimizer=sgd"])
    assert (made.randaugment, made.milestones, made.amp) == ((4, 7), (11.0, 14.0), "bf16")
    assert all(type(number) is int for number in made.randaugment) and made.compile is True
    assert Recipe.from_json(made.to_json()) == made
    assert made.override(["milestones=", "amp=False"]) == dataclasses.replace(made, milestones=(), amp=False)
    assert Recipe(model="m").override(["amp=1"]).amp is True


@pytest.mark.parametrize(
    "words, message",
    [
        (["accumulate=0"], "accumulate=0 must be at least 1"),
        (["accumulate=33"], "accumulate=33 must be at most batch_size=32"),
        (["ema=1"], "in [0, 1)"),
        (["amp=half"], "amp='half' must be true, false, bf16 or fp16"),
        (["optimizer=adam"], "'adamw', 'sgd' or 'nesterov'"),
        (["jitter=1.5"], "jitter=1.5 must be in [0, 1]"),
        (["std=0.2,0,0.2"], "must be three numbers above 0"),
        (["mean=0.45"], "must be three numbers, as in 0.45,0.45,0.45"),
        (["decays=none"], "one of matrices, biases, all"),
        (["milestones=14,11"], "rising, after the warm-up and before epochs=20"),
        (["milestones=20"], "rising"),
        (["milestones=0.5"], "rising"),
        (["milestones=a"], "must be epochs, as in 11,14"),
        (["randaugment=4"], "must be operations,strength, as in 4,7"),
        (["randaugment=4,7.5"], "must be operations,strength"),
        (["randaugment=4,11"], "the strength at most 10"),
        (["repeats=3"], "a divisor of batch_size=32"),
        (["erasing=1.5"], "a probability"),
        (["mixup=-1"], "finite and at least 0"),
        (["backbone_lr=inf"], "finite"),
        (["checkpoint_activation=true"], "did you mean checkpoint_activations"),
    ],
)
def test_settings_that_cannot_work(words, message):
    with pytest.raises(CourseError) as error:
        Recipe(model="m").override(words)
    assert message in str(error.value)
    assert math.isfinite(Recipe(model="m").lr)


@pytest.mark.parametrize("cores, ranks, workers", [(1, 1, 1), (2, 1, 2), (4, 2, 2), (2, 4, 1), (64, 1, 8)])
def test_by_default_as_many_processes_decode_as_there_are_cores(monkeypatch, cores, ranks, workers):
    monkeypatch.setattr(loading, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert loading.default_workers() == workers
