"""The settings of MViT: what they may be, and what they say about each block.

Channels, heads and strides are given by number of block, as in the official configuration files
(facebookresearch/SlowFast, configs/Kinetics/MVIT*.yaml), which `config_from_facts` reads.
"""
from collections.abc import Mapping

from vt_course.models.checks import per_axis
from vt_course.models.layers import Sides, Size

EPS = 1e-6                               # of every LayerNorm


def check_choices(pool_mode: str, pos_embed: str, rel_pos: str) -> None:
    """Raise ValueError for a word that names nothing."""
    if pool_mode not in ("conv", "max", "avg"):
        raise ValueError(f"pool_mode {pool_mode!r} is unknown; choose 'conv', 'max' or 'avg'")
    if pos_embed not in ("separate", "joint", "space", "none"):
        raise ValueError(f"pos_embed {pos_embed!r} is unknown; choose 'separate', 'joint', 'space' or 'none'")
    if rel_pos != "".join(axis for axis in "thw" if axis in rel_pos):
        raise ValueError(f"rel_pos {rel_pos!r} must name axes in the order of 'thw'")


def check_patches(kernel: Sides, stride: Sides, padding: Sides) -> tuple[str, Size, Size, Size]:
    """The axes of the patches, "HW" for images or "THW" for video, and the three with a value for each axis.

    Raises ValueError where they have different numbers of axes.
    """
    patches = {"patch_kernel": kernel, "patch_stride": stride, "patch_padding": padding}
    counts = {len(value) for value in patches.values() if not isinstance(value, int)} or {3}
    if not counts <= {2, 3} or len(counts) > 1:
        raise ValueError(", ".join(f"{k} {v if isinstance(v, int) else tuple(v)}" for k, v in patches.items()) +
                         " must all have two values (images) or three, or be one number for all")
    axes = "HW" if counts == {2} else "THW"
    return axes, *(per_axis(name, value, axes) for name, value in patches.items())


def plan_blocks(depth: int, image: bool, dim: int, heads: int, dim_mul: dict, head_mul: dict, q_stride: dict, kv_stride, kernel,
                dim_mul_in_att: bool) -> list[dict]:
    """The channels, heads, kernels and strides of each block: arguments of `mvit.MultiscaleBlock` (MViT, section 3.2).

    `dim` and `heads` are those that enter block 0; the others are the settings of `mvit.MViT`. Raises ValueError as
    `check_blocks`.
    """
    q_stride, kv_stride, kernel = check_blocks(depth, image, dim_mul, head_mul, q_stride, kv_stride, kernel)
    kv, one, blocks = kv_strides(kv_stride, q_stride, depth), (1, 1, 1), []
    for i in range(depth):
        heads = round_width(heads, head_mul.get(i, 1))
        at = i if dim_mul_in_att else i + 1                           # the block whose heads share the new channels
        dim_out = round_width(dim, dim_mul.get(at, 1), round_width(heads, head_mul.get(at, 1)))
        strides = q_stride.get(i, one), kv[i] or one
        kernels = [(kernel or overlapping(stride)) if pooled else one
                   for stride, pooled in zip(strides, (i in q_stride, kv[i]))]
        blocks.append(dict(dim=dim, dim_out=dim_out, num_heads=heads, kernel_q=kernels[0], stride_q=strides[0],
                           kernel_kv=kernels[1], stride_kv=strides[1]))
        dim = dim_out
    return blocks


def check_blocks(depth: int, image: bool, dim_mul: dict, head_mul: dict, q_stride: dict, kv_stride, kernel) -> tuple:
    """`q_stride`, `kv_stride` and `kernel` with three values each (T is 1 in image models).

    Raises ValueError for a setting by block that names a block there is not, and for what does not fit the axes.
    """
    by_block = {"dim_mul": dim_mul, "head_mul": head_mul, "q_stride": q_stride}
    if isinstance(kv_stride, Mapping):
        by_block["kv_stride"] = kv_stride
    for name, value in by_block.items():
        last = depth if name == "dim_mul" else depth - 1              # channels may grow behind the last block
        if not isinstance(value, Mapping) or not set(value) <= set(range(last + 1)):
            raise ValueError(f"{name} {value!r} must be a dictionary by number of block, 0 to {last}")
    for name in ("dim_mul", "head_mul"):
        if not all(isinstance(factor, (int, float)) and factor > 0 for factor in by_block[name].values()):
            raise ValueError(f"{name} {by_block[name]!r} must have factors above 0")

    def three(name, value):
        if image and (isinstance(value, int) or isinstance(value, (tuple, list)) and len(value) == 2):
            return 1, *per_axis(name, value, "HW")
        return None if value is None else per_axis(name, value, "THW")             # None: no pooling, or the paper's kernel

    def blocks(name, value):
        return {i: three(f"{name} of block {i}", size) for i, size in value.items()}

    kv_stride = blocks("kv_stride", kv_stride) if isinstance(kv_stride, Mapping) else three("kv_stride", kv_stride)
    return blocks("q_stride", q_stride), kv_stride, three("kernel", kernel)


def overlapping(stride: Size) -> Size:
    """The paper's kernel for a stride: s + 1, and 1 where nothing is skipped (MViT, table 15)."""
    return tuple(s + 1 if s > 1 else 1 for s in stride)


