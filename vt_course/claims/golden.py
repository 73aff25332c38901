"""Our models against recorded outputs of the official code: `vt-course verify DIR`.

A case is two files. `NAME.json` holds repository, commit and class, the facts of the configuration, the official list
of keys, summaries of the stages, and norms of gradients. `NAME.npz` holds the complete logits. No weights are stored,
because every parameter is a function of its official name and shape (`fill`).

For each case, *our* classes build the model from the facts. The weights are filled in the official layout and
converted by `official.from_official`. The outputs must then agree: in float32 within rounding, and in float64 within
1e-9. The latter also finds a LayerNorm epsilon of 1e-6 instead of 1e-5. The format, the rule and the tolerances are
those of tests/golden/README.md.
"""

import re
import warnings
import zlib
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vt_course import CourseError
from vt_course.files import read_json, read_npz
from vt_course.models import official
from vt_course.models.cost import count_parameters
from vt_course.models.mvit import MViT
from vt_course.models.mvit_config import config_from_facts as mvit_config
from vt_course.models.swin import SwinTransformer
from vt_course.models.timesformer import TimeSformer
from vt_course.models.uniformer import UniFormer
from vt_course.models.video_swin import SwinTransformer3D


class Departure(Exception):
    """Our model does not do what the case says. The message says where."""


# ---------------------------------------------------------------- the rule


def fill(key: str, shape: list[int], kind: str) -> Tensor | None:
    """The value of the official entry `key`, float32; None for a buffer.

    Its random numbers have the CRC-32 of the name as seed. It is computed in float64 and rounded once.
    """
    z = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    values = {
        "scale": lambda: 1 + 0.1 * z,
        "gamma": lambda: 1 + 0.1 * z,
        "bias": lambda: 0.05 * z,
        "running_mean": lambda: 0.1 * z,
        "running_var": lambda: 1 + 0.1 * np.abs(z),
        "matrix": lambda: z / np.sqrt(np.prod(shape[1:])),
        "free": lambda: 0.2 * z,
        "buffer": lambda: None,
    }
    if kind not in values:
        raise Departure(f"{key} is to be filled by the unknown rule {kind!r}; known are {', '.join(values)}")
    value = values[kind]()
    return None if value is None else torch.from_numpy(np.asarray(value, dtype=np.float32))


def fill_all(keys: list, total: float) -> dict[str, Tensor]:
    """The official state dict of a case. Raises Departure unless its absolute values sum to `total`, as recorded."""
    state = {k: v for k, shape, kind in keys if (v := fill(k, shape, kind)) is not None}
    got = sum(v.double().abs().sum().item() for v in state.values())
    if not np.isclose(got, total, rtol=1e-8):
        raise Departure(f"the filled weights sum to {got:.9g} in absolute value, the case says {total:.9g}")
    return state


def case_input(facts: dict) -> Tensor:
    x = np.random.RandomState(facts["seed"]).standard_normal(tuple(facts["shape"])).astype(np.float32)
    if not np.allclose(x.ravel()[:4], facts["first4"], rtol=1e-6) or not np.isclose(
        x.astype(np.float64).sum(), facts["sum"], rtol=1e-5, atol=1e-3
    ):
        raise Departure("the input made from the seed is not the recorded one")
    return torch.from_numpy(x)


# ---------------------------------------------------------------- configuration facts -> our models


def take(facts: dict, renamed: dict[str, str], fixed: dict) -> dict:
    """Constructor arguments from facts. `renamed`: their name -> ours. `fixed`: values that our model has built in.

    Raises Departure for an unknown fact, or for another value than a fixed one.
    """
    rest = dict(facts)
    for name, value in fixed.items():
        if rest.pop(name, value) != value:
            raise Departure(f"the configuration has {name}={facts[name]!r}; our model has {value!r} built in")
    unknown = sorted(set(rest) - set(renamed))
    if unknown:
        raise Departure(f"the configuration has facts we do not know: {', '.join(unknown)}")
    return {renamed[k]: tuple(v) if isinstance(v, list) else v for k, v in rest.items()}


