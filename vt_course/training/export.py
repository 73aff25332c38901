"""A model as one file that runs without this package: ONNX, or a program of torch.export.

Any number of clips goes in at a time. Exporters lose parts of a model without a word, so a file is run before it is
written: its answers must be those of the model for two numbers of clips, and for clips that move, because only those
need the model's positions in time.
"""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vt_course import CourseError, need
from vt_course.data import drawn, open_spec
from vt_course.data.clips import VideoFolder
from vt_course.files import atomic_write
from vt_course.training.evaluate import class_scores, open_data, takes_images
from vt_course.training.pretrained import usage_of
from vt_course.training.trained import Trained

SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
REPORT = "report this with the output of `vt-course doctor`"
TOLERANCE = 1e-4  # of the largest logit; float32 alone makes 1e-6
CLIPS = 64  # on which the loss by int8 is measured


def export(trained: Trained, to: str, out: Path, *, int8: bool = False) -> dict:
    """Write a model (`trained.open_model`) to the file `out`, as `to` says: "onnx" or "torch".

    The file takes clips (B, 3, T, H, W), or images (B, 3, H, W), of the size that the model was trained on, with any B,
    and gives logits (B, K). Pixels are normalised before; how, and the names of the classes, stand in the file (ONNX:
    in its metadata, torch: in the extra file vt_course.json). `int8` (ONNX only): the weights of linear layers become
    int8 and their inputs are rounded to int8 while the file runs. What that costs is measured on `CLIPS` clips. Those
    are from the validation clips of a run on the embedded data, else embedded clips of any class.

    Returns dict(file, to, model, input, mb, checks, reversed, int8): see `check` and `loss_of_int8`. Raises
    `CourseError` if something is missing, and if the file does not run or answers otherwise than the model. Then no
    file is written.
    """
    out = Path(out)
    need(to in SUFFIX, f"there is no export to {to!r}: choose from {', '.join(SUFFIX)}")
    need(out.suffix == SUFFIX[to], f"a file of --to {to} ends in {SUFFIX[to]}; rename {out}")
    need(out.absolute().parent.is_dir(), f"there is no folder {out.absolute().parent}; make it or choose another --out")
    need(to == "onnx" or not int8, "int8 is for --to onnx; leave one of them out")
    if to == "onnx":
        need_onnx()
    clips = some_clips(trained) if int8 else None
    model, shape = trained.model.cpu().float().eval(), clip_shape(trained)
    told = json.dumps(usage_of(trained), ensure_ascii=False)
    with recording(trained, to):
        program = torch.export.export(
            model, (torch.zeros(2, *shape),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
        )
        data = to_onnx(program, told) if to == "onnx" else to_torch(program, told)
    run = (run_onnx if to == "onnx" else run_torch)(data, out)
    found = {
        "file": str(out),
        "to": to,
        "model": trained.name,
        "input": ["batch", *shape],
        **check(run, model, shape, out),
    }
    if int8:
        data = to_int8(data, trained)
        found["int8"] = loss_of_int8(run_onnx(data, out), model, clips)
    atomic_write(out, data)
    return found | {"mb": len(data) / 1e6}


def clip_shape(trained: Trained) -> tuple[int, ...]:
    """The shape of an input without the batch axis: (3, T, H, W), or (3, H, W) of an image model."""
    shown = trained.shown
    frames = () if takes_images(trained.model) else (shown.frames,)
    return 3, *frames, shown.size, shown.size


# ---------------------------------------------------------------- writing


def need_onnx() -> None:
    """Raise `CourseError` unless the packages of the extra `export` are there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CourseError(
            f"--to onnx needs the package {error.name}, which is not installed: pip install -e .[export]"
        ) from error


@contextlib.contextmanager
def recording(trained: Trained, to: str):
    """Record a model in silence, and without gradients. Any error of the exporters becomes one sentence."""
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            torch.no_grad(),
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    except CourseError:
        raise
    except Exception as error:  # the exporters raise any kind
        raise CourseError(
            f"{trained.name} could not be exported to {to} ({why(error)}); nothing was written; {REPORT}"
        ) from error
    finally:
        logging.disable(logged)


def why(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]


def to_onnx(program, told: str) -> bytes:
    import onnx

    model = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["clip"], output_names=["logits"]
    ).model_proto
    for part in (*model.graph.node, *model.graph.value_info):  # lines of our source, with the paths of this machine
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, {"vt_course": told})
    return model.SerializeToString()


def to_torch(program, told: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"vt_course.json": told})
    return file.getvalue()


def to_int8(data: bytes, trained: Trained) -> bytes:
    """The ONNX file `data` with the weights of its linear layers in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with recording(trained, "int8"), tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(data)
        quantize_dynamic(
            before, after, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True
        )
        return after.read_bytes()


# ---------------------------------------------------------------- running and checking


def run_onnx(data: bytes, name):
    """A function clips -> logits that runs an ONNX file in onnxruntime."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = torch.get_num_threads(), 4
    with running(name):
        session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        with running(name):
            return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: clips.numpy()})[0])

    return run


def run_torch(data: bytes, name):
    """A function clips -> logits that runs a program of torch.export."""
    with running(name), warnings.catch_warnings(action="ignore"):
        program = torch.export.load(io.BytesIO(data)).module()

    def run(clips: Tensor) -> Tensor:
        with running(name), torch.no_grad():
            return program(clips)

    return run


@contextlib.contextmanager
def running(name):
    try:
        yield
    except Exception as error:  # onnxruntime has classes of its own
        raise CourseError(f"the export to {name} does not run ({why(error)}); nothing was written; {REPORT}") from error


def check(run, model, shape: tuple[int, ...], name) -> dict:
    """Compare the logits of an exported file, given as the function `run`, with those of the model.

    Returns dict(checks, reversed). checks: dict(input, batch, difference, largest) for each comparison, with the
    largest difference and the largest logit. reversed: by how much the model's own logits change when the moving clips
    run backwards, which says how much of its sense of time the comparison can see; None for images. Raises
    `CourseError` if a difference is larger than `TOLERANCE` of the largest logit.
    """
    moves, video = moving(3, shape), len(shape) == 4
    inputs = [("moves" if video else "images", moves[:n]) for n in (1, 3)]
    if video:
        inputs.append(("stands still", moves[:2, :, :1].repeat(1, 1, shape[1], 1, 1)))  # (B, C, T, H, W)
    rows = []
    for what, clips in inputs:
        with torch.no_grad():
            want = model(clips)
        got = run(clips)
        shapes = tuple(got.shape), tuple(want.shape)
        need(
            shapes[0] == shapes[1],
            f"the export to {name} gives logits {shapes[0]} where the model gives {shapes[1]}; {REPORT}",
        )
        row = {"input": what, "batch": len(clips)}
        rows.append(row | {"difference": (got - want).abs().max().item(), "largest": want.abs().max().item()})
    for row in rows:
        if not row["difference"] <= TOLERANCE * row["largest"]:  # NaN is no small number
            sizes = f"{row['difference']:.2g}, with a largest logit of {row['largest']:.2g}"
            raise CourseError(
                f"the export to {name} answers otherwise than the model: for a batch of {row['batch']} "
                f"(input: {row['input']}) its logits differ by {sizes}; nothing was written; {REPORT}"
            )
    with torch.no_grad():
        turned = (model(moves.flip(2)) - model(moves)).abs().max().item() if video else None
    return {"checks": rows, "reversed": turned}


def moving(batch: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Clips (batch, C, T, H, W) of random patterns that drift, each in its own direction; an image is a first frame."""
    C, *time, H, W = shape
    g = torch.Generator().manual_seed(seed)
    pattern = F.interpolate(torch.randn(batch, C, -(-H // 4), -(-W // 4), generator=g), (H, W), mode="bilinear")
    steps = [(0, 1), (2, 0), (-1, -2)]  # sixteenths of the height and the width, from frame to frame
    clips = [
        torch.stack(
            [
                torch.roll(one, (t * y * max(H // 16, 1), t * x * max(W // 16, 1)), (1, 2))
                for t in range(*(time or [1]))
            ],
            1,
        )
        for one, (y, x) in zip(pattern, steps * batch)
    ]
    clips = torch.stack(clips)  # (B, C, T, H, W)
    return clips if time else clips[:, :, 0]


# ---------------------------------------------------------------- the loss by int8


def some_clips(trained: Trained):
    """(data set, whether its labels are the model's classes): clips on which int8 is compared with the model."""
    recipe, shown = trained.recipe, trained.shown
    if recipe and drawn(recipe.data):
        return open_data(recipe)[1], True
    spec = open_spec("synthetic:motion")
    told = dict(
        frames=shown.frames, stride=max(round(shown.stride), 1), size=shown.size, mean=shown.mean, std=shown.std
    )
    return VideoFolder(spec.val, classes=spec.classes, train=False, **told), False


def loss_of_int8(run, model, clips) -> dict:
    """How an int8 file differs from its model on some clips (see `some_clips`).

    dict(clips, same, probability, top1, top1_int8): the share of clips with the same answer, the largest difference of
    a probability, and, if the labels are known, the accuracy of both.
    """
    dataset, labelled = clips
    ours, theirs, labels = [], [], []
    n = len(dataset)
    for index in range(0, n, max(n // CLIPS, 1))[:CLIPS]:
        sample = dataset[index]
        if "error" in sample:
            continue
        clip = sample["clip"][None]  # (1, C, T, H, W)
        with torch.no_grad():
            ours.append(class_scores(model, clip)[0])
        theirs.append(run(clip[:, :, 0] if takes_images(model) else clip)[0])
        labels.append(sample["label"])
    need(
        ours,
        "none of the clips on which int8 is measured could be read; render them again with `vt-course data synthetic`",
    )
    ours, theirs = torch.stack(ours).softmax(-1), torch.stack(theirs).softmax(-1)  # (N, K)
    found = {
        "clips": len(labels),
        "same": (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item(),
        "probability": (ours - theirs).abs().max().item(),
    }
    if labelled:
        right = [(p.argmax(-1) == torch.tensor(labels)).double().mean().item() for p in (ours, theirs)]
        found |= dict(zip(("top1", "top1_int8"), right))
    return found