def round_width(width: int, factor: float, divisor: int = 1) -> int:
    """`width` times `factor`, rounded to a multiple of `divisor`: that of heads or channels after a block.

    The rule of both official builders (facebookresearch/SlowFast, slowfast/models/utils.py;
    facebookresearch/pytorchvideo, pytorchvideo/layers/utils.py): to the nearest multiple, at least 1, and one more
    where that loses over a tenth.
    """
    near = max(1, divisor * int(width * factor / divisor + 0.5))
    return near if near >= 0.9 * width * factor else near + divisor


def kv_strides(kv_stride: Size | dict[int, Size] | None, q_stride: dict[int, Size], depth: int) -> list[Size | None]:
    """The stride of the key and value pooling in each block; None where there is none (see `MViT`)."""
    if kv_stride is None or isinstance(kv_stride, Mapping):
        return [(kv_stride or {}).get(i) for i in range(depth)]
    strides = []
    for i in range(depth):
        kv_stride = tuple(max(s // q, 1) for s, q in zip(kv_stride, q_stride.get(i, (1, 1, 1))))
        strides.append(kv_stride)
    return strides


# ---------------------------------------------------------------- official configurations

def config_from_facts(config: Mapping) -> dict:
    """Constructor arguments from an official configuration: {"NUM_FRAMES", "CROP_SIZE", "NUM_CLASSES", "MVIT": {...}}.

    `MVIT` has the keys of SlowFast's configuration files and its defaults where a key is absent (slowfast/config/
    defaults.py); SEPARATE_QKV only changes how a checkpoint stores the same weights. Raises ValueError that names
    every setting our model does not implement.
    """
    facts = {k: v for k, v in config["MVIT"].items() if v is not None}
    only = {"POOL_FIRST": False, "USE_MEAN_POOLING": False, "NORM_STEM": False, "QKV_BIAS": True, "DROPOUT_RATE": 0,
            "NORM": "layernorm", "USE_FIXED_SINCOS_POS": False, "LAYER_SCALE_INIT_VALUE": 0, "HEAD_INIT_SCALE": 1}
    read = {"DEPTH", "NUM_HEADS", "EMBED_DIM", "PATCH_KERNEL", "PATCH_STRIDE", "PATCH_PADDING", "PATCH_2D", "MLP_RATIO",
            "DIM_MUL", "HEAD_MUL", "POOL_Q_STRIDE", "POOL_KV_STRIDE", "POOL_KV_STRIDE_ADAPTIVE", "POOL_KVQ_KERNEL", "MODE",
            "CLS_EMBED_ON", "USE_ABS_POS", "SEP_POS_EMBED", "REL_POS_SPATIAL", "REL_POS_TEMPORAL", "RESIDUAL_POOLING",
            "DIM_MUL_IN_ATT", "DROPPATH_RATE", "SEPARATE_QKV", "ZERO_DECAY_POS_CLS", "REL_POS_ZERO_INIT"}
    wrong = [f"{k}={v!r}" for k, v in facts.items() if (v != only[k] if k in only else k not in read)]
    if facts.get("MODE", "conv") not in ("conv", "max", "avg"):
        wrong.append(f"MODE={facts['MODE']!r}")
    if config.get("layer_norm_eps", EPS) != EPS:
        wrong.append(f"layer_norm_eps={config['layer_norm_eps']}")
    if wrong:
        raise ValueError(f"MViT here does not implement {', '.join(wrong)}")

    def per_block(key):                  # [[block, a], ..] or [[block, t, h, w], ..], the time axis absent for images
        return {int(i): s[0] if len(s) == 1 else three(s) for i, *s in facts.get(key, [])}

    def three(size):
        return (1,) * (3 - len(size)) + tuple(size)

    adaptive, kernel = facts.get("POOL_KV_STRIDE_ADAPTIVE"), facts.get("POOL_KVQ_KERNEL")
    absolute = "separate" if facts.get("SEP_POS_EMBED", False) else "joint"
    axes = "t" * facts.get("REL_POS_TEMPORAL", False) + "hw" * facts.get("REL_POS_SPATIAL", False)
    return dict(
        frames=config["NUM_FRAMES"], img_size=config["CROP_SIZE"], num_classes=config["NUM_CLASSES"],
        patch_kernel=tuple(facts["PATCH_KERNEL"]), patch_stride=tuple(facts["PATCH_STRIDE"]),
        patch_padding=tuple(facts["PATCH_PADDING"]), embed_dim=facts["EMBED_DIM"], num_heads=facts["NUM_HEADS"],
        depth=facts["DEPTH"], mlp_ratio=facts.get("MLP_RATIO", 4.0), dim_mul=per_block("DIM_MUL"),
        head_mul=per_block("HEAD_MUL"), q_stride=per_block("POOL_Q_STRIDE"),
        kv_stride=per_block("POOL_KV_STRIDE") if adaptive is None else three(adaptive),
        kernel=kernel and three(kernel), pool_mode=facts.get("MODE", "conv"),
        class_token=facts.get("CLS_EMBED_ON", True), pos_embed=absolute if facts.get("USE_ABS_POS", True) else "none",
        rel_pos=axes, residual_pooling=facts.get("RESIDUAL_POOLING", False),
        dim_mul_in_att=facts.get("DIM_MUL_IN_ATT", False), drop_path=facts.get("DROPPATH_RATE", 0.0))