SWIN_FACTS = {
    "in_chans": "in_channels",
    "num_classes": "num_classes",
    "embed_dim": "embed_dim",
    "depths": "depths",
    "num_heads": "num_heads",
    "window_size": "window",
    "mlp_ratio": "mlp_ratio",
}
SWIN_FIXED = {"layer_norm_eps": 1e-5, "qkv_bias": True, "patch_norm": True, "qk_scale": None}


def swin(facts: dict) -> nn.Module:
    return SwinTransformer(**take(facts, SWIN_FACTS | {k: k for k in ("img_size", "patch_size", "ape")}, SWIN_FIXED))


def video_swin(facts: dict) -> nn.Module:
    return SwinTransformer3D(**take(facts, SWIN_FACTS | {"patch_size": "patch"}, SWIN_FIXED))


def timesformer(facts: dict) -> nn.Module:
    names = {
        "img_size": "img_size",
        "patch_size": "patch_size",
        "in_chans": "in_channels",
        "num_classes": "num_classes",
        "embed_dim": "embed_dim",
        "depth": "depth",
        "num_heads": "num_heads",
        "mlp_ratio": "mlp_ratio",
        "num_frames": "num_frames",
        "attention_type": "attention",
    }
    config = take(facts, names, {"layer_norm_eps": 1e-6, "qkv_bias": True})
    schemes = {"space_only": "space", "joint_space_time": "joint", "divided_space_time": "divided"}
    if config["attention"] not in schemes:
        raise Departure(f"unknown attention_type {config['attention']!r}; known are {', '.join(schemes)}")
    return TimeSformer(**config | {"attention": schemes[config["attention"]]})


def uniformer(facts: dict) -> nn.Module:
    image = "img_size" in facts  # the image model does not depend on the size
    names = {
        "depth": "depths",
        "embed_dim": "embed_dims",
        "head_dim": "head_dim",
        "mlp_ratio": "mlp_ratio",
        "num_classes": "num_classes",
        "in_chans": "in_channels",
        "split": "divided",
        "conv_stem": "conv_stem",
        "layer_scale": "layer_scale",
    }
    fixed = {
        "img_size": facts.get("img_size"),
        "qkv_bias": True,
        "std": False,
        "attention_layer_norm_eps": 1e-6,
        "patch_embed_layer_norm_eps": 1e-5,
        "batch_norm_eps": 1e-5,
    }
    config = take(facts, names, fixed)
    if "layer_scale" in config:
        config["layer_scale"] = "G" if config["layer_scale"] else ""  # the official switch is for the global blocks
    return UniFormer(dims=2 if image else 3, **config)


# Arguments of create_multiscale_vision_transformers that are fixed in our model, or have no effect in eval mode.
BUILDER_FIXED = {
    "norm": "layernorm",
    "enable_patch_embed": True,
    "enable_patch_embed_norm": False,
    "qkv_bias": True,
    "bias_on": True,
    "pool_first": False,
    "depthwise_conv": True,
    "head_activation": None,
}
BUILDER_IDLE = (
    "use_2d_patch",
    "dropout_rate_block",
    "droppath_rate_block",
    "head",
    "head_dropout_rate",
    "separate_qkv",
)


def mvit_from_arguments(facts: dict, shapes: dict[str, list[int]]) -> nn.Module:
    """pytorchvideo's MViT from the arguments of its builder, `create_multiscale_vision_transformers`.

    An argument that `facts` do not give has the value that the shapes of the recorded entries show, or else the
    builder's default (facebookresearch/pytorchvideo, pytorchvideo/models/vision_transformers.py).
    """
    patch, blocks = (
        shapes["patch_embed.patch_model.weight"],
        {int(k.split(".")[1]) for k in shapes if k.startswith("blocks.")},
    )
    given = {
        "cls_embed_on": True,
        "sep_pos_embed": True,
        "depth": len(blocks),
        "input_channels": patch[1],
        "patch_embed_dim": patch[0],
        "conv_patch_embed_kernel": patch[2:],
        "conv_patch_embed_stride": (2, 4, 4),
        "conv_patch_embed_padding": (1, 3, 3),
        "num_heads": 1,
        "residual_pool": False,
        "dim_mul_in_att": False,
        "pooling_mode": "conv",
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / patch[0],
        "embed_dim_mul": None,
        "atten_head_mul": None,
        "pool_q_stride_size": None,
        "pool_kv_stride_size": None,
        "pool_kv_stride_adaptive": None,
        "pool_kvq_kernel": None,
        "head_num_classes": shapes["head.proj.weight"][0],
    }
    arguments = {"spatial_size", "temporal_size", *given, *BUILDER_FIXED, *BUILDER_IDLE}
    given |= {k: v for k, v in facts.items() if k in arguments}  # other facts do not describe the network
    for name, value in BUILDER_FIXED.items():
        if given.get(name, value) != value:
            raise Departure(f"the configuration has {name}={given[name]!r}; our model has {value!r} built in")

    if given["residual_pool"] and given["cls_embed_on"]:
        raise Departure(
            "the configuration has residual_pool=True and a class token: pytorchvideo adds its query to it, ours "
            "does not"
        )

    def sides(size):
        return tuple(size) if isinstance(size, list) else size

    def by_block(name):  # [[block, factor], ..] or [[block, t, h, w], ..]
        return {int(i): size[0] if len(size) == 1 else tuple(size) for i, *size in given[name] or []}

    adaptive = given["pool_kv_stride_adaptive"]
    return MViT(
        frames=given["temporal_size"],
        img_size=sides(given["spatial_size"]),
        in_channels=given["input_channels"],
        num_classes=given["head_num_classes"],
        patch_kernel=sides(given["conv_patch_embed_kernel"]),
        patch_stride=sides(given["conv_patch_embed_stride"]),
        patch_padding=sides(given["conv_patch_embed_padding"]),
        embed_dim=given["patch_embed_dim"],
        num_heads=given["num_heads"],
        depth=given["depth"],
        mlp_ratio=given["mlp_ratio"],
        dim_mul=by_block("embed_dim_mul"),
        head_mul=by_block("atten_head_mul"),
        q_stride=by_block("pool_q_stride_size"),
        kv_stride=by_block("pool_kv_stride_size") if adaptive is None else sides(adaptive),
        kernel=sides(given["pool_kvq_kernel"]),
        pool_mode=given["pooling_mode"],
        class_token=given["cls_embed_on"],
        pos_embed="separate" if given["sep_pos_embed"] else "joint",
        residual_pooling=given["residual_pool"],
        dim_mul_in_att=given["dim_mul_in_att"],
    )


def pytorchvideo(case: dict) -> nn.Module:
    """pytorchvideo's MViT, from the arguments of its builder, or from the facts that were recorded for its blocks."""
    config, shapes = case["config"], {k: s for k, s, _ in case["keys"]}
    for facts in (config, *config.values()):  # at the top level, or one level below
        if isinstance(facts, dict) and "spatial_size" in facts:
            return mvit_from_arguments(facts, shapes)
    return mvit_from_blocks(case, shapes)


def mvit_from_blocks(case: dict, shapes: dict[str, list[int]]) -> nn.Module:
    """pytorchvideo's MViT, whose arguments are read from the recorded blocks, the list of keys and the input."""
    blocks = case["config"]["blocks"]
    if "pos_embed" in "".join(shapes) and not any("pos_embed_spatial" in k for k in shapes):
        raise Departure("joint position embeddings under pytorchvideo's names are not known to us")
    if case["config"].get("residual_pool"):
        raise Departure("the configuration has residual_pool=True; pytorchvideo's way of it is not known to us")
    patch, (frames, *size) = shapes["patch_embed.patch_model.weight"], case["input"]["shape"][2:]
    after = [*blocks[1:], {"dim": blocks[-1]["dim_out"], "heads": blocks[-1]["heads"]}]
    one = {"kernel": (1, 1, 1), "stride": (1, 1, 1)}
    kernels = {tuple((b[name] or one)["kernel"]) for b in blocks for name in ("pool_q", "pool_kv")} - {(1, 1, 1)}
    if any(b["dim_out"] != n["dim"] for b, n in zip(blocks, after)) or len(kernels) > 1:
        raise Departure("blocks with pooling kernels of several sizes are not known to us")
    tokens = next(s[1] for k, s in shapes.items() if k.endswith("pos_embed_temporal"))
    stride = (frames // tokens, 4, 4)  # every published MViT has patches of stride 4
    return MViT(
        frames=frames,
        img_size=tuple(size),
        in_channels=patch[1],
        num_classes=shapes["head.proj.weight"][0],
        patch_kernel=tuple(patch[2:]),
        patch_stride=stride,
        patch_padding=tuple(k // 2 for k in patch[2:]),
        embed_dim=patch[0],
        num_heads=blocks[0]["heads"],
        depth=len(blocks),
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] / patch[0],
        dim_mul={i + 1: b["dim_out"] / b["dim"] for i, b in enumerate(blocks) if b["dim_out"] != b["dim"]},
        head_mul={
            i + 1: n["heads"] / b["heads"] for i, (b, n) in enumerate(zip(blocks, after)) if n["heads"] != b["heads"]
        },
        q_stride={i: tuple(b["pool_q"]["stride"]) for i, b in enumerate(blocks) if b["pool_q"]},
        kv_stride={i: tuple(b["pool_kv"]["stride"]) for i, b in enumerate(blocks) if b["pool_kv"]},
        kernel=next(iter(kernels), None),
        pool_mode="conv" if any("pool_k" in k for k in shapes) else "max",
        class_token=any(k.endswith("cls_token") for k in shapes),
    )


# Class name in the official repository -> builder of our model.
BUILD: dict[str, Callable[[dict], nn.Module]] = {
    "microsoft/Swin-Transformer": swin,
    "SwinTransformer/Video-Swin-Transformer": video_swin,
    "facebookresearch/SlowFast": lambda facts: MViT(**mvit_config(facts)),
    "facebookresearch/TimeSformer": timesformer,
    "Sense-X/UniFormer": uniformer,
}


def build(config: dict, case: dict) -> nn.Module:
    """Our model for the configuration facts `config` of a case, in eval mode."""
    source = case["source"]
    if source["repo"] == "facebookresearch/pytorchvideo":
        return pytorchvideo(case).eval()
    if source["repo"] not in BUILD:
        raise Departure(f"no model of ours for {source['repo']} {source['cls']}")
    return BUILD[source["repo"]](config).eval()


# ---------------------------------------------------------------- comparing


def summaries(t: Tensor, channels: int) -> list[np.ndarray]:
    """Mean, standard deviation, and the first 8 channels at the first and at the last position of a stage's output.

    Channels may be the last axis or the second. If the sizes allow both, both results are returned.
    """
    found = [t.movedim(axis, -1).flatten(0, -2) for axis in dict.fromkeys((-1, 1)) if t.shape[axis] == channels]
    return [torch.cat([r.mean()[None], r.std(correction=0)[None], r[0, :8], r[-1, :8]]).numpy() for r in found]


@contextmanager
def watch(model: nn.Module, stages: list[dict], layout: official.Layout):
    """Yields a dict that a forward pass inside the context fills: official stage name -> (shape, summaries) of ours."""
    ours = {layout.names(path + ".")[0].rstrip("."): module for path, module in model.named_modules() if path}
    seen = {}
    module_of = {"cls_positional_encoding": "blocks.0.input"}  # of pytorchvideo; ours is a method
    with ExitStack() as hooks:  # removed also if the forward pass raises
        for stage in stages:
            name, axes = stage["name"], re.findall(r"\([^)]*\)|\S+", stage["layout"])
            channels = stage["shape"][axes.index("C")]
            where = module_of.get(name, name)
            module = ours.get(where.removesuffix(".input"))
            if module is None:
                continue

            def note(x, name=name, channels=channels):
                seen[name] = (x.shape, summaries(x, channels))

            if where.endswith(".input"):
                hook = module.register_forward_pre_hook(lambda module, args, note=note: note(args[0]))
            else:
                hook = module.register_forward_hook(lambda module, args, out, note=note: note(out))
            hooks.callback(hook.remove)
        yield seen


def first_departure(seen: dict[str, tuple], stages: list[dict], arrays) -> str:
    """A text that names the first stage, in forward order, whose summary differs; "" if none does."""
    for i, stage in enumerate(stages):
        name, tolerance = stage["name"], 3e-5 * max(1.0, float(arrays["stage_std"][i]))
        want = np.concatenate(
            [[arrays["stage_mean"][i], arrays["stage_std"][i]], arrays["stage_first8"][i], arrays["stage_last8"][i]]
        )
        if name not in seen:
            return f"stage {name} does not exist in our model"
        shape, readings = seen[name]
        if shape.numel() != np.prod(stage["shape"]) or not readings:
            return f"stage {name} has shape {tuple(shape)}, official {tuple(stage['shape'])}"
        error = min(np.max(np.abs(got - want) - 1e-4 * np.abs(want)) for got in readings)
        if not error <= tolerance:
            return f"stage {name} is the first that departs, by {error:.2g}"
    return ""


def check_logits(facts: dict, arrays, row: dict) -> None:
    """Build, fill, load and run the model. Compare logits in float32 and float64, stages, and norms of gradients.

    Fills max_abs and max_abs_f64 of `row`. Raises Departure if something differs.
    """
    weights = fill_all(facts["keys"], facts["weights_abs_sum"])
    x = case_input(facts["input"])
    model = build(facts["config"], facts)
    wrapper = re.match(r"\{.*'(\w+)': state_dict", facts["checkpoint"]["wrapper"])
    model.load_state_dict(official.from_official(model, {wrapper[1]: weights} if wrapper else weights))
    if count_parameters(model) != facts["param_count"]:
        raise Departure(f"our model has {count_parameters(model):,} parameters, official {facts['param_count']:,}")

    name = official.recognise(model, weights)
    want = arrays["logits"]
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        watch(model, facts["stages"], official.layouts(model)[name]) as seen,
    ):
        warnings.simplefilter("ignore", UserWarning)  # some inputs have another size on purpose
        got = model(x).numpy()
    row["max_abs"] = float(np.abs(got - want).max())
    departure = first_departure(seen, facts["stages"], arrays)
    if not np.allclose(got, want, rtol=1e-4, atol=2e-5 * max(1.0, want.std())):
        raise Departure(
            f"logits differ by {row['max_abs']:.2g}; " + (departure or "all stages agree: look at pooling and head")
        )
    if departure:
        raise Departure(departure)
    if "gradients" in facts:
        check_gradients(model, x, facts["gradients"], name, rtol=1e-4, atol=1e-5)
    if "logits_f64" in arrays:
        model, x = model.double(), x.double()
        with torch.no_grad():
            row["max_abs_f64"] = float(np.abs(model(x).numpy() - arrays["logits_f64"]).max())
        if not row["max_abs_f64"] < 1e-9:
            raise Departure(
                f"logits differ by {row['max_abs_f64']:.2g} in float64 although float32 agrees: look for a small "
                "constant, such as the epsilon of a norm"
            )
    if "gradients_f64" in facts:
        check_gradients(model.double(), x.double(), facts["gradients_f64"], name, rtol=1e-7, atol=1e-9)


def check_gradients(model: nn.Module, x: Tensor, facts: dict, layout: str, rtol: float, atol: float) -> None:
    """Compare the loss, and the norms of its gradients with respect to every parameter and the input."""
    x = x.clone().requires_grad_()
    logits = model(x)
    w = np.random.RandomState(facts.get("loss_weight_seed", 7)).standard_normal(tuple(logits.shape)).astype(np.float32)
    loss = (logits * torch.from_numpy(w).to(logits)).sum()
    model.zero_grad()
    loss.backward()
    grads = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in model.named_parameters()}
    got = {k: g.norm().item() for k, g in official.to_official(model, grads, layout).items()}
    if set(got) != set(facts["params"]):
        raise Departure(
            f"gradients are recorded of other parameters: {', '.join(sorted(set(got) ^ set(facts['params'])))}"
        )
    got["the input"], want = x.grad.norm().item(), {"the input": facts["input"], **facts["params"]}
    atol *= max(facts["params"].values())
    wrong = [k for k in want if not abs(got[k] - want[k]) <= atol + rtol * abs(want[k])]
    if wrong:
        k = wrong[-1]  # nearest the loss, where backward starts
        raise Departure(
            f"{len(wrong)} gradients differ in {x.dtype}, nearest the output that of {k}: norm {got[k]:.9g}, official "
            f"{want[k]:.9g}"
        )
    if "loss" in facts and not np.isclose(loss.item(), facts["loss"], rtol=1e-3, atol=1e-3):
        raise Departure(f"the loss is {loss.item():.9g}, official {facts['loss']:.9g}")


def check_inflation(facts: dict, arrays, row: dict) -> None:
    """Fill the image model's weights, inflate them with our code, compare tensors, then the video model's output."""
    model = build(facts["config_3d"], facts)
    weights = fill_all(facts["keys_2d"], facts["weights_abs_sum"])
    model.load_state_dict(model.inflate({"model": weights}))
    state = model.state_dict()
    for name, want in facts["tensors"].items():
        if name not in state or list(state[name].shape) != want["shape"]:
            raise Departure(f"{name} should have shape {tuple(want['shape'])} after inflation")
        t = state[name].double()
        if not (
            np.allclose(t.flatten()[:16], want["first16"], rtol=1e-4, atol=1e-6)
            and np.isclose(t.norm(), want["l2"], rtol=1e-5)
            and np.isclose(t.sum(), want["sum"], rtol=1e-4, atol=1e-3)
        ):
            raise Departure(f"{name} is not inflated as in the official code")
    x = case_input(facts["input"])
    output = "features" if "features" in facts else "logits"
    with torch.no_grad():  # features are the global average of the normalised last map
        got = model(x) if output == "logits" else model.norm(model.stages(x)[-1]).flatten(1, -2).mean(1)
    want = arrays[output]
    row["max_abs"] = float(np.abs(got.numpy() - want).max())
    if not np.allclose(got, want, rtol=1e-4, atol=2e-5 * max(1.0, want.std())):
        raise Departure(f"tensors agree, but {output} differ by {row['max_abs']:.2g}")


def check_case(path: Path) -> dict:
    """Check one case: dict(case, source, max_abs, max_abs_f64, passed, problem). problem: a sentence, "" if passed."""
    row = {"case": path.stem, "source": None, "max_abs": None, "max_abs_f64": None, "passed": False, "problem": ""}
    try:
        facts = read_json(path, "record the case again", dict)
        row["source"] = f"{facts['source']['repo']} {facts['source']['cls'].split()[0]}"
        arrays = read_npz(path.with_suffix(".npz"), "record the case again")
        (check_inflation if facts.get("kind") == "inflation" else check_logits)(facts, arrays, row)
        row["passed"] = True
    except Departure as error:
        row["problem"] = str(error)
    except Exception as error:  # wrong facts may make a model raise any error
        text = str(error).split("\n")[0] or type(error).__name__
        row["problem"] = f"no entry {text} in the case" if isinstance(error, KeyError) else text
    return row


def check_folder(folder: Path):
    """Check every case (`NAME.json` beside `NAME.npz`) in `folder`, by name; yields rows of `check_case`.

    Raises CourseError if there is no such folder, or no case in it.
    """
    cases = sorted(Path(folder).glob("*.json"))
    if not cases:
        raise CourseError(
            f"no recorded cases (NAME.json beside NAME.npz) in {folder}"
            if Path(folder).is_dir()
            else f"no folder {folder}"
        )
    for path in cases:
        yield check_case(path)
